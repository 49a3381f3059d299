/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The record filter: what it logs, and what it makes of a power cut.
 */
#include "backends/record.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backends/delay.h"
#include "blockmig/core/buffer.h"
#include "blockmig/stack/image.h"
#include "tests/unit/disk_helper.h"

enum { DISK_BYTES = 64 * 1024, SECTOR = 512 };

static struct bmig_loop *loop;
static struct bmig_disk *disk, *filter;
static uint8_t data[DISK_BYTES], image[DISK_BYTES];

static const struct bmig_open_options writing = {.writable = true};

static void open_with(const char *filters)
{
    disk = test_open(loop, "mem:?size=64k", filters, &writing);
    filter = bmig_record_find(disk);
    ck_assert_ptr_nonnull(filter);
}

static void setup(void)
{
    ck_assert_int_eq(bmig_loop_new(&loop, BMIG_LOOP_VIRTUAL, NULL), 0);
    open_with("record:?data=keep");
}

static void teardown(void)
{
    test_close(disk);
    bmig_loop_free(loop);
}

static void do_write(uint64_t offset, uint64_t length, int value, uint32_t flags)
{
    memset(data, value, length);
    ck_assert_int_eq(test_run(disk, BMIG_WRITE, offset, length, data, flags), 0);
}

static void do_flush(void)
{
    ck_assert_int_eq(test_run(disk, BMIG_FLUSH, 0, 0, NULL, 0), 0);
}

START_TEST(every_request_is_logged_in_order)
{
    do_write(4096, 8192, 0x11, BMIG_FUA);
    ck_assert_int_eq(test_run(disk, BMIG_READ, 4096, 512, data, 0), 0);
    ck_assert_int_eq(test_run(disk, BMIG_ZERO, 0, 4096, NULL, BMIG_MAY_UNMAP), 0);
    do_flush();
    ck_assert_uint_eq(bmig_record_count(filter), 4);
    const struct bmig_record_entry *entry = bmig_record_at(filter, 0);
    ck_assert(entry->op == BMIG_WRITE && entry->offset == 4096 && entry->length == 8192);
    ck_assert(entry->flags == BMIG_FUA && entry->status == 0 && entry->data[8191] == 0x11);
    ck_assert(entry->submitted == 1 && entry->completed == 2);
    entry = bmig_record_at(filter, 2);
    ck_assert(entry->op == BMIG_ZERO && entry->flags == BMIG_MAY_UNMAP);
    ck_assert_uint_eq(bmig_record_events(filter), 8);
    ck_assert_uint_eq(bmig_record_count_of(filter, 1 << BMIG_WRITE, 0, 0), 1);
    ck_assert_uint_eq(bmig_record_count_of(filter, BMIG_OPS_ALL, 4096, 512), 2);
    ck_assert_uint_eq(bmig_record_count_of(filter, BMIG_OPS_ALL, 0, 4096), 1);
    bmig_record_clear(filter);
    ck_assert_uint_eq(bmig_record_count(filter), 0);
}
END_TEST

START_TEST(failures_and_overlaps_are_logged_as_they_were)
{
    struct test_request tests[2];
    test_close(disk);
    open_with("record:?data=hash delay:?write=5ms&zero=1ms");
    memset(data, 1, 4096);
    test_submit(disk, &tests[0], BMIG_WRITE, 0, 4096, data, 0);
    test_submit(disk, &tests[1], BMIG_ZERO, 8192, 4096, NULL, 0);
    ck_assert_uint_eq(bmig_record_at(filter, 0)->completed, 0);
    test_until(loop, &tests[0].ended);
    ck_assert(tests[1].ended);
    ck_assert_uint_lt(bmig_record_at(filter, 1)->completed, bmig_record_at(filter, 0)->completed);
    uint64_t hash = bmig_record_at(filter, 0)->hash;
    ck_assert_int_eq(test_run(disk, BMIG_READ, 0, 4096, data, 0), 0);
    ck_assert_uint_eq(bmig_record_at(filter, 2)->hash, hash);
    test_close(disk);
    open_with("record:?limit=1 faults:?op=write&nth=1&error=ENOSPC");
    ck_assert_int_eq(test_run(disk, BMIG_WRITE, 0, 512, data, 0), -ENOSPC);
    ck_assert_int_eq(bmig_record_at(filter, 0)->status, -ENOSPC);
    do_flush();
    ck_assert_uint_eq(bmig_record_count(filter), 1);
    ck_assert_uint_eq(bmig_record_events(filter), 4);
    ck_assert_int_eq(bmig_record_cut_power(filter, 4, 0, image, DISK_BYTES), -EINVAL);
}
END_TEST

START_TEST(file_gets_a_line_for_each)
{
    char path[] = "/tmp/blockmig-record.XXXXXX", uri[128], line[128];
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    close(fd);
    snprintf(uri, sizeof(uri), "record:?data=hash&file=%s", path);
    test_close(disk);
    open_with(uri);
    do_write(512, 1024, 3, BMIG_FUA);
    do_flush();
    test_close(disk);
    FILE *file = fopen(path, "r");
    ck_assert_ptr_nonnull(fgets(line, sizeof(line), file));
    ck_assert_msg(strncmp(line, "0 write 512 1024 0x1 0 ", 23) == 0, "%s", line);
    ck_assert_ptr_nonnull(fgets(line, sizeof(line), file));
    ck_assert_msg(strncmp(line, "1 flush 0 0 0 0 ", 16) == 0, "%s", line);
    fclose(file);
    unlink(path);
    open_with("record:?");
}
END_TEST

/* How many of count cuts leave all, some, none of [offset, offset + length) at value. */
static void cut(uint64_t events, uint64_t offset, uint64_t length, uint8_t value, int *all,
                int *none)
{
    *all = *none = 0;
    for (uint64_t seed = 0; seed < 100; seed++) {
        uint64_t same = 0;
        memset(image, 0, sizeof(image));
        ck_assert_int_eq(bmig_record_cut_power(filter, events, seed, image, DISK_BYTES), 0);
        for (uint64_t i = 0; i < length; i++)
            same += image[offset + i] == value;
        ck_assert_uint_eq(same % SECTOR, 0);
        *all += same == length;
        *none += same == 0;
    }
}

START_TEST(flushed_and_fua_writes_survive_and_others_may)
{
    int all, none;
    do_write(0, 1024, 0x11, 0);           /* events 1, 2 */
    do_write(4096, 1024, 0x22, BMIG_FUA); /* 3, 4 */
    do_flush();                           /* 5, 6 */
    do_write(8192, 1024, 0x33, 0);        /* 7, 8 */
    cut(0, 0, 1024, 0x11, &all, &none);
    ck_assert_int_eq(none, 100);
    cut(2, 0, 1024, 0x11, &all, &none);
    ck_assert(all > 5 && none > 5 && all + none < 95);
    cut(3, 4096, 1024, 0x22, &all, &none);
    ck_assert(all > 5 && none > 5);
    cut(4, 4096, 1024, 0x22, &all, &none);
    ck_assert_int_eq(all, 100);
    cut(5, 0, 1024, 0x11, &all, &none);
    ck_assert_int_lt(all, 100);
    cut(6, 0, 1024, 0x11, &all, &none);
    ck_assert_int_eq(all, 100);
    cut(8, 8192, 1024, 0x33, &all, &none);
    ck_assert(all > 5 && none > 5);
}
END_TEST

START_TEST(write_under_way_at_the_flush_is_not_covered_by_it)
{
    struct test_request slow;
    int all, none;
    test_close(disk);
    open_with("record:?data=keep delay:?write=5ms");
    memset(data, 0x44, 512);
    test_submit(disk, &slow, BMIG_WRITE, 0, 512, data, 0);
    do_flush();
    test_until(loop, &slow.ended);
    cut(bmig_record_events(filter), 0, 512, 0x44, &all, &none);
    ck_assert(all > 20 && none > 20);
}
END_TEST

START_TEST(later_write_is_never_undone_by_an_earlier_one)
{
    do_write(0, 512, 0x11, 0);
    do_write(0, 512, 0x22, 0);
    do_flush();
    do_write(0, 512, 0x33, 0);
    for (uint64_t seed = 0; seed < 100; seed++) {
        memset(image, 0, sizeof(image));
        ck_assert_int_eq(
            bmig_record_cut_power(filter, bmig_record_events(filter), seed, image, DISK_BYTES), 0);
        ck_assert(image[0] == 0x22 || image[0] == 0x33);
    }
}
END_TEST

START_TEST(at_the_end_behind_a_flush_the_image_is_the_disk)
{
    uint64_t seed = 5;
    for (int i = 0; i < 300; i++) {
        uint64_t offset = test_random(&seed) % 127 * SECTOR;
        uint64_t length = (1 + test_random(&seed) % 8) * SECTOR;
        if (offset + length > DISK_BYTES)
            length = DISK_BYTES - offset;
        if (test_random(&seed) % 4)
            do_write(offset, length, (int)test_random(&seed), 0);
        else
            ck_assert_int_eq(test_run(disk, BMIG_ZERO, offset, length, NULL, 0), 0);
    }
    do_flush();
    memset(image, 0, sizeof(image));
    ck_assert_int_eq(
        bmig_record_cut_power(filter, bmig_record_events(filter), 1, image, DISK_BYTES), 0);
    ck_assert_int_eq(test_run(disk, BMIG_READ, 0, DISK_BYTES, data, 0), 0);
    ck_assert_mem_eq(image, data, DISK_BYTES);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("record");
    TCase *tcase = tcase_create("record");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, every_request_is_logged_in_order);
    tcase_add_test(tcase, failures_and_overlaps_are_logged_as_they_were);
    tcase_add_test(tcase, file_gets_a_line_for_each);
    tcase_add_test(tcase, flushed_and_fua_writes_survive_and_others_may);
    tcase_add_test(tcase, write_under_way_at_the_flush_is_not_covered_by_it);
    tcase_add_test(tcase, later_write_is_never_undone_by_an_earlier_one);
    tcase_add_test(tcase, at_the_end_behind_a_flush_the_image_is_the_disk);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
