/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The NBD client's memory of writes that a server may still lose.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "backends/nbd_internal.h"

static uint8_t bytes[1 << 20];

static struct bmig_request write_of(uint64_t offset, uint64_t length, uint32_t flags)
{
    return (struct bmig_request){
        .op = BMIG_WRITE, .offset = offset, .length = length, .data = bytes, .flags = flags};
}

START_TEST(a_flush_lets_go_of_what_was_acknowledged_before_it_was_sent)
{
    struct nbdc_held held;
    struct bmig_request first = write_of(0, 4096, 0), second = write_of(8192, 512, 0);
    bmig_nbdc_held_init(&held);
    bytes[0] = 1;
    bmig_nbdc_held_add(&held, &first);
    uint64_t sent = held.sequence;
    bytes[0] = 2;
    bmig_nbdc_held_add(&held, &second);
    bmig_nbdc_held_flushed(&held, sent);
    ck_assert_ptr_nonnull(held.head);
    ck_assert_uint_eq(held.head->offset, 8192);
    ck_assert_uint_eq(held.head->data[0], 2);
    ck_assert_ptr_null(held.head->next);
    bmig_nbdc_held_flushed(&held, held.sequence);
    ck_assert_ptr_null(held.head);
    ck_assert_uint_eq(held.bytes, 0);
    bmig_nbdc_held_add(&held, &first); /* the tail is where the head is again */
    ck_assert_ptr_nonnull(held.head);
    bmig_nbdc_held_fini(&held);
}
END_TEST

START_TEST(writes_are_kept_in_the_order_they_were_acknowledged)
{
    struct nbdc_held held;
    bmig_nbdc_held_init(&held);
    for (uint64_t i = 0; i < 100; i++) {
        struct bmig_request request = write_of(i % 3 * 4096, 4096, 0);
        bytes[0] = (uint8_t)i;
        bmig_nbdc_held_add(&held, &request);
    }
    uint64_t i = 0;
    for (const struct nbdc_held_write *write = held.head; write; write = write->next, i++) {
        ck_assert_uint_eq(write->offset, i % 3 * 4096);
        ck_assert_uint_eq(write->data[0], i);
    }
    ck_assert_uint_eq(i, 100);
    bmig_nbdc_held_fini(&held);
}
END_TEST

START_TEST(zeroes_take_no_room_but_are_remembered)
{
    struct nbdc_held held;
    struct bmig_request request = {
        .op = BMIG_ZERO, .offset = 1 << 20, .length = UINT64_C(1) << 30, .flags = BMIG_MAY_UNMAP};
    bmig_nbdc_held_init(&held);
    bmig_nbdc_held_add(&held, &request);
    ck_assert(held.head->is_zero);
    ck_assert_uint_eq(held.head->length, UINT64_C(1) << 30);
    ck_assert_uint_lt(held.bytes, 4096);
    bmig_nbdc_held_fini(&held);
}
END_TEST

START_TEST(a_replayable_write_is_only_counted_until_a_flush_covers_it)
{
    struct nbdc_held held;
    struct bmig_request request = write_of(0, 4096, BMIG_REPLAYABLE);
    bmig_nbdc_held_init(&held);
    uint64_t before = held.sequence;
    bmig_nbdc_held_add(&held, &request);
    ck_assert_ptr_null(held.head);
    ck_assert_uint_ne(held.unheld_sequence, 0);
    bmig_nbdc_held_flushed(&held, before);
    ck_assert_uint_ne(held.unheld_sequence, 0);
    bmig_nbdc_held_flushed(&held, held.sequence);
    ck_assert_uint_eq(held.unheld_sequence, 0);
    bmig_nbdc_held_fini(&held);
}
END_TEST

START_TEST(what_is_held_is_bounded_and_what_is_beyond_is_counted)
{
    struct nbdc_held held;
    uint64_t written = 0;
    bmig_nbdc_held_init(&held);
    for (int i = 0; i < 200; i++) {
        struct bmig_request request = write_of((uint64_t)i << 20, sizeof(bytes), 0);
        bmig_nbdc_held_add(&held, &request);
        written += sizeof(bytes);
    }
    ck_assert(bmig_nbdc_held_wants_flush(&held));
    ck_assert_uint_lt(held.bytes, written);
    ck_assert_uint_le(held.bytes, (8 << 20) + 65536);
    ck_assert_uint_eq(held.unheld_sequence, held.sequence);
    bmig_nbdc_held_fini(&held);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("nbd_held");
    TCase *tcase = tcase_create("nbd_held");
    tcase_add_test(tcase, a_flush_lets_go_of_what_was_acknowledged_before_it_was_sent);
    tcase_add_test(tcase, writes_are_kept_in_the_order_they_were_acknowledged);
    tcase_add_test(tcase, zeroes_take_no_room_but_are_remembered);
    tcase_add_test(tcase, a_replayable_write_is_only_counted_until_a_flush_covers_it);
    tcase_add_test(tcase, what_is_held_is_bounded_and_what_is_beyond_is_counted);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
