/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The scout: asks the primary for its holes and zeroes ahead of the copy, so that thin stays thin.
 *
 * The answer is about a moment; a guest write that goes out while it is made, or after, makes its
 * regions data. Where the secondary is known to be zero, a zero region is clean without a byte
 * moved.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/engine/mirror_internal.h"

int bmig_scout_init(struct bmig_mirror *mirror)
{
    struct bmig_scout *scout = &mirror->scout;
    uint64_t most = mirror->map.count < BMIG_SCOUT_REGIONS ? mirror->map.count : BMIG_SCOUT_REGIONS;
    uint64_t words = (most + 63) / 64;
    scout->wanted = bmig_primary(mirror)->caps & BMIG_CAP_EXTENTS;
    if (!scout->wanted)
        return 0;
    scout->zero = calloc(words * 2, sizeof(uint64_t));
    scout->touched = scout->zero ? scout->zero + words : NULL;
    scout->extents.capacity = BMIG_SCOUT_EXTENTS;
    scout->extents.list = calloc(BMIG_SCOUT_EXTENTS, sizeof(struct bmig_extent));
    if (scout->zero && scout->extents.list)
        return 0;
    bmig_scout_fini(mirror);
    return -ENOMEM;
}

void bmig_scout_fini(struct bmig_mirror *mirror)
{
    free(mirror->scout.zero);
    free(mirror->scout.extents.list);
    mirror->scout.zero = NULL;
    mirror->scout.extents.list = NULL;
}

bool bmig_scout_zero(const struct bmig_mirror *mirror, uint64_t region)
{
    const struct bmig_scout *scout = &mirror->scout;
    if (region < scout->first || region >= scout->end)
        return false;
    uint64_t i = region - scout->first;
    return scout->zero[i / 64] >> (i % 64) & 1;
}

void bmig_scout_touch(struct bmig_mirror *mirror, uint64_t region)
{
    struct bmig_scout *scout = &mirror->scout;
    if (region < scout->first || region >= scout->end)
        return;
    uint64_t i = region - scout->first;
    scout->zero[i / 64] &= ~(UINT64_C(1) << (i % 64));
    scout->touched[i / 64] |= UINT64_C(1) << (i % 64);
}

/* A region that lies wholly in zeroes. */
static void region_is_zero(struct bmig_mirror *mirror, uint64_t region)
{
    struct bmig_scout *scout = &mirror->scout;
    struct bmig_region_map *map = &mirror->map;
    uint64_t i = region - scout->first;
    if (scout->touched[i / 64] >> (i % 64) & 1 || bmig_region_is_clean(map, region))
        return;
    if (mirror->secondary_known_zero && !bmig_region_is_written(map, region)) {
        bmig_region_set_clean(map, region);
        mirror->bytes_skipped += bmig_region_end(map, region) - bmig_region_start(map, region);
        return;
    }
    scout->zero[i / 64] |= UINT64_C(1) << (i % 64);
}

static void digest(struct bmig_mirror *mirror)
{
    struct bmig_scout *scout = &mirror->scout;
    struct bmig_region_map *map = &mirror->map;
    uint64_t at = bmig_region_start(map, scout->first);
    uint64_t zero_from = UINT64_MAX; /* start of the zeroes that reach up to at */
    uint64_t next = scout->first;    /* the region to judge next */
    for (uint32_t i = 0; i < scout->extents.count; i++) {
        const struct bmig_extent *extent = &scout->extents.list[i];
        bool zero = extent->flags & BMIG_EXTENT_ZERO;
        if (zero && zero_from == UINT64_MAX)
            zero_from = at;
        at += extent->length_bytes;
        if (!zero) {
            zero_from = UINT64_MAX;
            next = at >= map->size_bytes ? map->count : bmig_region_of(map, at);
            continue;
        }
        for (; next < scout->end && bmig_region_end(map, next) <= at; next++)
            if (bmig_region_start(map, next) >= zero_from)
                region_is_zero(mirror, next);
    }
    /* What the answer did not reach is not known: ask again from there. A region at its edge counts
     * as data. */
    uint64_t known = at >= map->size_bytes ? map->count : bmig_region_of(map, at);
    if (known <= scout->first)
        known = scout->first + 1;
    if (known < scout->end)
        scout->end = known;
}

static void looked(struct bmig_request *request, int status)
{
    struct bmig_mirror *mirror = request->user;
    struct bmig_scout *scout = &mirror->scout;
    scout->busy = false;
    mirror->busy--;
    if (status == 0)
        digest(mirror);
    else
        scout->wanted = false; /* everything is data, then */
    bmig_mirror_advance(mirror);
}

void bmig_scout_look(struct bmig_mirror *mirror, uint64_t region)
{
    struct bmig_scout *scout = &mirror->scout;
    struct bmig_region_map *map = &mirror->map;
    uint64_t left = map->count - region;
    assert(!scout->busy && region < map->count);
    scout->first = region;
    scout->end = region + (left < BMIG_SCOUT_REGIONS ? left : BMIG_SCOUT_REGIONS);
    uint64_t most = map->count < BMIG_SCOUT_REGIONS ? map->count : BMIG_SCOUT_REGIONS;
    memset(scout->zero, 0, (most + 63) / 64 * 2 * sizeof(uint64_t));
    const struct bmig_range *range = mirror->volume->lock.head;
    for (; range; range = range->next) {
        if (!range->held)
            continue;
        uint64_t last = bmig_region_of(map, range->end - 1);
        for (uint64_t i = bmig_region_of(map, range->start); i <= last; i++)
            bmig_scout_touch(mirror, i);
    }
    uint64_t start = bmig_region_start(map, region);
    scout->request = (struct bmig_request){
        .op = BMIG_EXTENTS,
        .offset = start,
        .length = bmig_region_end(map, scout->end - 1) - start,
        .extents = &scout->extents,
        .done = looked,
        .user = mirror,
    };
    scout->busy = true;
    mirror->busy++;
    bmig_disk_submit(bmig_primary(mirror), &scout->request);
}
