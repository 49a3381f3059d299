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
 * The ring starts disabled and is enabled by the first wait: the thread that does it is the only
 * one that the kernel lets submit, and the loop may have been made by another.
 */
#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "blockmig/core/loop_uring.h"

enum { SQ_ENTRIES = 1024, CQ_ENTRIES = 8192, SPIN_MAX_NS = 60000, SPIN_STEP_NS = 4000 };

/* ---- the queue ---- */

struct io_uring_sqe *bmig_uring_sqe(struct uring_loop *uring)
{
    if (!uring->enabled)
        return NULL;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);
    if (sqe)
        return sqe;
    io_uring_submit(&uring->ring);
    return io_uring_get_sqe(&uring->ring);
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
    struct io_uring_sqe *sqe = uring->wake_armed ? NULL : bmig_uring_sqe(uring);
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

/* ---- spinning ----
 *
 * To sleep and to be woken costs more than a fast medium takes. So where the last waits were short, the next one
 * looks at the ring for about as long before it sleeps; a wait that was long ends that. A loop with little to do
 * never spins. */

static uint64_t spin_clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void spin(struct uring_loop *uring, uint64_t end_ns)
{
    struct io_uring *ring = &uring->ring;
    if (io_uring_sq_ready(ring) > 0)
        io_uring_submit(ring);
    while (!io_uring_cq_ready(ring) && !kernel_has_something(ring) && spin_clock_ns() < end_ns) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
}

static void learn(struct uring_loop *uring, uint64_t waited_ns)
{
    if (waited_ns > SPIN_MAX_NS)
        uring->spin_ns /= 2;
    else if (uring->spin_ns < waited_ns + SPIN_STEP_NS)
        uring->spin_ns = waited_ns + SPIN_STEP_NS;
    if (uring->spin_ns < SPIN_STEP_NS)
        uring->spin_ns = 0;
}

static int wait_briefly_or_long(struct uring_loop *uring, uint64_t timeout_ns)
{
    if (timeout_ns == 0 || !uring->may_spin)
        return enter(uring, timeout_ns);
    uint64_t began_ns = spin_clock_ns();
    if (uring->spin_ns)
        spin(uring, began_ns + (uring->spin_ns < timeout_ns ? uring->spin_ns : timeout_ns));
    bool ready =
        io_uring_cq_ready(&uring->ring) || (uring->spin_ns && kernel_has_something(&uring->ring));
    int ret = enter(uring, ready ? 0 : timeout_ns);
    learn(uring, spin_clock_ns() - began_ns);
    return ret;
}

static void uring_wait(struct bmig_loop *loop, uint64_t timeout_ns)
{
    struct uring_loop *uring = bmig_uring_of(loop);
    if (!uring->enabled)
        enable(uring);
    arm_wake(uring);
    bmig_uring_flush_backlog(uring);
    bmig_uring_arm_changed(uring);
    bool due = loop->finished.first || uring->backlog.first || uring->first_changed;
    int ret = wait_briefly_or_long(uring, due ? 0 : timeout_ns);
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
        bmig_uring_complete_io(uring, address, tag, result);
        break;
    case TAG_READ_POLL:
        bmig_uring_complete_poll(uring, address, READ, result);
        break;
    case TAG_WRITE_POLL:
        bmig_uring_complete_poll(uring, address, WRITE, result);
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
    struct uring_loop *uring = bmig_uring_of(loop);
    bmig_loop_finish_all(loop);
    dispatch_completions(uring);
    bmig_uring_run_ready(uring);
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
    struct io_uring_sqe *sqe = uring->wake_armed ? bmig_uring_sqe(uring) : NULL;
    if (sqe) {
        io_uring_prep_cancel64(sqe, TAG_WAKE, 0);
        sqe->user_data = TAG_NOTHING;
    }
    while (uring->wake_armed || uring->polls_out > 0) {
        bmig_uring_arm_changed(uring);
        int ret = io_uring_submit_and_wait(&uring->ring, 1);
        if (ret < 0 && ret != -EINTR && ret != -EBUSY && ret != -EAGAIN)
            return;
        dispatch_completions(uring);
    }
    bmig_uring_arm_changed(uring);
}

static void uring_fini(struct bmig_loop *loop)
{
    struct uring_loop *uring = bmig_uring_of(loop);
    drain(uring);
    io_uring_queue_exit(&uring->ring);
    bmig_uring_free_polls(uring);
}

static const struct bmig_loop_ops uring_ops = {
    .name = "io_uring",
    .clock = bmig_loop_real_clock,
    .wait = uring_wait,
    .dispatch = uring_dispatch,
    .io = bmig_uring_io,
    .io_cancel = bmig_uring_io_cancel,
    .watch_start = bmig_uring_watch_start,
    .watch_changed = bmig_uring_watch_changed,
    .watch_stop = bmig_uring_watch_stop,
    .set_buffers = bmig_uring_set_buffers,
    .fini = uring_fini,
};

int bmig_loop_uring_new(struct bmig_loop **loop)
{
    struct uring_loop *uring = calloc(1, sizeof(*uring));
    if (!uring)
        return -ENOMEM;
    uring->last_ready = &uring->first_ready;
    cpu_set_t processors;
    uring->may_spin =
        sched_getaffinity(0, sizeof(processors), &processors) == 0 && CPU_COUNT(&processors) > 1;
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
