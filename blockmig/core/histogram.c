/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The histogram: buckets linear within each power of two, over units of 64 ns.
 *
 * Below SUB units a bucket is one unit; from there each power of two has SUB buckets, so a bucket's
 * width is at most 1/SUB of its values. What exceeds the last bucket (73 minutes) is counted in it.
 */
#include "blockmig/core/histogram.h"

#include <math.h>
#include <string.h>

enum { UNIT_SHIFT = 6, SUB_SHIFT = 5 };

_Static_assert(1 << SUB_SHIFT == BMIG_HISTOGRAM_SUB, "one constant in two forms");

static uint32_t bucket_of(uint64_t latency_ns)
{
    uint64_t units = latency_ns >> UNIT_SHIFT;
    if (units < BMIG_HISTOGRAM_SUB)
        return (uint32_t)units;
    uint32_t group = 63 - (uint32_t)__builtin_clzll(units) - SUB_SHIFT;
    uint64_t bucket = (uint64_t)group * BMIG_HISTOGRAM_SUB + (units >> group);
    return bucket < BMIG_HISTOGRAM_BUCKETS ? (uint32_t)bucket : BMIG_HISTOGRAM_BUCKETS - 1;
}

/* The largest latency that falls into bucket. */
static uint64_t bucket_end_ns(uint32_t bucket)
{
    if (bucket < BMIG_HISTOGRAM_SUB)
        return (((uint64_t)bucket + 1) << UNIT_SHIFT) - 1;
    uint32_t group = bucket / BMIG_HISTOGRAM_SUB - 1;
    uint64_t sub = bucket % BMIG_HISTOGRAM_SUB + BMIG_HISTOGRAM_SUB;
    return ((sub + 1) << (group + UNIT_SHIFT)) - 1;
}

void bmig_histogram_reset(struct bmig_histogram *histogram)
{
    memset(histogram, 0, sizeof(*histogram));
}

void bmig_histogram_add(struct bmig_histogram *histogram, uint64_t latency_ns)
{
    histogram->count++;
    if (latency_ns > histogram->max_ns)
        histogram->max_ns = latency_ns;
    histogram->buckets[bucket_of(latency_ns)]++;
}

void bmig_histogram_merge(struct bmig_histogram *into, const struct bmig_histogram *from)
{
    into->count += from->count;
    if (from->max_ns > into->max_ns)
        into->max_ns = from->max_ns;
    for (uint32_t i = 0; i < BMIG_HISTOGRAM_BUCKETS; i++)
        into->buckets[i] += from->buckets[i];
}

uint64_t bmig_histogram_percentile(const struct bmig_histogram *histogram, double fraction)
{
    if (histogram->count == 0)
        return 0;
    double wanted = ceil(fraction * (double)histogram->count);
    uint64_t rank = wanted < 1 ? 1 : (uint64_t)wanted;
    uint64_t seen = 0;
    for (uint32_t i = 0; i < BMIG_HISTOGRAM_BUCKETS - 1; i++) {
        seen += histogram->buckets[i];
        if (seen >= rank) {
            uint64_t end_ns = bucket_end_ns(i);
            return end_ns < histogram->max_ns ? end_ns : histogram->max_ns;
        }
    }
    return histogram->max_ns;
}
