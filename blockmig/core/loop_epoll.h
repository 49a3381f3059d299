/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What the files of the epoll loop share.
 */
#ifndef BLOCKMIG_CORE_LOOP_EPOLL_H
#define BLOCKMIG_CORE_LOOP_EPOLL_H

#include <sys/epoll.h>

#include "blockmig/core/loop_internal.h"

enum { EPOLL_EVENTS_A_WAIT = 256 };

enum { PARK_RECV, PARK_SEND, PARK_ACCEPT, PARKS };

struct slot {
    struct bmig_io *parked[PARKS];
    struct bmig_watch *watch;
    uint32_t generation; /* of the watch; never 0, which stands for parked io */
    uint32_t registered; /* events that epoll has for the watch */
    bool changed;        /* on the list of changed watches */
    int next_changed;
};

struct epoll_loop {
    struct bmig_loop base;
    int epoll_fd;
    bool no_pwait2;
    struct slot *slots; /* by descriptor */
    size_t slot_count;
    int first_changed;          /* descriptors whose watch wants other events; -1 ends */
    struct epoll_event refused; /* the last watch that epoll would not take; events 0: none */
    struct bmig_io_list trying;
    struct bmig_pool files;
    int event_count;
    struct epoll_event events[EPOLL_EVENTS_A_WAIT];
};

static inline struct epoll_loop *bmig_epoll_of(const struct bmig_loop *loop)
{
    return (struct epoll_loop *)loop;
}

/* The slot of fd, or NULL where none was reserved. */
static inline struct slot *bmig_epoll_slot(struct epoll_loop *epoll, int fd)
{
    return fd >= 0 && (size_t)fd < epoll->slot_count ? &epoll->slots[fd] : NULL;
}

/* Makes room for fd's slot; slots may move. 0 or -errno. */
int bmig_epoll_reserve(struct epoll_loop *epoll, int fd);

/* Makes (fd, events) what epoll waits for, whether or not it knows the file already; known is the
 * guess that costs one system call if it is right. */
int bmig_epoll_arm(struct epoll_loop *epoll, int fd, uint32_t events, uint32_t generation,
                   bool known);

/* ---- io: before the wait, after it, and for one descriptor that is ready ---- */

void bmig_epoll_io_init(struct epoll_loop *epoll);
void bmig_epoll_try_all(struct epoll_loop *epoll);
void bmig_epoll_take_files(struct epoll_loop *epoll);
void bmig_epoll_try_parked(struct epoll_loop *epoll, int fd);

/* ---- watches: before the wait, and for one event ---- */

void bmig_epoll_tell_changes(struct epoll_loop *epoll);
void bmig_epoll_dispatch_watch(struct epoll_loop *epoll, const struct epoll_event *event);

#endif
