/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Extents: what a range of an image holds, data or zeroes, and whether it takes up room.
 */
#ifndef BLOCKMIG_CORE_EXTENTS_H
#define BLOCKMIG_CORE_EXTENTS_H

#include <stdint.h>

enum bmig_extent_flags {
    BMIG_EXTENT_DATA = 0,
    BMIG_EXTENT_HOLE = 1, /* no room is allocated for it */
    BMIG_EXTENT_ZERO = 2, /* reads as zeroes */
};

struct bmig_extent {
    uint64_t length_bytes;
    uint32_t flags;
};

/* The answer to an EXTENTS request, in the caller's array: the first begins at the request's offset,
 * each begins where the one before ends. Their sum may fall short of the request (the caller asks again
 * from there) but is never 0 on success and never beyond the request's end. Neighbours with equal flags
 * are merged by bmig_extents_add. */
struct bmig_extents {
    struct bmig_extent *list;
    uint32_t count;
    uint32_t capacity; /* at least 1 */
};

/* Appends; returns 0, or 1 if there was no room (the answer ends before it). */
int bmig_extents_add(struct bmig_extents *extents, uint64_t length_bytes, uint32_t flags);

#endif
