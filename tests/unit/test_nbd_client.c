/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * NBD clients that misbehave or die: cut anywhere, silent, slow, flooding, never reading. After
 * each the server serves others, and nbd_rig_stop finds that nothing was left.
 */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "nbd_rig.h"

enum { MIB = 1 << 20, SIZE = 16 * MIB };

static struct rig rig;
static uint8_t *pattern, *seen;

static void setup_memory(void)
{
    pattern = malloc(SIZE);
    seen = calloc(1, SIZE);
    for (size_t i = 0; i < SIZE; i++)
        pattern[i] = (uint8_t)(i * 2654435761u >> 13);
}

static void setup(void)
{
    setup_memory();
    rig_start(&rig, SIZE, NULL, 0);
}

static void teardown(void)
{
    nbd_rig_stop(&rig);
    free(pattern);
    free(seen);
}

/* Another client is served as if nothing were. */
static void expect_service(int fd)
{
    ck_assert_uint_eq(rig_write(&rig, fd, 4096, 5000, pattern), 0);
    memset(seen, 0, 5000);
    ck_assert_uint_eq(rig_read(&rig, fd, true, 4096, 5000, seen), 0);
    ck_assert_mem_eq(seen, pattern, 5000);
}

/* ---- cuts ---- */

static const char HANDSHAKE[] = "\0\0\0\3"
                                "IHAVEOPT\0\0\0\x8\0\0\0\0"
                                "IHAVEOPT\0\0\0\xa\0\0\0\x1b"
                                "\0\0\0\0\0\0\0\1\0\0\0\xf"
                                "base:allocation"
                                "IHAVEOPT\0\0\0\5\0\0\0\0"
                                "IHAVEOPT\0\0\0\7\0\0\0\xa"
                                "\0\0\0\4disk\0\0";

START_TEST(connection_cut_after_any_byte_of_a_handshake_leaves_nothing)
{
    int other = rig_client(&rig, true);

    for (size_t length = 0; length < sizeof(HANDSHAKE); length++) {
        int fd = rig_connect(&rig);

        rig_send(&rig, fd, HANDSHAKE, length);
        if (length & 1)
            rig_settle(&rig);
        close(fd);
        if (length % 16 == 0) {
            rig_wait_clients(&rig, 1);
            expect_service(other);
        }
    }
    rig_wait_clients(&rig, 1);
    expect_service(other);
    close(other);
}
END_TEST

START_TEST(connection_cut_after_any_byte_of_requests_leaves_nothing)
{
    enum { LENGTH = 40 };
    uint8_t stream[4 * NBD_REQUEST_BYTES + LENGTH];
    int other = rig_client(&rig, true);

    rig_request(stream, NBD_CMD_READ, 0, 1, 0, 3 * MIB);
    rig_request(stream + 28, NBD_CMD_WRITE, 0, 2, 0, LENGTH);
    memset(stream + 56, 0x5a, LENGTH);
    rig_request(stream + 56 + LENGTH, NBD_CMD_BLOCK_STATUS, 0, 3, 0, SIZE);
    rig_request(stream + 84 + LENGTH, NBD_CMD_FLUSH, 0, 4, 0, 0);
    for (size_t length = 0; length <= sizeof(stream); length++) {
        int fd = rig_client(&rig, length & 1);

        gate.hold = length & 2;
        rig_send(&rig, fd, stream, length);
        if (length & 4)
            rig_settle(&rig);
        close(fd);
        rig_step(&rig);
        gate_open(&rig);
        if (length % 16 == 0) {
            rig_wait_clients(&rig, 1);
            expect_service(other);
        }
    }
    rig_wait_clients(&rig, 1);
    expect_service(other);
    close(other);
}
END_TEST

START_TEST(connection_cut_within_a_long_payload_writes_no_partial_piece_and_leaves_nothing)
{
    static const uint32_t cuts[] = {1, 1000, 20000, 65536, MIB - 1, MIB, MIB + 1, 3 * MIB + 5};
    int other = rig_client(&rig, true);

    for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
        int fd = rig_client(&rig, i & 1);

        gate.seen[BMIG_WRITE] = 0;
        rig_send_request(&rig, fd, NBD_CMD_WRITE, 0, 1, 8 * MIB, 4 * MIB);
        rig_send(&rig, fd, pattern, cuts[i]);
        close(fd);
        rig_wait_clients(&rig, 1);
        ck_assert_uint_eq(gate.seen[BMIG_WRITE], cuts[i] / MIB);
        expect_service(other);
    }
    close(other);
}
END_TEST

START_TEST(client_that_dies_with_requests_in_flight_is_kept_until_they_end)
{
    int fd = rig_client(&rig, true), other = rig_client(&rig, true);

    gate.hold = true;
    for (unsigned i = 0; i < 20; i++)
        rig_send_request(&rig, fd, NBD_CMD_READ, 0, i, i * 4096, 4096);
    rig_settle(&rig);
    ck_assert_uint_eq(gate.held, 20);
    close(fd);
    rig_settle(&rig);
    ck_assert_uint_eq(bmig_nbd_server_clients(rig.server), 2);
    gate_open(&rig);
    rig_wait_clients(&rig, 1);
    expect_service(other);
    close(other);
}
END_TEST

START_TEST(disconnect_is_carried_out_once_what_is_in_flight_is_answered)
{
    int fd = rig_client(&rig, false);

    gate.hold = true;
    rig_send_request(&rig, fd, NBD_CMD_READ, 0, 1, 0, 4096);
    rig_send_request(&rig, fd, NBD_CMD_DISC, 0, 2, 0, 0);
    rig_send_request(&rig, fd, NBD_CMD_READ, 0, 3, 0, 4096);
    rig_expect_silence(&rig, fd);
    gate_open(&rig);
    ck_assert_uint_eq(rig_reply(&rig, fd).cookie, 1);
    rig_receive(&rig, fd, seen, 4096);
    rig_expect_end(&rig, fd);
    rig_wait_clients(&rig, 0);
    close(fd);
}
END_TEST

START_TEST(client_that_only_stops_sending_still_gets_its_answers)
{
    int fd = rig_client(&rig, true);

    rig_send_request(&rig, fd, NBD_CMD_READ, 0, 1, 0, 3 * MIB);
    shutdown(fd, SHUT_WR);
    ck_assert_uint_eq(rig_read_chunks(&rig, fd, 1, 0, 3 * MIB, seen, NULL), 0);
    rig_expect_end(&rig, fd);
    close(fd);
}
END_TEST

START_TEST(wrong_request_magic_ends_the_session)
{
    uint8_t bytes[NBD_REQUEST_BYTES];

    for (int held = 0; held < 2; held++) {
        int fd = rig_client(&rig, held);

        gate.hold = held;
        rig_send_request(&rig, fd, NBD_CMD_READ, 0, 1, 0, 4096);
        rig_settle(&rig);
        rig_request(bytes, NBD_CMD_READ, 0, 1, 0, 4096);
        bytes[3] ^= 1;
        rig_send(&rig, fd, bytes, sizeof(bytes));
        rig_settle(&rig);
        gate_open(&rig);
        rig_wait_clients(&rig, 0);
        close(fd);
    }
}
END_TEST

/* ---- slow ---- */

START_TEST(handshake_one_byte_at_a_time_succeeds)
{
    int fd = rig_connect(&rig);
    uint8_t bytes[18 + 20 + 20 + 19 + 20 + 20 + 28 + 32 + 20];

    for (size_t i = 0; i < sizeof(HANDSHAKE) - 1; i++) {
        rig_send(&rig, fd, HANDSHAKE + i, 1);
        bmig_loop_step(rig.loop, 0);
    }
    /* greeting, ACK, context and its ACK, UNSUP with its words, EXPORT, ACK */
    rig_receive(&rig, fd, bytes, 18 + 20 + 20 + 19 + 20 + 20 + 27 + 32 + 20);
    rig_send_request(&rig, fd, NBD_CMD_FLUSH, 0, 1, 0, 0);
    rig_expect(&rig, fd, 1, 0);
    close(fd);
}
END_TEST

START_TEST(whole_handshake_and_requests_pipelined_at_once_are_taken_in_order)
{
    int fd = rig_connect(&rig);
    uint8_t stream[256], bytes[18 + 20 + 20 + 19 + 20 + 20 + 27 + 32 + 20];
    size_t length = sizeof(HANDSHAKE) - 1;

    memcpy(stream, HANDSHAKE, length);
    rig_request(stream + length, NBD_CMD_FLUSH, 0, 1, 0, 0);
    rig_request(stream + length + 28, NBD_CMD_FLUSH, 0, 2, 0, 0);
    rig_send(&rig, fd, stream, length + 56);
    rig_receive(&rig, fd, bytes, sizeof(bytes));
    rig_expect(&rig, fd, 1, 0);
    rig_expect(&rig, fd, 2, 0);
    close(fd);
}
END_TEST

START_TEST(silent_client_is_cut_at_the_handshake_deadline_and_no_other)
{
    const struct bmig_nbd_server_options options = {.handshake_timeout_ns = 50000000};
    int silent, half, done;

    teardown();
    setup_memory();
    rig_start(&rig, SIZE, &options, 0);
    done = rig_client(&rig, true);
    silent = rig_connect(&rig);
    half = rig_connect(&rig);
    rig_send(&rig, half, HANDSHAKE, 30);
    rig_receive(&rig, silent, seen, 18);
    rig_receive(&rig, half, seen, 18 + 20);
    rig_expect_end(&rig, silent);
    rig_expect_end(&rig, half);
    rig_wait_clients(&rig, 1);
    expect_service(done);
    close(silent);
    close(half);
    close(done);
}
END_TEST

/* ---- floods ---- */

/* Sends until the server takes no more. */
static size_t stuff(int fd, const void *data, size_t length, size_t limit)
{
    size_t sent = 0;
    int idle = 0;

    while (idle < 20 && sent < limit) {
        ssize_t now =
            send(fd, (const uint8_t *)data + sent % length, length - sent % length, MSG_NOSIGNAL);

        if (now > 0) {
            sent += (size_t)now;
            idle = 0;
        } else {
            idle++;
            rig_step(&rig);
        }
    }
    return sent;
}

START_TEST(client_that_never_reads_stalls_itself_only)
{
    uint8_t requests[100 * NBD_REQUEST_BYTES];
    int flood[4], other;

    for (unsigned i = 0; i < 100; i++)
        rig_request(requests + i * NBD_REQUEST_BYTES, NBD_CMD_READ, 0, i, i * 4096,
                    i % 2 ? 4096 : MIB);
    for (int i = 0; i < 4; i++) {
        flood[i] = rig_client(&rig, i & 1);
        ck_assert_uint_lt(stuff(flood[i], requests, sizeof(requests), 8 * MIB), 8 * MIB);
        ck_assert_uint_le(bmig_pool_used_bytes(rig.pool), bmig_pool_size_bytes(rig.pool) / 2);
    }
    other = rig_client(&rig, true);
    for (int i = 0; i < 20; i++)
        expect_service(other);
    ck_assert_uint_eq(rig_write(&rig, other, 0, 8 * MIB, pattern), 0);
    ck_assert_uint_eq(rig_read(&rig, other, true, 0, 8 * MIB, seen), 0);
    ck_assert_mem_eq(seen, pattern, 8 * MIB);
    for (int i = 0; i < 4; i++)
        close(flood[i]);
    rig_wait_clients(&rig, 1);
    close(other);
}
END_TEST

START_TEST(clients_that_stop_within_payloads_leave_memory_for_the_rest)
{
    int stuck[20], other;

    for (int i = 0; i < 20; i++) {
        stuck[i] = rig_client(&rig, i & 1);
        rig_send_request(&rig, stuck[i], NBD_CMD_WRITE, 0, 1, 0, 8 * MIB);
        rig_send(&rig, stuck[i], pattern, 10);
    }
    rig_settle(&rig);
    other = rig_client(&rig, true);
    ck_assert_uint_eq(rig_write(&rig, other, 0, 8 * MIB, pattern), 0);
    ck_assert_uint_eq(rig_read(&rig, other, true, 0, 8 * MIB, seen), 0);
    ck_assert_mem_eq(seen, pattern, 8 * MIB);
    for (int i = 0; i < 20; i++)
        close(stuck[i]);
    rig_wait_clients(&rig, 1);
    close(other);
}
END_TEST

START_TEST(options_sent_without_reading_their_answers_stall_the_sender)
{
    uint8_t options[100 * 16];
    int fd = rig_connect(&rig), other;

    for (unsigned i = 0; i < 100; i++)
        memcpy(options + 16 * i, "IHAVEOPT\0\0\0\3\0\0\0\0", 16);
    rig_send(&rig, fd, "\0\0\0\3", 4);
    ck_assert_uint_lt(stuff(fd, options, sizeof(options), 16 * MIB), 16 * MIB);
    other = rig_client(&rig, true);
    expect_service(other);
    close(fd);
    rig_wait_clients(&rig, 1);
    close(other);
}
END_TEST

START_TEST(requests_beyond_the_limit_wait_their_turn)
{
    const struct bmig_nbd_server_options options = {.max_in_flight_requests = 4};
    int fd;

    teardown();
    setup_memory();
    rig_start(&rig, SIZE, &options, 0);
    fd = rig_client(&rig, true);
    gate.hold = true;
    for (unsigned i = 0; i < 50; i++)
        rig_send_request(&rig, fd, NBD_CMD_READ, 0, i, i * 4096, 4096);
    rig_settle(&rig);
    ck_assert_uint_eq(gate.held, 4);
    gate_open(&rig);
    for (unsigned i = 0; i < 50; i++) {
        struct rig_reply reply = rig_reply(&rig, fd);

        ck_assert_uint_eq(reply.type, NBD_REPLY_TYPE_OFFSET_DATA);
        rig_receive(&rig, fd, seen, reply.length);
    }
    rig_expect_silence(&rig, fd);
    close(fd);
}
END_TEST

START_TEST(everything_works_in_the_smallest_pool)
{
    const struct bmig_nbd_server_options options = {.max_in_flight_bytes = MIB};
    int clients[6];

    teardown();
    setup_memory();
    rig_start(&rig, SIZE, &options, 1);
    for (int i = 0; i < 6; i++)
        clients[i] = rig_client(&rig, i & 1);
    for (int i = 0; i < 6; i++)
        rig_send_request(&rig, clients[i], NBD_CMD_READ, 0, 1, 0, 4 * MIB);
    for (int i = 0; i < 6; i++) {
        if (i & 1) {
            ck_assert_uint_eq(rig_read_chunks(&rig, clients[i], 1, 0, 4 * MIB, seen, NULL), 0);
        } else {
            ck_assert_uint_eq(rig_reply(&rig, clients[i]).error, 0);
            rig_receive(&rig, clients[i], seen, 4 * MIB);
        }
    }
    for (int i = 0; i < 6; i++)
        ck_assert_uint_eq(rig_write(&rig, clients[i], 100, 5 * MIB, pattern), 0);
    ck_assert_uint_eq(rig_read(&rig, clients[1], true, 100, 5 * MIB, seen), 0);
    ck_assert_mem_eq(seen, pattern, 5 * MIB);
    for (int i = 0; i < 6; i++)
        close(clients[i]);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("nbd_client");
    TCase *tcase = tcase_create("nbd_client");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, connection_cut_after_any_byte_of_a_handshake_leaves_nothing);
    tcase_add_test(tcase, connection_cut_after_any_byte_of_requests_leaves_nothing);
    tcase_add_test(tcase,
                   connection_cut_within_a_long_payload_writes_no_partial_piece_and_leaves_nothing);
    tcase_add_test(tcase, client_that_dies_with_requests_in_flight_is_kept_until_they_end);
    tcase_add_test(tcase, disconnect_is_carried_out_once_what_is_in_flight_is_answered);
    tcase_add_test(tcase, client_that_only_stops_sending_still_gets_its_answers);
    tcase_add_test(tcase, wrong_request_magic_ends_the_session);
    tcase_add_test(tcase, handshake_one_byte_at_a_time_succeeds);
    tcase_add_test(tcase, whole_handshake_and_requests_pipelined_at_once_are_taken_in_order);
    tcase_add_test(tcase, silent_client_is_cut_at_the_handshake_deadline_and_no_other);
    tcase_add_test(tcase, client_that_never_reads_stalls_itself_only);
    tcase_add_test(tcase, clients_that_stop_within_payloads_leave_memory_for_the_rest);
    tcase_add_test(tcase, options_sent_without_reading_their_answers_stall_the_sender);
    tcase_add_test(tcase, requests_beyond_the_limit_wait_their_turn);
    tcase_add_test(tcase, everything_works_in_the_smallest_pool);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
