/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The mirror's promises one by one: which requests go where, what waits, and what a failure does.
 */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/engine/region_map.h"
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

static void synced(bool verify)
{
    engine_rig_mirror(&rig, true, verify);
    engine_rig_until(&rig, BMIG_MIRROR_SYNCED);
}

static struct bmig_mirror_stats stats(void)
{
    struct bmig_mirror_stats result;
    bmig_mirror_stats(rig.volume, &result);
    return result;
}

static size_t issued(int disk, enum bmig_op op, uint64_t offset, uint64_t length)
{
    return bmig_record_count_of(record[disk], 1u << op, offset, length);
}

static void fail_op(int disk, enum bmig_op op, int error, uint64_t times)
{
    struct bmig_fault fault = {
        .kind = BMIG_FAULT_ERROR, .ops = 1u << op, .error = error, .times = times};
    bmig_faults_add(faults[disk], &fault);
}

/* ---- legs ---- */

START_TEST(write_without_a_mirror_goes_to_the_primary_alone)
{
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_WRITE, 4096, 4096, 1, NULL), 0);
    ck_assert_uint_eq(bmig_record_count(record[1]), 0);
}
END_TEST

START_TEST(write_to_a_stale_region_is_not_sent_to_the_secondary)
{
    bmig_delay_set_hang(delay[0], 1 << BMIG_EXTENTS); /* the copy never begins */
    engine_rig_mirror(&rig, true, false);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_WRITE, 0, 4096, 1, NULL), 0);
    ck_assert_uint_eq(issued(1, BMIG_WRITE, 0, SIZE), 0);
    ck_assert_uint_eq(stats().bytes_mirrored, 0);
}
END_TEST

START_TEST(write_to_a_clean_region_is_answered_when_both_replicas_have_it)
{
    struct engine_rig_request write;
    synced(false);
    bmig_delay_set(delay[1], BMIG_OPS_ALL, 50 * MS, 0);
    size_t before = issued(1, BMIG_WRITE, 0, SIZE);
    engine_rig_submit(&rig, &write, BMIG_WRITE, 8192, 4096, 9);
    engine_rig_run_for(&rig, 40 * MS);
    ck_assert(!write.ended);
    ck_assert_int_eq(engine_rig_wait(&rig, &write, NULL), 0);
    ck_assert_uint_eq(issued(1, BMIG_WRITE, 0, SIZE), before + 1);
    ck_assert_uint_eq(stats().bytes_mirrored, 4096);
    ck_assert(engine_rig_equal(&rig));
}
END_TEST

START_TEST(both_legs_go_out_together)
{
    struct engine_rig_request write;
    synced(false);
    bmig_delay_set(delay[0], BMIG_OPS_ALL, 50 * MS, 0);
    bmig_delay_set(delay[1], BMIG_OPS_ALL, 50 * MS, 0);
    uint64_t began = bmig_loop_now_ns(rig.loop);
    engine_rig_submit(&rig, &write, BMIG_WRITE, 0, 4096, 9);
    ck_assert_int_eq(engine_rig_wait(&rig, &write, NULL), 0);
    ck_assert_uint_lt(bmig_loop_now_ns(rig.loop) - began, 60 * MS);
}
END_TEST

START_TEST(reads_go_to_the_primary_alone)
{
    synced(false);
    size_t before = issued(1, BMIG_READ, 0, SIZE);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_READ, 0, 65536, 0, NULL), 0);
    ck_assert_uint_eq(issued(1, BMIG_READ, 0, SIZE), before);
}
END_TEST

START_TEST(overlapping_writes_reach_both_replicas_in_one_order)
{
    struct engine_rig_request writes[16];
    synced(false);
    bmig_delay_set(delay[0], BMIG_OPS_ALL, 1 * MS, 20 * MS);
    bmig_delay_set(delay[1], BMIG_OPS_ALL, 1 * MS, 20 * MS);
    for (unsigned i = 0; i < 16; i++)
        engine_rig_submit(&rig, &writes[i], BMIG_WRITE, (i % 4) * 2048, 8192, (uint8_t)i);
    for (unsigned i = 0; i < 16; i++)
        ck_assert_int_eq(engine_rig_wait(&rig, &writes[i], NULL), 0);
    uint8_t data[4096];
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_READ, 6144, 2048, 0, data), 0);
    ck_assert_uint_eq(data[0], 15);
    ck_assert(engine_rig_equal(&rig));
}
END_TEST

START_TEST(discard_with_two_replicas_leaves_them_equal)
{
    synced(false);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_DISCARD, 65536, 262144, 0, NULL), 0);
    ck_assert_uint_eq(issued(0, BMIG_DISCARD, 0, SIZE), 0);
    ck_assert_uint_eq(issued(0, BMIG_ZERO, 65536, 262144), 1);
    ck_assert(engine_rig_equal(&rig));
}
END_TEST

START_TEST(discard_is_left_out_where_zeroes_would_be_dear)
{
    synced(false);
    rig.disks[1]->caps &= ~(uint32_t)BMIG_CAP_FAST_ZERO;
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_DISCARD, 0, 65536, 0, NULL), 0);
    ck_assert_uint_eq(issued(0, BMIG_ZERO, 0, SIZE), 0);
    ck_assert(engine_rig_equal(&rig));
}
END_TEST

START_TEST(fast_zero_that_one_replica_lacks_is_refused_before_any_leg)
{
    struct engine_rig_request zero;
    synced(false);
    rig.disks[1]->caps &= ~(uint32_t)BMIG_CAP_FAST_ZERO;
    memset(&zero, 0, sizeof(zero));
    engine_rig_submit_flags(&rig, &zero, BMIG_ZERO, 0, 65536, BMIG_FAST_ONLY);
    ck_assert_int_eq(engine_rig_wait(&rig, &zero, NULL), -ENOTSUP);
    ck_assert_uint_eq(issued(0, BMIG_ZERO, 0, SIZE) + issued(1, BMIG_ZERO, 0, SIZE), 0);
}
END_TEST

/* ---- failures ---- */

START_TEST(write_failure_marks_region_stale_and_the_guest_gets_success)
{
    synced(false);
    fail_op(1, BMIG_WRITE, EIO, 1);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_WRITE, 3 * REGION, 4096, 5, NULL), 0);
    ck_assert_uint_eq(stats().bytes_stale, REGION);
    ck_assert_int_ne(stats().state, BMIG_MIRROR_SYNCED);
    engine_rig_until(&rig, BMIG_MIRROR_SYNCED);
    ck_assert(engine_rig_equal(&rig));
    ck_assert_uint_eq(stats().bytes_recopied, REGION);
}
END_TEST

START_TEST(write_failure_of_the_primary_reaches_the_guest_and_marks_region_stale)
{
    synced(false);
    fail_op(0, BMIG_WRITE, ENOSPC, 1);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_WRITE, 3 * REGION, 4096, 5, NULL), -ENOSPC);
    engine_rig_until(&rig, BMIG_MIRROR_SYNCED);
    ck_assert_uint_eq(stats().bytes_recopied, REGION);
    ck_assert(engine_rig_equal(&rig));
}
END_TEST

START_TEST(secondary_that_fails_for_ever_is_given_up_and_the_guest_goes_on)
{
    synced(false);
    fail_op(1, BMIG_WRITE, EIO, 0);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_WRITE, 0, 4096, 5, NULL), 0);
    engine_rig_until(&rig, BMIG_MIRROR_DEGRADED);
    ck_assert_int_eq(stats().error, -EIO);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_WRITE, 0, 4096, 6, NULL), 0);
}
END_TEST

START_TEST(leg_that_hangs_is_given_up_after_its_bound_and_the_guest_answered)
{
    struct engine_rig_request write;
    synced(false);
    bmig_delay_set_hang(delay[1], 1 << BMIG_WRITE);
    uint64_t began = bmig_loop_now_ns(rig.loop);
    engine_rig_submit(&rig, &write, BMIG_WRITE, 0, 4096, 5);
    ck_assert_int_eq(engine_rig_wait(&rig, &write, NULL), 0);
    uint64_t took = bmig_loop_now_ns(rig.loop) - began;
    ck_assert_uint_ge(took, 5 * SECOND);
    ck_assert_uint_le(took, 6 * SECOND);
    ck_assert_int_eq(stats().state, BMIG_MIRROR_DEGRADED);
    ck_assert_int_eq(stats().error, -ETIMEDOUT);
}
END_TEST

START_TEST(source_read_error_leaves_the_region_stale_and_is_tried_again)
{
    fail_op(0, BMIG_READ, EIO, 2);
    engine_rig_mirror(&rig, true, false);
    engine_rig_until(&rig, BMIG_MIRROR_SYNCED);
    ck_assert(engine_rig_equal(&rig));
}
END_TEST

START_TEST(source_that_can_not_be_read_is_never_made_up)
{
    struct bmig_fault fault = {.kind = BMIG_FAULT_ERROR,
                               .ops = 1 << BMIG_READ,
                               .error = EIO,
                               .offset = 5 * REGION,
                               .length = 512};
    bmig_faults_add(faults[0], &fault);
    engine_rig_mirror(&rig, true, false);
    engine_rig_until(&rig, BMIG_MIRROR_DEGRADED);
    ck_assert_uint_eq(issued(1, BMIG_WRITE, 5 * REGION, REGION), 0);
    ck_assert_ptr_nonnull(strstr(stats().error_text, "source"));
}
END_TEST

START_TEST(flush_failure_makes_what_came_since_the_last_good_one_stale)
{
    synced(false);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_WRITE, 0, 4096, 5, NULL), 0);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_WRITE, 7 * REGION, 4096, 5, NULL), 0);
    fail_op(1, BMIG_FLUSH, EIO, 1);
    ck_assert_int_eq(engine_rig_prepare(&rig), -EIO);
    ck_assert_uint_eq(stats().bytes_stale, 2 * REGION);
    engine_rig_until(&rig, BMIG_MIRROR_SYNCED);
    ck_assert_uint_eq(stats().bytes_recopied, 2 * REGION);
}
END_TEST

/* ---- the copy ---- */

START_TEST(copy_reads_and_writes_every_byte_once)
{
    bmig_record_clear(record[0]);
    synced(false);
    for (uint64_t region = 0; region < SIZE / REGION; region++) {
        ck_assert_uint_eq(issued(0, BMIG_READ, region * REGION, REGION), 1);
        ck_assert_uint_eq(issued(1, BMIG_WRITE, region * REGION, REGION), 1);
    }
    ck_assert_uint_eq(stats().bytes_copied, SIZE);
    ck_assert_uint_eq(stats().bytes_recopied, 0);
    ck_assert(engine_rig_equal(&rig));
}
END_TEST

START_TEST(copy_of_holes_to_a_zero_target_moves_nothing)
{
    struct engine_rig_request zero;
    memset(&zero, 0, sizeof(zero));
    engine_rig_submit_flags(&rig, &zero, BMIG_ZERO, MIB, 2 * MIB, BMIG_MAY_UNMAP);
    ck_assert_int_eq(engine_rig_wait(&rig, &zero, NULL), 0);
    bmig_record_clear(record[0]);
    synced(true);
    ck_assert_uint_eq(issued(0, BMIG_READ, MIB, 2 * MIB), 0);
    ck_assert_uint_eq(issued(1, BMIG_WRITE, MIB, 2 * MIB), 0);
    ck_assert_uint_eq(issued(1, BMIG_ZERO, 0, SIZE), 0);
    ck_assert_uint_eq(bmig_mem_allocated_bytes(rig.disks[1]->next->next->next->next), 2 * MIB);
    ck_assert(engine_rig_equal(&rig));
}
END_TEST

START_TEST(copy_of_holes_to_a_used_target_zeroes_it)
{
    struct engine_rig_request zero;
    memset(&zero, 0, sizeof(zero));
    engine_rig_fill(&rig, rig.disks[1], 0, SIZE, 99);
    engine_rig_submit_flags(&rig, &zero, BMIG_ZERO, MIB, 2 * MIB, BMIG_MAY_UNMAP);
    ck_assert_int_eq(engine_rig_wait(&rig, &zero, NULL), 0);
    bmig_record_clear(record[1]);
    engine_rig_mirror(&rig, false, true);
    engine_rig_until(&rig, BMIG_MIRROR_SYNCED);
    ck_assert_uint_eq(issued(1, BMIG_WRITE, MIB, 2 * MIB), 0);
    ck_assert_uint_ge(issued(1, BMIG_ZERO, MIB, 2 * MIB), 1);
    ck_assert(engine_rig_equal(&rig));
}
END_TEST

START_TEST(zero_seen_by_the_scout_does_not_outlive_a_guest_write)
{
    struct engine_rig_request zero;
    memset(&zero, 0, sizeof(zero));
    engine_rig_submit_flags(&rig, &zero, BMIG_ZERO, 0, SIZE, BMIG_MAY_UNMAP);
    ck_assert_int_eq(engine_rig_wait(&rig, &zero, NULL), 0);
    engine_rig_mirror(&rig, false, false); /* every region is a zero to be sent */
    engine_rig_until(&rig, BMIG_MIRROR_SYNCED);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_WRITE, REGION, 4096, 5, NULL), 0);
    fail_op(1, BMIG_WRITE, EIO, 1);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_WRITE, REGION + 8192, 4096, 6, NULL), 0);
    engine_rig_until(&rig, BMIG_MIRROR_SYNCED);
    ck_assert(engine_rig_equal(&rig));
}
END_TEST

START_TEST(guest_write_does_not_wait_for_a_copy_under_way_and_taints_it)
{
    bmig_delay_set(delay[1], 1 << BMIG_WRITE, 200 * MS, 0); /* the copy's write is slow */
    engine_rig_mirror(&rig, true, false);
    engine_rig_run_for(&rig, 20 * MS);
    uint64_t began = bmig_loop_now_ns(rig.loop);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_WRITE, 4096, 4096, 5, NULL), 0);
    ck_assert_uint_lt(bmig_loop_now_ns(rig.loop) - began, 10 * MS);
    engine_rig_until(&rig, BMIG_MIRROR_SYNCED);
    ck_assert_uint_eq(stats().bytes_recopied, REGION);
    ck_assert(engine_rig_equal(&rig));
}
END_TEST

START_TEST(region_that_was_tainted_is_copied_with_the_guests_writes_held)
{
    struct engine_rig_request write;
    bmig_delay_set(delay[1], 1 << BMIG_WRITE, 200 * MS, 0);
    engine_rig_mirror(&rig, true, false);
    engine_rig_run_for(&rig, 20 * MS);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_WRITE, 4096, 4096, 5, NULL), 0);
    while (issued(0, BMIG_READ, 0, 512) < 2) /* until the second visit */
        engine_rig_run_for(&rig, 1 * MS);
    engine_rig_submit(&rig, &write, BMIG_WRITE, 8192, 4096, 6);
    engine_rig_run_for(&rig, 100 * MS);
    ck_assert(!write.ended);
    ck_assert_int_eq(engine_rig_wait(&rig, &write, NULL), 0);
    engine_rig_until(&rig, BMIG_MIRROR_SYNCED);
    ck_assert_uint_eq(issued(0, BMIG_READ, 0, 512), 2); /* no third one */
    ck_assert(engine_rig_equal(&rig));
}
END_TEST

START_TEST(copy_does_not_begin_where_a_guest_write_is_under_way)
{
    struct engine_rig_request write;
    bmig_delay_set(delay[0], 1 << BMIG_WRITE, 500 * MS, 0);
    engine_rig_submit(&rig, &write, BMIG_WRITE, 2 * REGION, 4096, 5);
    bmig_record_clear(record[1]);
    engine_rig_mirror(&rig, true, false);
    engine_rig_run_for(&rig, 400 * MS);
    ck_assert(!write.ended);
    ck_assert_uint_eq(issued(1, BMIG_WRITE, 2 * REGION, REGION), 0);
    ck_assert_int_eq(engine_rig_wait(&rig, &write, NULL), 0);
    engine_rig_until(&rig, BMIG_MIRROR_SYNCED);
    ck_assert(engine_rig_equal(&rig));
}
END_TEST

START_TEST(copy_under_endless_writes_ends_after_one_pass)
{
    enum { DEPTH = 8 };
    struct engine_rig_request writes[DEPTH];
    uint64_t random = 3;
    bmig_delay_set(delay[0], BMIG_OPS_ALL, 1 * MS, 0);
    bmig_delay_set(delay[1], BMIG_OPS_ALL, 2 * MS, 0);
    engine_rig_mirror(&rig, true, false);
    for (unsigned i = 0; i < DEPTH; i++)
        engine_rig_submit(&rig, &writes[i], BMIG_WRITE, (test_random(&random) % 1024) * 4096, 4096,
                          1);
    for (unsigned i = 0; stats().state != BMIG_MIRROR_SYNCED; i = (i + 1) % DEPTH) {
        ck_assert_int_eq(engine_rig_wait(&rig, &writes[i], NULL), 0);
        engine_rig_submit(&rig, &writes[i], BMIG_WRITE, (test_random(&random) % 1024) * 4096, 4096,
                          1);
    }
    for (unsigned i = 0; i < DEPTH; i++)
        engine_rig_wait(&rig, &writes[i], NULL);
    /* 64 regions with 8 writes always under way: most are hit in the act, none more than once. */
    ck_assert_uint_le(stats().bytes_copied, 2 * SIZE);
    ck_assert(engine_rig_equal(&rig));
}
END_TEST

START_TEST(paused_copy_stands_still_and_goes_on)
{
    bmig_delay_set(delay[1], 1 << BMIG_WRITE, 20 * MS, 0);
    engine_rig_mirror(&rig, true, false);
    bmig_mirror_pause(rig.volume, true);
    engine_rig_run_for(&rig, SECOND);
    uint64_t stale = stats().bytes_stale;
    ck_assert_uint_gt(stale, 0);
    engine_rig_run_for(&rig, 10 * SECOND);
    ck_assert_uint_eq(stats().bytes_stale, stale);
    bmig_mirror_pause(rig.volume, false);
    engine_rig_until(&rig, BMIG_MIRROR_SYNCED);
}
END_TEST

START_TEST(bandwidth_caps_the_copy)
{
    uint64_t began = bmig_loop_now_ns(rig.loop);
    engine_rig_mirror(&rig, true, false);
    bmig_mirror_set(rig.volume, MIB, 0);
    engine_rig_until(&rig, BMIG_MIRROR_SYNCED);
    uint64_t took = bmig_loop_now_ns(rig.loop) - began;
    ck_assert_uint_ge(took, 2 * SECOND); /* 4 MiB, of which the first pieces were on their way */
    ck_assert_uint_le(took, 5 * SECOND);
}
END_TEST

START_TEST(synced_is_entered_behind_a_good_flush_of_the_copys_last_write)
{
    synced(false);
    size_t count = bmig_record_count(record[1]);
    ck_assert_int_eq(bmig_record_at(record[1], count - 1)->op, BMIG_FLUSH);
    ck_assert_int_eq(bmig_record_at(record[1], count - 1)->status, 0);
}
END_TEST

/* ---- verify ---- */

static void wrong_write(enum bmig_fault_kind kind, uint64_t times)
{
    struct bmig_fault fault = {.kind = kind,
                               .ops = 1 << BMIG_WRITE,
                               .offset = 9 * REGION,
                               .length = 512,
                               .times = times,
                               .amount = 4096};
    bmig_faults_add(faults[1], &fault);
}

START_TEST(verify_finds_a_silent_fault_and_it_is_copied_again)
{
    static const enum bmig_fault_kind kinds[] = {BMIG_FAULT_LIE, BMIG_FAULT_CORRUPT,
                                                 BMIG_FAULT_MISDIRECT};
    wrong_write(kinds[_i], 1);
    synced(true);
    ck_assert_uint_gt(stats().bytes_different, 0);
    ck_assert(stats().verified);
    ck_assert(engine_rig_equal(&rig));
}
END_TEST

START_TEST(without_verify_a_silent_fault_is_not_claimed_to_be_verified)
{
    wrong_write(BMIG_FAULT_LIE, 1);
    synced(false);
    ck_assert(!stats().verified);
    ck_assert(!engine_rig_equal(&rig));
}
END_TEST

START_TEST(target_that_never_keeps_what_is_written_is_given_up)
{
    wrong_write(BMIG_FAULT_LIE, 0);
    engine_rig_mirror(&rig, true, true);
    engine_rig_until(&rig, BMIG_MIRROR_DEGRADED);
    ck_assert_ptr_nonnull(strstr(stats().error_text, "keep"));
}
END_TEST

START_TEST(region_written_while_it_is_compared_is_compared_again)
{
    bmig_delay_set(delay[1], 1 << BMIG_READ, 100 * MS, 0);
    engine_rig_mirror(&rig, true, true);
    engine_rig_until(&rig, BMIG_MIRROR_VERIFYING);
    engine_rig_run_for(&rig, 20 * MS);
    uint64_t began = bmig_loop_now_ns(rig.loop);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_WRITE, SIZE - REGION, 4096, 5, NULL), 0);
    ck_assert_uint_lt(bmig_loop_now_ns(rig.loop) - began, 10 * MS);
    engine_rig_until(&rig, BMIG_MIRROR_SYNCED);
    ck_assert_uint_eq(stats().bytes_different, 0);
    ck_assert(stats().verified);
}
END_TEST

/* ---- the switch ---- */

START_TEST(switch_flips_reads_to_the_new_primary_and_mirrors_in_reverse)
{
    synced(false);
    engine_rig_switch(&rig, 2);
    ck_assert_ptr_eq(bmig_volume_primary(rig.volume), rig.disks[1]);
    ck_assert_uint_eq(bmig_volume_epoch(rig.volume), 2);
    size_t reads = issued(1, BMIG_READ, 0, SIZE);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_READ, 0, 4096, 0, NULL), 0);
    ck_assert_uint_eq(issued(1, BMIG_READ, 0, SIZE), reads + 1);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_WRITE, 0, 4096, 7, NULL), 0);
    ck_assert(engine_rig_equal(&rig));
}
END_TEST

START_TEST(switch_is_refused_before_all_is_in_sync)
{
    bmig_delay_set(delay[1], 1 << BMIG_WRITE, 100 * MS, 0);
    engine_rig_mirror(&rig, true, false);
    ck_assert_int_eq(engine_rig_prepare(&rig), -EBUSY);
}
END_TEST

START_TEST(guest_io_goes_on_between_prepare_and_commit)
{
    synced(false);
    ck_assert_int_eq(engine_rig_prepare(&rig), 0);
    uint64_t began = bmig_loop_now_ns(rig.loop);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_WRITE, 0, 4096, 7, NULL), 0);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_READ, 0, 4096, 0, NULL), 0);
    ck_assert_uint_lt(bmig_loop_now_ns(rig.loop) - began, MS);
    bmig_mirror_switch_commit(rig.volume, 2);
    ck_assert(engine_rig_equal(&rig));
}
END_TEST

START_TEST(flush_in_doubt_goes_to_both_and_before_only_to_the_primary)
{
    synced(false);
    size_t before = issued(1, BMIG_FLUSH, 0, 0);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_FLUSH, 0, 0, 0, NULL), 0);
    ck_assert_uint_eq(issued(1, BMIG_FLUSH, 0, 0), before);
    ck_assert_int_eq(engine_rig_prepare(&rig), 0);
    before = issued(1, BMIG_FLUSH, 0, 0);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_FLUSH, 0, 0, 0, NULL), 0);
    ck_assert_uint_eq(issued(1, BMIG_FLUSH, 0, 0), before + 1);
    bmig_mirror_switch_commit(rig.volume, 2);
}
END_TEST

START_TEST(prepare_flushes_behind_every_write_that_had_begun)
{
    struct engine_rig_request write;
    synced(false);
    bmig_delay_set(delay[1], 1 << BMIG_WRITE, 100 * MS, 0);
    engine_rig_submit(&rig, &write, BMIG_WRITE, 0, 4096, 7);
    ck_assert_int_eq(engine_rig_prepare(&rig), 0);
    ck_assert(write.ended);
    engine_rig_wait(&rig, &write, NULL);
    size_t count = bmig_record_count(record[1]);
    const struct bmig_record_entry *flush = bmig_record_at(record[1], count - 1);
    const struct bmig_record_entry *leg = bmig_record_at(record[1], count - 2);
    ck_assert_int_eq(flush->op, BMIG_FLUSH);
    ck_assert_int_eq(leg->op, BMIG_WRITE);
    ck_assert_uint_lt(leg->completed, flush->submitted);
    bmig_mirror_switch_abort(rig.volume);
}
END_TEST

START_TEST(write_whose_leg_fails_in_doubt_waits_for_the_outcome)
{
    struct engine_rig_request write;
    for (int failing = 0; failing < 2; failing++) {
        for (int commit = 0; commit < 2; commit++) {
            set_up();
            synced(false);
            ck_assert_int_eq(engine_rig_prepare(&rig), 0);
            fail_op(failing, BMIG_WRITE, EIO, 1);
            engine_rig_submit(&rig, &write, BMIG_WRITE, 0, 4096, 7);
            engine_rig_run_for(&rig, SECOND);
            ck_assert(!write.ended);
            if (commit)
                bmig_mirror_switch_commit(rig.volume, 2);
            else
                bmig_mirror_switch_abort(rig.volume);
            int expected = !commit && failing == 0 ? -EIO : 0;
            ck_assert_int_eq(engine_rig_wait(&rig, &write, NULL), expected);
            /* What was acknowledged is what the replica of the record holds, at once. */
            uint8_t data[4096];
            ck_assert_int_eq(test_run(rig.disks[commit], BMIG_READ, 0, 4096, data, 0), 0);
            if (expected == 0)
                ck_assert_uint_eq(data[0], 7);
            engine_rig_until(&rig, BMIG_MIRROR_SYNCED);
            ck_assert(engine_rig_equal(&rig));
            tear_down();
        }
    }
}
END_TEST

START_TEST(read_of_a_range_in_flight_at_the_flip_stays_with_the_old_primary)
{
    struct engine_rig_request write, read;
    uint8_t data[4096];
    synced(false);
    ck_assert_int_eq(engine_rig_prepare(&rig), 0);
    bmig_delay_set(delay[1], 1 << BMIG_WRITE, 300 * MS, 0); /* the old one has it long before */
    engine_rig_submit(&rig, &write, BMIG_WRITE, 0, 4096, 7);
    engine_rig_run_for(&rig, 10 * MS);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_READ, 0, 4096, 0, data), 0);
    ck_assert_uint_eq(data[0], 7); /* seen before the flip: may never be unseen */
    bmig_mirror_switch_commit(rig.volume, 2);
    engine_rig_submit(&rig, &read, BMIG_READ, 0, 4096, 0);
    ck_assert_int_eq(engine_rig_wait(&rig, &read, data), 0);
    ck_assert(!write.ended);
    ck_assert_uint_eq(data[0], 7);
    ck_assert_int_eq(engine_rig_wait(&rig, &write, NULL), 0);
    size_t before = issued(1, BMIG_READ, 0, 512);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_READ, 0, 4096, 0, data), 0);
    ck_assert_uint_eq(issued(1, BMIG_READ, 0, 512), before + 1);
}
END_TEST

START_TEST(rollback_is_the_same_flip_again_and_loses_nothing)
{
    synced(false);
    engine_rig_switch(&rig, 2);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_WRITE, 12288, 4096, 7, NULL), 0);
    engine_rig_switch(&rig, 3);
    uint8_t data[4096];
    ck_assert_ptr_eq(bmig_volume_primary(rig.volume), rig.disks[0]);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_READ, 12288, 4096, 0, data), 0);
    ck_assert_uint_eq(data[0], 7);
}
END_TEST

START_TEST(stop_is_refused_in_doubt_and_afterwards_touches_the_old_replica_no_more)
{
    synced(false);
    ck_assert_int_eq(engine_rig_prepare(&rig), 0);
    ck_assert_int_eq(bmig_mirror_stop(rig.volume, NULL, NULL), -EBUSY);
    bmig_mirror_switch_commit(rig.volume, 2);
    engine_rig_stop(&rig);
    size_t before = bmig_record_count(record[0]);
    ck_assert_int_eq(engine_rig_do(&rig, BMIG_WRITE, 0, 4096, 7, NULL), 0);
    ck_assert_uint_eq(bmig_record_count(record[0]), before);
}
END_TEST

START_TEST(stop_with_writes_under_way_ends_and_answers_them)
{
    struct engine_rig_request writes[8];
    bmig_delay_set(delay[1], BMIG_OPS_ALL, 30 * MS, 0);
    engine_rig_mirror(&rig, true, true);
    for (unsigned i = 0; i < 8; i++)
        engine_rig_submit(&rig, &writes[i], BMIG_WRITE, i * REGION, 4096, 1);
    engine_rig_run_for(&rig, 5 * MS);
    engine_rig_stop(&rig);
    for (unsigned i = 0; i < 8; i++)
        ck_assert_int_eq(engine_rig_wait(&rig, &writes[i], NULL), 0);
    ck_assert_ptr_eq(bmig_volume_primary(rig.volume), rig.disks[0]);
}
END_TEST

START_TEST(target_smaller_than_the_volume_is_refused)
{
    struct bmig_error err = {0};
    struct bmig_open_options options = {.writable = true};
    struct bmig_mirror_options mirror = {0};
    struct bmig_disk *small = test_open(rig.loop, "mem:?size=1M", NULL, &options);
    ck_assert_int_eq(bmig_mirror_start(rig.volume, small, &mirror, NULL, NULL, &err), -EINVAL);
    ck_assert_int_eq(err.kind, BMIG_REFUSED);
    test_close(small);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("mirror");
    TCase *tcase = tcase_create("all");
    TCase *bare = tcase_create("bare");
    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, write_without_a_mirror_goes_to_the_primary_alone);
    tcase_add_test(tcase, write_to_a_stale_region_is_not_sent_to_the_secondary);
    tcase_add_test(tcase, write_to_a_clean_region_is_answered_when_both_replicas_have_it);
    tcase_add_test(tcase, both_legs_go_out_together);
    tcase_add_test(tcase, reads_go_to_the_primary_alone);
    tcase_add_test(tcase, overlapping_writes_reach_both_replicas_in_one_order);
    tcase_add_test(tcase, discard_with_two_replicas_leaves_them_equal);
    tcase_add_test(tcase, discard_is_left_out_where_zeroes_would_be_dear);
    tcase_add_test(tcase, fast_zero_that_one_replica_lacks_is_refused_before_any_leg);
    tcase_add_test(tcase, write_failure_marks_region_stale_and_the_guest_gets_success);
    tcase_add_test(tcase, write_failure_of_the_primary_reaches_the_guest_and_marks_region_stale);
    tcase_add_test(tcase, secondary_that_fails_for_ever_is_given_up_and_the_guest_goes_on);
    tcase_add_test(tcase, leg_that_hangs_is_given_up_after_its_bound_and_the_guest_answered);
    tcase_add_test(tcase, source_read_error_leaves_the_region_stale_and_is_tried_again);
    tcase_add_test(tcase, source_that_can_not_be_read_is_never_made_up);
    tcase_add_test(tcase, flush_failure_makes_what_came_since_the_last_good_one_stale);
    tcase_add_test(tcase, copy_reads_and_writes_every_byte_once);
    tcase_add_test(tcase, copy_of_holes_to_a_zero_target_moves_nothing);
    tcase_add_test(tcase, copy_of_holes_to_a_used_target_zeroes_it);
    tcase_add_test(tcase, zero_seen_by_the_scout_does_not_outlive_a_guest_write);
    tcase_add_test(tcase, guest_write_does_not_wait_for_a_copy_under_way_and_taints_it);
    tcase_add_test(tcase, region_that_was_tainted_is_copied_with_the_guests_writes_held);
    tcase_add_test(tcase, copy_does_not_begin_where_a_guest_write_is_under_way);
    tcase_add_test(tcase, copy_under_endless_writes_ends_after_one_pass);
    tcase_add_test(tcase, paused_copy_stands_still_and_goes_on);
    tcase_add_test(tcase, bandwidth_caps_the_copy);
    tcase_add_test(tcase, synced_is_entered_behind_a_good_flush_of_the_copys_last_write);
    tcase_add_loop_test(tcase, verify_finds_a_silent_fault_and_it_is_copied_again, 0, 3);
    tcase_add_test(tcase, without_verify_a_silent_fault_is_not_claimed_to_be_verified);
    tcase_add_test(tcase, target_that_never_keeps_what_is_written_is_given_up);
    tcase_add_test(tcase, region_written_while_it_is_compared_is_compared_again);
    tcase_add_test(tcase, switch_flips_reads_to_the_new_primary_and_mirrors_in_reverse);
    tcase_add_test(tcase, switch_is_refused_before_all_is_in_sync);
    tcase_add_test(tcase, guest_io_goes_on_between_prepare_and_commit);
    tcase_add_test(tcase, flush_in_doubt_goes_to_both_and_before_only_to_the_primary);
    tcase_add_test(tcase, prepare_flushes_behind_every_write_that_had_begun);
    tcase_add_test(tcase, read_of_a_range_in_flight_at_the_flip_stays_with_the_old_primary);
    tcase_add_test(tcase, rollback_is_the_same_flip_again_and_loses_nothing);
    tcase_add_test(tcase, stop_is_refused_in_doubt_and_afterwards_touches_the_old_replica_no_more);
    tcase_add_test(tcase, stop_with_writes_under_way_ends_and_answers_them);
    tcase_add_test(tcase, target_smaller_than_the_volume_is_refused);
    tcase_add_test(bare, write_whose_leg_fails_in_doubt_waits_for_the_outcome);
    suite_add_tcase(suite, tcase);
    suite_add_tcase(suite, bare);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
