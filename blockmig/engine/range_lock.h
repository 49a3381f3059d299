/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The range lock: byte ranges of a volume under way, and who waits for whom.
 *
 * Two ranges conflict if they overlap and either is exclusive. A range that conflicts with one
 * held, or with one that waits before it, waits; ranges are granted in the order in which they
 * came, so overlapping writes reach both replicas in one order and nothing starves. Loop's thread
 * only; no allocation.
 */
#ifndef BLOCKMIG_ENGINE_RANGE_LOCK_H
#define BLOCKMIG_ENGINE_RANGE_LOCK_H

#include <stdbool.h>
#include <stdint.h>

struct bmig_range {
    uint64_t start; /* bytes */
    uint64_t end;   /* the byte after the last */
    bool exclusive;
    /* Runs when a range that had to wait is granted, inside the release that freed it. */
    void (*granted)(struct bmig_range *range);
    void *user;
    /* private */
    struct bmig_range *next, *prev;
    bool held;
};

struct bmig_range_lock {
    struct bmig_range *head, *tail; /* held and waiting, in the order they came */
    uint32_t held_count, waiting_count;
};

void bmig_range_lock_init(struct bmig_range_lock *lock);

/* Takes range's start, end, exclusive, granted. Returns true if it is held at once (granted is not
 * called), false if granted will be called. */
bool bmig_range_lock_acquire(struct bmig_range_lock *lock, struct bmig_range *range);

/* The same, but takes nothing where it would have to wait. */
bool bmig_range_lock_try(struct bmig_range_lock *lock, struct bmig_range *range);

/* Gives a held range back and grants those that waited for it. */
void bmig_range_lock_release(struct bmig_range_lock *lock, struct bmig_range *range);

/* Takes back a range that waits. */
void bmig_range_lock_withdraw(struct bmig_range_lock *lock, struct bmig_range *range);

/* Whether any held range, exclusive or not, overlaps [start, end). */
bool bmig_range_lock_overlaps(const struct bmig_range_lock *lock, uint64_t start, uint64_t end);

#endif
