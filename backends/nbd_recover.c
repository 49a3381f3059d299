/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * When the server is gone: cutting, reconnecting, fencing.
 *
 * One lost connection loses them all, so that there is one state to reason about. What was sent and
 * not answered goes back into `waiting`, in its order. While something waits, attempts to reconnect
 * follow one another (0.1 s to 2 s apart) until the disk's time-out has passed; then what waits is
 * answered -ETIMEDOUT, and the next request begins anew. A server that comes back with another
 * size, block size or ability is another disk: then and for ever -ESTALE.
 *
 * No ghosts: a write sent on the old connection could be carried out by the server after one that
 * the new connection carried. So the old sockets are shut for writing first, and the server's own
 * close is awaited, for which the protocol demands that it has dealt with what it got. Where it
 * does not come within DRAIN_NS the server is one that does not answer at all, and more than
 * closing can't be done about it.
 *
 * Invariant: held, place and facts are the work's while `working`.
 */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backends/nbd_internal.h"
#include "blockmig/core/log.h"

#define MS UINT64_C(1000000)

static const uint64_t BACKOFF_MIN_NS = 100 * MS;
static const uint64_t BACKOFF_MAX_NS = 2000 * MS;
static const uint64_t DRAIN_NS = 1000 * MS;
static const uint64_t FENCE_NS = 2000 * MS; /* what is in flight may take so long to be answered */

static void start_work(struct nbdc_disk *nbd);

void bmig_nbdc_cut(struct nbdc_disk *nbd)
{
    for (uint32_t i = 0; i < NBDC_MAX_CONNECTIONS; i++) {
        struct nbdc_connection *connection = &nbd->connections[i];
        if (!connection->handle)
            continue;
        if (nbd->disk->loop)
            bmig_watch_stop(&connection->watch);
        nbd_close(connection->handle);
        /* nbd_close closed libnbd's own descriptor; the socket lives on in ours. */
        shutdown(connection->fd, SHUT_WR);
        if (nbd->old_count < NBDC_MAX_CONNECTIONS)
            nbd->old_fds[nbd->old_count++] = connection->fd;
        else
            close(connection->fd);
        memset(connection, 0, sizeof(*connection));
    }
}

void bmig_nbdc_close_old(struct nbdc_disk *nbd)
{
    while (nbd->old_count)
        close(nbd->old_fds[--nbd->old_count]);
}

/* Reads what the old connections still bring until the server has closed them. */
static void drain_old(struct nbdc_disk *nbd)
{
    static _Thread_local char waste[65536];
    uint64_t end_ns = bmig_nbdc_clock_ns() + DRAIN_NS;
    for (uint32_t i = 0; i < nbd->old_count; i++) {
        struct pollfd entry = {.fd = nbd->old_fds[i], .events = POLLIN};
        for (;;) {
            ssize_t got = recv(entry.fd, waste, sizeof(waste), MSG_DONTWAIT);
            if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
                break;
            uint64_t now = bmig_nbdc_clock_ns();
            if (now >= end_ns || atomic_load(&nbd->stop))
                break;
            if (got < 0)
                (void)poll(&entry, 1, 20);
        }
    }
    bmig_nbdc_close_old(nbd);
}

/* ---- losing ---- */

static void take_back(struct nbdc_disk *nbd)
{
    struct nbdc_op_list waiting = nbd->waiting;
    struct nbdc_op *op;
    nbd->waiting = (struct nbdc_op_list){0};
    while ((op = bmig_nbdc_list_pop(&nbd->sent)) != NULL) {
        op->connection = NULL;
        if (op == &nbd->own_flush)
            nbd->own_flush_sent = false;
        else
            bmig_nbdc_list_append(&nbd->waiting, op);
    }
    while ((op = bmig_nbdc_list_pop(&waiting)) != NULL)
        bmig_nbdc_list_append(&nbd->waiting, op);
}

static void answer_waiting(struct nbdc_disk *nbd, int status)
{
    struct nbdc_op *op;
    while ((op = bmig_nbdc_list_pop(&nbd->waiting)) != NULL)
        bmig_nbdc_finish(nbd, op, status);
}

void bmig_nbdc_lose(struct nbdc_disk *nbd, const char *why)
{
    assert(nbd->state == NBDC_LIVE);
    bmig_log(BMIG_LOG_WARNING, "nbd '%s': %s", nbd->place.label, why);
    nbd->state = NBDC_LOST;
    bmig_timer_stop(&nbd->silence);
    bmig_nbdc_cut(nbd);
    take_back(nbd);
    if (nbd->held.unheld_sequence) {
        nbd->flush_must_fail = true;
        nbd->held.unheld_sequence = 0;
    }
    if (nbd->fencing)
        bmig_nbdc_fence_advance(nbd);
    else if (nbd->waiting.head)
        bmig_nbdc_want_connection(nbd);
}

/* ---- reconnecting ---- */

void bmig_nbdc_want_connection(struct nbdc_disk *nbd)
{
    if (nbd->state != NBDC_LOST)
        return;
    nbd->state = NBDC_RECONNECTING;
    nbd->give_up_ns = bmig_nbdc_clock_ns() + nbd->place.timeout_ns;
    nbd->backoff_ns = BACKOFF_MIN_NS;
    start_work(nbd);
}

static struct nbdc_disk *of_work(struct bmig_work *work)
{
    return (struct nbdc_disk *)((char *)work - offsetof(struct nbdc_disk, work));
}

static void close_fresh(struct nbdc_disk *nbd)
{
    while (nbd->fresh_count)
        nbd_close(nbd->fresh[--nbd->fresh_count]);
}

static int connect_fresh(struct nbdc_disk *nbd)
{
    while (nbd->fresh_count < nbd->connection_count) {
        struct nbd_handle *handle;
        struct nbdc_facts facts;
        int rc = bmig_nbdc_connect(&nbd->place, nbd->give_up_ns, &nbd->stop, &handle, &facts,
                                   &nbd->work_error);
        if (rc < 0)
            return rc;
        nbd->fresh[nbd->fresh_count++] = handle;
        rc = bmig_nbdc_facts_compare(&nbd->place, &nbd->facts, &facts, &nbd->work_error);
        if (rc < 0)
            return rc;
    }
    int rc = bmig_nbdc_held_replay(&nbd->held, nbd->fresh[0], nbd->give_up_ns, &nbd->stop);
    if (rc < 0)
        return bmig_error_set(&nbd->work_error, BMIG_FAILED, -rc,
                              "'%s': writing again what the server may have lost: %s",
                              nbd->place.label, bmig_strerror(-rc));
    return 0;
}

static void work_run(struct bmig_work *work)
{
    struct nbdc_disk *nbd = of_work(work);
    drain_old(nbd);
    nbd->work_error = (struct bmig_error){0};
    nbd->work_status = connect_fresh(nbd);
    if (nbd->work_status < 0)
        close_fresh(nbd);
}

static void go_live(struct nbdc_disk *nbd)
{
    for (uint32_t i = 0; i < nbd->fresh_count; i++) {
        int rc = bmig_nbdc_connection_adopt(nbd, &nbd->connections[i], nbd->fresh[i]);
        if (rc == 0)
            continue;
        /* No descriptor or memory: as if the attempt had failed. */
        for (uint32_t k = i; k < nbd->fresh_count; k++)
            nbd_close(nbd->fresh[k]);
        nbd->fresh_count = 0;
        bmig_nbdc_cut(nbd);
        bmig_timer_start(nbd->disk->loop, &nbd->retry, nbd->backoff_ns);
        return;
    }
    nbd->fresh_count = 0;
    nbd->state = NBDC_LIVE;
    nbd->reconnects++;
    bmig_nbdc_held_flushed(&nbd->held, nbd->held.sequence);
    bmig_log(BMIG_LOG_NOTICE, "nbd '%s': connected again", nbd->place.label);
    struct nbdc_op_list waiting = nbd->waiting;
    struct nbdc_op *op;
    nbd->waiting = (struct nbdc_op_list){0};
    while ((op = bmig_nbdc_list_pop(&waiting)) != NULL)
        bmig_nbdc_send(nbd, op);
}

static void work_done(struct bmig_work *work)
{
    struct nbdc_disk *nbd = of_work(work);
    nbd->working = false;
    if (nbd->fencing) {
        close_fresh(nbd);
        bmig_nbdc_fence_advance(nbd);
    } else if (nbd->work_status == 0) {
        go_live(nbd);
    } else if (nbd->work_status == -ESTALE) {
        bmig_log(BMIG_LOG_ERROR, "nbd %s", nbd->work_error.message);
        nbd->state = NBDC_BROKEN;
        answer_waiting(nbd, -ESTALE);
    } else if (bmig_nbdc_clock_ns() + nbd->backoff_ns >= nbd->give_up_ns) {
        bmig_log(BMIG_LOG_ERROR, "nbd %s; given up", nbd->work_error.message);
        nbd->state = NBDC_LOST;
        answer_waiting(nbd, -ETIMEDOUT);
    } else {
        bmig_timer_start(nbd->disk->loop, &nbd->retry, nbd->backoff_ns);
        nbd->backoff_ns =
            nbd->backoff_ns * 2 < BACKOFF_MAX_NS ? nbd->backoff_ns * 2 : BACKOFF_MAX_NS;
    }
}

static void start_work(struct nbdc_disk *nbd)
{
    nbd->working = true;
    nbd->work.run = work_run;
    nbd->work.done = work_done;
    atomic_store(&nbd->stop, false);
    bmig_loop_work(nbd->disk->loop, &nbd->work);
}

static void retry_fired(struct bmig_timer *timer)
{
    start_work((struct nbdc_disk *)((char *)timer - offsetof(struct nbdc_disk, retry)));
}

/* ---- fencing ---- */

void bmig_nbdc_fence(struct bmig_disk *disk)
{
    struct nbdc_disk *nbd = disk->state;
    nbd->fencing = true;
    bmig_timer_stop(&nbd->retry);
    answer_waiting(nbd, -ECANCELED);
    /* The only proof that a write will not take effect later is its answer, so those in flight get
     * a moment for it. */
    if (nbd->state == NBDC_LIVE)
        bmig_timer_start(disk->loop, &nbd->fence_bound, FENCE_NS);
    bmig_nbdc_fence_advance(nbd);
}

void bmig_nbdc_fence_advance(struct nbdc_disk *nbd)
{
    if (nbd->state == NBDC_FENCED)
        return;
    if (nbd->working) {
        atomic_store(&nbd->stop, true);
        return;
    }
    if (nbd->state == NBDC_LIVE && nbd->sent.head && bmig_timer_started(&nbd->fence_bound))
        return;
    if (nbd->sent.head)
        bmig_log(BMIG_LOG_WARNING, "nbd '%s': cut off with requests unanswered", nbd->place.label);
    bmig_nbdc_finish_answered(nbd);
    nbd->state = NBDC_FENCED;
    bmig_timer_stop(&nbd->fence_bound);
    bmig_timer_stop(&nbd->silence);
    bmig_nbdc_cut(nbd);
    bmig_nbdc_close_old(nbd);
    take_back(nbd);
    answer_waiting(nbd, -ECANCELED);
    bmig_disk_fenced(nbd->disk);
}

static void fence_bound_fired(struct bmig_timer *timer)
{
    bmig_nbdc_fence_advance(
        (struct nbdc_disk *)((char *)timer - offsetof(struct nbdc_disk, fence_bound)));
}

void bmig_nbdc_recover_init(struct nbdc_disk *nbd)
{
    nbd->retry.fire = retry_fired;
    nbd->fence_bound.fire = fence_bound_fired;
}
