/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Io on io_uring: a request becomes an entry of the submission queue, or waits on the backlog for
 * one.
 *
 * A cancellation that finds no entry puts its io on the backlog too, since io->next is free while
 * the kernel has it; IO_CANCEL_DUE says that it is there.
 */
#include <errno.h>
#include <poll.h>
#include <sys/uio.h>

#include "blockmig/core/log.h"
#include "blockmig/core/loop_uring.h"

/* bmig_io.state */
enum {
    IO_IDLE,
    IO_BACKLOG, /* waits for an entry of the submission queue */
    IO_FLYING,  /* the kernel has it */
    IO_POLLING, /* the kernel said EAGAIN: it has a poll for it, then it is tried again */
    IO_FINISHED,
    IO_STATE = 0xff,
    IO_CANCELLED = 0x100,
    IO_CANCEL_DUE = 0x200, /* on the backlog for the sake of its cancellation */
    IO_ASYNC = 0x400,      /* a file that said EAGAIN: on the kernel's helper threads at once */
};

/* The kernel registers at most 1 GiB as one buffer. */
enum { BUFFERS_MAX = 64 };
static const size_t buffer_bytes = (size_t)1 << 30;

/* ---- io ---- */

static int buffer_index(const struct uring_loop *uring, const struct bmig_io *io)
{
    size_t start = (size_t)((char *)io->data - uring->buffers);
    if (start >= uring->buffers_length || io->length > uring->buffers_length - start)
        return -1;
    size_t index = start / buffer_bytes;
    return io->length == 0 || (start + io->length - 1) / buffer_bytes == index ? (int)index : -1;
}

static void prepare_file(struct uring_loop *uring, struct io_uring_sqe *sqe, struct bmig_io *io)
{
    int index;
    switch (io->op) {
    case BMIG_IO_READ:
        index = buffer_index(uring, io);
        if (index >= 0)
            io_uring_prep_read_fixed(sqe, io->fd, io->data, io->length, io->offset, index);
        else
            io_uring_prep_read(sqe, io->fd, io->data, io->length, io->offset);
        break;
    case BMIG_IO_WRITE:
        index = buffer_index(uring, io);
        if (index >= 0)
            io_uring_prep_write_fixed(sqe, io->fd, io->data, io->length, io->offset, index);
        else
            io_uring_prep_write(sqe, io->fd, io->data, io->length, io->offset);
        break;
    case BMIG_IO_FSYNC:
        io_uring_prep_fsync(sqe, io->fd, io->mode ? IORING_FSYNC_DATASYNC : 0);
        break;
    default:
        io_uring_prep_fallocate(sqe, io->fd, io->mode, (off_t)io->offset, (off_t)io->length);
        break;
    }
    if (io->state & IO_ASYNC)
        sqe->flags |= IOSQE_ASYNC;
}

static void prepare(struct uring_loop *uring, struct io_uring_sqe *sqe, struct bmig_io *io)
{
    switch (io->op) {
    case BMIG_IO_RECV:
        io_uring_prep_recv(sqe, io->fd, io->data, io->length, 0);
        break;
    case BMIG_IO_SENDMSG:
        io_uring_prep_sendmsg(sqe, io->fd, io->msg, MSG_NOSIGNAL);
        break;
    case BMIG_IO_ACCEPT:
        io_uring_prep_accept(sqe, io->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        break;
    default:
        prepare_file(uring, sqe, io);
        break;
    }
    sqe->user_data = bmig_uring_data(io, TAG_IO);
    io->state = (io->state & ~IO_STATE) | IO_FLYING;
}

static void put_backlog(struct uring_loop *uring, struct bmig_io *io)
{
    bmig_io_list_put(&uring->backlog, io);
}

/* Behind what waits already, so that the kernel sees the order of the calls. */
static void submit_or_wait(struct uring_loop *uring, struct bmig_io *io)
{
    struct io_uring_sqe *sqe = uring->backlog.first ? NULL : bmig_uring_sqe(uring);
    if (sqe) {
        prepare(uring, sqe, io);
    } else {
        io->state = (io->state & ~IO_STATE) | IO_BACKLOG;
        put_backlog(uring, io);
    }
}

void bmig_uring_io(struct bmig_loop *loop, struct bmig_io *io)
{
    io->state = IO_IDLE;
    submit_or_wait(bmig_uring_of(loop), io);
}

static void prepare_cancel(struct io_uring_sqe *sqe, struct bmig_io *io)
{
    bool polling = (io->state & IO_STATE) == IO_POLLING;
    io_uring_prep_cancel64(sqe, bmig_uring_data(io, polling ? TAG_IO_POLL : TAG_IO), 0);
    sqe->user_data = TAG_NOTHING;
}

void bmig_uring_io_cancel(struct bmig_loop *loop, struct bmig_io *io)
{
    struct uring_loop *uring = bmig_uring_of(loop);
    if (io->state & IO_CANCELLED || (io->state & IO_STATE) == IO_FINISHED)
        return;
    io->state |= IO_CANCELLED;
    if ((io->state & IO_STATE) == IO_BACKLOG)
        return; /* ended when its turn comes */
    struct io_uring_sqe *sqe = bmig_uring_sqe(uring);
    if (sqe) {
        prepare_cancel(sqe, io);
        return;
    }
    io->state |= IO_CANCEL_DUE;
    put_backlog(uring, io);
}

void bmig_uring_flush_backlog(struct uring_loop *uring)
{
    while (uring->backlog.first) {
        struct bmig_io *io = uring->backlog.first;
        bool dropped = (io->state & IO_STATE) == IO_BACKLOG && io->state & IO_CANCELLED;
        struct io_uring_sqe *sqe = dropped ? NULL : bmig_uring_sqe(uring);
        if (!dropped && !sqe)
            return;
        bmig_io_list_take(&uring->backlog);
        if (dropped) {
            io->state = IO_FINISHED;
            bmig_loop_finish_later(io, -ECANCELED);
        } else if (io->state & IO_CANCEL_DUE) {
            prepare_cancel(sqe, io);
            io->state &= ~IO_CANCEL_DUE;
        } else {
            prepare(uring, sqe, io);
        }
    }
}

/* Kernels that take O_NONBLOCK to mean "don't wait even asynchronously" say EAGAIN: poll, then
 * again. */
static bool try_again(struct uring_loop *uring, struct bmig_io *io)
{
    if (io->state & IO_CANCELLED)
        return false;
    if (io->op <= BMIG_IO_FALLOCATE) {
        if (io->state & IO_ASYNC)
            return false;
        io->state |= IO_ASYNC;
        submit_or_wait(uring, io);
        return true;
    }
    struct io_uring_sqe *sqe = bmig_uring_sqe(uring);
    if (!sqe) {
        submit_or_wait(uring, io);
        return true;
    }
    io_uring_prep_poll_add(sqe, io->fd, io->op == BMIG_IO_SENDMSG ? POLLOUT : POLLIN);
    sqe->user_data = bmig_uring_data(io, TAG_IO_POLL);
    io->state = (io->state & ~IO_STATE) | IO_POLLING;
    return true;
}

void bmig_uring_complete_io(struct uring_loop *uring, struct bmig_io *io, unsigned tag, int result)
{
    if (io->state & IO_CANCEL_DUE) {
        bmig_io_list_remove(&uring->backlog, io);
        io->state &= ~IO_CANCEL_DUE;
    }
    if (tag == TAG_IO_POLL && result >= 0) {
        if (!(io->state & IO_CANCELLED)) {
            submit_or_wait(uring, io);
            return;
        }
        result = -ECANCELED;
    }
    if (result == -EAGAIN && try_again(uring, io))
        return;
    io->state = IO_FINISHED;
    bmig_loop_finish(io, result);
}

/* ---- buffers ---- */

void bmig_uring_set_buffers(struct bmig_loop *loop, void *base, size_t length)
{
    struct uring_loop *uring = bmig_uring_of(loop);
    if (uring->buffers_length > 0) {
        if (uring->enabled)
            io_uring_submit(&uring->ring); /* what refers to the area by number */
        io_uring_unregister_buffers(&uring->ring);
        uring->buffers_length = 0;
    }
    if (!base || length == 0 || length / buffer_bytes >= BUFFERS_MAX)
        return;
    struct iovec pieces[BUFFERS_MAX];
    unsigned count = 0;
    for (size_t at = 0; at < length; at += buffer_bytes, count++) {
        pieces[count].iov_base = (char *)base + at;
        pieces[count].iov_len = length - at < buffer_bytes ? length - at : buffer_bytes;
    }
    int ret = io_uring_register_buffers(&uring->ring, pieces, count);
    if (ret < 0) {
        bmig_log(BMIG_LOG_DEBUG, "io_uring takes no buffers for good: %s", bmig_strerror(-ret));
        return;
    }
    uring->buffers = base;
    uring->buffers_length = length;
}
