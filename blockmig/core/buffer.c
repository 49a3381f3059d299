/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The buffer arena: a buddy allocator within each 1 MiB slab of one anonymous mapping.
 *
 * Every 4 KiB page has a header, in a mapping of its own; the header of a block's first page is the
 * block's buffer or its link in the list of free blocks of its order. So nothing is allocated after
 * the start, and pages and headers of slabs that were never needed are never touched.
 *
 * Invariants: a block of order n begins at a page index that is a multiple of 2^n; two free buddies
 * are never apart; `order` and `is_free` are valid in the header of a block's first page only, and
 * the first page of a free block is the only one in its block with is_free set.
 */
#include "blockmig/core/buffer.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    PAGE_SHIFT = 12,
    SLAB_SHIFT = 20,
    ORDERS = SLAB_SHIFT - PAGE_SHIFT + 1,
    SLAB_PAGES = 1 << (ORDERS - 1),
    HUGE_PAGE = 2 << 20,
};

struct page {
    struct bmig_buffer buffer; /* first: a buffer's address is its page's */
    struct page *prev, *next;
    uint8_t order;
    bool is_free;
};

struct bmig_pool {
    struct bmig_loop *loop;
    uint8_t *base;
    struct page *pages;
    void *mapping;
    size_t mapping_bytes;
    size_t size_bytes;
    size_t used_bytes;
    size_t slabs_used; /* slabs from here on were never handed out */
    struct page *free[ORDERS];
    struct bmig_buffer_wait *wait_head;
    struct bmig_buffer_wait **wait_tail;
    /* While waiters are being called: where one that waits again goes (behind those that were
     * called, before those that were not), and who is being called. */
    struct bmig_buffer_wait **wait_again;
    struct bmig_buffer_wait *waking;
    struct bmig_task task;
    bool is_dead; /* freed but for this struct, which the queued task frees */
};

static void pool_wake(struct bmig_task *task);

int bmig_pool_new(struct bmig_pool **out, struct bmig_loop *loop, size_t size_bytes)
{
    size_t slab = (size_t)1 << SLAB_SHIFT;
    if (size_bytes == 0 || size_bytes > SIZE_MAX - HUGE_PAGE - slab)
        return -EINVAL;
    struct bmig_pool *pool = calloc(1, sizeof(*pool));
    if (!pool)
        return -ENOMEM;
    pool->loop = loop;
    pool->size_bytes = (size_bytes + slab - 1) & ~(slab - 1);
    pool->wait_tail = &pool->wait_head;
    pool->task.run = pool_wake;
    /* Huge pages make pinning for direct I/O cheap, where the arena is aligned for them. */
    pool->mapping_bytes = pool->size_bytes + HUGE_PAGE;
    pool->mapping = mmap(NULL, pool->mapping_bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pool->mapping == MAP_FAILED)
        goto free_pool;
    pool->base =
        (uint8_t *)(((uintptr_t)pool->mapping + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1));
    (void)madvise(pool->base, pool->size_bytes, MADV_HUGEPAGE);
    (void)madvise(pool->base, pool->size_bytes, MADV_DONTFORK);
    size_t headers_bytes = (pool->size_bytes >> PAGE_SHIFT) * sizeof(struct page);
    pool->pages = mmap(NULL, headers_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pool->pages == MAP_FAILED)
        goto unmap_arena;
    *out = pool;
    return 0;

unmap_arena:
    munmap(pool->mapping, pool->mapping_bytes);
free_pool:
    free(pool);
    return -ENOMEM;
}

void bmig_pool_free(struct bmig_pool *pool)
{
    if (!pool)
        return;
    assert(pool->used_bytes == 0);
    assert(!pool->wait_head);
    munmap(pool->pages, (pool->size_bytes >> PAGE_SHIFT) * sizeof(struct page));
    munmap(pool->mapping, pool->mapping_bytes);
    if (pool->task.queued)
        pool->is_dead = true;
    else
        free(pool);
}

static void list_push(struct bmig_pool *pool, struct page *page, unsigned order)
{
    page->order = (uint8_t)order;
    page->is_free = true;
    page->prev = NULL;
    page->next = pool->free[order];
    if (page->next)
        page->next->prev = page;
    pool->free[order] = page;
}

static void list_remove(struct bmig_pool *pool, struct page *page)
{
    if (page->prev)
        page->prev->next = page->next;
    else
        pool->free[page->order] = page->next;
    if (page->next)
        page->next->prev = page->prev;
    page->is_free = false;
}

static unsigned order_of(uint32_t size_bytes)
{
    unsigned order = 0;
    while (((uint32_t)BMIG_BUFFER_MIN_BYTES << order) < size_bytes)
        order++;
    return order;
}

/* A free block of exactly order, out of its list; splits the smallest that is large enough. */
static struct page *take_block(struct bmig_pool *pool, unsigned order)
{
    unsigned have = order;
    while (have < ORDERS && !pool->free[have])
        have++;
    struct page *page;
    if (have < ORDERS) {
        page = pool->free[have];
        list_remove(pool, page);
    } else if (pool->slabs_used < pool->size_bytes >> SLAB_SHIFT) {
        page = &pool->pages[pool->slabs_used++ * SLAB_PAGES];
        have = ORDERS - 1;
    } else {
        return NULL;
    }
    while (have > order) {
        have--;
        list_push(pool, page + ((size_t)1 << have), have);
    }
    page->order = (uint8_t)order;
    return page;
}

struct bmig_buffer *bmig_buffer_get(struct bmig_pool *pool, uint32_t size_bytes)
{
    assert(size_bytes <= BMIG_BUFFER_MAX_BYTES);
    unsigned order = order_of(size_bytes);
    struct page *page = take_block(pool, order);
    if (!page)
        return NULL;
    uint32_t block_bytes = (uint32_t)BMIG_BUFFER_MIN_BYTES << order;
    page->buffer.data = pool->base + ((size_t)(page - pool->pages) << PAGE_SHIFT);
    page->buffer.size_bytes = block_bytes;
    page->buffer.refs = 1;
    page->buffer.pool = pool;
    pool->used_bytes += block_bytes;
    return &page->buffer;
}

void bmig_buffer_ref(struct bmig_buffer *buffer)
{
    assert(buffer->refs > 0);
    buffer->refs++;
}

/* Joins page with its buddy, and the result with its own, as far as they are free. */
static void give_block(struct bmig_pool *pool, struct page *page)
{
    unsigned order = page->order;
    while (order < ORDERS - 1) {
        size_t index = (size_t)(page - pool->pages);
        struct page *buddy = &pool->pages[index ^ ((size_t)1 << order)];
        if (!buddy->is_free || buddy->order != order)
            break;
        list_remove(pool, buddy);
        if (buddy < page)
            page = buddy;
        order++;
    }
    list_push(pool, page, order);
}

void bmig_buffer_unref(struct bmig_buffer *buffer)
{
    if (!buffer)
        return;
    assert(buffer->refs > 0);
    if (--buffer->refs > 0)
        return;
    struct bmig_pool *pool = buffer->pool;
    pool->used_bytes -= buffer->size_bytes;
    give_block(pool, (struct page *)buffer);
    if (pool->wait_head)
        bmig_loop_defer(pool->loop, &pool->task);
}

/* ---- waiting ---- */

static void wait_insert(struct bmig_pool *pool, struct bmig_buffer_wait **link,
                        struct bmig_buffer_wait *wait)
{
    wait->next = *link;
    wait->link = link;
    *link = wait;
    if (wait->next)
        wait->next->link = &wait->next;
    else
        pool->wait_tail = &wait->next;
}

static void wait_remove(struct bmig_pool *pool, struct bmig_buffer_wait *wait)
{
    *wait->link = wait->next;
    if (wait->next)
        wait->next->link = wait->link;
    else
        pool->wait_tail = wait->link;
    if (pool->wait_again == &wait->next)
        pool->wait_again = wait->link;
    wait->next = NULL;
    wait->link = NULL;
}

void bmig_pool_wait(struct bmig_pool *pool, struct bmig_buffer_wait *wait)
{
    assert(!wait->link);
    if (wait == pool->waking) {
        wait_insert(pool, pool->wait_again, wait);
        pool->wait_again = &wait->next;
        pool->waking = NULL;
    } else {
        wait_insert(pool, pool->wait_tail, wait);
    }
}

void bmig_pool_cancel(struct bmig_pool *pool, struct bmig_buffer_wait *wait)
{
    if (wait->link)
        wait_remove(pool, wait);
}

/* Calls every waiter once, oldest first, while there is any room: one for whom what is free is too
 * small keeps its place and does not stop those behind it. */
static void pool_wake(struct bmig_task *task)
{
    struct bmig_pool *pool =
        (struct bmig_pool *)((uint8_t *)task - offsetof(struct bmig_pool, task));
    if (pool->is_dead) {
        free(pool);
        return;
    }
    size_t count = 0;
    for (struct bmig_buffer_wait *wait = pool->wait_head; wait; wait = wait->next)
        count++;
    pool->wait_again = &pool->wait_head;
    while (count-- > 0 && *pool->wait_again && pool->used_bytes < pool->size_bytes) {
        struct bmig_buffer_wait *wait = *pool->wait_again;
        wait_remove(pool, wait);
        pool->waking = wait;
        wait->ready(wait);
        pool->waking = NULL;
    }
    pool->wait_again = NULL;
}

size_t bmig_pool_size_bytes(const struct bmig_pool *pool)
{
    return pool->size_bytes;
}

size_t bmig_pool_used_bytes(const struct bmig_pool *pool)
{
    return pool->used_bytes;
}

void bmig_pool_area(const struct bmig_pool *pool, void **base, size_t *length)
{
    *base = pool->base;
    *length = pool->size_bytes;
}

/* ---- zero detection ---- */

/* Four words that may lie anywhere; the compiler makes vector registers of them. */
typedef uint64_t word4 __attribute__((vector_size(32), aligned(1), may_alias));

int bmig_is_zero(const void *data, size_t length)
{
    const uint8_t *p = data;
    /* Data mostly shows in its first bytes. */
    for (; length > 0 && ((uintptr_t)p & 31) != 0; length--)
        if (*p++)
            return 0;
    for (; length >= 128; p += 128, length -= 128) {
        const word4 *w = (const word4 *)p;
        word4 any = (w[0] | w[1]) | (w[2] | w[3]);
        if (any[0] | any[1] | any[2] | any[3])
            return 0;
    }
    for (; length > 0; length--)
        if (*p++)
            return 0;
    return 1;
}
