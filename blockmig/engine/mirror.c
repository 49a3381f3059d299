/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The mirror: the life of a volume's second replica, and what is done about its troubles.
 *
 * Invariants:
 *  - legs_open: every change to a clean region goes to both replicas; closed, no new leg goes to
 * the secondary.
 *  - A change that failed on either leg leaves its regions stale before its range is let go.
 *  - SYNCED is entered only with no region stale, nothing of the copy under way, and a good flush
 * of the secondary behind the copy's last write; it is left in the same step that makes a region
 * stale.
 *  - A secondary is given up by fencing it; answers that waited for its legs alone are then given.
 */
#include "blockmig/engine/mirror.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/engine/mirror_internal.h"

#define min(a, b) ((a) < (b) ? (a) : (b))
#define max(a, b) ((a) > (b) ? (a) : (b))

static const char *const state_names[] = {
    [BMIG_MIRROR_NONE] = "none",           [BMIG_MIRROR_COPYING] = "copying",
    [BMIG_MIRROR_VERIFYING] = "verifying", [BMIG_MIRROR_SYNCED] = "synced",
    [BMIG_MIRROR_SWITCHING] = "switching", [BMIG_MIRROR_DEGRADED] = "degraded",
};

/* Which state may follow which: rows from, columns to. */
static const bool may_follow[6][6] = {
    /*               none   copying verify synced switch degraded */
    /* none      */ {false, true, true, false, false, false},
    /* copying   */ {true, false, true, true, false, true},
    /* verifying */ {true, true, false, true, false, true},
    /* synced    */ {true, true, false, false, true, true},
    /* switching */ {false, true, false, true, false, true},
    /* degraded  */ {true, false, false, false, false, false},
};

const char *bmig_mirror_state_name(enum bmig_mirror_state state)
{
    return state_names[state];
}

void bmig_mirror_set_state(struct bmig_mirror *mirror, enum bmig_mirror_state state)
{
    assert(may_follow[mirror->state][state]);
    mirror->state = state;
    mirror->rate_base = 0;
    mirror->rate_since_ns = 0;
    mirror->rate_bytes_per_s = 0;
    if (mirror->event_count == BMIG_EVENTS_MAX) /* the oldest is of least interest */
        memmove(mirror->events, mirror->events + 1, --mirror->event_count * sizeof(state));
    mirror->events[mirror->event_count++] = state;
    bmig_loop_defer(mirror->volume->loop, &mirror->task);
}

/* ---- pace ---- */

bool bmig_mirror_guest_in(const struct bmig_mirror *mirror, uint64_t first, uint64_t last)
{
    return bmig_range_lock_overlaps(&mirror->volume->lock, bmig_region_start(&mirror->map, first),
                                    bmig_region_end(&mirror->map, last));
}

uint32_t bmig_mirror_piece_bytes(const struct bmig_mirror *mirror)
{
    uint32_t bytes = min(bmig_primary(mirror)->limits.preferred_bytes,
                         bmig_secondary(mirror)->limits.preferred_bytes);
    uint32_t region_bytes = 1u << mirror->map.shift;
    if (mirror->throttle.guest_active)
        bytes = min(bytes, 128u << 10); /* a guest request waits behind a piece at the medium */
    bytes = min(bytes, (uint32_t)BMIG_BUFFER_MAX_BYTES);
    return max(bytes, region_bytes);
}

uint64_t bmig_mirror_window_bytes(const struct bmig_mirror *mirror)
{
    uint64_t most = bmig_pool_size_bytes(mirror->volume->pool) / 4;
    uint64_t rate = bmig_throttle_rate(&mirror->throttle);
    uint64_t wanted = rate == UINT64_MAX ? most : rate / 50; /* 20 ms of it */
    return max(min(wanted, most), bmig_mirror_piece_bytes(mirror));
}

bool bmig_mirror_pace(struct bmig_mirror *mirror, uint64_t bytes)
{
    struct bmig_loop *loop = mirror->volume->loop;
    uint64_t wait_ns = bmig_throttle_take(&mirror->throttle, bytes, bmig_loop_now_ns(loop));
    if (wait_ns)
        bmig_timer_start(loop, &mirror->pace, wait_ns);
    return wait_ns == 0;
}

static void pace_fired(struct bmig_timer *timer)
{
    bmig_mirror_advance((struct bmig_mirror *)((char *)timer - offsetof(struct bmig_mirror, pace)));
}

/* ---- trouble ---- */

static void set_error(struct bmig_mirror *mirror, int status, const char *text)
{
    mirror->error = status;
    snprintf(mirror->error_text, sizeof(mirror->error_text), "%s", text);
}

static void fenced(struct bmig_disk *disk, void *user)
{
    struct bmig_mirror *mirror = user;
    mirror->fenced = true;
    bmig_loop_defer(mirror->volume->loop, &mirror->task);
}

static void fence(struct bmig_mirror *mirror)
{
    if (mirror->fencing)
        return;
    mirror->fencing = true;
    mirror->legs_open = false;
    bmig_disk_fence(bmig_secondary(mirror), fenced, mirror);
}

/* Answers the changes that only wait for a leg of the secondary. The op lives on until the leg
 * comes back. */
static void answer_abandoned(struct bmig_mirror *mirror)
{
    struct bmig_volume *volume = mirror->volume;
    uint8_t secondary_bit = (uint8_t)(1 << (1 - volume->primary));
    volume->dead_legs = secondary_bit;
    for (struct bmig_volume_op *op = volume->changes; op;) {
        if (op->request && op->legs_out == secondary_bit) {
            bmig_volume_answer(op, op->status[volume->primary]);
            op = volume->changes; /* an answer may change the list */
        } else {
            op = op->next;
        }
    }
}

void bmig_mirror_give_up(struct bmig_mirror *mirror, int status, const char *text)
{
    if (mirror->state == BMIG_MIRROR_DEGRADED)
        return;
    set_error(mirror, status, text);
    bmig_mirror_set_state(mirror, BMIG_MIRROR_DEGRADED);
    bmig_timer_stop(&mirror->retry);
    bmig_timer_stop(&mirror->pace);
    fence(mirror);
    answer_abandoned(mirror);
}

static void retry_fired(struct bmig_timer *timer)
{
    struct bmig_mirror *mirror =
        (struct bmig_mirror *)((char *)timer - offsetof(struct bmig_mirror, retry));
    mirror->suspended = false;
    bmig_copy_restart(mirror);
    bmig_mirror_advance(mirror);
}

void bmig_mirror_trouble(struct bmig_mirror *mirror, const char *where, uint64_t offset, int status)
{
    char text[sizeof(mirror->error_text)];
    if (mirror->state == BMIG_MIRROR_DEGRADED || mirror->stopping)
        return;
    snprintf(text, sizeof(text), "%s: %s at byte %llu", where, bmig_strerror(-status),
             (unsigned long long)offset);
    bool hopeless = status == -ESHUTDOWN || status == -ETIMEDOUT || mirror->options.fail_fast;
    if (++mirror->failures >= BMIG_MAX_FAILURES || hopeless) {
        if (mirror->state != BMIG_MIRROR_SWITCHING)
            bmig_mirror_give_up(mirror, status, text);
        return;
    }
    set_error(mirror, status, text);
    mirror->suspended = true;
    bmig_timer_start(mirror->volume->loop, &mirror->retry,
                     min(BMIG_RETRY_NS << mirror->failures, UINT64_C(5000000000)));
}

/* ---- guest changes ---- */

bool bmig_mirror_before_change(struct bmig_mirror *mirror, uint64_t offset, uint64_t length,
                               uint64_t *leg_start, uint64_t *leg_end)
{
    struct bmig_region_map *map = &mirror->map;
    if (!mirror->legs_open)
        return false;
    uint64_t first = bmig_region_of(map, offset);
    uint64_t last = bmig_region_of(map, offset + length - 1);
    uint64_t first_clean = UINT64_MAX;
    uint64_t last_clean = 0;
    bmig_visits_taint(&mirror->visits, first, last);
    for (uint64_t region = first; region <= last; region++) {
        bmig_scout_touch(mirror, region);
        if (bmig_region_is_clean(map, region)) {
            first_clean = min(first_clean, region);
            last_clean = region;
        }
    }
    if (first_clean == UINT64_MAX)
        return false;
    /* Stale regions between clean ones get the bytes too: they do no harm, for a copy under way
     * there is tainted. */
    bmig_region_note_write(map, first_clean, last_clean);
    *leg_start = max(offset, bmig_region_start(map, first_clean));
    *leg_end = min(offset + length, bmig_region_end(map, last_clean));
    mirror->bytes_mirrored += *leg_end - *leg_start;
    return true;
}

bool bmig_mirror_is_clean(const struct bmig_mirror *mirror, uint64_t offset, uint64_t length)
{
    uint64_t last = bmig_region_of(&mirror->map, offset + length - 1);
    return mirror->legs_open &&
           bmig_region_next_stale(&mirror->map, bmig_region_of(&mirror->map, offset)) > last;
}

static void make_stale(struct bmig_mirror *mirror, uint64_t offset, uint64_t length)
{
    uint64_t last = bmig_region_of(&mirror->map, offset + length - 1);
    for (uint64_t region = bmig_region_of(&mirror->map, offset); region <= last; region++)
        bmig_region_set_stale(&mirror->map, region);
}

/* What was sent since the last good flush may be lost, the first half of a copy under way too. */
static void flush_failed(struct bmig_mirror *mirror)
{
    bmig_region_flush_end(&mirror->map, false);
    bmig_visits_taint(&mirror->visits, 0, mirror->map.count - 1);
}

void bmig_mirror_after_change(struct bmig_mirror *mirror, const struct bmig_volume_op *op,
                              int primary_status, int secondary_status)
{
    if (primary_status == 0 && secondary_status == 0)
        return;
    if (op->op == BMIG_FLUSH)
        flush_failed(mirror);
    else
        make_stale(mirror, op->offset, op->length);
    if (secondary_status != 0)
        bmig_mirror_trouble(mirror, "target", op->offset, secondary_status);
    bmig_mirror_advance(mirror);
}

void bmig_mirror_leg_returned(struct bmig_mirror *mirror)
{
    bmig_loop_defer(mirror->volume->loop, &mirror->task);
}

/* ---- flush ---- */

static void flushed(struct bmig_request *request, int status)
{
    struct bmig_mirror *mirror = request->user;
    bool for_prepare = mirror->flush_for_prepare;
    mirror->busy--;
    mirror->flushing = false;
    mirror->flush_for_prepare = false;
    if (status == 0)
        bmig_region_flush_end(&mirror->map, true);
    else
        flush_failed(mirror);
    if (status != 0) {
        mirror->flushed = false;
        bmig_mirror_trouble(mirror, "target", 0, status);
    }
    if (for_prepare)
        bmig_switch_flushed(mirror, status);
    else
        bmig_switch_op_ended(mirror);
    bmig_mirror_advance(mirror);
}

/* A flush promises nothing of what is still under way when it begins. */
static void note_under_way(struct bmig_mirror *mirror)
{
    const struct bmig_volume *volume = mirror->volume;
    struct bmig_region_map *map = &mirror->map;
    for (const struct bmig_volume_op *op = volume->changes; op; op = op->next)
        if (op->legs_out & 1 << (1 - volume->primary) && op->length)
            bmig_region_note_write(map, bmig_region_of(map, op->offset),
                                   bmig_region_of(map, op->offset + op->length - 1));
    for (const struct bmig_visit *visit = mirror->visits.head; visit; visit = visit->next)
        bmig_region_set_unflushed(map, visit->first, visit->first + visit->count - 1);
}

void bmig_mirror_flush(struct bmig_mirror *mirror)
{
    if (mirror->flushing || mirror->fencing)
        return;
    bmig_region_flush_begin(&mirror->map);
    note_under_way(mirror);
    mirror->flushing = true;
    mirror->flush_began_ns = bmig_loop_now_ns(mirror->volume->loop);
    mirror->flushed = mirror->copier.ops_out == 0;
    mirror->unflushed_bytes = 0;
    mirror->busy++;
    mirror->flush = (struct bmig_request){.op = BMIG_FLUSH, .done = flushed, .user = mirror};
    bmig_disk_submit(bmig_secondary(mirror), &mirror->flush);
}

/* ---- progress ---- */

static void advance_verify(struct bmig_mirror *mirror)
{
    struct bmig_verifier *verifier = &mirror->verifier;
    if (mirror->map.stale_count == 0 && (verifier->todo_count || !bmig_verify_idle(mirror))) {
        bmig_verify_pump(mirror);
        return;
    }
    if (!bmig_verify_idle(mirror))
        return;
    if (verifier->differed && !verifier->only &&
        ++verifier->rounds_with_differences >= BMIG_MAX_DIFFERENCES) {
        bmig_mirror_give_up(mirror, -EIO, "target: does not keep what is written to it");
        return;
    }
    if (mirror->map.stale_count) {
        bmig_mirror_set_state(mirror, BMIG_MIRROR_COPYING);
        bmig_copy_restart(mirror);
        bmig_copy_pump(mirror);
        return;
    }
    mirror->verified = true;
    bmig_mirror_set_state(mirror, BMIG_MIRROR_SYNCED);
}

static void advance_copy(struct bmig_mirror *mirror)
{
    if (mirror->map.stale_count || mirror->copier.ops_out || mirror->scout.busy) {
        bmig_copy_pump(mirror);
        return;
    }
    if (mirror->suspended || mirror->flushing)
        return;
    if (!mirror->flushed) {
        bmig_mirror_flush(mirror);
        return;
    }
    if (mirror->verifier.todo && mirror->verifier.todo_count) {
        bmig_mirror_set_state(mirror, BMIG_MIRROR_VERIFYING);
        bmig_verify_begin(mirror);
        bmig_verify_pump(mirror);
        return;
    }
    bmig_mirror_set_state(mirror, BMIG_MIRROR_SYNCED);
}

void bmig_mirror_advance(struct bmig_mirror *mirror)
{
    if (mirror->stopping) {
        bmig_loop_defer(mirror->volume->loop, &mirror->task);
        return;
    }
    if (mirror->state == BMIG_MIRROR_SYNCED && mirror->map.stale_count) {
        mirror->verified = false;
        bmig_mirror_set_state(mirror, BMIG_MIRROR_COPYING);
        bmig_copy_restart(mirror);
    }
    if (mirror->state == BMIG_MIRROR_COPYING)
        advance_copy(mirror);
    else if (mirror->state == BMIG_MIRROR_VERIFYING)
        advance_verify(mirror);
}

/* ---- the tick ---- */

static uint64_t stale_bytes(const struct bmig_mirror *mirror)
{
    return min(mirror->map.stale_count << mirror->map.shift, mirror->map.size_bytes);
}

static uint64_t todo_bytes(const struct bmig_mirror *mirror)
{
    return min(mirror->verifier.todo_count << mirror->map.shift, mirror->map.size_bytes);
}

static uint64_t bytes_done(const struct bmig_mirror *mirror)
{
    uint64_t left =
        mirror->state == BMIG_MIRROR_VERIFYING ? todo_bytes(mirror) : stale_bytes(mirror);
    return mirror->map.size_bytes - left;
}

static void measure_rate(struct bmig_mirror *mirror, uint64_t now_ns)
{
    uint64_t done = bytes_done(mirror);
    if (mirror->rate_since_ns == 0) {
        mirror->rate_since_ns = now_ns;
        mirror->rate_base = done;
        return;
    }
    uint64_t elapsed_ns = now_ns - mirror->rate_since_ns;
    if (elapsed_ns < UINT64_C(500000000))
        return;
    uint64_t moved = done > mirror->rate_base ? done - mirror->rate_base : 0;
    uint64_t rate = (uint64_t)((double)moved * 1e9 / (double)elapsed_ns);
    mirror->rate_bytes_per_s =
        mirror->rate_bytes_per_s ? (mirror->rate_bytes_per_s + rate) / 2 : rate;
    mirror->rate_since_ns = now_ns;
    mirror->rate_base = done;
}

static bool older(uint64_t began_ns, uint64_t now_ns, uint64_t bound_ns)
{
    return now_ns > began_ns && now_ns - began_ns > bound_ns;
}

/* Whether something of the mirror's own takes too long: a visit for which the guest waits no longer
 * than a leg may. */
static bool own_work_is_late(const struct bmig_mirror *mirror, uint64_t now_ns)
{
    uint64_t bound_ns = mirror->options.leg_timeout_ns;
    uint64_t long_ns = max(BMIG_COPY_TIMEOUT_NS, bound_ns);
    bool guest_waits = mirror->volume->lock.waiting_count;
    for (const struct bmig_visit *visit = mirror->visits.head; visit; visit = visit->next)
        if (visit->going &&
            older(visit->began_ns, now_ns, visit->holds && guest_waits ? bound_ns : long_ns))
            return true;
    return (mirror->flushing && older(mirror->flush_began_ns, now_ns, long_ns)) ||
           (mirror->verifier.looking && older(mirror->verifier.look_began_ns, now_ns, long_ns));
}

/* A secondary that does not answer within the bound is given up. In doubt nothing is decided: the
 * changes wait for the record; but as long as the record has not been asked for, there is no doubt.
 */
static void check_legs(struct bmig_mirror *mirror, uint64_t now_ns)
{
    struct bmig_volume *volume = mirror->volume;
    uint8_t secondary_bit = (uint8_t)(1 << (1 - volume->primary));
    uint64_t bound_ns = mirror->options.leg_timeout_ns;
    bool late = false;
    if ((volume->in_doubt && !mirror->preparing) || mirror->state == BMIG_MIRROR_DEGRADED)
        return;
    for (const struct bmig_volume_op *op = volume->changes; op && !late; op = op->next)
        late = op->request && op->legs_out & secondary_bit && now_ns - op->started_ns > bound_ns;
    bool own_late = own_work_is_late(mirror, now_ns);
    if ((late || own_late) && mirror->preparing)
        bmig_switch_prepare_fails(mirror, -ETIMEDOUT);
    if (late)
        bmig_mirror_give_up(mirror, -ETIMEDOUT,
                            "target: a guest write got no answer within the bound");
    else if (own_late)
        bmig_mirror_give_up(mirror, -ETIMEDOUT, "the copy got no answer within its bound");
}

static void tick_fired(struct bmig_timer *timer)
{
    struct bmig_mirror *mirror =
        (struct bmig_mirror *)((char *)timer - offsetof(struct bmig_mirror, tick));
    struct bmig_volume *volume = mirror->volume;
    uint64_t now_ns = bmig_loop_now_ns(volume->loop);
    bmig_throttle_tick(&mirror->throttle, &volume->interval, BMIG_TICK_NS);
    bmig_histogram_merge(&mirror->during, &volume->interval);
    bmig_histogram_reset(&volume->interval);
    measure_rate(mirror, now_ns);
    check_legs(mirror, now_ns);
    bmig_timer_start(volume->loop, &mirror->tick, BMIG_TICK_NS);
    bmig_mirror_advance(mirror);
}

/* ---- the end ---- */

static bool secondary_in_use(const struct bmig_mirror *mirror)
{
    const struct bmig_volume *volume = mirror->volume;
    uint8_t secondary_bit = (uint8_t)(1 << (1 - volume->primary));
    for (const struct bmig_volume_op *op = volume->changes; op; op = op->next)
        if (op->legs_out & secondary_bit)
            return true;
    return mirror->busy || volume->old_count;
}

static void mirror_free(struct bmig_mirror *mirror)
{
    struct bmig_volume *volume = mirror->volume;
    void (*done)(void *) = mirror->stop_done;
    void *user = mirror->stop_user;
    bmig_timer_stop(&mirror->tick);
    bmig_timer_stop(&mirror->pace);
    bmig_timer_stop(&mirror->retry);
    volume->replicas[1 - volume->primary] = NULL;
    volume->mirror = NULL;
    volume->dead_legs = 0;
    bmig_copy_fini(mirror);
    bmig_verify_fini(mirror);
    bmig_scout_fini(mirror);
    bmig_region_map_fini(&mirror->map);
    free(mirror);
    if (done)
        done(user);
}

/* A stop drains first, so that a replica which is kept is as a disk would be after a clean detach;
 * then fences. */
static void stop_go_on(struct bmig_mirror *mirror)
{
    if (mirror->fenced && !secondary_in_use(mirror)) {
        mirror_free(mirror);
        return;
    }
    if (mirror->fencing || secondary_in_use(mirror))
        return;
    if (!mirror->verifier.only && !mirror->stop_flushed) {
        mirror->stop_flushed = true;
        bmig_mirror_flush(mirror);
        return;
    }
    fence(mirror);
}

static void run_task(struct bmig_task *task)
{
    struct bmig_mirror *mirror =
        (struct bmig_mirror *)((char *)task - offsetof(struct bmig_mirror, task));
    enum bmig_mirror_state events[BMIG_EVENTS_MAX];
    uint32_t count = mirror->event_count;
    memcpy(events, mirror->events, count * sizeof(events[0]));
    mirror->event_count = 0;
    for (uint32_t i = 0; i < count && mirror->event; i++)
        mirror->event(mirror->user, events[i]);
    if (mirror->stopping && !mirror->task.queued)
        stop_go_on(mirror);
}

int bmig_mirror_stop(struct bmig_volume *volume, void (*done)(void *user), void *user)
{
    struct bmig_mirror *mirror = volume->mirror;
    if (!mirror || mirror->stopping || mirror->state == BMIG_MIRROR_SWITCHING)
        return -EBUSY;
    mirror->stopping = true;
    mirror->legs_open = false;
    mirror->stop_done = done;
    mirror->stop_user = user;
    bmig_timer_stop(&mirror->pace);
    bmig_timer_stop(&mirror->retry);
    bmig_loop_defer(volume->loop, &mirror->task);
    return 0;
}

/* ---- the beginning ---- */

static int check_start(const struct bmig_volume *volume, const struct bmig_disk *secondary,
                       bool compare_only, struct bmig_error *err)
{
    if (volume->mirror)
        return bmig_error_set(err, BMIG_REFUSED, EBUSY, "volume '%s' has a second replica already",
                              volume->name);
    if (secondary->size_bytes < volume->size_bytes)
        return bmig_error_set(err, BMIG_REFUSED, EINVAL,
                              "%s: has %llu bytes, fewer than the volume's %llu", secondary->name,
                              (unsigned long long)secondary->size_bytes,
                              (unsigned long long)volume->size_bytes);
    if (!compare_only && !(secondary->caps & BMIG_CAP_WRITE))
        return bmig_error_set(err, BMIG_REFUSED, EROFS, "%s: is read-only", secondary->name);
    return 0;
}

static int start(struct bmig_volume *volume, struct bmig_disk *secondary,
                 const struct bmig_mirror_options *options, bool compare_only,
                 bmig_mirror_event *event, void *user, struct bmig_error *err)
{
    int status = check_start(volume, secondary, compare_only, err);
    if (status != 0)
        return status;
    struct bmig_mirror *mirror = calloc(1, sizeof(*mirror));
    if (!mirror)
        return bmig_error_set(err, BMIG_FAILED, ENOMEM, "mirror: out of memory");
    mirror->volume = volume;
    mirror->options = *options;
    if (mirror->options.leg_timeout_ns == 0)
        mirror->options.leg_timeout_ns = BMIG_LEG_TIMEOUT_NS;
    mirror->event = event;
    mirror->user = user;
    mirror->tick.fire = tick_fired;
    mirror->pace.fire = pace_fired;
    mirror->retry.fire = retry_fired;
    mirror->task.run = run_task;
    mirror->secondary_known_zero = secondary->known_zero && !compare_only;
    mirror->legs_open = true;
    mirror->flushed = compare_only;
    volume->replicas[1 - volume->primary] = secondary;
    status = bmig_region_map_init(&mirror->map, volume->size_bytes, compare_only);
    if (status == 0) {
        volume->mirror = mirror; /* bmig_primary() and bmig_secondary() hold from here */
        status = bmig_scout_init(mirror);
    }
    if (status == 0 && (options->verify || compare_only))
        status = bmig_verify_init(mirror, compare_only);
    if (status != 0) {
        bmig_scout_fini(mirror);
        bmig_region_map_fini(&mirror->map);
        volume->mirror = NULL;
        volume->replicas[1 - volume->primary] = NULL;
        free(mirror);
        return bmig_error_set(err, BMIG_FAILED, -status, "mirror: out of memory");
    }
    for (unsigned i = 0; i < RECENT_COUNT; i++)
        bmig_histogram_merge(&mirror->before, &volume->recent[i]);
    bmig_histogram_reset(&volume->interval);
    bmig_throttle_init(&mirror->throttle, options->bandwidth_bytes_per_s, options->max_latency_ns,
                       &mirror->before, bmig_loop_now_ns(volume->loop));
    bmig_timer_start(volume->loop, &mirror->tick, BMIG_TICK_NS);
    bmig_mirror_set_state(mirror, compare_only ? BMIG_MIRROR_VERIFYING : BMIG_MIRROR_COPYING);
    bmig_mirror_advance(mirror);
    return 0;
}

int bmig_mirror_start(struct bmig_volume *volume, struct bmig_disk *secondary,
                      const struct bmig_mirror_options *options, bmig_mirror_event *event,
                      void *user, struct bmig_error *err)
{
    return start(volume, secondary, options, false, event, user, err);
}

int bmig_mirror_start_compare(struct bmig_volume *volume, struct bmig_disk *secondary,
                              const struct bmig_mirror_options *options, bmig_mirror_event *event,
                              void *user, struct bmig_error *err)
{
    return start(volume, secondary, options, true, event, user, err);
}

void bmig_mirror_set(struct bmig_volume *volume, uint64_t bandwidth_bytes_per_s,
                     uint64_t max_latency_ns)
{
    struct bmig_mirror *mirror = volume->mirror;
    if (!mirror)
        return;
    mirror->options.bandwidth_bytes_per_s = bandwidth_bytes_per_s;
    mirror->options.max_latency_ns = max_latency_ns;
    bmig_throttle_init(&mirror->throttle, bandwidth_bytes_per_s, max_latency_ns, &mirror->before,
                       bmig_loop_now_ns(volume->loop));
    bmig_timer_stop(&mirror->pace);
    bmig_mirror_advance(mirror);
}

void bmig_mirror_pause(struct bmig_volume *volume, bool paused)
{
    struct bmig_mirror *mirror = volume->mirror;
    if (!mirror)
        return;
    mirror->options.paused = paused;
    bmig_mirror_advance(mirror);
}

static void latency_stats(struct bmig_mirror_stats *stats, const struct bmig_histogram *before,
                          const struct bmig_histogram *during)
{
    stats->guest_p50_ns_before = bmig_histogram_percentile(before, 0.5);
    stats->guest_p99_ns_before = bmig_histogram_percentile(before, 0.99);
    stats->guest_p999_ns_before = bmig_histogram_percentile(before, 0.999);
    stats->guest_max_ns_before = before->max_ns;
    stats->guest_p50_ns = bmig_histogram_percentile(during, 0.5);
    stats->guest_p99_ns = bmig_histogram_percentile(during, 0.99);
    stats->guest_p999_ns = bmig_histogram_percentile(during, 0.999);
    stats->guest_max_ns = during->max_ns;
}

void bmig_mirror_stats(struct bmig_volume *volume, struct bmig_mirror_stats *stats)
{
    const struct bmig_mirror *mirror = volume->mirror;
    *stats = (struct bmig_mirror_stats){.bytes_total = volume->size_bytes, .eta_s = UINT64_MAX};
    if (!mirror)
        return;
    stats->state = mirror->state;
    stats->paused = mirror->options.paused;
    stats->bytes_done = bytes_done(mirror);
    stats->bytes_copied = mirror->bytes_copied;
    stats->bytes_recopied = mirror->bytes_recopied;
    stats->bytes_skipped = mirror->bytes_skipped;
    stats->bytes_mirrored = mirror->bytes_mirrored;
    stats->bytes_verified = mirror->bytes_verified;
    stats->bytes_different = mirror->bytes_different;
    stats->bytes_stale = stale_bytes(mirror);
    stats->rate_bytes_per_s = mirror->rate_bytes_per_s;
    if (mirror->rate_bytes_per_s)
        stats->eta_s = (stats->bytes_total - stats->bytes_done) / mirror->rate_bytes_per_s;
    struct bmig_histogram during = mirror->during;
    bmig_histogram_merge(&during, &volume->interval);
    latency_stats(stats, &mirror->before, &during);
    stats->switch_hold_ns = mirror->switch_hold_ns;
    stats->verified = mirror->verified;
    stats->error = mirror->error;
    memcpy(stats->error_text, mirror->error_text, sizeof(stats->error_text));
}

uint64_t bmig_mirror_first_difference(const struct bmig_volume *volume)
{
    return volume->mirror->verifier.first_difference;
}

struct bmig_disk *bmig_mirror_secondary(const struct bmig_volume *volume)
{
    return volume->mirror ? volume->replicas[1 - volume->primary] : NULL;
}
