/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Where a file's data lies, by SEEK_DATA and SEEK_HOLE.
 *
 * A file system that doesn't know, and a block device, hold data all over. Edges that are no
 * block's (the end of a file of odd size) are moved outwards: data grows, holes shrink.
 */
#include <errno.h>
#include <unistd.h>

#include "backends/local_internal.h"

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

int bmig_local_find_extents(int fd, uint32_t block_bytes, const struct bmig_request *request)
{
    uint64_t position = request->offset;
    uint64_t end = request->offset + request->length;
    struct bmig_extents *extents = request->extents;
    const uint32_t hole_flags = BMIG_EXTENT_HOLE | BMIG_EXTENT_ZERO;

    while (position < end) {
        off_t found = lseek(fd, (off_t)position, SEEK_DATA);
        if (found < 0 && errno == ENXIO) { /* no more data up to the file's end */
            bmig_extents_add(extents, end - position, hole_flags);
            return 0;
        }
        if (found < 0) {
            bmig_extents_add(extents, end - position, BMIG_EXTENT_DATA);
            return 0;
        }
        uint64_t data = (uint64_t)found - (uint64_t)found % block_bytes;
        data = data < position ? position : min_u64(data, end);
        if (bmig_extents_add(extents, data - position, hole_flags))
            return 0;
        position = data;
        if (position == end)
            return 0;
        found = lseek(fd, found, SEEK_HOLE);
        uint64_t hole =
            found < 0 ? end : ((uint64_t)found + block_bytes - 1) / block_bytes * block_bytes;
        hole = min_u64(hole, end);
        /* Where the data went away between the two calls, the next turn finds what is there now. */
        if (hole > position && bmig_extents_add(extents, hole - position, BMIG_EXTENT_DATA))
            return 0;
        if (hole > position)
            position = hole;
    }
    return 0;
}
