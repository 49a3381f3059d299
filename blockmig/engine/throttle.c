/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The throttle: additive-multiplicative steps on a rate, and a credit that the rate refills.
 */
#include "blockmig/engine/throttle.h"

#define UNLIMITED UINT64_MAX
#define MIB       (UINT64_C(1) << 20)

enum {
    BOUND_MULTIPLE = 3,   /* of the p99 before */
    SAMPLES_ENOUGH = 100, /* of latencies before, to judge by */
    SAMPLES_ACTIVE = 3,   /* in one tick, for a guest to count as active */
    QUIET_TICKS = 5,      /* without it, until the limit goes */
    FLOOR_TICKS = 5,      /* at the floor and still beyond the bound, until the bound is at fault */
};
static const uint64_t floor_rate = 64 * MIB;
static const uint64_t start_rate = 96 * MIB;
static const uint64_t most_rate = 64 * 1024 * MIB;
static const uint64_t least_bound_ns = 400000;
static const uint64_t default_bound_ns = 4000000;

void bmig_throttle_init(struct bmig_throttle *throttle, uint64_t cap_bytes_per_s, uint64_t bound_ns,
                        const struct bmig_histogram *before, uint64_t now_ns)
{
    bool known = before && before->count >= SAMPLES_ENOUGH;
    bool bound_is_ours = bound_ns == 0;
    if (bound_ns == 0 && known)
        bound_ns = BOUND_MULTIPLE * bmig_histogram_percentile(before, 0.99);
    else if (bound_ns == 0)
        bound_ns = default_bound_ns;
    *throttle = (struct bmig_throttle){
        .bound_is_ours = bound_is_ours,
        .cap_bytes_per_s = cap_bytes_per_s,
        .bound_ns = bound_ns > least_bound_ns ? bound_ns : least_bound_ns,
        .rate_bytes_per_s = known ? start_rate : UNLIMITED,
        .guest_active = known,
        .last_ns = now_ns,
    };
}

static void guest_is_quiet(struct bmig_throttle *throttle)
{
    if (throttle->quiet_ticks < QUIET_TICKS)
        throttle->quiet_ticks++;
    if (throttle->rate_bytes_per_s != UNLIMITED)
        throttle->rate_bytes_per_s *= 2;
    if (throttle->quiet_ticks == QUIET_TICKS || throttle->rate_bytes_per_s > most_rate) {
        throttle->rate_bytes_per_s = UNLIMITED;
        throttle->guest_active = false;
    }
}

/* A mirrored write takes as long as the slower replica, however slow the copy: if the latency stays beyond the bound
 * at the floor, the copy is not what makes it so, and the bound becomes a little more than what it is there. A bound
 * that someone asked for is kept. */
static void learn_at_floor(struct bmig_throttle *throttle, uint64_t p99)
{
    if (throttle->rate_bytes_per_s > floor_rate || p99 <= throttle->bound_ns) {
        throttle->floor_ticks = 0;
        return;
    }
    if (throttle->floor_ticks == 0 || p99 > throttle->floor_p99_ns)
        throttle->floor_p99_ns = p99;
    if (++throttle->floor_ticks < FLOOR_TICKS || !throttle->bound_is_ours)
        return;
    throttle->floor_ticks = 0;
    throttle->bound_ns = throttle->floor_p99_ns / 4 * 5;
}

void bmig_throttle_tick(struct bmig_throttle *throttle, const struct bmig_histogram *latencies,
                        uint64_t tick_ns)
{
    uint64_t moved_rate = (uint64_t)((double)throttle->moved_bytes * 1e9 / (double)tick_ns);
    throttle->moved_bytes = 0;
    if (latencies->count < SAMPLES_ACTIVE) {
        guest_is_quiet(throttle);
        return;
    }
    throttle->guest_active = true;
    throttle->quiet_ticks = 0;
    uint64_t p99 = bmig_histogram_percentile(latencies, 0.99);
    learn_at_floor(throttle, p99);
    uint64_t rate = throttle->rate_bytes_per_s;
    if (rate == UNLIMITED)
        rate = moved_rate > start_rate ? moved_rate : start_rate;
    if (p99 > 4 * throttle->bound_ns)
        rate = (moved_rate < rate ? moved_rate : rate) / 2;
    else if (p99 > throttle->bound_ns)
        rate = (moved_rate < rate ? moved_rate : rate) / 4 * 3;
    else if (moved_rate > rate / 2) /* it was used: there is a point in more */
        rate += rate / 5;
    if (rate < floor_rate)
        rate = floor_rate;
    throttle->rate_bytes_per_s = rate < most_rate ? rate : most_rate;
}

uint64_t bmig_throttle_rate(const struct bmig_throttle *throttle)
{
    uint64_t cap = throttle->cap_bytes_per_s ? throttle->cap_bytes_per_s : UNLIMITED;
    return throttle->rate_bytes_per_s < cap ? throttle->rate_bytes_per_s : cap;
}

uint64_t bmig_throttle_take(struct bmig_throttle *throttle, uint64_t bytes, uint64_t now_ns)
{
    uint64_t rate = bmig_throttle_rate(throttle);
    if (rate == UNLIMITED) {
        throttle->last_ns = now_ns;
        throttle->credit_bytes = 0;
        throttle->moved_bytes += bytes;
        return 0;
    }
    uint64_t elapsed_ns = now_ns - throttle->last_ns;
    double earned = (double)rate * (double)elapsed_ns / 1e9;
    double most = (double)rate / 100; /* 10 ms of it saved up at most: no bursts after a pause */
    double credit = (double)throttle->credit_bytes + earned;
    throttle->credit_bytes = (int64_t)(credit < most ? credit : most);
    throttle->last_ns = now_ns;
    if (throttle->credit_bytes < 0) {
        uint64_t wait_ns = (uint64_t)((double)-throttle->credit_bytes * 1e9 / (double)rate);
        return wait_ns > 100000 ? wait_ns : 100000;
    }
    throttle->credit_bytes -= (int64_t)bytes;
    throttle->moved_bytes += bytes;
    return 0;
}
