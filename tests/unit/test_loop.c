/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The loop's tasks, timers, work, posts, clock, and its own life; io and watches have files of
 * their own.
 */
#include <dirent.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "tests/unit/loop_kinds.h"

struct counted_task {
    struct bmig_task task;
    struct bmig_loop *loop;
    int runs;
};

static void count_task(struct bmig_task *task)
{
    ((struct counted_task *)task)->runs++;
}

struct counted_timer {
    struct bmig_timer timer;
    struct bmig_loop *loop;
    int fires;
    uint64_t fired_ns;
    int order;
};

static int next_order;

static void count_timer(struct bmig_timer *timer)
{
    struct counted_timer *counted = (struct counted_timer *)timer;
    counted->fires++;
    counted->order = next_order++;
    counted->fired_ns = bmig_loop_now_ns(counted->loop);
}

static struct counted_timer new_timer(struct bmig_loop *loop)
{
    return (struct counted_timer){.timer.fire = count_timer, .loop = loop};
}

/* ---- tasks ---- */

START_TEST(deferred_task_runs_once_and_not_inside_defer)
{
    struct bmig_loop *loop = make_loop(_i);
    struct counted_task task = {.task.run = count_task};
    bmig_loop_defer(loop, &task.task);
    ck_assert_int_eq(task.runs, 0);
    ck_assert_uint_eq(bmig_loop_outstanding(loop), 1);
    ck_assert(bmig_loop_step(loop, UINT64_MAX));
    ck_assert_int_eq(task.runs, 1);
    ck_assert_uint_eq(bmig_loop_outstanding(loop), 0);
    ck_assert(!bmig_loop_step(loop, 0));
    ck_assert_int_eq(task.runs, 1);
    bmig_loop_free(loop);
}
END_TEST

START_TEST(deferring_a_queued_task_again_does_nothing)
{
    struct bmig_loop *loop = make_loop(_i);
    struct counted_task task = {.task.run = count_task};
    for (int i = 0; i < 5; i++)
        bmig_loop_defer(loop, &task.task);
    bmig_loop_post(loop, &task.task);
    ck_assert_uint_eq(bmig_loop_outstanding(loop), 1);
    settle(loop);
    ck_assert_int_eq(task.runs, 1);
    bmig_loop_free(loop);
}
END_TEST

static void defer_again(struct bmig_task *task)
{
    struct counted_task *counted = (struct counted_task *)task;
    counted->runs++;
    if (counted->loop)
        bmig_loop_defer(counted->loop, task);
}

START_TEST(a_task_that_defers_itself_for_ever_lets_timers_and_io_in)
{
    struct bmig_loop *loop = make_loop(_i);
    struct counted_task task = {.task.run = defer_again, .loop = loop};
    struct counted_timer timer = new_timer(loop);
    char byte;
    int pair[2];
    make_pair(pair);
    struct counted_io recv_io = {
        {.op = BMIG_IO_RECV, .fd = pair[0], .data = &byte, .length = 1, .done = count_io}, 0, 0};
    bmig_loop_defer(loop, &task.task);
    bmig_loop_io(loop, &recv_io.io);
    bmig_timer_start(loop, &timer.timer, _i == BMIG_LOOP_VIRTUAL ? 0 : ms_ns);
    settle(loop);
    put_bytes(pair[1], "x");
    step_until(loop, &recv_io.done, 1);
    step_until(loop, &timer.fires, 1);
    task.loop = NULL;
    settle(loop);
    close(pair[0]);
    close(pair[1]);
    bmig_loop_free(loop);
}
END_TEST

static void free_task(struct bmig_task *task)
{
    struct counted_task *counted = (struct counted_task *)task;
    *(int *)counted->loop += 1;
    free(task);
}

START_TEST(a_task_may_free_itself)
{
    struct bmig_loop *loop = make_loop(_i);
    int freed = 0;
    for (int i = 0; i < 10; i++) {
        struct counted_task *task = calloc(1, sizeof(*task));
        task->task.run = free_task;
        task->loop = (struct bmig_loop *)&freed;
        bmig_loop_defer(loop, &task->task);
    }
    step_until(loop, &freed, 10);
    bmig_loop_free(loop);
}
END_TEST

/* ---- posts ---- */

enum { POSTERS = 4, POSTS = 2000 };

struct posted {
    struct bmig_task task;
    struct poster *poster;
    int number;
};

struct poster {
    struct bmig_loop *loop;
    pthread_t thread;
    struct posted posts[POSTS];
    int next; /* posts of one thread run in its order */
    int *total;
};

static void run_posted(struct bmig_task *task)
{
    struct posted *posted = (struct posted *)task;
    ck_assert_int_eq(posted->number, posted->poster->next);
    posted->poster->next++;
    ++*posted->poster->total;
}

static void *post_many(void *opaque)
{
    struct poster *poster = opaque;
    for (int i = 0; i < POSTS; i++) {
        poster->posts[i] = (struct posted){{.run = run_posted}, poster, i};
        bmig_loop_post(poster->loop, &poster->posts[i].task);
    }
    return NULL;
}

START_TEST(posts_from_four_threads_all_run_in_each_ones_order)
{
    struct bmig_loop *loop = make_loop(_i);
    static struct poster posters[POSTERS];
    int total = 0;
    for (int i = 0; i < POSTERS; i++) {
        posters[i].loop = loop;
        posters[i].next = 0;
        posters[i].total = &total;
        ck_assert_int_eq(pthread_create(&posters[i].thread, NULL, post_many, &posters[i]), 0);
    }
    while (total < POSTERS * POSTS)
        bmig_loop_step(loop, _i == BMIG_LOOP_VIRTUAL ? 0 : UINT64_MAX);
    for (int i = 0; i < POSTERS; i++)
        pthread_join(posters[i].thread, NULL);
    ck_assert_uint_eq(bmig_loop_outstanding(loop), 0);
    bmig_loop_free(loop);
}
END_TEST

static void stop_from_task(struct bmig_task *task)
{
    struct counted_task *counted = (struct counted_task *)task;
    counted->runs++;
    bmig_loop_stop(counted->loop);
}

static void *post_one(void *opaque)
{
    struct counted_task *task = opaque;
    struct timespec pause = {
        0, 20000000}; /* the loop is most likely asleep by then; either way it ends */
    nanosleep(&pause, NULL);
    bmig_loop_post(task->loop, &task->task);
    return NULL;
}

START_TEST(a_post_wakes_a_sleeping_loop_and_stop_ends_run)
{
    struct bmig_loop *loop = make_loop(_i);
    for (int i = 0; i < 3; i++) {
        struct counted_task task = {.task.run = stop_from_task, .loop = loop};
        pthread_t thread;
        ck_assert_int_eq(pthread_create(&thread, NULL, post_one, &task), 0);
        bmig_loop_run(loop);
        ck_assert_int_eq(task.runs, 1);
        pthread_join(thread, NULL);
    }
    bmig_loop_free(loop);
}
END_TEST

static void *stop_it(void *opaque)
{
    bmig_loop_stop(opaque);
    return NULL;
}

START_TEST(stop_from_another_thread_ends_run)
{
    struct bmig_loop *loop = make_loop(_i);
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, stop_it, loop), 0);
    bmig_loop_run(loop);
    pthread_join(thread, NULL);
    bmig_loop_free(loop);
}
END_TEST

static struct bmig_loop *signalled_loop;

static void stop_on_signal(int number)
{
    bmig_loop_stop(signalled_loop);
}

START_TEST(stop_from_a_signal_handler_ends_run)
{
    struct bmig_loop *loop = make_loop(_i);
    signalled_loop = loop;
    struct sigaction action = {.sa_handler = stop_on_signal}, before;
    sigaction(SIGALRM, &action, &before);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    struct itimerspec soon = {.it_value.tv_nsec = 20000000};
    timer_t timer;
    ck_assert_int_eq(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
    ck_assert_int_eq(timer_settime(timer, 0, &soon, NULL), 0);
    bmig_loop_run(loop);
    timer_delete(timer);
    sigaction(SIGALRM, &before, NULL);
    bmig_loop_free(loop);
}
END_TEST

/* ---- timers ---- */

START_TEST(a_timer_fires_once_and_never_early)
{
    struct bmig_loop *loop = make_loop(_i);
    struct counted_timer timer = new_timer(loop);
    ck_assert(!bmig_timer_started(&timer.timer));
    bmig_timer_stop(&timer.timer);
    uint64_t start_ns = bmig_loop_now_ns(loop);
    bmig_timer_start(loop, &timer.timer, 5 * ms_ns);
    ck_assert(bmig_timer_started(&timer.timer));
    ck_assert_uint_eq(bmig_loop_outstanding(loop), 0);
    step_until(loop, &timer.fires, 1);
    ck_assert(!bmig_timer_started(&timer.timer));
    ck_assert_uint_ge(timer.fired_ns - start_ns, 5 * ms_ns);
    settle(loop);
    ck_assert_int_eq(timer.fires, 1);
    bmig_loop_free(loop);
}
END_TEST

START_TEST(a_stopped_timer_never_fires_and_a_moved_one_fires_at_its_new_time)
{
    struct bmig_loop *loop = make_loop(_i);
    struct counted_timer stopped = new_timer(loop), moved = new_timer(loop), far = new_timer(loop);
    bmig_timer_start(loop, &stopped.timer, ms_ns);
    bmig_timer_start(loop, &moved.timer, 3600 * 1000 * ms_ns);
    bmig_timer_start(loop, &far.timer, UINT64_MAX);
    bmig_timer_start(loop, &moved.timer, 2 * ms_ns);
    bmig_timer_stop(&stopped.timer);
    step_until(loop, &moved.fires, 1);
    ck_assert_int_eq(stopped.fires, 0);
    ck_assert_int_eq(far.fires, 0);
    bmig_timer_stop(&far.timer);
    bmig_loop_free(loop);
}
END_TEST

static struct counted_timer *other_timer;

static void stop_other(struct bmig_timer *timer)
{
    count_timer(timer);
    bmig_timer_stop(&other_timer->timer);
}

static void restart_now(struct bmig_timer *timer)
{
    struct counted_timer *counted = (struct counted_timer *)timer;
    count_timer(timer);
    bmig_timer_start(counted->loop, timer, 0);
}

START_TEST(a_timer_stopped_by_one_of_the_same_iteration_does_not_fire)
{
    struct bmig_loop *loop = make_loop(_i);
    struct counted_timer first = new_timer(loop), second = new_timer(loop);
    first.timer.fire = stop_other;
    other_timer = &second;
    bmig_timer_start(loop, &first.timer, 0);
    bmig_timer_start(loop, &second.timer, 0);
    step_until(loop, &first.fires, 1);
    settle(loop);
    ck_assert_int_eq(second.fires, 0);
    bmig_loop_free(loop);
}
END_TEST

START_TEST(delay_zero_fires_in_the_next_iteration_not_in_this)
{
    struct bmig_loop *loop = make_loop(_i);
    struct counted_timer timer = new_timer(loop);
    timer.timer.fire = restart_now;
    bmig_timer_start(loop, &timer.timer, 0);
    for (int i = 1; i <= 5; i++) {
        bmig_loop_step(loop, UINT64_MAX);
        ck_assert_int_eq(timer.fires, i);
    }
    bmig_timer_stop(&timer.timer);
    bmig_loop_free(loop);
}
END_TEST

static void spin(struct bmig_task *task)
{
    struct counted_task *counted = (struct counted_task *)task;
    uint64_t before = bmig_loop_now_ns(counted->loop);
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do
        clock_gettime(CLOCK_MONOTONIC, &now);
    while (now.tv_nsec == start.tv_nsec && now.tv_sec == start.tv_sec);
    ck_assert_uint_eq(bmig_loop_now_ns(counted->loop), before);
    counted->runs++;
}

START_TEST(time_stands_still_within_an_iteration_and_never_goes_back)
{
    struct bmig_loop *loop = make_loop(_i);
    struct counted_task task = {.task.run = spin, .loop = loop};
    uint64_t before = bmig_loop_now_ns(loop);
    for (int i = 0; i < 20; i++) {
        bmig_loop_defer(loop, &task.task);
        bmig_loop_step(loop, 0);
        ck_assert_uint_ge(bmig_loop_now_ns(loop), before);
        before = bmig_loop_now_ns(loop);
    }
    ck_assert_int_eq(task.runs, 20);
    bmig_loop_free(loop);
}
END_TEST

START_TEST(a_timer_started_long_after_the_last_iteration_counts_from_then)
{
    struct bmig_loop *loop = make_loop(_i);
    struct counted_timer timer = new_timer(loop);
    bmig_loop_step(loop, 0);
    struct timespec now, pause = {0, 3000000};
    nanosleep(&pause, NULL);
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t start_ns = (uint64_t)now.tv_sec * 1000 * ms_ns + (uint64_t)now.tv_nsec;
    bmig_timer_start(loop, &timer.timer, 4 * ms_ns);
    step_until(loop, &timer.fires, 1);
    ck_assert_uint_ge(timer.fired_ns, start_ns + 4 * ms_ns);
    bmig_loop_free(loop);
}
END_TEST

START_TEST(step_waits_no_longer_than_asked_and_says_that_nothing_ran)
{
    struct bmig_loop *loop = make_loop(_i);
    struct counted_timer timer = new_timer(loop);
    bmig_timer_start(loop, &timer.timer, 3600 * 1000 * ms_ns);
    uint64_t before = bmig_loop_now_ns(loop);
    ck_assert(!bmig_loop_step(loop, 0));
    ck_assert(!bmig_loop_step(loop, 3 * ms_ns));
    ck_assert_uint_ge(bmig_loop_now_ns(loop), before + 3 * ms_ns);
    bmig_timer_stop(&timer.timer);
    bmig_loop_free(loop);
}
END_TEST

/* ---- timers against a model, on the virtual clock ---- */

enum { MODEL_TIMERS = 100 };

struct model_timer {
    struct bmig_timer timer;
    struct model *model;
    uint64_t due_ns; /* UINT64_MAX: not started */
    uint64_t order;
};

struct model {
    struct bmig_loop *loop;
    struct model_timer timers[MODEL_TIMERS];
    uint64_t random, orders;
    int fired;
};

static void change_randomly(struct model *model)
{
    struct model_timer *at = &model->timers[next_random(&model->random) % MODEL_TIMERS];
    if (next_random(&model->random) % 3 == 0) {
        bmig_timer_stop(&at->timer);
        at->due_ns = UINT64_MAX;
    } else {
        uint64_t delay_ns = next_random(&model->random) % 20;
        bmig_timer_start(model->loop, &at->timer, delay_ns);
        at->due_ns = bmig_loop_now_ns(model->loop) + delay_ns;
        at->order = model->orders++;
    }
}

static void fire_in_model(struct bmig_timer *timer)
{
    struct model_timer *fired = (struct model_timer *)timer;
    struct model *model = fired->model;
    ck_assert_uint_eq(fired->due_ns, bmig_loop_now_ns(model->loop));
    for (int i = 0; i < MODEL_TIMERS; i++) {
        const struct model_timer *at = &model->timers[i];
        ck_assert(at->due_ns > fired->due_ns ||
                  (at->due_ns == fired->due_ns && at->order >= fired->order));
        ck_assert_int_eq(bmig_timer_started(&at->timer), at != fired && at->due_ns != UINT64_MAX);
    }
    fired->due_ns = UINT64_MAX;
    model->fired++;
    change_randomly(model);
}

START_TEST(random_timers_fire_as_a_naive_model_says)
{
    struct model *model = calloc(1, sizeof(*model));
    model->loop = make_loop(BMIG_LOOP_VIRTUAL);
    model->random = 0x2545f4914f6cdd1du + (uint64_t)_i;
    for (int i = 0; i < MODEL_TIMERS; i++)
        model->timers[i] =
            (struct model_timer){.timer.fire = fire_in_model, .model = model, .due_ns = UINT64_MAX};
    for (int i = 0; i < 5000; i++) {
        change_randomly(model);
        if (next_random(&model->random) % 4 == 0)
            bmig_loop_step(model->loop, next_random(&model->random) % 10);
    }
    ck_assert_int_gt(model->fired, 500);
    for (int i = 0; i < MODEL_TIMERS; i++)
        bmig_timer_stop(&model->timers[i].timer);
    bmig_loop_free(model->loop);
    free(model);
}
END_TEST

/* ---- the virtual clock ---- */

static void restart_in_a_minute(struct bmig_timer *timer)
{
    struct counted_timer *counted = (struct counted_timer *)timer;
    count_timer(timer);
    bmig_timer_start(counted->loop, timer, 60 * 1000 * ms_ns);
}

START_TEST(a_virtual_hour_takes_sixty_steps)
{
    struct bmig_loop *loop = make_loop(BMIG_LOOP_VIRTUAL);
    struct counted_timer timer = new_timer(loop);
    timer.timer.fire = restart_in_a_minute;
    ck_assert_uint_eq(bmig_loop_now_ns(loop), 0);
    bmig_timer_start(loop, &timer.timer, 60 * 1000 * ms_ns);
    for (int i = 0; i < 60; i++)
        ck_assert(bmig_loop_step(loop, UINT64_MAX));
    ck_assert_int_eq(timer.fires, 60);
    ck_assert_uint_eq(bmig_loop_now_ns(loop), 3600 * 1000 * ms_ns);
    bmig_timer_stop(&timer.timer);
    bmig_loop_free(loop);
}
END_TEST

START_TEST(the_virtual_clock_stands_while_something_can_run)
{
    struct bmig_loop *loop = make_loop(BMIG_LOOP_VIRTUAL);
    struct counted_timer timer = new_timer(loop);
    struct counted_task task = {.task.run = count_task};
    char bytes[2];
    int pair[2];
    make_pair(pair);
    struct counted_io recv_io = {
        {.op = BMIG_IO_RECV, .fd = pair[0], .data = bytes, .length = 2, .done = count_io}, 0, 0};
    bmig_timer_start(loop, &timer.timer, ms_ns);
    bmig_loop_defer(loop, &task.task);
    bmig_loop_step(loop, UINT64_MAX);
    ck_assert_int_eq(task.runs, 1);
    ck_assert_uint_eq(bmig_loop_now_ns(loop), 0);
    put_bytes(pair[1], "x");
    bmig_loop_io(loop, &recv_io.io);
    bmig_loop_step(loop, UINT64_MAX);
    ck_assert_int_eq(recv_io.done, 1);
    ck_assert_uint_eq(bmig_loop_now_ns(loop), 0);
    bmig_loop_io(loop, &recv_io.io); /* outstanding and not ready: does not hold the clock */
    bmig_loop_step(loop, UINT64_MAX);
    ck_assert_int_eq(timer.fires, 1);
    ck_assert_uint_eq(bmig_loop_now_ns(loop), ms_ns);
    close(pair[1]);
    step_until(loop, &recv_io.done, 2);
    close(pair[0]);
    bmig_loop_free(loop);
}
END_TEST

START_TEST(a_virtual_step_moves_the_clock_by_its_timeout_at_most)
{
    struct bmig_loop *loop = make_loop(BMIG_LOOP_VIRTUAL);
    struct counted_timer timer = new_timer(loop);
    bmig_timer_start(loop, &timer.timer, 10);
    ck_assert(!bmig_loop_step(loop, 9));
    ck_assert_uint_eq(bmig_loop_now_ns(loop), 9);
    ck_assert(bmig_loop_step(loop, 9));
    ck_assert_uint_eq(bmig_loop_now_ns(loop), 10);
    ck_assert(!bmig_loop_step(loop, UINT64_MAX)); /* nothing can ever happen: returns */
    ck_assert_uint_eq(bmig_loop_now_ns(loop), 10);
    bmig_loop_free(loop);
}
END_TEST

/* ---- work ---- */

struct counted_work {
    struct bmig_work work;
    struct bmig_loop *loop;
    pthread_t ran_on, owner;
    int ran, done;
    int pipe[2];
    int *total;
};

static void run_counted(struct bmig_work *work)
{
    struct counted_work *counted = (struct counted_work *)work;
    counted->ran++;
    counted->ran_on = pthread_self();
}

static void done_counted(struct bmig_work *work)
{
    struct counted_work *counted = (struct counted_work *)work;
    ck_assert_int_eq(counted->ran, 1);
    ck_assert(pthread_equal(pthread_self(), counted->owner));
    counted->done++;
    ++*counted->total;
}

START_TEST(work_runs_elsewhere_and_is_done_here_once)
{
    enum { WORKS = 200 };
    struct bmig_loop *loop = make_loop(_i);
    static struct counted_work works[WORKS];
    int total = 0;
    memset(works, 0, sizeof(works));
    for (int i = 0; i < WORKS; i++) {
        works[i] = (struct counted_work){.work.run = run_counted,
                                         .work.done = done_counted,
                                         .owner = pthread_self(),
                                         .total = &total};
        bmig_loop_work(loop, &works[i].work);
    }
    ck_assert_int_eq(total, 0);
    ck_assert_uint_eq(bmig_loop_outstanding(loop), WORKS);
    step_until(loop, &total, WORKS);
    ck_assert_uint_eq(bmig_loop_outstanding(loop), 0);
    for (int i = 0; i < WORKS; i++) {
        ck_assert_int_eq(works[i].done, 1);
        bool here = pthread_equal(works[i].ran_on, pthread_self());
        ck_assert_int_eq(here, _i == BMIG_LOOP_VIRTUAL);
    }
    bmig_loop_free(loop);
}
END_TEST

static void run_blocked(struct bmig_work *work)
{
    struct counted_work *counted = (struct counted_work *)work;
    char byte;
    ck_assert_int_eq(read(counted->pipe[0], &byte, 1), 1);
    run_counted(work);
}

START_TEST(work_that_blocks_holds_up_neither_the_loop_nor_its_files)
{
    struct bmig_loop *loop = make_loop(_i);
    struct counted_timer timer = new_timer(loop);
    int total = 0;
    char text[3];
    FILE *file = tmpfile();
    struct counted_io io = {
        {.op = BMIG_IO_READ, .fd = fileno(file), .data = text, .length = 3, .done = count_io},
        0,
        0};
    struct counted_work work = {.work.run = run_blocked,
                                .work.done = done_counted,
                                .owner = pthread_self(),
                                .total = &total};
    ck_assert_int_eq(pipe2(work.pipe, O_CLOEXEC), 0);
    bmig_loop_work(loop, &work.work);
    bmig_timer_start(loop, &timer.timer, ms_ns);
    step_until(loop, &timer.fires, 1);
    bmig_loop_io(loop, &io.io);
    step_until(loop, &io.done, 1);
    ck_assert_int_eq(work.done, 0);
    ck_assert_uint_eq(bmig_loop_outstanding(loop), 1);
    put_bytes(work.pipe[1], "x");
    step_until(loop, &total, 1);
    fclose(file);
    close(work.pipe[0]);
    close(work.pipe[1]);
    bmig_loop_free(loop);
}
END_TEST

/* ---- its own life ---- */

static int count_entries(const char *path)
{
    DIR *dir = opendir(path);
    int count = 0;
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

/* By name, since sanitizers have threads of their own. */
static int count_helpers(void)
{
    DIR *dir = opendir("/proc/self/task");
    const struct dirent *entry;
    int count = 0;
    while ((entry = readdir(dir))) {
        char path[300], name[32] = "";
        snprintf(path, sizeof(path), "/proc/self/task/%s/comm", entry->d_name);
        FILE *file = fopen(path, "r");
        if (file && fgets(name, sizeof(name), file) && strncmp(name, "bmig-", 5) == 0)
            count++;
        if (file)
            fclose(file);
    }
    closedir(dir);
    return count;
}

START_TEST(free_leaves_no_descriptor_and_no_thread)
{
    int descriptors = count_entries("/proc/self/fd");
    struct bmig_loop *loop = make_loop(_i);
    int total = 0;
    char text[3];
    FILE *file = tmpfile();
    struct counted_io io = {
        {.op = BMIG_IO_READ, .fd = fileno(file), .data = text, .length = 3, .done = count_io},
        0,
        0};
    struct counted_work work = {.work.run = run_counted,
                                .work.done = done_counted,
                                .owner = pthread_self(),
                                .total = &total};
    bmig_loop_work(loop, &work.work);
    bmig_loop_io(loop, &io.io);
    step_until(loop, &total, 1);
    step_until(loop, &io.done, 1);
    ck_assert_int_eq(count_helpers() > 0, _i != BMIG_LOOP_VIRTUAL);
    bmig_loop_free(loop);
    fclose(file);
    ck_assert_int_eq(count_entries("/proc/self/fd"), descriptors);
    while (count_helpers() > 0) /* a joined thread may be in the list for an instant */
        sched_yield();
}
END_TEST

static void *run_on_thread(void *opaque)
{
    struct bmig_loop *loop = opaque;
    struct counted_timer timer = new_timer(loop);
    bmig_timer_start(loop, &timer.timer, ms_ns);
    step_until(loop, &timer.fires, 1);
    while (bmig_loop_outstanding(loop)) /* the io may take longer than the timer */
        bmig_loop_step(loop, UINT64_MAX);
    return NULL;
}

START_TEST(a_loop_made_on_one_thread_runs_on_another)
{
    struct bmig_loop *loop = make_loop(_i);
    char text[3];
    FILE *file = tmpfile();
    fputs("abc", file);
    fflush(file);
    struct counted_io io = {
        {.op = BMIG_IO_READ, .fd = fileno(file), .data = text, .length = 3, .done = count_io},
        0,
        0};
    bmig_loop_io(loop, &io.io);
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, run_on_thread, loop), 0);
    pthread_join(thread, NULL);
    ck_assert_int_eq(io.done, 1);
    ck_assert_int_eq(io.result, 3);
    fclose(file);
    bmig_loop_free(loop);
}
END_TEST

static void step_inside(struct bmig_task *task)
{
    bmig_loop_step(((struct counted_task *)task)->loop, 0);
}

static int status_of_child(void (*run)(int), int kind)
{
    pid_t child = fork();
    if (child == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        if (!freopen("/dev/null", "w", stderr))
            _exit(99);
        run(kind);
        _exit(0);
    }
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    return status;
}

static void do_step_inside(int kind)
{
    struct bmig_loop *loop = make_loop(kind);
    struct counted_task task = {.task.run = step_inside, .loop = loop};
    bmig_loop_defer(loop, &task.task);
    bmig_loop_step(loop, 0);
}

static void do_free_with_timer(int kind)
{
    struct bmig_loop *loop = make_loop(kind);
    struct counted_timer timer = new_timer(loop);
    bmig_timer_start(loop, &timer.timer, ms_ns);
    bmig_loop_free(loop);
}

START_TEST(step_inside_a_callback_and_free_with_a_timer_abort)
{
    int status = status_of_child(do_step_inside, _i);
    ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    status = status_of_child(do_free_with_timer, _i);
    ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}
END_TEST

/* From here on, the system call fails with EPERM in this process. */
static void refuse_call(unsigned number)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        _exit(98);
}

static void do_auto_refused(int kind)
{
    refuse_call(SYS_io_uring_setup);
    unsetenv("BLOCKMIG_LOOP");
    struct bmig_loop *loop = make_loop(BMIG_LOOP_AUTO);
    if (strcmp(bmig_loop_name(loop), "epoll") != 0)
        _exit(1);
    bmig_loop_free(loop);
    struct bmig_error err = {0};
    if (bmig_loop_new(&loop, BMIG_LOOP_URING, &err) != -EPERM || err.code != EPERM)
        _exit(2);
}

START_TEST(auto_takes_epoll_where_io_uring_is_refused)
{
    int status = status_of_child(do_auto_refused, 0);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 0);
}
END_TEST

static void do_without_threads(int kind)
{
    refuse_call(SYS_clone3);
    refuse_call(SYS_clone);
    struct bmig_loop *loop = make_loop(kind);
    int total = 0;
    char text[3];
    FILE *file = tmpfile();
    struct counted_io io = {
        {.op = BMIG_IO_READ, .fd = fileno(file), .data = text, .length = 3, .done = count_io},
        0,
        0};
    struct counted_work work = {.work.run = run_counted,
                                .work.done = done_counted,
                                .owner = pthread_self(),
                                .total = &total};
    bmig_loop_work(loop, &work.work);
    bmig_loop_io(loop, &io.io);
    if (total != 0 || bmig_loop_outstanding(loop) != 2)
        _exit(1);
    step_until(loop, &total, 1);
    step_until(loop, &io.done, 1);
    if (!pthread_equal(work.ran_on, pthread_self()) || io.result != 0)
        _exit(2);
    bmig_loop_free(loop);
}

START_TEST(work_and_files_run_in_the_step_where_threads_are_refused)
{
    int status = status_of_child(do_without_threads, _i);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 0);
}
END_TEST

START_TEST(the_environment_names_the_kind_and_another_word_is_a_usage_error)
{
    struct bmig_loop *loop;
    struct bmig_error err = {0};
    setenv("BLOCKMIG_LOOP", "epoll", 1);
    loop = make_loop(BMIG_LOOP_AUTO);
    ck_assert_str_eq(bmig_loop_name(loop), "epoll");
    bmig_loop_free(loop);
    setenv("BLOCKMIG_LOOP", "uring", 1);
    loop = make_loop(BMIG_LOOP_AUTO);
    ck_assert_str_eq(bmig_loop_name(loop), "io_uring");
    bmig_loop_free(loop);
    setenv("BLOCKMIG_LOOP", "kqueue", 1);
    ck_assert_int_eq(bmig_loop_new(&loop, BMIG_LOOP_AUTO, &err), -EINVAL);
    ck_assert_int_eq(err.kind, BMIG_USAGE);
    ck_assert_ptr_nonnull(strstr(err.message, "kqueue"));
    loop = make_loop(BMIG_LOOP_VIRTUAL); /* asked for by name: the environment has no say */
    ck_assert_str_eq(bmig_loop_name(loop), "virtual");
    bmig_loop_free(loop);
}
END_TEST

static void add_kinds(TCase *tcase)
{
    tcase_add_loop_test(tcase, deferred_task_runs_once_and_not_inside_defer, FIRST_KIND, KINDS_END);
    tcase_add_loop_test(tcase, deferring_a_queued_task_again_does_nothing, FIRST_KIND, KINDS_END);
    tcase_add_loop_test(tcase, a_task_that_defers_itself_for_ever_lets_timers_and_io_in, FIRST_KIND,
                        KINDS_END);
    tcase_add_loop_test(tcase, a_task_may_free_itself, FIRST_KIND, KINDS_END);
    tcase_add_loop_test(tcase, posts_from_four_threads_all_run_in_each_ones_order, FIRST_KIND,
                        KINDS_END);
    tcase_add_loop_test(tcase, a_post_wakes_a_sleeping_loop_and_stop_ends_run, FIRST_KIND,
                        KINDS_END);
    tcase_add_loop_test(tcase, stop_from_another_thread_ends_run, FIRST_KIND, KINDS_END);
    tcase_add_loop_test(tcase, stop_from_a_signal_handler_ends_run, FIRST_KIND, KINDS_END);
    tcase_add_loop_test(tcase, a_timer_fires_once_and_never_early, FIRST_KIND, KINDS_END);
    tcase_add_loop_test(tcase, a_stopped_timer_never_fires_and_a_moved_one_fires_at_its_new_time,
                        FIRST_KIND, KINDS_END);
    tcase_add_loop_test(tcase, a_timer_stopped_by_one_of_the_same_iteration_does_not_fire,
                        FIRST_KIND, KINDS_END);
    tcase_add_loop_test(tcase, delay_zero_fires_in_the_next_iteration_not_in_this, FIRST_KIND,
                        KINDS_END);
    tcase_add_loop_test(tcase, time_stands_still_within_an_iteration_and_never_goes_back,
                        FIRST_KIND, KINDS_END);
    tcase_add_loop_test(tcase, a_timer_started_long_after_the_last_iteration_counts_from_then,
                        FIRST_KIND, REAL_KINDS_END);
    tcase_add_loop_test(tcase, step_waits_no_longer_than_asked_and_says_that_nothing_ran,
                        FIRST_KIND, KINDS_END);
    tcase_add_loop_test(tcase, work_runs_elsewhere_and_is_done_here_once, FIRST_KIND, KINDS_END);
    tcase_add_loop_test(tcase, work_that_blocks_holds_up_neither_the_loop_nor_its_files, FIRST_KIND,
                        REAL_KINDS_END);
    tcase_add_loop_test(tcase, free_leaves_no_descriptor_and_no_thread, FIRST_KIND, KINDS_END);
    tcase_add_loop_test(tcase, a_loop_made_on_one_thread_runs_on_another, FIRST_KIND, KINDS_END);
    tcase_add_loop_test(tcase, step_inside_a_callback_and_free_with_a_timer_abort, FIRST_KIND,
                        KINDS_END);
    tcase_add_loop_test(tcase, work_and_files_run_in_the_step_where_threads_are_refused, FIRST_KIND,
                        KINDS_END);
}

int main(void)
{
    Suite *suite = suite_create("loop");
    TCase *tcase = tcase_create("loop");
    tcase_set_timeout(tcase, 120);
    add_kinds(tcase);
    tcase_add_loop_test(tcase, random_timers_fire_as_a_naive_model_says, 0, 8);
    tcase_add_test(tcase, a_virtual_hour_takes_sixty_steps);
    tcase_add_test(tcase, the_virtual_clock_stands_while_something_can_run);
    tcase_add_test(tcase, a_virtual_step_moves_the_clock_by_its_timeout_at_most);
    tcase_add_test(tcase, auto_takes_epoll_where_io_uring_is_refused);
    tcase_add_test(tcase, the_environment_names_the_kind_and_another_word_is_a_usage_error);
    suite_add_tcase(suite, tcase);
    return run_all(suite);
}
