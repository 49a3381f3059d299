/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Sense: which status and sense data mean what for the request.
 */
#include <check.h>
#include <errno.h>
#include <stdlib.h>

#include "backends/iscsi.h"

static void judged(int key, int ascq, enum bmig_iscsi_verdict verdict, int code)
{
    struct scsi_sense sense = {.error_type = 0x70, .key = (enum scsi_sense_key)key, .ascq = ascq};
    int got = -1;
    ck_assert_msg(bmig_iscsi_judge(SCSI_STATUS_CHECK_CONDITION, &sense, &got) == verdict, "%x/%04x",
                  key, ascq);
    ck_assert_msg(got == code, "%x/%04x: errno %d, not %d", key, ascq, got, code);
}

START_TEST(good_status_is_done)
{
    struct scsi_sense sense = {0};
    int code = -1;
    ck_assert_int_eq(bmig_iscsi_judge(SCSI_STATUS_GOOD, &sense, &code), BMIG_ISCSI_DONE);
    ck_assert_int_eq(code, 0);
    ck_assert_int_eq(bmig_iscsi_judge(SCSI_STATUS_CONDITION_MET, &sense, &code), BMIG_ISCSI_DONE);
}
END_TEST

START_TEST(busy_target_is_asked_later)
{
    struct scsi_sense sense = {0};
    int code;
    ck_assert_int_eq(bmig_iscsi_judge(SCSI_STATUS_BUSY, &sense, &code), BMIG_ISCSI_LATER);
    ck_assert_int_eq(bmig_iscsi_judge(SCSI_STATUS_TASK_SET_FULL, &sense, &code), BMIG_ISCSI_LATER);
    judged(SCSI_SENSE_NOT_READY, 0x0401, BMIG_ISCSI_LATER, EIO);
    judged(SCSI_SENSE_NOT_READY, 0x040a, BMIG_ISCSI_LATER, EIO);
}
END_TEST

START_TEST(target_that_will_not_get_ready_fails)
{
    judged(SCSI_SENSE_NOT_READY, 0x0403, BMIG_ISCSI_FAIL, EIO);
    judged(SCSI_SENSE_NOT_READY, 0x040c, BMIG_ISCSI_FAIL, EIO);
    judged(SCSI_SENSE_NOT_READY, 0x3a00, BMIG_ISCSI_FAIL, ENOMEDIUM);
}
END_TEST

START_TEST(reservation_of_another_host_is_busy)
{
    struct scsi_sense sense = {0};
    int code = 0;
    ck_assert_int_eq(bmig_iscsi_judge(SCSI_STATUS_RESERVATION_CONFLICT, &sense, &code),
                     BMIG_ISCSI_FAIL);
    ck_assert_int_eq(code, EBUSY);
}
END_TEST

START_TEST(unanswered_command_is_lost)
{
    struct scsi_sense sense = {0};
    int code = 0;
    ck_assert_int_eq(bmig_iscsi_judge(SCSI_STATUS_CANCELLED, &sense, &code), BMIG_ISCSI_LOST);
    ck_assert_int_eq(bmig_iscsi_judge(SCSI_STATUS_ERROR, &sense, &code), BMIG_ISCSI_LOST);
    ck_assert_int_eq(bmig_iscsi_judge(SCSI_STATUS_TIMEOUT, &sense, &code), BMIG_ISCSI_LOST);
    ck_assert_int_eq(bmig_iscsi_judge(0x7f, &sense, &code), BMIG_ISCSI_LOST);
}
END_TEST

START_TEST(unit_attention_is_sent_again_but_a_changed_lun_is_checked)
{
    judged(SCSI_SENSE_UNIT_ATTENTION, 0x2900, BMIG_ISCSI_AGAIN, EIO);
    judged(SCSI_SENSE_UNIT_ATTENTION, 0x2907, BMIG_ISCSI_AGAIN, EIO);
    judged(SCSI_SENSE_UNIT_ATTENTION, 0x3807, BMIG_ISCSI_AGAIN, EIO);
    judged(SCSI_SENSE_UNIT_ATTENTION, 0x2a09, BMIG_ISCSI_RECHECK, EIO);
    judged(SCSI_SENSE_UNIT_ATTENTION, 0x3f03, BMIG_ISCSI_RECHECK, EIO);
    judged(SCSI_SENSE_ILLEGAL_REQUEST, 0x2100, BMIG_ISCSI_RECHECK, EIO);
}
END_TEST

START_TEST(full_thin_pool_is_no_space_and_the_rest_of_data_protect_read_only)
{
    judged(SCSI_SENSE_DATA_PROTECTION, 0x2707, BMIG_ISCSI_FAIL, ENOSPC);
    judged(SCSI_SENSE_DATA_PROTECTION, 0x2700, BMIG_ISCSI_FAIL, EROFS);
    judged(SCSI_SENSE_DATA_PROTECTION, 0x2702, BMIG_ISCSI_FAIL, EROFS);
}
END_TEST

START_TEST(medium_and_hardware_errors_are_io_errors)
{
    judged(SCSI_SENSE_MEDIUM_ERROR, 0x1100, BMIG_ISCSI_FAIL, EIO);
    judged(SCSI_SENSE_MEDIUM_ERROR, 0x0c00, BMIG_ISCSI_FAIL, EIO);
    judged(SCSI_SENSE_HARDWARE_ERROR, 0x4400, BMIG_ISCSI_FAIL, EIO);
    judged(SCSI_SENSE_NO_SENSE, 0, BMIG_ISCSI_FAIL, EIO);
    judged(SCSI_SENSE_MISCOMPARE, 0x1d00, BMIG_ISCSI_FAIL, EIO);
    judged(SCSI_SENSE_RECOVERED_ERROR, 0x1700, BMIG_ISCSI_DONE, 0);
}
END_TEST

START_TEST(unknown_command_is_unsupported)
{
    judged(SCSI_SENSE_ILLEGAL_REQUEST, 0x2000, BMIG_ISCSI_UNSUPPORTED, EOPNOTSUPP);
    judged(SCSI_SENSE_ILLEGAL_REQUEST, 0x2400, BMIG_ISCSI_UNSUPPORTED, EOPNOTSUPP);
    judged(SCSI_SENSE_ILLEGAL_REQUEST, 0x2600, BMIG_ISCSI_UNSUPPORTED, EOPNOTSUPP);
    judged(SCSI_SENSE_ILLEGAL_REQUEST, 0x2500, BMIG_ISCSI_FAIL, ENXIO);
}
END_TEST

START_TEST(aborted_command_is_sent_again_unless_its_data_was_bad)
{
    struct scsi_sense sense = {0};
    int code;
    judged(SCSI_SENSE_COMMAND_ABORTED, 0x4700, BMIG_ISCSI_AGAIN, EIO);
    judged(SCSI_SENSE_COMMAND_ABORTED, 0x1001, BMIG_ISCSI_FAIL, EIO);
    ck_assert_int_eq(bmig_iscsi_judge(SCSI_STATUS_TASK_ABORTED, &sense, &code), BMIG_ISCSI_AGAIN);
}
END_TEST

START_TEST(deferred_error_is_never_success)
{
    struct scsi_sense sense = {.error_type = 0x71, .key = SCSI_SENSE_RECOVERED_ERROR};
    int code = 0;
    ck_assert_int_eq(bmig_iscsi_judge(SCSI_STATUS_CHECK_CONDITION, &sense, &code), BMIG_ISCSI_FAIL);
    ck_assert_int_eq(code, EIO);
}
END_TEST

START_TEST(only_a_power_cycle_loses_the_cache)
{
    struct scsi_sense sense = {
        .error_type = 0x70, .key = SCSI_SENSE_UNIT_ATTENTION, .ascq = 0x2901};
    ck_assert(bmig_iscsi_cache_lost(SCSI_STATUS_CHECK_CONDITION, &sense));
    ck_assert(!bmig_iscsi_cache_lost(SCSI_STATUS_GOOD, &sense));
    sense.ascq = 0x2900;
    ck_assert(!bmig_iscsi_cache_lost(SCSI_STATUS_CHECK_CONDITION, &sense));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("iscsi_sense");
    TCase *tcase = tcase_create("iscsi_sense");
    tcase_add_test(tcase, good_status_is_done);
    tcase_add_test(tcase, busy_target_is_asked_later);
    tcase_add_test(tcase, target_that_will_not_get_ready_fails);
    tcase_add_test(tcase, reservation_of_another_host_is_busy);
    tcase_add_test(tcase, unanswered_command_is_lost);
    tcase_add_test(tcase, unit_attention_is_sent_again_but_a_changed_lun_is_checked);
    tcase_add_test(tcase, full_thin_pool_is_no_space_and_the_rest_of_data_protect_read_only);
    tcase_add_test(tcase, medium_and_hardware_errors_are_io_errors);
    tcase_add_test(tcase, unknown_command_is_unsupported);
    tcase_add_test(tcase, aborted_command_is_sent_again_unless_its_data_was_bad);
    tcase_add_test(tcase, deferred_error_is_never_success);
    tcase_add_test(tcase, only_a_power_cycle_loses_the_cache);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
