/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Buffers: page-aligned memory for data in flight, from one arena of fixed size per worker.
 *
 * The arena bounds what a worker's data takes, and the loop may register it. Sizes are powers of two
 * from 4 KiB to 1 MiB; an allocation that finds no room waits its turn by a callback, so that pressure
 * becomes delay and never failure. Loop's thread only.
 */
#ifndef BLOCKMIG_CORE_BUFFER_H
#define BLOCKMIG_CORE_BUFFER_H

#include <stddef.h>
#include <stdint.h>

#include "blockmig/core/loop.h"

enum { BMIG_BUFFER_MIN_BYTES = 4096, BMIG_BUFFER_MAX_BYTES = 1 << 20 };

struct bmig_pool;

struct bmig_buffer {
    uint8_t *data;
    uint32_t size_bytes;
    uint32_t refs;
    struct bmig_pool *pool;
};

struct bmig_buffer_wait {
    void (*ready)(
        struct bmig_buffer_wait *wait); /* from the loop; try again, others may be first */
    struct bmig_buffer_wait *next;
    struct bmig_buffer_wait **link;
};

/* An arena of size_bytes (rounded up to 1 MiB). */
int bmig_pool_new(struct bmig_pool **pool, struct bmig_loop *loop, size_t size_bytes);
void bmig_pool_free(struct bmig_pool *pool); /* every buffer is back (asserted) */

/* A buffer of at least size_bytes (<= BMIG_BUFFER_MAX_BYTES) with one reference, not cleared; NULL
 * where the arena has no room now. */
struct bmig_buffer *bmig_buffer_get(struct bmig_pool *pool, uint32_t size_bytes);
void bmig_buffer_ref(struct bmig_buffer *buffer);
void bmig_buffer_unref(struct bmig_buffer *buffer); /* NULL is fine */

/* Calls back when memory was returned. A wait is for one call; cancel takes it back. */
void bmig_pool_wait(struct bmig_pool *pool, struct bmig_buffer_wait *wait);
void bmig_pool_cancel(struct bmig_pool *pool, struct bmig_buffer_wait *wait);

/* The memory that every buffer lies in, for bmig_loop_set_buffers. */
void bmig_pool_area(const struct bmig_pool *pool, void **base, size_t *length);

size_t bmig_pool_size_bytes(const struct bmig_pool *pool);
size_t bmig_pool_used_bytes(const struct bmig_pool *pool);

/* Whether every one of length bytes at data (any alignment) is zero. */
int bmig_is_zero(const void *data, size_t length);

#endif
