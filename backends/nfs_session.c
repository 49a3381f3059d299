/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A session: one connection to the NFS server, and another when it breaks.
 *
 * libnfs can reconnect by itself, but then nothing bounds it, nobody hears of it, and a server that
 * lost unstable data answers the repeated calls as if nothing had happened. So a context lives
 * exactly as long as its connection: it is destroyed with it, what it carried is put back to wait,
 * and a new context connects. A session is up again only when the server has answered a NULL call
 * on it.
 *
 * Ghosts: a request that the server had read before the connection was closed may still take effect
 * after it was sent again and answered. NFSv3 has no means against that. It is narrowed: the
 * connection is closed by reset, which discards what the server had not read yet, and the NULL call
 * comes back only when the server works again, by when its workers have had what it had read.
 */
#include "backends/nfs_image.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>

static void step_on(struct bmig_nfs_session *session);

#define session_of(member, pointer)                                                                \
    ((struct bmig_nfs_session *)((char *)(pointer)-offsetof(struct bmig_nfs_session, member)))

enum { RETRY_MIN_MS = 20, RETRY_MAX_MS = 1000 };

/* ---- the descriptor ---- */

static void unwatch(struct bmig_nfs_session *session)
{
    if (session->watching)
        bmig_watch_stop(&session->watch);
    session->watching = false;
}

static void rewatch(struct bmig_nfs_session *session)
{
    int fd = rpc_get_fd(session->rpc), events = rpc_which_events(session->rpc);
    if (session->watching && session->watch.fd != fd)
        unwatch(session);
    if (session->watching)
        bmig_watch_set(&session->watch, events);
    else
        bmig_watch_start(session->image->loop, &session->watch, fd, events);
    session->watching = true;
}

/* Calls that the server refused on a connection that stands: an RPC-level error such as bad
 * credentials. */
static void end_refused(struct bmig_nfs_session *session)
{
    struct bmig_nfs_op *op;
    while ((op = TAILQ_FIRST(&session->refused))) {
        TAILQ_REMOVE(&session->refused, op, link);
        op->list = BMIG_NFS_NO_LIST;
        bmig_nfs_op_end(op, -EIO);
    }
}

static void serve(struct bmig_nfs_session *session, int revents)
{
    int result = rpc_service(session->rpc, revents);
    if (result < 0 || (session->stepped && session->step_status != RPC_STATUS_SUCCESS)) {
        bmig_nfs_session_drop(session);
        return;
    }
    if (session->stepped)
        step_on(session);
    if (session->rpc) {
        end_refused(session);
        rewatch(session);
    }
}

static void on_ready(struct bmig_watch *watch, int revents)
{
    serve(session_of(watch, watch), revents);
}

void bmig_nfs_session_send(struct bmig_nfs_session *session)
{
    session->unsent = false;
    if (session->rpc)
        serve(session, POLLOUT);
}

/* ---- connecting ---- */

static void on_step(struct rpc_context *rpc, int status, void *data, void *user)
{
    struct bmig_nfs_session *session = user;
    session->stepped = true;
    session->step_status = status;
}

static void retry_later(struct bmig_nfs_session *session)
{
    uint64_t delay_ms = RETRY_MIN_MS;
    for (uint32_t i = 0; i < session->tries && delay_ms < RETRY_MAX_MS; i++)
        delay_ms *= 2;
    session->tries++;
    if (delay_ms > RETRY_MAX_MS)
        delay_ms = RETRY_MAX_MS;
    bmig_timer_start(session->image->loop, &session->retry, delay_ms * 1000000);
}

static void connect_now(struct bmig_nfs_session *session)
{
    const struct bmig_nfs_place *place = &session->image->place;
    session->rpc = bmig_nfs_context_new(place->uid, place->gid);
    session->stepped = false;
    session->heard_ns = bmig_loop_now_ns(session->image->loop);
    if (!session->rpc) {
        retry_later(session);
        return;
    }
    session->state = BMIG_NFS_CONNECTING;
    if (rpc_connect_async(session->rpc, place->address, place->nfs_port, on_step, session) != 0)
        bmig_nfs_session_drop(session);
    else
        rewatch(session);
}

static void on_retry(struct bmig_timer *timer)
{
    struct bmig_nfs_session *session = session_of(retry, timer);
    if (session->state == BMIG_NFS_DOWN && session->image->ops > 0)
        connect_now(session);
}

/* The connect or the probe succeeded. */
static void step_on(struct bmig_nfs_session *session)
{
    session->stepped = false;
    session->heard_ns = bmig_loop_now_ns(session->image->loop);
    if (session->state == BMIG_NFS_CONNECTING) {
        session->state = BMIG_NFS_PROBING;
        if (rpc_nfs3_null_async(session->rpc, on_step, session) != 0)
            bmig_nfs_session_drop(session);
        return;
    }
    assert(session->state == BMIG_NFS_PROBING);
    session->state = BMIG_NFS_UP;
    session->tries = 0;
    session->image->reconnects++;
    bmig_nfs_stable_reconnected(session->image);
    bmig_nfs_pump_soon(session->image);
}

void bmig_nfs_session_drop(struct bmig_nfs_session *session)
{
    struct bmig_nfs_image *image = session->image;
    bool was_up = session->state == BMIG_NFS_UP;
    struct rpc_context *rpc = session->rpc;
    struct bmig_nfs_op *op;

    unwatch(session);
    /* From here on its callbacks find their ops waiting, and leave them alone. */
    TAILQ_CONCAT(&session->sent, &session->refused, link);
    while ((op = TAILQ_FIRST(&session->sent))) {
        TAILQ_REMOVE(&session->sent, op, link);
        op->list = BMIG_NFS_NO_LIST;
        bmig_nfs_op_again(op);
    }
    session->rpc = NULL;
    session->state = BMIG_NFS_DOWN;
    if (rpc)
        rpc_destroy_context(rpc);
    session->stepped = false; /* of a probe that ended with its context */
    if (!image->loop || image->fenced)
        return;
    if (was_up)
        bmig_nfs_pump_soon(image); /* connects at once, if anything waits */
    else
        retry_later(session);
}

/* ---- for the image ---- */

struct bmig_nfs_session *bmig_nfs_session_pick(struct bmig_nfs_image *image)
{
    struct bmig_nfs_session *best = NULL;
    for (uint32_t i = 0; i < image->session_count; i++) {
        struct bmig_nfs_session *session = &image->sessions[i];
        if (session->state == BMIG_NFS_DOWN && !bmig_timer_started(&session->retry))
            connect_now(session);
        if (session->state == BMIG_NFS_UP &&
            (!best || session->bytes_in_flight < best->bytes_in_flight))
            best = session;
    }
    return best;
}

void bmig_nfs_session_open(struct bmig_nfs_session *session, struct bmig_nfs_image *image,
                           struct bmig_nfs_link *link)
{
    session->image = image;
    session->retry.fire = on_retry;
    session->watch.ready = on_ready;
    TAILQ_INIT(&session->sent);
    TAILQ_INIT(&session->refused);
    session->rpc = link->rpc;
    session->state = BMIG_NFS_UP;
    link->rpc = NULL;
}

void bmig_nfs_session_attach(struct bmig_nfs_session *session)
{
    session->heard_ns = bmig_loop_now_ns(session->image->loop);
    if (session->rpc)
        rewatch(session);
}

void bmig_nfs_session_detach(struct bmig_nfs_session *session)
{
    bmig_timer_stop(&session->retry);
    unwatch(session);
}
