/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The heap of timers. Invariants: no entry is earlier than its parent (i / 2); entries[i].timer's
 * heap_index is i; (deadline, sequence) is unique, so the order is total.
 */
#include "blockmig/core/timer_heap.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

int bmig_timer_heap_init(struct bmig_timer_heap *heap)
{
    *heap = (struct bmig_timer_heap){.capacity = 64, .sequence = 1};
    heap->entries = calloc(heap->capacity, sizeof(*heap->entries));
    return heap->entries ? 0 : -ENOMEM;
}

void bmig_timer_heap_fini(struct bmig_timer_heap *heap)
{
    free(heap->entries);
    heap->entries = NULL;
}

static bool earlier(const struct bmig_timer_entry *a, const struct bmig_timer_entry *b)
{
    if (a->deadline_ns != b->deadline_ns)
        return a->deadline_ns < b->deadline_ns;
    return a->sequence < b->sequence;
}

static void place(struct bmig_timer_heap *heap, size_t i, struct bmig_timer_entry entry)
{
    heap->entries[i] = entry;
    entry.timer->heap_index = i;
}

static void sift_up(struct bmig_timer_heap *heap, size_t i, struct bmig_timer_entry entry)
{
    while (i > 1 && earlier(&entry, &heap->entries[i / 2])) {
        place(heap, i, heap->entries[i / 2]);
        i /= 2;
    }
    place(heap, i, entry);
}

static void sift_down(struct bmig_timer_heap *heap, size_t i, struct bmig_timer_entry entry)
{
    for (;;) {
        size_t child = 2 * i;
        if (child > heap->count)
            break;
        if (child < heap->count && earlier(&heap->entries[child + 1], &heap->entries[child]))
            child++;
        if (!earlier(&heap->entries[child], &entry))
            break;
        place(heap, i, heap->entries[child]);
        i = child;
    }
    place(heap, i, entry);
}

void bmig_timer_heap_insert(struct bmig_timer_heap *heap, struct bmig_timer *timer)
{
    assert(timer->heap_index == 0);
    if (heap->count + 1 == heap->capacity) {
        size_t capacity = heap->capacity * 2;
        struct bmig_timer_entry *entries = realloc(heap->entries, capacity * sizeof(*entries));
        /* Starting a timer can't fail by contract: a time-out that is dropped would be a hang. */
        assert(entries);
        heap->entries = entries;
        heap->capacity = capacity;
    }
    struct bmig_timer_entry entry = {timer->deadline_ns, heap->sequence++, timer};
    sift_up(heap, ++heap->count, entry);
}

void bmig_timer_heap_remove(struct bmig_timer_heap *heap, struct bmig_timer *timer)
{
    size_t i = timer->heap_index;
    assert(i >= 1 && i <= heap->count && heap->entries[i].timer == timer);
    struct bmig_timer_entry last = heap->entries[heap->count--];
    timer->heap_index = 0;
    if (last.timer == timer)
        return;
    if (i > 1 && earlier(&last, &heap->entries[i / 2]))
        sift_up(heap, i, last);
    else
        sift_down(heap, i, last);
}
