/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The progress line at every width, and what the painter writes where.
 */
#include "cli/progress.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static const struct bmig_progress busy = {
    .label = "job 7",
    .phase = "copying",
    .percent = 43.26,
    .rate_bytes_per_s = UINT64_C(1395864371),
    .eta_s = 80,
    .stale_bytes = UINT64_C(6) << 30,
    .guest_p99_us = 1230,
    .guest_p99_us_before = 900,
};

static const struct {
    unsigned width;
    const char *line;
} widths[] = {
    {200, "job 7: copying  43.3%  1.3 GiB/s  ETA 1m20s  6.0 GiB to go  guest p99 1.2 ms (900 us "
          "before)"},
    {79, "job 7: copying  43.3%  1.3 GiB/s  ETA 1m20s  6.0 GiB to go  guest p99 1.2 ms"},
    {70, "job 7: copying  43.3%  1.3 GiB/s  ETA 1m20s  6.0 GiB to go"},
    {44, "job 7: copying  43.3%  1.3 GiB/s  ETA 1m20s"},
    {40, "job 7: copying  43.3%  1.3 GiB/s"},
    {22, "job 7: copying  43.3%"},
    {14, "job 7: copying"},
    {9, "job 7: co"},
    {1, "j"},
    {0, ""},
};

START_TEST(a_narrow_line_keeps_what_matters_most)
{
    char text[256];
    size_t length = bmig_progress_line(text, sizeof(text), widths[_i].width, &busy);
    ck_assert_str_eq(text, widths[_i].line);
    ck_assert_uint_eq(length, strlen(text));
}
END_TEST

START_TEST(no_line_is_wider_than_asked_or_than_its_buffer)
{
    char text[48];
    for (unsigned width = 0; width < 200; width++) {
        memset(text, '#', sizeof(text));
        size_t length = bmig_progress_line(text, 40, width, &busy);
        ck_assert_uint_eq(length, strlen(text));
        ck_assert_uint_le(length, width);
        ck_assert_uint_lt(length, 40);
        ck_assert_int_eq(text[40], '#');
    }
}
END_TEST

START_TEST(what_is_unknown_takes_no_room)
{
    struct bmig_progress progress = {.label = "copy",
                                     .phase = "verifying",
                                     .percent = -1,
                                     .eta_s = UINT64_MAX,
                                     .stale_bytes = UINT64_MAX,
                                     .guest_p99_us = UINT64_MAX,
                                     .guest_p99_us_before = UINT64_MAX};
    char text[128];
    bmig_progress_line(text, sizeof(text), 100, &progress);
    ck_assert_str_eq(text, "copy: verifying");
    progress.percent = 100.5;
    progress.eta_s = 7300;
    bmig_progress_line(text, sizeof(text), 100, &progress);
    ck_assert_str_eq(text, "copy: verifying  100.0%  ETA 2h01m");
    progress.eta_s = 9;
    bmig_progress_line(text, sizeof(text), 100, &progress);
    ck_assert_str_eq(text, "copy: verifying  100.0%  ETA 9s");
}
END_TEST

static const struct {
    const char *job, *line;
} jobs[] = {
    {"{\"id\":3,\"state\":\"running\",\"phase\":\"copying\",\"percent\":12.5,\"rate_bytes_per_s\":"
     "1048576,"
     "\"eta_s\":61,\"stale_bytes\":1024,\"guest_p99_us\":0,\"guest_p99_us_before\":0}",
     "job 3: copying  12.5%  1.0 MiB/s  ETA 1m01s  1.0 KiB to go"},
    {"{\"id\":3,\"state\":\"paused\",\"phase\":\"copying\",\"percent\":12.5,\"eta_s\":null}",
     "job 3: paused  12.5%"},
    {"{\"id\":3,\"state\":\"undo-window\",\"percent\":100}", "job 3: undo-window  100.0%"},
    {"{\"id\":3,\"state\":\"running\",\"phase\":\"\",\"eta_s\":-1}", "job 3: running"},
    {"{}", "job 0: ?"},
};

START_TEST(a_job_object_becomes_a_line)
{
    struct bmig_progress progress;
    char text[128];
    json_t *job = json_loads(jobs[_i].job, 0, NULL);
    ck_assert_ptr_nonnull(job);
    bmig_progress_of_job(&progress, job);
    bmig_progress_line(text, sizeof(text), 100, &progress);
    ck_assert_str_eq(text, jobs[_i].line);
    json_decref(job);
}
END_TEST

static char *painted;
static size_t painted_size;

static struct bmig_painter painter(bool terminal)
{
    struct bmig_painter made = {.out = open_memstream(&painted, &painted_size),
                                .terminal = terminal};
    ck_assert_ptr_nonnull(made.out);
    return made;
}

START_TEST(without_a_terminal_lines_come_at_phases_and_every_five_seconds)
{
    struct bmig_painter plain = painter(false);
    struct bmig_progress progress = {.label = "job 1",
                                     .phase = "copying",
                                     .percent = 1,
                                     .eta_s = UINT64_MAX,
                                     .stale_bytes = UINT64_MAX,
                                     .guest_p99_us = UINT64_MAX};
    const uint64_t second = 1000000000;
    bmig_painter_show(&plain, &progress, 100 * second);
    progress.percent = 2;
    bmig_painter_show(&plain, &progress, 104 * second);
    progress.percent = 3;
    bmig_painter_show(&plain, &progress, 105 * second);
    strcpy(progress.phase, "synced");
    bmig_painter_show(&plain, &progress, 106 * second);
    bmig_painter_show(&plain, &progress, 107 * second);
    bmig_painter_clear(&plain);
    fclose(plain.out);
    ck_assert_str_eq(painted, "job 1: copying  1.0%\njob 1: copying  3.0%\njob 1: synced  3.0%\n");
    free(painted);
}
END_TEST

START_TEST(a_quiet_painter_paints_nothing)
{
    struct bmig_painter quiet = painter(false);
    quiet.quiet = true;
    bmig_painter_show(&quiet, &busy, 0);
    bmig_painter_clear(&quiet);
    fclose(quiet.out);
    ck_assert_str_eq(painted, "");
    free(painted);
}
END_TEST

START_TEST(on_a_terminal_a_shorter_line_leaves_nothing_of_the_longer)
{
    struct bmig_painter screen = painter(true);
    struct bmig_progress progress = {.label = "a",
                                     .phase = "bcd",
                                     .percent = -1,
                                     .eta_s = UINT64_MAX,
                                     .stale_bytes = UINT64_MAX,
                                     .guest_p99_us = UINT64_MAX};
    bmig_painter_show(&screen, &progress, 0);
    strcpy(progress.phase, "b");
    bmig_painter_show(&screen, &progress, 1);
    bmig_painter_clear(&screen);
    fclose(screen.out);
    ck_assert_str_eq(painted, "\ra: bcd\ra: b  \b\b\r    \r");
    free(painted);
}
END_TEST

int main(void)
{
    TCase *cases = tcase_create("progress");
    tcase_add_loop_test(cases, a_narrow_line_keeps_what_matters_most, 0,
                        sizeof(widths) / sizeof(widths[0]));
    tcase_add_test(cases, no_line_is_wider_than_asked_or_than_its_buffer);
    tcase_add_test(cases, what_is_unknown_takes_no_room);
    tcase_add_loop_test(cases, a_job_object_becomes_a_line, 0, sizeof(jobs) / sizeof(jobs[0]));
    tcase_add_test(cases, without_a_terminal_lines_come_at_phases_and_every_five_seconds);
    tcase_add_test(cases, a_quiet_painter_paints_nothing);
    tcase_add_test(cases, on_a_terminal_a_shorter_line_leaves_nothing_of_the_longer);
    Suite *suite = suite_create("cli_progress");
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
