/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Helper threads behind one queue, and the inbox by which they (or any thread) hand things back.
 *
 * Both carry the caller's own structs, linked through a pointer inside them at a known offset, so
 * that handing work over allocates nothing.
 */
#ifndef BLOCKMIG_CORE_POOL_H
#define BLOCKMIG_CORE_POOL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

/* ---- inbox: many threads put, one takes ---- */

struct bmig_inbox {
    _Atomic(void *) newest;
    size_t link_offset;
};

/* Any thread, or a signal handler. */
void bmig_inbox_put(struct bmig_inbox *inbox, void *item);

/* Takes all there is: a list in the order of putting, or NULL. The owner only. */
void *bmig_inbox_take(struct bmig_inbox *inbox);

static inline bool bmig_inbox_empty(const struct bmig_inbox *inbox)
{
    return atomic_load(&inbox->newest) == NULL;
}

/* ---- pool ---- */

enum { BMIG_POOL_MAX = 16 };

struct bmig_pool {
    void (*run)(void *item); /* on a helper thread */
    const char *name;        /* of its threads; static */
    size_t link_offset;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    void *first, *last; /* queued */
    unsigned max_threads, threads, idle;
    size_t queued;
    bool closing;
    pthread_t thread[BMIG_POOL_MAX];
};

void bmig_pool_init(struct bmig_pool *pool, const char *name, unsigned max_threads,
                    size_t link_offset, void (*run)(void *item));

/* Waits for what was put and ends the threads. */
void bmig_pool_fini(struct bmig_pool *pool);

/* Queues item, starting a thread if none is idle and there may be more. Returns false, with nothing
 * queued, where not a single thread can be had: then the caller runs it itself. */
bool bmig_pool_put(struct bmig_pool *pool, void *item);

/* Takes item out if no thread has begun it; returns whether it did. */
bool bmig_pool_withdraw(struct bmig_pool *pool, void *item);

#endif
