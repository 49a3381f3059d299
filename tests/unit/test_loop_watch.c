/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The loop's watches: level-triggered, changed and stopped and freed at any moment.
 */
#include "tests/unit/loop_kinds.h"

struct counted_watch {
    struct bmig_watch watch;
    int calls;
    int revents;
    void (*then)(struct counted_watch *counted);
    struct counted_watch *other;
    int fd;
};

static void count_watch(struct bmig_watch *watch, int revents)
{
    struct counted_watch *counted = (struct counted_watch *)watch;
    counted->calls++;
    counted->revents = revents;
    if (counted->then)
        counted->then(counted);
}

static void start(struct bmig_loop *loop, struct counted_watch *counted, int fd, int events)
{
    counted->watch.ready = count_watch;
    counted->fd = fd;
    ck_assert_int_eq(bmig_watch_start(loop, &counted->watch, fd, events), 0);
}

START_TEST(ready_runs_once_an_iteration_as_long_as_the_state_holds)
{
    struct bmig_loop *loop = make_loop(_i);
    struct counted_watch watch = {0};
    char byte;
    int pair[2];
    make_pair(pair);
    start(loop, &watch, pair[0], BMIG_WATCH_READ);
    settle(loop);
    ck_assert_int_eq(watch.calls, 0);
    put_bytes(pair[1], "x");
    for (int i = 1; i <= 5; i++) {
        ck_assert(bmig_loop_step(loop, UINT64_MAX));
        ck_assert_int_eq(watch.calls, i);
        ck_assert_int_eq(watch.revents, POLLIN);
    }
    ck_assert_int_eq(read(pair[0], &byte, 1), 1);
    bmig_loop_step(loop, 0); /* what was on its way may still come */
    int calls = watch.calls;
    settle(loop);
    ck_assert_int_eq(watch.calls, calls);
    bmig_watch_stop(&watch.watch);
    bmig_watch_stop(&watch.watch);
    close(pair[0]);
    close(pair[1]);
    bmig_loop_free(loop);
}
END_TEST

START_TEST(both_directions_make_one_callback)
{
    struct bmig_loop *loop = make_loop(_i);
    struct counted_watch watch = {0};
    int pair[2];
    make_pair(pair);
    put_bytes(pair[1], "x");
    start(loop, &watch, pair[0], BMIG_WATCH_READ | BMIG_WATCH_WRITE);
    bmig_loop_step(loop, UINT64_MAX);
    ck_assert_int_eq(watch.calls, 1);
    ck_assert_int_eq(watch.revents, POLLIN | POLLOUT);
    bmig_watch_stop(&watch.watch);
    close(pair[0]);
    close(pair[1]);
    bmig_loop_free(loop);
}
END_TEST

START_TEST(set_takes_effect_from_the_next_callback)
{
    struct bmig_loop *loop = make_loop(_i);
    struct counted_watch watch = {0};
    int pair[2];
    make_pair(pair);
    start(loop, &watch, pair[0], BMIG_WATCH_READ);
    settle(loop);
    bmig_watch_set(&watch.watch, BMIG_WATCH_READ | BMIG_WATCH_WRITE);
    bmig_loop_step(loop, UINT64_MAX);
    ck_assert_int_eq(watch.calls, 1);
    ck_assert_int_eq(watch.revents, POLLOUT);
    bmig_watch_set(&watch.watch, BMIG_WATCH_READ);
    settle(loop);
    ck_assert_int_eq(watch.calls, 1);
    bmig_watch_set(&watch.watch, BMIG_WATCH_WRITE);
    bmig_watch_set(&watch.watch, BMIG_WATCH_READ);
    settle(loop);
    ck_assert_int_eq(watch.calls, 1);
    put_bytes(pair[1], "x");
    bmig_loop_step(loop, UINT64_MAX);
    ck_assert_int_eq(watch.calls, 2);
    ck_assert_int_eq(watch.revents, POLLIN);
    bmig_watch_stop(&watch.watch);
    close(pair[0]);
    close(pair[1]);
    bmig_loop_free(loop);
}
END_TEST

START_TEST(a_watch_for_nothing_sleeps_even_through_a_hang_up_and_wakes_again)
{
    struct bmig_loop *loop = make_loop(_i);
    struct counted_watch watch = {0}, born_asleep = {0};
    int pair[2], second[2];
    make_pair(pair);
    make_pair(second);
    start(loop, &watch, pair[0], BMIG_WATCH_READ);
    start(loop, &born_asleep, second[0], 0);
    settle(loop);
    bmig_watch_set(&watch.watch, 0);
    close(pair[1]);
    close(second[1]);
    for (int i = 0; i < 10; i++)
        ck_assert(!bmig_loop_step(loop, 0));
    bmig_watch_set(&watch.watch, BMIG_WATCH_READ);
    bmig_watch_set(&born_asleep.watch, BMIG_WATCH_WRITE);
    settle(loop);
    ck_assert_int_ge(watch.calls, 1);
    ck_assert_int_eq(watch.revents & (POLLIN | POLLHUP), POLLIN | POLLHUP);
    ck_assert_int_ge(born_asleep.calls, 1);
    ck_assert_int_ne(born_asleep.revents & POLLHUP, 0);
    bmig_watch_stop(&watch.watch);
    bmig_watch_stop(&born_asleep.watch);
    close(pair[0]);
    close(second[0]);
    bmig_loop_free(loop);
}
END_TEST

static void stop_and_free(struct counted_watch *counted)
{
    int *calls = (int *)(void *)counted->other;
    ++*calls;
    bmig_watch_stop(&counted->watch);
    close(counted->fd);
    free(counted);
}

START_TEST(a_watch_may_stop_close_and_free_itself)
{
    struct bmig_loop *loop = make_loop(_i);
    int calls = 0;
    for (int i = 0; i < 20; i++) {
        int pair[2];
        make_pair(pair);
        struct counted_watch *watch = calloc(1, sizeof(*watch));
        watch->then = stop_and_free;
        watch->other = (struct counted_watch *)(void *)&calls;
        start(loop, watch, pair[0], BMIG_WATCH_READ | BMIG_WATCH_WRITE);
        close(pair[1]);
    }
    step_until(loop, &calls, 20);
    settle(loop);
    ck_assert_int_eq(calls, 20);
    bmig_loop_free(loop);
}
END_TEST

static void stop_the_other(struct counted_watch *counted)
{
    bmig_watch_stop(&counted->other->watch);
    bmig_watch_stop(&counted->watch);
}

START_TEST(a_watch_stopped_by_one_of_the_same_iteration_is_not_called)
{
    struct bmig_loop *loop = make_loop(_i);
    int pairs[2][2];
    struct counted_watch *watches = calloc(2, sizeof(*watches));
    for (int i = 0; i < 2; i++) {
        make_pair(pairs[i]);
        watches[i].then = stop_the_other;
        watches[i].other = &watches[1 - i];
        start(loop, &watches[i], pairs[i][0], BMIG_WATCH_READ);
    }
    settle(loop);
    put_bytes(pairs[0][1], "x");
    put_bytes(pairs[1][1], "x");
    while (watches[0].calls + watches[1].calls == 0)
        bmig_loop_step(loop, UINT64_MAX);
    ck_assert_int_eq(watches[0].calls + watches[1].calls, 1);
    free(watches); /* stopped means that the loop knows nothing of it any more */
    settle(loop);
    for (int i = 0; i < 2; i++) {
        close(pairs[i][0]);
        close(pairs[i][1]);
    }
    bmig_loop_free(loop);
}
END_TEST

static struct bmig_loop *swap_loop;
static int swap_target = -1;

/* What a library does that reconnects: the old descriptor goes, the new one has its number. */
static void swap_descriptor(struct counted_watch *counted)
{
    struct counted_watch *victim = counted->other;
    int number = victim->fd;
    bmig_watch_stop(&victim->watch);
    close(number);
    ck_assert_int_eq(dup2(swap_target, number), number);
    start(swap_loop, victim, number, BMIG_WATCH_READ);
    counted->then = NULL;
    bmig_watch_set(&counted->watch, 0);
}

START_TEST(no_event_of_a_closed_descriptor_reaches_the_next_with_its_number)
{
    struct bmig_loop *loop = make_loop(_i);
    struct counted_watch first = {0}, second = {0};
    int a[2], b[2], quiet[2];
    make_pair(a);
    make_pair(b);
    make_pair(quiet);
    swap_loop = loop;
    swap_target = quiet[0];
    first.then = second.then = swap_descriptor;
    first.other = &second;
    second.other = &first;
    start(loop, &first, a[0], BMIG_WATCH_READ);
    start(loop, &second, b[0], BMIG_WATCH_READ);
    settle(loop);
    put_bytes(a[1], "x");
    put_bytes(b[1], "x");
    while (first.calls + second.calls == 0)
        bmig_loop_step(loop, UINT64_MAX);
    settle(loop);
    ck_assert_int_eq(first.calls + second.calls, 1);
    put_bytes(quiet[1], "x");
    while (first.calls + second.calls == 1)
        bmig_loop_step(loop, UINT64_MAX);
    bmig_watch_stop(&first.watch);
    bmig_watch_stop(&second.watch);
    for (int i = 0; i < 2; i++) {
        close(a[i]);
        close(b[i]);
        close(quiet[i]);
    }
    bmig_loop_free(loop);
}
END_TEST

START_TEST(stop_then_close_lets_the_peer_see_the_end)
{
    struct bmig_loop *loop = make_loop(_i);
    struct counted_watch watch = {0};
    char byte;
    int pair[2];
    make_pair(pair);
    start(loop, &watch, pair[0], BMIG_WATCH_READ);
    settle(loop);
    bmig_watch_stop(&watch.watch);
    close(pair[0]);
    settle(loop);
    ck_assert_int_eq(read(pair[1], &byte, 1), 0);
    close(pair[1]);
    bmig_loop_free(loop);
}
END_TEST

START_TEST(free_right_after_stop_lets_the_peer_see_the_end)
{
    struct bmig_loop *loop = make_loop(_i);
    struct counted_watch watch = {0};
    char byte;
    int pair[2];
    make_pair(pair);
    start(loop, &watch, pair[0], BMIG_WATCH_READ);
    settle(loop);
    bmig_watch_stop(&watch.watch);
    close(pair[0]);
    bmig_loop_free(loop);
    ck_assert_int_eq(read(pair[1], &byte, 1), 0);
    close(pair[1]);
}
END_TEST

START_TEST(a_bad_descriptor_is_an_error_of_start)
{
    struct bmig_loop *loop = make_loop(_i);
    struct counted_watch watch = {.watch.ready = count_watch};
    ck_assert_int_eq(bmig_watch_start(loop, &watch.watch, -1, BMIG_WATCH_READ), -EBADF);
    ck_assert_int_eq(bmig_watch_start(loop, &watch.watch, 1000000, BMIG_WATCH_READ), -EBADF);
    bmig_watch_stop(&watch.watch);
    settle(loop);
    ck_assert_int_eq(watch.calls, 0);
    bmig_loop_free(loop);
}
END_TEST

/* epoll takes no regular files, and says so at start; where it is asked only later, the watch hears
 * of it. */
START_TEST(what_the_kernel_will_not_watch_is_told_and_not_forgotten)
{
    struct bmig_loop *loop = make_loop(_i);
    struct counted_watch watch = {.watch.ready = count_watch};
    FILE *file = tmpfile();
    int ret = bmig_watch_start(loop, &watch.watch, fileno(file), BMIG_WATCH_READ);
    ck_assert_int_eq(ret, _i == BMIG_LOOP_URING ? 0 : -EPERM);
    bmig_watch_stop(&watch.watch);
    start(loop, &watch, fileno(file), 0);
    settle(loop);
    ck_assert_int_eq(watch.calls, 0);
    bmig_watch_set(&watch.watch, BMIG_WATCH_READ);
    for (int i = 1; i <= 3; i++) {
        bmig_loop_step(loop, UINT64_MAX);
        ck_assert_int_eq(watch.calls, i);
        ck_assert_int_eq(watch.revents, _i == BMIG_LOOP_URING ? POLLIN : POLLERR);
    }
    bmig_watch_set(&watch.watch, 0);
    settle(loop);
    ck_assert_int_eq(watch.calls, 3);
    bmig_watch_stop(&watch.watch);
    fclose(file);
    bmig_loop_free(loop);
}
END_TEST

/* ---- against poll(2) ---- */

enum { FDS = 12 };

struct watched {
    struct counted_watch *counted; /* NULL: stopped */
    int near, far;
    int events;
    int possible; /* what held at some time since the last step */
};

static int truth(const struct watched *at)
{
    struct pollfd poll_fd = {.fd = at->near, .events = (short)at->events};
    poll(&poll_fd, 1, 0);
    return at->events ? poll_fd.revents : 0;
}

static void note_possible(struct watched *all)
{
    for (int i = 0; i < FDS; i++)
        if (all[i].counted)
            all[i].possible |= truth(&all[i]);
}

static void start_random(struct bmig_loop *loop, struct watched *at, uint64_t *random)
{
    static const int choices[] = {0, BMIG_WATCH_READ, BMIG_WATCH_WRITE,
                                  BMIG_WATCH_READ | BMIG_WATCH_WRITE};
    int pair[2];
    make_pair(pair);
    at->near = pair[0];
    at->far = pair[1];
    at->possible = 0;
    at->events = choices[next_random(random) % 4];
    at->counted = calloc(1, sizeof(*at->counted));
    start(loop, at->counted, at->near, at->events);
}

static void stop_random(struct watched *at)
{
    bmig_watch_stop(&at->counted->watch);
    free(at->counted);
    at->counted = NULL;
    close(at->near);
    if (at->far >= 0)
        close(at->far);
}

static void change_random(struct bmig_loop *loop, struct watched *at, uint64_t *random)
{
    static const int choices[] = {0, BMIG_WATCH_READ, BMIG_WATCH_WRITE,
                                  BMIG_WATCH_READ | BMIG_WATCH_WRITE};
    char bytes[4096] = {0};
    switch (at->counted ? next_random(random) % 8 : 8) {
    case 0:
        stop_random(at);
        break;
    case 1:
        if (at->far >= 0 && next_random(random) % 4 == 0) {
            close(at->far);
            at->far = -1;
        }
        break;
    case 2:
    case 3:
        if (at->far >= 0)
            (void)!write(at->far, bytes, 1);
        break;
    case 4:
        while (read(at->near, bytes, sizeof(bytes)) > 0)
            ;
        break;
    case 5: /* fill, so that it is not writable */
        while (at->far >= 0 && write(at->near, bytes, sizeof(bytes)) > 0)
            ;
        break;
    case 6:
    case 7:
        at->events = choices[next_random(random) % 4];
        bmig_watch_set(&at->counted->watch, at->events);
        break;
    default:
        start_random(loop, at, random);
        break;
    }
}

START_TEST(random_watches_are_called_for_what_poll_says)
{
    int kind = _i % KINDS_END;
    if (kind < FIRST_KIND)
        kind = FIRST_KIND;
    struct bmig_loop *loop = make_loop(kind);
    struct watched all[FDS] = {0};
    uint64_t random = 0x9e3779b97f4a7c15u + (uint64_t)_i;
    int called = 0;
    for (int step = 0; step < 3000; step++) {
        unsigned changes = (unsigned)(next_random(&random) % 6);
        for (unsigned i = 0; i < changes; i++) {
            change_random(loop, &all[next_random(&random) % FDS], &random);
            note_possible(all);
        }
        note_possible(all);
        bmig_loop_step(loop, 0);
        for (int i = 0; i < FDS; i++) {
            struct counted_watch *counted = all[i].counted;
            if (!counted)
                continue;
            int expected = truth(&all[i]);
            ck_assert_int_eq(counted->calls > 1, 0);
            /* What was seen before a hang-up came may be told without it, once. */
            int told = counted->revents & expected;
            ck_assert_msg(changes ? !expected || told : told == expected,
                          "step %d: %x was due and %x was told", step, (unsigned)expected,
                          (unsigned)counted->revents);
            ck_assert_int_eq(counted->revents & ~all[i].possible, 0);
            called += counted->calls;
            counted->calls = counted->revents = 0;
            all[i].possible = expected;
        }
    }
    ck_assert_int_gt(called, 1000);
    for (int i = 0; i < FDS; i++)
        if (all[i].counted)
            stop_random(&all[i]);
    bmig_loop_free(loop);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("loop_watch");
    TCase *tcase = tcase_create("loop_watch");
    tcase_set_timeout(tcase, 120);
    int first = FIRST_KIND, end = KINDS_END;
    tcase_add_loop_test(tcase, ready_runs_once_an_iteration_as_long_as_the_state_holds, first, end);
    tcase_add_loop_test(tcase, both_directions_make_one_callback, first, end);
    tcase_add_loop_test(tcase, set_takes_effect_from_the_next_callback, first, end);
    tcase_add_loop_test(tcase, a_watch_for_nothing_sleeps_even_through_a_hang_up_and_wakes_again,
                        first, end);
    tcase_add_loop_test(tcase, a_watch_may_stop_close_and_free_itself, first, end);
    tcase_add_loop_test(tcase, a_watch_stopped_by_one_of_the_same_iteration_is_not_called, first,
                        end);
    tcase_add_loop_test(tcase, no_event_of_a_closed_descriptor_reaches_the_next_with_its_number,
                        first, end);
    tcase_add_loop_test(tcase, stop_then_close_lets_the_peer_see_the_end, first, end);
    tcase_add_loop_test(tcase, free_right_after_stop_lets_the_peer_see_the_end, first, end);
    tcase_add_loop_test(tcase, a_bad_descriptor_is_an_error_of_start, first, end);
    tcase_add_loop_test(tcase, what_the_kernel_will_not_watch_is_told_and_not_forgotten, first,
                        end);
    tcase_add_loop_test(tcase, random_watches_are_called_for_what_poll_says, 0, 4 * KINDS_END);
    suite_add_tcase(suite, tcase);
    return run_all(suite);
}
