/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The buffer arena: against a map of what is taken, and its queue of waiters. Zero detection
 * against a loop.
 */
#include "blockmig/core/buffer.h"

#include <check.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static struct bmig_loop *loop;
static struct bmig_pool *pool;

static void setup(void)
{
    ck_assert_int_eq(bmig_loop_new(&loop, BMIG_LOOP_VIRTUAL, NULL), 0);
    ck_assert_int_eq(bmig_pool_new(&pool, loop, (4 << 20) - 5), 0);
}

static void step(void)
{
    while (bmig_loop_step(loop, 0)) {
    }
}

static void teardown(void)
{
    bmig_pool_free(pool);
    step();
    bmig_loop_free(loop);
}

START_TEST(size_is_rounded_up_to_slabs)
{
    ck_assert_uint_eq(bmig_pool_size_bytes(pool), 4 << 20);
    struct bmig_pool *none;
    ck_assert_int_eq(bmig_pool_new(&none, loop, 0), -EINVAL);
    ck_assert_int_eq(bmig_pool_new(&none, loop, SIZE_MAX), -EINVAL);
}
END_TEST

START_TEST(random_gets_and_unrefs_never_overlap_and_all_comes_back)
{
    enum { SLOTS = 300, PAGES = (4 << 20) / 4096 };
    static struct bmig_buffer *slots[SLOTS];
    static uint16_t owner[PAGES];
    void *base;
    size_t length;
    bmig_pool_area(pool, &base, &length);
    ck_assert_uint_eq(length, 4 << 20);
    uint64_t seed = 7;
    size_t used = 0, denied = 0;
    for (unsigned turn = 0; turn < 200000; turn++) {
        unsigned i = next_random(&seed) % SLOTS;
        struct bmig_buffer *buffer = slots[i];
        if (buffer) {
            size_t first = (size_t)(buffer->data - (uint8_t *)base) / 4096;
            for (size_t page = first; page < first + buffer->size_bytes / 4096; page++) {
                ck_assert_uint_eq(owner[page], i + 1);
                owner[page] = 0;
            }
            used -= buffer->size_bytes;
            bmig_buffer_unref(buffer);
            slots[i] = NULL;
        } else {
            uint32_t size = 1 + next_random(&seed) % (1 << (12 + next_random(&seed) % 9));
            buffer = bmig_buffer_get(pool, size);
            if (!buffer) {
                denied++;
                continue;
            }
            slots[i] = buffer;
            used += buffer->size_bytes;
            ck_assert_uint_ge(buffer->size_bytes, size);
            ck_assert(buffer->size_bytes == 4096 || buffer->size_bytes < 2 * size);
            size_t at = (size_t)(buffer->data - (uint8_t *)base);
            ck_assert_uint_eq(at % buffer->size_bytes, 0);
            ck_assert_uint_le(at + buffer->size_bytes, length);
            for (size_t page = at / 4096; page < (at + buffer->size_bytes) / 4096; page++) {
                ck_assert_uint_eq(owner[page], 0);
                owner[page] = (uint16_t)(i + 1);
            }
        }
        ck_assert_uint_eq(bmig_pool_used_bytes(pool), used);
    }
    ck_assert_uint_gt(denied, 0);
    for (unsigned i = 0; i < SLOTS; i++)
        bmig_buffer_unref(slots[i]);
    /* Joined again: the arena gives all of itself in the largest size. */
    struct bmig_buffer *whole[4];
    for (unsigned i = 0; i < 4; i++)
        ck_assert_ptr_nonnull(whole[i] = bmig_buffer_get(pool, 1 << 20));
    ck_assert_ptr_null(bmig_buffer_get(pool, 1));
    for (unsigned i = 0; i < 4; i++) {
        memset(whole[i]->data, 0xff, 1 << 20);
        bmig_buffer_unref(whole[i]);
    }
}
END_TEST

START_TEST(buffer_lives_until_its_last_reference)
{
    struct bmig_buffer *buffer = bmig_buffer_get(pool, 5000);
    ck_assert_uint_eq(buffer->size_bytes, 8192);
    bmig_buffer_ref(buffer);
    bmig_buffer_unref(buffer);
    ck_assert_uint_eq(bmig_pool_used_bytes(pool), 8192);
    bmig_buffer_unref(buffer);
    ck_assert_uint_eq(bmig_pool_used_bytes(pool), 0);
    bmig_buffer_unref(NULL);
}
END_TEST

struct waiter {
    struct bmig_buffer_wait wait;
    uint32_t size;
    struct bmig_buffer *buffer;
    unsigned order; /* when it got its buffer, from 1 */
    unsigned calls;
};

static unsigned served;

static void waiter_ready(struct bmig_buffer_wait *wait)
{
    struct waiter *waiter = (struct waiter *)wait;
    waiter->calls++;
    waiter->buffer = bmig_buffer_get(pool, waiter->size);
    if (waiter->buffer)
        waiter->order = ++served;
    else
        bmig_pool_wait(pool, wait);
}

static struct bmig_buffer *whole[4];

static void fill(void)
{
    served = 0;
    for (unsigned i = 0; i < 4; i++)
        whole[i] = bmig_buffer_get(pool, 1 << 20);
}

static void empty(void)
{
    for (unsigned i = 0; i < 4; i++)
        bmig_buffer_unref(whole[i]);
}

START_TEST(waiters_are_served_in_order)
{
    static struct waiter waiters[6];
    fill();
    for (unsigned i = 0; i < 6; i++) {
        waiters[i] = (struct waiter){.wait.ready = waiter_ready, .size = 512 << 10};
        bmig_pool_wait(pool, &waiters[i].wait);
    }
    step();
    ck_assert_uint_eq(waiters[0].calls, 0);
    bmig_buffer_unref(whole[0]);
    ck_assert_uint_eq(waiters[0].calls, 0);
    step();
    ck_assert_uint_eq(waiters[0].order, 1);
    ck_assert_uint_eq(waiters[1].order, 2);
    ck_assert_uint_eq(waiters[2].calls, 0);
    bmig_pool_cancel(pool, &waiters[3].wait);
    bmig_pool_cancel(pool, &waiters[3].wait);
    bmig_buffer_unref(whole[1]);
    bmig_buffer_unref(whole[2]);
    step();
    ck_assert_uint_eq(waiters[2].order, 3);
    ck_assert_uint_eq(waiters[3].calls, 0);
    ck_assert_uint_eq(waiters[4].order, 4);
    ck_assert_uint_eq(waiters[5].order, 5);
    whole[0] = whole[1] = whole[2] = NULL;
    empty();
    for (unsigned i = 0; i < 6; i++)
        bmig_buffer_unref(waiters[i].buffer);
}
END_TEST

START_TEST(large_waiter_keeps_its_place_and_holds_nobody_up)
{
    struct waiter large = {.wait.ready = waiter_ready, .size = 1 << 20};
    struct waiter small = {.wait.ready = waiter_ready, .size = 4096};
    struct waiter next = {.wait.ready = waiter_ready, .size = 1 << 20};
    fill();
    bmig_buffer_unref(whole[3]);
    struct bmig_buffer *halves[2] = {bmig_buffer_get(pool, 512 << 10),
                                     bmig_buffer_get(pool, 512 << 10)};
    bmig_pool_wait(pool, &large.wait);
    bmig_pool_wait(pool, &small.wait);
    bmig_pool_wait(pool, &next.wait);
    bmig_buffer_unref(halves[0]);
    step();
    ck_assert_ptr_null(large.buffer);
    ck_assert_uint_eq(small.order, 1);
    bmig_buffer_unref(whole[0]);
    step();
    ck_assert_uint_eq(large.order, 2);
    ck_assert_ptr_null(next.buffer);
    bmig_pool_cancel(pool, &next.wait);
    bmig_buffer_unref(halves[1]);
    whole[0] = whole[3] = NULL;
    empty();
    bmig_buffer_unref(large.buffer);
    bmig_buffer_unref(small.buffer);
}
END_TEST

/* Cancels the next one in the queue from its own call. */
static struct waiter *victim;
static void ready_and_cancel(struct bmig_buffer_wait *wait)
{
    bmig_pool_cancel(pool, &victim->wait);
    bmig_pool_wait(pool, wait);
}

START_TEST(waiter_may_cancel_another_from_its_call)
{
    struct waiter first = {.wait.ready = ready_and_cancel};
    struct waiter second = {.wait.ready = waiter_ready, .size = 4096};
    struct waiter third = {.wait.ready = waiter_ready, .size = 4096};
    victim = &second;
    fill();
    bmig_pool_wait(pool, &first.wait);
    bmig_pool_wait(pool, &second.wait);
    bmig_pool_wait(pool, &third.wait);
    bmig_buffer_unref(whole[0]);
    step();
    ck_assert_uint_eq(second.calls, 0);
    ck_assert_uint_eq(third.order, 1);
    bmig_pool_cancel(pool, &first.wait);
    whole[0] = NULL;
    empty();
    bmig_buffer_unref(third.buffer);
    /* The pool goes with its task still queued: teardown. */
    bmig_pool_wait(pool, &first.wait);
    bmig_buffer_unref(bmig_buffer_get(pool, 1));
    bmig_pool_cancel(pool, &first.wait);
}
END_TEST

START_TEST(zero_is_told_from_one_set_bit_anywhere)
{
    enum { SIZE = 4096 + 64 };
    _Alignas(64) static uint8_t data[SIZE];
    for (size_t start = 0; start < 40; start++)
        for (size_t length = 0; length < 600; length += 1 + length / 100) {
            /* What lies around does not count. */
            memset(data, 0xff, sizeof(data));
            memset(data + start, 0, length);
            ck_assert(bmig_is_zero(data + start, length));
            for (size_t i = 0; i < length; i += 1 + i / 20) {
                data[start + i] = 0x80;
                ck_assert(!bmig_is_zero(data + start, length));
                data[start + i] = 0;
            }
        }
    memset(data, 0, sizeof(data));
    ck_assert(bmig_is_zero(data, SIZE));
    data[SIZE - 1] = 1;
    ck_assert(!bmig_is_zero(data, SIZE));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("buffer");
    TCase *tcase = tcase_create("buffer");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, size_is_rounded_up_to_slabs);
    tcase_add_test(tcase, random_gets_and_unrefs_never_overlap_and_all_comes_back);
    tcase_add_test(tcase, buffer_lives_until_its_last_reference);
    tcase_add_test(tcase, waiters_are_served_in_order);
    tcase_add_test(tcase, large_waiter_keeps_its_place_and_holds_nobody_up);
    tcase_add_test(tcase, waiter_may_cancel_another_from_its_call);
    tcase_add_test(tcase, zero_is_told_from_one_set_bit_anywhere);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
