/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The copy: stale regions become clean, each read once and written once.
 *
 * A cursor walks the stale regions. A piece of neighbouring regions is read from the primary and
 * written to the secondary; then each region that no guest write hit meanwhile is clean. One that
 * was hit is hot and stays stale for another visit, in which it is copied alone, with the guest's
 * writes to it held. So the guest yields almost never, and every region is visited a bounded number
 * of times.
 *
 * Invariants: a region is in one visit at most; a copy without the range lock begins only where no
 * guest change is under way; a region becomes clean only if no change went out to it since its copy
 * began.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/engine/mirror_internal.h"

#define min(a, b) ((a) < (b) ? (a) : (b))

enum { WRITES_MAX = 8, ZERO_UNIT = 4096, ZERO_RUN_MIN = 65536 };

struct bmig_copy_op {
    struct bmig_mirror *mirror;
    struct bmig_visit visit;
    uint64_t start, end; /* bytes */
    bool zero;           /* no read: the primary is known to be zero there */
    bool insist;
    uint64_t again_bytes;    /* of regions that something was sent for before */
    struct bmig_range range; /* insist */
    struct bmig_buffer *buffer;
    uint64_t cursor; /* the next byte to write */
    uint64_t sent_bytes;
    int status;
    const char *where;
    uint32_t writes_out;
    uint32_t writes_free; /* bit per slot */
    struct bmig_copy_op *next;
    struct bmig_request read;
    struct bmig_request writes[WRITES_MAX];
};

static void write_on(struct bmig_copy_op *op);

static struct bmig_copy_op *op_get(struct bmig_mirror *mirror)
{
    struct bmig_copier *copier = &mirror->copier;
    struct bmig_copy_op *op = copier->free_ops;
    if (op)
        copier->free_ops = op->next;
    else if (!(op = aligned_alloc(16, (sizeof(*op) + 15) / 16 * 16)))
        return NULL;
    memset(op, 0, offsetof(struct bmig_copy_op, read));
    op->mirror = mirror;
    op->writes_free = (1u << WRITES_MAX) - 1;
    return op;
}

static void op_put(struct bmig_copy_op *op)
{
    struct bmig_copier *copier = &op->mirror->copier;
    op->next = copier->free_ops;
    copier->free_ops = op;
}

/* ---- the end of a piece ---- */

static void regions_copied(struct bmig_copy_op *op)
{
    struct bmig_mirror *mirror = op->mirror;
    for (uint32_t i = 0; i < op->visit.count; i++) {
        uint64_t region = op->visit.first + i;
        if (bmig_visit_is_tainted(&op->visit, region)) {
            bmig_region_set_hot(&mirror->map, region);
        } else {
            bmig_region_set_clean(&mirror->map, region);
            bmig_verify_add(mirror, region);
        }
    }
    mirror->failures = 0;
    mirror->bytes_copied += op->sent_bytes;
    mirror->bytes_skipped += op->end - op->start - op->sent_bytes;
    mirror->bytes_recopied += min(op->again_bytes, op->sent_bytes);
}

/* A flush of much at once is a burst at the medium, which the guest may share; one of nothing is a disturbance. */
static bool time_to_flush(const struct bmig_mirror *mirror)
{
    uint64_t every =
        mirror->throttle.guest_active ? BMIG_FLUSH_EVERY_BUSY_BYTES : BMIG_FLUSH_EVERY_BYTES;
    return bmig_secondary(mirror)->caps & BMIG_CAP_GATHERS && mirror->unflushed_bytes >= every;
}

static void end(struct bmig_copy_op *op)
{
    struct bmig_mirror *mirror = op->mirror;
    int status = op->status;
    const char *where = op->where;
    uint64_t start = op->start;
    if (status == 0)
        regions_copied(op);
    bmig_visit_end(&mirror->visits, &op->visit);
    mirror->copier.ops_out--;
    mirror->copier.bytes_out -= op->end - op->start;
    mirror->busy--;
    mirror->unflushed_bytes += op->sent_bytes;
    bmig_buffer_unref(op->buffer);
    if (op->insist)
        bmig_range_lock_release(&mirror->volume->lock, &op->range);
    op_put(op);
    if (status != 0)
        bmig_mirror_trouble(mirror, where, start, status);
    if (time_to_flush(mirror))
        bmig_mirror_flush(mirror);
    bmig_mirror_advance(mirror);
}

/* ---- writing ---- */

static void written(struct bmig_request *request, int status)
{
    struct bmig_copy_op *op = request->user;
    op->writes_free |= 1u << (request - op->writes);
    op->writes_out--;
    if (status != 0 && op->status == 0) {
        op->status = status;
        op->where = "target";
    }
    write_on(op);
}

/* Whether the secondary reads as zero in [start, stop) without our doing. */
static bool target_is_zero(const struct bmig_copy_op *op, uint64_t start, uint64_t stop)
{
    const struct bmig_mirror *mirror = op->mirror;
    const struct bmig_region_map *map = &mirror->map;
    uint64_t last = bmig_region_of(map, stop - 1);
    for (uint64_t region = bmig_region_of(map, start); region <= last; region++)
        if (bmig_region_is_written(map, region))
            return false;
    return mirror->secondary_known_zero;
}

static uint64_t unit_end(const struct bmig_copy_op *op, uint64_t at)
{
    uint64_t next = (at / ZERO_UNIT + 1) * ZERO_UNIT;
    return min(next, op->end);
}

static bool unit_is_zero(const struct bmig_copy_op *op, uint64_t at)
{
    return bmig_is_zero(op->buffer->data + (at - op->start), unit_end(op, at) - at);
}

/* The end of the run of zero units at `at`, `at` itself if there is none. */
static uint64_t zero_run(const struct bmig_copy_op *op, uint64_t at)
{
    while (at < op->end && unit_is_zero(op, at))
        at = unit_end(op, at);
    return at;
}

/* The next run to write from op->cursor on, or false. Zeroes that need not be written are passed
 * over; zeroes that must be, and are many, are a run of their own if the secondary has a quick way
 * for them. */
static bool next_run(struct bmig_copy_op *op, uint64_t *start, uint64_t *stop, bool *zero)
{
    bool quick = bmig_secondary(op->mirror)->caps & BMIG_CAP_FAST_ZERO;
    uint64_t at = op->cursor;
    uint64_t run_start = at;
    while (at < op->end) {
        uint64_t zeroes_end = zero_run(op, at);
        bool skip = zeroes_end > at && target_is_zero(op, at, zeroes_end);
        bool send = zeroes_end > at && !skip && quick &&
                    (zeroes_end - at >= ZERO_RUN_MIN || (at == op->start && zeroes_end == op->end));
        if ((skip || send) && at > run_start)
            break; /* the data before it first */
        if (skip) {
            at = run_start = zeroes_end;
            continue;
        }
        if (send) {
            *start = at;
            *stop = op->cursor = zeroes_end;
            *zero = true;
            return true;
        }
        at = zeroes_end > at ? zeroes_end : unit_end(op, at);
    }
    *start = run_start;
    *stop = op->cursor = at;
    *zero = false;
    return at > run_start;
}

static void send_run(struct bmig_copy_op *op, uint64_t start, uint64_t stop, bool zero)
{
    struct bmig_mirror *mirror = op->mirror;
    unsigned slot = (unsigned)__builtin_ctz(op->writes_free);
    struct bmig_request *request = &op->writes[slot];
    op->writes_free &= ~(1u << slot);
    op->writes_out++;
    *request = (struct bmig_request){
        .op = zero ? BMIG_ZERO : BMIG_WRITE,
        .flags = zero ? BMIG_MAY_UNMAP | BMIG_REPLAYABLE : BMIG_REPLAYABLE,
        .offset = start,
        .length = stop - start,
        .data = zero ? NULL : op->buffer->data + (start - op->start),
        .done = written,
        .user = op,
    };
    if (!zero)
        op->sent_bytes += stop - start;
    mirror->flushed = false;
    bmig_region_note_write(&mirror->map, bmig_region_of(&mirror->map, start),
                           bmig_region_of(&mirror->map, stop - 1));
    bmig_disk_submit(bmig_secondary(mirror), request);
}

static void write_on(struct bmig_copy_op *op)
{
    uint64_t start, stop;
    bool zero;
    while (op->status == 0 && op->writes_free && next_run(op, &start, &stop, &zero))
        send_run(op, start, stop, zero);
    if (op->writes_out == 0)
        end(op);
}

/* ---- reading ---- */

static void have_read(struct bmig_request *request, int status)
{
    struct bmig_copy_op *op = request->user;
    if (status != 0) {
        op->status = status;
        op->where = "source";
        end(op);
        return;
    }
    write_on(op);
}

static void go(struct bmig_copy_op *op)
{
    bmig_visit_go(&op->visit, bmig_loop_now_ns(op->mirror->volume->loop));
    if (op->zero) {
        op->cursor = op->end;
        send_run(op, op->start, op->end, true);
        return;
    }
    op->read = (struct bmig_request){
        .op = BMIG_READ,
        .offset = op->start,
        .length = op->end - op->start,
        .data = op->buffer->data,
        .done = have_read,
        .user = op,
    };
    bmig_disk_submit(bmig_primary(op->mirror), &op->read);
}

static void range_granted(struct bmig_range *range)
{
    go(range->user);
}

/* ---- choosing ---- */

/* How many regions from region on make one piece. */
static uint32_t piece_from(const struct bmig_mirror *mirror, uint64_t region, bool zero)
{
    const struct bmig_region_map *map = &mirror->map;
    uint64_t piece_bytes = bmig_mirror_piece_bytes(mirror);
    uint64_t most = zero ? BMIG_VISIT_MAX_REGIONS : piece_bytes >> map->shift;
    uint32_t count = 1;
    if (most > BMIG_VISIT_MAX_REGIONS)
        most = BMIG_VISIT_MAX_REGIONS;
    if (bmig_region_is_hot(map, region))
        return 1;
    for (; count < most && region + count < map->count; count++) {
        uint64_t next = region + count;
        if (bmig_region_is_clean(map, next) || bmig_region_is_hot(map, next) ||
            bmig_scout_zero(mirror, next) != zero || bmig_mirror_guest_in(mirror, next, next))
            break;
    }
    return count;
}

static void room_again(struct bmig_buffer_wait *wait)
{
    struct bmig_mirror *mirror =
        (struct bmig_mirror *)((char *)wait - offsetof(struct bmig_mirror, copier.wait));
    mirror->copier.waiting = false;
    bmig_mirror_advance(mirror);
}

/* Starts the piece at region; false where something must come first, which then goes on by itself.
 */
static bool start_piece(struct bmig_mirror *mirror, uint64_t region)
{
    struct bmig_copier *copier = &mirror->copier;
    struct bmig_region_map *map = &mirror->map;
    bool insist = bmig_region_is_hot(map, region);
    bool zero = !insist && bmig_scout_zero(mirror, region);
    uint32_t count = piece_from(mirror, region, zero);
    uint64_t start = bmig_region_start(map, region);
    uint64_t stop = bmig_region_end(map, region + count - 1);
    bool moves = !zero || !(bmig_secondary(mirror)->caps & BMIG_CAP_FAST_ZERO);

    if (copier->bytes_out && moves &&
        copier->bytes_out + (stop - start) > bmig_mirror_window_bytes(mirror))
        return false;
    struct bmig_buffer *buffer = NULL;
    if (!zero && !(buffer = bmig_buffer_get(mirror->volume->pool, (uint32_t)(stop - start)))) {
        copier->waiting = true;
        copier->wait.ready = room_again;
        bmig_pool_wait(mirror->volume->pool, &copier->wait);
        return false;
    }
    struct bmig_copy_op *op = NULL;
    if ((moves && !bmig_mirror_pace(mirror, stop - start)) || !(op = op_get(mirror))) {
        bmig_buffer_unref(buffer);
        return false;
    }
    op->start = op->cursor = start;
    op->end = stop;
    op->zero = zero;
    op->insist = insist;
    for (uint32_t i = 0; i < count; i++)
        if (bmig_region_is_written(map, region + i))
            op->again_bytes +=
                bmig_region_end(map, region + i) - bmig_region_start(map, region + i);
    op->buffer = buffer;
    bmig_visit_begin(&mirror->visits, &op->visit, region, count);
    copier->ops_out++;
    copier->bytes_out += stop - start;
    mirror->busy++;
    copier->cursor = region + count;
    if (insist) {
        op->visit.holds = true;
        op->range = (struct bmig_range){
            .start = start, .end = stop, .exclusive = true, .granted = range_granted, .user = op};
        if (!bmig_range_lock_acquire(&mirror->volume->lock, &op->range))
            return true;
    }
    go(op);
    return true;
}

void bmig_copy_pump(struct bmig_mirror *mirror)
{
    struct bmig_copier *copier = &mirror->copier;
    struct bmig_region_map *map = &mirror->map;
    while (mirror->state == BMIG_MIRROR_COPYING && !mirror->options.paused && !mirror->suspended &&
           !mirror->stopping && !mirror->scout.busy && !copier->waiting &&
           copier->ops_out < BMIG_VISITS_MAX && !bmig_timer_started(&mirror->pace)) {
        uint64_t region = bmig_region_next_stale(map, copier->cursor);
        if (region == map->count) {
            if (copier->ops_out || map->stale_count == 0)
                return;
            copier->cursor = 0; /* what is left are regions that were hit, or failed */
            continue;
        }
        bool hot = bmig_region_is_hot(map, region);
        if (!hot && bmig_mirror_guest_in(mirror, region, region)) {
            /* A change is under way here: it would taint the copy before it began. */
            bmig_region_set_hot(map, region);
            copier->cursor = region + 1;
            continue;
        }
        if (!hot && mirror->scout.wanted &&
            (region < mirror->scout.first || region >= mirror->scout.end)) {
            bmig_scout_look(mirror, region);
            return;
        }
        if (!start_piece(mirror, region))
            return;
    }
}

void bmig_copy_restart(struct bmig_mirror *mirror)
{
    /* With copies under way, what they copy is stale still and would be begun once more; the pump
     * begins anew when the last has ended. */
    if (mirror->copier.ops_out == 0)
        mirror->copier.cursor = 0;
}

void bmig_copy_fini(struct bmig_mirror *mirror)
{
    struct bmig_copier *copier = &mirror->copier;
    assert(copier->ops_out == 0);
    if (copier->waiting)
        bmig_pool_cancel(mirror->volume->pool, &copier->wait);
    while (copier->free_ops) {
        struct bmig_copy_op *op = copier->free_ops;
        copier->free_ops = op->next;
        free(op);
    }
}
