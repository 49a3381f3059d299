/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Watches without io_uring.
 *
 * A watch's registration is level-triggered, and carries a generation, so that an event fetched for
 * a watch that is stopped by an earlier callback of the same iteration reaches nobody.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>

#include "blockmig/core/loop_epoll.h"

int bmig_epoll_watch_start(struct bmig_watch *watch)
{
    struct epoll_loop *epoll = bmig_epoll_of(watch->loop);
    if (fcntl(watch->fd, F_GETFD) < 0)
        return -errno;
    int ret = bmig_epoll_reserve(epoll, watch->fd);
    if (ret < 0)
        return ret;
    struct slot *slot = &epoll->slots[watch->fd];
    if (slot->watch)
        return -EEXIST;
    if (++slot->generation == 0)
        slot->generation = 1;
    slot->registered = 0;
    if (watch->events) {
        ret = bmig_epoll_arm(epoll, watch->fd, (uint32_t)watch->events, slot->generation, false);
        if (ret < 0)
            return ret;
        slot->registered = (uint32_t)watch->events;
    }
    slot->watch = watch;
    return 0;
}

static void note_change(struct epoll_loop *epoll, int fd)
{
    struct slot *slot = &epoll->slots[fd];
    if (slot->changed)
        return;
    slot->changed = true;
    slot->next_changed = epoll->first_changed;
    epoll->first_changed = fd;
}

/* Noted only: told to epoll once before the wait, if by then it is still a change. */
void bmig_epoll_watch_changed(struct bmig_watch *watch)
{
    note_change(bmig_epoll_of(watch->loop), watch->fd);
}

void bmig_epoll_watch_stop(struct bmig_watch *watch)
{
    struct epoll_loop *epoll = bmig_epoll_of(watch->loop);
    struct slot *slot = &epoll->slots[watch->fd];
    assert(slot->watch == watch);
    if (slot->registered)
        epoll_ctl(epoll->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
    slot->registered = 0;
    slot->watch = NULL;
}

/* A sleeping watch is taken out: epoll would report a hang-up even to an empty set of events. What
 * epoll refuses (a regular file, no memory) is tried again each time, and the watch told POLLERR.
 */
static void tell_change(struct epoll_loop *epoll, int fd)
{
    struct slot *slot = &epoll->slots[fd];
    uint32_t wanted = slot->watch ? (uint32_t)slot->watch->events : 0;
    if (!slot->watch || wanted == slot->registered)
        return;
    if (wanted == 0) {
        epoll_ctl(epoll->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    } else if (bmig_epoll_arm(epoll, fd, wanted, slot->generation, slot->registered != 0) < 0) {
        slot->registered = 0;
        note_change(epoll, fd);
        epoll->refused.events = EPOLLERR;
        epoll->refused.data.u64 = (uint64_t)slot->generation << 32 | (uint32_t)fd;
        return;
    }
    slot->registered = wanted;
}

void bmig_epoll_tell_changes(struct epoll_loop *epoll)
{
    int fd = epoll->first_changed;
    epoll->first_changed = -1;
    while (fd >= 0) {
        struct slot *slot = &epoll->slots[fd];
        int next = slot->next_changed;
        slot->changed = false;
        tell_change(epoll, fd);
        fd = next;
    }
}

void bmig_epoll_dispatch_watch(struct epoll_loop *epoll, const struct epoll_event *event)
{
    uint32_t generation = (uint32_t)(event->data.u64 >> 32);
    const struct slot *slot = bmig_epoll_slot(epoll, (int)(uint32_t)event->data.u64);
    if (!slot || !slot->watch || generation != slot->generation)
        return;
    uint32_t wanted = (uint32_t)slot->watch->events;
    uint32_t revents = event->events & (wanted | EPOLLERR | EPOLLHUP);
    if (wanted && revents)
        bmig_loop_ready(slot->watch, (int)revents);
}
