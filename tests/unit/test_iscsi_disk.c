/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The iSCSI disk against a target that misbehaves on purpose: what it sends, how often, and what
 * its user is told.
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/backends.h"
#include "tests/unit/disk_helper.h"
#include "tests/unit/iscsi_fake.h"

enum {
    READ16 = 0x88,
    WRITE16 = 0x8a,
    SYNC = 0x91,
    WRITE_SAME = 0x93,
    SERVICE_IN = 0x9e,
    UNMAP = 0x42,
    TEST_UNIT_READY = 0x00,
    CAPACITY = 0x10, /* service actions, as the CDB's second byte */
    LBA_STATUS = 0x12,
    UNMAP_BIT = 8,
    BUSY = 0x08,
    TASK_SET_FULL = 0x28,
    CONFLICT = 0x18,
    KB = 1024,
};

static const uint64_t SECOND = 1000000000;
static const struct fake_options THIN = {
    .thin = true, .zeroes = true, .unmap = true, .ws_unmap = true};

static struct bmig_loop *loop;
static struct fake *fake;
static struct bmig_disk *disk;
static uint8_t data[1024 * KB];

static void begin(const struct fake_options *target, uint64_t timeout_ns, uint32_t sessions)
{
    struct bmig_error err = {0};
    struct bmig_open_options options = {
        .writable = true, .timeout_ns = timeout_ns, .sessions = sessions};
    ck_assert_int_eq(bmig_loop_new(&loop, BMIG_LOOP_AUTO, &err), 0);
    fake = fake_new(target);
    disk = test_open(loop, fake_uri(fake), NULL, &options);
    memset(data, 0x5a, sizeof data);
}

static void end(void)
{
    test_close(disk);
    while (bmig_loop_outstanding(loop))
        bmig_loop_step(loop, UINT64_MAX);
    fake_free(fake);
    bmig_loop_free(loop);
}

static void rule_sense(int opcode, int count, uint32_t sense)
{
    fake_rule(
        fake,
        (struct fake_rule){
            .opcode = opcode, .count = count, .action = FAKE_STATUS, .status = 2, .sense = sense});
}

static void rule_status(int opcode, int count, uint8_t status)
{
    fake_rule(fake, (struct fake_rule){
                        .opcode = opcode, .count = count, .action = FAKE_STATUS, .status = status});
}

static void rule(int opcode, int count, enum fake_action action)
{
    fake_rule(fake, (struct fake_rule){.opcode = opcode, .count = count, .action = action});
}

static int write_at(uint64_t offset)
{
    return test_run(disk, BMIG_WRITE, offset, 4 * KB, data, 0);
}

/* The driver's own disk, below the format. */
static struct bmig_disk *bottom(void)
{
    struct bmig_disk *level = disk;
    while (level->next)
        level = level->next;
    return level;
}

static bool target_has(uint64_t length, uint8_t byte)
{
    const uint8_t *bytes = fake_bytes(fake);
    for (uint64_t i = 0; i < length; i++)
        if (bytes[i] != byte)
            return false;
    return true;
}

static int flush(void)
{
    return test_run(disk, BMIG_FLUSH, 0, 0, NULL, 0);
}

START_TEST(read_returns_what_was_written)
{
    static uint8_t back[1024 * KB];
    begin(&THIN, 5 * SECOND, 2);
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 7 + i / 251);
    ck_assert_int_eq(test_run(disk, BMIG_WRITE, 512 * KB, sizeof data, data, 0), 0);
    ck_assert_int_eq(test_run(disk, BMIG_READ, 512 * KB, sizeof back, back, 0), 0);
    ck_assert_mem_eq(back, data, sizeof data);
    ck_assert_mem_eq(fake_bytes(fake) + 512 * KB, data, sizeof data);
    end();
}
END_TEST

START_TEST(busy_target_gets_the_command_again)
{
    begin(&THIN, 5 * SECOND, 1);
    rule_status(WRITE16, 2, BUSY);
    rule_status(WRITE16, 1, TASK_SET_FULL);
    ck_assert_int_eq(write_at(0), 0);
    ck_assert_uint_eq(fake_count(fake, WRITE16), 4);
    end();
}
END_TEST

START_TEST(target_that_stays_busy_is_a_time_out)
{
    begin(&THIN, SECOND, 1);
    rule_status(WRITE16, -1, BUSY);
    ck_assert_int_eq(write_at(0), -ETIMEDOUT);
    fake_forget(fake);
    ck_assert_int_eq(write_at(0), 0);
    end();
}
END_TEST

START_TEST(unit_attention_is_sent_again_and_not_for_ever)
{
    begin(&THIN, 5 * SECOND, 1);
    rule_sense(WRITE16, 3, 0x062900);
    ck_assert_int_eq(write_at(0), 0);
    ck_assert_uint_eq(fake_count(fake, WRITE16), 4);
    rule_sense(WRITE16, -1, 0x062900);
    ck_assert_int_eq(write_at(0), -EIO);
    ck_assert_uint_lt(fake_count(fake, WRITE16), 40);
    end();
}
END_TEST

START_TEST(sense_becomes_the_requests_errno)
{
    static const struct {
        uint32_t sense;
        int status;
    } cases[] = {{0x072707, -ENOSPC},
                 {0x072700, -EROFS},
                 {0x031100, -EIO},
                 {0x044400, -EIO},
                 {0x052500, -ENXIO}};
    begin(&THIN, 5 * SECOND, 1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rule_sense(WRITE16, 1, cases[i].sense);
        ck_assert_int_eq(write_at(0), cases[i].status);
    }
    rule_status(WRITE16, 1, CONFLICT);
    ck_assert_int_eq(write_at(0), -EBUSY);
    ck_assert_uint_eq(fake_count(fake, WRITE16), 6);
    end();
}
END_TEST

START_TEST(short_transfer_is_no_success)
{
    begin(&THIN, 5 * SECOND, 1);
    rule(WRITE16, 1, FAKE_SHORT);
    ck_assert_int_eq(write_at(0), -EIO);
    rule(READ16, 1, FAKE_SHORT);
    ck_assert_int_eq(test_run(disk, BMIG_READ, 0, 4 * KB, data, 0), -EIO);
    end();
}
END_TEST

START_TEST(zero_is_one_write_same_and_unmaps_only_where_it_may)
{
    begin(&THIN, 5 * SECOND, 1);
    memset(fake_bytes(fake), 0xff, FAKE_BYTES);
    rule_sense(WRITE_SAME, 1, 0x062900);
    ck_assert_int_eq(test_run(disk, BMIG_ZERO, 0, 1024 * KB, NULL, 0), 0);
    ck_assert_uint_eq(fake_count(fake, WRITE_SAME), 2);
    fake_rule(fake, (struct fake_rule){
                        .opcode = WRITE_SAME, .cdb1 = UNMAP_BIT, .count = 1, .status = CONFLICT});
    ck_assert_int_eq(test_run(disk, BMIG_ZERO, 0, 1024 * KB, NULL, 0), 0);
    ck_assert_int_eq(test_run(disk, BMIG_ZERO, 0, 1024 * KB, NULL, BMIG_MAY_UNMAP), -EBUSY);
    ck_assert_uint_eq(fake_count(fake, WRITE16), 0);
    ck_assert(target_has(1024 * KB, 0));
    end();
}
END_TEST

START_TEST(zero_without_write_same_is_written)
{
    begin(&THIN, 5 * SECOND, 1);
    memset(fake_bytes(fake), 0xff, FAKE_BYTES);
    rule_sense(WRITE_SAME, -1, 0x052000);
    ck_assert_int_eq(test_run(disk, BMIG_ZERO, 0, 1024 * KB, NULL, BMIG_FAST_ONLY), -ENOTSUP);
    ck_assert_int_eq(test_run(disk, BMIG_ZERO, 0, 1024 * KB, NULL, 0), 0);
    ck_assert_int_eq(test_run(disk, BMIG_ZERO, 1024 * KB, 1024 * KB, NULL, 0), 0);
    ck_assert_uint_eq(fake_count(fake, WRITE_SAME), 1);
    ck_assert_uint_gt(fake_count(fake, WRITE16), 0);
    ck_assert(target_has(2048 * KB, 0));
    end();
}
END_TEST

START_TEST(write_same_that_can_not_unmap_is_tried_without)
{
    begin(&THIN, 5 * SECOND, 1);
    memset(fake_bytes(fake), 0xff, FAKE_BYTES);
    fake_rule(
        fake,
        (struct fake_rule){
            .opcode = WRITE_SAME, .cdb1 = UNMAP_BIT, .count = -1, .status = 2, .sense = 0x052400});
    ck_assert_int_eq(test_run(disk, BMIG_ZERO, 0, 64 * KB, NULL, BMIG_MAY_UNMAP), 0);
    ck_assert_int_eq(test_run(disk, BMIG_ZERO, 64 * KB, 64 * KB, NULL, BMIG_MAY_UNMAP), 0);
    ck_assert_uint_eq(fake_count(fake, WRITE_SAME), 3);
    ck_assert_uint_eq(fake_bytes(fake)[100 * KB], 0);
    end();
}
END_TEST

START_TEST(discard_is_unmap_and_then_nothing_where_the_target_lied)
{
    struct fake_options options = THIN;
    options.ws_unmap = false;
    begin(&options, 5 * SECOND, 1);
    ck_assert_int_eq(test_run(disk, BMIG_DISCARD, 0, 64 * KB, NULL, 0), 0);
    ck_assert_uint_eq(fake_count(fake, UNMAP), 1);
    rule_sense(UNMAP, -1, 0x052000);
    ck_assert_int_eq(test_run(disk, BMIG_DISCARD, 0, 64 * KB, NULL, 0), 0);
    ck_assert_int_eq(test_run(disk, BMIG_DISCARD, 0, 64 * KB, NULL, 0), 0);
    ck_assert_uint_eq(fake_count(fake, UNMAP), 2);
    end();
}
END_TEST

START_TEST(zero_and_discard_with_fua_end_behind_a_flush)
{
    begin(&THIN, 5 * SECOND, 1);
    ck_assert(disk->caps & BMIG_CAP_FUA);
    ck_assert_int_eq(test_run(disk, BMIG_ZERO, 0, 64 * KB, NULL, BMIG_FUA), 0);
    ck_assert_uint_eq(fake_count(fake, SYNC), 1);
    ck_assert_int_eq(test_run(disk, BMIG_DISCARD, 0, 64 * KB, NULL, BMIG_FUA), 0);
    ck_assert_uint_eq(fake_count(fake, SYNC), 2);
    fake_rule(fake,
              (struct fake_rule){.opcode = WRITE16, .cdb1 = 8, .count = 1, .status = CONFLICT});
    ck_assert_int_eq(write_at(0), 0);
    ck_assert_int_eq(test_run(disk, BMIG_WRITE, 0, 4 * KB, data, BMIG_FUA), -EBUSY);
    ck_assert_uint_eq(fake_count(fake, SYNC), 2);
    end();
}
END_TEST

START_TEST(extents_are_what_is_mapped_and_all_data_where_they_are_unknown)
{
    struct bmig_extent list[8];
    struct bmig_extents extents = {.list = list, .capacity = 8};
    struct bmig_request request = {
        .op = BMIG_EXTENTS, .offset = 64 * KB, .length = 64 * KB, .extents = &extents};
    begin(&THIN, 5 * SECOND, 1);
    ck_assert_int_eq(write_at(64 * KB), 0);
    ck_assert_int_eq(bmig_disk_run(disk, &request), 0);
    ck_assert_uint_eq(list[0].flags, BMIG_EXTENT_DATA);
    ck_assert_uint_eq(list[0].length_bytes, 4 * KB);
    fake_rule(
        fake,
        (struct fake_rule){
            .opcode = SERVICE_IN, .cdb1 = LBA_STATUS, .count = -1, .status = 2, .sense = 0x052000});
    ck_assert_int_eq(bmig_disk_run(disk, &request), 0);
    ck_assert_uint_eq(list[0].flags, BMIG_EXTENT_DATA);
    ck_assert_uint_eq(list[0].length_bytes, 64 * KB);
    ck_assert(!(bottom()->caps & BMIG_CAP_EXTENTS));
    end();
}
END_TEST

START_TEST(flush_that_is_unknown_fails_unless_nothing_is_cached)
{
    struct fake_options options = THIN;
    begin(&options, 5 * SECOND, 1);
    rule_sense(SYNC, 1, 0x052000);
    ck_assert_int_eq(flush(), -EIO);
    ck_assert_int_eq(flush(), 0);
    end();
    options.no_write_cache = true;
    begin(&options, 5 * SECOND, 1);
    rule_sense(SYNC, 1, 0x052000);
    ck_assert_int_eq(flush(), 0);
    end();
}
END_TEST

START_TEST(flush_after_a_power_cycle_fails_once_if_writes_were_cached)
{
    begin(&THIN, 5 * SECOND, 1);
    rule_sense(SYNC, 1, 0x062901);
    ck_assert_int_eq(flush(), 0); /* nothing was written */
    ck_assert_int_eq(write_at(0), 0);
    rule_sense(READ16, 1, 0x062901);
    ck_assert_int_eq(test_run(disk, BMIG_READ, 0, 4 * KB, data, 0), 0);
    ck_assert_int_eq(flush(), -EIO);
    ck_assert_int_eq(flush(), 0);
    end();
}
END_TEST

START_TEST(lost_connection_is_logged_in_with_the_same_isids_and_the_write_sent_again)
{
    begin(&THIN, 5 * SECOND, 2);
    fake_rule(fake,
              (struct fake_rule){.opcode = WRITE16, .count = 1, .action = FAKE_CUT, .bytes = 0});
    ck_assert_int_eq(write_at(0), 0);
    ck_assert_uint_eq(fake_count(fake, WRITE16), 2);
    ck_assert_uint_ne(fake_isid(fake, 0), fake_isid(fake, 1));
    ck_assert_uint_eq(fake_isid(fake, 2), fake_isid(fake, 0));
    ck_assert_uint_eq(fake_isid(fake, 3), fake_isid(fake, 1));
    ck_assert_uint_eq(fake_isid(fake, 4), 0);
    end();
}
END_TEST

START_TEST(nothing_is_sent_before_the_new_login)
{
    struct test_request requests[8];
    begin(&THIN, 5 * SECOND, 2);
    fake_rule(fake, (struct fake_rule){.opcode = FAKE_LOGIN, .count = 2, .bytes = 0});
    fake_rule(fake,
              (struct fake_rule){.opcode = WRITE16, .count = 1, .action = FAKE_CUT, .bytes = 0});
    for (int i = 0; i < 8; i++)
        test_submit(disk, &requests[i], BMIG_WRITE, (uint64_t)i * 64 * KB, 64 * KB, data, 0);
    for (int i = 0; i < 8; i++) {
        test_until(loop, &requests[i].ended);
        ck_assert_int_eq(requests[i].status, 0);
    }
    ck_assert_uint_le(fake_count(fake, WRITE16), 16);
    ck_assert_uint_eq(fake_count(fake, TEST_UNIT_READY),
                      4); /* two logins came through, of two sessions */
    end();
}
END_TEST

START_TEST(answer_cut_after_any_byte_loses_nothing)
{
    static uint8_t back[4 * KB];
    begin(&THIN, 10 * SECOND, 1);
    ck_assert_int_eq(write_at(0), 0);
    for (uint32_t bytes = 0; bytes < 120; bytes += 5) {
        fake_rule(fake, (struct fake_rule){
                            .opcode = READ16, .count = 1, .action = FAKE_CUT, .bytes = bytes});
        memset(back, 0, sizeof back);
        ck_assert_int_eq(test_run(disk, BMIG_READ, 0, sizeof back, back, 0), 0);
        ck_assert_mem_eq(back, data, sizeof back);
        fake_forget(fake);
    }
    end();
}
END_TEST

START_TEST(login_cut_after_any_byte_is_an_error)
{
    struct bmig_uri uri;
    struct bmig_error err = {0};
    struct bmig_open_options options = {.writable = true, .timeout_ns = 5 * SECOND};
    fake = fake_new(&THIN);
    ck_assert_int_eq(bmig_uri_parse(&uri, fake_uri(fake), &err), 0);
    for (uint32_t bytes = 0; bytes < 300; bytes += 7) {
        fake_rule(fake, (struct fake_rule){.opcode = FAKE_LOGIN, .count = -1, .bytes = bytes});
        ck_assert_msg(bmig_disk_open(&disk, &bmig_iscsi_driver, NULL, &uri, &options, &err) < 0,
                      "%u", bytes);
        ck_assert_int_eq(err.kind, BMIG_FAILED);
        err = (struct bmig_error){0};
        fake_forget(fake);
    }
    bmig_uri_fini(&uri);
    fake_free(fake);
}
END_TEST

START_TEST(every_question_of_an_open_may_be_cut)
{
    static const int questions[] = {0x12, TEST_UNIT_READY, SERVICE_IN, 0x1a};
    struct bmig_uri uri;
    struct bmig_error err = {0};
    struct bmig_open_options options = {.writable = true, .timeout_ns = 5 * SECOND};
    fake = fake_new(&THIN);
    ck_assert_int_eq(bmig_uri_parse(&uri, fake_uri(fake), &err), 0);
    for (size_t i = 0; i < sizeof questions / sizeof questions[0]; i++) {
        for (uint32_t bytes = 0; bytes < 48; bytes += 16) {
            fake_rule(fake,
                      (struct fake_rule){
                          .opcode = questions[i], .count = 1, .action = FAKE_CUT, .bytes = bytes});
            ck_assert_int_lt(bmig_disk_open(&disk, &bmig_iscsi_driver, NULL, &uri, &options, &err),
                             0);
            err = (struct bmig_error){0};
            fake_forget(fake);
        }
    }
    bmig_uri_fini(&uri);
    fake_free(fake);
}
END_TEST

START_TEST(garbage_is_a_lost_connection)
{
    begin(&THIN, 2 * SECOND, 1);
    for (int byte = 0; byte < 256; byte += 15) {
        fake_rule(fake, (struct fake_rule){.opcode = WRITE16,
                                           .count = 1,
                                           .action = FAKE_GARBAGE,
                                           .status = (uint8_t)byte});
        int status = write_at(0);
        /* What the library takes for nothing at all leaves the command unanswered. */
        ck_assert(status == 0 || status == -ETIMEDOUT);
        fake_forget(fake);
    }
    ck_assert_int_eq(write_at(0), 0);
    end();
}
END_TEST

START_TEST(silent_target_is_a_time_out_and_its_late_write_is_fenced)
{
    begin(&THIN, SECOND, 1);
    rule(WRITE16, -1, FAKE_MUTE);
    rule(FAKE_NOP, -1, FAKE_MUTE);
    ck_assert_int_eq(write_at(0), -ETIMEDOUT);
    fake_forget(fake);
    ck_assert_int_eq(write_at(0), 0);
    ck_assert_uint_eq(fake_isid(fake, 1), fake_isid(fake, 0));
    end();
}
END_TEST

START_TEST(command_that_is_not_answered_times_out_though_the_target_lives)
{
    begin(&THIN, SECOND, 1);
    rule(WRITE16, 1, FAKE_MUTE);
    ck_assert_int_eq(write_at(0), -ETIMEDOUT);
    ck_assert_uint_gt(fake_count(fake, FAKE_NOP), 0);
    ck_assert_int_eq(write_at(0), 0);
    end();
}
END_TEST

START_TEST(capacity_that_changed_is_checked_and_a_resize_is_refused)
{
    begin(&THIN, 5 * SECOND, 1);
    rule_sense(WRITE16, 1, 0x062a09);
    ck_assert_int_eq(write_at(0), 0);
    ck_assert_uint_eq(fake_isid(fake, 1), fake_isid(fake, 0));
    fake_resize(fake, FAKE_BYTES / 2);
    rule_sense(WRITE16, 1, 0x062a09);
    ck_assert_int_eq(write_at(0), -EIO);
    unsigned sent = fake_count(fake, WRITE16);
    ck_assert_int_eq(write_at(0), -EIO);
    ck_assert_uint_eq(fake_count(fake, WRITE16), sent);
    end();
}
END_TEST

START_TEST(address_out_of_range_is_not_checked_for_ever)
{
    begin(&THIN, 5 * SECOND, 1);
    rule_sense(WRITE16, -1, 0x052100);
    ck_assert_int_eq(write_at(0), -EIO);
    ck_assert_uint_eq(fake_count(fake, WRITE16), 3);
    end();
}
END_TEST

START_TEST(other_lun_behind_the_same_name_is_refused)
{
    begin(&THIN, 5 * SECOND, 1);
    fake_rename(fake, "other");
    fake_rule(fake,
              (struct fake_rule){.opcode = WRITE16, .count = 1, .action = FAKE_CUT, .bytes = 0});
    ck_assert_int_eq(write_at(0), -EIO);
    ck_assert_uint_eq(fake_count(fake, WRITE16), 1);
    end();
}
END_TEST

START_TEST(window_of_one_command_is_respected)
{
    static struct test_request requests[100];
    struct fake_options options = THIN;
    options.window = 1;
    begin(&options, 10 * SECOND, 1);
    for (int i = 0; i < 100; i++)
        test_submit(disk, &requests[i], BMIG_WRITE, (uint64_t)i * 32 * KB, 32 * KB, data, 0);
    for (int i = 0; i < 100; i++) {
        test_until(loop, &requests[i].ended);
        ck_assert_int_eq(requests[i].status, 0);
    }
    ck_assert_uint_eq(fake_count(fake, WRITE16), 100);
    end();
}
END_TEST

START_TEST(fence_waits_for_what_is_under_way)
{
    struct test_request requests[20];
    begin(&THIN, 10 * SECOND, 2);
    for (int i = 0; i < 20; i++)
        test_submit(disk, &requests[i], BMIG_WRITE, (uint64_t)i * 64 * KB, 64 * KB, data, 0);
    bmig_loop_step(loop, 0);
    test_fence(disk);
    for (int i = 0; i < 20; i++)
        ck_assert(requests[i].ended);
    ck_assert_int_eq(write_at(0), -ESHUTDOWN);
    end();
}
END_TEST

START_TEST(fence_of_a_hung_write_is_a_new_login)
{
    struct test_request request;
    begin(&THIN, 4 * SECOND, 1);
    rule(WRITE16, -1, FAKE_MUTE);
    test_submit(disk, &request, BMIG_WRITE, 0, 4 * KB, data, 0);
    while (fake_count(fake, WRITE16) == 0)
        bmig_loop_step(loop, 1000000);
    test_fence(disk);
    ck_assert(request.ended);
    ck_assert_int_eq(request.status, -ECANCELED);
    ck_assert_uint_eq(fake_isid(fake, 1), fake_isid(fake, 0));
    ck_assert_uint_eq(fake_count(fake, WRITE16), 1);
    end();
}
END_TEST

START_TEST(disk_may_be_closed_while_it_logs_in_again)
{
    begin(&THIN, 4 * SECOND, 1);
    fake_rule(fake, (struct fake_rule){.opcode = FAKE_LOGIN, .count = -1, .bytes = 0});
    fake_rule(fake,
              (struct fake_rule){.opcode = READ16, .count = 1, .action = FAKE_CUT, .bytes = 0});
    struct test_request request;
    test_submit(disk, &request, BMIG_READ, 0, 4 * KB, data, 0);
    while (fake_count(fake, FAKE_LOGIN) < 3)
        bmig_loop_step(loop, 1000000);
    test_fence(disk); /* nothing written was under way: no login is needed */
    ck_assert_int_eq(request.status, -ECANCELED);
    end();
}
END_TEST

START_TEST(thick_lun_promises_nothing_thin)
{
    struct fake_options options = {0};
    begin(&options, 5 * SECOND, 1);
    ck_assert(!(disk->caps & (BMIG_CAP_EXTENTS | BMIG_CAP_DISCARD | BMIG_CAP_UNMAP)));
    ck_assert(!disk->known_zero);
    ck_assert_int_eq(test_run(disk, BMIG_DISCARD, 0, 64 * KB, NULL, 0), 0);
    ck_assert_int_eq(test_run(disk, BMIG_ZERO, 0, 64 * KB, NULL, BMIG_MAY_UNMAP), 0);
    ck_assert_uint_eq(fake_count(fake, UNMAP), 0);
    end();
}
END_TEST

START_TEST(unmapped_lun_is_known_zero_only_if_it_reads_as_zeroes)
{
    struct fake_options options = THIN;
    begin(&options, 5 * SECOND, 1);
    ck_assert(disk->known_zero);
    end();
    options.zeroes = false;
    begin(&options, 5 * SECOND, 1);
    ck_assert(!disk->known_zero);
    ck_assert(!(disk->caps & BMIG_CAP_UNMAP));
    end();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("iscsi_disk");
    TCase *tcase = tcase_create("iscsi_disk");
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, read_returns_what_was_written);
    tcase_add_test(tcase, busy_target_gets_the_command_again);
    tcase_add_test(tcase, target_that_stays_busy_is_a_time_out);
    tcase_add_test(tcase, unit_attention_is_sent_again_and_not_for_ever);
    tcase_add_test(tcase, sense_becomes_the_requests_errno);
    tcase_add_test(tcase, short_transfer_is_no_success);
    tcase_add_test(tcase, zero_is_one_write_same_and_unmaps_only_where_it_may);
    tcase_add_test(tcase, zero_without_write_same_is_written);
    tcase_add_test(tcase, write_same_that_can_not_unmap_is_tried_without);
    tcase_add_test(tcase, discard_is_unmap_and_then_nothing_where_the_target_lied);
    tcase_add_test(tcase, zero_and_discard_with_fua_end_behind_a_flush);
    tcase_add_test(tcase, extents_are_what_is_mapped_and_all_data_where_they_are_unknown);
    tcase_add_test(tcase, flush_that_is_unknown_fails_unless_nothing_is_cached);
    tcase_add_test(tcase, flush_after_a_power_cycle_fails_once_if_writes_were_cached);
    tcase_add_test(tcase,
                   lost_connection_is_logged_in_with_the_same_isids_and_the_write_sent_again);
    tcase_add_test(tcase, nothing_is_sent_before_the_new_login);
    tcase_add_test(tcase, answer_cut_after_any_byte_loses_nothing);
    tcase_add_test(tcase, login_cut_after_any_byte_is_an_error);
    tcase_add_test(tcase, every_question_of_an_open_may_be_cut);
    tcase_add_test(tcase, garbage_is_a_lost_connection);
    tcase_add_test(tcase, silent_target_is_a_time_out_and_its_late_write_is_fenced);
    tcase_add_test(tcase, command_that_is_not_answered_times_out_though_the_target_lives);
    tcase_add_test(tcase, capacity_that_changed_is_checked_and_a_resize_is_refused);
    tcase_add_test(tcase, address_out_of_range_is_not_checked_for_ever);
    tcase_add_test(tcase, other_lun_behind_the_same_name_is_refused);
    tcase_add_test(tcase, window_of_one_command_is_respected);
    tcase_add_test(tcase, fence_waits_for_what_is_under_way);
    tcase_add_test(tcase, fence_of_a_hung_write_is_a_new_login);
    tcase_add_test(tcase, disk_may_be_closed_while_it_logs_in_again);
    tcase_add_test(tcase, thick_lun_promises_nothing_thin);
    tcase_add_test(tcase, unmapped_lun_is_known_zero_only_if_it_reads_as_zeroes);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
