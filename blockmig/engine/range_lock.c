/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The range lock: one list in the order of coming, walked on each acquire and release.
 *
 * A volume has some hundred ranges under way at most, so a walk over a short list beats a tree, and
 * the order of the list is the order that the lock promises.
 */
#include "blockmig/engine/range_lock.h"

#include <assert.h>
#include <stddef.h>

static bool conflict(const struct bmig_range *a, const struct bmig_range *b)
{
    return a->start < b->end && b->start < a->end && (a->exclusive || b->exclusive);
}

/* Whether a range that came before range, held or waiting, stands in its way. */
static bool blocked(const struct bmig_range *range, const struct bmig_range *last_before)
{
    for (const struct bmig_range *other = last_before; other; other = other->prev)
        if (conflict(other, range))
            return true;
    return false;
}

static void append(struct bmig_range_lock *lock, struct bmig_range *range)
{
    range->next = NULL;
    range->prev = lock->tail;
    if (lock->tail)
        lock->tail->next = range;
    else
        lock->head = range;
    lock->tail = range;
}

static void unlink_range(struct bmig_range_lock *lock, struct bmig_range *range)
{
    if (range->prev)
        range->prev->next = range->next;
    else
        lock->head = range->next;
    if (range->next)
        range->next->prev = range->prev;
    else
        lock->tail = range->prev;
    range->next = range->prev = NULL;
}

void bmig_range_lock_init(struct bmig_range_lock *lock)
{
    *lock = (struct bmig_range_lock){0};
}

bool bmig_range_lock_try(struct bmig_range_lock *lock, struct bmig_range *range)
{
    assert(range->start < range->end);
    if (blocked(range, lock->tail))
        return false;
    append(lock, range);
    range->held = true;
    lock->held_count++;
    return true;
}

bool bmig_range_lock_acquire(struct bmig_range_lock *lock, struct bmig_range *range)
{
    if (bmig_range_lock_try(lock, range))
        return true;
    append(lock, range);
    range->held = false;
    lock->waiting_count++;
    return false;
}

/* Grants what nothing stands in the way of any more. granted may acquire and release in turn, so
 * the walk starts again after each grant; it ends, for each grant leaves one waiter fewer. */
static void grant(struct bmig_range_lock *lock)
{
    struct bmig_range *range = lock->waiting_count ? lock->head : NULL;
    while (range) {
        if (range->held || blocked(range, range->prev)) {
            range = range->next;
            continue;
        }
        range->held = true;
        lock->held_count++;
        lock->waiting_count--;
        range->granted(range);
        range = lock->waiting_count ? lock->head : NULL;
    }
}

void bmig_range_lock_release(struct bmig_range_lock *lock, struct bmig_range *range)
{
    assert(range->held && lock->held_count > 0);
    unlink_range(lock, range);
    range->held = false;
    lock->held_count--;
    grant(lock);
}

void bmig_range_lock_withdraw(struct bmig_range_lock *lock, struct bmig_range *range)
{
    assert(!range->held && lock->waiting_count > 0);
    unlink_range(lock, range);
    lock->waiting_count--;
    grant(lock);
}

bool bmig_range_lock_overlaps(const struct bmig_range_lock *lock, uint64_t start, uint64_t end)
{
    for (const struct bmig_range *range = lock->head; range; range = range->next)
        if (range->held && range->start < end && start < range->end)
            return true;
    return false;
}
