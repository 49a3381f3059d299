/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The range lock against a naive model, and its promises one by one.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/engine/range_lock.h"
#include "tests/unit/disk_helper.h"

static unsigned granted_count;
static struct bmig_range *last_granted;

static void granted(struct bmig_range *range)
{
    granted_count++;
    last_granted = range;
}

static struct bmig_range range_of(uint64_t start, uint64_t end, bool exclusive)
{
    return (struct bmig_range){
        .start = start, .end = end, .exclusive = exclusive, .granted = granted};
}

START_TEST(ranges_that_do_not_overlap_are_held_together)
{
    struct bmig_range_lock lock;
    struct bmig_range a = range_of(0, 10, true), b = range_of(10, 20, true);
    bmig_range_lock_init(&lock);
    ck_assert(bmig_range_lock_acquire(&lock, &a));
    ck_assert(bmig_range_lock_acquire(&lock, &b));
    bmig_range_lock_release(&lock, &a);
    bmig_range_lock_release(&lock, &b);
    ck_assert_uint_eq(lock.held_count, 0);
}
END_TEST

START_TEST(shared_ranges_overlap_and_exclusive_ones_wait)
{
    struct bmig_range_lock lock;
    struct bmig_range a = range_of(0, 10, false), b = range_of(5, 15, false),
                      c = range_of(9, 11, true);
    bmig_range_lock_init(&lock);
    granted_count = 0;
    ck_assert(bmig_range_lock_acquire(&lock, &a));
    ck_assert(bmig_range_lock_acquire(&lock, &b));
    ck_assert(!bmig_range_lock_acquire(&lock, &c));
    bmig_range_lock_release(&lock, &a);
    ck_assert_uint_eq(granted_count, 0);
    bmig_range_lock_release(&lock, &b);
    ck_assert_uint_eq(granted_count, 1);
    ck_assert_ptr_eq(last_granted, &c);
}
END_TEST

START_TEST(a_range_waits_behind_an_earlier_waiter_that_it_conflicts_with)
{
    struct bmig_range_lock lock;
    struct bmig_range a = range_of(0, 10, true), b = range_of(5, 20, true),
                      c = range_of(15, 25, true);
    bmig_range_lock_init(&lock);
    granted_count = 0;
    ck_assert(bmig_range_lock_acquire(&lock, &a));
    ck_assert(!bmig_range_lock_acquire(&lock, &b));
    ck_assert(!bmig_range_lock_try(&lock, &c)); /* or b could starve */
    ck_assert(!bmig_range_lock_acquire(&lock, &c));
    bmig_range_lock_withdraw(&lock, &b);
    ck_assert_uint_eq(granted_count, 1);
    ck_assert_ptr_eq(last_granted, &c);
}
END_TEST

START_TEST(overlaps_sees_held_ranges_only)
{
    struct bmig_range_lock lock;
    struct bmig_range a = range_of(0, 10, true), b = range_of(5, 20, true);
    bmig_range_lock_init(&lock);
    bmig_range_lock_acquire(&lock, &a);
    bmig_range_lock_acquire(&lock, &b);
    ck_assert(bmig_range_lock_overlaps(&lock, 9, 12));
    ck_assert(!bmig_range_lock_overlaps(&lock, 10, 12));
}
END_TEST

/* The model: an array in the order of coming, judged anew each time. */
enum { RANGES = 40 };

static bool model_may_hold(struct bmig_range *const *order, unsigned count, unsigned at)
{
    for (unsigned i = 0; i < count && i < at; i++)
        if (order[i]->start < order[at]->end && order[at]->start < order[i]->end &&
            (order[i]->exclusive || order[at]->exclusive))
            return false;
    return true;
}

START_TEST(random_ranges_are_granted_in_their_order)
{
    for (uint64_t seed = 1; seed <= 200; seed++) {
        struct bmig_range_lock lock;
        struct bmig_range ranges[RANGES];
        struct bmig_range *order[RANGES];
        unsigned count = 0;
        uint64_t random = seed;
        bool used[RANGES] = {false};
        bmig_range_lock_init(&lock);
        for (unsigned turn = 0; turn < 400; turn++) {
            unsigned i = (unsigned)(test_random(&random) % RANGES);
            if (!used[i]) {
                uint64_t start = test_random(&random) % 100;
                ranges[i] = range_of(start, start + 1 + test_random(&random) % 20,
                                     test_random(&random) % 3);
                used[i] = true;
                order[count++] = &ranges[i];
                bool held = bmig_range_lock_acquire(&lock, &ranges[i]);
                ck_assert(held == model_may_hold(order, count, count - 1));
            } else {
                unsigned at = 0;
                while (order[at] != &ranges[i])
                    at++;
                memmove(order + at, order + at + 1, (--count - at) * sizeof(order[0]));
                used[i] = false;
                if (ranges[i].held)
                    bmig_range_lock_release(&lock, &ranges[i]);
                else
                    bmig_range_lock_withdraw(&lock, &ranges[i]);
            }
            for (unsigned at = 0; at < count; at++)
                ck_assert_msg(order[at]->held == model_may_hold(order, count, at),
                              "seed %lu turn %u", (unsigned long)seed, turn);
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("range_lock");
    TCase *tcase = tcase_create("all");
    tcase_add_test(tcase, ranges_that_do_not_overlap_are_held_together);
    tcase_add_test(tcase, shared_ranges_overlap_and_exclusive_ones_wait);
    tcase_add_test(tcase, a_range_waits_behind_an_earlier_waiter_that_it_conflicts_with);
    tcase_add_test(tcase, overlaps_sees_held_ranges_only);
    tcase_add_test(tcase, random_ranges_are_granted_in_their_order);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
