/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The NBD server's listeners, limits and end.
 */
#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "nbd_rig.h"

enum { SIZE = 8 << 20 };

static struct rig rig;

static void setup(void)
{
    rig_start(&rig, SIZE, NULL, 0);
}

static void teardown(void)
{
    nbd_rig_stop(&rig);
}

static struct bmig_error listen_error(const char *uri)
{
    struct bmig_error err = {0};
    int rc = bmig_nbd_server_listen(rig.server, uri, NULL, &err);

    ck_assert_int_lt(rc, 0);
    ck_assert_int_ne(err.kind, BMIG_OK);
    return err;
}

START_TEST(tcp_listener_tells_its_port_and_serves)
{
    static const char *const uris[] = {"nbd://127.0.0.1:0/disk", "nbd://127.0.0.1/?port=0"};

    for (int i = 0; i < 2; i++) {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
        uint8_t greeting[18];
        unsigned port;
        char *bound;
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

        ck_assert_int_eq(bmig_nbd_server_listen(rig.server, uris[i], &bound, NULL), 0);
        ck_assert_int_eq(sscanf(bound, "nbd://127.0.0.1:%u/disk", &port), 1);
        ck_assert_uint_gt(port, 0);
        address.sin_port = htons((uint16_t)port);
        if (connect(fd, (struct sockaddr *)&address, sizeof(address)))
            ck_assert_int_eq(errno, EINPROGRESS);
        rig_receive(&rig, fd, greeting, sizeof(greeting));
        ck_assert_mem_eq(greeting, "NBDMAGICIHAVEOPT\0\3", 18);
        close(fd);
        free(bound);
    }
}
END_TEST

START_TEST(bound_uri_is_escaped)
{
    char path[160], uri[200], want[240], *bound;

    snprintf(path, sizeof(path), "%s/a b", rig.folder);
    snprintf(uri, sizeof(uri), "nbd+unix:///?socket=%s/a%%20b", rig.folder);
    snprintf(want, sizeof(want), "nbd+unix:///disk?socket=%s/a%%20b", rig.folder);
    ck_assert_int_eq(bmig_nbd_server_listen(rig.server, uri, &bound, NULL), 0);
    ck_assert_str_eq(bound, want);
    ck_assert_int_eq(access(path, F_OK), 0);
    free(bound);
}
END_TEST

START_TEST(wrong_uris_are_refused)
{
    static const char *const uris[] = {
        "nfs://127.0.0.1/disk",
        "/plain/path",
        "nbds://127.0.0.1:0/disk",
        "nbd://127.0.0.1:0/other",
        "nbd+unix:///disk",
        "nbd+unix:///other?socket=/tmp/x",
        "nbd+unix:///disk?socket=/tmp/x&tls=1",
        "nbd+unix:///disk?socket=",
        "nbd://127.0.0.1/disk?port=70000",
        "nbd+unix:///disk?socket=/"
        "0123456789012345678901234567890123456789012345678901234567890123456789"
        "01234567890123456789012345678901234567",
    };

    for (size_t i = 0; i < sizeof(uris) / sizeof(uris[0]); i++)
        ck_assert_int_eq(listen_error(uris[i]).kind, BMIG_USAGE);
}
END_TEST

START_TEST(socket_that_someone_listens_on_is_denied)
{
    ck_assert_int_eq(listen_error(rig.uri).kind, BMIG_DENIED);
    close(rig_client(&rig, true));
}
END_TEST

START_TEST(file_in_the_place_of_the_socket_is_denied_and_kept)
{
    char path[160], uri[200];
    int fd;

    snprintf(path, sizeof(path), "%s/file", rig.folder);
    snprintf(uri, sizeof(uri), "nbd+unix:///?socket=%s", path);
    fd = open(path, O_CREAT | O_WRONLY | O_EXCL, 0600);
    ck_assert_int_ge(fd, 0);
    close(fd);
    ck_assert_int_eq(listen_error(uri).kind, BMIG_DENIED);
    ck_assert_int_eq(unlink(path), 0);
}
END_TEST

START_TEST(stale_socket_is_replaced_and_one_of_another_is_left_at_the_end)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char path[160], uri[200];
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    snprintf(path, sizeof(path), "%s/stale", rig.folder);
    snprintf(uri, sizeof(uri), "nbd+unix:///?socket=%s", path);
    memcpy(address.sun_path, path, strlen(path));
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    close(fd);
    ck_assert_int_eq(bmig_nbd_server_listen(rig.server, uri, NULL, NULL), 0);
    /* Someone takes the path over while we run. */
    ck_assert_int_eq(unlink(path), 0);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    close(fd);
    teardown();
    ck_assert_int_eq(access(path, F_OK), 0);
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(rmdir(rig.folder), 0);
    setup();
}
END_TEST

static uint32_t changes, last_count;

static void clients_changed(void *user, uint32_t clients)
{
    changes++;
    last_count = clients;
}

START_TEST(clients_beyond_the_limit_are_closed_at_once)
{
    const struct bmig_nbd_server_options options = {.max_clients = 2,
                                                    .clients_changed = clients_changed};
    int first, second, third;

    teardown();
    changes = 0;
    rig_start(&rig, SIZE, &options, 0);
    first = rig_client(&rig, true);
    second = rig_client(&rig, false);
    third = rig_connect(&rig);
    rig_expect_end(&rig, third);
    ck_assert_uint_eq(bmig_nbd_server_clients(rig.server), 2);
    ck_assert_uint_eq(changes, 2);
    close(second);
    rig_wait_clients(&rig, 1);
    ck_assert_uint_eq(changes, 3);
    ck_assert_uint_eq(last_count, 1);
    close(third);
    third = rig_client(&rig, true);
    ck_assert_uint_eq(last_count, 2);
    close(first);
    close(third);
}
END_TEST

START_TEST(read_only_server_says_so_and_refuses_writes)
{
    const struct bmig_nbd_server_options options = {.read_only = true};
    uint8_t answer[18], data[512] = {0};
    int fd;

    teardown();
    rig_start(&rig, SIZE, &options, 0);
    fd = rig_connect(&rig);
    rig_receive(&rig, fd, answer, 18);
    rig_send(&rig, fd, "\0\0\0\3IHAVEOPT\0\0\0\1\0\0\0\0", 20);
    rig_receive(&rig, fd, answer, 10);
    ck_assert_uint_eq(nbd_get_u16(answer + 8), NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY |
                                                   NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |
                                                   NBD_FLAG_CAN_MULTI_CONN);
    ck_assert_uint_eq(rig_write(&rig, fd, 0, sizeof(data), data), NBD_EPERM);
    rig_send_request(&rig, fd, NBD_CMD_TRIM, 0, 1, 0, 512);
    rig_expect(&rig, fd, 1, NBD_EPERM);
    ck_assert_uint_eq(rig_read(&rig, fd, false, 0, sizeof(data), data), 0);
    ck_assert_uint_eq(gate.seen[BMIG_WRITE] + gate.seen[BMIG_DISCARD], 0);
    close(fd);
}
END_TEST

static bool is_over;

static void over(void *user)
{
    is_over = true;
}

/* Ends the rig's server by hand; nbd_rig_stop then gets a fresh one. */
static void replace_server(void)
{
    char uri[160];

    for (int i = 0; i < 4000 && !is_over; i++)
        rig_step(&rig);
    ck_assert(is_over);
    bmig_nbd_server_free(rig.server);
    ck_assert_int_eq(bmig_nbd_server_new(&rig.server, rig.loop, rig.pool, rig.volume, NULL, NULL),
                     0);
    snprintf(uri, sizeof(uri), "%s", rig.uri);
    ck_assert_int_eq(bmig_nbd_server_listen(rig.server, uri, NULL, NULL), 0);
}

START_TEST(stop_answers_what_is_in_flight_and_takes_nothing_more)
{
    int fd = rig_client(&rig, false), idle = rig_client(&rig, true), greeted = rig_connect(&rig);
    uint8_t data[4096];

    rig_receive(&rig, greeted, data, 18);
    gate.hold = true;
    rig_send_request(&rig, fd, NBD_CMD_READ, 0, 1, 0, 4096);
    rig_settle(&rig);
    is_over = false;
    bmig_nbd_server_stop(rig.server, UINT64_C(60000000000), over, NULL);
    rig_expect_end(&rig, idle);
    rig_expect_end(&rig, greeted);
    rig_send_request(&rig, fd, NBD_CMD_READ, 0, 2, 0, 4096);
    rig_settle(&rig);
    ck_assert(!is_over);
    gate_open(&rig);
    ck_assert_uint_eq(rig_reply(&rig, fd).cookie, 1);
    rig_receive(&rig, fd, data, 4096);
    rig_expect_end(&rig, fd);
    replace_server();
    close(fd);
    close(idle);
    close(greeted);
}
END_TEST

START_TEST(stop_cuts_what_does_not_end_within_its_grace)
{
    int fd = rig_client(&rig, false);
    uint8_t request[NBD_REQUEST_BYTES];

    /* More answers than the sockets hold, and nobody reads them. */
    rig_request(request, NBD_CMD_READ, 0, 1, 0, SIZE);
    rig_send(&rig, fd, request, sizeof(request));
    rig_settle(&rig);
    is_over = false;
    bmig_nbd_server_stop(rig.server, 20000000, over, NULL);
    replace_server();
    close(fd);
}
END_TEST

START_TEST(stop_without_grace_cuts_at_once_but_waits_for_the_volume)
{
    int fd = rig_client(&rig, true);

    gate.hold = true;
    rig_send_request(&rig, fd, NBD_CMD_READ, 0, 1, 0, 4096);
    rig_settle(&rig);
    is_over = false;
    bmig_nbd_server_stop(rig.server, 0, over, NULL);
    rig_expect_end(&rig, fd);
    rig_settle(&rig);
    ck_assert(!is_over);
    gate_open(&rig);
    replace_server();
    close(fd);
}
END_TEST

START_TEST(stop_abandons_a_write_that_is_half_there)
{
    static uint8_t data[3 << 20];
    int fd = rig_client(&rig, true);

    rig_send_request(&rig, fd, NBD_CMD_WRITE, 0, 1, 0, 4 << 20);
    rig_send(&rig, fd, data, sizeof(data));
    rig_settle(&rig);
    is_over = false;
    bmig_nbd_server_stop(rig.server, UINT64_C(60000000000), over, NULL);
    replace_server();
    close(fd);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("nbd_server");
    TCase *tcase = tcase_create("nbd_server");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, tcp_listener_tells_its_port_and_serves);
    tcase_add_test(tcase, bound_uri_is_escaped);
    tcase_add_test(tcase, wrong_uris_are_refused);
    tcase_add_test(tcase, socket_that_someone_listens_on_is_denied);
    tcase_add_test(tcase, file_in_the_place_of_the_socket_is_denied_and_kept);
    tcase_add_test(tcase, stale_socket_is_replaced_and_one_of_another_is_left_at_the_end);
    tcase_add_test(tcase, clients_beyond_the_limit_are_closed_at_once);
    tcase_add_test(tcase, read_only_server_says_so_and_refuses_writes);
    tcase_add_test(tcase, stop_answers_what_is_in_flight_and_takes_nothing_more);
    tcase_add_test(tcase, stop_cuts_what_does_not_end_within_its_grace);
    tcase_add_test(tcase, stop_without_grace_cuts_at_once_but_waits_for_the_volume);
    tcase_add_test(tcase, stop_abandons_a_write_that_is_half_there);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
