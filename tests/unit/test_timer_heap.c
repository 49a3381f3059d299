/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The heap of timers against a naive model.
 */
#include "blockmig/core/timer_heap.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

enum { TIMERS = 300 };

struct model {
    struct bmig_timer timer;
    uint64_t order;
};

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static struct model *first_of(struct model *models)
{
    struct model *first = NULL;
    for (int i = 0; i < TIMERS; i++) {
        struct model *at = &models[i];
        if (at->timer.heap_index == 0)
            continue;
        if (!first || at->timer.deadline_ns < first->timer.deadline_ns ||
            (at->timer.deadline_ns == first->timer.deadline_ns && at->order < first->order))
            first = at;
    }
    return first;
}

START_TEST(random_starts_and_stops_keep_the_earliest_first)
{
    static struct model models[TIMERS];
    struct bmig_timer_heap heap;
    uint64_t random = 0x9e3779b97f4a7c15u + (uint64_t)_i, order = 0;
    size_t count = 0;
    memset(models, 0, sizeof(models)); /* the seed before left timers that no heap has */
    ck_assert_int_eq(bmig_timer_heap_init(&heap), 0);
    for (int step = 0; step < 20000; step++) {
        struct model *at = &models[next_random(&random) % TIMERS];
        if (at->timer.heap_index != 0) {
            bmig_timer_heap_remove(&heap, &at->timer);
            count--;
        } else {
            at->timer.deadline_ns = next_random(&random) % 50; /* many of one deadline */
            at->order = order++;
            bmig_timer_heap_insert(&heap, &at->timer);
            count++;
        }
        ck_assert_uint_eq(heap.count, count);
        struct model *expected = first_of(models);
        const struct bmig_timer_entry *first = bmig_timer_heap_first(&heap);
        ck_assert_ptr_eq(first ? first->timer : NULL, expected ? &expected->timer : NULL);
        for (size_t i = 1; i <= heap.count; i += 17)
            ck_assert_uint_eq(heap.entries[i].timer->heap_index, i);
    }
    bmig_timer_heap_fini(&heap);
}
END_TEST

START_TEST(timers_come_out_sorted_and_then_the_heap_is_empty)
{
    static struct model models[TIMERS];
    struct bmig_timer_heap heap;
    uint64_t random = 7, before = 0;
    ck_assert_int_eq(bmig_timer_heap_init(&heap), 0);
    ck_assert_ptr_null(bmig_timer_heap_first(&heap));
    for (int i = 0; i < TIMERS; i++) {
        models[i].timer.deadline_ns = next_random(&random);
        bmig_timer_heap_insert(&heap, &models[i].timer);
    }
    for (int i = 0; i < TIMERS; i++) {
        struct bmig_timer *timer = bmig_timer_heap_first(&heap)->timer;
        ck_assert_uint_ge(timer->deadline_ns, before);
        before = timer->deadline_ns;
        bmig_timer_heap_remove(&heap, timer);
        ck_assert_uint_eq(timer->heap_index, 0);
    }
    ck_assert_ptr_null(bmig_timer_heap_first(&heap));
    bmig_timer_heap_fini(&heap);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("timer_heap");
    TCase *tcase = tcase_create("timer_heap");
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, random_starts_and_stops_keep_the_earliest_first, 0, 4);
    tcase_add_test(tcase, timers_come_out_sorted_and_then_the_heap_is_empty);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
