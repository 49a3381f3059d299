/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What the kinds of loop share: one struct, and a table of what differs between them.
 *
 * An iteration is: wait (submits, sleeps, gathers; runs no callback), read the clock, dispatch (the
 * callbacks of io and watches), timers, tasks. Only wait makes system calls in the usual case.
 */
#ifndef BLOCKMIG_CORE_LOOP_INTERNAL_H
#define BLOCKMIG_CORE_LOOP_INTERNAL_H

#include <stdatomic.h>

#include "blockmig/core/loop.h"
#include "blockmig/core/pool.h"
#include "blockmig/core/timer_heap.h"

struct bmig_loop_ops {
    const char *name;
    uint64_t (*clock)(const struct bmig_loop *loop);

    /* Submits what was started and waits at most timeout_ns for something to dispatch. */
    void (*wait)(struct bmig_loop *loop, uint64_t timeout_ns);

    /* Runs the callbacks of what wait gathered, each through bmig_loop_finish or _ready. */
    void (*dispatch)(struct bmig_loop *loop);

    void (*io)(struct bmig_loop *loop, struct bmig_io *io);
    void (*io_cancel)(struct bmig_loop *loop, struct bmig_io *io);

    int (*watch_start)(struct bmig_watch *watch);
    void (*watch_changed)(struct bmig_watch *watch); /* watch->events is new */
    void (*watch_stop)(struct bmig_watch *watch);

    void (*set_buffers)(struct bmig_loop *loop, void *base,
                        size_t length);   /* NULL: no use for it */
    void (*fini)(struct bmig_loop *loop); /* gives back what the kind holds */
};

struct bmig_io_list {
    struct bmig_io *first, *last;
};

struct bmig_loop {
    const struct bmig_loop_ops *ops;
    uint64_t now_ns;     /* of the iteration under way */
    uint64_t virtual_ns; /* the virtual kind's clock */
    bool stepping;       /* an iteration is under way */
    bool running;        /* in bmig_loop_run */
    bool no_helpers;     /* virtual: what would go to a helper thread runs in the step */
    unsigned ran;        /* callbacks of this iteration */
    size_t io_count;
    size_t work_count;
    size_t watch_count;

    struct bmig_timer_heap timers;
    struct bmig_task *first_task, *last_task;
    size_t task_count; /* users' tasks queued here (not posted yet to be taken) */
    struct bmig_io_list
        finished; /* io with its result set, whose done is due in the next dispatch */

    struct bmig_inbox posted;    /* tasks from other threads */
    atomic_size_t posted_count;  /* users' tasks in it */
    struct bmig_inbox worked;    /* work whose run is over */
    struct bmig_inbox file_done; /* io from the helper threads of files */
    atomic_bool sleeping;        /* a poster must write to wake_fd */
    atomic_bool stopping;
    int wake_fd; /* eventfd */
    struct bmig_pool workers;
};

/* The loop is awake, or will wake, and looks at its inboxes. Any thread. */
void bmig_loop_wake(struct bmig_loop *loop);

/* Whether something is due without waiting. */
bool bmig_loop_runnable(const struct bmig_loop *loop);

/* Ends io: its done runs now. From dispatch only. */
void bmig_loop_finish(struct bmig_io *io, int result);

/* Ends io from anywhere: done runs in the next dispatch. */
void bmig_loop_finish_later(struct bmig_io *io, int result);

/* Runs the done of all that is in loop->finished at the call. From dispatch only. */
void bmig_loop_finish_all(struct bmig_loop *loop);

/* The same for a watch. */
void bmig_loop_ready(struct bmig_watch *watch, int revents);

void bmig_io_list_put(struct bmig_io_list *list, struct bmig_io *io);
struct bmig_io *bmig_io_list_take(struct bmig_io_list *list);
void bmig_io_list_remove(struct bmig_io_list *list, struct bmig_io *io); /* which is in it */

uint64_t bmig_loop_real_clock(const struct bmig_loop *loop);

/* The common part's own beginning and end, for the kinds' _new. 0 or -errno. */
int bmig_loop_init(struct bmig_loop *loop, const struct bmig_loop_ops *ops);
void bmig_loop_fini(struct bmig_loop *loop);

/* Allocate the kind's struct, whose first member is struct bmig_loop. 0 or -errno. */
int bmig_loop_uring_new(struct bmig_loop **loop);
int bmig_loop_epoll_new(struct bmig_loop **loop);
int bmig_loop_virtual_new(struct bmig_loop **loop);

/* ---- what virtual borrows from epoll ---- */

int bmig_epoll_alloc(struct bmig_loop **loop, const struct bmig_loop_ops *ops);
bool bmig_epoll_wait(struct bmig_loop *loop, uint64_t timeout_ns); /* whether anything is ready */
void bmig_epoll_dispatch(struct bmig_loop *loop);
void bmig_epoll_io(struct bmig_loop *loop, struct bmig_io *io);
void bmig_epoll_io_cancel(struct bmig_loop *loop, struct bmig_io *io);
int bmig_epoll_watch_start(struct bmig_watch *watch);
void bmig_epoll_watch_changed(struct bmig_watch *watch);
void bmig_epoll_watch_stop(struct bmig_watch *watch);
void bmig_epoll_fini(struct bmig_loop *loop);

#endif
