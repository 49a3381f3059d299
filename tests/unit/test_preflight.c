/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Preflight's judgement: every reason not to begin, all at once, each with a way out.
 */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/daemon/preflight.h"

enum { MIB = 1 << 20 };

static struct bmig_replica from, to;

static struct bmig_preflight_facts good(void)
{
    from = (struct bmig_replica){.uri = "file:///a/v.raw", .format = "raw"};
    to = (struct bmig_replica){.uri = "file:///b/v.raw", .format = "raw"};
    return (struct bmig_preflight_facts){
        .volume = "v",
        .size_bytes = 100 * MIB,
        .from = &from,
        .to = &to,
        .source = {.exists = true,
                   .size_bytes = 100 * MIB,
                   .allocated_bytes = 50 * MIB,
                   .identity = "1:2"},
        .target = {.free_bytes = 1000u * MIB, .total_bytes = 2000u * MIB},
    };
}

static size_t judge(const struct bmig_preflight_facts *facts, const char *word)
{
    json_t *problems = json_array(), *problem;
    size_t i, count, hits = 0;
    bmig_preflight_judge(facts, problems);
    json_array_foreach(problems, i, problem) hits +=
        strstr(json_string_value(problem), word) != NULL;
    count = json_array_size(problems);
    json_decref(problems);
    ck_assert_msg(*word == '\0' || hits == 1, "no '%s'", word);
    return count;
}

START_TEST(a_move_without_problems_is_allowed)
{
    struct bmig_preflight_facts facts = good();
    ck_assert_uint_eq(judge(&facts, ""), 0);
}
END_TEST

START_TEST(one_image_by_identity_or_name_is_refused)
{
    struct bmig_preflight_facts facts = good();
    facts.target.exists = true;
    facts.target.size_bytes = facts.size_bytes;
    strcpy(facts.target.identity, "1:2");
    ck_assert_uint_eq(judge(&facts, "one image"), 1);
    facts = good();
    to.uri = from.uri;
    ck_assert_uint_eq(judge(&facts, "one image"), 1);
}
END_TEST

START_TEST(places_without_identities_are_not_taken_for_one)
{
    struct bmig_preflight_facts facts = good();
    facts.source.identity[0] = '\0';
    facts.target = (struct bmig_place_stat){
        .exists = true, .fixed = true, .size_bytes = 100 * MIB, .free_bytes = UINT64_MAX};
    ck_assert_uint_eq(judge(&facts, ""), 0);
}
END_TEST

START_TEST(an_image_that_exists_is_not_overwritten)
{
    struct bmig_preflight_facts facts = good();
    facts.target.exists = true;
    ck_assert_uint_eq(judge(&facts, "exists already"), 1);
    facts.target_ours = true;
    ck_assert_uint_eq(judge(&facts, ""), 0);
}
END_TEST

START_TEST(room_counts_what_the_source_holds)
{
    struct bmig_preflight_facts facts = good();
    facts.target.free_bytes = bmig_preflight_room_bytes(100 * MIB, 50 * MIB);
    ck_assert_uint_eq(judge(&facts, ""), 0);
    facts.target.free_bytes--;
    ck_assert_uint_eq(judge(&facts, "not enough room"), 1);
    facts.target.free_bytes = UINT64_MAX; /* unknown is no reason */
    ck_assert_uint_eq(judge(&facts, ""), 0);
}
END_TEST

START_TEST(room_of_an_unknown_source_is_that_of_the_whole_disk)
{
    ck_assert_uint_eq(bmig_preflight_room_bytes(100 * MIB, UINT64_MAX),
                      bmig_preflight_room_bytes(100 * MIB, 100 * MIB));
    ck_assert_uint_gt(bmig_preflight_room_bytes(INT64_MAX, UINT64_MAX), INT64_MAX);
}
END_TEST

START_TEST(a_fixed_place_must_exist_and_be_large_enough)
{
    struct bmig_preflight_facts facts = good();
    facts.target = (struct bmig_place_stat){
        .fixed = true, .exists = true, .size_bytes = 100 * MIB - 512, .free_bytes = UINT64_MAX};
    ck_assert_uint_eq(judge(&facts, "too small"), 1);
    facts.target.size_bytes = 100 * MIB;
    ck_assert_uint_eq(judge(&facts, ""), 0);
    facts.target.exists = false;
    ck_assert_uint_eq(judge(&facts, "does not exist"), 1);
}
END_TEST

START_TEST(all_problems_are_told_at_once)
{
    struct bmig_preflight_facts facts = good();
    facts.moving_job = 7;
    to.format = "frob";
    facts.source.exists = false;
    bmig_error_set(&facts.target_error, BMIG_FAILED, EHOSTUNREACH, "no route");
    ck_assert_uint_eq(judge(&facts, "job 7"), 4);
    ck_assert_uint_eq(judge(&facts, "frob"), 4);
    ck_assert_uint_eq(judge(&facts, "does not exist any more"), 4);
    ck_assert_uint_eq(judge(&facts, "no route"), 4);
}
END_TEST

START_TEST(a_source_that_was_cut_is_refused)
{
    struct bmig_preflight_facts facts = good();
    facts.source.size_bytes -= 512;
    ck_assert_uint_eq(judge(&facts, "was cut"), 1);
}
END_TEST

START_TEST(a_target_in_use_is_refused)
{
    struct bmig_preflight_facts facts = good();
    bmig_error_set(&facts.target_used, BMIG_DENIED, EBUSY, "'x' is the image of volume 'w'");
    ck_assert_uint_eq(judge(&facts, "volume 'w'"), 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("preflight");
    TCase *tcase = tcase_create("all");
    tcase_add_test(tcase, a_move_without_problems_is_allowed);
    tcase_add_test(tcase, one_image_by_identity_or_name_is_refused);
    tcase_add_test(tcase, places_without_identities_are_not_taken_for_one);
    tcase_add_test(tcase, an_image_that_exists_is_not_overwritten);
    tcase_add_test(tcase, room_counts_what_the_source_holds);
    tcase_add_test(tcase, room_of_an_unknown_source_is_that_of_the_whole_disk);
    tcase_add_test(tcase, a_fixed_place_must_exist_and_be_large_enough);
    tcase_add_test(tcase, all_problems_are_told_at_once);
    tcase_add_test(tcase, a_source_that_was_cut_is_refused);
    tcase_add_test(tcase, a_target_in_use_is_refused);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
