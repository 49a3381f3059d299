/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The throttle: how many bytes a second the copy may move, so that the guest's p99 stays within a
 * bound.
 *
 * A controller, not a cap: each tick it looks at the guest's latencies since the last and takes
 * more where they allow it, less where they don't. With no guest I/O there is no limit. A cap,
 * where one is set, holds on top. The rate never falls below a floor, so the copy always ends.
 * Loop's thread only; time is the caller's.
 */
#ifndef BLOCKMIG_ENGINE_THROTTLE_H
#define BLOCKMIG_ENGINE_THROTTLE_H

#include <stdbool.h>
#include <stdint.h>

#include "blockmig/core/histogram.h"

struct bmig_throttle {
    uint64_t cap_bytes_per_s;  /* 0: none */
    uint64_t bound_ns;         /* of the guest's p99 */
    uint64_t rate_bytes_per_s; /* UINT64_MAX: no limit */
    uint64_t moved_bytes;      /* since the last tick */
    int64_t credit_bytes;      /* may be overdrawn by one piece */
    uint64_t last_ns;
    uint32_t quiet_ticks;
    uint32_t floor_ticks;
    uint64_t floor_p99_ns; /* the worst of those */
    bool bound_is_ours;    /* nobody asked for it */
    bool guest_active;
};

/* bound_ns 0: a multiple of before's p99 (or a constant where before knows too little). */
void bmig_throttle_init(struct bmig_throttle *throttle, uint64_t cap_bytes_per_s, uint64_t bound_ns,
                        const struct bmig_histogram *before, uint64_t now_ns);

/* A tick: latencies are those of the guest since the last one, tick_ns ago. */
void bmig_throttle_tick(struct bmig_throttle *throttle, const struct bmig_histogram *latencies,
                        uint64_t tick_ns);

/* Takes bytes off the credit and returns 0, or returns the ns after which to ask again. */
uint64_t bmig_throttle_take(struct bmig_throttle *throttle, uint64_t bytes, uint64_t now_ns);

/* The rate in force, cap included; UINT64_MAX: none. */
uint64_t bmig_throttle_rate(const struct bmig_throttle *throttle);

#endif
