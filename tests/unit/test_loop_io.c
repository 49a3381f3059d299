/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The loop's io: files and sockets by completion, and their cancellation.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "tests/unit/loop_kinds.h"

static int open_file(void)
{
    int fd = open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) {
        char name[] = "/tmp/blockmig-test-XXXXXX";
        fd = mkostemp(name, O_CLOEXEC);
        unlink(name);
    }
    ck_assert_int_ge(fd, 0);
    return fd;
}

static struct counted_io file_io(enum bmig_io_op op, int fd, void *data, uint32_t length,
                                 uint64_t offset)
{
    return (struct counted_io){
        {.op = op, .fd = fd, .data = data, .length = length, .offset = offset, .done = count_io},
        0,
        0};
}

static struct counted_io recv_io(int fd, void *data, uint32_t length)
{
    return file_io(BMIG_IO_RECV, fd, data, length, 0);
}

/* Starts io and steps until it is done: its result. */
static int do_io(struct bmig_loop *loop, struct counted_io *io)
{
    int before = io->done;
    bmig_loop_io(loop, &io->io);
    ck_assert_int_eq(io->done, before); /* never inside the call */
    step_until(loop, &io->done, before + 1);
    ck_assert_int_eq(io->done, before + 1);
    return io->result;
}

/* ---- files ---- */

START_TEST(a_file_is_written_read_short_at_its_end_and_empty_behind_it)
{
    struct bmig_loop *loop = make_loop(_i);
    int fd = open_file();
    char text[] = "hello, disk", back[64] = {0};
    struct counted_io io = file_io(BMIG_IO_WRITE, fd, text, 11, 100);
    ck_assert_int_eq(do_io(loop, &io), 11);
    io = file_io(BMIG_IO_READ, fd, back, 64, 100);
    ck_assert_int_eq(do_io(loop, &io), 11);
    ck_assert_str_eq(back, text);
    io = file_io(BMIG_IO_READ, fd, back, 7, 104);
    ck_assert_int_eq(do_io(loop, &io), 7);
    ck_assert_int_eq(memcmp(back, "o, disk", 7), 0);
    io = file_io(BMIG_IO_READ, fd, back, 64, 111);
    ck_assert_int_eq(do_io(loop, &io), 0);
    close(fd);
    bmig_loop_free(loop);
}
END_TEST

START_TEST(sync_and_fallocate_work_and_errors_are_negative_errno)
{
    struct bmig_loop *loop = make_loop(_i);
    int fd = open_file();
    struct stat info;
    struct counted_io io = file_io(BMIG_IO_FALLOCATE, fd, NULL, 1 << 20, 4096);
    ck_assert_int_eq(do_io(loop, &io), 0);
    fstat(fd, &info);
    ck_assert_int_eq(info.st_size, 4096 + (1 << 20));
    ck_assert_int_gt(info.st_blocks, 1024);
    io.io.mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    ck_assert_int_eq(do_io(loop, &io), 0);
    fstat(fd, &info);
    ck_assert_int_lt(info.st_blocks, 1024);
    for (int mode = 0; mode < 2; mode++) {
        io = file_io(BMIG_IO_FSYNC, fd, NULL, 0, 0);
        io.io.mode = mode;
        ck_assert_int_eq(do_io(loop, &io), 0);
    }
    close(fd);
    io = file_io(BMIG_IO_READ, fd, &info, 1, 0);
    ck_assert_int_eq(do_io(loop, &io), -EBADF);
    io = file_io(BMIG_IO_RECV, fd, &info, 1, 0);
    ck_assert_int_eq(do_io(loop, &io), -EBADF);
    fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    io = file_io(BMIG_IO_WRITE, fd, &info, 1, 0);
    ck_assert_int_eq(do_io(loop, &io), -EBADF);
    close(fd);
    bmig_loop_free(loop);
}
END_TEST

enum { MANY = 10000, BLOCK = 512 };

struct many {
    struct bmig_loop *loop;
    struct counted_io ios[MANY];
    char (*data)[BLOCK];
    int done;
};

static struct many *many;

static void count_many(struct bmig_io *io, int result)
{
    ck_assert_int_eq(result, BLOCK);
    count_io(io, result);
    many->done++;
}

static void start_many(enum bmig_io_op op, int fd, uint64_t *random)
{
    /* Each block once, in an order that is not the file's. */
    unsigned stride = 7 + 10 * (unsigned)(next_random(random) % 100);
    many->done = 0;
    for (unsigned i = 0; i < MANY; i++) {
        unsigned block = (unsigned)((uint64_t)i * stride % MANY);
        many->ios[i] = file_io(op, fd, many->data[block], BLOCK, (uint64_t)block * BLOCK);
        many->ios[i].io.done = count_many;
        bmig_loop_io(many->loop, &many->ios[i].io);
    }
    ck_assert_uint_eq(bmig_loop_outstanding(many->loop), MANY);
    ck_assert_int_eq(many->done, 0);
    step_until(many->loop, &many->done, MANY);
    for (int i = 0; i < MANY; i++)
        ck_assert_int_eq(many->ios[i].done, 1);
    ck_assert_uint_eq(bmig_loop_outstanding(many->loop), 0);
}

START_TEST(ten_thousand_in_flight_are_each_done_once)
{
    uint64_t random = 88172645463325252u;
    int fd = open_file();
    many = calloc(1, sizeof(*many));
    many->loop = make_loop(_i);
    many->data = malloc((size_t)MANY * BLOCK);
    for (int i = 0; i < MANY; i++)
        memset(many->data[i], i % 251, BLOCK);
    start_many(BMIG_IO_WRITE, fd, &random);
    memset(many->data, 0xff, (size_t)MANY * BLOCK);
    start_many(BMIG_IO_READ, fd, &random);
    for (int i = 0; i < MANY; i++)
        ck_assert(many->data[i][0] == (char)(i % 251) &&
                  many->data[i][BLOCK - 1] == (char)(i % 251));
    close(fd);
    bmig_loop_free(many->loop);
    free(many->data);
    free(many);
}
END_TEST

START_TEST(data_in_registered_buffers_across_their_edge_and_after_withdrawal)
{
    struct bmig_loop *loop = make_loop(_i);
    int fd = open_file();
    size_t length = 1 << 20;
    char *base =
        mmap(NULL, length + 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(base, MAP_FAILED);
    for (size_t i = 0; i < length + 8192; i++)
        base[i] = (char)(i * 7 + i / 4096);
    char back[8192];
    bmig_loop_set_buffers(loop, base + 4096, length);
    const size_t places[] = {
        0, 4096, 4096 + 100, 4096 + length - 4096, 4096 + length - 100, 2048, 4096 + length};
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
            struct counted_io io = file_io(BMIG_IO_WRITE, fd, base + places[i], 4096, 8192 * i);
            ck_assert_int_eq(do_io(loop, &io), 4096);
            ck_assert_int_eq(pread(fd, back, 4096, (off_t)(8192 * i)), 4096);
            ck_assert_int_eq(memcmp(back, base + places[i], 4096), 0);
            memset(base + places[i], 0, 4096);
            io = file_io(BMIG_IO_READ, fd, base + places[i], 4096, 8192 * i);
            ck_assert_int_eq(do_io(loop, &io), 4096);
            ck_assert_int_eq(memcmp(back, base + places[i], 4096), 0);
        }
        if (round == 0)
            bmig_loop_set_buffers(loop, base, length);
        else
            bmig_loop_set_buffers(loop, NULL, 0);
    }
    munmap(base, length + 8192);
    close(fd);
    bmig_loop_free(loop);
}
END_TEST

/* ---- sockets ---- */

START_TEST(recv_takes_what_is_there_waits_for_what_is_not_and_says_the_end)
{
    struct bmig_loop *loop = make_loop(_i);
    char bytes[16];
    int pair[2];
    make_pair(pair);
    struct counted_io io = recv_io(pair[0], bytes, sizeof(bytes));
    put_bytes(pair[1], "abc");
    ck_assert_int_eq(do_io(loop, &io), 3);
    bmig_loop_io(loop, &io.io);
    settle(loop);
    ck_assert_int_eq(io.done, 1);
    put_bytes(pair[1], "0123456789abcdefXYZ");
    step_until(loop, &io.done, 2);
    ck_assert_int_eq(io.result, 16);
    ck_assert_int_eq(memcmp(bytes, "0123456789abcdef", 16), 0);
    ck_assert_int_eq(do_io(loop, &io), 3);
    bmig_loop_io(loop, &io.io);
    settle(loop);
    close(pair[1]);
    step_until(loop, &io.done, 4);
    ck_assert_int_eq(io.result, 0);
    close(pair[0]);
    bmig_loop_free(loop);
}
END_TEST

START_TEST(sendmsg_to_a_closed_peer_is_epipe_and_no_signal)
{
    struct bmig_loop *loop = make_loop(_i);
    char bytes[] = "abc";
    struct iovec vector = {bytes, 3};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    int pair[2];
    make_pair(pair);
    struct counted_io io = {
        {.op = BMIG_IO_SENDMSG, .fd = pair[0], .msg = &message, .done = count_io}, 0, 0};
    ck_assert_int_eq(do_io(loop, &io), 3);
    close(pair[1]);
    ck_assert_int_eq(do_io(loop, &io), -EPIPE);
    close(pair[0]);
    bmig_loop_free(loop);
}
END_TEST

/* A stream through a socket in pieces of random size, both ways at once, checked byte by byte. */
enum { STREAM_BYTES = 2 << 20 };

struct end {
    struct bmig_io send, recv;
    struct bmig_loop *loop;
    uint64_t random;
    int sent, received, finished;
    unsigned char seed, expect;
    struct msghdr message;
    struct iovec vectors[2];
    unsigned char out[70000], in[70000];
};

static unsigned char byte_at(unsigned char seed, int position)
{
    return (unsigned char)(seed + position * 31 + (position >> 8));
}

static void send_next(struct end *end)
{
    int left = STREAM_BYTES - end->sent;
    int length = 1 + (int)(next_random(&end->random) % sizeof(end->out));
    length = length < left ? length : left;
    int first = length / 3;
    for (int i = 0; i < length; i++)
        end->out[i] = byte_at(end->seed, end->sent + i);
    end->vectors[0] = (struct iovec){end->out, (size_t)first};
    end->vectors[1] = (struct iovec){end->out + first, (size_t)(length - first)};
    end->message = (struct msghdr){.msg_iov = end->vectors, .msg_iovlen = 2};
    bmig_loop_io(end->loop, &end->send);
}

static void sent(struct bmig_io *io, int result)
{
    struct end *end = io->user;
    ck_assert_int_gt(result, 0);
    end->sent += result;
    if (end->sent < STREAM_BYTES)
        send_next(end);
    else
        end->finished++;
}

static void recv_next(struct end *end)
{
    end->recv.length = 1 + (uint32_t)(next_random(&end->random) % sizeof(end->in));
    bmig_loop_io(end->loop, &end->recv);
}

static void received(struct bmig_io *io, int result)
{
    struct end *end = io->user;
    ck_assert_int_gt(result, 0);
    ck_assert_int_le(result, (int)io->length);
    for (int i = 0; i < result; i++)
        ck_assert_int_eq(end->in[i], byte_at(end->expect, end->received + i));
    end->received += result;
    if (end->received < STREAM_BYTES)
        recv_next(end);
    else
        end->finished++;
}

START_TEST(streams_both_ways_at_once_arrive_whole)
{
    struct bmig_loop *loop = make_loop(_i);
    static struct end ends[2];
    int pair[2];
    make_pair(pair);
    memset(ends, 0, sizeof(ends));
    for (int i = 0; i < 2; i++) {
        struct end *end = &ends[i];
        *end = (struct end){.loop = loop, .random = 77 + (uint64_t)i};
        end->seed = (unsigned char)(i * 100);
        end->expect = (unsigned char)((1 - i) * 100);
        end->send = (struct bmig_io){
            .op = BMIG_IO_SENDMSG, .fd = pair[i], .msg = &end->message, .done = sent, .user = end};
        end->recv = (struct bmig_io){
            .op = BMIG_IO_RECV, .fd = pair[i], .data = end->in, .done = received, .user = end};
        send_next(end);
        recv_next(end);
    }
    while (ends[0].finished + ends[1].finished < 4)
        bmig_loop_step(loop, UINT64_MAX);
    ck_assert_uint_eq(bmig_loop_outstanding(loop), 0);
    close(pair[0]);
    close(pair[1]);
    bmig_loop_free(loop);
}
END_TEST

static int listen_on_loopback(struct sockaddr_in *address)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    *address =
        (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(*address);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)address, length), 0);
    ck_assert_int_eq(listen(fd, 16), 0);
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)address, &length), 0);
    return fd;
}

START_TEST(accept_gives_a_descriptor_that_is_nonblocking_and_closed_on_exec)
{
    struct bmig_loop *loop = make_loop(_i);
    struct sockaddr_in address;
    int listener = listen_on_loopback(&address);
    struct counted_io io = {{.op = BMIG_IO_ACCEPT, .fd = listener, .done = count_io}, 0, 0};
    for (int round = 0; round < 4; round++) {
        int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        bmig_loop_io(loop, &io.io);
        if (round % 2) /* waits, or is there already */
            settle(loop);
        ck_assert_int_eq(connect(client, (struct sockaddr *)&address, sizeof(address)), 0);
        step_until(loop, &io.done, round + 1);
        ck_assert_int_ge(io.result, 0);
        ck_assert_int_ne(fcntl(io.result, F_GETFL) & O_NONBLOCK, 0);
        ck_assert_int_ne(fcntl(io.result, F_GETFD) & FD_CLOEXEC, 0);
        close(io.result);
        close(client);
    }
    close(listener);
    bmig_loop_free(loop);
}
END_TEST

/* ---- cancellation ---- */

START_TEST(cancel_ends_what_waits_and_the_descriptor_works_on)
{
    struct bmig_loop *loop = make_loop(_i);
    struct sockaddr_in address;
    int listener = listen_on_loopback(&address);
    char byte;
    int pair[2];
    make_pair(pair);
    struct counted_io accept_io = {{.op = BMIG_IO_ACCEPT, .fd = listener, .done = count_io}, 0, 0};
    struct counted_io io = recv_io(pair[0], &byte, 1);
    for (int round = 1; round <= 4; round++) {
        bmig_loop_io(loop, &io.io);
        bmig_loop_io(loop, &accept_io.io);
        if (round % 2) /* already waiting in the kernel, or not yet given to it */
            settle(loop);
        bmig_loop_io_cancel(loop, &io.io);
        bmig_loop_io_cancel(loop, &io.io);
        bmig_loop_io_cancel(loop, &accept_io.io);
        ck_assert_int_eq(io.done, round - 1);
        step_until(loop, &io.done, round);
        step_until(loop, &accept_io.done, round);
        ck_assert_int_eq(io.result, -ECANCELED);
        ck_assert_int_eq(accept_io.result, -ECANCELED);
    }
    settle(loop);
    ck_assert_int_eq(io.done, 4);
    put_bytes(pair[1], "x");
    ck_assert_int_eq(do_io(loop, &io), 1);
    close(listener);
    close(pair[0]);
    close(pair[1]);
    bmig_loop_free(loop);
}
END_TEST

START_TEST(cancel_of_one_direction_leaves_the_other)
{
    struct bmig_loop *loop = make_loop(_i);
    static char bulk[65536];
    struct iovec vector = {bulk, sizeof(bulk)};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    char byte;
    int pair[2];
    make_pair(pair);
    while (write(pair[0], bulk, sizeof(bulk)) > 0)
        ;
    struct counted_io in = recv_io(pair[0], &byte, 1);
    struct counted_io out = {
        {.op = BMIG_IO_SENDMSG, .fd = pair[0], .msg = &message, .done = count_io}, 0, 0};
    bmig_loop_io(loop, &out.io);
    bmig_loop_io(loop, &in.io);
    settle(loop);
    ck_assert_int_eq(in.done + out.done, 0);
    bmig_loop_io_cancel(loop, &out.io);
    step_until(loop, &out.done, 1);
    ck_assert_int_eq(out.result, -ECANCELED);
    put_bytes(pair[1], "x");
    step_until(loop, &in.done, 1);
    ck_assert_int_eq(in.result, 1);
    bmig_loop_io(loop, &out.io);
    settle(loop);
    while (read(pair[1], bulk, sizeof(bulk)) > 0)
        ;
    step_until(loop, &out.done, 2);
    ck_assert_int_gt(out.result, 0);
    close(pair[0]);
    close(pair[1]);
    bmig_loop_free(loop);
}
END_TEST

static struct bmig_loop *cancel_loop;
static struct counted_io *cancel_victim;

static void cancel_other(struct bmig_io *io, int result)
{
    count_io(io, result);
    bmig_loop_io_cancel(cancel_loop, &cancel_victim->io);
}

START_TEST(cancel_inside_another_done_still_calls_done_once)
{
    struct bmig_loop *loop = make_loop(_i);
    char bytes[2];
    int a[2], b[2];
    cancel_loop = loop;
    make_pair(a);
    make_pair(b);
    struct counted_io first = recv_io(a[0], &bytes[0], 1), second = recv_io(b[0], &bytes[1], 1);
    first.io.done = second.io.done = cancel_other;
    cancel_victim = &second;
    for (int round = 1; round <= 50; round++) {
        bmig_loop_io(loop, &first.io);
        bmig_loop_io(loop, &second.io);
        if (round % 2)
            settle(loop);
        put_bytes(a[1], "x");
        if (round % 3)
            put_bytes(b[1], "y"); /* may be received or cancelled, but once */
        step_until(loop, &first.done, round);
        step_until(loop, &second.done, round);
        settle(loop);
        ck_assert_int_eq(first.done, round);
        ck_assert_int_eq(second.done, round);
        ck_assert(second.result == 1 || second.result == -ECANCELED);
        while (read(b[0], bytes, 1) > 0)
            ;
    }
    for (int i = 0; i < 2; i++) {
        close(a[i]);
        close(b[i]);
    }
    bmig_loop_free(loop);
}
END_TEST

static void free_io(struct bmig_io *io, int result)
{
    ++*(int *)io->user;
    free(io);
}

START_TEST(an_io_may_be_freed_in_its_done_with_its_cancel_still_on_the_way)
{
    struct bmig_loop *loop = make_loop(_i);
    int done = 0;
    char byte;
    for (int round = 1; round <= 100; round++) {
        int pair[2];
        make_pair(pair);
        struct bmig_io *io = calloc(1, sizeof(*io));
        *io = (struct bmig_io){.op = BMIG_IO_RECV,
                               .fd = pair[0],
                               .data = &byte,
                               .length = 1,
                               .done = free_io,
                               .user = &done};
        bmig_loop_io(loop, io);
        bmig_loop_step(loop, 0);
        put_bytes(pair[1], "x");
        bmig_loop_io_cancel(loop, io);
        step_until(loop, &done, round);
        close(pair[0]);
        close(pair[1]);
    }
    bmig_loop_free(loop);
}
END_TEST

START_TEST(a_descriptor_number_used_again_waits_for_the_new_socket)
{
    struct bmig_loop *loop = make_loop(_i);
    char byte;
    for (int round = 0; round < 20; round++) {
        int old[2], new[2];
        make_pair(old);
        struct counted_io io = recv_io(old[0], &byte, 1);
        bmig_loop_io(loop, &io.io);
        settle(loop);
        bmig_loop_io_cancel(loop, &io.io);
        step_until(loop, &io.done, 1);
        make_pair(new);
        ck_assert_int_eq(dup2(new[0], old[0]), old[0]);
        close(new[0]);
        bmig_loop_io(loop, &io.io);
        settle(loop);
        (void)!send(old[1], "x", 1,
                    MSG_NOSIGNAL); /* nobody's any more, or to an end that is closed */
        ck_assert_int_eq(io.done, 1);
        put_bytes(new[1], "y");
        step_until(loop, &io.done, 2);
        ck_assert_int_eq(io.result, 1);
        ck_assert_int_eq(byte, 'y');
        close(old[0]);
        close(old[1]);
        close(new[1]);
    }
    bmig_loop_free(loop);
}
END_TEST

START_TEST(cancel_of_files_still_ends_each_once)
{
    struct bmig_loop *loop = make_loop(_i);
    enum { FILES = 500 };
    static struct counted_io ios[FILES];
    static char data[FILES][64];
    int fd = open_file(), cancelled = 0;
    for (int i = 0; i < FILES; i++) {
        ios[i] = file_io(BMIG_IO_WRITE, fd, data[i], 64, (uint64_t)i * 64);
        bmig_loop_io(loop, &ios[i].io);
        if (i % 3 == 0)
            bmig_loop_io_cancel(loop, &ios[i].io);
        if (i % 100 == 50)
            bmig_loop_step(loop, 0);
    }
    while (bmig_loop_outstanding(loop) > 0)
        bmig_loop_step(loop, UINT64_MAX);
    settle(loop);
    for (int i = 0; i < FILES; i++) {
        ck_assert_int_eq(ios[i].done, 1);
        ck_assert(ios[i].result == 64 || (i % 3 == 0 && ios[i].result == -ECANCELED));
        cancelled += ios[i].result == -ECANCELED;
    }
    ck_assert_int_lt(cancelled, FILES / 2);
    close(fd);
    bmig_loop_free(loop);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("loop_io");
    TCase *tcase = tcase_create("loop_io");
    tcase_set_timeout(tcase, 120);
    int first = FIRST_KIND, end = KINDS_END;
    signal(SIGPIPE, SIG_DFL);
    tcase_add_loop_test(tcase, a_file_is_written_read_short_at_its_end_and_empty_behind_it, first,
                        end);
    tcase_add_loop_test(tcase, sync_and_fallocate_work_and_errors_are_negative_errno, first, end);
    tcase_add_loop_test(tcase, ten_thousand_in_flight_are_each_done_once, first, end);
    tcase_add_loop_test(tcase, data_in_registered_buffers_across_their_edge_and_after_withdrawal,
                        first, end);
    tcase_add_loop_test(tcase, recv_takes_what_is_there_waits_for_what_is_not_and_says_the_end,
                        first, end);
    tcase_add_loop_test(tcase, sendmsg_to_a_closed_peer_is_epipe_and_no_signal, first, end);
    tcase_add_loop_test(tcase, streams_both_ways_at_once_arrive_whole, first, end);
    tcase_add_loop_test(tcase, accept_gives_a_descriptor_that_is_nonblocking_and_closed_on_exec,
                        first, end);
    tcase_add_loop_test(tcase, cancel_ends_what_waits_and_the_descriptor_works_on, first, end);
    tcase_add_loop_test(tcase, cancel_of_one_direction_leaves_the_other, first, end);
    tcase_add_loop_test(tcase, cancel_inside_another_done_still_calls_done_once, first, end);
    tcase_add_loop_test(tcase, an_io_may_be_freed_in_its_done_with_its_cancel_still_on_the_way,
                        first, end);
    tcase_add_loop_test(tcase, a_descriptor_number_used_again_waits_for_the_new_socket, first, end);
    tcase_add_loop_test(tcase, cancel_of_files_still_ends_each_once, first, end);
    suite_add_tcase(suite, tcase);
    return run_all(suite);
}
