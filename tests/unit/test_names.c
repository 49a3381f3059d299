/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Names that people give, and the URIs they become: nothing leads out of a repository.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/core/uri.h"
#include "blockmig/daemon/names.h"

static char long_name[300];

static int name(const char *text)
{
    struct bmig_error err = {0};
    int rc = bmig_name_check("volume", text, &err);
    ck_assert_int_eq(err.kind, rc ? BMIG_USAGE : BMIG_OK);
    ck_assert(rc == 0 || err.message[0]);
    return rc;
}

START_TEST(names_of_letters_digits_and_three_signs_are_taken)
{
    static const char *const good[] = {"a", "A9", "0", "vm-1.disk_2", "x..y"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        ck_assert_int_eq(name(good[i]), 0);
    memset(long_name, 'x', 128);
    long_name[128] = '\0';
    ck_assert_int_eq(name(long_name), 0);
}
END_TEST

START_TEST(every_other_name_is_refused)
{
    static const char *const bad[] = {"",      "-a",  ".a",    "..",  "_a",       "a/b",
                                      "a b",   "a:b", "a\n",   "a%2", "\xc3\xa4", "a\\b",
                                      "a\x7f", "a*",  "a?x=1", "a#"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(name(bad[i]) != 0, "'%s' was taken", bad[i]);
    memset(long_name, 'x', 129);
    long_name[129] = '\0';
    ck_assert_int_ne(name(long_name), 0);
}
END_TEST

START_TEST(an_image_stays_inside_its_repository)
{
    static const char *const good[] = {"a.raw", "x/y.raw", "a b", "a?b", "a%41", "...", "-x"};
    static const char *const bad[] = {"",     "/a", "..",    "../a", "a/../b", "a/..", "./a",
                                      "a//b", "a/", "a/./b", "a\nb", "a\x01",  "a\x7f"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        ck_assert_msg(bmig_image_name_check(good[i], NULL) == 0, "'%s' was refused", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(bmig_image_name_check(bad[i], NULL) != 0, "'%s' was taken", bad[i]);
    memset(long_name, 'x', 256);
    long_name[256] = '\0';
    ck_assert_int_ne(bmig_image_name_check(long_name, NULL), 0);
}
END_TEST

static void joined(const char *repo, const char *image, const char *want)
{
    char *uri = NULL;
    struct bmig_error err = {0};
    int rc = bmig_repo_image_uri(repo, image, &uri, &err);
    ck_assert_msg((rc == 0) == (want != NULL), "%s + %s: %s", repo, image ? image : "-",
                  err.message);
    if (want)
        ck_assert_str_eq(uri, want);
    free(uri);
}

START_TEST(a_path_is_extended_before_the_parameters)
{
    joined("file:///d", "a.raw", "file:///d/a.raw");
    joined("file:///d/", "s/a.raw", "file:///d/s/a.raw");
    joined("nfs://h/e/x?uid=1&gid=2", "a.raw", "nfs://h/e/x/a.raw?uid=1&gid=2");
    joined("iscsi://u@h:3260/iqn.2003-01.x:y", "7", "iscsi://u@h:3260/iqn.2003-01.x:y/7");
}
END_TEST

START_TEST(an_images_name_never_becomes_a_parameter)
{
    char *uri = NULL;
    struct bmig_uri parsed;
    ck_assert_int_eq(bmig_repo_image_uri("nfs://h/e?uid=1", "a?uid=0&x#y%2e", &uri, NULL), 0);
    ck_assert_int_eq(bmig_uri_parse(&parsed, uri, NULL), 0);
    ck_assert_str_eq(parsed.path, "/e/a?uid=0&x#y%2e");
    ck_assert_str_eq(bmig_uri_param(&parsed, "uid"), "1");
    ck_assert_uint_eq(parsed.param_count, 1);
    bmig_uri_fini(&parsed);
    free(uri);
}
END_TEST

START_TEST(a_lun_is_a_number_and_a_single_place_has_no_images)
{
    joined("iscsi://h/iqn", "x", NULL);
    joined("iscsi://h/iqn", NULL, NULL);
    joined("iscsi://h/iqn/3", NULL, "iscsi://h/iqn/3");
    joined("iscsi://h/iqn/3", "4", NULL);
    joined("nbd://h/export", NULL, "nbd://h/export");
    joined("file:///d", NULL, NULL);
}
END_TEST

static int words(const char *text, enum bmig_image_words want, const char *repo, const char *image)
{
    enum bmig_image_words form;
    char *r, *i;
    int rc = bmig_image_words_parse(text, &form, &r, &i, NULL);
    if (rc)
        return rc;
    ck_assert_int_eq(form, want);
    ck_assert(!r == !repo && !i == !image);
    if (repo)
        ck_assert_str_eq(r, repo);
    if (image)
        ck_assert_str_eq(i, image);
    free(r);
    free(i);
    return 0;
}

START_TEST(places_are_told_apart_by_their_form)
{
    ck_assert_int_eq(words("fast", BMIG_WORDS_REPO, "fast", NULL), 0);
    ck_assert_int_eq(words("fast:a.raw", BMIG_WORDS_REPO_IMAGE, "fast", "a.raw"), 0);
    ck_assert_int_eq(words("lun:3", BMIG_WORDS_REPO_IMAGE, "lun", "3"), 0);
    ck_assert_int_eq(words("/a/b:c", BMIG_WORDS_URI, NULL, NULL), 0);
    ck_assert_int_eq(words("nfs://h/x", BMIG_WORDS_URI, NULL, NULL), 0);
    ck_assert_int_ne(words("", 0, NULL, NULL), 0);
    ck_assert_int_ne(words("./a", 0, NULL, NULL), 0);
    ck_assert_int_ne(words("../a", 0, NULL, NULL), 0);
    ck_assert_int_ne(words("a/b", 0, NULL, NULL), 0);
    ck_assert_int_ne(words(":x", 0, NULL, NULL), 0);
    ck_assert_int_ne(words("r:", 0, NULL, NULL), 0);
    ck_assert_int_ne(words("r:/etc/passwd", 0, NULL, NULL), 0);
    ck_assert_int_ne(words("r:../x", 0, NULL, NULL), 0);
}
END_TEST

START_TEST(a_repository_is_a_uri_or_an_absolute_path)
{
    char *uri = NULL;
    enum bmig_repo_place place;
    ck_assert_int_eq(bmig_repo_uri_normalise("/d/with space", &uri, &place, NULL), 0);
    ck_assert_str_eq(uri, "file:///d/with%20space");
    ck_assert_int_eq(place, BMIG_PLACE_FOLDER);
    free(uri);
    ck_assert_int_eq(bmig_repo_uri_normalise("iscsi://h/iqn", &uri, &place, NULL), 0);
    ck_assert_int_eq(place, BMIG_PLACE_TARGET);
    free(uri);
    ck_assert_int_eq(bmig_repo_uri_normalise("iscsi://h/iqn/1", &uri, &place, NULL), 0);
    ck_assert_int_eq(place, BMIG_PLACE_SINGLE);
    free(uri);
    ck_assert_int_ne(bmig_repo_uri_normalise("d", &uri, &place, NULL), 0);
    ck_assert_int_ne(bmig_repo_uri_normalise("frob://h/x", &uri, &place, NULL), 0);
    ck_assert_int_ne(bmig_repo_uri_normalise("iscsi://h", &uri, &place, NULL), 0);
    ck_assert_int_ne(bmig_repo_uri_normalise("nfs://u:secret@h/x", &uri, &place, NULL), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("names");
    TCase *tcase = tcase_create("all");
    tcase_add_test(tcase, names_of_letters_digits_and_three_signs_are_taken);
    tcase_add_test(tcase, every_other_name_is_refused);
    tcase_add_test(tcase, an_image_stays_inside_its_repository);
    tcase_add_test(tcase, a_path_is_extended_before_the_parameters);
    tcase_add_test(tcase, an_images_name_never_becomes_a_parameter);
    tcase_add_test(tcase, a_lun_is_a_number_and_a_single_place_has_no_images);
    tcase_add_test(tcase, places_are_told_apart_by_their_form);
    tcase_add_test(tcase, a_repository_is_a_uri_or_an_absolute_path);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
