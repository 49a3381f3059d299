/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The throttle on a stepped clock: a copy that takes what it is given, and a guest whose latencies
 * the test says.
 */
#include "blockmig/engine/throttle.h"

#include <check.h>
#include <stdlib.h>

#define MIB (UINT64_C(1) << 20)

enum { MS = 1000000, TICK_NS = 100 * MS, PIECE = 256 << 10 };
static const uint64_t bound_ns = 2 * MS;
static const uint64_t floor_rate = 64 * MIB;

static struct bmig_throttle throttle;
static uint64_t now_ns;

static void setup(void)
{
    now_ns = UINT64_C(1000000000000);
}

static struct bmig_histogram latencies(uint32_t count, uint64_t ns)
{
    struct bmig_histogram histogram = {0};
    for (uint32_t i = 0; i < count; i++)
        bmig_histogram_add(&histogram, ns);
    return histogram;
}

static void begin(uint64_t cap, bool guest)
{
    struct bmig_histogram before = latencies(guest ? 1000 : 0, bound_ns / 4);
    bmig_throttle_init(&throttle, cap, bound_ns, &before, now_ns);
}

/* A tick's time of a copy that moves up to most bytes a second; returns what it moved. */
static uint64_t copy_for_a_tick(uint64_t most_per_s)
{
    uint64_t end_ns = now_ns + TICK_NS, moved = 0;
    uint64_t most = (uint64_t)((double)most_per_s * TICK_NS / 1e9);
    while (now_ns < end_ns) {
        uint64_t wait_ns =
            moved >= most ? end_ns - now_ns : bmig_throttle_take(&throttle, PIECE, now_ns);
        if (wait_ns == 0)
            moved += PIECE;
        else
            now_ns = now_ns + wait_ns < end_ns ? now_ns + wait_ns : end_ns;
    }
    return moved;
}

static uint64_t tick(uint32_t guest_ios, uint64_t guest_ns)
{
    uint64_t moved = copy_for_a_tick(2048 * MIB);
    struct bmig_histogram histogram = latencies(guest_ios, guest_ns);
    bmig_throttle_tick(&throttle, &histogram, TICK_NS);
    return moved;
}

START_TEST(a_quiet_guest_is_no_limit)
{
    begin(0, false);
    ck_assert_uint_eq(bmig_throttle_rate(&throttle), UINT64_MAX);
    ck_assert_uint_eq(bmig_throttle_take(&throttle, PIECE, now_ns), 0);
    begin(0, true);
    ck_assert_uint_lt(bmig_throttle_rate(&throttle), UINT64_MAX);
    for (int i = 0; i < 5; i++)
        tick(0, 0);
    ck_assert_uint_eq(bmig_throttle_rate(&throttle), UINT64_MAX);
    /* It comes back: there is a limit again, at once. */
    tick(100, 10 * bound_ns);
    ck_assert_uint_lt(bmig_throttle_rate(&throttle), 2048 * MIB);
}
END_TEST

START_TEST(latency_above_the_bound_lowers_the_rate_down_to_a_floor)
{
    begin(0, true);
    uint64_t before = bmig_throttle_rate(&throttle);
    tick(100, 2 * bound_ns);
    uint64_t mild = bmig_throttle_rate(&throttle);
    ck_assert_uint_lt(mild, before);
    begin(0, true);
    tick(100, 8 * bound_ns);
    ck_assert_uint_lt(bmig_throttle_rate(&throttle), mild);
    for (int i = 0; i < 50; i++) {
        tick(100, 100 * bound_ns);
        ck_assert_uint_ge(bmig_throttle_rate(&throttle), floor_rate);
    }
    ck_assert_uint_eq(bmig_throttle_rate(&throttle), floor_rate);
    /* The floor is really moved, so the copy ends. */
    uint64_t moved = 0;
    for (int i = 0; i < 10; i++)
        moved += tick(100, 100 * bound_ns);
    ck_assert_uint_ge(moved, floor_rate * 9 / 10);
    ck_assert_uint_le(moved, floor_rate * 11 / 10);
}
END_TEST

START_TEST(it_recovers_once_the_latency_allows_it)
{
    begin(0, true);
    for (int i = 0; i < 30; i++)
        tick(100, 100 * bound_ns);
    uint64_t last = bmig_throttle_rate(&throttle);
    ck_assert_uint_eq(last, floor_rate);
    for (int i = 0; i < 30; i++) {
        tick(100, bound_ns / 2);
        ck_assert_uint_ge(bmig_throttle_rate(&throttle), last);
        last = bmig_throttle_rate(&throttle);
    }
    ck_assert_uint_gt(last, 1024 * MIB); /* in three seconds */
}
END_TEST

START_TEST(a_rate_that_is_not_used_does_not_grow)
{
    begin(0, true);
    uint64_t before = bmig_throttle_rate(&throttle);
    for (int i = 0; i < 100; i++) {
        copy_for_a_tick(10 * MIB);
        struct bmig_histogram histogram = latencies(100, bound_ns / 2);
        bmig_throttle_tick(&throttle, &histogram, TICK_NS);
    }
    ck_assert_uint_eq(bmig_throttle_rate(&throttle), before);
}
END_TEST

START_TEST(a_guest_that_slows_with_the_copy_is_held_near_the_bound)
{
    /* Its latency rises with the copy's rate and meets the bound at 200 MiB/s. */
    uint64_t sum = 0, rate = 0;
    begin(0, true);
    for (int i = 0; i < 300; i++) {
        uint64_t moved = copy_for_a_tick(2048 * MIB) * 10;
        struct bmig_histogram histogram = latencies(
            100, (uint64_t)((double)bound_ns * (double)moved / (200.0 * (double)MIB)) + 1000);
        bmig_throttle_tick(&throttle, &histogram, TICK_NS);
        rate = bmig_throttle_rate(&throttle);
        if (i >= 100)
            sum += rate / 200;
    }
    ck_assert_uint_ge(sum, 100 * MIB);
    ck_assert_uint_le(sum, 250 * MIB);
}
END_TEST

START_TEST(a_cap_holds_whatever_the_guest_does)
{
    static const uint64_t cap = 10 * MIB; /* below the floor: it is what was asked for */
    for (int guest = 0; guest < 2; guest++) {
        uint64_t moved = 0;
        begin(cap, guest);
        ck_assert_uint_le(bmig_throttle_rate(&throttle), cap);
        for (int i = 0; i < 30; i++)
            moved += tick(guest ? 100 : 0, bound_ns / 2);
        ck_assert_uint_le(moved, 3 * cap + cap / 50 + PIECE);
        ck_assert_uint_ge(moved, 3 * cap * 9 / 10);
    }
}
END_TEST

START_TEST(a_pause_saves_up_no_burst)
{
    static const uint64_t cap = 100 * MIB;
    begin(cap, false);
    copy_for_a_tick(2048 * MIB);
    now_ns += UINT64_C(3600000000000);
    uint64_t at_once = 0;
    while (bmig_throttle_take(&throttle, PIECE, now_ns) == 0)
        at_once += PIECE;
    ck_assert_uint_le(at_once, cap / 100 + 2 * PIECE); /* 10 ms of it, and a piece */
}
END_TEST

/* The first look at the clock after an unlimited time must not count that time. */
START_TEST(the_end_of_no_limit_is_no_burst)
{
    begin(0, false);
    for (int i = 0; i < 20; i++)
        tick(0, 0);
    tick(100, bound_ns * 2);
    uint64_t rate = bmig_throttle_rate(&throttle), at_once = 0;
    now_ns += UINT64_C(60000000000);
    while (bmig_throttle_take(&throttle, PIECE, now_ns) == 0)
        at_once += PIECE;
    ck_assert_uint_le(at_once, rate / 100 + 2 * PIECE);
}
END_TEST

START_TEST(a_piece_larger_than_the_credit_passes_and_is_paid_for)
{
    static const uint64_t cap = MIB;
    begin(cap, false);
    uint64_t start_ns = now_ns, moved = 0;
    while (now_ns - start_ns < UINT64_C(20000000000)) {
        uint64_t wait_ns = bmig_throttle_take(&throttle, 4 * MIB, now_ns);
        if (wait_ns == 0)
            moved += 4 * MIB;
        now_ns += wait_ns;
    }
    ck_assert_uint_ge(moved, 16 * MIB);
    ck_assert_uint_le(moved, 24 * MIB);
}
END_TEST

START_TEST(without_a_bound_it_is_made_of_what_was_before)
{
    struct bmig_histogram before = latencies(1000, 3 * MS), few = latencies(10, 3 * MS),
                          fast = latencies(1000, 1000);
    bmig_throttle_init(&throttle, 0, 0, &before, now_ns);
    ck_assert_uint_ge(throttle.bound_ns, 9 * MS);
    ck_assert_uint_le(throttle.bound_ns, 10 * MS);
    bmig_throttle_init(&throttle, 0, 0, &few, now_ns);
    ck_assert_uint_eq(throttle.bound_ns, 4 * MS);
    bmig_throttle_init(&throttle, 0, 0, NULL, now_ns);
    ck_assert_uint_eq(throttle.bound_ns, 4 * MS);
    bmig_throttle_init(&throttle, 0, 0, &fast, now_ns);
    ck_assert_uint_ge(throttle.bound_ns,
                      400000); /* what a loop's turn takes is no sign of anything */
}
END_TEST

/* Mirrored writes to a slow target take their time, however slow the copy. */
START_TEST(latency_that_the_copy_does_not_make_raises_a_bound_of_ours)
{
    struct bmig_histogram before = latencies(1000, MS);
    bmig_throttle_init(&throttle, 0, 0, &before, now_ns);
    for (int i = 0; i < 40; i++)
        tick(100, 20 * MS);
    ck_assert_uint_ge(throttle.bound_ns, 20 * MS);
    ck_assert_uint_gt(bmig_throttle_rate(&throttle), floor_rate);
}
END_TEST

START_TEST(a_bound_that_was_asked_for_is_kept)
{
    struct bmig_histogram before = latencies(1000, MS);
    bmig_throttle_init(&throttle, 0, 2 * MS, &before, now_ns);
    for (int i = 0; i < 40; i++)
        tick(100, 20 * MS);
    ck_assert_uint_eq(throttle.bound_ns, 2 * MS);
    ck_assert_uint_eq(bmig_throttle_rate(&throttle), floor_rate);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("throttle");
    TCase *tcase = tcase_create("throttle");
    tcase_add_checked_fixture(tcase, setup, NULL);
    tcase_add_test(tcase, a_quiet_guest_is_no_limit);
    tcase_add_test(tcase, latency_above_the_bound_lowers_the_rate_down_to_a_floor);
    tcase_add_test(tcase, it_recovers_once_the_latency_allows_it);
    tcase_add_test(tcase, a_rate_that_is_not_used_does_not_grow);
    tcase_add_test(tcase, a_guest_that_slows_with_the_copy_is_held_near_the_bound);
    tcase_add_test(tcase, a_cap_holds_whatever_the_guest_does);
    tcase_add_test(tcase, a_pause_saves_up_no_burst);
    tcase_add_test(tcase, the_end_of_no_limit_is_no_burst);
    tcase_add_test(tcase, a_piece_larger_than_the_credit_passes_and_is_paid_for);
    tcase_add_test(tcase, without_a_bound_it_is_made_of_what_was_before);
    tcase_add_test(tcase, latency_that_the_copy_does_not_make_raises_a_bound_of_ours);
    tcase_add_test(tcase, a_bound_that_was_asked_for_is_kept);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
