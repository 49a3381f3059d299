/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The loop of tests: epoll's io and watches under a clock that only moves when nothing can run, and
 * then jumps: to the next timer, or by the step's time-out if that is nearer. Files and work run
 * inside the step, so there are no threads and a run with the same input is the same run.
 */
#include "blockmig/core/loop_internal.h"

static uint64_t virtual_clock(const struct bmig_loop *loop)
{
    return loop->virtual_ns;
}

/* timeout_ns ends at the next timer at the latest (the common part sees to it). */
static void virtual_wait(struct bmig_loop *loop, uint64_t timeout_ns)
{
    if (bmig_epoll_wait(loop, 0) || timeout_ns == 0)
        return;
    if (timeout_ns != UINT64_MAX)
        loop->virtual_ns += timeout_ns;
    else if (loop->running || loop->io_count > 0 || loop->watch_count > 0)
        bmig_epoll_wait(loop, UINT64_MAX); /* a peer, a post or a stop must end it */
}

static const struct bmig_loop_ops virtual_ops = {
    .name = "virtual",
    .clock = virtual_clock,
    .wait = virtual_wait,
    .dispatch = bmig_epoll_dispatch,
    .io = bmig_epoll_io,
    .io_cancel = bmig_epoll_io_cancel,
    .watch_start = bmig_epoll_watch_start,
    .watch_changed = bmig_epoll_watch_changed,
    .watch_stop = bmig_epoll_watch_stop,
    .fini = bmig_epoll_fini,
};

int bmig_loop_virtual_new(struct bmig_loop **loop)
{
    int ret = bmig_epoll_alloc(loop, &virtual_ops);
    if (ret == 0)
        (*loop)->no_helpers = true;
    return ret;
}
