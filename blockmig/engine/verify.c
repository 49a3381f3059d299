/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Verify: both replicas are read again, region by region, and compared, before a switch may happen.
 *
 * It yields as the copy does: a region that a guest write hits while it is compared is compared
 * again, and the third time with the guest's writes to it held. A difference makes the region
 * stale: it is copied and compared again. Where the secondary began as zero and nothing was ever
 * sent for a region, its extents are asked for instead of its bytes (or, where it can't tell, it is
 * taken to be what it was created as). A comparison alone, which no guest writes into, asks both
 * for their extents where both can tell, and reads what is not zero on either.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/engine/mirror_internal.h"

#define min(a, b) ((a) < (b) ? (a) : (b))

enum { LOOK_EXTENTS = 4096, LOOK_REGIONS = 1 << 17, BLOCK_BYTES = 4096 };

struct bmig_verify_op {
    struct bmig_mirror *mirror;
    struct bmig_visit visit;
    uint64_t start, end;
    bool insist;
    struct bmig_range range;
    struct bmig_buffer *buffers[2]; /* primary's, secondary's */
    int status[2];
    uint32_t out;
    struct bmig_verify_op *next;
    struct bmig_request reads[2];
};

static bool is_todo(const struct bmig_verifier *verifier, uint64_t region)
{
    return verifier->todo[region / 64] >> (region % 64) & 1;
}

static void set_done(struct bmig_mirror *mirror, uint64_t region)
{
    struct bmig_verifier *verifier = &mirror->verifier;
    if (!is_todo(verifier, region))
        return;
    verifier->todo[region / 64] &= ~(UINT64_C(1) << (region % 64));
    verifier->todo_count--;
    mirror->bytes_verified +=
        bmig_region_end(&mirror->map, region) - bmig_region_start(&mirror->map, region);
}

int bmig_verify_init(struct bmig_mirror *mirror, bool only)
{
    struct bmig_verifier *verifier = &mirror->verifier;
    uint64_t count = mirror->map.count;
    verifier->todo = calloc((count + 63) / 64, sizeof(uint64_t));
    verifier->extents.list = calloc(LOOK_EXTENTS, sizeof(struct bmig_extent));
    verifier->extents.capacity = LOOK_EXTENTS;
    verifier->only = only;
    verifier->first_difference = UINT64_MAX;
    if (!verifier->todo || !verifier->extents.list) {
        bmig_verify_fini(mirror);
        return -ENOMEM;
    }
    memset(verifier->todo, 0xff, (count + 63) / 64 * sizeof(uint64_t));
    verifier->todo_count = count;
    return 0;
}

void bmig_verify_fini(struct bmig_mirror *mirror)
{
    struct bmig_verifier *verifier = &mirror->verifier;
    assert(verifier->ops_out == 0);
    if (verifier->waiting)
        bmig_pool_cancel(mirror->volume->pool, &verifier->wait);
    while (verifier->free_ops) {
        struct bmig_verify_op *op = verifier->free_ops;
        verifier->free_ops = op->next;
        free(op);
    }
    free(verifier->todo);
    free(verifier->extents.list);
    verifier->todo = NULL;
    verifier->extents.list = NULL;
}

void bmig_verify_add(struct bmig_mirror *mirror, uint64_t region)
{
    struct bmig_verifier *verifier = &mirror->verifier;
    if (!verifier->todo || is_todo(verifier, region))
        return;
    verifier->todo[region / 64] |= UINT64_C(1) << (region % 64);
    verifier->todo_count++;
}

bool bmig_verify_idle(const struct bmig_mirror *mirror)
{
    return mirror->verifier.ops_out == 0 && !mirror->verifier.looking;
}

void bmig_verify_begin(struct bmig_mirror *mirror)
{
    mirror->verifier.cursor = 0;
    mirror->verifier.differed = false;
}

/* ---- comparing ---- */

static void differs(struct bmig_verify_op *op, uint64_t region, uint64_t start, uint64_t length)
{
    struct bmig_mirror *mirror = op->mirror;
    struct bmig_verifier *verifier = &mirror->verifier;
    const uint8_t *a = op->buffers[0]->data + (start - op->start);
    const uint8_t *b = op->buffers[1]->data + (start - op->start);
    for (uint64_t at = 0; at < length; at += BLOCK_BYTES) {
        uint64_t block = min(length - at, BLOCK_BYTES);
        if (memcmp(a + at, b + at, block) == 0)
            continue;
        mirror->bytes_different += block;
        verifier->first_difference = min(verifier->first_difference, start + at);
    }
    verifier->differed = true;
    if (verifier->only)
        set_done(mirror, region);
    else
        bmig_region_set_stale(&mirror->map, region);
}

static void compare(struct bmig_verify_op *op)
{
    struct bmig_mirror *mirror = op->mirror;
    for (uint32_t i = 0; i < op->visit.count; i++) {
        uint64_t region = op->visit.first + i;
        uint64_t start = bmig_region_start(&mirror->map, region);
        uint64_t length = bmig_region_end(&mirror->map, region) - start;
        if (bmig_visit_is_tainted(&op->visit, region)) {
            bmig_region_set_hot(&mirror->map, region);
        } else if (bmig_region_is_clean(&mirror->map, region)) {
            if (memcmp(op->buffers[0]->data + (start - op->start),
                       op->buffers[1]->data + (start - op->start), length) == 0)
                set_done(mirror, region);
            else
                differs(op, region, start, length);
        }
    }
}

static void read_done(struct bmig_request *request, int status)
{
    struct bmig_verify_op *op = request->user;
    struct bmig_mirror *mirror = op->mirror;
    struct bmig_verifier *verifier = &mirror->verifier;
    op->status[request == &op->reads[1]] = status;
    if (--op->out)
        return;
    int failed = op->status[0] ? op->status[0] : op->status[1];
    const char *where = op->status[0] ? "source" : "target";
    uint64_t start = op->start;
    if (failed == 0)
        compare(op);
    bmig_visit_end(&mirror->visits, &op->visit);
    verifier->ops_out--;
    verifier->bytes_out -= op->end - op->start;
    mirror->busy--;
    if (op->insist)
        bmig_range_lock_release(&mirror->volume->lock, &op->range);
    bmig_buffer_unref(op->buffers[0]);
    bmig_buffer_unref(op->buffers[1]);
    op->next = verifier->free_ops;
    verifier->free_ops = op;
    if (failed != 0)
        bmig_mirror_trouble(mirror, where, start, failed);
    bmig_mirror_advance(mirror);
}

static void go(struct bmig_verify_op *op)
{
    struct bmig_disk *disks[2] = {bmig_primary(op->mirror), bmig_secondary(op->mirror)};
    bmig_visit_go(&op->visit, bmig_loop_now_ns(op->mirror->volume->loop));
    op->out = 2;
    for (int i = 0; i < 2; i++)
        op->reads[i] = (struct bmig_request){
            .op = BMIG_READ,
            .offset = op->start,
            .length = op->end - op->start,
            .data = op->buffers[i]->data,
            .done = read_done,
            .user = op,
        };
    bmig_disk_submit(disks[0], &op->reads[0]);
    bmig_disk_submit(disks[1], &op->reads[1]);
}

static void range_granted(struct bmig_range *range)
{
    go(range->user);
}

/* ---- regions that were never written ---- */

/* Whether region may be judged without reading it: as far as we know, it is what it was created as;
 * or in a comparison, nothing was learnt of it yet and both can tell. */
static bool untouched(const struct bmig_mirror *mirror, uint64_t region)
{
    bool may = mirror->secondary_known_zero;
    if (mirror->verifier.only)
        may = bmig_primary(mirror)->caps & bmig_secondary(mirror)->caps & BMIG_CAP_EXTENTS;
    return may && !bmig_region_is_written(&mirror->map, region) &&
           bmig_region_is_clean(&mirror->map, region);
}

static void looked(struct bmig_request *request, int status);

static void ask(struct bmig_mirror *mirror, struct bmig_disk *disk)
{
    struct bmig_verifier *verifier = &mirror->verifier;
    uint64_t start = bmig_region_start(&mirror->map, verifier->look_first);
    verifier->request = (struct bmig_request){
        .op = BMIG_EXTENTS,
        .offset = start,
        .length = bmig_region_end(&mirror->map, verifier->look_end - 1) - start,
        .extents = &verifier->extents,
        .done = looked,
        .user = mirror,
    };
    verifier->looking = true;
    verifier->look_began_ns = bmig_loop_now_ns(mirror->volume->loop);
    mirror->busy++;
    bmig_disk_submit(disk, &verifier->request);
}

/* Goes through the answer: notes what has to be read, and of the rest what is done, if zero there
 * says all. Returns the first region that the answer does not reach. */
static uint64_t digest(struct bmig_mirror *mirror, bool says_all)
{
    struct bmig_verifier *verifier = &mirror->verifier;
    struct bmig_region_map *map = &mirror->map;
    uint64_t at = bmig_region_start(map, verifier->look_first);
    uint64_t region = verifier->look_first;
    for (uint32_t i = 0; i < verifier->extents.count; i++) {
        const struct bmig_extent *extent = &verifier->extents.list[i];
        at += extent->length_bytes;
        bool zero = extent->flags & BMIG_EXTENT_ZERO;
        for (; region < verifier->look_end && bmig_region_start(map, region) < at; region++) {
            bool whole = bmig_region_end(map, region) <= at;
            if (zero && !whole)
                break; /* the next extent says about its rest */
            if (!zero || !untouched(mirror, region))
                bmig_region_note_write(map, region, region); /* its bytes have to be read */
            else if (says_all)
                set_done(mirror, region);
        }
    }
    return region;
}

static void looked(struct bmig_request *request, int status)
{
    struct bmig_mirror *mirror = request->user;
    struct bmig_verifier *verifier = &mirror->verifier;
    bool says_all = !verifier->only || verifier->looking_at_primary;
    uint64_t first = verifier->look_first;
    verifier->looking = false;
    verifier->looking_at_primary = false;
    mirror->busy--;
    uint64_t end = status == 0 ? digest(mirror, says_all) : first;
    if (end == first) /* no answer of use: it is read */
        bmig_region_note_write(&mirror->map, first, first);
    if (end > first && !says_all && !mirror->stopping) {
        verifier->look_end = end;
        verifier->looking_at_primary = true;
        ask(mirror, bmig_primary(mirror));
        return;
    }
    bmig_mirror_advance(mirror);
}

/* Judges a run of untouched regions without reading them; true if an answer has to be waited for.
 */
static bool look(struct bmig_mirror *mirror, uint64_t region)
{
    struct bmig_verifier *verifier = &mirror->verifier;
    bool can_tell = bmig_secondary(mirror)->caps & BMIG_CAP_EXTENTS;
    uint64_t end = region;
    uint64_t most = min(mirror->map.count, region + LOOK_REGIONS);
    while (end < most && is_todo(verifier, end) && untouched(mirror, end)) {
        if (!can_tell)
            set_done(mirror, end);
        end++;
    }
    if (!can_tell)
        return false;
    verifier->look_first = region;
    verifier->look_end = end;
    ask(mirror, bmig_secondary(mirror));
    return true;
}

/* ---- choosing ---- */

static uint32_t piece_from(const struct bmig_mirror *mirror, uint64_t region)
{
    const struct bmig_region_map *map = &mirror->map;
    uint64_t most = bmig_mirror_piece_bytes(mirror) >> map->shift;
    uint32_t count = 1;
    if (most > BMIG_VISIT_MAX_REGIONS)
        most = BMIG_VISIT_MAX_REGIONS;
    if (bmig_region_is_hot(map, region))
        return 1;
    for (; count < most && region + count < map->count; count++) {
        uint64_t next = region + count;
        if (!is_todo(&mirror->verifier, next) || bmig_region_is_hot(map, next) ||
            untouched(mirror, next) || bmig_mirror_guest_in(mirror, next, next))
            break;
    }
    return count;
}

static void room_again(struct bmig_buffer_wait *wait)
{
    struct bmig_mirror *mirror =
        (struct bmig_mirror *)((char *)wait - offsetof(struct bmig_mirror, verifier.wait));
    mirror->verifier.waiting = false;
    bmig_mirror_advance(mirror);
}

static struct bmig_verify_op *op_get(struct bmig_mirror *mirror, uint32_t bytes)
{
    struct bmig_verifier *verifier = &mirror->verifier;
    struct bmig_pool *pool = mirror->volume->pool;
    struct bmig_buffer *a = bmig_buffer_get(pool, bytes);
    struct bmig_buffer *b = a ? bmig_buffer_get(pool, bytes) : NULL;
    if (!b) {
        bmig_buffer_unref(a);
        verifier->waiting = true;
        verifier->wait.ready = room_again;
        bmig_pool_wait(pool, &verifier->wait);
        return NULL;
    }
    struct bmig_verify_op *op = verifier->free_ops;
    if (op)
        verifier->free_ops = op->next;
    else
        op = aligned_alloc(16, (sizeof(*op) + 15) / 16 * 16);
    if (!op) {
        bmig_buffer_unref(a);
        bmig_buffer_unref(b);
        return NULL;
    }
    memset(op, 0, offsetof(struct bmig_verify_op, reads));
    op->mirror = mirror;
    op->buffers[0] = a;
    op->buffers[1] = b;
    return op;
}

static bool start_piece(struct bmig_mirror *mirror, uint64_t region)
{
    struct bmig_verifier *verifier = &mirror->verifier;
    struct bmig_region_map *map = &mirror->map;
    uint32_t count = piece_from(mirror, region);
    uint64_t start = bmig_region_start(map, region);
    uint64_t stop = bmig_region_end(map, region + count - 1);
    if (verifier->bytes_out &&
        2 * (verifier->bytes_out + stop - start) > bmig_mirror_window_bytes(mirror))
        return false;
    struct bmig_verify_op *op = op_get(mirror, (uint32_t)(stop - start));
    if (!op)
        return false;
    if (!bmig_mirror_pace(mirror, stop - start)) {
        bmig_buffer_unref(op->buffers[0]);
        bmig_buffer_unref(op->buffers[1]);
        op->next = verifier->free_ops;
        verifier->free_ops = op;
        return false;
    }
    op->start = start;
    op->end = stop;
    op->insist = bmig_region_is_hot(map, region);
    bmig_visit_begin(&mirror->visits, &op->visit, region, count);
    verifier->ops_out++;
    verifier->bytes_out += stop - start;
    verifier->cursor = region + count;
    mirror->busy++;
    if (op->insist) {
        op->visit.holds = true;
        op->range = (struct bmig_range){
            .start = start, .end = stop, .exclusive = true, .granted = range_granted, .user = op};
        if (!bmig_range_lock_acquire(&mirror->volume->lock, &op->range))
            return true;
    }
    go(op);
    return true;
}

static uint64_t next_todo(const struct bmig_mirror *mirror, uint64_t from)
{
    const struct bmig_verifier *verifier = &mirror->verifier;
    uint64_t count = mirror->map.count;
    for (uint64_t word = from / 64; word < (count + 63) / 64; word++) {
        uint64_t bits = verifier->todo[word];
        if (word == from / 64)
            bits &= ~UINT64_C(0) << (from % 64);
        if (bits)
            return min(word * 64 + (uint64_t)__builtin_ctzll(bits), count);
    }
    return count;
}

void bmig_verify_pump(struct bmig_mirror *mirror)
{
    struct bmig_verifier *verifier = &mirror->verifier;
    struct bmig_region_map *map = &mirror->map;
    while (mirror->state == BMIG_MIRROR_VERIFYING && !mirror->options.paused &&
           !mirror->suspended && !mirror->stopping && !verifier->waiting && !verifier->looking &&
           map->stale_count == 0 && verifier->ops_out < BMIG_VISITS_MAX &&
           !bmig_timer_started(&mirror->pace)) {
        uint64_t region = next_todo(mirror, verifier->cursor);
        if (region == map->count) {
            if (verifier->ops_out || verifier->todo_count == 0)
                return;
            verifier->cursor = 0; /* what is left are regions that were hit */
            continue;
        }
        if (untouched(mirror, region)) {
            if (look(mirror, region))
                return;
            continue;
        }
        if (!bmig_region_is_hot(map, region) && bmig_mirror_guest_in(mirror, region, region)) {
            bmig_region_set_hot(map, region);
            verifier->cursor = region + 1;
            continue;
        }
        if (!start_piece(mirror, region))
            return;
    }
}
