/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * For tests of the loop: each test is a loop test of `check` over the kinds (_i is the kind), and
 * these helpers make a loop of it, count callbacks, and step until a count is reached.
 */
#ifndef BLOCKMIG_TESTS_LOOP_KINDS_H
#define BLOCKMIG_TESTS_LOOP_KINDS_H

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "blockmig/core/loop.h"

enum { FIRST_KIND = BMIG_LOOP_URING, REAL_KINDS_END = BMIG_LOOP_VIRTUAL, KINDS_END };

static const uint64_t ms_ns = 1000000;

static inline struct bmig_loop *make_loop(int kind)
{
    struct bmig_loop *loop = NULL;
    struct bmig_error err = {0};
    ck_assert_msg(bmig_loop_new(&loop, (enum bmig_loop_kind)kind, &err) == 0, "%s", err.message);
    return loop;
}

/* Steps until *count is at least n. A hang is the test's time-out. */
static inline void step_until(struct bmig_loop *loop, const int *count, int n)
{
    while (*count < n)
        bmig_loop_step(loop, 1000 * ms_ns);
}

/* Enough iterations for all that is ready now to be seen. */
static inline void settle(struct bmig_loop *loop)
{
    for (int i = 0; i < 4; i++)
        bmig_loop_step(loop, 0);
}

static inline void make_pair(int pair[2])
{
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
}

static inline void put_bytes(int fd, const char *text)
{
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

static inline uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* An io whose outcome is kept. */
struct counted_io {
    struct bmig_io io;
    int done;
    int result;
};

static inline void count_io(struct bmig_io *io, int result)
{
    struct counted_io *counted = (struct counted_io *)io;
    counted->done++;
    counted->result = result;
}

static inline int run_all(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
