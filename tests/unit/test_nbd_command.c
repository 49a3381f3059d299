/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The rules for NBD requests, as a table: which are refused, and with what.
 */
#include "blockmig/worker/nbd_command.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>

enum { SIZE = 64 << 20, MAX_DATA = 32 << 20 };

static int check(unsigned type, unsigned flags, uint64_t offset, uint32_t length, unsigned mode)
{
    struct bmig_nbds_session session = {
        .size_bytes = SIZE,
        .max_data_bytes = MAX_DATA,
        .structured = mode & 1,
        .allocation = mode & 2,
        .read_only = mode & 4,
    };
    struct bmig_nbds_command command = {
        .type = (uint16_t)type, .flags = (uint16_t)flags, .offset = offset, .length = length};
    const char *why = NULL;
    int rc = bmig_nbds_command_check(&command, &session, &why);

    ck_assert((rc == 0) == (why == NULL));
    return -rc;
}

START_TEST(request_is_parsed_field_by_field)
{
    struct bmig_nbds_command command;
    uint8_t bytes[] = "\x25\x60\x95\x13\1\2\3\4\5\6\7\x8\x9\xa\xb\xc\xd\xe\xf\x10\x11\x12\x13\x14"
                      "\x15\x16\x17\x18";

    ck_assert(bmig_nbds_command_parse(&command, bytes));
    ck_assert_uint_eq(command.flags, 0x0102);
    ck_assert_uint_eq(command.type, 0x0304);
    ck_assert_uint_eq(command.cookie, UINT64_C(0x05060708090a0b0c));
    ck_assert_uint_eq(command.offset, UINT64_C(0x0d0e0f1011121314));
    ck_assert_uint_eq(command.length, 0x15161718);
    for (int i = 0; i < 4; i++) {
        bytes[i] ^= 0x10;
        ck_assert(!bmig_nbds_command_parse(&command, bytes));
        bytes[i] ^= 0x10;
    }
}
END_TEST

START_TEST(unknown_commands_are_refused)
{
    for (unsigned type = 0; type < 65536; type++) {
        bool known = type == NBD_CMD_READ || type == NBD_CMD_WRITE || type == NBD_CMD_FLUSH ||
                     type == NBD_CMD_TRIM || type == NBD_CMD_WRITE_ZEROES ||
                     type == NBD_CMD_BLOCK_STATUS;

        ck_assert_int_eq(check(type, 0, 0, type == NBD_CMD_FLUSH ? 0 : 512, 3), known ? 0 : EINVAL);
    }
}
END_TEST

START_TEST(each_command_takes_its_own_flags_and_fua)
{
    static const struct {
        unsigned type, flags;
    } valid[] = {
        {NBD_CMD_READ, NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_DF},
        {NBD_CMD_WRITE, NBD_CMD_FLAG_FUA},
        {NBD_CMD_FLUSH, NBD_CMD_FLAG_FUA},
        {NBD_CMD_TRIM, NBD_CMD_FLAG_FUA},
        {NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO},
        {NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE},
    };

    for (size_t i = 0; i < sizeof(valid) / sizeof(valid[0]); i++) {
        uint32_t length = valid[i].type == NBD_CMD_FLUSH ? 0 : 512;

        for (int bit = 0; bit < 16; bit++)
            ck_assert_int_eq(check(valid[i].type, 1u << bit, 0, length, 3),
                             valid[i].flags & 1u << bit ? 0 : EINVAL);
    }
    ck_assert_int_eq(check(NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 512, 0), EINVAL);
}
END_TEST

START_TEST(range_beyond_the_end_is_refused_without_overflow)
{
    static const struct {
        uint64_t offset;
        uint32_t length;
    } bad[] = {{SIZE, 1},       {SIZE - 1, 2},   {SIZE + 1, 0},
               {UINT64_MAX, 1}, {UINT64_MAX, 0}, {UINT64_MAX - 511, 512},
               {0, UINT32_MAX}, {1, SIZE},       {UINT64_MAX - UINT32_MAX, UINT32_MAX}};

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        ck_assert_int_eq(check(NBD_CMD_READ, 0, bad[i].offset, bad[i].length, 3), EINVAL);
        ck_assert_int_eq(check(NBD_CMD_TRIM, 0, bad[i].offset, bad[i].length, 3), EINVAL);
        ck_assert_int_eq(check(NBD_CMD_BLOCK_STATUS, 0, bad[i].offset, bad[i].length, 3), EINVAL);
        ck_assert_int_eq(check(NBD_CMD_WRITE, 0, bad[i].offset, bad[i].length, 3), ENOSPC);
        ck_assert_int_eq(check(NBD_CMD_WRITE_ZEROES, 0, bad[i].offset, bad[i].length, 3), ENOSPC);
    }
    ck_assert_int_eq(check(NBD_CMD_READ, 0, SIZE - 1, 1, 0), 0);
    ck_assert_int_eq(check(NBD_CMD_READ, 0, SIZE, 0, 0), 0);
    ck_assert_int_eq(check(NBD_CMD_TRIM, 0, 0, SIZE, 0), 0);
    ck_assert_int_eq(check(NBD_CMD_WRITE_ZEROES, 0, 0, SIZE, 0), 0);
    ck_assert_int_eq(check(NBD_CMD_BLOCK_STATUS, 0, 0, SIZE, 3), 0);
}
END_TEST

START_TEST(data_is_bounded_and_one_chunk_more_so)
{
    ck_assert_int_eq(check(NBD_CMD_READ, 0, 0, MAX_DATA, 1), 0);
    ck_assert_int_eq(check(NBD_CMD_WRITE, 0, 0, MAX_DATA, 1), 0);
    ck_assert_int_eq(check(NBD_CMD_READ, 0, 0, MAX_DATA + 1, 1), EINVAL);
    ck_assert_int_eq(check(NBD_CMD_WRITE, 0, 0, MAX_DATA + 1, 1), EINVAL);
    ck_assert_int_eq(check(NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, BMIG_NBDS_DF_BYTES, 1), 0);
    ck_assert_int_eq(check(NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, BMIG_NBDS_DF_BYTES + 1, 1), EOVERFLOW);
}
END_TEST

START_TEST(read_only_export_permits_no_change_not_even_an_invalid_one)
{
    ck_assert_int_eq(check(NBD_CMD_WRITE, 0, 0, 512, 4), EPERM);
    ck_assert_int_eq(check(NBD_CMD_WRITE, 0, SIZE, 512, 4), EPERM);
    ck_assert_int_eq(check(NBD_CMD_WRITE, 0, 0, 0, 4), EPERM);
    ck_assert_int_eq(check(NBD_CMD_TRIM, 0, 0, 512, 4), EPERM);
    ck_assert_int_eq(check(NBD_CMD_WRITE_ZEROES, 0, 0, 512, 4), EPERM);
    ck_assert_int_eq(check(NBD_CMD_READ, 0, 0, 512, 4), 0);
    ck_assert_int_eq(check(NBD_CMD_FLUSH, 0, 0, 0, 4), 0);
}
END_TEST

START_TEST(status_needs_a_context_and_a_range_and_flush_takes_none)
{
    ck_assert_int_eq(check(NBD_CMD_BLOCK_STATUS, 0, 0, 512, 1), EINVAL);
    ck_assert_int_eq(check(NBD_CMD_BLOCK_STATUS, 0, 0, 0, 3), EINVAL);
    ck_assert_int_eq(check(NBD_CMD_FLUSH, 0, 1, 0, 0), EINVAL);
    ck_assert_int_eq(check(NBD_CMD_FLUSH, 0, 0, 1, 0), EINVAL);
}
END_TEST

START_TEST(errors_become_the_numbers_of_the_protocol)
{
    static const int same[] = {EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN};

    for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++) {
        ck_assert_uint_eq(bmig_nbds_error_number(same[i]), (uint32_t)same[i]);
        ck_assert_uint_eq(bmig_nbds_error_number(-same[i]), (uint32_t)same[i]);
    }
    ck_assert_uint_eq(bmig_nbds_error_number(EDQUOT), NBD_ENOSPC);
    ck_assert_uint_eq(bmig_nbds_error_number(EFBIG), NBD_ENOSPC);
    ck_assert_uint_eq(bmig_nbds_error_number(EROFS), NBD_EPERM);
    ck_assert_uint_eq(bmig_nbds_error_number(EACCES), NBD_EPERM);
    ck_assert_uint_eq(bmig_nbds_error_number(ETIMEDOUT), NBD_EIO);
    ck_assert_uint_eq(bmig_nbds_error_number(ESTALE), NBD_EIO);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("nbd_command");
    TCase *tcase = tcase_create("nbd_command");
    SRunner *runner;
    int failed;

    tcase_add_test(tcase, request_is_parsed_field_by_field);
    tcase_add_test(tcase, unknown_commands_are_refused);
    tcase_add_test(tcase, each_command_takes_its_own_flags_and_fua);
    tcase_add_test(tcase, range_beyond_the_end_is_refused_without_overflow);
    tcase_add_test(tcase, data_is_bounded_and_one_chunk_more_so);
    tcase_add_test(tcase, read_only_export_permits_no_change_not_even_an_invalid_one);
    tcase_add_test(tcase, status_needs_a_context_and_a_range_and_flush_takes_none);
    tcase_add_test(tcase, errors_become_the_numbers_of_the_protocol);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
