/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The loop where io_uring is refused: sockets by readiness, files on helper threads.
 *
 * An iteration: changed watches are told to epoll, sockets tried and the rest parked, then the
 * wait; afterwards what is parked is tried again, and only then callbacks run, because they may
 * close and open descriptors.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "blockmig/core/loop_epoll.h"

/* ---- slots ---- */

int bmig_epoll_reserve(struct epoll_loop *epoll, int fd)
{
    if (fd < 0)
        return -EBADF;
    if ((size_t)fd < epoll->slot_count)
        return 0;
    size_t count = epoll->slot_count ? epoll->slot_count : 64;
    while (count <= (size_t)fd)
        count *= 2;
    struct slot *slots = realloc(epoll->slots, count * sizeof(*slots));
    if (!slots)
        return -ENOMEM;
    memset(slots + epoll->slot_count, 0, (count - epoll->slot_count) * sizeof(*slots));
    epoll->slots = slots;
    epoll->slot_count = count;
    return 0;
}

int bmig_epoll_arm(struct epoll_loop *epoll, int fd, uint32_t events, uint32_t generation,
                   bool known)
{
    struct epoll_event event = {.events = events,
                                .data.u64 = (uint64_t)generation << 32 | (uint32_t)fd};
    int first = known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (epoll_ctl(epoll->epoll_fd, first, fd, &event) == 0)
        return 0;
    if (errno != (known ? ENOENT : EEXIST))
        return -errno;
    if (epoll_ctl(epoll->epoll_fd, known ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &event) == 0)
        return 0;
    return -errno;
}

/* ---- the iteration ---- */

static int wait_events(struct epoll_loop *epoll, uint64_t timeout_ns)
{
    if (!epoll->no_pwait2) {
        struct timespec timeout = {(time_t)(timeout_ns / 1000000000),
                                   (long)(timeout_ns % 1000000000)};
        int ret = epoll_pwait2(epoll->epoll_fd, epoll->events, EPOLL_EVENTS_A_WAIT,
                               timeout_ns == UINT64_MAX ? NULL : &timeout, NULL);
        if (ret >= 0 || errno != ENOSYS)
            return ret;
        epoll->no_pwait2 = true;
    }
    uint64_t timeout_ms = timeout_ns / 1000000 + (timeout_ns % 1000000 != 0);
    int bounded_ms = timeout_ns == UINT64_MAX ? -1
                     : timeout_ms < 86400000  ? (int)timeout_ms
                                              : 86400000;
    return epoll_wait(epoll->epoll_fd, epoll->events, EPOLL_EVENTS_A_WAIT, bounded_ms);
}

bool bmig_epoll_wait(struct bmig_loop *loop, uint64_t timeout_ns)
{
    struct epoll_loop *epoll = bmig_epoll_of(loop);
    bmig_epoll_tell_changes(epoll);
    bmig_epoll_try_all(epoll);
    bool due = loop->finished.first || epoll->refused.events;
    epoll->event_count = wait_events(epoll, due ? 0 : timeout_ns);
    if (epoll->event_count < 0) {
        assert(errno == EINTR);
        epoll->event_count = 0;
    }
    return epoll->event_count > 0 || due || bmig_loop_runnable(loop);
}

static void epoll_wait_op(struct bmig_loop *loop, uint64_t timeout_ns)
{
    bmig_epoll_wait(loop, timeout_ns);
}

void bmig_epoll_dispatch(struct bmig_loop *loop)
{
    struct epoll_loop *epoll = bmig_epoll_of(loop);
    bmig_epoll_take_files(epoll);
    for (int i = 0; i < epoll->event_count; i++) {
        int fd = (int)(uint32_t)epoll->events[i].data.u64;
        if (fd == loop->wake_fd)
            (void)!read(fd, &(uint64_t){0}, sizeof(uint64_t));
        else if (epoll->events[i].data.u64 >> 32 == 0)
            bmig_epoll_try_parked(epoll, fd);
    }
    bmig_loop_finish_all(loop);
    for (int i = 0; i < epoll->event_count; i++)
        if (epoll->events[i].data.u64 >> 32 != 0)
            bmig_epoll_dispatch_watch(epoll, &epoll->events[i]);
    epoll->event_count = 0;
    struct epoll_event refused = epoll->refused;
    epoll->refused.events = 0;
    if (refused.events)
        bmig_epoll_dispatch_watch(epoll, &refused);
}

/* ---- making and freeing ---- */

static int init_epoll(struct epoll_loop *epoll)
{
    epoll->first_changed = -1;
    epoll->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll->epoll_fd < 0)
        return -errno;
    int ret = bmig_epoll_arm(epoll, epoll->base.wake_fd, EPOLLIN, 0, false);
    if (ret < 0) {
        close(epoll->epoll_fd);
        return ret;
    }
    bmig_epoll_io_init(epoll);
    return 0;
}

int bmig_epoll_alloc(struct bmig_loop **loop, const struct bmig_loop_ops *ops)
{
    struct epoll_loop *epoll = calloc(1, sizeof(*epoll));
    if (!epoll)
        return -ENOMEM;
    int ret = bmig_loop_init(&epoll->base, ops);
    if (ret == 0) {
        ret = init_epoll(epoll);
        if (ret < 0)
            bmig_loop_fini(&epoll->base);
    }
    if (ret < 0)
        free(epoll);
    else
        *loop = &epoll->base;
    return ret;
}

void bmig_epoll_fini(struct bmig_loop *loop)
{
    struct epoll_loop *epoll = bmig_epoll_of(loop);
    bmig_pool_fini(&epoll->files);
    close(epoll->epoll_fd);
    free(epoll->slots);
}

static const struct bmig_loop_ops epoll_ops = {
    .name = "epoll",
    .clock = bmig_loop_real_clock,
    .wait = epoll_wait_op,
    .dispatch = bmig_epoll_dispatch,
    .io = bmig_epoll_io,
    .io_cancel = bmig_epoll_io_cancel,
    .watch_start = bmig_epoll_watch_start,
    .watch_changed = bmig_epoll_watch_changed,
    .watch_stop = bmig_epoll_watch_stop,
    .fini = bmig_epoll_fini,
};

int bmig_loop_epoll_new(struct bmig_loop **loop)
{
    return bmig_epoll_alloc(loop, &epoll_ops);
}
