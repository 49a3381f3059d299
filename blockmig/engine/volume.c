/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The volume: a guest request becomes legs, and the legs become one answer.
 *
 * Invariants:
 *  - Changes whose ranges overlap go out one after the other, so both replicas see them in one
 * order.
 *  - A change is answered when the legs that count have ended; only the primary's failure reaches
 * the guest.
 *  - While it is in doubt which replica will be primary, a change of which any leg failed is not
 * answered.
 *  - A read goes to the primary, but where it overlaps a change that was under way at the flip, to
 * the old one: else a guest could read new data and then old.
 */
#include "blockmig/engine/volume.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/engine/volume_internal.h"

/* ---- operations ---- */

static struct bmig_volume_op *op_get(struct bmig_volume *volume)
{
    struct bmig_volume_op *op = volume->free_ops;
    if (op) {
        volume->free_ops = op->next;
    } else {
        op = aligned_alloc(16, (sizeof(*op) + 15) / 16 * 16);
        if (!op)
            return NULL;
    }
    memset(op, 0, offsetof(struct bmig_volume_op, legs));
    op->volume = volume;
    return op;
}

static void op_put(struct bmig_volume_op *op)
{
    struct bmig_volume *volume = op->volume;
    bmig_buffer_unref(op->buffer);
    op->next = volume->free_ops;
    volume->free_ops = op;
}

static void list_add(struct bmig_volume_op *op)
{
    struct bmig_volume *volume = op->volume;
    op->in_list = true;
    op->prev = NULL;
    op->next = volume->changes;
    if (op->next)
        op->next->prev = op;
    volume->changes = op;
}

static void list_remove(struct bmig_volume_op *op)
{
    if (!op->in_list)
        return;
    op->in_list = false;
    if (op->prev)
        op->prev->next = op->next;
    else
        op->volume->changes = op->next;
    if (op->next)
        op->next->prev = op->prev;
}

/* ---- answers ---- */

static void record_latency(struct bmig_volume *volume, const struct bmig_volume_op *op)
{
    uint64_t now = bmig_loop_now_ns(volume->loop);
    if (op->op != BMIG_READ && op->op != BMIG_WRITE)
        return;
    if (now - volume->recent_began_ns > BMIG_RECENT_NS) {
        volume->recent_began_ns = now;
        volume->recent_index = (volume->recent_index + 1) % RECENT_COUNT;
        bmig_histogram_reset(&volume->recent[volume->recent_index]);
    }
    bmig_histogram_add(&volume->latency, now - op->started_ns);
    bmig_histogram_add(&volume->interval, now - op->started_ns);
    bmig_histogram_add(&volume->recent[volume->recent_index], now - op->started_ns);
}

void bmig_volume_answer(struct bmig_volume_op *op, int status)
{
    struct bmig_volume *volume = op->volume;
    struct bmig_volume_request *request = op->request;
    assert(request && volume->under_way > 0);
    op->request = NULL;
    volume->under_way--;
    if (status != 0)
        volume->errors++;
    record_latency(volume, op);
    if (op->old)
        volume->old_count--;
    op->old = false;
    if (op->before_switch)
        volume->before_count--;
    op->before_switch = false;
    if (op->has_range) {
        op->has_range = false;
        bmig_range_lock_release(&volume->lock, &op->range);
    }
    request->done(request, status);
}

/* For a request that never got as far as a leg: done may not run inside submit. */
static void answer_later(struct bmig_volume *volume, struct bmig_volume_request *request,
                         int status)
{
    request->next = NULL;
    request->status = status;
    if (volume->failed_tail)
        volume->failed_tail->next = request;
    else
        volume->failed_head = request;
    volume->failed_tail = request;
    bmig_loop_defer(volume->loop, &volume->task);
}

static void run_answers(struct bmig_task *task)
{
    struct bmig_volume *volume =
        (struct bmig_volume *)((char *)task - offsetof(struct bmig_volume, task));
    struct bmig_volume_request *request = volume->failed_head;
    volume->failed_head = volume->failed_tail = NULL;
    while (request) {
        struct bmig_volume_request *next = request->next;
        volume->under_way--;
        if (request->status != 0)
            volume->errors++;
        request->done(request, request->status);
        request = next;
    }
}

/* ---- changes ---- */

static void change_leg_done(struct bmig_request *leg, int status);

static void leg_submit(struct bmig_volume_op *op, unsigned replica, uint64_t start, uint64_t end,
                       uint32_t flags)
{
    struct bmig_request *leg = &op->legs[replica];
    leg->op = op->op;
    leg->flags = flags;
    leg->offset = start;
    leg->length = end - start;
    leg->data = op->data ? op->data + (start - op->offset) : NULL;
    leg->extents = NULL;
    leg->done = change_leg_done;
    leg->user = op;
    bmig_disk_submit(op->volume->replicas[replica], leg);
}

void bmig_volume_issue_change(struct bmig_volume_op *op)
{
    struct bmig_volume *volume = op->volume;
    unsigned primary = volume->primary;
    unsigned secondary = 1 - primary;
    uint64_t start = 0, end = 0;
    if (volume->mirror && op->op == BMIG_DISCARD) { /* it waited for its range since before */
        op->op = BMIG_ZERO;
        op->flags |= BMIG_MAY_UNMAP;
    }
    bool both = volume->mirror &&
                bmig_mirror_before_change(volume->mirror, op->offset, op->length, &start, &end);
    /* Before the switch nothing needs the secondary's promise: its flush before the record covers
     * what had ended by then. What has not ended by then has to be as durable on both. */
    uint32_t flags = op->flags;
    if (!volume->in_doubt)
        flags = (flags | BMIG_REPLAYABLE) & ~(uint32_t)BMIG_FUA;
    op->legs_used = op->legs_out = (uint8_t)(1 << primary | (both ? 1 << secondary : 0));
    op->status[0] = op->status[1] = 0;
    if (!op->in_list)
        list_add(op);
    if (both)
        leg_submit(op, secondary, start, end, flags);
    leg_submit(op, primary, op->offset, op->offset + op->length, op->flags);
}

void bmig_volume_settle(struct bmig_volume_op *op)
{
    struct bmig_volume *volume = op->volume;
    unsigned primary = volume->primary;
    unsigned secondary = 1 - primary;
    int primary_status = op->status[primary];
    int secondary_status = op->legs_used & 1 << secondary ? op->status[secondary] : 0;

    list_remove(op);
    if (volume->mirror && op->op != BMIG_FLUSH)
        bmig_mirror_after_change(volume->mirror, op, primary_status, secondary_status);
    else if (volume->mirror && secondary_status != 0)
        bmig_mirror_after_change(volume->mirror, op, 0, secondary_status);
    bmig_volume_answer(op, primary_status);
    op_put(op);
    if (volume->mirror)
        bmig_switch_op_ended(volume->mirror);
}

static void change_leg_done(struct bmig_request *leg, int status)
{
    struct bmig_volume_op *op = leg->user;
    struct bmig_volume *volume = op->volume;
    unsigned replica = leg == &op->legs[1];
    op->status[replica] = status;
    op->legs_out &= (uint8_t) ~(1 << replica);
    if (op->legs_out & ~volume->dead_legs)
        return;
    if (op->legs_out) { /* only a leg that nobody waits for */
        if (op->request)
            bmig_volume_answer(op, op->status[volume->primary]);
        return;
    }
    if (!op->request) { /* answered when this leg was given up */
        list_remove(op);
        op_put(op);
        if (volume->mirror)
            bmig_mirror_leg_returned(volume->mirror);
        return;
    }
    if (op->old && op->status[volume->primary] != 0 && op->op != BMIG_FLUSH && !op->done_again) {
        /* It began when this replica did not count yet: the guest was promised the other one's
         * answer. */
        op->done_again = true;
        bmig_volume_issue_change(op);
        return;
    }
    if (volume->in_doubt && (op->status[0] != 0 || op->status[1] != 0)) {
        op->doubtful = true;
        volume->doubtful_count++;
        if (op->before_switch) {
            op->before_switch = false;
            volume->before_count--;
        }
        bmig_switch_op_ended(volume->mirror);
        return;
    }
    bmig_volume_settle(op);
}

static void range_granted(struct bmig_range *range)
{
    bmig_volume_issue_change(range->user);
}

/* With two replicas a DISCARD would leave them different, so it becomes zeroes on both where that
 * is cheap, and nothing, which it may always be, where it is not. Returns false for nothing. */
static bool discard_for_two(struct bmig_volume_op *op)
{
    const struct bmig_volume *volume = op->volume;
    uint32_t caps = volume->replicas[0]->caps & volume->replicas[1]->caps;
    op->op = BMIG_ZERO;
    op->flags |= BMIG_MAY_UNMAP;
    return caps & BMIG_CAP_FAST_ZERO && caps & BMIG_CAP_UNMAP;
}

static void submit_change(struct bmig_volume_op *op)
{
    struct bmig_volume *volume = op->volume;
    struct bmig_volume_request *request = op->request;
    bool two = volume->mirror && volume->replicas[0] && volume->replicas[1];
    uint32_t caps = volume->replicas[volume->primary]->caps;
    if (two)
        caps &= volume->replicas[1 - volume->primary]->caps;
    int refusal = 1;
    if (!(volume->replicas[volume->primary]->caps & BMIG_CAP_WRITE))
        refusal = -EROFS;
    else if (op->flags & BMIG_FAST_ONLY && !(caps & BMIG_CAP_FAST_ZERO))
        refusal = -ENOTSUP; /* before any leg: half of a ZERO would be worse than none */
    else if (op->op == BMIG_DISCARD && two && !discard_for_two(op))
        refusal = 0;
    if (refusal != 1) {
        op->request = NULL;
        op_put(op);
        answer_later(volume, request, refusal);
        return;
    }
    op->flags &= ~(uint32_t)BMIG_FAST_ONLY;
    op->range = (struct bmig_range){.start = op->offset,
                                    .end = op->offset + op->length,
                                    .exclusive = true,
                                    .granted = range_granted,
                                    .user = op};
    op->has_range = true;
    if (bmig_range_lock_acquire(&volume->lock, &op->range))
        bmig_volume_issue_change(op);
}

/* FLUSH: to the primary. In doubt to both, for it must hold on whichever comes out. */
static void submit_flush(struct bmig_volume_op *op)
{
    struct bmig_volume *volume = op->volume;
    op->legs_used = op->legs_out =
        (uint8_t)(1 << volume->primary | (volume->in_doubt ? 1 << (1 - volume->primary) : 0));
    uint8_t legs = op->legs_out;
    list_add(op);
    for (unsigned replica = 0; replica < 2; replica++)
        if (legs & 1 << replica)
            leg_submit(op, replica, 0, 0, 0);
}

/* ---- reads ---- */

static void read_from(struct bmig_volume_op *op, unsigned replica);
static void read_behind_changes(struct bmig_volume_op *op);

/* Whether changes under way overlap the range: some of before the flip, some that began after it.
 */
static void overlapping_changes(const struct bmig_volume *volume, uint64_t offset, uint64_t length,
                                bool *before, bool *after)
{
    *before = *after = false;
    for (const struct bmig_volume_op *op = volume->changes; op; op = op->next)
        if (op->request && op->op != BMIG_FLUSH && op->offset < offset + length &&
            offset < op->offset + op->length)
            *(op->old ? before : after) = true;
}

static void read_done(struct bmig_request *leg, int status)
{
    struct bmig_volume_op *op = leg->user;
    struct bmig_volume *volume = op->volume;
    unsigned replica = leg == &op->legs[1];
    bool elsewhere = replica != volume->primary;
    bool before = false, after = false;
    if (!op->has_range && (elsewhere || volume->old_count))
        overlapping_changes(volume, op->offset, op->length, &before, &after);
    /* It went to the old primary, which no longer counts, and failed; or a flip came while it was
     * under way, and it may have seen of a change what those who read now do not. */
    if (elsewhere ? status != 0 || after : before) {
        if (op->has_range)
            read_from(op, volume->primary);
        else
            read_behind_changes(op);
        return;
    }
    bmig_volume_answer(op, status);
    op_put(op);
}

static void read_from(struct bmig_volume_op *op, unsigned replica)
{
    struct bmig_request *leg = &op->legs[replica];
    leg->op = op->op;
    leg->flags = 0;
    leg->offset = op->offset;
    leg->length = op->length;
    leg->data = op->data;
    leg->extents = op->extents;
    leg->done = read_done;
    leg->user = op;
    bmig_disk_submit(op->volume->replicas[replica], leg);
}

static void read_granted(struct bmig_range *range)
{
    struct bmig_volume_op *op = range->user;
    read_from(op, op->volume->primary);
}

static void submit_read(struct bmig_volume_op *op)
{
    struct bmig_volume *volume = op->volume;
    bool before = false, after = false;
    if (volume->old_count)
        overlapping_changes(volume, op->offset, op->length, &before, &after);
    if (!before)
        read_from(op, volume->primary);
    else if (!after && volume->mirror &&
             bmig_mirror_is_clean(volume->mirror, op->offset, op->length))
        read_from(op, 1 - volume->primary);
    else
        read_behind_changes(op);
}

/* The one case in which a read waits: part of it may have been read new from the old primary alone,
 * and part new from the new one alone, or the old one lacks something, for a leg failed. */
static void read_behind_changes(struct bmig_volume_op *op)
{
    struct bmig_volume *volume = op->volume;
    op->range = (struct bmig_range){
        .start = op->offset, .end = op->offset + op->length, .granted = read_granted, .user = op};
    op->has_range = true;
    if (bmig_range_lock_acquire(&volume->lock, &op->range))
        read_from(op, volume->primary);
}

/* ---- the front end's side ---- */

void bmig_volume_submit(struct bmig_volume *volume, struct bmig_volume_request *request)
{
    assert(request->done && request->length <= UINT64_MAX - request->offset);
    volume->under_way++;
    volume->requests[request->op]++;
    volume->bytes[request->op] += request->length;
    bool in_range = request->op == BMIG_FLUSH ||
                    (request->length > 0 && request->offset <= volume->size_bytes &&
                     request->length <= volume->size_bytes - request->offset);
    struct bmig_volume_op *op = in_range ? op_get(volume) : NULL;
    if (!op) {
        answer_later(volume, request, in_range ? -ENOMEM : -EINVAL);
        return;
    }
    op->request = request;
    op->op = request->op;
    op->flags = request->flags;
    op->offset = request->offset;
    op->length = request->length;
    op->data = request->data;
    op->started_ns = bmig_loop_now_ns(volume->loop);
    switch (request->op) {
    case BMIG_READ:
    case BMIG_EXTENTS:
        op->extents = request->extents;
        submit_read(op);
        return;
    case BMIG_FLUSH:
        submit_flush(op);
        return;
    default:
        if (request->buffer) {
            op->buffer = request->buffer;
            bmig_buffer_ref(op->buffer);
        }
        if (request->op != BMIG_WRITE)
            op->data = NULL;
        submit_change(op);
        return;
    }
}

int bmig_volume_new(struct bmig_volume **out, struct bmig_loop *loop, struct bmig_pool *pool,
                    struct bmig_disk *primary, const char *name, uint64_t epoch,
                    struct bmig_error *err)
{
    struct bmig_volume *volume = calloc(1, sizeof(*volume));
    if (!volume)
        return bmig_error_set(err, BMIG_FAILED, ENOMEM, "volume '%s': out of memory", name);
    if (primary->size_bytes == 0) {
        free(volume);
        return bmig_error_set(err, BMIG_REFUSED, EINVAL, "%s: is empty, there is nothing to serve",
                              primary->name);
    }
    volume->loop = loop;
    volume->pool = pool;
    volume->replicas[0] = primary;
    volume->size_bytes = primary->size_bytes;
    volume->block_bytes = primary->limits.block_bytes;
    volume->epoch = epoch;
    volume->task.run = run_answers;
    volume->recent_began_ns = bmig_loop_now_ns(loop);
    snprintf(volume->name, sizeof(volume->name), "%s", name);
    bmig_range_lock_init(&volume->lock);
    *out = volume;
    return 0;
}

void bmig_volume_free(struct bmig_volume *volume)
{
    assert(bmig_volume_idle(volume) && !volume->mirror && !volume->changes);
    while (volume->free_ops) {
        struct bmig_volume_op *op = volume->free_ops;
        volume->free_ops = op->next;
        free(op);
    }
    free(volume);
}

bool bmig_volume_idle(const struct bmig_volume *volume)
{
    return volume->under_way == 0;
}

uint64_t bmig_volume_size_bytes(const struct bmig_volume *volume)
{
    return volume->size_bytes;
}

uint32_t bmig_volume_block_bytes(const struct bmig_volume *volume)
{
    return volume->block_bytes;
}

uint32_t bmig_volume_caps(const struct bmig_volume *volume)
{
    /* The door makes up for what a replica lacks, so the promise does not hang on which one it is.
     * FAST_ZERO promises only that FAST_ONLY is understood. */
    uint32_t caps = BMIG_CAP_ZERO | BMIG_CAP_FAST_ZERO | BMIG_CAP_DISCARD | BMIG_CAP_FLUSH |
                    BMIG_CAP_FUA | BMIG_CAP_EXTENTS;
    return caps | (volume->replicas[volume->primary]->caps & BMIG_CAP_WRITE);
}

struct bmig_disk *bmig_volume_primary(const struct bmig_volume *volume)
{
    return volume->replicas[volume->primary];
}

uint64_t bmig_volume_epoch(const struct bmig_volume *volume)
{
    return volume->epoch;
}

const char *bmig_volume_name(const struct bmig_volume *volume)
{
    return volume->name;
}

const struct bmig_histogram *bmig_volume_latency(const struct bmig_volume *volume)
{
    return &volume->latency;
}

void bmig_volume_stats(const struct bmig_volume *volume, struct bmig_volume_stats *stats)
{
    *stats = (struct bmig_volume_stats){
        .reads = volume->requests[BMIG_READ],
        .writes = volume->requests[BMIG_WRITE],
        .read_bytes = volume->bytes[BMIG_READ],
        .write_bytes = volume->bytes[BMIG_WRITE],
        .flushes = volume->requests[BMIG_FLUSH],
        .errors = volume->errors,
    };
}
