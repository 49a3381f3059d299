/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What is printed: cleaned of what a terminal would obey, aligned, and valid JSON whatever the
 * names.
 */
#include "cli/output.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "cli/disk_xml.h"
#include "cli/follow.h"

static const struct {
    const char *text, *clean;
} texts[] = {
    {"plain", "plain"},
    {"", ""},
    {"a\nb", "a\\nb"},
    {"\x1b[2J", "\\x1b[2J"},
    {"\x7f", "\\x7f"},
    {"gr\xc3\xbc\xc3\x9f", "gr\xc3\xbc\xc3\x9f"},
    {"\xc2\x9b", "\\xc2\\x9b"}, /* CSI as a C1 control */
    {"\xff\xfe", "\\xff\\xfe"},
    {"\xc3", "\\xc3"},                   /* cut in the middle */
    {"\xc0\xaf", "\\xc0\\xaf"},          /* overlong '/' */
    {"\xed\xa0\x80", "\\xed\\xa0\\x80"}, /* a surrogate */
    {"\xf0\x9f\x92\xbe", "\xf0\x9f\x92\xbe"},
};

START_TEST(control_characters_and_broken_utf8_are_written_out)
{
    char *clean = bmig_output_clean(texts[_i].text);
    ck_assert_str_eq(clean, texts[_i].clean);
    json_t *string = bmig_output_json_text(texts[_i].text);
    ck_assert_str_eq(json_string_value(string), texts[_i].clean);
    json_decref(string);
    free(clean);
}
END_TEST

static const struct {
    enum bmig_error_kind kind;
    int exit_code;
    const char *name;
} kinds[] = {
    {BMIG_OK, 0, "ok"},
    {BMIG_FAILED, 1, "failed"},
    {BMIG_USAGE, 2, "usage"},
    {BMIG_REFUSED, 3, "refused"},
    {BMIG_CANCELLED, 4, "cancelled"},
    {BMIG_NO_DAEMON, 5, "no-daemon"},
    {BMIG_NOT_FOUND, 6, "not-found"},
    {BMIG_DENIED, 7, "denied"},
    {BMIG_TIMED_OUT, 8, "timed-out"},
};

START_TEST(kinds_are_exit_codes)
{
    ck_assert_int_eq((int)kinds[_i].kind, kinds[_i].exit_code);
    ck_assert_int_eq(bmig_error_kind_from_name(kinds[_i].name), kinds[_i].kind);
}
END_TEST

static char *error_text(bool json, const struct bmig_error *err)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    bmig_output_error(out, json, err);
    fclose(out);
    return text;
}

START_TEST(an_error_is_a_line_or_an_object)
{
    struct bmig_error err = {BMIG_REFUSED, 28, "no room in \"x\"\n\xff"};
    char *text = error_text(false, &err);
    ck_assert_str_eq(text, "blockmig: no room in \"x\"\\n\\xff\n");
    free(text);
    text = error_text(true, &err);
    json_t *object = json_loads(text, 0, NULL);
    const json_t *error = json_object_get(object, "error");
    ck_assert_str_eq(bmig_json_text(error, "kind", ""), "refused");
    ck_assert_uint_eq(bmig_json_u64(error, "code", 0), 28);
    ck_assert_str_eq(bmig_json_text(error, "message", ""), "no room in \"x\"\\n\\xff");
    json_decref(object);
    free(text);
}
END_TEST

static const struct {
    const char *job;
    enum bmig_error_kind kind;
    bool final;
    const char *says;
} outcomes[] = {
    {"{\"id\":4,\"state\":\"done\"}", BMIG_OK, true, ""},
    {"{\"id\":4,\"state\":\"running\"}", BMIG_OK, false, ""},
    {"{\"id\":4,\"state\":\"undo-window\"}", BMIG_OK, false, ""},
    {"{\"id\":4,\"state\":\"failed\",\"error\":\"disk on fire\"}", BMIG_FAILED, true,
     "job 4 failed: disk on fire"},
    {"{\"id\":4,\"state\":\"failed\",\"error\":null}", BMIG_FAILED, true, "job 4 failed"},
    {"{\"id\":4,\"state\":\"failed\",\"error\":{\"kind\":\"failed\",\"code\":5,\"message\":\"m\"}}",
     BMIG_FAILED, true, "job 4 failed: m"},
    {"{\"id\":4,\"state\":\"cancelled\"}", BMIG_CANCELLED, true,
     "job 4 was cancelled; the volume is where it was"},
};

START_TEST(a_final_job_decides_the_exit_code)
{
    struct bmig_error err = {0};
    json_t *job = json_loads(outcomes[_i].job, 0, NULL);
    ck_assert_int_eq(bmig_job_is_final(job), outcomes[_i].final);
    ck_assert_int_eq(bmig_job_outcome(job, &err) < 0, outcomes[_i].kind != BMIG_OK);
    ck_assert_int_eq(err.kind, outcomes[_i].kind);
    ck_assert_str_eq(err.message, outcomes[_i].says);
    json_decref(job);
}
END_TEST

START_TEST(tables_are_aligned_by_characters)
{
    static const char *const titles[] = {"NAME", ">SIZE", NULL};
    struct bmig_table table;
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    bmig_table_init(&table, titles);
    bmig_table_add(&table, "b\xc3\xbc");
    bmig_table_add_size(&table, UINT64_C(10) << 30);
    bmig_table_add(&table, "longer");
    bmig_table_add_size(&table, 512);
    bmig_table_print(&table, out, "none");
    fclose(out);
    ck_assert_str_eq(text, "NAME         SIZE\n"
                           "b\xc3\xbc       10.0 GiB\n"
                           "longer  512 bytes\n");
    free(text);
}
END_TEST

static const struct {
    uint64_t bytes;
    const char *text;
} sizes[] = {
    {0, "0 bytes"},         {1, "1 byte"},           {1023, "1023 bytes"},
    {1024, "1.0 KiB"},      {1048575, "1.0 MiB"},    {UINT64_C(10) << 30, "10.0 GiB"},
    {INT64_MAX, "8.0 EiB"}, {UINT64_MAX, "unknown"},
};

START_TEST(sizes_have_one_decimal)
{
    char text[32];
    ck_assert_str_eq(bmig_output_size(text, sizeof(text), sizes[_i].bytes), sizes[_i].text);
}
END_TEST

START_TEST(a_jobs_number_is_a_number)
{
    static const char *const wrong[] = {
        "", "0", "-1", "+1", "1x", "x", " 1", "0x1", "99999999999999999999"};
    uint64_t job;
    struct bmig_error err = {0};
    ck_assert_int_eq(bmig_job_parse("7", &job, &err), 0);
    ck_assert_uint_eq(job, 7);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        memset(&err, 0, sizeof(err));
        ck_assert_int_lt(bmig_job_parse(wrong[i], &job, &err), 0);
        ck_assert_int_eq(err.kind, BMIG_USAGE);
    }
}
END_TEST

START_TEST(the_disk_xml_names_socket_or_host_and_escapes)
{
    struct bmig_error err = {0};
    char *xml = NULL;
    ck_assert_int_eq(bmig_disk_xml("nbd+unix:///web1?socket=/run/a%27b%26c", "we<b", &xml, &err),
                     0);
    ck_assert_ptr_nonnull(strstr(xml, "<source protocol='nbd' name='web1'>"));
    ck_assert_ptr_nonnull(strstr(xml, "<host transport='unix' socket='/run/a&apos;b&amp;c'/>"));
    ck_assert_ptr_nonnull(strstr(xml, "<serial>we&lt;b</serial>"));
    free(xml);
    ck_assert_int_eq(bmig_disk_xml("nbd://127.0.0.1:4711/web1", "web1", &xml, &err), 0);
    ck_assert_ptr_nonnull(strstr(xml, "<host name='127.0.0.1' port='4711'/>"));
    free(xml);
    ck_assert_int_lt(bmig_disk_xml("file:///x", "x", &xml, &err), 0);
}
END_TEST

#define COUNT(table) (int)(sizeof(table) / sizeof(table[0]))

int main(void)
{
    TCase *cases = tcase_create("output");
    tcase_add_loop_test(cases, control_characters_and_broken_utf8_are_written_out, 0, COUNT(texts));
    tcase_add_loop_test(cases, kinds_are_exit_codes, 0, COUNT(kinds));
    tcase_add_test(cases, an_error_is_a_line_or_an_object);
    tcase_add_loop_test(cases, a_final_job_decides_the_exit_code, 0, COUNT(outcomes));
    tcase_add_test(cases, tables_are_aligned_by_characters);
    tcase_add_loop_test(cases, sizes_have_one_decimal, 0, COUNT(sizes));
    tcase_add_test(cases, a_jobs_number_is_a_number);
    tcase_add_test(cases, the_disk_xml_names_socket_or_host_and_escapes);
    Suite *suite = suite_create("cli_output");
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
