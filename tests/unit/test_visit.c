/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Visits against a naive set of tainted regions for each.
 */
#include "blockmig/engine/visit.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/disk_helper.h"

START_TEST(a_write_taints_just_what_it_hits)
{
    struct bmig_visits visits = {0};
    struct bmig_visit visit;
    bmig_visit_begin(&visits, &visit, 100, 64);
    bmig_visits_taint(&visits, 0, 99);
    bmig_visits_taint(&visits, 164, UINT64_C(1) << 60);
    ck_assert_uint_eq(visit.tainted, 0);
    bmig_visits_taint(&visits, 50, 100);
    bmig_visits_taint(&visits, 163, 300);
    ck_assert(bmig_visit_is_tainted(&visit, 100) && bmig_visit_is_tainted(&visit, 163));
    ck_assert_uint_eq(visit.tainted, UINT64_C(1) << 63 | 1);
    bmig_visits_taint(&visits, 0, UINT64_C(1) << 40);
    ck_assert_uint_eq(visit.tainted, UINT64_MAX);
    bmig_visit_end(&visits, &visit);
    ck_assert_ptr_null(visits.head);
}
END_TEST

START_TEST(random_visits_and_writes_agree_with_a_naive_model)
{
    enum { VISITS = 20, REGIONS = 400 };
    struct bmig_visits visits = {0};
    struct bmig_visit list[VISITS];
    bool open[VISITS] = {0}, tainted[VISITS][REGIONS];
    uint64_t random = 5;
    for (int step = 0; step < 50000; step++) {
        uint32_t i = (uint32_t)(test_random(&random) % VISITS);
        if (test_random(&random) % 2) {
            uint64_t first = test_random(&random) % REGIONS;
            uint64_t last = first + test_random(&random) % (REGIONS - first);
            bmig_visits_taint(&visits, first, last);
            for (uint32_t v = 0; v < VISITS; v++)
                memset(tainted[v] + first, 1, last - first + 1);
        } else if (!open[i]) {
            uint32_t count = 1 + (uint32_t)(test_random(&random) % BMIG_VISIT_MAX_REGIONS);
            bmig_visit_begin(&visits, &list[i], test_random(&random) % (REGIONS - count), count);
            memset(tainted[i], 0, sizeof(tainted[i])); /* what came before it is nothing to it */
            open[i] = true;
        } else {
            for (uint64_t region = list[i].first; region < list[i].first + list[i].count; region++)
                ck_assert(bmig_visit_is_tainted(&list[i], region) == tainted[i][region]);
            bmig_visit_end(&visits, &list[i]);
            open[i] = false;
        }
        uint32_t listed = 0, expected = 0;
        for (struct bmig_visit *visit = visits.head; visit; visit = visit->next) {
            ck_assert(!visit->next || visit->next->prev == visit);
            listed++;
        }
        for (uint32_t v = 0; v < VISITS; v++)
            expected += open[v];
        ck_assert_uint_eq(listed, expected);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("visit");
    TCase *tcase = tcase_create("visit");
    tcase_add_test(tcase, a_write_taints_just_what_it_hits);
    tcase_add_test(tcase, random_visits_and_writes_agree_with_a_naive_model);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
