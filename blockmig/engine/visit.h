/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Visits: regions being copied or compared in the act. A guest write does not wait for one; it
 * taints the regions that it hits, and what was learnt of a tainted region is not believed. Loop's
 * thread only.
 */
#ifndef BLOCKMIG_ENGINE_VISIT_H
#define BLOCKMIG_ENGINE_VISIT_H

#include <stdbool.h>
#include <stdint.h>

enum { BMIG_VISIT_MAX_REGIONS = 64 };

struct bmig_visit {
    uint64_t first; /* region */
    uint32_t count;
    uint64_t tainted; /* bit i: region first + i */
    bool holds;       /* the guest's writes to it wait for its end */
    bool going;       /* its reads or writes are out; since began_ns */
    uint64_t began_ns;
    struct bmig_visit *next, *prev;
};

struct bmig_visits {
    struct bmig_visit *head;
};

void bmig_visit_begin(struct bmig_visits *visits, struct bmig_visit *visit, uint64_t first,
                      uint32_t count);
void bmig_visit_end(struct bmig_visits *visits, struct bmig_visit *visit);

/* Its first request goes out. What was written while it waited for its range is no taint. */
void bmig_visit_go(struct bmig_visit *visit, uint64_t now_ns);

/* A guest write goes out to regions [first, last]. */
void bmig_visits_taint(struct bmig_visits *visits, uint64_t first, uint64_t last);

static inline bool bmig_visit_is_tainted(const struct bmig_visit *visit, uint64_t region)
{
    return visit->tainted >> (region - visit->first) & 1;
}

#endif
