/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The region map against a naive one: a struct of bools a region.
 */
#include "blockmig/engine/region_map.h"

#include <check.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/disk_helper.h"

#define KIB UINT64_C(1024)
#define TIB (UINT64_C(1) << 40)

struct naive {
    bool clean, hot, written, unflushed, covered;
};

static struct bmig_region_map map;
static struct naive *naive;
static bool flushing;

static void compare_all(uint64_t from)
{
    uint64_t stale = 0, next = map.count;
    bool same = true;
    for (uint64_t i = 0; i < map.count; i++) {
        same = same && bmig_region_is_clean(&map, i) == naive[i].clean &&
               bmig_region_is_hot(&map, i) == naive[i].hot &&
               bmig_region_is_written(&map, i) == naive[i].written;
        stale += !naive[i].clean;
        if (!naive[i].clean && i >= from && next == map.count)
            next = i;
    }
    ck_assert(same);
    ck_assert_uint_eq(map.stale_count, stale);
    ck_assert_uint_eq(bmig_region_next_stale(&map, from), next);
}

static void flush_end(bool good)
{
    uint64_t turned = 0;
    for (uint64_t i = 0; i < map.count; i++) {
        if (!good && naive[i].clean && (naive[i].unflushed || naive[i].covered)) {
            naive[i].clean = false;
            turned++;
        }
        naive[i].covered = false;
        if (!good)
            naive[i].unflushed = false;
    }
    ck_assert_uint_eq(bmig_region_flush_end(&map, good), turned);
    flushing = false;
}

static void flush_begin(void)
{
    for (uint64_t i = 0; i < map.count; i++) {
        naive[i].covered = naive[i].covered || naive[i].unflushed;
        naive[i].unflushed = false;
    }
    bmig_region_flush_begin(&map);
    flushing = true;
}

static void change(uint64_t *random)
{
    uint64_t region = test_random(random) % map.count;
    uint64_t last = region + test_random(random) % 70;
    last = last < map.count ? last : map.count - 1;
    switch (test_random(random) % 16) {
    case 0 ... 5:
        bmig_region_set_clean(&map, region);
        naive[region].clean = true;
        naive[region].hot = false;
        break;
    case 6 ... 8:
        bmig_region_set_stale(&map, region);
        naive[region].clean = false;
        break;
    case 9:
        bmig_region_set_hot(&map, region);
        naive[region].hot = true;
        break;
    case 10 ... 12:
        bmig_region_note_write(&map, region, last);
        for (uint64_t i = region; i <= last; i++)
            naive[i].written = naive[i].unflushed = true;
        break;
    case 13 ... 14:
        if (flushing)
            flush_end(test_random(random) % 3 != 0);
        else
            flush_begin();
        break;
    default:
        if (test_random(random) % 20 || flushing)
            break;
        bmig_region_all_unflushed(&map);
        for (uint64_t i = 0; i < map.count; i++)
            naive[i].unflushed = true;
    }
}

static const uint64_t small_sizes[] = {
    1,          512,        64 * KIB,      64 * KIB + 1, 63 * 64 * KIB,
    4096 * KIB, 4097 * KIB, 65 * 64 * KIB, 12345678,     300 * 64 * KIB - 1};

START_TEST(random_changes_agree_with_a_naive_map)
{
    uint64_t size = small_sizes[_i / 2], random = 11 + (uint64_t)_i;
    bool clean = _i % 2;
    ck_assert_int_eq(bmig_region_map_init(&map, size, clean), 0);
    ck_assert_uint_eq(map.count, (size + 64 * KIB - 1) / (64 * KIB));
    naive = calloc(map.count, sizeof(*naive));
    for (uint64_t i = 0; i < map.count; i++)
        naive[i].clean = clean;
    flushing = false;
    for (int step = 0; step < 3000; step++) {
        change(&random);
        compare_all(test_random(&random) % (map.count + 1));
    }
    bmig_region_map_fini(&map);
    free(naive);
}
END_TEST

START_TEST(the_last_region_ends_where_the_disk_does)
{
    for (size_t i = 0; i < sizeof(small_sizes) / sizeof(*small_sizes); i++) {
        uint64_t size = small_sizes[i], at = 0;
        ck_assert_int_eq(bmig_region_map_init(&map, size, false), 0);
        for (uint64_t region = 0; region < map.count; region++) {
            ck_assert_uint_eq(bmig_region_start(&map, region), at);
            at = bmig_region_end(&map, region);
            ck_assert_uint_eq(bmig_region_of(&map, at - 1), region);
        }
        ck_assert_uint_eq(at, size);
        bmig_region_map_fini(&map);
    }
}
END_TEST

START_TEST(a_failed_flush_loses_what_came_before_and_during_it_and_nothing_flushed_earlier)
{
    ck_assert_int_eq(bmig_region_map_init(&map, 256 * 64 * KIB, true), 0);
    bmig_region_note_write(&map, 1, 1);
    bmig_region_flush_begin(&map);
    ck_assert_uint_eq(bmig_region_flush_end(&map, true), 0);
    bmig_region_note_write(&map, 2, 2);
    bmig_region_flush_begin(&map);
    bmig_region_note_write(&map, 3, 3);
    ck_assert_uint_eq(bmig_region_flush_end(&map, false), 2);
    ck_assert(bmig_region_is_clean(&map, 1));
    ck_assert(!bmig_region_is_clean(&map, 2) && !bmig_region_is_clean(&map, 3));
    ck_assert_uint_eq(map.stale_count, 2);

    /* What comes while a good flush is under way is not covered by it. */
    bmig_region_note_write(&map, 4, 4);
    bmig_region_flush_begin(&map);
    bmig_region_note_write(&map, 5, 5);
    ck_assert_uint_eq(bmig_region_flush_end(&map, true), 0);
    bmig_region_flush_begin(&map);
    ck_assert_uint_eq(bmig_region_flush_end(&map, false), 1);
    ck_assert(bmig_region_is_clean(&map, 4) && !bmig_region_is_clean(&map, 5));

    /* Of another replica no flush is known. */
    bmig_region_all_unflushed(&map);
    bmig_region_flush_begin(&map);
    ck_assert_uint_eq(bmig_region_flush_end(&map, false), 256 - 3);
    ck_assert_uint_eq(map.stale_count, 256);
    bmig_region_map_fini(&map);
}
END_TEST

START_TEST(a_map_of_any_size_takes_no_more_than_two_bytes_a_region)
{
    static const uint64_t sizes[] = {1,       KIB * KIB,   KIB * KIB * KIB,    TIB,     TIB + 1,
                                     2 * TIB, 5 * TIB / 2, 16 * TIB - 4 * KIB, 16 * TIB};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        uint64_t size = sizes[i];
        uint32_t shift = bmig_region_map_shift(size);
        ck_assert_uint_ge(shift, 16);
        ck_assert_uint_le(shift, 20);
        ck_assert(size > TIB || shift == 16);
        size_t before = mallinfo2().uordblks + mallinfo2().hblkhd;
        ck_assert_int_eq(bmig_region_map_init(&map, size, false), 0);
        size_t taken = mallinfo2().uordblks + mallinfo2().hblkhd - before;
        ck_assert_uint_le(map.count, UINT64_C(1) << 25);
        /* Five bits a region, in whole words, and a page of malloc's own. */
        ck_assert_uint_le(bmig_region_map_memory_bytes(size), map.count * 5 / 8 + 80);
        ck_assert_uint_le(taken, bmig_region_map_memory_bytes(size) + 8192);
        ck_assert_uint_le(taken, 2 * map.count + 8192);
        ck_assert_uint_eq(map.stale_count, map.count);
        uint64_t last = map.count - 1;
        ck_assert_uint_eq(bmig_region_end(&map, last), size);
        bmig_region_set_clean(&map, last);
        if (last)
            ck_assert_uint_eq(bmig_region_next_stale(&map, last / 2), last / 2);
        ck_assert_uint_eq(bmig_region_next_stale(&map, last), map.count);
        ck_assert_uint_eq(map.stale_count, last);
        bmig_region_map_fini(&map);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("region_map");
    TCase *tcase = tcase_create("region_map");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, random_changes_agree_with_a_naive_map, 0,
                        2 * (int)(sizeof(small_sizes) / sizeof(*small_sizes)));
    tcase_add_test(tcase, the_last_region_ends_where_the_disk_does);
    tcase_add_test(tcase,
                   a_failed_flush_loses_what_came_before_and_during_it_and_nothing_flushed_earlier);
    tcase_add_test(tcase, a_map_of_any_size_takes_no_more_than_two_bytes_a_region);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
