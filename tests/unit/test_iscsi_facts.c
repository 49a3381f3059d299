/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Facts: answers of targets, good, short and hostile. Each is parsed from a heap copy of its exact
 * length, so that a byte read beyond it is found by the address sanitizer.
 */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backends/iscsi.h"

static uint8_t *copy(const void *bytes, size_t length)
{
    uint8_t *data = calloc(1, length ? length : 1);
    memcpy(data, bytes, length);
    return data;
}

static bool capacity(struct bmig_iscsi_facts *facts, const uint8_t *bytes, size_t length)
{
    uint8_t *data = copy(bytes, length);
    bool good = bmig_iscsi_parse_capacity16(facts, data, length);
    free(data);
    return good;
}

START_TEST(capacity_gives_size_block_and_provisioning)
{
    struct bmig_iscsi_facts facts = {0};
    uint8_t answer[32] = {0, 0, 0, 0, 0, 0x1f, 0xff, 0xff, 0, 0, 2, 0, [13] = 3, [14] = 0xc0};
    ck_assert(capacity(&facts, answer, sizeof answer));
    ck_assert_uint_eq(facts.size_bytes, UINT64_C(1) << 30);
    ck_assert_uint_eq(facts.block_bytes, 512);
    ck_assert(facts.thin && facts.zeroes);
    for (size_t length = 0; length < 12; length++)
        ck_assert(!capacity(&facts, answer, length));
}
END_TEST

START_TEST(senseless_capacity_is_refused)
{
    struct bmig_iscsi_facts facts = {.size_bytes = 7};
    uint8_t answer[32] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 2, 0};
    ck_assert(!capacity(&facts, answer, sizeof answer)); /* overflows */
    memset(answer, 0, 8);
    answer[10] = 0;
    ck_assert(!capacity(&facts, answer, sizeof answer)); /* blocks of 0 */
    answer[10] = 3;
    ck_assert(!capacity(&facts, answer, sizeof answer)); /* of 768 */
    answer[8] = 0x80;
    answer[10] = 0;
    ck_assert(!capacity(&facts, answer, sizeof answer)); /* of 2 GiB */
    ck_assert_uint_eq(facts.size_bytes, 7);
}
END_TEST

START_TEST(pages_cut_anywhere_are_read_as_far_as_they_go)
{
    uint8_t limits[64] = {0, 0xb0, 0, 0x3c, [8] = 0, 0, 0x10, 0, [20] = 0, 1, 0, 0, [42] = 0x20};
    uint8_t provisioning[8] = {0, 0xb2, 0, 4, 0, 0xe4};
    uint8_t mode[32] = {31, 0, 0x90, 8, [12] = 0x08, 18, 0x14};
    for (size_t length = 0; length <= sizeof limits; length++) {
        struct bmig_iscsi_facts facts = {0};
        uint8_t *data = copy(limits, length);
        bmig_iscsi_parse_block_limits(&facts, data, length);
        free(data);
        ck_assert_uint_eq(facts.max_transfer_blocks, length >= 12 ? 0x1000 : 0);
        ck_assert_uint_eq(facts.max_unmap_blocks, length >= 24 ? 0x10000 : 0);
        ck_assert_uint_eq(facts.max_write_same_blocks, length >= 44 ? 0x2000 : 0);
    }
    for (size_t length = 0; length <= sizeof provisioning; length++) {
        struct bmig_iscsi_facts facts = {0};
        uint8_t *data = copy(provisioning, length);
        bmig_iscsi_parse_provisioning(&facts, data, length);
        bmig_iscsi_parse_characteristics(&facts, data, length);
        free(data);
        ck_assert_int_eq(facts.unmap && facts.ws_unmap, length >= 6);
        ck_assert(!facts.rotational);
    }
    for (size_t length = 0; length <= sizeof mode; length++) {
        struct bmig_iscsi_facts facts = {0};
        uint8_t *data = copy(mode, length);
        bmig_iscsi_parse_mode6(&facts, data, length);
        free(data);
        ck_assert_int_eq(facts.write_protected && facts.fua, length >= 4);
        ck_assert_int_eq(facts.write_cache, length >= 15);
    }
}
END_TEST

START_TEST(page_that_answers_another_question_is_ignored)
{
    uint8_t wrong[64] = {0, 0x83, 0, 0x3c, [8] = 0, 0, 0x10, 0};
    struct bmig_iscsi_facts facts = {0};
    bmig_iscsi_parse_block_limits(&facts, wrong, sizeof wrong);
    ck_assert_uint_eq(facts.max_transfer_blocks, 0);
}
END_TEST

static void identity(struct bmig_iscsi_facts *facts, const void *page83, size_t length83)
{
    uint8_t *data = copy(page83, length83);
    bmig_iscsi_parse_identity(facts, data, length83, NULL, 0, "iqn.a/1");
    free(data);
}

START_TEST(identity_is_the_luns_own_and_equal_for_equal_designators)
{
    /* A T10 vendor id, a port's NAA, the LUN's NAA. */
    uint8_t page[] = {0,   0x83, 0, 36,   2,    1, 0, 8, 'A', 'C', 'M', 'E', ' ', 'd',
                      '1', 0,    1, 0x13, 0,    8, 9, 9, 9,   9,   9,   9,   9,   9,
                      1,   3,    0, 8,    0x60, 1, 2, 3, 4,   5,   6,   7};
    struct bmig_iscsi_facts a = {0}, b = {0}, c = {0};
    identity(&a, page, sizeof page);
    identity(&b, page, sizeof page);
    ck_assert_int_eq(strncmp(a.identity, "iscsi:naa.6001020304050607-", 27), 0);
    ck_assert_str_eq(a.identity, b.identity);
    page[14] = '2'; /* the same NAA and another vendor id: some targets repeat their NAA */
    identity(&c, page, sizeof page);
    ck_assert_str_ne(a.identity, c.identity);
    page[14] = '1';
    page[20] = 8; /* another portal of the same LUN */
    identity(&c, page, sizeof page);
    ck_assert_str_eq(a.identity, c.identity);
    for (size_t length = 0; length < sizeof page; length++)
        identity(&c, page, length);
    page[31] = 255; /* a designator that reaches past the page */
    identity(&c, page, sizeof page);
    ck_assert_int_eq(strncmp(c.identity, "iscsi:t10.ACMEd1-", 17), 0);
}
END_TEST

START_TEST(lun_without_designators_is_named_by_its_target)
{
    struct bmig_iscsi_facts facts = {0};
    identity(&facts, "", 0);
    ck_assert_str_eq(facts.identity, "iscsi:iqn.a/1");
}
END_TEST

static int lba_status(const uint8_t *bytes, size_t length, uint64_t lba, uint64_t blocks,
                      struct bmig_extents *extents)
{
    uint8_t *data = copy(bytes, length);
    extents->count = 0;
    int rc = bmig_iscsi_parse_lba_status(data, length, lba, blocks, 512, true, extents);
    free(data);
    return rc;
}

START_TEST(lba_status_becomes_extents_cut_to_the_question)
{
    struct bmig_extent list[4];
    struct bmig_extents extents = {.list = list, .capacity = 4};
    /* 0-99 mapped, 100-199 unmapped, 200-299 anchored */
    uint8_t answer[8 + 48] = {0,          0, 0, 52, [15] = 0,   [19] = 100, [20] = 0, [31] = 100,
                              [35] = 100, 1, 0, 0,  [47] = 200, [51] = 100, [52] = 2};
    ck_assert_int_eq(lba_status(answer, sizeof answer, 50, 200, &extents), 0);
    ck_assert_uint_eq(extents.count, 3);
    ck_assert_uint_eq(list[0].length_bytes, 50 * 512);
    ck_assert_uint_eq(list[0].flags, BMIG_EXTENT_DATA);
    ck_assert_uint_eq(list[1].length_bytes, 100 * 512);
    ck_assert_uint_eq(list[1].flags, BMIG_EXTENT_HOLE | BMIG_EXTENT_ZERO);
    ck_assert_uint_eq(list[2].length_bytes, 50 * 512);
    ck_assert_uint_eq(list[2].flags, BMIG_EXTENT_ZERO);
    for (size_t length = 0; length < sizeof answer; length++) {
        int rc = lba_status(answer, length, 50, 200, &extents);
        ck_assert_int_eq(rc, length >= 24 ? 0 : -EIO);
    }
}
END_TEST

START_TEST(unmapped_blocks_are_zero_only_where_the_lun_says_so)
{
    struct bmig_extent one;
    struct bmig_extents extents = {.list = &one, .capacity = 1};
    uint8_t answer[24] = {0, 0, 0, 20, [19] = 100, [20] = 1};
    ck_assert_int_eq(bmig_iscsi_parse_lba_status(answer, 24, 0, 100, 512, false, &extents), 0);
    ck_assert_uint_eq(one.flags, BMIG_EXTENT_HOLE);
}
END_TEST

START_TEST(lba_status_that_does_not_answer_is_an_error)
{
    struct bmig_extent list[4];
    struct bmig_extents extents = {.list = list, .capacity = 4};
    uint8_t before[24] = {0, 0, 0, 20, [15] = 0, [19] = 50};
    uint8_t beyond[24] = {0, 0, 0, 20, [15] = 60, [19] = 50};
    uint8_t wraps[24] = {0,    0,    0,    20,   0xff, 0xff, 0xff,        0xff,    0xff,
                         0xff, 0xff, 0xff, 0xff, 0xff, 0xff, [19] = 0xff, [20] = 1};
    ck_assert_int_eq(lba_status(before, 24, 50, 10, &extents), -EIO);
    ck_assert_int_eq(lba_status(beyond, 24, 50, 10, &extents), -EIO);
    ck_assert_int_eq(lba_status(wraps, 24, 50, 10, &extents), -EIO);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("iscsi_facts");
    TCase *tcase = tcase_create("iscsi_facts");
    tcase_add_test(tcase, capacity_gives_size_block_and_provisioning);
    tcase_add_test(tcase, senseless_capacity_is_refused);
    tcase_add_test(tcase, pages_cut_anywhere_are_read_as_far_as_they_go);
    tcase_add_test(tcase, page_that_answers_another_question_is_ignored);
    tcase_add_test(tcase, identity_is_the_luns_own_and_equal_for_equal_designators);
    tcase_add_test(tcase, lun_without_designators_is_named_by_its_target);
    tcase_add_test(tcase, lba_status_becomes_extents_cut_to_the_question);
    tcase_add_test(tcase, unmapped_blocks_are_zero_only_where_the_lun_says_so);
    tcase_add_test(tcase, lba_status_that_does_not_answer_is_an_error);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
