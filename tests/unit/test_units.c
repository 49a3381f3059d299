/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Units: sizes, rates and times, in and out.
 */
#include "blockmig/core/units.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

typedef int parse_function(const char *text, const char *what, uint64_t *value,
                           struct bmig_error *err);

static void takes(parse_function *parse, const char *text, uint64_t want)
{
    struct bmig_error err = {0};
    uint64_t value = 12345;
    int status = parse(text, "it", &value, &err);
    ck_assert_msg(status == 0, "%s: %s", text, err.message);
    ck_assert_msg(value == want, "%s: %llu, not %llu", text, (unsigned long long)value,
                  (unsigned long long)want);
}

static void refuses(parse_function *parse, const char *const *texts)
{
    for (; *texts; texts++) {
        struct bmig_error err = {0};
        uint64_t value = 12345;
        ck_assert_msg(parse(*texts, "--it", &value, &err) < 0, "'%s' was taken", *texts);
        ck_assert_int_eq(err.kind, BMIG_USAGE);
        ck_assert_ptr_nonnull(strstr(err.message, "--it"));
        ck_assert_uint_eq(value, 12345);
    }
}

START_TEST(sizes_are_exact)
{
    takes(bmig_parse_size, "4096", 4096);
    takes(bmig_parse_size, "0", 0);
    takes(bmig_parse_size, "10G", UINT64_C(10) << 30);
    takes(bmig_parse_size, "10g", UINT64_C(10) << 30);
    takes(bmig_parse_size, "1.5T", UINT64_C(3) << 39);
    takes(bmig_parse_size, "512MiB", 512 << 20);
    takes(bmig_parse_size, "10GB", UINT64_C(10000000000));
    takes(bmig_parse_size, "0.5K", 512);
    takes(bmig_parse_size, "0.001KB", 1);
    takes(bmig_parse_size, "1.5 GiB", UINT64_C(3) << 29);
    takes(bmig_parse_size, "9223372036854775807", INT64_MAX);
    takes(bmig_parse_size, "7.5E", UINT64_C(15) << 59);
}
END_TEST

START_TEST(what_is_no_size_is_refused)
{
    static const char *const texts[] = {"",
                                        " ",
                                        "G",
                                        "-1",
                                        "+1",
                                        "1.5",
                                        "0.1K",
                                        "8E",
                                        "9223372036854775808",
                                        "16E",
                                        "99999999999999999999",
                                        "1e3",
                                        "0x10",
                                        "10 ",
                                        " 10",
                                        "10  G",
                                        "10GiBs",
                                        "10Gb",
                                        "1.G",
                                        ".5G",
                                        "1..5G",
                                        "1.5.5G",
                                        "1,5G",
                                        "10%",
                                        "10G/s",
                                        "1.0000000001G",
                                        "10\n",
                                        NULL};
    refuses(bmig_parse_size, texts);
}
END_TEST

START_TEST(rates_are_bytes_per_second)
{
    takes(bmig_parse_rate, "200MiB/s", 200 << 20);
    takes(bmig_parse_rate, "200M", 200 << 20);
    takes(bmig_parse_rate, "1Gbit/s", 125000000);
    takes(bmig_parse_rate, "100MB/s", 100000000);
    takes(bmig_parse_rate, "512B/s", 512);
    takes(bmig_parse_rate, "0", 0);
}
END_TEST

START_TEST(rate_without_unit_is_refused)
{
    static const char *const texts[] = {"200",    "1",       "",     "/s",    "200/s", "-1M",
                                        "1bit/s", "100Mb/s", "9E/s", "M/s",   "1M/h",  "1M/s ",
                                        "1M/s/s", "inf",     "nan",  "1MiB/", "00.5",  NULL};
    refuses(bmig_parse_rate, texts);
}
END_TEST

START_TEST(durations_are_nanoseconds)
{
    takes(bmig_parse_duration, "5ms", 5000000);
    takes(bmig_parse_duration, "250us", 250000);
    takes(bmig_parse_duration, "10m", UINT64_C(600000000000));
    takes(bmig_parse_duration, "2h", UINT64_C(7200000000000));
    takes(bmig_parse_duration, "1.5s", 1500000000);
    takes(bmig_parse_duration, "1m20s", UINT64_C(80000000000));
    takes(bmig_parse_duration, "0", 0);
    takes(bmig_parse_duration, "0s", 0);
    takes(bmig_parse_duration, "100000d", UINT64_C(8640000000000000000));
}
END_TEST

START_TEST(what_is_no_duration_is_refused)
{
    static const char *const texts[] = {"5",  "",     "ms",    "-5ms",    "20s1m", "1s1s", "5 ",
                                        "5x", "1m20", "0.1ns", "200000d", "1m-1s", "5MS",  NULL};
    refuses(bmig_parse_duration, texts);
}
END_TEST

START_TEST(sizes_are_shown_short)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {
        {0, "0 B"},
        {512, "512 B"},
        {1023, "1023 B"},
        {1024, "1 KiB"},
        {1536, "1.5 KiB"},
        {UINT64_C(3) << 29, "1.5 GiB"},
        {200 << 20, "200 MiB"},
        {(UINT64_C(1) << 30) - 1, "1 GiB"},
        {UINT64_MAX, "16 EiB"},
        {(UINT64_C(1) << 20) - 500, "1 MiB"},
        {1023 * 1024, "1023 KiB"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[32];
        ck_assert_str_eq(bmig_format_size(text, sizeof(text), cases[i].bytes), cases[i].text);
    }
}
END_TEST

START_TEST(durations_are_shown_short)
{
    static const struct {
        uint64_t ns;
        const char *text;
    } cases[] = {
        {0, "0 ns"},
        {999, "999 ns"},
        {5200000, "5.2 ms"},
        {250000, "250 us"},
        {1500, "1.5 us"},
        {999999, "1 ms"},
        {UINT64_C(999999999), "1 s"},
        {UINT64_C(59990000000), "59.9 s"},
        {UINT64_C(80000000000), "1m20s"},
        {UINT64_C(7260000000000), "2h1m"},
        {UINT64_C(90000000000000), "1d1h"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[32];
        ck_assert_str_eq(bmig_format_duration(text, sizeof(text), cases[i].ns), cases[i].text);
    }
    char text[32];
    bmig_format_duration(text, sizeof(text), UINT64_MAX);
    ck_assert_uint_lt(strlen(text), 32);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("units");
    TCase *tcase = tcase_create("units");
    tcase_add_test(tcase, sizes_are_exact);
    tcase_add_test(tcase, what_is_no_size_is_refused);
    tcase_add_test(tcase, rates_are_bytes_per_second);
    tcase_add_test(tcase, rate_without_unit_is_refused);
    tcase_add_test(tcase, durations_are_nanoseconds);
    tcase_add_test(tcase, what_is_no_duration_is_refused);
    tcase_add_test(tcase, sizes_are_shown_short);
    tcase_add_test(tcase, durations_are_shown_short);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
