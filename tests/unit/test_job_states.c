/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The tables of a job's states: what they promise to whoever holds a volume.
 */
#include <check.h>
#include <stdlib.h>

#include "blockmig/daemon/job.h"

static const enum bmig_job_verb all_verbs[] = {
    BMIG_VERB_PAUSE,    BMIG_VERB_RESUME, BMIG_VERB_CANCEL, BMIG_VERB_SWITCH,
    BMIG_VERB_ROLLBACK, BMIG_VERB_COMMIT, BMIG_VERB_SET};
enum { VERBS = sizeof all_verbs / sizeof *all_verbs };

START_TEST(final_states_lead_nowhere_and_allow_nothing)
{
    for (unsigned from = 0; from < BMIG_JOB_STATE_COUNT; from++) {
        if (!bmig_job_final(from))
            continue;
        for (unsigned to = 0; to < BMIG_JOB_STATE_COUNT; to++)
            ck_assert(!bmig_job_may_become(from, to));
        for (unsigned i = 0; i < VERBS; i++)
            ck_assert(!bmig_job_allows(from, all_verbs[i]));
        ck_assert(!bmig_job_takes_slot(from));
    }
}
END_TEST

START_TEST(every_state_is_reached_from_queued_and_reaches_a_final_one)
{
    bool reached[BMIG_JOB_STATE_COUNT] = {[BMIG_JOB_QUEUED] = true};
    for (unsigned round = 0; round < BMIG_JOB_STATE_COUNT; round++)
        for (unsigned from = 0; from < BMIG_JOB_STATE_COUNT; from++)
            for (unsigned to = 0; to < BMIG_JOB_STATE_COUNT; to++)
                reached[to] |= reached[from] && bmig_job_may_become(from, to);
    for (unsigned state = 0; state < BMIG_JOB_STATE_COUNT; state++)
        ck_assert_msg(reached[state], "%s is never reached", bmig_job_state_name(state));
    for (unsigned from = 0; from < BMIG_JOB_STATE_COUNT; from++) {
        unsigned ways = 0;
        for (unsigned to = 0; to < BMIG_JOB_STATE_COUNT; to++)
            ways += bmig_job_may_become(from, to);
        ck_assert(bmig_job_final(from) ? ways == 0 : ways > 0);
    }
}
END_TEST

START_TEST(only_switching_leads_to_the_undo_window)
{
    for (unsigned from = 0; from < BMIG_JOB_STATE_COUNT; from++)
        ck_assert_int_eq(bmig_job_may_become(from, BMIG_JOB_UNDO_WINDOW),
                         from == BMIG_JOB_SWITCHING);
}
END_TEST

START_TEST(done_is_reached_only_behind_the_switch)
{
    for (unsigned from = 0; from < BMIG_JOB_STATE_COUNT; from++)
        ck_assert_int_eq(bmig_job_may_become(from, BMIG_JOB_DONE), from == BMIG_JOB_SWITCHING);
}
END_TEST

START_TEST(the_undo_window_can_be_rolled_back_but_not_cancelled)
{
    ck_assert(!bmig_job_allows(BMIG_JOB_UNDO_WINDOW, BMIG_VERB_CANCEL));
    ck_assert(bmig_job_allows(BMIG_JOB_UNDO_WINDOW, BMIG_VERB_ROLLBACK));
    ck_assert(bmig_job_allows(BMIG_JOB_UNDO_WINDOW, BMIG_VERB_COMMIT));
    ck_assert(!bmig_job_may_become(BMIG_JOB_UNDO_WINDOW, BMIG_JOB_FAILED));
}
END_TEST

START_TEST(a_switch_under_way_takes_no_verb)
{
    for (unsigned i = 0; i < VERBS; i++)
        ck_assert(!bmig_job_allows(BMIG_JOB_SWITCHING, all_verbs[i]));
}
END_TEST

START_TEST(every_state_before_the_switch_can_be_cancelled)
{
    static const enum bmig_job_state before[] = {BMIG_JOB_QUEUED, BMIG_JOB_RUNNING, BMIG_JOB_PAUSED,
                                                 BMIG_JOB_SYNCED, BMIG_JOB_DEGRADED};
    for (size_t i = 0; i < sizeof before / sizeof *before; i++) {
        ck_assert(bmig_job_allows(before[i], BMIG_VERB_CANCEL));
        ck_assert(bmig_job_may_become(before[i], BMIG_JOB_CANCELLED));
        ck_assert(bmig_job_may_become(before[i], BMIG_JOB_FAILED));
    }
}
END_TEST

START_TEST(a_switch_is_asked_for_only_when_synced)
{
    for (unsigned state = 0; state < BMIG_JOB_STATE_COUNT; state++)
        ck_assert_int_eq(bmig_job_allows(state, BMIG_VERB_SWITCH), state == BMIG_JOB_SYNCED);
}
END_TEST

START_TEST(names_of_states_and_phases_are_read_back)
{
    for (unsigned state = 0; state < BMIG_JOB_STATE_COUNT; state++)
        ck_assert_uint_eq(bmig_job_state_from_name(bmig_job_state_name(state)), state);
    for (unsigned phase = 0; phase < BMIG_PHASE_COUNT; phase++)
        ck_assert_uint_eq(bmig_job_phase_from_name(bmig_job_phase_name(phase)), phase);
    ck_assert_uint_eq(bmig_job_state_from_name("frob"), BMIG_JOB_FAILED);
}
END_TEST

START_TEST(percent_never_falls_and_is_not_100_before_the_end)
{
    struct bmig_job job = {.options = {.verify = true}};
    static const char *const states[] = {"copying",   "copying", "degraded",  "copying",
                                         "verifying", "copying", "verifying", "synced"};
    static const int done[] = {10, 90, 90, 5, 50, 100, 20, 100};
    double before = 0;
    for (size_t i = 0; i < sizeof done / sizeof *done; i++) {
        json_t *mirror = json_pack("{s:s, s:i, s:i}", "state", states[i], "bytes_total", 100,
                                   "bytes_done", done[i]);
        bmig_job_take_mirror_locked(&job, mirror);
        json_decref(mirror);
        ck_assert(job.percent >= before);
        ck_assert(job.percent < 100);
        before = job.percent;
    }
}
END_TEST

START_TEST(what_lost_mirrors_copied_is_added_up)
{
    struct bmig_job job = {.state = BMIG_JOB_RUNNING,
                           .from = {.uri = "a"},
                           .to = {.uri = "b"},
                           .volume = "v",
                           .source = "a",
                           .target = "b"};
    for (int i = 0; i < 2; i++) {
        json_t *mirror = json_pack("{s:s, s:i, s:i, s:i}", "state", "copying", "bytes_total", 100,
                                   "bytes_copied", 60, "bytes_stale", 40);
        bmig_job_take_mirror_locked(&job, mirror);
        json_decref(mirror);
        if (i == 0)
            bmig_job_mirror_lost_locked(&job);
    }
    json_t *json = bmig_job_json_locked(&job);
    ck_assert_int_eq(json_integer_value(json_object_get(json, "bytes_copied")), 120);
    ck_assert_int_eq(json_integer_value(json_object_get(json, "bytes_total")), 100);
    ck_assert_int_eq(json_integer_value(json_object_get(json, "stale_bytes")), 40);
    json_decref(json);
}
END_TEST

START_TEST(an_unknown_eta_is_null)
{
    struct bmig_job job = {.state = BMIG_JOB_RUNNING,
                           .from = {.uri = "a"},
                           .to = {.uri = "b"},
                           .volume = "v",
                           .source = "a",
                           .target = "b"};
    json_t *mirror = json_pack("{s:s, s:n}", "state", "copying", "eta_s");
    bmig_job_take_mirror_locked(&job, mirror);
    json_decref(mirror);
    json_t *json = bmig_job_json_locked(&job);
    ck_assert(json_is_null(json_object_get(json, "eta_s")));
    json_decref(json);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("job_states");
    TCase *tcase = tcase_create("all");
    tcase_add_test(tcase, final_states_lead_nowhere_and_allow_nothing);
    tcase_add_test(tcase, every_state_is_reached_from_queued_and_reaches_a_final_one);
    tcase_add_test(tcase, only_switching_leads_to_the_undo_window);
    tcase_add_test(tcase, done_is_reached_only_behind_the_switch);
    tcase_add_test(tcase, the_undo_window_can_be_rolled_back_but_not_cancelled);
    tcase_add_test(tcase, a_switch_under_way_takes_no_verb);
    tcase_add_test(tcase, every_state_before_the_switch_can_be_cancelled);
    tcase_add_test(tcase, a_switch_is_asked_for_only_when_synced);
    tcase_add_test(tcase, names_of_states_and_phases_are_read_back);
    tcase_add_test(tcase, percent_never_falls_and_is_not_100_before_the_end);
    tcase_add_test(tcase, what_lost_mirrors_copied_is_added_up);
    tcase_add_test(tcase, an_unknown_eta_is_null);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
