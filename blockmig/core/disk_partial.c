/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Requests smaller than a block: the block is read around them, and for a write written back.
 *
 * Two partial writes to one block would undo each other, so those under way are listed in the order
 * of their coming, and one waits while an earlier one has its block. Whole-block writes need no
 * such care: one that overlaps a partial write is the caller's to order.
 */
#include "blockmig/core/disk_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct bmig_partial {
    struct bmig_request
        *request; /* borrowed; its range and data are the block's while a step is under way */
    uint64_t offset, length; /* what was asked for */
    uint8_t *data;
    enum bmig_op op;
    uint8_t *block;
    bool holds_block; /* writes: no earlier one has the block */
    struct bmig_partial *next;
};

static void step(struct bmig_disk *disk, struct bmig_partial *partial, enum bmig_op op)
{
    partial->request->op = op;
    partial->request->next = NULL;
    bmig_disk_dispatch(disk, partial->request);
}

/* The earliest listed write to the block at block_start, or NULL. */
static struct bmig_partial *first_for(struct bmig_disk *disk, uint64_t block_start)
{
    struct bmig_partial *partial = disk->partials;
    while (partial && partial->request->offset != block_start)
        partial = partial->next;
    return partial;
}

void bmig_disk_partial_start(struct bmig_disk *disk, struct bmig_request *request)
{
    uint32_t block_bytes = disk->limits.block_bytes;
    size_t align = disk->limits.memory_align > 16 ? disk->limits.memory_align : 16;
    struct bmig_partial *partial = calloc(1, sizeof(*partial));
    uint8_t *block = aligned_alloc(align, (block_bytes + align - 1) / align * align);
    if (!partial || !block) {
        free(partial);
        free(block);
        bmig_disk_finish(disk, request, -ENOMEM);
        return;
    }
    *partial = (struct bmig_partial){.request = request,
                                     .offset = request->offset,
                                     .length = request->length,
                                     .data = request->data,
                                     .op = request->op,
                                     .block = block};
    request->partial = partial;
    request->offset -= request->offset % block_bytes;
    request->length = block_bytes;
    request->data = block;
    if (partial->op == BMIG_WRITE) {
        struct bmig_partial **end = &disk->partials;
        while (*end)
            end = &(*end)->next;
        *end = partial;
        if (first_for(disk, request->offset) != partial)
            return;
        partial->holds_block = true;
    }
    step(disk, partial, BMIG_READ);
}

static void end(struct bmig_disk *disk, struct bmig_partial *partial, int status)
{
    struct bmig_request *request = partial->request;
    uint64_t block_start = request->offset;
    if (partial->op == BMIG_WRITE) {
        struct bmig_partial **link = &disk->partials;
        while (*link != partial)
            link = &(*link)->next;
        *link = partial->next;
    }
    request->op = partial->op;
    request->offset = partial->offset;
    request->length = partial->length;
    request->data = partial->data;
    request->partial = NULL;
    free(partial->block);
    free(partial);
    bmig_disk_finish(disk, request, status);

    struct bmig_partial *heir = first_for(disk, block_start);
    if (heir && !heir->holds_block) {
        heir->holds_block = true;
        step(disk, heir, BMIG_READ);
    }
}

bool bmig_disk_partial_step(struct bmig_disk *disk, struct bmig_request *request, int status)
{
    struct bmig_partial *partial = request->partial;
    if (!partial)
        return false;
    size_t skip = partial->offset - request->offset;
    if (status == 0 && request->op == BMIG_READ && partial->op == BMIG_WRITE) {
        memcpy(partial->block + skip, partial->data, partial->length);
        step(disk, partial, BMIG_WRITE);
        return true;
    }
    if (status == 0 && partial->op == BMIG_READ)
        memcpy(partial->data, partial->block + skip, partial->length);
    end(disk, partial, status);
    return true;
}
