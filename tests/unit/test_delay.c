/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The delay filter on the virtual clock: how long, in which order, held for ever, fenced.
 */
#include "backends/delay.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/stack/image.h"
#include "tests/unit/disk_helper.h"

enum { MS = 1000000 };

static struct bmig_loop *loop;
static struct bmig_disk *disk, *filter;
static uint8_t data[8192];

static const struct bmig_open_options writing = {.writable = true};

static void open_with(const char *filters)
{
    disk = test_open(loop, "mem:?size=1M", filters, &writing);
    filter = bmig_delay_find(disk);
    ck_assert_ptr_nonnull(filter);
}

static void setup(void)
{
    ck_assert_int_eq(bmig_loop_new(&loop, BMIG_LOOP_VIRTUAL, NULL), 0);
    open_with("delay:?");
    memset(data, 0x11, sizeof(data));
}

static void teardown(void)
{
    test_close(disk);
    bmig_loop_free(loop);
}

static void reopen(const char *filters)
{
    test_close(disk);
    open_with(filters);
}

static uint64_t time_of(enum bmig_op op)
{
    uint64_t start_ns = bmig_loop_now_ns(loop);
    bool has_data = op == BMIG_READ || op == BMIG_WRITE;
    uint64_t length = op == BMIG_FLUSH ? 0 : 4096;
    ck_assert_int_eq(test_run(disk, op, 0, length, has_data ? data : NULL, 0), 0);
    return bmig_loop_now_ns(loop) - start_ns;
}

static void drain(void)
{
    while (bmig_loop_step(loop, 0)) {
    }
}

START_TEST(each_operation_has_its_latency)
{
    reopen("delay:?all=1ms&write=5ms&flush=20ms&discard=0");
    ck_assert_uint_eq(time_of(BMIG_READ), 1 * MS);
    ck_assert_uint_eq(time_of(BMIG_WRITE), 5 * MS);
    ck_assert_uint_eq(time_of(BMIG_ZERO), 1 * MS);
    ck_assert_uint_eq(time_of(BMIG_FLUSH), 20 * MS);
    ck_assert_uint_eq(time_of(BMIG_DISCARD), 0);
    bmig_delay_set(filter, BMIG_OPS_ALL, 2 * MS, 0);
    ck_assert_uint_eq(time_of(BMIG_FLUSH), 2 * MS);
}
END_TEST

START_TEST(jitter_is_bounded_and_follows_its_seed)
{
    uint64_t times[2][50], smallest = UINT64_MAX, largest = 0;
    for (int pass = 0; pass < 2; pass++) {
        reopen("delay:?write=5ms&jitter=2ms&seed=4");
        for (int i = 0; i < 50; i++)
            times[pass][i] = time_of(BMIG_WRITE);
    }
    ck_assert_mem_eq(times[0], times[1], sizeof(times[0]));
    for (int i = 0; i < 50; i++) {
        smallest = times[0][i] < smallest ? times[0][i] : smallest;
        largest = times[0][i] > largest ? times[0][i] : largest;
    }
    ck_assert_uint_ge(smallest, 5 * MS);
    ck_assert_uint_le(largest, 7 * MS);
    ck_assert_uint_gt(largest - smallest, 1 * MS);
}
END_TEST

START_TEST(latencies_run_side_by_side_but_bytes_one_after_the_other)
{
    struct test_request tests[10];
    reopen("delay:?write=5ms");
    uint64_t start_ns = bmig_loop_now_ns(loop);
    for (int i = 0; i < 10; i++)
        test_submit(disk, &tests[i], BMIG_WRITE, 0, 4096, data, 0);
    for (int i = 0; i < 10; i++)
        test_until(loop, &tests[i].ended);
    ck_assert_uint_eq(bmig_loop_now_ns(loop) - start_ns, 5 * MS);
    bmig_delay_set_rate(filter, 4096000); /* a block a millisecond */
    start_ns = bmig_loop_now_ns(loop);
    for (int i = 0; i < 10; i++)
        test_submit(disk, &tests[i], BMIG_WRITE, 0, 4096, data, 0);
    for (int i = 0; i < 10; i++)
        test_until(loop, &tests[i].ended);
    ck_assert_uint_eq(bmig_loop_now_ns(loop) - start_ns, 15 * MS);
}
END_TEST

START_TEST(hanging_request_waits_until_released)
{
    struct test_request tests[3];
    reopen("delay:?hang=write");
    for (int i = 0; i < 3; i++)
        test_submit(disk, &tests[i], BMIG_WRITE, (uint64_t)i * 8192, 4096, data, 0);
    drain();
    ck_assert_uint_eq(bmig_delay_hanging(filter), 3);
    ck_assert_uint_eq(time_of(BMIG_READ), 0);
    memset(data, 0x22, sizeof(data));
    ck_assert_uint_eq(bmig_delay_release(filter, 2), 2);
    drain();
    ck_assert(tests[0].ended && tests[1].ended && !tests[2].ended);
    bmig_delay_set_hang(filter, 0);
    drain();
    ck_assert(!tests[2].ended);
    ck_assert_uint_eq(bmig_delay_release(filter, UINT32_MAX), 1);
    drain();
    ck_assert(tests[2].ended && tests[2].status == 0);
    /* It was held before it was done, so the data of its release counts. */
    ck_assert_int_eq(test_run(disk, BMIG_READ, 0, 1, data + 1, 0), 0);
    ck_assert_uint_eq(data[1], 0x22);
}
END_TEST

START_TEST(late_mode_does_first_and_answers_later)
{
    struct test_request test;
    uint8_t byte = 0;
    reopen("delay:?write=5ms&late=1");
    ck_assert_uint_eq(time_of(BMIG_WRITE), 5 * MS);
    bmig_delay_set_hang(filter, 1 << BMIG_WRITE);
    memset(data, 0x33, sizeof(data));
    test_submit(disk, &test, BMIG_WRITE, 4096, 4096, data, 0);
    drain();
    ck_assert(!test.ended);
    ck_assert_int_eq(test_run(disk, BMIG_READ, 4096, 1, &byte, 0), 0);
    ck_assert_uint_eq(byte, 0x33);
    bmig_delay_release(filter, 1);
    drain();
    ck_assert(test.ended && test.status == 0);
}
END_TEST

START_TEST(fence_ends_what_is_held_and_nothing_takes_effect_after_it)
{
    struct test_request hung, timed, under_way;
    reopen("delay:?hang=write&zero=1h delay:?flush=3ms");
    test_submit(disk, &hung, BMIG_WRITE, 0, 4096, data, 0);
    test_submit(disk, &timed, BMIG_ZERO, 4096, 4096, NULL, 0);
    test_submit(disk, &under_way, BMIG_FLUSH, 0, 0, NULL, 0);
    drain();
    test_fence(disk);
    ck_assert(hung.ended && hung.status == -ECANCELED);
    ck_assert(timed.ended && timed.status == -ECANCELED);
    ck_assert(under_way.ended && under_way.status == -ECANCELED);
    ck_assert_uint_eq(bmig_loop_now_ns(loop), 0);
    ck_assert_uint_eq(filter->next->next->stats.requests[BMIG_WRITE], 0);
    ck_assert_uint_eq(filter->next->next->stats.requests[BMIG_ZERO], 0);
    ck_assert_int_eq(test_run(disk, BMIG_WRITE, 0, 4096, data, 0), -ESHUTDOWN);
    ck_assert_uint_eq(bmig_delay_release(filter, 10), 0);
}
END_TEST

START_TEST(fence_ends_late_answers_too)
{
    struct test_request test;
    reopen("delay:?hang=write&late=1 delay:?write=3ms");
    test_submit(disk, &test, BMIG_WRITE, 0, 4096, data, 0);
    test_fence(disk);
    ck_assert(test.ended && test.status < 0);
}
END_TEST

START_TEST(words_it_does_not_know_are_refused)
{
    static const char *const bad[] = {"delay:?read=5", "delay:?hang=all,x", "delay:?rate=5",
                                      "delay:?late=2", "delay:?reads=5ms"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct bmig_disk *none = NULL;
        struct bmig_error err = {0};
        struct bmig_image_spec spec = {.uri = "mem:?size=1M", .filters = bad[i]};
        ck_assert_msg(bmig_image_open(&none, &spec, &writing, &err) < 0, "%s", bad[i]);
        ck_assert_int_eq(err.kind, BMIG_USAGE);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("delay");
    TCase *tcase = tcase_create("delay");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, each_operation_has_its_latency);
    tcase_add_test(tcase, jitter_is_bounded_and_follows_its_seed);
    tcase_add_test(tcase, latencies_run_side_by_side_but_bytes_one_after_the_other);
    tcase_add_test(tcase, hanging_request_waits_until_released);
    tcase_add_test(tcase, late_mode_does_first_and_answers_later);
    tcase_add_test(tcase, fence_ends_what_is_held_and_nothing_takes_effect_after_it);
    tcase_add_test(tcase, fence_ends_late_answers_too);
    tcase_add_test(tcase, words_it_does_not_know_are_refused);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
