/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What the files of the io_uring loop share.
 */
#ifndef BLOCKMIG_CORE_LOOP_URING_H
#define BLOCKMIG_CORE_LOOP_URING_H

#include <liburing.h>
#include <pthread.h>

#include "blockmig/core/loop_internal.h"

/* The low bits of user_data. */
enum { TAG_IO, TAG_IO_POLL, TAG_READ_POLL, TAG_WRITE_POLL, TAG_WAKE, TAG_NOTHING, TAG_MASK = 7 };

enum { READ, WRITE, DIRECTIONS };

struct poll {
    struct bmig_watch *watch; /* NULL: stopped */
    struct poll *next_changed;
    struct poll *next_ready; /* or next free */
    int fd;
    int revents;
    bool changed; /* on the list of those to look at before the wait */
    bool ready;   /* on the list of those whose callback is due */
    bool armed[DIRECTIONS];
    bool removing[DIRECTIONS];
};

struct uring_loop {
    struct bmig_loop base;
    struct io_uring ring;
    bool enabled;
    bool wake_armed;
    uint64_t wake_count;         /* what the read of wake_fd fills */
    struct bmig_io_list backlog; /* io without an entry, or whose cancellation has none */
    char *buffers;
    size_t buffers_length; /* 0: none registered */
    struct poll *first_changed;
    struct poll *first_ready, **last_ready;
    struct poll *free_polls;
    size_t polls_out; /* in the kernel */
    pthread_t thread; /* that enabled the ring */
    bool may_spin;    /* there is another processor for whoever we wait for */
    uint64_t spin_ns; /* that the next wait may look at the ring before it sleeps */
};

static inline struct uring_loop *bmig_uring_of(const struct bmig_loop *loop)
{
    return (struct uring_loop *)loop;
}

static inline uint64_t bmig_uring_data(const void *address, unsigned tag)
{
    return (uint64_t)(uintptr_t)address | tag;
}

/* An empty entry of the submission queue, or NULL: the kernel takes no more now, or the ring's
 * thread is not known yet (that is the one of the first wait, and nothing may be submitted by
 * another). */
struct io_uring_sqe *bmig_uring_sqe(struct uring_loop *uring);

/* ---- io ---- */

void bmig_uring_io(struct bmig_loop *loop, struct bmig_io *io);
void bmig_uring_io_cancel(struct bmig_loop *loop, struct bmig_io *io);
void bmig_uring_set_buffers(struct bmig_loop *loop, void *base, size_t length);
void bmig_uring_flush_backlog(struct uring_loop *uring); /* before the wait */
void bmig_uring_complete_io(struct uring_loop *uring, struct bmig_io *io, unsigned tag, int result);

/* ---- watches ---- */

int bmig_uring_watch_start(struct bmig_watch *watch);
void bmig_uring_watch_changed(struct bmig_watch *watch);
void bmig_uring_watch_stop(struct bmig_watch *watch);
void bmig_uring_arm_changed(struct uring_loop *uring); /* before the wait */
void bmig_uring_complete_poll(struct uring_loop *uring, struct poll *poll, int direction,
                              int result);
void bmig_uring_run_ready(struct uring_loop *uring); /* the callbacks, after all completions */
void bmig_uring_free_polls(struct uring_loop *uring);

#endif
