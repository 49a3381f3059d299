/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The faults filter on a mem image: which requests are hit, and what becomes of them.
 */
#include "backends/faults.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/core/buffer.h"
#include "blockmig/stack/image.h"
#include "tests/unit/disk_helper.h"

enum { KiB = 1024, DISK_BYTES = 1 << 20 };

static struct bmig_loop *loop;
static struct bmig_disk *disk, *filter;
static uint8_t data[64 * KiB];

static const struct bmig_open_options writing = {.writable = true};

static void open_with(const char *filters)
{
    disk = test_open(loop, "mem:?size=1M", filters, &writing);
    filter = bmig_faults_find(disk);
    ck_assert_ptr_nonnull(filter);
}

static void setup(void)
{
    ck_assert_int_eq(bmig_loop_new(&loop, BMIG_LOOP_VIRTUAL, NULL), 0);
    open_with("faults:?");
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

static int do_write(uint64_t offset, uint64_t length)
{
    return test_run(disk, BMIG_WRITE, offset, length, data, 0);
}

/* The byte at offset. */
static uint8_t byte_at(uint64_t offset)
{
    uint8_t byte;
    ck_assert_int_eq(test_run(disk, BMIG_READ, offset, 1, &byte, 0), 0);
    return byte;
}

START_TEST(without_rules_everything_passes)
{
    ck_assert_int_eq(do_write(0, 4096), 0);
    ck_assert_uint_eq(byte_at(4095), 0x11);
    ck_assert_uint_eq(byte_at(4096), 0);
    ck_assert_int_eq(test_run(disk, BMIG_FLUSH, 0, 0, NULL, 0), 0);
}
END_TEST

START_TEST(nth_write_fails_once_and_is_not_done)
{
    reopen("faults:?op=write&nth=3&error=ENOSPC");
    for (unsigned i = 0; i < 6; i++) {
        ck_assert_int_eq(do_write(i * 4096, 4096), i == 2 ? -ENOSPC : 0);
        ck_assert_int_eq(test_run(disk, BMIG_FLUSH, 0, 0, NULL, 0), 0);
    }
    ck_assert_uint_eq(byte_at(2 * 4096), 0);
    ck_assert_uint_eq(byte_at(3 * 4096), 0x11);
    ck_assert_uint_eq(bmig_faults_get(filter, 0)->hits, 1);
    ck_assert_uint_eq(bmig_faults_get(filter, 0)->matched, 6);
    ck_assert_ptr_null(bmig_faults_get(filter, 1));
}
END_TEST

START_TEST(after_every_and_times_choose_who_is_hit)
{
    static const struct {
        const char *filters;
        const char *hits; /* 'x' for each that fails */
    } cases[] = {
        {"faults:?op=write&nth=3&times=0", "..xxxxxxxx"},
        {"faults:?op=write&nth=3&times=2", "..xx......"},
        {"faults:?op=write&after=4", "....xxxxxx"},
        {"faults:?op=write&every=3", "..x..x..x."},
        {"faults:?op=write&after=1&every=2&times=3", "..x.x.x..."},
        {"faults:?op=write", "xxxxxxxxxx"},
        {"faults:?op=read", ".........."},
        {"faults:?op=write&offset=8k&length=4k", "..x......."},
        {"faults:?op=write&offset=20k", ".....xxxxx"},
        {"faults:?op=flush,write&nth=1", "x........."},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        reopen(cases[i].filters);
        for (unsigned n = 0; n < 10; n++)
            ck_assert_msg(do_write(n * 4096, 4096) == (cases[i].hits[n] == 'x' ? -EIO : 0),
                          "%s: %u", cases[i].filters, n);
    }
    /* Stacked: the lower one never sees what the upper one stopped. */
    reopen("faults:?op=write&nth=2 faults:?op=write&nth=5");
    for (unsigned n = 0; n < 10; n++)
        ck_assert_int_eq(do_write(n * 4096, 4096), n == 1 || n == 5 ? -EIO : 0);
}
END_TEST

START_TEST(probability_follows_its_seed)
{
    bool hits[2][200];
    unsigned count = 0;
    for (int pass = 0; pass < 2; pass++) {
        reopen("faults:?op=write&p=0.25&seed=9");
        for (unsigned i = 0; i < 200; i++)
            hits[pass][i] = do_write(0, 512) != 0;
    }
    ck_assert_mem_eq(hits[0], hits[1], sizeof(hits[0]));
    for (unsigned i = 0; i < 200; i++)
        count += hits[0][i];
    ck_assert_uint_gt(count, 25);
    ck_assert_uint_lt(count, 75);
}
END_TEST

START_TEST(late_failure_is_done_and_reported_as_failed)
{
    reopen("faults:?op=write&kind=late&error=ETIMEDOUT&nth=1");
    ck_assert_int_eq(do_write(0, 4096), -ETIMEDOUT);
    ck_assert_uint_eq(byte_at(0), 0x11);
}
END_TEST

START_TEST(torn_write_leaves_its_first_blocks)
{
    reopen("faults:?op=write&kind=torn&amount=8k&nth=1");
    ck_assert_int_eq(do_write(0, 16 * KiB), -EIO);
    ck_assert_uint_eq(byte_at(8 * KiB - 1), 0x11);
    ck_assert_uint_eq(byte_at(8 * KiB), 0);
    reopen("faults:?op=write&kind=torn&amount=8k&error=0&nth=1");
    ck_assert_int_eq(do_write(0, 16 * KiB), 0);
    ck_assert_uint_eq(byte_at(8 * KiB), 0);
    reopen("faults:?op=write&kind=torn&nth=1");
    ck_assert_int_eq(do_write(0, 16 * KiB), -EIO);
    ck_assert_uint_eq(byte_at(0), 0);
}
END_TEST

START_TEST(lie_is_success_with_nothing_done)
{
    reopen("faults:?op=write,read,flush&kind=lie&times=3");
    ck_assert_int_eq(do_write(0, 4096), 0);
    ck_assert_int_eq(test_run(disk, BMIG_FLUSH, 0, 0, NULL, 0), 0);
    ck_assert_uint_eq(byte_at(0), 0);
    ck_assert_uint_eq(byte_at(0), 0);
    ck_assert_uint_eq(bmig_faults_get(filter, 0)->hits, 3);
    ck_assert_uint_eq(filter->next->stats.requests[BMIG_WRITE], 0);
    ck_assert_uint_eq(filter->next->stats.requests[BMIG_FLUSH], 0);
}
END_TEST

START_TEST(misdirected_write_lands_elsewhere)
{
    reopen("faults:?op=write&kind=misdirect&amount=64k&nth=1");
    ck_assert_int_eq(do_write(4096, 4096), 0);
    ck_assert_uint_eq(byte_at(4096), 0);
    ck_assert_uint_eq(byte_at(64 * KiB + 4096), 0x11);
    reopen("faults:?op=write&kind=misdirect&amount=64k&nth=1");
    ck_assert_int_eq(do_write(DISK_BYTES - 4096, 4096), 0);
    ck_assert_uint_eq(byte_at(DISK_BYTES - 1), 0);
    ck_assert_uint_eq(byte_at(DISK_BYTES - 64 * KiB - 1), 0x11);
}
END_TEST

START_TEST(corruption_flips_one_bit_and_leaves_the_callers_data)
{
    reopen("faults:?op=write&kind=corrupt&amount=100&nth=1");
    ck_assert_int_eq(do_write(0, 4096), 0);
    ck_assert_uint_eq(data[100], 0x11);
    ck_assert_uint_eq(byte_at(100), 0x10);
    ck_assert_uint_eq(byte_at(101), 0x11);
    reopen("faults:?op=read&kind=corrupt&amount=7&nth=1");
    uint8_t back[512];
    ck_assert_int_eq(do_write(0, 4096), 0);
    ck_assert_int_eq(test_run(disk, BMIG_READ, 0, 512, back, 0), 0);
    ck_assert_uint_eq(back[7], 0x10);
    ck_assert_int_eq(test_run(disk, BMIG_READ, 0, 512, back, 0), 0);
    ck_assert_uint_eq(back[7], 0x11);
}
END_TEST

START_TEST(rules_change_while_it_runs)
{
    struct bmig_fault fault = {.ops = 1 << BMIG_FLUSH, .error = EIO};
    ck_assert_int_eq(bmig_faults_add(filter, &fault), 0);
    ck_assert_int_eq(test_run(disk, BMIG_FLUSH, 0, 0, NULL, 0), -EIO);
    ck_assert_int_eq(do_write(0, 4096), 0);
    bmig_faults_clear(filter);
    ck_assert_int_eq(test_run(disk, BMIG_FLUSH, 0, 0, NULL, 0), 0);
    for (int i = 0; i < BMIG_FAULTS_MAX; i++)
        ck_assert_int_eq(bmig_faults_add(filter, &fault), i);
    ck_assert_int_eq(bmig_faults_add(filter, &fault), -ENOSPC);
}
END_TEST

START_TEST(words_it_does_not_know_are_refused)
{
    static const char *const bad[] = {
        "faults:?op=writes",      "faults:?kind=slow", "faults:?error=EWHAT", "faults:?p=0",
        "faults:?p=1.5",          "faults:?p=x",       "faults:?nth=0",       "faults:?every=0",
        "faults:?colour=red",     "faults:?error=0",   "faults:?amount=-1",   "nosuch:?x",
        "faults:?op=write&nth=x",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct bmig_disk *none = NULL;
        struct bmig_error err = {0};
        struct bmig_image_spec spec = {.uri = "mem:?size=1M", .filters = bad[i]};
        ck_assert_msg(bmig_image_open(&none, &spec, &writing, &err) < 0, "%s", bad[i]);
        ck_assert_msg(err.kind == BMIG_USAGE, "%s: %s", bad[i], err.message);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("faults");
    TCase *tcase = tcase_create("faults");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, without_rules_everything_passes);
    tcase_add_test(tcase, nth_write_fails_once_and_is_not_done);
    tcase_add_test(tcase, after_every_and_times_choose_who_is_hit);
    tcase_add_test(tcase, probability_follows_its_seed);
    tcase_add_test(tcase, late_failure_is_done_and_reported_as_failed);
    tcase_add_test(tcase, torn_write_leaves_its_first_blocks);
    tcase_add_test(tcase, lie_is_success_with_nothing_done);
    tcase_add_test(tcase, misdirected_write_lands_elsewhere);
    tcase_add_test(tcase, corruption_flips_one_bit_and_leaves_the_callers_data);
    tcase_add_test(tcase, rules_change_while_it_runs);
    tcase_add_test(tcase, words_it_does_not_know_are_refused);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
