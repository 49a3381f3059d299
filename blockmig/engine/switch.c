/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The switch: which replica is the primary changes, while mirroring goes on and no guest request is
 * held.
 *
 *   prepare  the secondary is flushed behind every change that had begun before: with those that
 * begin later sent to both and equally durable on both, the two replicas are one as far as any
 * guest was told record   somebody makes the new order durable; meanwhile it is in doubt, and a
 * change of which a leg failed waits commit   the flip of one index; changes still under way mark
 * their ranges for the old primary's reads abort    nothing was flipped; what waited is settled by
 * the old order
 */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#include "blockmig/engine/mirror_internal.h"

static void prepare_ends(struct bmig_mirror *mirror, int status)
{
    void (*done)(void *, int) = mirror->prepare_done;
    void *user = mirror->prepare_user;
    mirror->preparing = false;
    mirror->prepared = status == 0;
    mirror->prepare_done = NULL;
    if (status != 0)
        bmig_mirror_switch_abort(mirror->volume);
    done(user, status);
}

/* The flush that counts begins when nothing of before is under way and no earlier flush is. */
static void prepare_go_on(struct bmig_mirror *mirror)
{
    if (!mirror->preparing || mirror->flush_for_prepare)
        return;
    if (mirror->volume->doubtful_count) {
        prepare_ends(mirror, -EIO);
        return;
    }
    if (mirror->volume->before_count || mirror->flushing)
        return;
    mirror->flush_for_prepare = true;
    bmig_mirror_flush(mirror);
}

void bmig_switch_flushed(struct bmig_mirror *mirror, int status)
{
    if (status == 0 && mirror->volume->doubtful_count)
        status = -EIO;
    prepare_ends(mirror, status);
}

void bmig_switch_prepare_fails(struct bmig_mirror *mirror, int status)
{
    mirror->flush_for_prepare = false; /* its flush is one like any other now */
    prepare_ends(mirror, status);
}

static void prepare_task(struct bmig_task *task)
{
    struct bmig_mirror *mirror =
        (struct bmig_mirror *)((char *)task - offsetof(struct bmig_mirror, prepare_task));
    prepare_go_on(mirror);
}

void bmig_switch_op_ended(struct bmig_mirror *mirror)
{
    if (mirror->preparing)
        bmig_loop_defer(mirror->volume->loop, &mirror->prepare_task);
}

int bmig_mirror_switch_prepare(struct bmig_volume *volume, void (*done)(void *user, int status),
                               void *user)
{
    struct bmig_mirror *mirror = volume->mirror;
    if (!mirror || mirror->state != BMIG_MIRROR_SYNCED || mirror->stopping)
        return -EBUSY;
    assert(mirror->map.stale_count == 0);
    bmig_mirror_set_state(mirror, BMIG_MIRROR_SWITCHING);
    volume->in_doubt = true;
    mirror->preparing = true;
    mirror->prepared = false;
    mirror->prepare_done = done;
    mirror->prepare_user = user;
    mirror->prepare_task.run = prepare_task;
    for (struct bmig_volume_op *op = volume->changes; op; op = op->next) {
        if (!op->request || op->before_switch)
            continue;
        op->before_switch = true;
        volume->before_count++;
    }
    bmig_loop_defer(volume->loop, &mirror->prepare_task);
    return 0;
}

/* What waited because a leg had failed. With the new primary it is done again where that one lacks
 * it; the guest is told only what the primary holds. */
static void settle_doubtful(struct bmig_volume *volume, bool flipped)
{
    while (volume->doubtful_count) {
        struct bmig_volume_op *op = volume->changes;
        while (!op->doubtful)
            op = op->next;
        op->doubtful = false;
        volume->doubtful_count--;
        if (flipped && op->status[volume->primary] != 0 && op->op != BMIG_FLUSH)
            bmig_volume_issue_change(op);
        else
            bmig_volume_settle(op);
    }
}

static uint64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void bmig_mirror_switch_commit(struct bmig_volume *volume, uint64_t epoch)
{
    struct bmig_mirror *mirror = volume->mirror;
    assert(mirror && mirror->state == BMIG_MIRROR_SWITCHING && mirror->prepared);
    uint64_t began_ns = clock_ns();
    volume->primary = 1 - volume->primary;
    volume->epoch = epoch;
    volume->in_doubt = false;
    mirror->prepared = false;
    for (struct bmig_volume_op *op = volume->changes; op; op = op->next) {
        if (!op->request || op->old)
            continue;
        op->old = true;
        volume->old_count++;
    }
    bmig_region_all_unflushed(&mirror->map);
    mirror->secondary_known_zero = false;
    mirror->scout.first = mirror->scout.end = 0;
    mirror->scout.wanted = mirror->scout.zero && bmig_primary(mirror)->caps & BMIG_CAP_EXTENTS;
    bmig_mirror_set_state(mirror, BMIG_MIRROR_SYNCED);
    settle_doubtful(volume, true);
    uint64_t held_ns = clock_ns() - began_ns;
    if (held_ns > mirror->switch_hold_ns)
        mirror->switch_hold_ns = held_ns;
    bmig_mirror_advance(mirror);
}

void bmig_mirror_switch_abort(struct bmig_volume *volume)
{
    struct bmig_mirror *mirror = volume->mirror;
    assert(mirror && mirror->state == BMIG_MIRROR_SWITCHING && !mirror->preparing);
    volume->in_doubt = false;
    mirror->prepared = false;
    for (struct bmig_volume_op *op = volume->changes; op; op = op->next) {
        if (op->before_switch)
            volume->before_count--;
        op->before_switch = false;
    }
    bmig_mirror_set_state(mirror, BMIG_MIRROR_SYNCED);
    settle_doubtful(volume, false);
    bmig_mirror_advance(mirror);
}
