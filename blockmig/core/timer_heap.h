/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A binary heap of started timers, earliest first; timers of one deadline come in the order in
 * which they were started, so that a stepped clock makes every run the same.
 *
 * The key lies in the heap's array beside the pointer, so sifting touches no timer but the one
 * moved. Slot 0 stays empty: timer->heap_index 0 means "not started".
 */
#ifndef BLOCKMIG_CORE_TIMER_HEAP_H
#define BLOCKMIG_CORE_TIMER_HEAP_H

#include <stddef.h>
#include <stdint.h>

#include "blockmig/core/loop.h"

struct bmig_timer_entry {
    uint64_t deadline_ns;
    uint64_t sequence;
    struct bmig_timer *timer;
};

struct bmig_timer_heap {
    struct bmig_timer_entry *entries; /* [1 .. count] */
    size_t count;
    size_t capacity;
    uint64_t sequence; /* of the next timer started */
};

/* 0 or -ENOMEM. */
int bmig_timer_heap_init(struct bmig_timer_heap *heap);
void bmig_timer_heap_fini(struct bmig_timer_heap *heap);

/* Starts timer, which is not in a heap, with timer->deadline_ns. */
void bmig_timer_heap_insert(struct bmig_timer_heap *heap, struct bmig_timer *timer);

/* Takes out a timer that is in this heap. */
void bmig_timer_heap_remove(struct bmig_timer_heap *heap, struct bmig_timer *timer);

/* The earliest, or NULL. */
static inline const struct bmig_timer_entry *
bmig_timer_heap_first(const struct bmig_timer_heap *heap)
{
    return heap->count > 0 ? &heap->entries[1] : NULL;
}

#endif
