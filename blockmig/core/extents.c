/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Extents: appending with merge.
 */
#include "blockmig/core/extents.h"

int bmig_extents_add(struct bmig_extents *extents, uint64_t length_bytes, uint32_t flags)
{
    if (length_bytes == 0)
        return 0;
    if (extents->count > 0 && extents->list[extents->count - 1].flags == flags) {
        extents->list[extents->count - 1].length_bytes += length_bytes;
        return 0;
    }
    if (extents->count == extents->capacity)
        return 1;
    extents->list[extents->count++] = (struct bmig_extent){length_bytes, flags};
    return 0;
}
