/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The region map: five bitmaps side by side, worked on a word at a time.
 */
#include "blockmig/engine/region_map.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MIN_SHIFT = 16, MAX_SHIFT = 20, MAX_REGIONS_LOG2 = 24, BITMAPS = 5 };

uint32_t bmig_region_map_shift(uint64_t size_bytes)
{
    uint32_t shift = MIN_SHIFT;
    while (shift < MAX_SHIFT && (size_bytes >> shift) > (UINT64_C(1) << MAX_REGIONS_LOG2))
        shift++;
    return shift;
}

static uint64_t words_for(uint64_t regions)
{
    return (regions + 63) / 64;
}

static bool get(const uint64_t *bits, uint64_t i)
{
    return bits[i / 64] >> (i % 64) & 1;
}

static void set(uint64_t *bits, uint64_t i)
{
    bits[i / 64] |= UINT64_C(1) << (i % 64);
}

static void clear(uint64_t *bits, uint64_t i)
{
    bits[i / 64] &= ~(UINT64_C(1) << (i % 64));
}

int bmig_region_map_init(struct bmig_region_map *map, uint64_t size_bytes, bool clean)
{
    assert(size_bytes > 0);
    uint32_t shift = bmig_region_map_shift(size_bytes);
    uint64_t count = (size_bytes + (UINT64_C(1) << shift) - 1) >> shift;
    uint64_t words = words_for(count);
    uint64_t *bits = calloc(words * BITMAPS, sizeof(uint64_t));
    if (!bits)
        return -ENOMEM;
    *map = (struct bmig_region_map){
        .shift = shift,
        .size_bytes = size_bytes,
        .count = count,
        .stale_count = clean ? 0 : count,
        .clean = bits,
        .hot = bits + words,
        .written = bits + 2 * words,
        .unflushed = {bits + 3 * words, bits + 4 * words},
    };
    if (clean)
        memset(map->clean, 0xff, words * sizeof(uint64_t));
    return 0;
}

void bmig_region_map_fini(struct bmig_region_map *map)
{
    free(map->clean);
    *map = (struct bmig_region_map){0};
}

uint64_t bmig_region_map_memory_bytes(uint64_t size_bytes)
{
    uint32_t shift = bmig_region_map_shift(size_bytes);
    return words_for((size_bytes >> shift) + 1) * BITMAPS * sizeof(uint64_t);
}

uint64_t bmig_region_end(const struct bmig_region_map *map, uint64_t region)
{
    uint64_t end = (region + 1) << map->shift;
    return end < map->size_bytes ? end : map->size_bytes;
}

bool bmig_region_is_clean(const struct bmig_region_map *map, uint64_t region)
{
    return get(map->clean, region);
}

bool bmig_region_is_hot(const struct bmig_region_map *map, uint64_t region)
{
    return get(map->hot, region);
}

bool bmig_region_is_written(const struct bmig_region_map *map, uint64_t region)
{
    return get(map->written, region);
}

void bmig_region_set_clean(struct bmig_region_map *map, uint64_t region)
{
    if (!get(map->clean, region)) {
        set(map->clean, region);
        map->stale_count--;
    }
    clear(map->hot, region);
}

void bmig_region_set_stale(struct bmig_region_map *map, uint64_t region)
{
    if (get(map->clean, region)) {
        clear(map->clean, region);
        map->stale_count++;
    }
}

void bmig_region_set_hot(struct bmig_region_map *map, uint64_t region)
{
    set(map->hot, region);
}

void bmig_region_note_write(struct bmig_region_map *map, uint64_t first, uint64_t last)
{
    for (uint64_t region = first; region <= last; region++) {
        set(map->written, region);
        set(map->unflushed[0], region);
    }
}

void bmig_region_set_unflushed(struct bmig_region_map *map, uint64_t first, uint64_t last)
{
    for (uint64_t region = first; region <= last; region++)
        set(map->unflushed[0], region);
}

uint64_t bmig_region_next_stale(const struct bmig_region_map *map, uint64_t from)
{
    if (map->stale_count == 0)
        return map->count;
    for (uint64_t word = from / 64; word < words_for(map->count); word++) {
        uint64_t stale = ~map->clean[word];
        if (word == from / 64)
            stale &= ~UINT64_C(0) << (from % 64);
        if (stale) {
            uint64_t region = word * 64 + (uint64_t)__builtin_ctzll(stale);
            return region < map->count ? region : map->count;
        }
    }
    return map->count;
}

void bmig_region_flush_begin(struct bmig_region_map *map)
{
    uint64_t words = words_for(map->count);
    for (uint64_t word = 0; word < words; word++)
        map->unflushed[1][word] |= map->unflushed[0][word];
    memset(map->unflushed[0], 0, words * sizeof(uint64_t));
}

uint64_t bmig_region_flush_end(struct bmig_region_map *map, bool good)
{
    uint64_t words = words_for(map->count);
    uint64_t turned = 0;
    for (uint64_t word = 0; !good && word < words; word++) {
        uint64_t lost = map->clean[word] & (map->unflushed[0][word] | map->unflushed[1][word]);
        if (word == words - 1 && map->count % 64)
            lost &= ~(~UINT64_C(0) << (map->count % 64));
        map->clean[word] &= ~lost;
        turned += (uint64_t)__builtin_popcountll(lost);
        map->unflushed[0][word] = 0;
    }
    memset(map->unflushed[1], 0, words * sizeof(uint64_t));
    map->stale_count += turned;
    return turned;
}

void bmig_region_all_unflushed(struct bmig_region_map *map)
{
    memset(map->unflushed[0], 0xff, words_for(map->count) * sizeof(uint64_t));
}
