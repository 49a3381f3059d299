/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * URIs and plain paths: what each becomes, and what is refused.
 */
#include "blockmig/core/uri.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct bmig_uri parse(const char *text)
{
    struct bmig_uri uri;
    struct bmig_error err = {0};
    int status = bmig_uri_parse(&uri, text, &err);
    ck_assert_msg(status == 0, "%s: %s", text, err.message);
    return uri;
}

static void refused(const char *text, const char *why)
{
    struct bmig_uri uri;
    struct bmig_error err = {0};
    ck_assert_msg(bmig_uri_parse(&uri, text, &err) < 0, "%s was taken", text);
    ck_assert_int_eq(err.kind, BMIG_USAGE);
    ck_assert_msg(strstr(err.message, why) != NULL, "%s: '%s' lacks '%s'", text, err.message, why);
}

START_TEST(nfs_uri_has_host_port_path_and_params)
{
    struct bmig_uri uri = parse("nfs://filer:2050/export/a%20b.img?uid=10&gid=20");
    ck_assert_str_eq(uri.scheme, "nfs");
    ck_assert_str_eq(uri.host, "filer");
    ck_assert_uint_eq(uri.port, 2050);
    ck_assert_ptr_null(uri.user);
    ck_assert_str_eq(uri.path, "/export/a b.img");
    ck_assert_uint_eq(uri.param_count, 2);
    ck_assert_str_eq(bmig_uri_param(&uri, "uid"), "10");
    ck_assert_str_eq(bmig_uri_param(&uri, "gid"), "20");
    ck_assert_ptr_null(bmig_uri_param(&uri, "port"));
    bmig_uri_fini(&uri);
}
END_TEST

START_TEST(iscsi_uri_has_user_iqn_and_lun)
{
    struct bmig_uri uri = parse("iscsi://us%40er@[fd00::1]:3260/iqn.2026-01.org.example:disk/1");
    ck_assert_str_eq(uri.user, "us@er");
    ck_assert_str_eq(uri.host, "fd00::1");
    ck_assert_uint_eq(uri.port, 3260);
    ck_assert_str_eq(uri.path, "/iqn.2026-01.org.example:disk/1");
    bmig_uri_fini(&uri);
    uri = parse("iscsi://127.0.0.1/iqn.a/0");
    ck_assert_uint_eq(uri.port, 0);
    bmig_uri_fini(&uri);
}
END_TEST

START_TEST(nbd_unix_uri_has_export_and_socket)
{
    struct bmig_uri uri = parse("nbd+unix:///exp%2Fort?socket=/run/a%26b.sock");
    ck_assert_str_eq(uri.scheme, "nbd+unix");
    ck_assert_ptr_null(uri.host);
    ck_assert_str_eq(uri.path, "/exp/ort");
    ck_assert_str_eq(bmig_uri_param(&uri, "socket"), "/run/a&b.sock");
    bmig_uri_fini(&uri);
    uri = parse("nbd://localhost");
    ck_assert_str_eq(uri.path, "");
    bmig_uri_fini(&uri);
}
END_TEST

START_TEST(mem_and_filters_take_a_name)
{
    struct bmig_uri uri = parse("mem:disk1?size=1G");
    ck_assert_str_eq(uri.path, "disk1");
    ck_assert_str_eq(bmig_uri_param(&uri, "size"), "1G");
    bmig_uri_fini(&uri);
    uri = parse("delay:?read=5ms");
    ck_assert_str_eq(uri.scheme, "delay");
    ck_assert_str_eq(uri.path, "");
    bmig_uri_fini(&uri);
    uri = parse("faults:?");
    ck_assert_uint_eq(uri.param_count, 0);
    bmig_uri_fini(&uri);
    uri = parse("mem:");
    bmig_uri_fini(&uri);
}
END_TEST

START_TEST(file_uri_is_decoded_and_made_absolute)
{
    struct bmig_uri uri = parse("file:///var/a%3Fb%25");
    ck_assert_str_eq(uri.path, "/var/a?b%");
    bmig_uri_fini(&uri);
    uri = parse("file://localhost/x");
    ck_assert_str_eq(uri.path, "/x");
    bmig_uri_fini(&uri);
    uri = parse("file:/x?direct=off");
    ck_assert_str_eq(uri.path, "/x");
    ck_assert_str_eq(bmig_uri_param(&uri, "direct"), "off");
    bmig_uri_fini(&uri);
    char *folder = getcwd(NULL, 0), want[4200];
    snprintf(want, sizeof(want), "%s/rel/a", folder);
    uri = parse("file:rel/a");
    ck_assert_str_eq(uri.path, want);
    bmig_uri_fini(&uri);
    free(folder);
}
END_TEST

START_TEST(plain_path_is_taken_byte_for_byte)
{
    static const char *const names[] = {
        "a.img",        "100%.img",
        "what?.img",    "a:b",
        "C:\\x",        "json:{}",
        "disk:1?x=%zz", "dir/nfs://host/x",
        "./nfs://h/",   "-f",
        "..",           "a\nb",
        "\x01",         "x#y",
        "nfs",          ":",
        "%00",          "/a/b://u:pass@h/c",
        "1x://y",       "name\n",
        "repo:nfs",     "\xc3\xa9\xff.img",
        "fileX:y",      "n:/x",
    };
    char *folder = getcwd(NULL, 0), want[4200];
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct bmig_uri uri = parse(names[i]);
        snprintf(want, sizeof(want), "%s/%s", folder, names[i]);
        ck_assert_str_eq(uri.scheme, "file");
        ck_assert_str_eq(uri.path, names[i][0] == '/' ? names[i] : want);
        ck_assert_str_eq(uri.text, names[i]);
        ck_assert_uint_eq(uri.param_count, 0);
        bmig_uri_fini(&uri);
    }
    free(folder);
}
END_TEST

START_TEST(scheme_before_slashes_is_found_in_any_case)
{
    struct bmig_uri uri = parse("NFS://h/x");
    ck_assert_str_eq(uri.scheme, "nfs");
    bmig_uri_fini(&uri);
    uri = parse("NFS:x");
    ck_assert_str_eq(uri.scheme, "file");
    bmig_uri_fini(&uri);
}
END_TEST

START_TEST(bad_uri_is_refused_with_its_reason)
{
    refused("", "empty");
    refused("ftp://host/x", "no such scheme");
    refused("nfs:host:/x", "nfs://HOST/");
    refused("nfs:/x", "put ./ before");
    refused("nbd:localhost:10809", "nbd://HOST/");
    refused("nfs:///export/x", "no host");
    refused("nfs://@h/x", "no user");
    refused("nfs://h:0/x", "port");
    refused("nfs://h:65536/x", "port");
    refused("nfs://h:/x", "port");
    refused("nfs://h:12a/x", "port");
    refused("nfs://h:123456789012345678901/x", "port");
    refused("nfs://::1/x", "brackets");
    refused("nfs://[::1/x", "']'");
    refused("nfs://[::1]x/x", "between");
    refused("nfs://[host]/x", "IPv6");
    refused("nfs://h/%00", "%00");
    refused("nfs://h/%0a", "control");
    refused("nfs://h/\n", "control");
    refused("nfs://h/%7f", "control");
    refused("nfs://h/%4", "hexadecimal");
    refused("nfs://h/%", "hexadecimal");
    refused("nfs://h/%zz", "hexadecimal");
    refused("nfs://h/%4g", "hexadecimal");
    refused("nfs://h/x?a=%00", "%00");
    refused("nfs://h/x?a=1&a=2", "'a' is given twice");
    refused("nfs://h/x?a=1&&b=2", "without a name");
    refused("nfs://h/x?a=1&", "without a name");
    refused("nfs://h/x?=1", "without a name");
    refused("nbd+unix://h/x", "no host");
    refused("file://other/x", "this host");
    refused("file:", "no path");
    refused("file:?x=1", "no path");
    refused("nfs://h/x?a&b&c&d&e&f&g&h&i&j&k&l&m&n&o&p&q", "more than 16");
}
END_TEST

START_TEST(password_is_refused_and_never_shown)
{
    struct bmig_uri uri;
    static const char *const texts[] = {
        "iscsi://joe:hunter2@h/iqn/1",   "iscsi://joe%hunter2@h/iqn/1",
        "iscsi://joe:hunter2@h/iqn/%zz", "gopher://joe:hunter2@h/",
        "iscsi://joe:hun@ter2@h/iqn/1",
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct bmig_error err = {0};
        ck_assert_int_lt(bmig_uri_parse(&uri, texts[i], &err), 0);
        ck_assert_int_eq(err.kind, BMIG_USAGE);
        ck_assert_msg(!strstr(err.message, "hun") && !strstr(err.message, "ter2"), "%s",
                      err.message);
    }
}
END_TEST

START_TEST(numeric_parameter_is_checked)
{
    struct bmig_uri uri = parse("nfs://h/x?uid=10&bad=1x&neg=-1&empty=&huge=18446744073709551616");
    struct bmig_error err = {0};
    uint64_t value = 0;
    ck_assert_int_eq(bmig_uri_param_u64(&uri, "uid", 0, 100, 7, &value, &err), 0);
    ck_assert_uint_eq(value, 10);
    ck_assert_int_eq(bmig_uri_param_u64(&uri, "none", 0, 100, 7, &value, &err), 0);
    ck_assert_uint_eq(value, 7);
    static const char *const bad[] = {"bad", "neg", "empty", "huge"};
    for (size_t i = 0; i < 4; i++) {
        err = (struct bmig_error){0};
        ck_assert_int_lt(bmig_uri_param_u64(&uri, bad[i], 0, UINT64_MAX, 7, &value, &err), 0);
        ck_assert_int_eq(err.kind, BMIG_USAGE);
    }
    err = (struct bmig_error){0};
    ck_assert_int_lt(bmig_uri_param_u64(&uri, "uid", 11, 100, 7, &value, &err), 0);
    ck_assert_str_eq(err.message,
                     "'nfs://h/x?uid=10&bad=1x&neg=-1&empty=&huge=18446744073709551616': "
                     "uid must be a number from 11 to 100, not '10'");
    bmig_uri_fini(&uri);
}
END_TEST

START_TEST(unknown_parameter_is_named)
{
    struct bmig_uri uri = parse("nfs://h/x?uid=1&colour=red");
    struct bmig_error err = {0};
    static const char *const both[] = {"uid", "colour", NULL}, *const one[] = {"uid", "gid", NULL};
    ck_assert_int_eq(bmig_uri_check_params(&uri, both, &err), 0);
    ck_assert_int_lt(bmig_uri_check_params(&uri, one, &err), 0);
    ck_assert_int_eq(err.kind, BMIG_USAGE);
    ck_assert_str_eq(err.message, "nfs: knows no parameter 'colour' (it knows uid, gid)");
    bmig_uri_fini(&uri);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("uri");
    TCase *tcase = tcase_create("uri");
    tcase_add_test(tcase, nfs_uri_has_host_port_path_and_params);
    tcase_add_test(tcase, iscsi_uri_has_user_iqn_and_lun);
    tcase_add_test(tcase, nbd_unix_uri_has_export_and_socket);
    tcase_add_test(tcase, mem_and_filters_take_a_name);
    tcase_add_test(tcase, file_uri_is_decoded_and_made_absolute);
    tcase_add_test(tcase, plain_path_is_taken_byte_for_byte);
    tcase_add_test(tcase, scheme_before_slashes_is_found_in_any_case);
    tcase_add_test(tcase, bad_uri_is_refused_with_its_reason);
    tcase_add_test(tcase, password_is_refused_and_never_shown);
    tcase_add_test(tcase, numeric_parameter_is_checked);
    tcase_add_test(tcase, unknown_parameter_is_named);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
