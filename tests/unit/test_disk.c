/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The door, promise by promise, over a driver with awkward limits that asserts whatever it is
 * handed.
 */
#include <check.h>
#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backends/delay.h"
#include "backends/faults.h"
#include "backends/record.h"
#include "blockmig/core/disk.h"
#include "tests/unit/disk_helper.h"
#include "tests/unit/door_rig.h"

enum { KIB = 1024, MIB = 1 << 20 };

static struct bmig_loop *loop;
static struct bmig_disk *disk;
static uint8_t *data;  /* page-aligned, 1 MiB */
static uint8_t *model; /* the disk's bytes as they should be */

/* The door's aligned memory comes from here, for as long as it is to be had. */
static uint32_t allocations_left = UINT32_MAX;

void *aligned_alloc(size_t alignment, size_t size)
{
    if (allocations_left == 0)
        return NULL;
    if (allocations_left != UINT32_MAX)
        allocations_left--;
    return memalign(alignment, size);
}

static void fill(uint8_t *bytes, uint64_t length, uint64_t seed)
{
    seed = seed * 2654435761u + 1;
    for (uint64_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)test_random(&seed);
}

static void setup(void)
{
    ck_assert_int_eq(bmig_loop_new(&loop, BMIG_LOOP_VIRTUAL, NULL), 0);
    ck_assert_int_eq(posix_memalign((void **)&data, 4096, MIB), 0);
    model = calloc(1, 8 * MIB);
    ck_assert_ptr_nonnull(model);
    fill(data, MIB, 1);
    allocations_left = UINT32_MAX;
    door_reset();
    disk = NULL;
}

static void teardown(void)
{
    if (disk)
        test_close(disk);
    bmig_loop_free(loop);
    free(data);
    free(model);
}

static void open_door(void)
{
    disk = door_open(loop, NULL);
}

static void settle(void)
{
    while (bmig_loop_step(loop, UINT64_MAX)) {
    }
}

static int run(enum bmig_op op, uint64_t offset, uint64_t length, uint8_t *bytes, uint32_t flags)
{
    return test_run(disk, op, offset, length, bytes, flags);
}

static void same_as_model(void)
{
    ck_assert(memcmp(door.bytes, model, door.size_bytes) == 0);
}

/* ---- what is refused ---- */

START_TEST(a_range_outside_or_empty_is_refused)
{
    open_door();
    for (enum bmig_op op = BMIG_READ; op < BMIG_OP_COUNT; op++) {
        if (op == BMIG_FLUSH || op == BMIG_EXTENTS)
            continue;
        ck_assert_int_eq(run(op, 0, 0, data, 0), -EINVAL);
        ck_assert_int_eq(run(op, MIB, 1, data, 0), -EINVAL);
        ck_assert_int_eq(run(op, MIB - 1, 2, data, 0), -EINVAL);
        ck_assert_int_eq(run(op, UINT64_MAX, 2, data, 0), -EINVAL);
        ck_assert_int_eq(run(op, 4096, UINT64_MAX - 100, data, 0), -EINVAL);
    }
    ck_assert_uint_eq(door.log_count, 0);
    ck_assert_int_eq(run(BMIG_READ, MIB - 1, 1, data, 0), 0);
}
END_TEST

START_TEST(changes_to_what_is_open_for_reading_are_refused)
{
    door.caps = BMIG_CAP_FLUSH | BMIG_CAP_ZERO | BMIG_CAP_DISCARD;
    open_door();
    ck_assert_int_eq(run(BMIG_WRITE, 0, 4096, data, 0), -EROFS);
    ck_assert_int_eq(run(BMIG_ZERO, 0, 65536, NULL, 0), -EROFS);
    ck_assert_int_eq(run(BMIG_DISCARD, 0, 65536, NULL, 0), -EROFS);
    ck_assert_uint_eq(door.log_count, 0);
    ck_assert_int_eq(run(BMIG_READ, 0, 4096, data, 0), 0);
    ck_assert_int_eq(run(BMIG_FLUSH, 0, 0, NULL, 0), 0);
}
END_TEST

/* ---- splitting, bouncing, blocks ---- */

START_TEST(what_is_too_large_is_split_and_every_byte_arrives)
{
    open_door();
    memcpy(model + 8192, data, 500 * KIB);
    ck_assert_int_eq(run(BMIG_WRITE, 8192, 500 * KIB, data, 0), 0);
    same_as_model();
    ck_assert_uint_eq(door.log_count, 8);
    for (uint32_t i = 0; i < 8; i++) {
        ck_assert_uint_eq(door.log[i].offset, 8192 + i * 65536);
        ck_assert_uint_eq(door.log[i].length, i < 7 ? 65536 : 500 * KIB - 7 * 65536);
    }
    uint8_t *back = calloc(1, 500 * KIB);
    ck_assert_int_eq(run(BMIG_READ, 8192, 500 * KIB, back, 0), 0);
    ck_assert(memcmp(back, data, 500 * KIB) == 0);
    free(back);
}
END_TEST

START_TEST(data_that_is_not_aligned_is_bounced_and_left_alone)
{
    open_door();
    uint8_t *odd = data + 333;
    uint8_t *copy = malloc(128 * KIB);
    memcpy(copy, odd, 128 * KIB);
    memcpy(model, odd, 128 * KIB);
    ck_assert_int_eq(run(BMIG_WRITE, 0, 128 * KIB, odd, 0), 0);
    same_as_model();
    ck_assert(memcmp(copy, odd, 128 * KIB) == 0);
    memset(odd, 0, 128 * KIB);
    uint8_t before = odd[-1], after = odd[128 * KIB];
    ck_assert_int_eq(run(BMIG_READ, 0, 128 * KIB, odd, 0), 0);
    ck_assert(memcmp(copy, odd, 128 * KIB) == 0);
    ck_assert(odd[-1] == before && odd[128 * KIB] == after);
    ck_assert_uint_eq(door.log_count, 4);

    /* A read that fails leaves its buffer as it was. */
    door.fail[BMIG_READ] = EIO;
    ck_assert_int_eq(run(BMIG_READ, 65536, 4096, odd, 0), -EIO);
    ck_assert(memcmp(copy, odd, 128 * KIB) == 0);
    free(copy);
}
END_TEST

START_TEST(parts_of_blocks_are_read_and_written_around)
{
    open_door();
    ck_assert_int_eq(run(BMIG_WRITE, 0, 64 * KIB, data, 0), 0);
    memcpy(model, data, 64 * KIB);
    static const uint64_t ranges[][2] = {{1, 1},       {4095, 2},     {100, 4096}, {4096, 100},
                                         {5000, 3192}, {8191, 40000}, {12288, 1},  {0, 4097}};
    for (size_t i = 0; i < sizeof(ranges) / sizeof(*ranges); i++) {
        uint64_t offset = ranges[i][0], length = ranges[i][1];
        fill(data, length, i + 7);
        memcpy(model + offset, data, length);
        ck_assert_int_eq(run(BMIG_WRITE, offset, length, data, 0), 0);
        same_as_model();
        memset(data, 0, length);
        ck_assert_int_eq(run(BMIG_READ, offset, length, data, 0), 0);
        ck_assert(memcmp(data, model + offset, length) == 0);
    }
    /* Where the block can't be read, nothing is written. */
    door.fail[BMIG_READ] = EIO;
    uint32_t writes = door_count(BMIG_WRITE);
    ck_assert_int_eq(run(BMIG_WRITE, 10, 10, data, 0), -EIO);
    ck_assert_uint_eq(door_count(BMIG_WRITE), writes);
    same_as_model();
    /* The next one to that block is not held up by the one that failed. */
    door.fail[BMIG_READ] = 0;
    memcpy(model + 20, data, 10);
    ck_assert_int_eq(run(BMIG_WRITE, 20, 10, data, 0), 0);
    same_as_model();
}
END_TEST

START_TEST(partial_writes_to_one_block_never_undo_each_other)
{
    enum { PARTS = 256 };
    static struct test_request tests[PARTS];
    uint64_t random = 77;
    door.hold = true;
    open_door();
    for (uint32_t i = 0; i < PARTS; i++) {
        memcpy(model + 16 * i, data + 100 * i, 16);
        test_submit(disk, &tests[i], BMIG_WRITE, 16 * i, 16, data + 100 * i, 0);
    }
    do {
        settle();
        if (door.held_count)
            door_release((uint32_t)(test_random(&random) % door.held_count));
    } while (door.held_count || !bmig_disk_idle(disk));
    settle();
    for (uint32_t i = 0; i < PARTS; i++)
        ck_assert(tests[i].ended && tests[i].status == 0);
    same_as_model();
    ck_assert_uint_eq(door_count(BMIG_READ), PARTS);
}
END_TEST

/* Requests of all kinds to ranges that don't overlap but share blocks, done in any order. */
enum { SLOT_BYTES = 1000, SLOTS = 300, TRAFFIC = 24 };
struct traffic {
    struct test_request test;
    bool used;
    uint32_t first, count; /* slots */
    uint8_t *bytes;
};
static struct traffic traffic[TRAFFIC];
static bool slot_busy[SLOTS];

static void traffic_start(struct traffic *one, uint64_t *random)
{
    uint32_t first = (uint32_t)(test_random(random) % SLOTS), count = 0;
    uint32_t most = test_random(random) % 8 ? 6 : 120;
    while (count < most && first + count < SLOTS && !slot_busy[first + count])
        count++;
    if (count == 0)
        return;
    *one = (struct traffic){.used = true, .first = first, .count = count};
    memset(slot_busy + first, 1, count);
    uint64_t offset = (uint64_t)first * SLOT_BYTES, length = (uint64_t)count * SLOT_BYTES;
    one->bytes = malloc(length);
    uint32_t choice = (uint32_t)(test_random(random) % 8);
    enum bmig_op op = choice < 4 ? BMIG_WRITE : choice < 6 ? BMIG_ZERO : BMIG_READ;
    fill(one->bytes, length, test_random(random));
    if (op == BMIG_WRITE)
        memcpy(model + offset, one->bytes, length);
    else if (op == BMIG_ZERO)
        memset(model + offset, 0, length);
    test_submit(disk, &one->test, op, offset, length, op == BMIG_ZERO ? NULL : one->bytes,
                test_random(random) % 4 ? 0
                : op == BMIG_READ       ? 0
                                        : BMIG_FUA);
}

static void traffic_end(struct traffic *one)
{
    uint64_t offset = (uint64_t)one->first * SLOT_BYTES;
    ck_assert_int_eq(one->test.status, 0);
    if (one->test.request.op == BMIG_READ)
        ck_assert(memcmp(one->bytes, model + offset, one->count * (uint64_t)SLOT_BYTES) == 0);
    memset(slot_busy + one->first, 0, one->count);
    free(one->bytes);
    one->used = false;
}

START_TEST(random_requests_of_any_alignment_agree_with_a_model)
{
    uint64_t random = (uint64_t)_i * 7919 + 3;
    door.hold = true;
    door.limits.max_requests = _i % 3 ? 5 : 2;
    door.caps |= _i % 2 ? BMIG_CAP_ZERO : 0;
    door.caps |= _i % 4 > 1 ? BMIG_CAP_FUA : 0;
    open_door();
    for (uint32_t round = 0; round < 6000; round++) {
        struct traffic *one = &traffic[test_random(&random) % TRAFFIC];
        if (!one->used && round < 5000)
            traffic_start(one, &random);
        if (door.held_count && test_random(&random) % 2)
            door_release((uint32_t)(test_random(&random) % door.held_count));
        if (test_random(&random) % 2)
            bmig_loop_step(loop, 0);
        door.log_count = 0;
        for (uint32_t i = 0; i < TRAFFIC; i++)
            if (traffic[i].used && traffic[i].test.ended)
                traffic_end(&traffic[i]);
    }
    door.hold = false;
    while (!bmig_disk_idle(disk)) {
        if (door.held_count)
            door_release(0);
        settle();
    }
    settle();
    for (uint32_t i = 0; i < TRAFFIC; i++)
        if (traffic[i].used) {
            ck_assert(traffic[i].test.ended);
            traffic_end(&traffic[i]);
        }
    same_as_model();
}
END_TEST

START_TEST(a_part_that_fails_fails_the_whole_and_is_answered_once)
{
    open_door();
    test_close(disk);
    door_reset();
    disk = door_open(loop, "faults:?op=write&offset=128K&length=4K&error=ENOSPC");
    ck_assert_int_eq(run(BMIG_WRITE, 0, MIB, data, 0), -ENOSPC);
    ck_assert(memcmp(door.bytes, data, 128 * KIB) == 0);
    ck_assert_int_eq(run(BMIG_WRITE, 0, 128 * KIB, data, 0), 0);
    ck_assert_int_eq(run(BMIG_WRITE, 131072 + 17, 100, data, 0), -ENOSPC);
    ck_assert_uint_eq(bmig_faults_get(bmig_faults_find(disk), 0)->hits, 2);
    ck_assert_uint_eq(disk->stats.errors, 2);
}
END_TEST

/* ---- ZERO ---- */

START_TEST(zero_without_the_capability_is_written)
{
    open_door();
    memcpy(door.bytes, data, MIB);
    memcpy(model, data, MIB);
    memset(model + 1234, 0, 300000);
    ck_assert_int_eq(run(BMIG_ZERO, 1234, 300000, NULL, BMIG_MAY_UNMAP), 0);
    same_as_model();
    ck_assert_uint_eq(door_count(BMIG_ZERO), 0);
    ck_assert_uint_gt(door_count(BMIG_WRITE), 4);
}
END_TEST

START_TEST(zero_is_the_drivers_within_its_units_and_written_at_the_ends)
{
    door.size_bytes = 4 * MIB + 12 * KIB;
    door.limits.zero_align = MIB;
    door.limits.max_zero_bytes = 2 * MIB;
    door.caps |= BMIG_CAP_ZERO | BMIG_CAP_FAST_ZERO | BMIG_CAP_UNMAP;
    open_door();
    memset(door.bytes, 0x55, door.size_bytes);
    memset(model, 0x55, door.size_bytes);
    memset(model + 5000, 0, door.size_bytes - 5000);
    ck_assert_int_eq(
        run(BMIG_ZERO, 5000, door.size_bytes - 5000, NULL, BMIG_MAY_UNMAP | BMIG_FAST_ONLY), 0);
    same_as_model();
    ck_assert_uint_eq(door_count(BMIG_ZERO), 2);
    for (uint32_t i = 0; i < door.log_count; i++)
        ck_assert_uint_eq(door.log[i].flags & BMIG_MAY_UNMAP,
                          door.log[i].op == BMIG_ZERO ? BMIG_MAY_UNMAP : 0);
}
END_TEST

START_TEST(a_driver_that_finds_it_cant_zero_is_made_up_for_and_asked_no_more)
{
    door.caps |= BMIG_CAP_ZERO | BMIG_CAP_FAST_ZERO | BMIG_CAP_UNMAP;
    door.fail[BMIG_ZERO] = ENOTSUP;
    open_door();
    memset(door.bytes, 0x55, MIB);
    /* Where it must be fast, it is refused, and nothing is learnt: another range may be. */
    ck_assert_int_eq(run(BMIG_ZERO, 0, 65536, NULL, BMIG_FAST_ONLY), -ENOTSUP);
    ck_assert(disk->caps & BMIG_CAP_ZERO);
    memset(model, 0x55, MIB);
    memset(model + 100, 0, 900000);
    door.log_count = 0;
    ck_assert_int_eq(run(BMIG_ZERO, 100, 900000, NULL, 0), 0);
    same_as_model();
    uint32_t asked = door_count(BMIG_ZERO);
    ck_assert_uint_ge(asked, 1);
    ck_assert(!(disk->caps & (BMIG_CAP_ZERO | BMIG_CAP_FAST_ZERO | BMIG_CAP_UNMAP)));
    memset(model, 0, MIB);
    ck_assert_int_eq(run(BMIG_ZERO, 0, MIB, NULL, 0), 0);
    same_as_model();
    ck_assert_uint_eq(door_count(BMIG_ZERO), asked);
    ck_assert_int_eq(run(BMIG_ZERO, 0, MIB, NULL, BMIG_FAST_ONLY), -ENOTSUP);
}
END_TEST

START_TEST(fast_only_zero_is_refused_where_it_would_be_slow)
{
    door.caps |= BMIG_CAP_ZERO;
    open_door();
    ck_assert_int_eq(run(BMIG_ZERO, 0, 65536, NULL, BMIG_FAST_ONLY), -ENOTSUP);
    ck_assert_uint_eq(door.log_count, 0);
    ck_assert_int_eq(run(BMIG_ZERO, 0, 65536, NULL, 0), 0);
}
END_TEST

/* ---- FUA, FLUSH, DISCARD ---- */

START_TEST(fua_is_made_of_a_flush_behind_the_rest)
{
    open_door();
    static const enum bmig_op ops[] = {BMIG_WRITE, BMIG_ZERO, BMIG_WRITE};
    static const uint64_t lengths[] = {4096, 200000, 77};
    for (int i = 0; i < 3; i++) {
        door.log_count = 0;
        ck_assert_int_eq(run(ops[i], 4096, lengths[i], ops[i] == BMIG_ZERO ? NULL : data, BMIG_FUA),
                         0);
        ck_assert_uint_eq(door_count(BMIG_FLUSH), 1);
        ck_assert_int_eq(door.log[door.log_count - 1].op, BMIG_FLUSH);
    }
    door.fail[BMIG_FLUSH] = EIO;
    ck_assert_int_eq(run(BMIG_WRITE, 0, 4096, data, BMIG_FUA), -EIO);
    door.fail[BMIG_WRITE] = ENOSPC;
    door.log_count = 0;
    ck_assert_int_eq(run(BMIG_WRITE, 0, 4096, data, BMIG_FUA), -ENOSPC);
    ck_assert_uint_eq(door_count(BMIG_FLUSH), 0);
}
END_TEST

START_TEST(the_flush_of_fua_waits_for_every_part)
{
    struct test_request test;
    door.hold = true;
    open_door();
    test_submit(disk, &test, BMIG_WRITE, 0, 3 * 65536, data, BMIG_FUA);
    for (int part = 0; part < 3; part++) {
        ck_assert_uint_eq(door_count(BMIG_FLUSH), 0);
        door_release(0);
        settle();
    }
    ck_assert_uint_eq(door.held_count, 1);
    ck_assert_int_eq(door.held[0]->op, BMIG_FLUSH);
    ck_assert(!test.ended);
    door_release(0);
    settle();
    ck_assert(test.ended && test.status == 0);
}
END_TEST

START_TEST(fua_reaches_every_part_where_the_driver_has_it)
{
    door.caps |= BMIG_CAP_FUA | BMIG_CAP_ZERO;
    open_door();
    ck_assert_int_eq(run(BMIG_WRITE, 0, 200000, data, BMIG_FUA), 0);
    ck_assert_int_eq(run(BMIG_ZERO, 100, 200000, NULL, BMIG_FUA), 0);
    for (uint32_t i = 0; i < door.log_count; i++)
        ck_assert(door.log[i].op == BMIG_READ || door.log[i].flags & BMIG_FUA);
    ck_assert_uint_eq(door_count(BMIG_FLUSH), 0);
}
END_TEST

/* The driver asserts that it never sees a FUA it has not claimed. */
START_TEST(where_every_write_is_stable_there_is_no_flush_and_no_fua)
{
    door.caps = BMIG_CAP_WRITE | BMIG_CAP_ZERO | BMIG_CAP_DISCARD;
    open_door();
    ck_assert_int_eq(run(BMIG_WRITE, 0, 65536, data, BMIG_FUA), 0);
    ck_assert_int_eq(run(BMIG_WRITE, 3, 100000, data, BMIG_FUA), 0);
    ck_assert_int_eq(run(BMIG_ZERO, 0, 300000, NULL, BMIG_FUA), 0);
    ck_assert_int_eq(run(BMIG_DISCARD, 0, 300000, NULL, BMIG_FUA), 0);
    ck_assert_int_eq(run(BMIG_FLUSH, 0, 0, NULL, 0), 0);
    ck_assert_uint_eq(door_count(BMIG_FLUSH), 0);
}
END_TEST

START_TEST(a_request_is_as_it_was_when_its_done_runs)
{
    struct test_request test;
    door.caps = BMIG_CAP_WRITE;
    open_door();
    test_submit(disk, &test, BMIG_WRITE, 8192, 4096, data + 1, BMIG_FUA | BMIG_REPLAYABLE);
    settle();
    ck_assert(test.request.flags == (BMIG_FUA | BMIG_REPLAYABLE) && test.request.data == data + 1);
    test_submit(disk, &test, BMIG_READ, 13, 9000, data + 1, 0);
    settle();
    ck_assert(test.request.op == BMIG_READ && test.request.offset == 13 &&
              test.request.length == 9000 && test.request.data == data + 1);
}
END_TEST

START_TEST(discard_is_aligned_inwards_and_promises_nothing)
{
    door.caps |= BMIG_CAP_DISCARD;
    open_door();
    memcpy(door.bytes, data, MIB);
    memcpy(model, data, MIB);
    ck_assert_int_eq(run(BMIG_DISCARD, 1, 65536, NULL, 0), 0);
    ck_assert_int_eq(run(BMIG_DISCARD, 65537, 131070, NULL, 0), 0);
    ck_assert_uint_eq(door.log_count, 0);
    same_as_model();
    ck_assert_int_eq(run(BMIG_DISCARD, 65535, 600000, NULL, 0), 0);
    memset(model + 65536, 0xdd, 589824 - 0);
    memcpy(model + 655360, data + 655360, MIB - 655360);
    same_as_model();
    ck_assert_uint_eq(door_count(BMIG_DISCARD), 3);
    ck_assert_uint_eq(door_count(BMIG_FLUSH), 0);
    ck_assert_int_eq(run(BMIG_DISCARD, 0, 65536, NULL, BMIG_FUA), 0);
    ck_assert_uint_eq(door_count(BMIG_FLUSH), 1);
}
END_TEST

START_TEST(discard_without_the_capability_does_nothing)
{
    open_door();
    ck_assert_int_eq(run(BMIG_DISCARD, 0, MIB, NULL, 0), 0);
    ck_assert_uint_eq(door.log_count, 0);
}
END_TEST

/* ---- EXTENTS ---- */

static uint32_t ask(uint64_t offset, uint64_t length, struct bmig_extent *list, uint32_t capacity)
{
    struct bmig_extents extents = {.list = list, .count = 99, .capacity = capacity};
    struct bmig_request request = {
        .op = BMIG_EXTENTS, .offset = offset, .length = length, .extents = &extents};
    ck_assert_int_eq(bmig_disk_run(disk, &request), 0);
    uint64_t sum = 0;
    ck_assert_uint_gt(extents.count, 0);
    for (uint32_t i = 0; i < extents.count; i++) {
        ck_assert_uint_gt(list[i].length_bytes, 0);
        sum += list[i].length_bytes;
    }
    ck_assert_uint_le(sum, length);
    return extents.count;
}

START_TEST(extents_without_the_capability_are_all_data)
{
    struct bmig_extent list[4];
    open_door();
    ck_assert_uint_eq(ask(77, 100000, list, 4), 1);
    ck_assert(list[0].length_bytes == 100000 && list[0].flags == BMIG_EXTENT_DATA);
    ck_assert_uint_eq(door.log_count, 0);
}
END_TEST

START_TEST(extents_are_asked_for_in_blocks_and_trimmed)
{
    struct bmig_extent list[8];
    door.caps |= BMIG_CAP_EXTENTS;
    door.extents_one_block = _i;
    open_door();
    memset(door.bytes + 8192, 1, 4096);
    for (uint64_t offset = 1; offset < 20000; offset += 1777) {
        for (uint64_t length = 1; length < 20000; length += 1999) {
            uint32_t count = ask(offset, length, list, 8);
            uint64_t at = offset;
            for (uint32_t i = 0; i < count; i++) {
                /* Each byte is called what its block is. */
                bool right = true;
                for (uint64_t end = at + list[i].length_bytes; at < end; at++)
                    right = right && (list[i].flags == 0) == (at / 4096 == 2);
                ck_assert(right);
            }
            door.log_count = 0;
        }
    }
    ck_assert_uint_eq(ask(MIB - 1, 1, list, 1), 1);
    ck_assert_uint_eq(list[0].length_bytes, 1);
}
END_TEST

/* ---- bounded queue, order, done ---- */

START_TEST(the_driver_gets_no_more_at_once_than_it_takes_and_in_order)
{
    enum { COUNT = 100 };
    static struct test_request tests[COUNT];
    door.hold = true;
    open_door();
    for (uint32_t i = 0; i < COUNT; i++)
        test_submit(disk, &tests[i], BMIG_WRITE, i * 4096, 4096, data + i * 4096, 0);
    while (door.held_count) {
        ck_assert_uint_le(door.held_count, 2);
        door_release(door.held_count - 1);
        settle();
    }
    ck_assert_uint_eq(door.most_at_once, 2);
    ck_assert_uint_eq(door.log_count, COUNT);
    for (uint32_t i = 0; i < COUNT; i++) {
        ck_assert_uint_eq(door.log[i].offset, i * 4096);
        ck_assert(tests[i].ended && tests[i].status == 0);
    }
}
END_TEST

static int done_order[3];
static int done_count;
static bool idle_in_done[3];

static void note_done(struct bmig_request *request, int status)
{
    idle_in_done[done_count] = bmig_disk_idle(disk);
    done_order[done_count++] = *(int *)request->user;
}

START_TEST(a_disk_is_not_idle_while_answers_wait)
{
    int numbers[3] = {0, 1, 2};
    struct bmig_request requests[3] = {{0}};
    open_door();
    done_count = 0;
    for (int i = 0; i < 3; i++) {
        requests[i] = (struct bmig_request){.op = BMIG_READ,
                                            .offset = 4096 * (uint64_t)i,
                                            .length = 4096,
                                            .data = data + 4096 * i,
                                            .done = note_done,
                                            .user = &numbers[i]};
        bmig_disk_submit(disk, &requests[i]);
        ck_assert_int_eq(done_count, 0);
        ck_assert(!bmig_disk_idle(disk));
    }
    settle();
    ck_assert_int_eq(done_count, 3);
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(done_order[i], i);
        ck_assert(idle_in_done[i] == (i == 2));
    }
    ck_assert(bmig_disk_idle(disk));
}
END_TEST

static void close_it(struct bmig_request *request, int status)
{
    bmig_disk_detach(disk);
    bmig_disk_close(disk);
    disk = NULL;
}

START_TEST(the_last_done_may_close_the_disk)
{
    struct bmig_request request = {.op = BMIG_READ, .length = 4096, .data = data, .done = close_it};
    open_door();
    bmig_disk_submit(disk, &request);
    settle();
    ck_assert_ptr_null(disk);
}
END_TEST

/* Every queued request ends inside the submit that hands it over; none may be handed over inside
 * that. */
START_TEST(a_long_queue_that_fails_at_once_takes_no_stack)
{
    enum { COUNT = 100000 };
    struct test_request *tests = calloc(COUNT, sizeof(*tests));
    ck_assert_ptr_nonnull(tests);
    door.hold = true;
    open_door();
    for (uint32_t i = 0; i < COUNT; i++)
        test_submit(disk, &tests[i], BMIG_READ, 0, 4096, data, 0);
    door.hold = false;
    door.sync_errors = true;
    door_release(0);
    door_release(0);
    settle();
    for (uint32_t i = 0; i < COUNT; i++)
        ck_assert(tests[i].ended && tests[i].status == (i < 2 ? 0 : -EIO));
    free(tests);
}
END_TEST

/* ---- fence ---- */

enum { FENCED = 40 };
static struct test_request fenced[FENCED];

/* Requests of every kind: under way, queued, split, parts of blocks, waiting for a block. */
static void submit_many(void)
{
    for (uint32_t i = 0; i < FENCED; i++) {
        uint8_t *bytes = data + 1000 * i;
        switch (i % 5) {
        case 0:
            test_submit(disk, &fenced[i], BMIG_WRITE, i * 4096, 4096, data + i * 4096, 0);
            break;
        case 1:
            test_submit(disk, &fenced[i], BMIG_WRITE, 300000 + i * 7, 7, bytes, BMIG_FUA);
            break;
        case 2:
            test_submit(disk, &fenced[i], BMIG_WRITE, 400001, 300000, data, BMIG_FUA);
            break;
        case 3:
            test_submit(disk, &fenced[i], BMIG_ZERO, 50000, 500000, NULL, 0);
            break;
        case 4:
            test_submit(disk, &fenced[i], BMIG_READ, 17, 200000, bytes, 0);
            break;
        }
    }
}

static bool fence_ended;
static void note_fence(struct bmig_disk *fenced_disk, void *user)
{
    ck_assert(!fence_ended);
    fence_ended = true;
    for (uint32_t i = 0; i < FENCED; i++)
        ck_assert(fenced[i].ended); /* all have been answered before */
    ck_assert_uint_eq(door.held_count, 0);
}

START_TEST(a_fence_loses_no_request_and_nothing_takes_effect_after_it)
{
    /* _i: 0 to 7 requests let go first; even: the driver cuts off what it holds, odd: it is waited
     * for. */
    uint64_t random = (uint64_t)_i + 5;
    door.hold = true;
    door.fence_cuts = _i % 2 == 0;
    if (_i >= 8)
        door.caps |= BMIG_CAP_ZERO | BMIG_CAP_FUA;
    disk = door_open(loop, _i % 4 < 2 ? NULL : "record:?");
    fence_ended = false;
    submit_many();
    for (int i = 0; i < _i * 3; i++) {
        door_release((uint32_t)(test_random(&random) % door.held_count));
        settle();
    }
    bmig_disk_fence(disk, note_fence, NULL);
    ck_assert(!fence_ended);
    uint32_t given = door.log_count;
    while (!fence_ended) {
        settle();
        ck_assert(fence_ended || door.held_count);
        if (door.held_count)
            door_release(0);
    }
    ck_assert_uint_eq(door.log_count, given); /* nothing was begun behind it */
    memcpy(model, door.bytes, MIB);
    for (enum bmig_op op = BMIG_READ; op < BMIG_EXTENTS; op++)
        ck_assert_int_eq(run(op, 0, op == BMIG_FLUSH ? 0 : 4096, data, 0), -ESHUTDOWN);
    same_as_model();
    ck_assert_uint_eq(door.log_count, given);
    ck_assert(bmig_disk_idle(disk));
}
END_TEST

START_TEST(a_fence_with_nothing_under_way_ends_too)
{
    disk = door_open(loop, NULL);
    memset(fenced, 0, sizeof(fenced));
    for (uint32_t i = 0; i < FENCED; i++)
        fenced[i].ended = true;
    fence_ended = false;
    bmig_disk_fence(disk, note_fence, NULL);
    ck_assert(!fence_ended);
    settle();
    ck_assert(fence_ended);
}
END_TEST

START_TEST(a_fence_ends_what_a_filter_holds)
{
    struct test_request tests[4];
    disk = door_open(loop, "delay:?hang=all");
    for (uint32_t i = 0; i < 4; i++)
        test_submit(disk, &tests[i], BMIG_WRITE, i * 65536 + i, 5000, data, 0);
    settle();
    test_fence(disk);
    for (uint32_t i = 0; i < 4; i++)
        ck_assert(tests[i].ended && tests[i].status < 0);
    ck_assert_uint_eq(door.log_count, 0);
}
END_TEST

/* ---- memory ---- */

START_TEST(without_memory_a_request_fails_or_takes_longer)
{
    door.hold = true;
    open_door();
    allocations_left = 0;
    door.hold = false;
    ck_assert_int_eq(run(BMIG_WRITE, 0, 4096, data, 0), 0); /* needs none */
    ck_assert_int_eq(run(BMIG_WRITE, 0, 4096, data + 1, 0), -ENOMEM);
    ck_assert_int_eq(run(BMIG_WRITE, 0, 128 * KIB, data, 0), -ENOMEM);
    ck_assert_int_eq(run(BMIG_ZERO, 0, 128 * KIB, NULL, 0), -ENOMEM);
    ck_assert_int_eq(run(BMIG_WRITE, 0, 4096, data, BMIG_FUA), -ENOMEM);
    ck_assert_int_eq(run(BMIG_READ, 1, 4, data, 0), -ENOMEM);
    /* One child's worth does for any size. */
    allocations_left = 1;
    memcpy(model, data, MIB);
    ck_assert_int_eq(run(BMIG_WRITE, 0, MIB, data, BMIG_FUA), 0);
    same_as_model();
    /* A child, and no block. Then a block as well, and the block is not left locked. */
    ck_assert_int_eq(run(BMIG_WRITE, 1, 4, data + 50, 0), -ENOMEM);
    same_as_model();
    allocations_left = 1;
    memcpy(model + 1, data + 50, 4);
    ck_assert_int_eq(run(BMIG_WRITE, 1, 4, data + 50, 0), 0);
    same_as_model();
    allocations_left = UINT32_MAX;
}
END_TEST

/* ---- life ---- */

static bool dies(void (*act)(void))
{
    int status;
    fflush(NULL);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        ck_assert_ptr_nonnull(freopen("/dev/null", "w", stderr));
        act();
        _exit(0);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void detach(void)
{
    bmig_disk_detach(disk);
}

static void close_attached(void)
{
    bmig_disk_close(disk);
}

static void fence_again(void)
{
    bmig_disk_fence(disk, NULL, NULL);
}

START_TEST(what_is_under_way_forbids_detaching)
{
    struct test_request test;
    door.hold = true;
    open_door();
    ck_assert(!dies(detach));
    ck_assert(dies(close_attached));
    test_submit(disk, &test, BMIG_READ, 0, 4096, data, 0);
    ck_assert(!bmig_disk_idle(disk));
    ck_assert(dies(detach));
    door_release(0);
    ck_assert(!bmig_disk_idle(disk)); /* its done has not run */
    ck_assert(dies(detach));
    settle();
    ck_assert(bmig_disk_idle(disk));
    test_fence(disk);
    ck_assert(dies(fence_again));
}
END_TEST

START_TEST(what_passes_is_counted)
{
    open_door();
    ck_assert_int_eq(run(BMIG_WRITE, 0, 128 * KIB, data, 0), 0);
    ck_assert_int_eq(run(BMIG_FLUSH, 0, 0, NULL, 0), 0);
    door.fail[BMIG_READ] = EIO;
    ck_assert_int_eq(run(BMIG_READ, 0, 4096, data, 0), -EIO);
    ck_assert_uint_eq(disk->stats.requests[BMIG_WRITE], 2);
    ck_assert_uint_eq(disk->stats.bytes[BMIG_WRITE], 128 * KIB);
    ck_assert_uint_eq(disk->stats.requests[BMIG_FLUSH], 1);
    ck_assert_uint_eq(disk->stats.errors, 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("disk");
    TCase *tcase = tcase_create("disk");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, a_range_outside_or_empty_is_refused);
    tcase_add_test(tcase, changes_to_what_is_open_for_reading_are_refused);
    tcase_add_test(tcase, what_is_too_large_is_split_and_every_byte_arrives);
    tcase_add_test(tcase, data_that_is_not_aligned_is_bounced_and_left_alone);
    tcase_add_test(tcase, parts_of_blocks_are_read_and_written_around);
    tcase_add_test(tcase, partial_writes_to_one_block_never_undo_each_other);
    tcase_add_loop_test(tcase, random_requests_of_any_alignment_agree_with_a_model, 0, 12);
    tcase_add_test(tcase, a_part_that_fails_fails_the_whole_and_is_answered_once);
    tcase_add_test(tcase, zero_without_the_capability_is_written);
    tcase_add_test(tcase, zero_is_the_drivers_within_its_units_and_written_at_the_ends);
    tcase_add_test(tcase, a_driver_that_finds_it_cant_zero_is_made_up_for_and_asked_no_more);
    tcase_add_test(tcase, fast_only_zero_is_refused_where_it_would_be_slow);
    tcase_add_test(tcase, fua_is_made_of_a_flush_behind_the_rest);
    tcase_add_test(tcase, the_flush_of_fua_waits_for_every_part);
    tcase_add_test(tcase, fua_reaches_every_part_where_the_driver_has_it);
    tcase_add_test(tcase, where_every_write_is_stable_there_is_no_flush_and_no_fua);
    tcase_add_test(tcase, a_request_is_as_it_was_when_its_done_runs);
    tcase_add_test(tcase, discard_is_aligned_inwards_and_promises_nothing);
    tcase_add_test(tcase, discard_without_the_capability_does_nothing);
    tcase_add_test(tcase, extents_without_the_capability_are_all_data);
    tcase_add_loop_test(tcase, extents_are_asked_for_in_blocks_and_trimmed, 0, 2);
    tcase_add_test(tcase, the_driver_gets_no_more_at_once_than_it_takes_and_in_order);
    tcase_add_test(tcase, a_disk_is_not_idle_while_answers_wait);
    tcase_add_test(tcase, the_last_done_may_close_the_disk);
    tcase_add_test(tcase, a_long_queue_that_fails_at_once_takes_no_stack);
    tcase_add_loop_test(tcase, a_fence_loses_no_request_and_nothing_takes_effect_after_it, 0, 16);
    tcase_add_test(tcase, a_fence_with_nothing_under_way_ends_too);
    tcase_add_test(tcase, a_fence_ends_what_a_filter_holds);
    tcase_add_test(tcase, without_memory_a_request_fails_or_takes_longer);
    tcase_add_test(tcase, what_is_under_way_forbids_detaching);
    tcase_add_test(tcase, what_passes_is_counted);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
