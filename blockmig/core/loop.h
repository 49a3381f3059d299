/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The loop: one thread's files, sockets, timers, descriptors of libraries, and deferred work.
 *
 * Two real kinds share this contract. io_uring submits a whole iteration's operations in one system
 * call; epoll does sockets by readiness and files on a small thread pool, for hosts that refuse
 * io_uring. A third, virtual, has a clock that tests own: it jumps to the next timer when nothing can
 * run, so a simulated hour takes no time.
 *
 * What the loop owes its user:
 *  - Every callback runs on the thread that runs the loop, from the loop's own frame: never inside a
 *    call that the user made. So a callback may start, stop and free anything, itself included.
 *  - What was started calls back exactly once per completion, and what was stopped never again.
 *  - Time stands still within one iteration (bmig_loop_now_ns), monotonic, and is not read again for
 *    every call.
 * Everything here is for the loop's thread only, except bmig_loop_post and bmig_loop_stop.
 * Structs are embedded in their users and may move only while idle. No call here blocks except
 * bmig_loop_run and bmig_loop_step.
 */
#ifndef BLOCKMIG_CORE_LOOP_H
#define BLOCKMIG_CORE_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "blockmig/core/error.h"

struct bmig_loop;

enum bmig_loop_kind {
    BMIG_LOOP_AUTO, /* BLOCKMIG_LOOP=uring|epoll, else io_uring, else epoll */
    BMIG_LOOP_URING,
    BMIG_LOOP_EPOLL,
    BMIG_LOOP_VIRTUAL, /* timers and tasks only on a clock that jumps; io and watches as epoll, work
                          inline; the clock stands while io or a watch is outstanding and ready */
};

/* Makes a loop. ENOSYS or EPERM where the kind asked for is refused by the kernel (AUTO falls back). */
int bmig_loop_new(struct bmig_loop **loop, enum bmig_loop_kind kind, struct bmig_error *err);

/* Frees a loop that does not run; everything started on it must be stopped or done (asserted). */
void bmig_loop_free(struct bmig_loop *loop);

/* "io_uring", "epoll" or "virtual"; what `info` says. */
const char *bmig_loop_name(const struct bmig_loop *loop);

/* Runs until bmig_loop_stop. */
void bmig_loop_run(struct bmig_loop *loop);

/* One iteration: waits at most timeout_ns (0 polls, UINT64_MAX waits) for something to do, and does all
 * that is ready. Returns whether any callback ran. Not from inside a callback (asserted).
 * Virtual: where nothing is ready, the clock jumps to the next timer or by timeout_ns, whichever is less;
 * with UINT64_MAX and no timer it waits for io and watches in real time, and where there are none of
 * these either it returns false at once, so `while (bmig_loop_step(loop, UINT64_MAX));` runs a test to
 * its end. */
bool bmig_loop_step(struct bmig_loop *loop, uint64_t timeout_ns);

/* Any thread, or a signal handler: makes bmig_loop_run return after its iteration. */
void bmig_loop_stop(struct bmig_loop *loop);

/* Monotonic nanoseconds (CLOCK_MONOTONIC; virtual: since the loop was made) at the start of this
 * iteration's callbacks; outside of an iteration the clock itself, so that what is started after a long
 * pause does not count from before it. */
uint64_t bmig_loop_now_ns(const struct bmig_loop *loop);

/* ---- tasks: run soon ---- */

struct bmig_task {
    void (*run)(struct bmig_task *task);
    struct bmig_task *next; /* private */
    bool queued;            /* private */
};

/* Runs task once, later in this iteration or in the next. Deferring a queued task again does nothing. */
void bmig_loop_defer(struct bmig_loop *loop, struct bmig_task *task);

/* The same from any thread. The task must not be queued by two callers at once. */
void bmig_loop_post(struct bmig_loop *loop, struct bmig_task *task);

/* ---- timers ---- */

struct bmig_timer {
    void (*fire)(struct bmig_timer *timer);
    struct bmig_loop *loop; /* private from here on */
    uint64_t deadline_ns;
    size_t heap_index; /* 0: not started */
};

/* Fires once after delay_ns (0: in the next iteration). Starting a started timer moves it. */
void bmig_timer_start(struct bmig_loop *loop, struct bmig_timer *timer, uint64_t delay_ns);
void bmig_timer_stop(struct bmig_timer *timer); /* no effect on a timer that is not started */
bool bmig_timer_started(const struct bmig_timer *timer);

/* ---- watches: readiness of a library's descriptor ---- */

enum { BMIG_WATCH_READ = 1, BMIG_WATCH_WRITE = 4 }; /* = POLLIN, POLLOUT; errors always reported */

struct bmig_watch {
    void (*ready)(struct bmig_watch *watch, int revents); /* poll(2)'s revents */
    struct bmig_loop *loop;                               /* private from here on */
    int fd;
    int events;
    int armed;
    void *impl;
};

/* Level-triggered: ready runs once an iteration as long as fd is in the state asked for.
 * bmig_watch_start borrows fd until bmig_watch_stop; stop BEFORE the descriptor is closed (libraries
 * that swap descriptors on reconnect: stop, then start on the new one). events 0 keeps the watch
 * asleep. */
int bmig_watch_start(struct bmig_loop *loop, struct bmig_watch *watch, int fd, int events);
void bmig_watch_set(struct bmig_watch *watch, int events);
void bmig_watch_stop(struct bmig_watch *watch);

/* ---- io: files and sockets by completion ---- */

enum bmig_io_op {
    BMIG_IO_READ,      /* pread of length bytes at offset into data; may complete short */
    BMIG_IO_WRITE,     /* pwrite; may complete short */
    BMIG_IO_FSYNC,     /* fdatasync if mode is 1, fsync if 0 */
    BMIG_IO_FALLOCATE, /* fallocate(fd, mode, offset, length) */
    BMIG_IO_RECV,      /* recv of at most length bytes; 0 is end of stream */
    BMIG_IO_SENDMSG,   /* sendmsg of msg with MSG_NOSIGNAL; may complete short */
    BMIG_IO_ACCEPT,    /* accept4(SOCK_CLOEXEC | SOCK_NONBLOCK); the result is the descriptor */
};

struct bmig_io {
    enum bmig_io_op op;
    int fd; /* sockets must be O_NONBLOCK */
    int mode;
    uint64_t offset;
    uint32_t length;
    void *data;
    struct msghdr *msg;
    void (*done)(struct bmig_io *io, int result); /* bytes, 0, descriptor, or -errno */
    void *user;
    /* private from here on */
    struct bmig_io *next;
    struct bmig_loop *loop;
    int result;
    int state;
    void *impl;
};

/* Starts io; it and what it points to belong to the loop until done. Any number may be in flight; at
 * most one RECV, one SENDMSG and one ACCEPT per descriptor. */
void bmig_loop_io(struct bmig_loop *loop, struct bmig_io *io);

/* Asks for io's end: done still runs once, with -ECANCELED or whatever it came to. File operations
 * already under way can't be cancelled and complete in their own time. */
void bmig_loop_io_cancel(struct bmig_loop *loop, struct bmig_io *io);

/* Tells the loop of memory that io's data will often lie in: io_uring registers it, so that its pages
 * are pinned once. At most one area; a refusal (memlock limit) is no error. The area outlives the loop
 * or is withdrawn with base NULL. */
void bmig_loop_set_buffers(struct bmig_loop *loop, void *base, size_t length);

/* ---- work: what blocks, on a helper thread ---- */

struct bmig_work {
    void (*run)(
        struct bmig_work *work); /* on a helper thread; touches only what is the work's own */
    void (*done)(struct bmig_work *work); /* on the loop's thread, once, after run */
    /* private from here on */
    struct bmig_task task;
    struct bmig_loop *loop;
    struct bmig_work *next;
};

/* Runs work->run on one of a few helper threads (started when first needed; work queues behind them),
 * then work->done on the loop. For opening, closing, seeking holes: whatever may block. It can't be
 * cancelled, so run bounds its own time. */
void bmig_loop_work(struct bmig_loop *loop, struct bmig_work *work);

/* What is under way: io + work + queued tasks (not timers, not watches). For an orderly end. */
size_t bmig_loop_outstanding(const struct bmig_loop *loop);

#endif
