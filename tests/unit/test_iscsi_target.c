/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * iSCSI names: what a URI becomes, what is refused with which words, and which ISIDs sessions get.
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/iscsi.h"

static struct bmig_iscsi_target *target_of(const char *text, const char *secret, unsigned sessions)
{
    struct bmig_uri uri;
    struct bmig_error err = {0};
    struct bmig_iscsi_target *target = NULL;
    struct bmig_open_options options = {.secret = secret};
    ck_assert_int_eq(bmig_uri_parse(&uri, text, &err), 0);
    int rc = bmig_iscsi_target_new(&target, &uri, &options, sessions, &err);
    ck_assert_msg(rc == 0, "%s: %s", text, err.message);
    bmig_uri_fini(&uri);
    return target;
}

static void refused(const char *text, const char *secret, const char *message)
{
    struct bmig_uri uri;
    struct bmig_error err = {0};
    struct bmig_iscsi_target *target = NULL;
    struct bmig_open_options options = {.secret = secret};
    ck_assert_msg(bmig_uri_parse(&uri, text, &err) == 0, "%s", err.message);
    ck_assert_msg(bmig_iscsi_target_new(&target, &uri, &options, 1, &err) < 0, "%s was taken",
                  text);
    ck_assert_ptr_null(target);
    ck_assert_int_eq(err.kind, BMIG_USAGE);
    ck_assert_msg(strstr(err.message, message) != NULL, "%s: '%s' lacks '%s'", text, err.message,
                  message);
    ck_assert(!secret || !secret[0] || !strstr(err.message, secret));
    bmig_uri_fini(&uri);
}

START_TEST(uri_gives_portal_name_and_lun)
{
    struct bmig_iscsi_target *target =
        target_of("iscsi://filer/iqn.2003-01.org.example:disk.1/7", NULL, 1);
    ck_assert_str_eq(target->portal, "filer:3260");
    ck_assert_str_eq(target->name, "iqn.2003-01.org.example:disk.1");
    ck_assert_uint_eq(target->lun, 7);
    ck_assert_str_eq(target->user, "");
    ck_assert_int_eq(strncmp(target->initiator, "iqn.", 4), 0);
    bmig_iscsi_target_unref(target);

    target = target_of("iscsi://joe@[fd00::1]:860/eui.02004567A425678D/0?header_digest=crc32c"
                       "&initiator=iqn.2026-01.org.example:host",
                       "secretsecret", 1);
    ck_assert_str_eq(target->portal, "[fd00::1]:860");
    ck_assert_str_eq(target->user, "joe");
    ck_assert_str_eq(target->secret, "secretsecret");
    ck_assert_int_eq(target->header_digest, ISCSI_HEADER_DIGEST_CRC32C);
    ck_assert_str_eq(target->initiator, "iqn.2026-01.org.example:host");
    bmig_iscsi_target_unref(target);
}
END_TEST

START_TEST(lun_above_255_is_addressed_flat)
{
    struct bmig_iscsi_target *target = target_of("iscsi://h/iqn.a/255", NULL, 1);
    ck_assert_uint_eq(target->lun, 255);
    bmig_iscsi_target_unref(target);
    target = target_of("iscsi://h/iqn.a/256", NULL, 1);
    ck_assert_uint_eq(target->lun, 0x4100);
    bmig_iscsi_target_unref(target);
    target = target_of("iscsi://h/iqn.a/16383", NULL, 1);
    ck_assert_uint_eq(target->lun, 0x7fff);
    bmig_iscsi_target_unref(target);
}
END_TEST

START_TEST(uri_without_a_usable_lun_is_refused)
{
    refused("iscsi://h/iqn.a", NULL, "has no LUN");
    refused("iscsi://h/iqn.a/", NULL, "has no LUN");
    refused("iscsi://h", NULL, "names no target");
    refused("iscsi://h/", NULL, "names no target");
    refused("iscsi://h/iqn.a/x", NULL, "the LUN 'x' is not a number");
    refused("iscsi://h/iqn.a/1x", NULL, "the LUN '1x' is not a number");
    refused("iscsi://h/iqn.a/-1", NULL, "the LUN '-1' is not a number");
    refused("iscsi://h/iqn.a/+1", NULL, "the LUN '+1' is not a number");
    refused("iscsi://h/iqn.a/16384", NULL, "the LUN '16384' is not a number from 0 to 16383");
    refused("iscsi://h/iqn.a/99999999999999999999", NULL, "is not a number");
}
END_TEST

START_TEST(name_that_is_no_iscsi_name_is_refused)
{
    char text[600], name[300];
    refused("iscsi://h//1", NULL, "is not an iSCSI name");
    refused("iscsi://h/a/b/1", NULL, "is not an iSCSI name");
    refused("iscsi://h/iqn.a%20b/1", NULL, "is not an iSCSI name");
    memset(name, 'x', sizeof name);
    name[224] = 0;
    snprintf(text, sizeof text, "iscsi://h/%s/1", name);
    refused(text, NULL, "is not an iSCSI name");
    name[223] = 0;
    snprintf(text, sizeof text, "iscsi://h/%s/1", name);
    bmig_iscsi_target_unref(target_of(text, NULL, 1));
    refused("iscsi://h/iqn.a/1?initiator=a%20b", NULL, "initiator= is not an iSCSI name");
    refused("iscsi://h/iqn.a/1?initiator=", NULL, "initiator= is not an iSCSI name");
}
END_TEST

START_TEST(unknown_parameter_or_value_is_refused)
{
    refused("iscsi://h/iqn.a/1?colour=red", NULL, "colour");
    refused("iscsi://h/iqn.a/1?header_digest=md5", NULL, "header_digest= takes crc32c or none");
}
END_TEST

START_TEST(chap_user_without_a_secret_is_refused)
{
    char secret[300];
    refused("iscsi://joe@h/iqn.a/1", NULL,
            "names the CHAP user 'joe', and there is no secret for it");
    refused("iscsi://joe@h/iqn.a/1", "", "there is no secret");
    memset(secret, 's', sizeof secret);
    secret[256] = 0;
    refused("iscsi://joe@h/iqn.a/1", secret, "longer than 255 bytes");
    secret[255] = 0;
    bmig_iscsi_target_unref(target_of("iscsi://joe@h/iqn.a/1", secret, 1));
    refused("iscsi://joe@h/iqn.a/x", "hushhushhush", "is not a number");
}
END_TEST

START_TEST(disk_opened_again_finds_the_isids_it_had)
{
    struct bmig_iscsi_target *a = target_of("iscsi://h/iqn.a/1", NULL, 2);
    struct bmig_iscsi_target *b = target_of("iscsi://h/iqn.a/2", NULL, 2);
    struct bmig_iscsi_target *other = target_of("iscsi://h/iqn.b/1", NULL, 2);
    ck_assert_int_eq(a->slots[0], 0);
    ck_assert_int_eq(a->slots[1], 1);
    ck_assert_int_eq(b->slots[0], 2);
    ck_assert_int_eq(b->slots[1], 3);
    ck_assert_int_eq(other->slots[0], 0);
    ck_assert_uint_eq(a->isid, b->isid);
    bmig_iscsi_target_unref(a);
    a = target_of("iscsi://other-portal/iqn.a/1", NULL, 2);
    ck_assert_int_eq(a->slots[0], 0);
    ck_assert_int_eq(a->slots[1], 1);
    bmig_iscsi_target_unref(a);
    bmig_iscsi_target_unref(b);
    bmig_iscsi_target_unref(other);
}
END_TEST

START_TEST(isids_are_held_until_the_last_reference_goes)
{
    struct bmig_iscsi_target *a = target_of("iscsi://h/iqn.a/1", NULL, 1);
    bmig_iscsi_target_ref(a);
    bmig_iscsi_target_unref(a);
    struct bmig_iscsi_target *b = target_of("iscsi://h/iqn.a/1", NULL, 1);
    ck_assert_int_eq(b->slots[0], 1);
    bmig_iscsi_target_unref(a);
    bmig_iscsi_target_unref(b);
}
END_TEST

START_TEST(too_many_sessions_of_one_process_fail)
{
    struct bmig_iscsi_target *all[32];
    for (int i = 0; i < 32; i++)
        all[i] = target_of("iscsi://h/iqn.a/1", NULL, BMIG_ISCSI_MAX_SESSIONS);
    struct bmig_uri uri;
    struct bmig_error err = {0};
    struct bmig_iscsi_target *more = NULL;
    struct bmig_open_options options = {0};
    ck_assert_int_eq(bmig_uri_parse(&uri, "iscsi://h/iqn.a/1", &err), 0);
    ck_assert_int_eq(bmig_iscsi_target_new(&more, &uri, &options, 1, &err), -EUSERS);
    bmig_uri_fini(&uri);
    for (int i = 0; i < 32; i++)
        bmig_iscsi_target_unref(all[i]);
    bmig_iscsi_target_unref(target_of("iscsi://h/iqn.a/1", NULL, 1));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("iscsi_target");
    TCase *tcase = tcase_create("iscsi_target");
    tcase_add_test(tcase, uri_gives_portal_name_and_lun);
    tcase_add_test(tcase, lun_above_255_is_addressed_flat);
    tcase_add_test(tcase, uri_without_a_usable_lun_is_refused);
    tcase_add_test(tcase, name_that_is_no_iscsi_name_is_refused);
    tcase_add_test(tcase, unknown_parameter_or_value_is_refused);
    tcase_add_test(tcase, chap_user_without_a_secret_is_refused);
    tcase_add_test(tcase, disk_opened_again_finds_the_isids_it_had);
    tcase_add_test(tcase, isids_are_held_until_the_last_reference_goes);
    tcase_add_test(tcase, too_many_sessions_of_one_process_fail);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
