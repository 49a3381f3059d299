/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The region map: what is known of each region of a secondary replica.
 *
 *   clean      equal to the primary but for guest writes in flight; every guest write goes to both
 *   hot        stale, and a guest write hit it while it was copied: next time the copy insists
 *   written    something was sent to the secondary for it since the mirror began: it is not known
 * to be zero unflushed  changed on the secondary since its last good flush; two generations, so
 * that what changes while a flush is under way counts as after it
 *
 * A region is 64 KiB; on disks above 1 TiB as large as keeps a map at 2^24 regions, but 1 MiB at
 * most. Five bits a region. No allocation after init. Loop's thread only.
 */
#ifndef BLOCKMIG_ENGINE_REGION_MAP_H
#define BLOCKMIG_ENGINE_REGION_MAP_H

#include <stdbool.h>
#include <stdint.h>

struct bmig_region_map {
    uint32_t shift; /* log2 of a region's bytes */
    uint64_t size_bytes;
    uint64_t count;
    uint64_t stale_count;
    uint64_t *clean, *hot, *written;
    uint64_t
        *unflushed[2]; /* [0] the current generation, [1] the one that a flush under way covers */
};

/* All regions stale, or all clean. -ENOMEM. */
int bmig_region_map_init(struct bmig_region_map *map, uint64_t size_bytes, bool clean);
void bmig_region_map_fini(struct bmig_region_map *map);

/* log2 of the bytes of a region of a disk of size_bytes. */
uint32_t bmig_region_map_shift(uint64_t size_bytes);

/* The bytes that a map of a disk of size_bytes takes. */
uint64_t bmig_region_map_memory_bytes(uint64_t size_bytes);

static inline uint64_t bmig_region_of(const struct bmig_region_map *map, uint64_t offset)
{
    return offset >> map->shift;
}

static inline uint64_t bmig_region_start(const struct bmig_region_map *map, uint64_t region)
{
    return region << map->shift;
}

/* The byte after a region's last: the disk's end for the last region. */
uint64_t bmig_region_end(const struct bmig_region_map *map, uint64_t region);

bool bmig_region_is_clean(const struct bmig_region_map *map, uint64_t region);
bool bmig_region_is_hot(const struct bmig_region_map *map, uint64_t region);
bool bmig_region_is_written(const struct bmig_region_map *map, uint64_t region);

void bmig_region_set_clean(struct bmig_region_map *map, uint64_t region); /* and not hot */
void bmig_region_set_stale(struct bmig_region_map *map, uint64_t region);
void bmig_region_set_hot(struct bmig_region_map *map, uint64_t region);

/* Notes that [first, last] are being changed on the secondary: written and unflushed. */
void bmig_region_note_write(struct bmig_region_map *map, uint64_t first, uint64_t last);

/* Notes that [first, last] may be changing on the secondary: unflushed. */
void bmig_region_set_unflushed(struct bmig_region_map *map, uint64_t first, uint64_t last);

/* The first stale region at or after from, or count. */
uint64_t bmig_region_next_stale(const struct bmig_region_map *map, uint64_t from);

/* A flush of the secondary begins: what has changed so far is what it covers. One at a time. */
void bmig_region_flush_begin(struct bmig_region_map *map);

/* It ended. Good: what it covered is durable. Bad: every clean region that changed since the last
 * good flush is stale again; returns how many. */
uint64_t bmig_region_flush_end(struct bmig_region_map *map, bool good);

/* The secondary is another replica now, of which no flush is known. */
void bmig_region_all_unflushed(struct bmig_region_map *map);

#endif
