/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Images: stacks of backend, filters and format, and the words that name them. Raw with it.
 */
#include "blockmig/stack/image.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/backends.h"
#include "formats/formats.h"
#include "tests/unit/disk_helper.h"

static struct bmig_loop *loop;
static const struct bmig_open_options writing = {.writable = true};
static const struct bmig_open_options reading;

static void setup(void)
{
    ck_assert_int_eq(bmig_loop_new(&loop, BMIG_LOOP_VIRTUAL, NULL), 0);
}

static void teardown(void)
{
    bmig_loop_free(loop);
}

static void refused(const char *uri, const char *format, const char *filters,
                    enum bmig_error_kind kind, const char *why)
{
    struct bmig_disk *disk = NULL;
    struct bmig_error err = {0};
    struct bmig_image_spec spec = {.uri = uri, .format = format, .filters = filters};
    ck_assert_msg(bmig_image_open(&disk, &spec, &writing, &err) < 0, "%s was opened", uri);
    ck_assert_msg(err.kind == kind && strstr(err.message, why), "%s", err.message);
}

START_TEST(stack_is_backend_filters_from_the_top_down_and_format)
{
    struct bmig_disk *disk =
        test_open(loop, "mem:?size=1M", " delay:?write=1ms   record:? faults:? ", &writing);
    static const struct bmig_driver *const want[] = {&bmig_raw_driver, &bmig_delay_driver,
                                                     &bmig_record_driver, &bmig_faults_driver,
                                                     &bmig_mem_driver};
    struct bmig_disk *level = disk;
    for (size_t i = 0; i < 5; i++, level = level->next) {
        ck_assert_ptr_eq(level->driver, want[i]);
        ck_assert_uint_eq(level->size_bytes, 1 << 20);
        ck_assert_str_eq(level->name, "mem:?size=1M");
        ck_assert(level->known_zero);
        ck_assert_uint_eq(level->caps, disk->caps);
    }
    ck_assert_ptr_null(level);
    test_close(disk);
}
END_TEST

START_TEST(stack_is_as_high_as_it_may_be_and_no_higher)
{
    uint8_t data[512] = {1};
    struct bmig_disk *disk =
        test_open(loop, "mem:?size=1M",
                  "faults:? faults:? faults:? faults:? faults:? delay:?write=1ms", &writing);
    ck_assert_int_eq(test_run(disk, BMIG_WRITE, 0, 512, data, 0), 0);
    test_close(disk);
    refused("mem:?size=1M", NULL, "faults:? faults:? faults:? faults:? faults:? faults:? faults:?",
            BMIG_USAGE, "more than 6 filters");
}
END_TEST

START_TEST(raw_passes_everything_on_as_it_is)
{
    uint8_t data[1024], back[1024];
    struct bmig_extent list[4];
    struct bmig_extents extents = {list, 0, 4};
    struct bmig_disk *disk = test_open(loop, "mem:?size=1M", NULL, &writing);
    memset(data, 0x77, sizeof(data));
    ck_assert_int_eq(test_run(disk, BMIG_WRITE, 65536, 1024, data, BMIG_FUA), 0);
    ck_assert_int_eq(test_run(disk, BMIG_READ, 65536, 1024, back, 0), 0);
    ck_assert_mem_eq(data, back, 1024);
    ck_assert_int_eq(test_run(disk, BMIG_FLUSH, 0, 0, NULL, 0), 0);
    struct bmig_request request = {.op = BMIG_EXTENTS, .length = 1 << 20, .extents = &extents};
    ck_assert_int_eq(bmig_disk_run(disk, &request), 0);
    ck_assert_uint_eq(extents.count, 3);
    ck_assert_uint_eq(list[0].length_bytes, 65536);
    ck_assert_int_eq(test_run(disk, BMIG_ZERO, 65536, 1024, NULL, 0), 0);
    ck_assert_int_eq(test_run(disk, BMIG_READ, 65536, 1024, back, 0), 0);
    ck_assert_uint_eq(back[0], 0);
    ck_assert_uint_eq(disk->next->stats.requests[BMIG_WRITE], 1);
    ck_assert_uint_eq(disk->next->stats.requests[BMIG_ZERO], 1);
    test_close(disk);
}
END_TEST

START_TEST(format_is_named_or_follows_the_ending)
{
    ck_assert_str_eq(bmig_format_by_ending("/a/b.raw"), "raw");
    ck_assert_str_eq(bmig_format_by_ending("/a/b.img"), "raw");
    ck_assert_str_eq(bmig_format_by_ending("/a.qcow2/b"), "raw");
    ck_assert_str_eq(bmig_format_by_ending(""), "raw");
    ck_assert_str_eq(bmig_format_by_ending("/a/b.QCOW2"), "qcow2");
    ck_assert_str_eq(bmig_format_by_ending("/a/b.vmdk"), "vmdk");
    ck_assert_ptr_eq(bmig_format_find("raw"), &bmig_raw_driver);
    ck_assert_ptr_null(bmig_format_find("nosuch"));
    refused("/none", "nosuch", NULL, BMIG_USAGE, "no format 'nosuch'");
    refused("mem:x.vhdx?size=1M", "vhdx2", NULL, BMIG_USAGE, "no format 'vhdx2'");
    refused("/none.vhdx", NULL, NULL, BMIG_REFUSED, "its name says so");
}
END_TEST

START_TEST(bad_words_are_refused_and_leave_nothing_open)
{
    refused("delay:?read=5ms", NULL, NULL, BMIG_USAGE, "names no place");
    refused("mem:?size=1M", NULL, "mem:?size=1M", BMIG_USAGE, "no such filter");
    refused("mem:?size=1M", NULL, "delay:?read=5ms faults:?op=x", BMIG_USAGE, "operations are");
    refused("mem:?size=1M", NULL, "delay:?x=1 faults:?", BMIG_USAGE, "no parameter 'x'");
    refused("mem:gone", NULL, NULL, BMIG_NOT_FOUND, "no such image");
    refused("", NULL, NULL, BMIG_USAGE, "empty");
}
END_TEST

START_TEST(image_is_created_seen_opened_and_removed)
{
    struct bmig_image_spec spec = {.uri = "mem:image-life"};
    struct bmig_place_stat stat;
    struct bmig_error err = {0};
    ck_assert_int_eq(bmig_image_stat(&spec, &reading, &stat, &err), 0);
    ck_assert(!stat.exists);
    ck_assert_int_eq(bmig_image_create(&spec, 1 << 20, &writing, &err), 0);
    ck_assert_int_eq(bmig_image_stat(&spec, &reading, &stat, &err), 0);
    ck_assert(stat.exists && stat.size_bytes == 1 << 20);
    ck_assert_int_eq(bmig_image_create(&spec, 1 << 20, &writing, &err), -EEXIST);
    struct bmig_disk *disk = test_open(loop, "mem:image-life", NULL, &writing);
    ck_assert_uint_eq(disk->size_bytes, 1 << 20);
    test_close(disk);
    err = (struct bmig_error){0};
    ck_assert_int_eq(bmig_image_remove(&spec, &writing, &err), 0);
    ck_assert_int_eq(bmig_image_stat(&spec, &reading, &stat, &err), 0);
    ck_assert(!stat.exists);
    ck_assert_int_eq(bmig_image_create(&spec, 0, &writing, &err), -EINVAL);
    ck_assert_int_eq(err.kind, BMIG_USAGE);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("image");
    TCase *tcase = tcase_create("image");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, stack_is_backend_filters_from_the_top_down_and_format);
    tcase_add_test(tcase, stack_is_as_high_as_it_may_be_and_no_higher);
    tcase_add_test(tcase, raw_passes_everything_on_as_it_is);
    tcase_add_test(tcase, format_is_named_or_follows_the_ending);
    tcase_add_test(tcase, bad_words_are_refused_and_leave_nothing_open);
    tcase_add_test(tcase, image_is_created_seen_opened_and_removed);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
