/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Extents: appending.
 */
#include "blockmig/core/extents.h"

#include <check.h>
#include <stdlib.h>

START_TEST(equal_neighbours_are_merged)
{
    struct bmig_extent list[4];
    struct bmig_extents extents = {list, 0, 4};
    ck_assert_int_eq(bmig_extents_add(&extents, 10, BMIG_EXTENT_DATA), 0);
    ck_assert_int_eq(bmig_extents_add(&extents, 20, BMIG_EXTENT_DATA), 0);
    ck_assert_int_eq(bmig_extents_add(&extents, 0, BMIG_EXTENT_ZERO), 0);
    ck_assert_int_eq(bmig_extents_add(&extents, 5, BMIG_EXTENT_ZERO | BMIG_EXTENT_HOLE), 0);
    ck_assert_uint_eq(extents.count, 2);
    ck_assert_uint_eq(list[0].length_bytes, 30);
    ck_assert_uint_eq(list[1].length_bytes, 5);
}
END_TEST

START_TEST(full_list_says_so_but_still_merges)
{
    struct bmig_extent list[1];
    struct bmig_extents extents = {list, 0, 1};
    ck_assert_int_eq(bmig_extents_add(&extents, 10, BMIG_EXTENT_ZERO), 0);
    ck_assert_int_eq(bmig_extents_add(&extents, 10, BMIG_EXTENT_DATA), 1);
    ck_assert_int_eq(bmig_extents_add(&extents, 10, BMIG_EXTENT_ZERO), 0);
    ck_assert_uint_eq(extents.count, 1);
    ck_assert_uint_eq(list[0].length_bytes, 20);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("extents");
    TCase *tcase = tcase_create("extents");
    tcase_add_test(tcase, equal_neighbours_are_merged);
    tcase_add_test(tcase, full_list_says_so_but_still_merges);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
