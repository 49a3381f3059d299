/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Helper threads and inboxes. A pool's fields lie under its lock; an inbox is a stack that putters
 * push on and the owner takes whole, so it needs no lock and has no ABA.
 */
#include "blockmig/core/pool.h"

#include <assert.h>
#include <signal.h>

static void **link_of(void *item, size_t link_offset)
{
    return (void **)((char *)item + link_offset);
}

void bmig_inbox_put(struct bmig_inbox *inbox, void *item)
{
    void *newest = atomic_load_explicit(&inbox->newest, memory_order_relaxed);
    do
        *link_of(item, inbox->link_offset) = newest;
    while (!atomic_compare_exchange_weak(&inbox->newest, &newest, item));
}

void *bmig_inbox_take(struct bmig_inbox *inbox)
{
    if (atomic_load_explicit(&inbox->newest, memory_order_relaxed) == NULL)
        return NULL;
    void *item = atomic_exchange(&inbox->newest, NULL);
    void *list = NULL;
    while (item) {
        void **link = link_of(item, inbox->link_offset);
        void *older = *link;
        *link = list;
        list = item;
        item = older;
    }
    return list;
}

void bmig_pool_init(struct bmig_pool *pool, const char *name, unsigned max_threads,
                    size_t link_offset, void (*run)(void *item))
{
    assert(max_threads >= 1 && max_threads <= BMIG_POOL_MAX);
    *pool = (struct bmig_pool){
        .run = run, .name = name, .link_offset = link_offset, .max_threads = max_threads};
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
}

void bmig_pool_fini(struct bmig_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->closing = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (unsigned i = 0; i < pool->threads; i++)
        pthread_join(pool->thread[i], NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
}

static void unlink_after(struct bmig_pool *pool, void *previous, void *item)
{
    void *next = *link_of(item, pool->link_offset);
    if (previous)
        *link_of(previous, pool->link_offset) = next;
    else
        pool->first = next;
    if (pool->last == item)
        pool->last = previous;
    pool->queued--;
}

static void *helper_thread(void *opaque)
{
    struct bmig_pool *pool = opaque;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (!pool->first && !pool->closing) {
            pool->idle++;
            pthread_cond_wait(&pool->wake, &pool->lock);
            pool->idle--;
        }
        if (!pool->first)
            break;
        void *item = pool->first;
        unlink_after(pool, NULL, item);
        pthread_mutex_unlock(&pool->lock);
        pool->run(item);
        pthread_mutex_lock(&pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* Signals are for the threads that await them: a helper starts with all blocked. */
static bool start_thread(struct bmig_pool *pool)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t *thread = &pool->thread[pool->threads];
    int ret = pthread_create(thread, NULL, helper_thread, pool);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (ret != 0)
        return false;
    pthread_setname_np(*thread, pool->name);
    pool->threads++;
    return true;
}

bool bmig_pool_put(struct bmig_pool *pool, void *item)
{
    pthread_mutex_lock(&pool->lock);
    /* idle counts threads that were signalled but have not yet run, hence the comparison. */
    if (pool->queued >= pool->idle && pool->threads < pool->max_threads)
        start_thread(pool);
    bool taken = pool->threads > 0;
    if (taken) {
        *link_of(item, pool->link_offset) = NULL;
        if (pool->last)
            *link_of(pool->last, pool->link_offset) = item;
        else
            pool->first = item;
        pool->last = item;
        pool->queued++;
        if (pool->idle > 0)
            pthread_cond_signal(&pool->wake);
    }
    pthread_mutex_unlock(&pool->lock);
    return taken;
}

bool bmig_pool_withdraw(struct bmig_pool *pool, void *item)
{
    pthread_mutex_lock(&pool->lock);
    void *previous = NULL, *at = pool->first;
    while (at && at != item) {
        previous = at;
        at = *link_of(at, pool->link_offset);
    }
    if (at)
        unlink_after(pool, previous, at);
    pthread_mutex_unlock(&pool->lock);
    return at != NULL;
}
