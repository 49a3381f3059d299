/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The mirror where two things meet: a flip and reads, a copy and a retry, a flush and what is under
 * way, a hang and those who wait for it.
 */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/engine/mirror_internal.h"
#include "tests/unit/disk_helper.h"
#include "tests/unit/engine_rig.h"

#define MIB    (UINT64_C(1) << 20)
#define REGION UINT64_C(65536)
#define SIZE   (4 * MIB)
#define MS     UINT64_C(1000000)
#define SECOND UINT64_C(1000000000)

static struct engine_rig rig;
static struct bmig_disk *record[2], *faults[2], *delay[2];

static void set_up(void)
{
    engine_rig_init(&rig, SIZE);
    for (int i = 0; i < 2; i++) {
        record[i] = bmig_record_find(rig.disks[i]);
        faults[i] = bmig_faults_find(rig.disks[i]);
        delay[i] = bmig_delay_find(rig.disks[i]);
    }
    engine_rig_fill(&rig, rig.disks[0], 0, SIZE, 7);
}

static void tear_down(void)
{
    for (int i = 0; i < 2; i++) {
        bmig_faults_clear(faults[i]);
        bmig_delay_set_hang(delay[i], 0);
        bmig_delay_release(delay[i], 1000);
    }
    engine_rig_fini(&rig);
}

static struct bmig_mirror_stats stats(void)
{
    struct bmig_mirror_stats result;
    bmig_mirror_stats(rig.volume, &result);
    return result;
}

static void synced(bool verify)
{
    engine_rig_mirror(&rig, true, verify);
    engine_rig_until(&rig, BMIG_MIRROR_SYNCED);
}

static void fail_at(int disk, enum bmig_op op, uint64_t offset, uint64_t length)
{
    struct bmig_fault fault = {.kind = BMIG_FAULT_ERROR,
                               .ops = 1u << op,
                               .error = EIO,
                               .times = 1,
                               .offset = offset,
                               .length = length};
    bmig_faults_add(faults[disk], &fault);
}

/* Steps until *flag, for so long at most. */
static bool within(const bool *flag, uint64_t ns)
{
    uint64_t end_ns = bmig_loop_now_ns(rig.loop) + ns;
    while (!*flag && bmig_loop_now_ns(rig.loop) < end_ns)
        engine_rig_run_for(&rig, 10 * MS);
    return *flag;
}

struct outcome {
    bool ended;
    int status;
};

static void prepared(void *user, int status)
{
    *(struct outcome *)user = (struct outcome){.ended = true, .status = status};
}

static void stopped(void *user)
{
    *(bool *)user = true;
}

START_TEST(read_over_a_change_before_the_flip_and_one_after_it_never_goes_back)
{
    struct engine_rig_request before, after;
    uint8_t data[8192];
    synced(false);
    ck_assert_int_eq(engine_rig_prepare(&rig), 0);
    bmig_delay_set(delay[0], 1 << BMIG_WRITE, 300 * MS, 0);
    engine_rig_submit(&rig, &before, BMIG_WRITE, 0, 4096, 7);
    engine_rig_run_for(&rig, 10 * MS);
    bmig_mirror_switch_commit(rig.volume, 2);
    engine_rig_submit(&rig, &after, BMIG_WRITE, 4096, 4096, 8);
    engine_rig_run_for(&rig, 10 * MS);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_READ, 4096, 4096, 0, data), 0);
    ck_assert_uint_eq(data[0], 8); /* the new primary has it */
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_READ, 0, 8192, 0, data), 0);
    ck_assert_uint_eq(data[4096], 8);
    ck_assert_int_eq(engine_rig_wait(&rig, &before, NULL), 0);
    ck_assert_int_eq(engine_rig_wait(&rig, &after, NULL), 0);
}
END_TEST

START_TEST(read_under_way_at_the_flip_sees_no_more_than_those_after_it)
{
    struct engine_rig_request read, write;
    uint8_t first[4096], second[4096];
    synced(false);
    ck_assert_int_eq(engine_rig_prepare(&rig), 0);
    bmig_delay_set(delay[0], 1 << BMIG_READ, 50 * MS, 0);
    bmig_delay_set(delay[1], 1 << BMIG_WRITE, 300 * MS, 0);
    engine_rig_submit(&rig, &read, BMIG_READ, 0, 4096, 0);
    bmig_mirror_switch_commit(rig.volume, 2);
    engine_rig_submit(&rig, &write, BMIG_WRITE, 0, 4096, 8); /* the old primary has it first */
    ck_assert_int_eq(engine_rig_wait(&rig, &read, first), 0);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_READ, 0, 4096, 0, second), 0);
    ck_assert(first[0] != 8 || second[0] == 8);
    ck_assert_int_eq(engine_rig_wait(&rig, &write, NULL), 0);
}
END_TEST

START_TEST(copy_that_is_tried_again_does_not_overtake_itself)
{
    fail_at(0, BMIG_READ, 3 * MIB, 512);
    bmig_delay_set_hang(delay[1], 1 << BMIG_WRITE);
    engine_rig_mirror(&rig, true, false);
    engine_rig_run_for(&rig, 10 * MS); /* copies hang, one has failed */
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_WRITE, 4096, 4096, 5, NULL), 0);
    bmig_delay_set_hang(delay[1], 0);
    engine_rig_run_for(&rig, 2 * SECOND);
    bmig_delay_release(delay[1], 1000);
    engine_rig_until(&rig, BMIG_MIRROR_SYNCED);
    ck_assert(engine_rig_equal(&rig));
}
END_TEST

START_TEST(zeroes_are_left_out_only_where_nothing_was_written_in_their_midst)
{
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_WRITE, 0, REGION, 0, NULL), 0);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_WRITE, 2 * REGION, REGION, 0, NULL), 0);
    rig.disks[0]->limits.preferred_bytes = rig.disks[1]->limits.preferred_bytes = MIB;
    fail_at(1, BMIG_WRITE, 5 * REGION, 512);
    rig.disks[0]->caps &= ~(uint32_t)BMIG_CAP_EXTENTS; /* zeroes are seen only as they are read */
    engine_rig_mirror(&rig, true, false);
    engine_rig_run_for(&rig, 10 * MS); /* region 1 is written, but the piece has failed */
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_WRITE, REGION, REGION, 0, NULL), 0);
    engine_rig_until(&rig, BMIG_MIRROR_SYNCED);
    ck_assert(engine_rig_equal(&rig));
}
END_TEST

START_TEST(discard_that_waited_since_before_the_mirror_leaves_the_replicas_equal)
{
    struct engine_rig_request write, discard;
    rig.disks[1]->caps &= ~(uint32_t)BMIG_CAP_DISCARD;
    bmig_delay_set_hang(delay[0], 1 << BMIG_WRITE);
    engine_rig_submit(&rig, &write, BMIG_WRITE, 0, 4096, 5);
    engine_rig_submit(&rig, &discard, BMIG_DISCARD, 0, 4 * REGION, 0);
    engine_rig_mirror(&rig, true, false);
    engine_rig_run_for(&rig, SECOND); /* what no change holds is copied meanwhile */
    bmig_delay_set_hang(delay[0], 0);
    bmig_delay_release(delay[0], 1000);
    ck_assert_int_eq(engine_rig_wait(&rig, &write, NULL), 0);
    ck_assert_int_eq(engine_rig_wait(&rig, &discard, NULL), 0);
    engine_rig_until(&rig, BMIG_MIRROR_SYNCED);
    ck_assert(engine_rig_equal(&rig));
}
END_TEST

START_TEST(write_under_way_during_a_good_flush_is_stale_when_the_next_one_fails)
{
    struct engine_rig_request before, during;
    struct outcome outcome = {0};
    synced(false);
    bmig_delay_set(delay[1], 1 << BMIG_WRITE, 100 * MS, 0);
    engine_rig_submit(&rig, &before, BMIG_WRITE, 0, 4096, 5);
    ck_assert_int_eq(bmig_mirror_switch_prepare(rig.volume, prepared, &outcome), 0);
    engine_rig_run_for(&rig, 50 * MS);
    engine_rig_submit(&rig, &during, BMIG_WRITE, 3 * REGION, 4096, 5);
    ck_assert_int_eq(engine_rig_wait(&rig, &before, NULL), 0);
    ck_assert(within(&outcome.ended, 20 * MS));
    ck_assert_int_eq(outcome.status, 0);
    ck_assert(!during.ended);
    ck_assert_int_eq(engine_rig_wait(&rig, &during, NULL), 0);
    bmig_mirror_switch_abort(rig.volume);
    fail_at(1, BMIG_FLUSH, 0, 0);
    ck_assert_int_eq(engine_rig_prepare(&rig), -EIO);
    ck_assert_uint_eq(stats().bytes_stale, REGION);
    engine_rig_until(&rig, BMIG_MIRROR_SYNCED);
}
END_TEST

START_TEST(copy_under_way_when_a_flush_fails_is_not_believed)
{
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_WRITE, 4096, 8192, 0, NULL), 0);
    bmig_delay_set_hang(delay[1], 1 << BMIG_WRITE);
    engine_rig_mirror(&rig, true, false);
    engine_rig_run_for(&rig, 10 * MS);
    bmig_delay_release(delay[1], 1); /* the first block of the first piece is there */
    engine_rig_run_for(&rig, 10 * MS);
    fail_at(1, BMIG_FLUSH, 0, 0);
    bmig_mirror_flush(rig.volume->mirror);
    engine_rig_run_for(&rig, 10 * MS);
    ck_assert_int_eq(test_run(rig.disks[1], BMIG_ZERO, 0, 4096, NULL, 0), 0); /* and was lost */
    bmig_delay_set_hang(delay[1], 0);
    bmig_delay_release(delay[1], 1000);
    engine_rig_until(&rig, BMIG_MIRROR_SYNCED);
    ck_assert(engine_rig_equal(&rig));
}
END_TEST

START_TEST(copy_and_verify_end_under_writes_that_always_queue_for_one_block)
{
    enum { DEPTH = 8 };
    struct engine_rig_request writes[DEPTH];
    bmig_delay_set(delay[0], BMIG_OPS_ALL, 1 * MS, 0);
    bmig_delay_set(delay[1], BMIG_OPS_ALL, 2 * MS, 0);
    engine_rig_mirror(&rig, true, _i);
    for (unsigned i = 0; i < DEPTH; i++)
        engine_rig_submit(&rig, &writes[i], BMIG_WRITE, 0, 4096, 1);
    for (unsigned i = 0; stats().state != BMIG_MIRROR_SYNCED; i++) {
        ck_assert_uint_lt(i, 5000);
        ck_assert_int_eq(engine_rig_wait(&rig, &writes[i % DEPTH], NULL), 0);
        engine_rig_submit(&rig, &writes[i % DEPTH], BMIG_WRITE, 0, 4096, (uint8_t)i);
    }
    for (unsigned i = 0; i < DEPTH; i++)
        engine_rig_wait(&rig, &writes[i], NULL);
    ck_assert(engine_rig_equal(&rig));
}
END_TEST

START_TEST(target_that_hangs_while_a_switch_is_prepared_is_given_up)
{
    struct engine_rig_request before, during;
    struct outcome outcome = {0};
    synced(false);
    bmig_delay_set_hang(delay[1], _i ? 1 << BMIG_FLUSH : BMIG_OPS_ALL);
    engine_rig_submit(&rig, &before, BMIG_WRITE, 0, 4096, 5);
    ck_assert_int_eq(bmig_mirror_switch_prepare(rig.volume, prepared, &outcome), 0);
    engine_rig_submit(&rig, &during, BMIG_FLUSH, 0, 0, 0);
    ck_assert(within(&outcome.ended, 7 * SECOND));
    ck_assert_int_ne(outcome.status, 0);
    ck_assert(within(&before.ended, SECOND) && within(&during.ended, SECOND));
    ck_assert_int_eq(engine_rig_wait(&rig, &before, NULL), 0);
    ck_assert_int_eq(engine_rig_wait(&rig, &during, NULL), 0);
    ck_assert_int_eq(stats().state, BMIG_MIRROR_DEGRADED);
    ck_assert_ptr_eq(bmig_volume_primary(rig.volume), rig.disks[0]);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_WRITE, 0, 4096, 6, NULL), 0);
}
END_TEST

START_TEST(write_held_for_a_comparison_that_hangs_is_answered_within_the_bound)
{
    struct engine_rig_request write;
    bmig_delay_set_hang(delay[1], 1 << BMIG_READ);
    engine_rig_mirror(&rig, true, true);
    engine_rig_until(&rig, BMIG_MIRROR_VERIFYING);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_WRITE, 4096, 4096, 5, NULL), 0);
    engine_rig_run_for(&rig, 10 * MS);
    bmig_delay_release(delay[1], 1000);
    engine_rig_run_for(&rig, 10 * MS); /* the second time it insists */
    for (unsigned i = 0; i < 10; i++) {
        bmig_delay_release(delay[1], bmig_delay_hanging(delay[1]) > 1 ? 1000 : 0);
        engine_rig_run_for(&rig, 10 * MS);
    }
    engine_rig_submit(&rig, &write, BMIG_WRITE, 0, 4096, 6);
    ck_assert(within(&write.ended, 7 * SECOND));
    ck_assert_int_eq(engine_rig_wait(&rig, &write, NULL), 0);
}
END_TEST

START_TEST(target_whose_flush_hangs_can_be_let_go)
{
    bool gone = false;
    synced(false);
    bmig_delay_set_hang(delay[1], 1 << BMIG_FLUSH);
    ck_assert_int_eq(bmig_mirror_stop(rig.volume, stopped, &gone), 0);
    ck_assert(within(&gone, 90 * SECOND));
}
END_TEST

START_TEST(comparison_that_hangs_is_given_up)
{
    bmig_delay_set_hang(delay[1], 1 << BMIG_READ);
    engine_rig_mirror(&rig, true, true);
    engine_rig_run_for(&rig, 90 * SECOND);
    ck_assert_int_eq(stats().state, BMIG_MIRROR_DEGRADED);
}
END_TEST

START_TEST(write_in_doubt_leaves_no_replica_without_the_means_to_repeat_it)
{
    synced(false);
    ck_assert_int_eq(engine_rig_prepare(&rig), 0);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_WRITE, 0, 4096, 5, NULL), 0);
    size_t count = bmig_record_count(record[1]);
    const struct bmig_record_entry *leg = bmig_record_at(record[1], count - 1);
    ck_assert_int_eq(leg->op, BMIG_WRITE);
    ck_assert_uint_eq(leg->flags & BMIG_REPLAYABLE, 0);
    bmig_mirror_switch_commit(rig.volume, 2);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("mirror_races");
    TCase *tcase = tcase_create("all");
    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, read_over_a_change_before_the_flip_and_one_after_it_never_goes_back);
    tcase_add_test(tcase, read_under_way_at_the_flip_sees_no_more_than_those_after_it);
    tcase_add_test(tcase, copy_that_is_tried_again_does_not_overtake_itself);
    tcase_add_test(tcase, zeroes_are_left_out_only_where_nothing_was_written_in_their_midst);
    tcase_add_test(tcase, discard_that_waited_since_before_the_mirror_leaves_the_replicas_equal);
    tcase_add_test(tcase, write_under_way_during_a_good_flush_is_stale_when_the_next_one_fails);
    tcase_add_test(tcase, copy_under_way_when_a_flush_fails_is_not_believed);
    tcase_add_loop_test(tcase, copy_and_verify_end_under_writes_that_always_queue_for_one_block, 0,
                        2);
    tcase_add_loop_test(tcase, target_that_hangs_while_a_switch_is_prepared_is_given_up, 0, 2);
    tcase_add_test(tcase, write_held_for_a_comparison_that_hangs_is_answered_within_the_bound);
    tcase_add_test(tcase, target_whose_flush_hangs_can_be_let_go);
    tcase_add_test(tcase, comparison_that_hangs_is_given_up);
    tcase_add_test(tcase, write_in_doubt_leaves_no_replica_without_the_means_to_repeat_it);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
