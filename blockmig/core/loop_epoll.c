/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The loop where io_uring is refused: sockets by readiness, files on helper threads.
 *
 * A socket's operation is tried in wait, before it sleeps; where that says EAGAIN it is parked in
 * its descriptor's slot and the descriptor armed with EPOLLONESHOT for exactly what is parked.
 * Arming is always said to the kernel anew: the loop is not told when a descriptor is closed, so
 * what it remembered of a number might be about another file.
 *
 * A watch's registration is level-triggered, and carries a generation, so that an event fetched for
 * a watch that is stopped by an earlier callback of the same iteration reaches nobody.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "blockmig/core/loop_internal.h"

enum { FILE_THREADS = 8, EVENTS_A_WAIT = 256 };

/* bmig_io.state */
enum { IO_IDLE, IO_TRYING, IO_PARKED, IO_FILE, IO_FINISHED };
enum { IO_CANCELLED = 0x100 };

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
    int first_changed; /* descriptors whose watch wants other events; -1 ends */
    struct bmig_io_list trying;
    struct bmig_pool files;
    int event_count;
    struct epoll_event events[EVENTS_A_WAIT];
};

static struct epoll_loop *epoll_of(const struct bmig_loop *loop)
{
    return (struct epoll_loop *)loop;
}

/* ---- slots ---- */

static struct slot *slot_of(struct epoll_loop *epoll, int fd)
{
    return fd >= 0 && (size_t)fd < epoll->slot_count ? &epoll->slots[fd] : NULL;
}

static int reserve_slot(struct epoll_loop *epoll, int fd)
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

/* Makes (fd, events) what epoll waits for, whether or not it knows the file already. */
static int arm(struct epoll_loop *epoll, int fd, uint32_t events, uint32_t generation, bool expect)
{
    struct epoll_event event = {.events = events,
                                .data.u64 = (uint64_t)generation << 32 | (uint32_t)fd};
    int first = expect ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (epoll_ctl(epoll->epoll_fd, first, fd, &event) == 0)
        return 0;
    if (errno != (expect ? ENOENT : EEXIST))
        return -errno;
    if (epoll_ctl(epoll->epoll_fd, expect ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &event) == 0)
        return 0;
    return -errno;
}

/* ---- files ---- */

static int run_file(const struct bmig_io *io)
{
    ssize_t ret;
    do {
        switch (io->op) {
        case BMIG_IO_READ:
            ret = pread(io->fd, io->data, io->length, (off_t)io->offset);
            break;
        case BMIG_IO_WRITE:
            ret = pwrite(io->fd, io->data, io->length, (off_t)io->offset);
            break;
        case BMIG_IO_FSYNC:
            ret = io->mode ? fdatasync(io->fd) : fsync(io->fd);
            break;
        case BMIG_IO_FALLOCATE:
            ret = fallocate(io->fd, io->mode, (off_t)io->offset, (off_t)io->length);
            break;
        default:
            return -EINVAL;
        }
    } while (ret < 0 && errno == EINTR);
    return ret < 0 ? -errno : (int)ret;
}

static void run_file_on_helper(void *item)
{
    struct bmig_io *io = item;
    struct bmig_loop *loop = io->loop;
    io->result = run_file(io);
    bmig_inbox_put(&loop->file_done, io);
    bmig_loop_wake(loop);
}

static bool is_file(const struct bmig_io *io)
{
    return io->op <= BMIG_IO_FALLOCATE;
}

/* ---- sockets ---- */

static int try_socket(const struct bmig_io *io)
{
    ssize_t ret;
    do {
        switch (io->op) {
        case BMIG_IO_RECV:
            ret = recv(io->fd, io->data, io->length, MSG_DONTWAIT);
            break;
        case BMIG_IO_SENDMSG:
            ret = sendmsg(io->fd, io->msg, MSG_NOSIGNAL | MSG_DONTWAIT);
            break;
        case BMIG_IO_ACCEPT:
            ret = accept4(io->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
            break;
        default:
            return -EINVAL;
        }
    } while (ret < 0 && errno == EINTR);
    return ret < 0 ? -errno : (int)ret;
}

static int park_of(const struct bmig_io *io)
{
    return io->op == BMIG_IO_RECV ? PARK_RECV : io->op == BMIG_IO_SENDMSG ? PARK_SEND : PARK_ACCEPT;
}

static int arm_parked(struct epoll_loop *epoll, int fd)
{
    const struct slot *slot = &epoll->slots[fd];
    uint32_t events = EPOLLONESHOT;
    if (slot->parked[PARK_RECV] || slot->parked[PARK_ACCEPT])
        events |= EPOLLIN;
    if (slot->parked[PARK_SEND])
        events |= EPOLLOUT;
    return arm(epoll, fd, events, 0, true);
}

static void finish(struct bmig_io *io, int result)
{
    io->state = IO_FINISHED;
    bmig_loop_finish_later(io, result);
}

static void park(struct epoll_loop *epoll, struct bmig_io *io)
{
    int ret = reserve_slot(epoll, io->fd);
    if (ret < 0) {
        finish(io, ret);
        return;
    }
    struct bmig_io **place = &epoll->slots[io->fd].parked[park_of(io)];
    assert(!*place); /* at most one of each per descriptor */
    *place = io;
    io->state = IO_PARKED;
    ret = arm_parked(epoll, io->fd);
    if (ret < 0) {
        *place = NULL;
        finish(io, ret);
    }
}

static void try_or_park(struct epoll_loop *epoll, struct bmig_io *io)
{
    if (io->state & IO_CANCELLED) {
        finish(io, -ECANCELED);
        return;
    }
    int result = is_file(io) ? run_file(io) : try_socket(io);
    if (result == -EAGAIN && !is_file(io))
        park(epoll, io);
    else
        finish(io, result);
}

static void try_all(struct epoll_loop *epoll)
{
    struct bmig_io *io;
    while ((io = bmig_io_list_take(&epoll->trying)))
        try_or_park(epoll, io);
}

/* fd is ready in some way: tries what is parked and arms again for what stays. */
static void try_parked(struct epoll_loop *epoll, int fd)
{
    struct slot *slot = slot_of(epoll, fd);
    bool any_left = false;
    if (!slot)
        return;
    for (int i = 0; i < PARKS; i++) {
        struct bmig_io *io = slot->parked[i];
        if (!io)
            continue;
        int result = try_socket(io);
        if (result == -EAGAIN) {
            any_left = true;
            continue;
        }
        slot->parked[i] = NULL;
        finish(io, result);
    }
    int ret = any_left ? arm_parked(epoll, fd) : 0;
    for (int i = 0; ret < 0 && i < PARKS; i++) {
        if (slot->parked[i])
            finish(slot->parked[i], ret);
        slot->parked[i] = NULL;
    }
}

void bmig_epoll_io(struct bmig_loop *loop, struct bmig_io *io)
{
    struct epoll_loop *epoll = epoll_of(loop);
    if (is_file(io) && !loop->no_helpers) {
        io->state = IO_FILE;
        if (bmig_pool_put(&epoll->files, io))
            return;
    }
    io->state = IO_TRYING;
    bmig_io_list_put(&epoll->trying, io);
}

void bmig_epoll_io_cancel(struct bmig_loop *loop, struct bmig_io *io)
{
    struct epoll_loop *epoll = epoll_of(loop);
    if (io->state == IO_TRYING) {
        io->state |= IO_CANCELLED;
    } else if (io->state == IO_PARKED) {
        epoll->slots[io->fd].parked[park_of(io)] = NULL;
        finish(io, -ECANCELED);
    } else if (io->state == IO_FILE && bmig_pool_withdraw(&epoll->files, io)) {
        finish(io, -ECANCELED);
    }
}

/* ---- watches ---- */

int bmig_epoll_watch_start(struct bmig_watch *watch)
{
    struct epoll_loop *epoll = epoll_of(watch->loop);
    int ret = reserve_slot(epoll, watch->fd);
    if (ret < 0)
        return ret;
    struct slot *slot = &epoll->slots[watch->fd];
    if (slot->watch)
        return -EEXIST;
    if (fcntl(watch->fd, F_GETFD) < 0)
        return -errno;
    if (++slot->generation == 0)
        slot->generation = 1;
    slot->registered = 0;
    if (watch->events) {
        ret = arm(epoll, watch->fd, (uint32_t)watch->events, slot->generation, false);
        if (ret < 0)
            return ret;
        slot->registered = (uint32_t)watch->events;
    }
    slot->watch = watch;
    return 0;
}

/* Noted only: told to epoll once before the wait, if by then it is still a change. */
void bmig_epoll_watch_changed(struct bmig_watch *watch)
{
    struct epoll_loop *epoll = epoll_of(watch->loop);
    struct slot *slot = &epoll->slots[watch->fd];
    if (slot->changed)
        return;
    slot->changed = true;
    slot->next_changed = epoll->first_changed;
    epoll->first_changed = watch->fd;
}

void bmig_epoll_watch_stop(struct bmig_watch *watch)
{
    struct epoll_loop *epoll = epoll_of(watch->loop);
    struct slot *slot = &epoll->slots[watch->fd];
    assert(slot->watch == watch);
    if (slot->registered)
        epoll_ctl(epoll->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
    slot->registered = 0;
    slot->watch = NULL;
}

/* A sleeping watch is taken out: epoll would report a hang-up even to an empty set of events. */
static void tell_changes(struct epoll_loop *epoll)
{
    int fd = epoll->first_changed;
    epoll->first_changed = -1;
    while (fd >= 0) {
        struct slot *slot = &epoll->slots[fd];
        uint32_t wanted = slot->watch ? (uint32_t)slot->watch->events : 0;
        if (slot->watch && wanted != slot->registered) {
            if (wanted == 0)
                epoll_ctl(epoll->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
            else
                arm(epoll, fd, wanted, slot->generation, slot->registered != 0);
            slot->registered = wanted;
        }
        slot->changed = false;
        fd = slot->next_changed;
    }
}

/* ---- the iteration ---- */

static int wait_events(struct epoll_loop *epoll, uint64_t timeout_ns)
{
    if (!epoll->no_pwait2) {
        struct timespec timeout = {(time_t)(timeout_ns / 1000000000),
                                   (long)(timeout_ns % 1000000000)};
        int ret = epoll_pwait2(epoll->epoll_fd, epoll->events, EVENTS_A_WAIT,
                               timeout_ns == UINT64_MAX ? NULL : &timeout, NULL);
        if (ret >= 0 || errno != ENOSYS)
            return ret;
        epoll->no_pwait2 = true;
    }
    uint64_t timeout_ms = timeout_ns / 1000000 + (timeout_ns % 1000000 != 0);
    int bounded_ms = timeout_ns == UINT64_MAX ? -1
                     : timeout_ms < 86400000  ? (int)timeout_ms
                                              : 86400000;
    return epoll_wait(epoll->epoll_fd, epoll->events, EVENTS_A_WAIT, bounded_ms);
}

bool bmig_epoll_wait(struct bmig_loop *loop, uint64_t timeout_ns)
{
    struct epoll_loop *epoll = epoll_of(loop);
    tell_changes(epoll);
    try_all(epoll);
    epoll->event_count = wait_events(epoll, loop->finished.first ? 0 : timeout_ns);
    if (epoll->event_count < 0) {
        assert(errno == EINTR);
        epoll->event_count = 0;
    }
    return epoll->event_count > 0 || bmig_loop_runnable(loop);
}

static void epoll_wait_op(struct bmig_loop *loop, uint64_t timeout_ns)
{
    bmig_epoll_wait(loop, timeout_ns);
}

static void take_file_done(struct bmig_loop *loop)
{
    struct bmig_io *io = bmig_inbox_take(&loop->file_done);
    while (io) {
        struct bmig_io *next = io->next;
        finish(io, io->result);
        io = next;
    }
}

static void dispatch_watch(struct epoll_loop *epoll, const struct epoll_event *event)
{
    uint32_t generation = (uint32_t)(event->data.u64 >> 32);
    const struct slot *slot = slot_of(epoll, (int)(uint32_t)event->data.u64);
    if (!slot || !slot->watch || generation != slot->generation)
        return;
    uint32_t wanted = (uint32_t)slot->watch->events;
    uint32_t revents = event->events & (wanted | EPOLLERR | EPOLLHUP);
    if (wanted && revents)
        bmig_loop_ready(slot->watch, (int)revents);
}

/* Sockets are tried before any callback runs, because callbacks may close and open descriptors. */
void bmig_epoll_dispatch(struct bmig_loop *loop)
{
    struct epoll_loop *epoll = epoll_of(loop);
    take_file_done(loop);
    for (int i = 0; i < epoll->event_count; i++) {
        int fd = (int)(uint32_t)epoll->events[i].data.u64;
        if (fd == loop->wake_fd)
            (void)!read(fd, &(uint64_t){0}, sizeof(uint64_t));
        else if (epoll->events[i].data.u64 >> 32 == 0)
            try_parked(epoll, fd);
    }
    bmig_loop_finish_all(loop);
    for (int i = 0; i < epoll->event_count; i++)
        if (epoll->events[i].data.u64 >> 32 != 0)
            dispatch_watch(epoll, &epoll->events[i]);
    epoll->event_count = 0;
}

/* ---- making and freeing ---- */

static int init_epoll(struct epoll_loop *epoll)
{
    epoll->first_changed = -1;
    epoll->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll->epoll_fd < 0)
        return -errno;
    int ret = arm(epoll, epoll->base.wake_fd, EPOLLIN, 0, false);
    if (ret < 0) {
        close(epoll->epoll_fd);
        return ret;
    }
    bmig_pool_init(&epoll->files, "bmig-file", FILE_THREADS, offsetof(struct bmig_io, next),
                   run_file_on_helper);
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
    struct epoll_loop *epoll = epoll_of(loop);
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
