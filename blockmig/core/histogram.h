/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A histogram of latencies: counts in buckets of about 3 % width from 1 us to over an hour, so that any
 * percentile costs a walk of one small array and recording costs an increment.
 */
#ifndef BLOCKMIG_CORE_HISTOGRAM_H
#define BLOCKMIG_CORE_HISTOGRAM_H

#include <stdint.h>

enum { BMIG_HISTOGRAM_SUB = 32, BMIG_HISTOGRAM_BUCKETS = 32 * BMIG_HISTOGRAM_SUB };

struct bmig_histogram {
    uint64_t count;
    uint64_t max_ns;
    uint32_t buckets[BMIG_HISTOGRAM_BUCKETS];
};

void bmig_histogram_reset(struct bmig_histogram *histogram);
void bmig_histogram_add(struct bmig_histogram *histogram, uint64_t latency_ns);
/* into += from */
void bmig_histogram_merge(struct bmig_histogram *into, const struct bmig_histogram *from);
/* The latency in ns that `fraction` (0 to 1) of the recorded are at or below, from above by at most one
 * bucket and never more than max_ns; 0 where nothing was recorded. */
uint64_t bmig_histogram_percentile(const struct bmig_histogram *histogram, double fraction);

#endif
