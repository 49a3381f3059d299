/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Io without io_uring: sockets by readiness, files on helper threads.
 *
 * A socket's operation is tried in wait, before it sleeps; where that says EAGAIN it is parked in
 * its descriptor's slot and the descriptor armed with EPOLLONESHOT for exactly what is parked.
 * Arming is always said to the kernel anew: the loop is not told when a descriptor is closed, so
 * what it remembered of a number might be about another file.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "blockmig/core/loop_epoll.h"

enum { FILE_THREADS = 8 };

/* bmig_io.state */
enum { IO_IDLE, IO_TRYING, IO_PARKED, IO_FILE, IO_FINISHED };
enum { IO_CANCELLED = 0x100 };

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

void bmig_epoll_io_init(struct epoll_loop *epoll)
{
    bmig_pool_init(&epoll->files, "bmig-file", FILE_THREADS, offsetof(struct bmig_io, next),
                   run_file_on_helper);
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
    return bmig_epoll_arm(epoll, fd, events, 0, true);
}

static void finish(struct bmig_io *io, int result)
{
    io->state = IO_FINISHED;
    bmig_loop_finish_later(io, result);
}

static void park(struct epoll_loop *epoll, struct bmig_io *io)
{
    int ret = bmig_epoll_reserve(epoll, io->fd);
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

void bmig_epoll_try_all(struct epoll_loop *epoll)
{
    struct bmig_io *io;
    while ((io = bmig_io_list_take(&epoll->trying)))
        try_or_park(epoll, io);
}

/* fd is ready in some way: tries what is parked and arms again for what stays. */
void bmig_epoll_try_parked(struct epoll_loop *epoll, int fd)
{
    struct slot *slot = bmig_epoll_slot(epoll, fd);
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
    struct epoll_loop *epoll = bmig_epoll_of(loop);
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
    struct epoll_loop *epoll = bmig_epoll_of(loop);
    if (io->state == IO_TRYING) {
        io->state |= IO_CANCELLED;
    } else if (io->state == IO_PARKED) {
        epoll->slots[io->fd].parked[park_of(io)] = NULL;
        finish(io, -ECANCELED);
    } else if (io->state == IO_FILE && bmig_pool_withdraw(&epoll->files, io)) {
        finish(io, -ECANCELED);
    }
}

void bmig_epoll_take_files(struct epoll_loop *epoll)
{
    struct bmig_io *io = bmig_inbox_take(&epoll->base.file_done);
    while (io) {
        struct bmig_io *next = io->next;
        finish(io, io->result);
        io = next;
    }
}
