/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The histogram against the sorted values themselves.
 */
#include "blockmig/core/histogram.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

START_TEST(empty_histogram_has_percentile_zero)
{
    static struct bmig_histogram histogram;
    bmig_histogram_reset(&histogram);
    ck_assert_uint_eq(bmig_histogram_percentile(&histogram, 0.99), 0);
}
END_TEST

START_TEST(percentiles_are_within_a_bucket_of_the_sorted_values)
{
    static struct bmig_histogram histogram;
    static uint64_t values[20000];
    const double fractions[] = {0, 0.01, 0.5, 0.9, 0.99, 0.999, 0.9999, 1};
    for (uint64_t seed = 1; seed <= 20; seed++) {
        uint64_t state = seed * UINT64_C(0x9e3779b97f4a7c15);
        bmig_histogram_reset(&histogram);
        for (size_t i = 0; i < 20000; i++) {
            values[i] = next_random(&state) >> (22 + next_random(&state) % 40);
            bmig_histogram_add(&histogram, values[i]);
        }
        qsort(values, 20000, sizeof(values[0]), compare);
        for (size_t i = 0; i < sizeof(fractions) / sizeof(fractions[0]); i++) {
            double rank = ceil(fractions[i] * 20000);
            uint64_t want = values[rank < 1 ? 0 : (size_t)rank - 1];
            uint64_t got = bmig_histogram_percentile(&histogram, fractions[i]);
            ck_assert_uint_ge(got, want);
            ck_assert_uint_le(got, want + want / 32 + 64);
            ck_assert_uint_le(got, histogram.max_ns);
        }
        ck_assert_uint_eq(bmig_histogram_percentile(&histogram, 1), values[19999]);
    }
}
END_TEST

START_TEST(every_power_of_two_has_its_bucket)
{
    static struct bmig_histogram histogram;
    for (unsigned shift = 0; shift < 64; shift++)
        for (int delta = -1; delta <= 1; delta++) {
            uint64_t value = (UINT64_C(1) << shift) + (uint64_t)delta;
            bmig_histogram_reset(&histogram);
            bmig_histogram_add(&histogram, value);
            bmig_histogram_add(&histogram, UINT64_MAX);
            uint64_t got = bmig_histogram_percentile(&histogram, 0.5);
            ck_assert_uint_ge(got, value);
            if (shift < 42)
                ck_assert_uint_le(got, value + value / 32 + 64);
        }
}
END_TEST

START_TEST(merged_is_the_same_as_recorded_in_one)
{
    static struct bmig_histogram one, two, all;
    uint64_t state = 42;
    for (size_t i = 0; i < 5000; i++) {
        uint64_t value = next_random(&state) >> 34;
        bmig_histogram_add(i % 3 ? &one : &two, value);
        bmig_histogram_add(&all, value);
    }
    bmig_histogram_merge(&one, &two);
    ck_assert_mem_eq(&one, &all, sizeof(all));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("histogram");
    TCase *tcase = tcase_create("histogram");
    tcase_add_test(tcase, empty_histogram_has_percentile_zero);
    tcase_add_test(tcase, percentiles_are_within_a_bucket_of_the_sorted_values);
    tcase_add_test(tcase, every_power_of_two_has_its_bucket);
    tcase_add_test(tcase, merged_is_the_same_as_recorded_in_one);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
