/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The loop on io_uring: all that an iteration started goes to the kernel in the one system call
 * that also waits.
 *
 * A completion names its operation by user_data: an address with the kind in its low bits. For io
 * that is the user's struct, which is the loop's until done, and done runs only from its
 * completion. For watches it is a struct poll of the loop's own, since a watch may be stopped and
 * freed while its poll is still in the kernel; it goes back to the freelist when the last
 * completion has come.
 *
 * The kernel's one-shot polls are armed again before each wait for what the watch then wants: one
 * poll per direction, so that adding and dropping POLLOUT, which libraries do all the time, cancels
 * nothing.
 *
 * The ring starts disabled and is enabled by the first wait: the thread that does it is the only
 * one that the kernel lets submit, and the loop may have been made by another.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "blockmig/core/log.h"
#include "blockmig/core/loop_internal.h"

enum { SQ_ENTRIES = 1024, CQ_ENTRIES = 8192 };

/* The low bits of user_data. */
enum { TAG_IO, TAG_IO_POLL, TAG_READ_POLL, TAG_WRITE_POLL, TAG_WAKE, TAG_NOTHING, TAG_MASK = 7 };

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

/* The kernel registers at most 1 GiB as one buffer. */
enum { BUFFERS_MAX = 64 };
static const size_t buffer_bytes = (size_t)1 << 30;

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
};

static struct uring_loop *uring_of(const struct bmig_loop *loop)
{
    return (struct uring_loop *)loop;
}

/* ---- the queue ---- */

static uint64_t user_data(const void *address, unsigned tag)
{
    return (uint64_t)(uintptr_t)address | tag;
}

/* Nothing may be submitted but by the ring's thread, and that is known at the first wait. */
static struct io_uring_sqe *get_sqe(struct uring_loop *uring)
{
    if (!uring->enabled)
        return NULL;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);
    if (sqe)
        return sqe;
    io_uring_submit(&uring->ring);
    return io_uring_get_sqe(&uring->ring);
}

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
    sqe->user_data = user_data(io, TAG_IO);
    io->state = (io->state & ~IO_STATE) | IO_FLYING;
}

static void put_backlog(struct uring_loop *uring, struct bmig_io *io)
{
    bmig_io_list_put(&uring->backlog, io);
}

/* Behind what waits already, so that the kernel sees the order of the calls. */
static void submit_or_wait(struct uring_loop *uring, struct bmig_io *io)
{
    struct io_uring_sqe *sqe = uring->backlog.first ? NULL : get_sqe(uring);
    if (sqe) {
        prepare(uring, sqe, io);
    } else {
        io->state = (io->state & ~IO_STATE) | IO_BACKLOG;
        put_backlog(uring, io);
    }
}

static void uring_io(struct bmig_loop *loop, struct bmig_io *io)
{
    io->state = IO_IDLE;
    submit_or_wait(uring_of(loop), io);
}

static void prepare_cancel(struct io_uring_sqe *sqe, struct bmig_io *io)
{
    bool polling = (io->state & IO_STATE) == IO_POLLING;
    io_uring_prep_cancel64(sqe, user_data(io, polling ? TAG_IO_POLL : TAG_IO), 0);
    sqe->user_data = TAG_NOTHING;
}

static void uring_io_cancel(struct bmig_loop *loop, struct bmig_io *io)
{
    struct uring_loop *uring = uring_of(loop);
    if (io->state & IO_CANCELLED || (io->state & IO_STATE) == IO_FINISHED)
        return;
    io->state |= IO_CANCELLED;
    if ((io->state & IO_STATE) == IO_BACKLOG)
        return; /* ended when its turn comes */
    struct io_uring_sqe *sqe = get_sqe(uring);
    if (sqe) {
        prepare_cancel(sqe, io);
        return;
    }
    io->state |= IO_CANCEL_DUE;
    put_backlog(uring, io);
}

static void flush_backlog(struct uring_loop *uring)
{
    while (uring->backlog.first) {
        struct bmig_io *io = uring->backlog.first;
        bool dropped = (io->state & IO_STATE) == IO_BACKLOG && io->state & IO_CANCELLED;
        struct io_uring_sqe *sqe = dropped ? NULL : get_sqe(uring);
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
    struct io_uring_sqe *sqe = get_sqe(uring);
    if (!sqe) {
        submit_or_wait(uring, io);
        return true;
    }
    io_uring_prep_poll_add(sqe, io->fd, io->op == BMIG_IO_SENDMSG ? POLLOUT : POLLIN);
    sqe->user_data = user_data(io, TAG_IO_POLL);
    io->state = (io->state & ~IO_STATE) | IO_POLLING;
    return true;
}

static void complete_io(struct uring_loop *uring, struct bmig_io *io, unsigned tag, int result)
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

/* ---- watches ---- */

static void look_at(struct uring_loop *uring, struct poll *poll)
{
    if (poll->changed)
        return;
    poll->changed = true;
    poll->next_changed = uring->first_changed;
    uring->first_changed = poll;
}

static int uring_watch_start(struct bmig_watch *watch)
{
    struct uring_loop *uring = uring_of(watch->loop);
    if (fcntl(watch->fd, F_GETFD) < 0)
        return -errno;
    struct poll *poll = uring->free_polls;
    if (poll)
        uring->free_polls = poll->next_ready;
    else
        poll = malloc(sizeof(*poll));
    if (!poll)
        return -ENOMEM;
    *poll = (struct poll){.watch = watch, .fd = watch->fd};
    watch->impl = poll;
    look_at(uring, poll);
    return 0;
}

static void uring_watch_changed(struct bmig_watch *watch)
{
    look_at(uring_of(watch->loop), watch->impl);
}

static void uring_watch_stop(struct bmig_watch *watch)
{
    struct poll *poll = watch->impl;
    poll->watch = NULL;
    watch->impl = NULL;
    look_at(uring_of(watch->loop), poll);
}

static void give_back(struct uring_loop *uring, struct poll *poll)
{
    if (poll->watch || poll->changed || poll->ready || poll->armed[READ] || poll->armed[WRITE])
        return;
    poll->next_ready = uring->free_polls;
    uring->free_polls = poll;
}

/* Brings one direction to what is wanted; false where the submission queue is full. */
static bool arm_direction(struct uring_loop *uring, struct poll *poll, int direction)
{
    int event = direction == READ ? BMIG_WATCH_READ : BMIG_WATCH_WRITE;
    unsigned tag = direction == READ ? TAG_READ_POLL : TAG_WRITE_POLL;
    bool add = poll->watch && poll->watch->events & event && !poll->armed[direction];
    bool remove = !poll->watch && poll->armed[direction] && !poll->removing[direction];
    if (!add && !remove)
        return true;
    struct io_uring_sqe *sqe = get_sqe(uring);
    if (!sqe)
        return false;
    if (add) {
        io_uring_prep_poll_add(sqe, poll->fd, (unsigned)event);
        sqe->user_data = user_data(poll, tag);
        poll->armed[direction] = true;
        uring->polls_out++;
    } else {
        io_uring_prep_poll_remove(sqe, user_data(poll, tag));
        sqe->user_data = TAG_NOTHING;
        poll->removing[direction] = true;
    }
    return true;
}

static void arm_changed(struct uring_loop *uring)
{
    while (uring->first_changed) {
        struct poll *poll = uring->first_changed;
        for (int direction = 0; direction < DIRECTIONS; direction++)
            if (!arm_direction(uring, poll, direction))
                return;
        uring->first_changed = poll->next_changed;
        poll->changed = false;
        give_back(uring, poll);
    }
}

static void complete_poll(struct uring_loop *uring, struct poll *poll, int direction, int result)
{
    uring->polls_out--;
    poll->armed[direction] = false;
    poll->removing[direction] = false;
    if (!poll->watch) {
        give_back(uring, poll);
        return;
    }
    look_at(uring, poll);
    if (result >= 0)
        poll->revents |= result;
    else if (result != -ECANCELED)
        poll->revents |= POLLERR | POLLNVAL;
    if (poll->ready)
        return;
    poll->ready = true;
    poll->next_ready = NULL;
    *uring->last_ready = poll;
    uring->last_ready = &poll->next_ready;
}

/* After all completions are looked at, so that both directions make one callback. */
static void run_ready(struct uring_loop *uring)
{
    struct poll *poll;
    while ((poll = uring->first_ready)) {
        uring->first_ready = poll->next_ready;
        if (!uring->first_ready)
            uring->last_ready = &uring->first_ready;
        poll->ready = false;
        int events = poll->watch ? poll->watch->events : 0;
        int revents = poll->revents & (events | POLLERR | POLLHUP | POLLNVAL);
        poll->revents = 0;
        if (events && revents)
            bmig_loop_ready(poll->watch, revents);
        else
            give_back(uring, poll);
    }
}

/* ---- the iteration ---- */

static void enable(struct uring_loop *uring)
{
    /* By hand, because liburing 2.3 declares io_uring_enable_rings and does not export it. */
    long ret =
        syscall(SYS_io_uring_register, uring->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    assert(ret == 0);
    uring->enabled = true;
    uring->thread = pthread_self();
}

static void arm_wake(struct uring_loop *uring)
{
    struct io_uring_sqe *sqe = uring->wake_armed ? NULL : get_sqe(uring);
    if (!sqe)
        return;
    io_uring_prep_read(sqe, uring->base.wake_fd, &uring->wake_count, sizeof(uring->wake_count), 0);
    sqe->user_data = TAG_WAKE;
    uring->wake_armed = true;
}

/* Whether a system call that waits for nothing would do anything. */
static bool kernel_has_something(struct io_uring *ring)
{
    unsigned flags = __atomic_load_n(ring->sq.kflags, __ATOMIC_RELAXED);
    return io_uring_sq_ready(ring) > 0 || flags & (IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN);
}

static int enter(struct uring_loop *uring, uint64_t timeout_ns)
{
    struct io_uring *ring = &uring->ring;
    if (timeout_ns == 0)
        return kernel_has_something(ring) ? io_uring_submit_and_get_events(ring) : 0;
    if (timeout_ns == UINT64_MAX)
        return io_uring_submit_and_wait(ring, 1);
    struct __kernel_timespec timeout = {(long long)(timeout_ns / 1000000000),
                                        (long long)(timeout_ns % 1000000000)};
    struct io_uring_cqe *cqe;
    return io_uring_submit_and_wait_timeout(ring, &cqe, 1, &timeout, NULL);
}

static void uring_wait(struct bmig_loop *loop, uint64_t timeout_ns)
{
    struct uring_loop *uring = uring_of(loop);
    if (!uring->enabled)
        enable(uring);
    arm_wake(uring);
    flush_backlog(uring);
    arm_changed(uring);
    bool due = loop->finished.first || uring->backlog.first || uring->first_changed;
    int ret = enter(uring, due ? 0 : timeout_ns);
    /* EBUSY and EAGAIN: the kernel wants completions taken, or memory, first; the entries stay. */
    assert(ret >= 0 || ret == -ETIME || ret == -EINTR || ret == -EBUSY || ret == -EAGAIN);
}

static void complete(struct uring_loop *uring, uint64_t data, int result)
{
    unsigned tag = data & TAG_MASK;
    void *address = (void *)(uintptr_t)(data & ~(uint64_t)TAG_MASK);
    switch (tag) {
    case TAG_IO:
    case TAG_IO_POLL:
        complete_io(uring, address, tag, result);
        break;
    case TAG_READ_POLL:
        complete_poll(uring, address, READ, result);
        break;
    case TAG_WRITE_POLL:
        complete_poll(uring, address, WRITE, result);
        break;
    case TAG_WAKE:
        uring->wake_armed = false;
        break;
    default:
        break;
    }
}

/* Only what is there at the beginning, so that a fast device can't keep timers waiting. */
static void dispatch_completions(struct uring_loop *uring)
{
    struct io_uring *ring = &uring->ring;
    for (unsigned left = io_uring_cq_ready(ring); left > 0; left--) {
        unsigned head = *ring->cq.khead;
        const struct io_uring_cqe *cqe = &ring->cq.cqes[head & *ring->cq.kring_mask];
        uint64_t data = cqe->user_data;
        int result = cqe->res;
        io_uring_cq_advance(ring, 1);
        complete(uring, data, result);
    }
}

static void uring_dispatch(struct bmig_loop *loop)
{
    struct uring_loop *uring = uring_of(loop);
    bmig_loop_finish_all(loop);
    dispatch_completions(uring);
    run_ready(uring);
}

/* ---- buffers ---- */

static void uring_set_buffers(struct bmig_loop *loop, void *base, size_t length)
{
    struct uring_loop *uring = uring_of(loop);
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

/* ---- making and freeing ---- */

/* The newest kernel's wishes first; what a kernel does not know it refuses with EINVAL. */
static int init_ring(struct io_uring *ring)
{
    static const unsigned wishes[] = {
        IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
            IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
        IORING_SETUP_R_DISABLED | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
            IORING_SETUP_SUBMIT_ALL,
        IORING_SETUP_R_DISABLED,
    };
    int ret = -EINVAL;
    for (size_t i = 0; ret == -EINVAL && i < sizeof(wishes) / sizeof(wishes[0]); i++) {
        struct io_uring_params params = {.flags =
                                             wishes[i] | IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE,
                                         .cq_entries = CQ_ENTRIES};
        ret = io_uring_queue_init_params(SQ_ENTRIES, ring, &params);
    }
    if (ret < 0)
        return ret;
    unsigned needed = IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG | IORING_FEAT_FAST_POLL;
    if ((ring->features & needed) == needed)
        return 0;
    io_uring_queue_exit(ring);
    return -ENOSYS;
}

/* What is left in the kernel holds its files open, and they are the user's, who may close one and
 * at once want its port again. Only the ring's thread can bring them down in order. */
static void drain(struct uring_loop *uring)
{
    if (!uring->enabled || !pthread_equal(uring->thread, pthread_self()))
        return;
    struct io_uring_sqe *sqe = uring->wake_armed ? get_sqe(uring) : NULL;
    if (sqe) {
        io_uring_prep_cancel64(sqe, TAG_WAKE, 0);
        sqe->user_data = TAG_NOTHING;
    }
    while (uring->wake_armed || uring->polls_out > 0) {
        arm_changed(uring);
        int ret = io_uring_submit_and_wait(&uring->ring, 1);
        if (ret < 0 && ret != -EINTR && ret != -EBUSY && ret != -EAGAIN)
            return;
        dispatch_completions(uring);
    }
    arm_changed(uring);
}

static void uring_fini(struct bmig_loop *loop)
{
    struct uring_loop *uring = uring_of(loop);
    drain(uring);
    io_uring_queue_exit(&uring->ring);
    while (uring->first_changed) {
        struct poll *poll = uring->first_changed;
        uring->first_changed = poll->next_changed;
        poll->changed = false;
        give_back(uring, poll);
    }
    while (uring->free_polls) {
        struct poll *poll = uring->free_polls;
        uring->free_polls = poll->next_ready;
        free(poll);
    }
}

static const struct bmig_loop_ops uring_ops = {
    .name = "io_uring",
    .clock = bmig_loop_real_clock,
    .wait = uring_wait,
    .dispatch = uring_dispatch,
    .io = uring_io,
    .io_cancel = uring_io_cancel,
    .watch_start = uring_watch_start,
    .watch_changed = uring_watch_changed,
    .watch_stop = uring_watch_stop,
    .set_buffers = uring_set_buffers,
    .fini = uring_fini,
};

int bmig_loop_uring_new(struct bmig_loop **loop)
{
    struct uring_loop *uring = calloc(1, sizeof(*uring));
    if (!uring)
        return -ENOMEM;
    uring->last_ready = &uring->first_ready;
    int ret = init_ring(&uring->ring);
    if (ret < 0)
        goto fail_ring;
    ret = bmig_loop_init(&uring->base, &uring_ops);
    if (ret < 0)
        goto fail_init;
    *loop = &uring->base;
    return 0;
fail_init:
    io_uring_queue_exit(&uring->ring);
fail_ring:
    free(uring);
    return ret;
}
