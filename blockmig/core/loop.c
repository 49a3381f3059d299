/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The loop's common part: the iteration, tasks, timers, posts from other threads, and work.
 *
 * Posting is an inbox plus a handshake: the loop says `sleeping` and then looks at its inboxes once
 * more, a poster puts and then takes `sleeping` away, and only the one who took it writes the
 * eventfd. Both are sequentially consistent, so one of them sees the other.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "blockmig/core/log.h"
#include "blockmig/core/loop_internal.h"

/* Tasks that defer tasks run in the same iteration this many times over, so that a chain of them
 * costs one system call; then io gets its turn. */
enum { TASK_ROUNDS = 16 };

enum { WORK_THREADS = 4 };

/* ---- making and freeing ---- */

static int new_kind(struct bmig_loop **loop, enum bmig_loop_kind kind)
{
    int ret = kind == BMIG_LOOP_URING   ? bmig_loop_uring_new(loop)
              : kind == BMIG_LOOP_EPOLL ? bmig_loop_epoll_new(loop)
                                        : bmig_loop_virtual_new(loop);
    return ret;
}

/* What AUTO means here: *kind is set where the environment names one. */
static int kind_of_environment(enum bmig_loop_kind *kind, struct bmig_error *err)
{
    const char *name = getenv("BLOCKMIG_LOOP");
    if (!name)
        return 0;
    if (strcmp(name, "uring") == 0)
        *kind = BMIG_LOOP_URING;
    else if (strcmp(name, "epoll") == 0)
        *kind = BMIG_LOOP_EPOLL;
    else
        return bmig_error_set(
            err, BMIG_USAGE, EINVAL,
            "BLOCKMIG_LOOP '%s': not a kind of loop; use uring or epoll, or unset it", name);
    return 0;
}

int bmig_loop_new(struct bmig_loop **loop, enum bmig_loop_kind kind, struct bmig_error *err)
{
    int ret = 0;
    if (kind == BMIG_LOOP_AUTO) {
        ret = kind_of_environment(&kind, err);
        if (ret < 0)
            return ret;
    }
    if (kind == BMIG_LOOP_AUTO) {
        ret = new_kind(loop, BMIG_LOOP_URING);
        if (ret == 0)
            return 0;
        bmig_log(BMIG_LOG_DEBUG, "io_uring is refused (%s): using epoll and helper threads",
                 bmig_strerror(-ret));
        kind = BMIG_LOOP_EPOLL;
    }
    ret = new_kind(loop, kind);
    if (ret < 0)
        bmig_error_set(err, BMIG_FAILED, -ret, "loop '%s': can't be made: %s",
                       kind == BMIG_LOOP_URING   ? "io_uring"
                       : kind == BMIG_LOOP_EPOLL ? "epoll"
                                                 : "virtual",
                       bmig_strerror(-ret));
    return ret;
}

static void run_work(void *item);

int bmig_loop_init(struct bmig_loop *loop, const struct bmig_loop_ops *ops)
{
    loop->ops = ops;
    loop->posted.link_offset = offsetof(struct bmig_task, next);
    loop->worked.link_offset = offsetof(struct bmig_work, next);
    loop->file_done.link_offset = offsetof(struct bmig_io, next);
    int ret = bmig_timer_heap_init(&loop->timers);
    if (ret < 0)
        return ret;
    loop->wake_fd = eventfd(0, EFD_CLOEXEC);
    if (loop->wake_fd < 0) {
        ret = -errno;
        bmig_timer_heap_fini(&loop->timers);
        return ret;
    }
    bmig_pool_init(&loop->workers, "bmig-work", WORK_THREADS, offsetof(struct bmig_work, next),
                   run_work);
    return 0;
}

void bmig_loop_fini(struct bmig_loop *loop)
{
    bmig_pool_fini(&loop->workers);
    close(loop->wake_fd);
    bmig_timer_heap_fini(&loop->timers);
}

void bmig_loop_free(struct bmig_loop *loop)
{
    if (!loop)
        return;
    assert(!loop->stepping);
    assert(bmig_loop_outstanding(loop) == 0);
    assert(loop->watch_count == 0);
    assert(loop->timers.count == 0);
    loop->ops->fini(loop);
    bmig_loop_fini(loop);
    free(loop);
}

const char *bmig_loop_name(const struct bmig_loop *loop)
{
    return loop->ops->name;
}

size_t bmig_loop_outstanding(const struct bmig_loop *loop)
{
    return loop->io_count + loop->work_count + loop->task_count + atomic_load(&loop->posted_count);
}

/* ---- time ---- */

uint64_t bmig_loop_real_clock(const struct bmig_loop *loop)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

uint64_t bmig_loop_now_ns(const struct bmig_loop *loop)
{
    return loop->stepping ? loop->now_ns : loop->ops->clock(loop);
}

void bmig_timer_start(struct bmig_loop *loop, struct bmig_timer *timer, uint64_t delay_ns)
{
    if (timer->heap_index != 0)
        bmig_timer_stop(timer);
    uint64_t now_ns = bmig_loop_now_ns(loop);
    timer->loop = loop;
    timer->deadline_ns = delay_ns < UINT64_MAX - now_ns ? now_ns + delay_ns : UINT64_MAX;
    bmig_timer_heap_insert(&loop->timers, timer);
}

void bmig_timer_stop(struct bmig_timer *timer)
{
    if (timer->heap_index != 0)
        bmig_timer_heap_remove(&timer->loop->timers, timer);
}

bool bmig_timer_started(const struct bmig_timer *timer)
{
    return timer->heap_index != 0;
}

/* Fires what is due, except what was started in this iteration (sequence >= fence). Such a timer is
 * due at now_ns at the earliest and the heap keeps those of one deadline in order, so behind the
 * first of them there is none that was started before. */
static void fire_timers(struct bmig_loop *loop, uint64_t fence)
{
    for (;;) {
        const struct bmig_timer_entry *first = bmig_timer_heap_first(&loop->timers);
        if (!first || first->deadline_ns > loop->now_ns || first->sequence >= fence)
            return;
        struct bmig_timer *timer = first->timer;
        bmig_timer_heap_remove(&loop->timers, timer);
        loop->ran++;
        timer->fire(timer);
    }
}

/* ---- tasks ---- */

static void run_work_here(struct bmig_task *task);

static void append_task(struct bmig_loop *loop, struct bmig_task *task)
{
    task->next = NULL;
    if (loop->last_task)
        loop->last_task->next = task;
    else
        loop->first_task = task;
    loop->last_task = task;
    if (task->run != run_work_here)
        loop->task_count++;
}

void bmig_loop_defer(struct bmig_loop *loop, struct bmig_task *task)
{
    if (__atomic_exchange_n(&task->queued, true, __ATOMIC_ACQ_REL))
        return;
    append_task(loop, task);
}

void bmig_loop_post(struct bmig_loop *loop, struct bmig_task *task)
{
    if (__atomic_exchange_n(&task->queued, true, __ATOMIC_ACQ_REL))
        return;
    atomic_fetch_add(&loop->posted_count, 1);
    bmig_inbox_put(&loop->posted, task);
    bmig_loop_wake(loop);
}

static void take_posted(struct bmig_loop *loop)
{
    struct bmig_task *task = bmig_inbox_take(&loop->posted);
    while (task) {
        struct bmig_task *next = task->next;
        append_task(loop, task);
        atomic_fetch_sub(&loop->posted_count, 1);
        task = next;
    }
}

static void run_tasks(struct bmig_loop *loop)
{
    for (int round = 0; round < TASK_ROUNDS && loop->first_task; round++) {
        struct bmig_task *last = loop->last_task, *task;
        do {
            task = loop->first_task;
            loop->first_task = task->next;
            if (!loop->first_task)
                loop->last_task = NULL;
            if (task->run != run_work_here)
                loop->task_count--;
            loop->ran++;
            /* Pairs with the exchange of a poster that found it queued: what he wrote is seen. */
            (void)__atomic_exchange_n(&task->queued, false, __ATOMIC_ACQ_REL);
            task->run(task);
        } while (task != last);
    }
}

/* ---- work ---- */

static void run_work(void *item)
{
    struct bmig_work *work = item;
    struct bmig_loop *loop = work->loop;
    work->run(work);
    bmig_inbox_put(&loop->worked, work);
    bmig_loop_wake(loop);
}

static void finish_work(struct bmig_loop *loop, struct bmig_work *work)
{
    loop->work_count--;
    work->done(work);
}

static void run_work_here(struct bmig_task *task)
{
    struct bmig_work *work = (struct bmig_work *)((char *)task - offsetof(struct bmig_work, task));
    work->run(work);
    finish_work(work->loop, work);
}

void bmig_loop_work(struct bmig_loop *loop, struct bmig_work *work)
{
    work->loop = loop;
    loop->work_count++;
    if (!loop->no_helpers && bmig_pool_put(&loop->workers, work))
        return;
    work->task = (struct bmig_task){.run = run_work_here};
    bmig_loop_defer(loop, &work->task);
}

static void finish_worked(struct bmig_loop *loop)
{
    struct bmig_work *work = bmig_inbox_take(&loop->worked);
    while (work) {
        struct bmig_work *next = work->next;
        loop->ran++;
        finish_work(loop, work);
        work = next;
    }
}

/* ---- the iteration ---- */

void bmig_loop_wake(struct bmig_loop *loop)
{
    if (atomic_exchange(&loop->sleeping, false))
        (void)!write(loop->wake_fd, &(uint64_t){1}, sizeof(uint64_t));
}

void bmig_loop_stop(struct bmig_loop *loop)
{
    int saved = errno; /* a signal handler may call this */
    atomic_store(&loop->stopping, true);
    (void)!write(loop->wake_fd, &(uint64_t){1}, sizeof(uint64_t));
    errno = saved;
}

bool bmig_loop_runnable(const struct bmig_loop *loop)
{
    return loop->first_task || loop->finished.first || !bmig_inbox_empty(&loop->posted) ||
           !bmig_inbox_empty(&loop->worked) || !bmig_inbox_empty(&loop->file_done);
}

/* How long the kind may sleep: not past the first timer, not with something due. */
static uint64_t bound_timeout(const struct bmig_loop *loop, uint64_t timeout_ns)
{
    if (timeout_ns == 0 || bmig_loop_runnable(loop))
        return 0;
    const struct bmig_timer_entry *first = bmig_timer_heap_first(&loop->timers);
    if (!first)
        return timeout_ns;
    uint64_t now_ns = loop->ops->clock(loop);
    if (first->deadline_ns <= now_ns)
        return 0;
    uint64_t until_first_ns = first->deadline_ns - now_ns;
    return until_first_ns < timeout_ns ? until_first_ns : timeout_ns;
}

static void wait_for_something(struct bmig_loop *loop, uint64_t timeout_ns)
{
    timeout_ns = bound_timeout(loop, timeout_ns);
    if (timeout_ns == 0) {
        loop->ops->wait(loop, 0);
        return;
    }
    atomic_store(&loop->sleeping, true);
    loop->ops->wait(loop, bmig_loop_runnable(loop) ? 0 : timeout_ns);
    atomic_store(&loop->sleeping, false);
}

bool bmig_loop_step(struct bmig_loop *loop, uint64_t timeout_ns)
{
    assert(!loop->stepping); /* not from inside a callback */
    loop->stepping = true;
    loop->ran = 0;
    wait_for_something(loop, timeout_ns);
    uint64_t now_ns = loop->ops->clock(loop);
    loop->now_ns = now_ns;
    uint64_t fence = loop->timers.sequence;
    take_posted(loop);
    loop->ops->dispatch(loop);
    finish_worked(loop);
    fire_timers(loop, fence);
    run_tasks(loop);
    loop->stepping = false;
    return loop->ran > 0;
}

void bmig_loop_run(struct bmig_loop *loop)
{
    assert(!loop->running);
    loop->running = true;
    do
        bmig_loop_step(loop, UINT64_MAX);
    while (!atomic_exchange(&loop->stopping, false));
    loop->running = false;
}
