/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Requests of NBD clients, from the socket to the disk and back: what reaches the disk, what comes
 * back, in which order, and what of it after an error. Each test runs with simple and with
 * structured replies.
 */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "nbd_rig.h"

enum { MIB = 1 << 20, SIZE = 64 * MIB };

static struct rig rig;
static bool structured; /* of the test that runs */
static int fd;
static uint8_t *pattern, *seen;

static void setup(void)
{
    uint64_t seed = 88172645463325252;

    rig_start(&rig, SIZE, NULL, 0);
    pattern = malloc(SIZE);
    seen = calloc(1, SIZE);
    for (size_t i = 0; i < SIZE / 8; i++) {
        uint64_t value = rig_random(&seed);

        memcpy(pattern + 8 * i, &value, 8);
    }
}

static void teardown(void)
{
    free(pattern);
    free(seen);
    nbd_rig_stop(&rig);
}

static void begin(int test)
{
    structured = test;
    fd = rig_client(&rig, structured);
}

static void expect_refused(uint64_t cookie, uint32_t error)
{
    if (structured)
        rig_expect_error_chunk(&rig, fd, cookie, error);
    else
        rig_expect(&rig, fd, cookie, error);
}

/* The stream is still in step. */
static void expect_alive(void)
{
    rig_send_request(&rig, fd, NBD_CMD_FLUSH, 0, 0x616c697665, 0, 0);
    rig_expect(&rig, fd, 0x616c697665, 0);
}

START_TEST(data_comes_back_whatever_its_length_and_alignment)
{
    static const struct {
        uint64_t offset;
        uint32_t length;
    } ranges[] = {{0, 1},         {1, 511},
                  {4096, 4096},   {4095, 4098},
                  {12345, 65536}, {MIB - 1, 2},
                  {MIB, MIB},     {5 * MIB + 3, MIB + 1},
                  {SIZE - 7, 7},  {99, 16383},
                  {99, 16384},    {99, 65535 + 28},
                  {0, 32 * MIB},  {SIZE - 32 * MIB, 32 * MIB}};

    begin(_i);
    for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
        ck_assert_uint_eq(
            rig_write(&rig, fd, ranges[i].offset, ranges[i].length, pattern + ranges[i].offset), 0);
        memset(seen, 0xee, ranges[i].length + 1);
        ck_assert_uint_eq(rig_read(&rig, fd, structured, ranges[i].offset, ranges[i].length, seen),
                          0);
        ck_assert_mem_eq(seen, pattern + ranges[i].offset, ranges[i].length);
        ck_assert_uint_eq(seen[ranges[i].length], 0xee);
    }
    ck_assert_uint_le(gate.most_bytes, MIB);
    close(fd);
}
END_TEST

START_TEST(memory_in_flight_stays_within_the_bound_for_32_mib_requests)
{
    size_t most = 0, used;
    uint8_t bytes[NBD_REQUEST_BYTES];

    begin(_i);
    gate.hold = true;
    for (unsigned i = 0; i < 4; i++) {
        rig_request(bytes, NBD_CMD_READ, 0, i, 0, 32 * MIB);
        rig_send(&rig, fd, bytes, sizeof(bytes));
    }
    rig_settle(&rig);
    used = bmig_pool_used_bytes(rig.pool);
    most = used > most ? used : most;
    ck_assert_uint_gt(used, 0);
    ck_assert_uint_le(most, bmig_pool_size_bytes(rig.pool) / 2);
    gate_open(&rig);
    for (unsigned i = 0; i < 4; i++) {
        if (structured) {
            ck_assert_uint_eq(rig_read_chunks(&rig, fd, i, 0, 32 * MIB, seen, NULL), 0);
            used = bmig_pool_used_bytes(rig.pool);
            ck_assert_uint_le(used, bmig_pool_size_bytes(rig.pool) / 2);
        } else {
            ck_assert_uint_eq(rig_reply(&rig, fd).cookie, i);
            rig_receive(&rig, fd, seen, 32 * MIB);
        }
    }
    close(fd);
}
END_TEST

START_TEST(requests_cut_anywhere_by_the_stream_are_put_together)
{
    enum { LENGTH = 600 };
    uint8_t stream[3 * (NBD_REQUEST_BYTES + LENGTH)];

    begin(_i);
    for (unsigned i = 0; i < 3; i++) {
        rig_request(stream + i * (NBD_REQUEST_BYTES + LENGTH), NBD_CMD_WRITE, 0, i, i * LENGTH,
                    LENGTH);
        memcpy(stream + i * (NBD_REQUEST_BYTES + LENGTH) + NBD_REQUEST_BYTES, pattern + i * LENGTH,
               LENGTH);
    }
    for (size_t i = 0; i < sizeof(stream); i++) {
        rig_send(&rig, fd, stream + i, 1);
        bmig_loop_step(rig.loop, 0);
        bmig_loop_step(rig.loop, 0);
    }
    for (unsigned i = 0; i < 3; i++)
        rig_expect(&rig, fd, i, 0);
    ck_assert_uint_eq(rig_read(&rig, fd, structured, 0, 3 * LENGTH, seen), 0);
    ck_assert_mem_eq(seen, pattern, 3 * LENGTH);
    close(fd);
}
END_TEST

START_TEST(many_requests_in_one_segment_are_all_answered)
{
    enum { COUNT = 1000, LENGTH = 100 };
    uint8_t *stream = malloc(COUNT * (NBD_REQUEST_BYTES + LENGTH)), answered[COUNT] = {0};

    begin(_i);
    for (unsigned i = 0; i < COUNT; i++) {
        rig_request(stream + i * (NBD_REQUEST_BYTES + LENGTH), NBD_CMD_WRITE, 0, i, i * LENGTH,
                    LENGTH);
        memcpy(stream + i * (NBD_REQUEST_BYTES + LENGTH) + NBD_REQUEST_BYTES, pattern + i * LENGTH,
               LENGTH);
    }
    rig_send(&rig, fd, stream, COUNT * (NBD_REQUEST_BYTES + LENGTH));
    for (unsigned i = 0; i < COUNT; i++) {
        struct rig_reply reply = rig_reply(&rig, fd);

        ck_assert_uint_eq(reply.error, 0);
        ck_assert_uint_lt(reply.cookie, COUNT);
        ck_assert_uint_eq(answered[reply.cookie]++, 0);
    }
    ck_assert_uint_eq(rig_read(&rig, fd, structured, 0, COUNT * LENGTH, seen), 0);
    ck_assert_mem_eq(seen, pattern, COUNT * LENGTH);
    free(stream);
    close(fd);
}
END_TEST

START_TEST(flags_reach_the_disk_as_what_they_mean)
{
    begin(_i);
    gate.seen[BMIG_ZERO] = 0;
    rig_send_request(&rig, fd, NBD_CMD_WRITE_ZEROES, 0, 1, 4096, 3 << 20);
    rig_expect(&rig, fd, 1, 0);
    ck_assert_uint_eq(gate.last_flags, BMIG_MAY_UNMAP);
    ck_assert_uint_eq(gate.last_offset, 4096);
    ck_assert_uint_eq(gate.last_length, 3 << 20);
    rig_send_request(&rig, fd, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE, 2, 0, 4096);
    rig_expect(&rig, fd, 2, 0);
    ck_assert_uint_eq(gate.last_flags & (BMIG_MAY_UNMAP | BMIG_FAST_ONLY), 0);
    rig_send_request(&rig, fd, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO | NBD_CMD_FLAG_NO_HOLE,
                     3, 0, 4096);
    rig_expect(&rig, fd, 3, 0);
    ck_assert_uint_eq(gate.seen[BMIG_ZERO], 3);
    rig_send_request(&rig, fd, NBD_CMD_TRIM, 0, 4, 0, SIZE);
    rig_expect(&rig, fd, 4, 0);
    ck_assert_uint_eq(gate.seen[BMIG_DISCARD], 1);
    close(fd);
}
END_TEST

START_TEST(zeroed_and_trimmed_ranges_read_as_told)
{
    begin(_i);
    ck_assert_uint_eq(rig_write(&rig, fd, 0, MIB, pattern), 0);
    rig_send_request(&rig, fd, NBD_CMD_WRITE_ZEROES, 0, 1, 1000, 100000);
    rig_expect(&rig, fd, 1, 0);
    ck_assert_uint_eq(rig_read(&rig, fd, structured, 0, MIB, seen), 0);
    memset(pattern + 1000, 0, 100000);
    ck_assert_mem_eq(seen, pattern, MIB);
    close(fd);
}
END_TEST

START_TEST(refused_write_is_drained_and_the_stream_stays_in_step)
{
    static const struct {
        unsigned flags;
        uint64_t offset;
        uint32_t length, error;
    } bad[] = {{0, SIZE, 1, NBD_ENOSPC},          {0, SIZE - 10, 100000, NBD_ENOSPC},
               {0, UINT64_MAX, 4096, NBD_ENOSPC}, {NBD_CMD_FLAG_DF, 0, 70000, NBD_EINVAL},
               {0x8000, 0, 1, NBD_EINVAL},        {0, 0, 32 * MIB + 1, NBD_EINVAL}};

    begin(_i);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        rig_send_request(&rig, fd, NBD_CMD_WRITE, bad[i].flags, i, bad[i].offset, bad[i].length);
        rig_send(&rig, fd, pattern, bad[i].length);
        expect_refused(i, bad[i].error);
        expect_alive();
    }
    ck_assert_uint_eq(gate.seen[BMIG_WRITE], 0);
    close(fd);
}
END_TEST

START_TEST(unknown_commands_and_bad_ranges_are_refused_in_step)
{
    begin(_i);
    rig_send_request(&rig, fd, 5, 0, 1, 0, 512);
    rig_send_request(&rig, fd, 0xffff, 0, 2, 0, UINT32_MAX);
    rig_send_request(&rig, fd, NBD_CMD_READ, 0, 3, SIZE, 1);
    rig_send_request(&rig, fd, NBD_CMD_READ, 0, 4, 0, UINT32_MAX);
    rig_send_request(&rig, fd, NBD_CMD_TRIM, 0, 5, 0, UINT32_MAX);
    rig_send_request(&rig, fd, NBD_CMD_FLUSH, 0, 6, 0, 1);
    for (unsigned i = 1; i <= 6; i++)
        expect_refused(i, NBD_EINVAL);
    rig_send_request(&rig, fd, NBD_CMD_WRITE_ZEROES, 0, 7, 1, SIZE);
    expect_refused(7, NBD_ENOSPC);
    expect_alive();
    close(fd);
}
END_TEST

START_TEST(empty_requests_succeed_without_the_disk)
{
    begin(_i);
    ck_assert_uint_eq(rig_write(&rig, fd, 100, 0, pattern), 0);
    ck_assert_uint_eq(rig_read(&rig, fd, structured, SIZE, 0, seen), 0);
    rig_send_request(&rig, fd, NBD_CMD_TRIM, 0, 1, 0, 0);
    rig_expect(&rig, fd, 1, 0);
    rig_send_request(&rig, fd, NBD_CMD_WRITE_ZEROES, 0, 2, 0, 0);
    rig_expect(&rig, fd, 2, 0);
    for (int op = 0; op < BMIG_OP_COUNT; op++)
        ck_assert_uint_eq(gate.seen[op], 0);
    expect_alive();
    close(fd);
}
END_TEST

START_TEST(errors_of_the_disk_reach_the_client)
{
    static const struct {
        unsigned command;
        int op, status;
        uint32_t error;
    } cases[] = {{NBD_CMD_WRITE_ZEROES, BMIG_ZERO, -ENOSPC, NBD_ENOSPC},
                 {NBD_CMD_WRITE_ZEROES, BMIG_ZERO, -EROFS, NBD_EPERM},
                 {NBD_CMD_TRIM, BMIG_DISCARD, -EIO, NBD_EIO},
                 {NBD_CMD_READ, BMIG_READ, -EIO, NBD_EIO},
                 {NBD_CMD_READ, BMIG_READ, -ESTALE, NBD_EIO}};

    begin(_i);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        gate.fail_op = cases[i].op;
        gate.fail_status = cases[i].status;
        rig_send_request(&rig, fd, cases[i].command, 0, i, 0, 4096);
        expect_refused(i, cases[i].error);
    }
    gate.fail_op = BMIG_WRITE;
    gate.fail_status = -EDQUOT;
    ck_assert_uint_eq(rig_write(&rig, fd, 0, 4096, pattern), NBD_ENOSPC);
    gate.fail_op = -1;
    expect_alive();
    close(fd);
}
END_TEST

START_TEST(fast_zero_that_would_not_be_fast_is_refused_without_the_disk)
{
    nbd_rig_stop(&rig);
    gate_lacks = BMIG_CAP_FAST_ZERO;
    rig_start(&rig, SIZE, NULL, 0);
    gate_lacks = 0;
    begin(_i);
    rig_send_request(&rig, fd, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO, 1, 0, 4096);
    expect_refused(1, NBD_ENOTSUP);
    ck_assert_uint_eq(gate.seen[BMIG_ZERO] + gate.seen[BMIG_WRITE], 0);
    rig_send_request(&rig, fd, NBD_CMD_WRITE_ZEROES, 0, 2, 0, 4096);
    rig_expect(&rig, fd, 2, 0);
    close(fd);
}
END_TEST

START_TEST(long_write_with_a_bad_piece_is_drained_and_fails_once)
{
    begin(_i);
    gate.fail_op = BMIG_WRITE;
    gate.fail_status = -ENOSPC;
    for (unsigned at = 0; at < 9; at++) {
        gate.fail_offset = (uint64_t)at * MIB + MIB / 2;
        ck_assert_uint_eq(rig_write(&rig, fd, 0, 8 * MIB + 100, pattern), at == 8 ? 0 : NBD_ENOSPC);
        expect_alive();
        rig_expect_silence(&rig, fd);
    }
    close(fd);
}
END_TEST

START_TEST(long_structured_read_with_a_bad_piece_ends_in_an_error_chunk)
{
    begin(1);
    gate.fail_op = BMIG_READ;
    gate.fail_status = -EIO;
    for (unsigned at = 0; at < 8; at++) {
        gate.fail_offset = (uint64_t)at * MIB + 5;
        ck_assert_uint_eq(rig_read(&rig, fd, true, 0, 8 * MIB, seen), NBD_EIO);
        gate.fail_op = -1;
        expect_alive();
        gate.fail_op = BMIG_READ;
    }
    close(fd);
}
END_TEST

START_TEST(simple_read_that_fails_before_its_header_is_an_error)
{
    begin(0);
    gate.fail_op = BMIG_READ;
    gate.fail_status = -EIO;
    gate.fail_offset = 5;
    ck_assert_uint_eq(rig_read(&rig, fd, false, 0, 20 * MIB, seen), NBD_EIO);
    gate.fail_op = -1;
    expect_alive();
    close(fd);
}
END_TEST

START_TEST(simple_read_that_fails_after_its_header_ends_the_session)
{
    begin(0);
    gate.fail_op = BMIG_READ;
    gate.fail_status = -EIO;
    gate.fail_offset = 15 * MIB;
    rig_send_request(&rig, fd, NBD_CMD_READ, 0, 1, 0, 20 * MIB);
    ck_assert_uint_eq(rig_reply(&rig, fd).error, 0);
    for (;;) {
        ssize_t got = read(fd, seen, SIZE);

        if (got == 0 || (got < 0 && errno != EAGAIN))
            break;
        if (got < 0)
            rig_step(&rig);
    }
    rig_wait_clients(&rig, 0);
    close(fd);
}
END_TEST

/* Simple replies can't be told apart inside each other's data: while one is half sent, the rest
 * wait. */
START_TEST(nothing_comes_between_the_pieces_of_a_simple_reply)
{
    uint8_t bytes[NBD_REQUEST_BYTES];
    unsigned answered = 0;

    begin(0);
    ck_assert_uint_eq(rig_write(&rig, fd, 0, 32 * MIB, pattern), 0);
    for (unsigned i = 0; i < 60; i++) {
        uint32_t length = i % 7 == 3 ? 3 * MIB + 17 : i % 5 == 1 ? 0 : 4096;

        rig_request(bytes, i % 11 == 10 ? NBD_CMD_FLUSH : NBD_CMD_READ, 0, i, 0,
                    i % 11 == 10 ? 0 : length);
        rig_send(&rig, fd, bytes, sizeof(bytes));
    }
    for (; answered < 60; answered++) {
        struct rig_reply reply = rig_reply(&rig, fd);
        uint64_t i = reply.cookie;
        uint32_t length = i % 11 == 10 ? 0 : i % 7 == 3 ? 3 * MIB + 17 : i % 5 == 1 ? 0 : 4096;

        ck_assert_uint_eq(reply.error, 0);
        rig_receive(&rig, fd, seen, length);
        ck_assert_mem_eq(seen, pattern, length);
    }
    rig_expect_silence(&rig, fd);
    close(fd);
}
END_TEST

START_TEST(unfragmented_read_is_one_chunk)
{
    static const uint32_t lengths[] = {1, 4096, 65536, MIB};
    unsigned chunks;

    begin(1);
    ck_assert_uint_eq(rig_write(&rig, fd, 7, MIB, pattern), 0);
    for (unsigned i = 0; i < 4; i++) {
        rig_send_request(&rig, fd, NBD_CMD_READ, NBD_CMD_FLAG_DF, i, 7, lengths[i]);
        ck_assert_uint_eq(rig_read_chunks(&rig, fd, i, 7, lengths[i], seen, &chunks), 0);
        ck_assert_uint_eq(chunks, 1);
        ck_assert_mem_eq(seen, pattern, lengths[i]);
    }
    rig_send_request(&rig, fd, NBD_CMD_READ, NBD_CMD_FLAG_DF, 9, 7, MIB + 1);
    rig_expect_error_chunk(&rig, fd, 9, NBD_EOVERFLOW);
    expect_alive();
    close(fd);
}
END_TEST

static unsigned block_status(unsigned flags, uint64_t offset, uint32_t length,
                             uint32_t (*extents)[2])
{
    struct rig_reply reply;
    uint8_t bytes[8];
    uint64_t sum = 0;
    unsigned count;

    rig_send_request(&rig, fd, NBD_CMD_BLOCK_STATUS, flags, 77, offset, length);
    reply = rig_reply(&rig, fd);
    ck_assert(reply.structured);
    ck_assert_uint_eq(reply.type, NBD_REPLY_TYPE_BLOCK_STATUS);
    ck_assert_uint_eq(reply.flags, NBD_REPLY_FLAG_DONE);
    ck_assert_uint_eq(reply.length % 8, 4);
    rig_receive(&rig, fd, bytes, 4);
    ck_assert_uint_eq(nbd_get_u32(bytes), 1);
    count = reply.length / 8;
    ck_assert_uint_ge(count, 1);
    for (unsigned i = 0; i < count; i++) {
        rig_receive(&rig, fd, bytes, 8);
        sum += nbd_get_u32(bytes);
        if (i < 16) {
            extents[i][0] = nbd_get_u32(bytes);
            extents[i][1] = nbd_get_u32(bytes + 4);
        }
    }
    ck_assert_uint_le(sum, length);
    return count;
}

START_TEST(block_status_tells_data_from_holes_and_honours_req_one)
{
    uint32_t extents[16][2];

    begin(1);
    ck_assert_uint_eq(rig_write(&rig, fd, 2 * MIB, MIB, pattern), 0);
    ck_assert_uint_eq(block_status(0, 0, SIZE, extents), 3);
    ck_assert_uint_eq(extents[0][0], 2 * MIB);
    ck_assert_uint_eq(extents[0][1], NBD_STATE_HOLE | NBD_STATE_ZERO);
    ck_assert_uint_eq(extents[1][0], MIB);
    ck_assert_uint_eq(extents[1][1], 0);
    ck_assert_uint_eq(extents[2][0], SIZE - 3 * MIB);
    ck_assert_uint_eq(block_status(NBD_CMD_FLAG_REQ_ONE, 2 * MIB + 4096, SIZE / 2, extents), 1);
    ck_assert_uint_eq(extents[0][0], MIB - 4096);
    ck_assert_uint_eq(extents[0][1], 0);
    for (uint64_t at = 0; at < SIZE; at += 128 << 10)
        ck_assert_uint_eq(rig_write(&rig, fd, at, 4096, pattern), 0);
    ck_assert_uint_le(block_status(0, 0, SIZE, extents), 256);
    rig_send_request(&rig, fd, NBD_CMD_BLOCK_STATUS, 0, 5, SIZE - 1, 2);
    rig_expect_error_chunk(&rig, fd, 5, NBD_EINVAL);
    gate.fail_op = BMIG_EXTENTS;
    gate.fail_status = -EIO;
    rig_send_request(&rig, fd, NBD_CMD_BLOCK_STATUS, 0, 6, 0, SIZE);
    rig_expect_error_chunk(&rig, fd, 6, NBD_EIO);
    close(fd);
}
END_TEST

START_TEST(requests_with_one_cookie_are_each_answered_with_it)
{
    begin(_i);
    for (int i = 0; i < 50; i++)
        rig_send_request(&rig, fd, NBD_CMD_FLUSH, 0, 42, 0, 0);
    for (int i = 0; i < 50; i++)
        rig_expect(&rig, fd, 42, 0);
    rig_expect_silence(&rig, fd);
    close(fd);
}
END_TEST

enum { CONNECTIONS = 8, OUTSTANDING = 6, MODEL_BYTES = 2 * MIB };

/* One connection's own part of the disk, so that the model needs no order between connections. */
struct actor {
    int fd;
    uint64_t base;
    unsigned outstanding;
    struct {
        bool used, write;
        uint32_t offset, length;
    } ops[OUTSTANDING];
};

static bool overlaps(const struct actor *actor, uint32_t offset, uint32_t length)
{
    for (int i = 0; i < OUTSTANDING; i++)
        if (actor->ops[i].used && offset < actor->ops[i].offset + actor->ops[i].length &&
            actor->ops[i].offset < offset + length)
            return true;
    return false;
}

static void act(struct actor *actor, uint64_t *seed)
{
    unsigned slot = 0;
    uint32_t length = (uint32_t)(rig_random(seed) % (rig_random(seed) % 4 ? 9000 : 300000)) + 1;
    uint32_t offset = (uint32_t)(rig_random(seed) % (MODEL_BYTES - length));

    while (slot < OUTSTANDING && actor->ops[slot].used)
        slot++;
    if (slot == OUTSTANDING || overlaps(actor, offset, length))
        return;
    actor->ops[slot].used = true;
    actor->ops[slot].write = rig_random(seed) & 1;
    actor->ops[slot].offset = offset;
    actor->ops[slot].length = length;
    actor->outstanding++;
    rig_send_request(&rig, actor->fd, actor->ops[slot].write ? NBD_CMD_WRITE : NBD_CMD_READ, 0,
                     slot, actor->base + offset, length);
    if (!actor->ops[slot].write)
        return;
    for (uint32_t i = 0; i < length; i++)
        pattern[actor->base + offset + i] = (uint8_t)(rig_random(seed) >> 7);
    rig_send(&rig, actor->fd, pattern + actor->base + offset, length);
}

static void hear(struct actor *actor)
{
    struct rig_reply reply = rig_reply(&rig, actor->fd);
    uint64_t slot = reply.cookie, from;
    uint8_t at[8];

    ck_assert_uint_lt(slot, OUTSTANDING);
    ck_assert(actor->ops[slot].used);
    ck_assert_uint_eq(reply.error, 0);
    if (!actor->ops[slot].write) {
        from = actor->base + actor->ops[slot].offset;
        if (reply.structured) {
            ck_assert_uint_eq(reply.type, NBD_REPLY_TYPE_OFFSET_DATA);
            rig_receive(&rig, actor->fd, at, 8);
            from = nbd_get_u64(at);
            rig_receive(&rig, actor->fd, seen, reply.length - 8);
            ck_assert_mem_eq(seen, pattern + from, reply.length - 8);
            if (!(reply.flags & NBD_REPLY_FLAG_DONE))
                return;
        } else {
            rig_receive(&rig, actor->fd, seen, actor->ops[slot].length);
            ck_assert_mem_eq(seen, pattern + from, actor->ops[slot].length);
        }
    }
    actor->ops[slot].used = false;
    actor->outstanding--;
}

START_TEST(random_requests_on_eight_connections_agree_with_a_model)
{
    struct actor actors[CONNECTIONS] = {0};
    uint64_t seed = 0x2545f4914f6cdd1d + (uint64_t)_i;

    memset(pattern, 0, SIZE);
    for (int i = 0; i < CONNECTIONS; i++)
        actors[i] =
            (struct actor){.fd = rig_client(&rig, i & 1), .base = (uint64_t)i * MODEL_BYTES};
    for (int round = 0; round < 3000; round++) {
        struct actor *actor = &actors[rig_random(&seed) % CONNECTIONS];

        if (rig_random(&seed) % 3)
            act(actor, &seed);
        else if (actor->outstanding)
            hear(actor);
    }
    for (int i = 0; i < CONNECTIONS; i++) {
        while (actors[i].outstanding)
            hear(&actors[i]);
        ck_assert_uint_eq(rig_read(&rig, actors[i].fd, i & 1, actors[i].base, MODEL_BYTES, seen),
                          0);
        ck_assert_mem_eq(seen, pattern + actors[i].base, MODEL_BYTES);
        close(actors[i].fd);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("nbd_request");
    TCase *tcase = tcase_create("nbd_request");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, data_comes_back_whatever_its_length_and_alignment, 0, 2);
    tcase_add_loop_test(tcase, memory_in_flight_stays_within_the_bound_for_32_mib_requests, 0, 2);
    tcase_add_loop_test(tcase, requests_cut_anywhere_by_the_stream_are_put_together, 0, 2);
    tcase_add_loop_test(tcase, many_requests_in_one_segment_are_all_answered, 0, 2);
    tcase_add_loop_test(tcase, flags_reach_the_disk_as_what_they_mean, 0, 2);
    tcase_add_loop_test(tcase, zeroed_and_trimmed_ranges_read_as_told, 0, 2);
    tcase_add_loop_test(tcase, refused_write_is_drained_and_the_stream_stays_in_step, 0, 2);
    tcase_add_loop_test(tcase, unknown_commands_and_bad_ranges_are_refused_in_step, 0, 2);
    tcase_add_loop_test(tcase, empty_requests_succeed_without_the_disk, 0, 2);
    tcase_add_loop_test(tcase, errors_of_the_disk_reach_the_client, 0, 2);
    tcase_add_loop_test(tcase, fast_zero_that_would_not_be_fast_is_refused_without_the_disk, 0, 2);
    tcase_add_loop_test(tcase, long_write_with_a_bad_piece_is_drained_and_fails_once, 0, 2);
    tcase_add_test(tcase, long_structured_read_with_a_bad_piece_ends_in_an_error_chunk);
    tcase_add_test(tcase, simple_read_that_fails_before_its_header_is_an_error);
    tcase_add_test(tcase, simple_read_that_fails_after_its_header_ends_the_session);
    tcase_add_test(tcase, nothing_comes_between_the_pieces_of_a_simple_reply);
    tcase_add_test(tcase, unfragmented_read_is_one_chunk);
    tcase_add_test(tcase, block_status_tells_data_from_holes_and_honours_req_one);
    tcase_add_loop_test(tcase, requests_with_one_cookie_are_each_answered_with_it, 0, 2);
    tcase_add_loop_test(tcase, random_requests_on_eight_connections_agree_with_a_model, 0, 3);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
