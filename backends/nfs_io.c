/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Requests as NFSv3 calls: sent by the pump, answered in parts if the server likes, tried again
 * when it asks for time or its connection breaks, and given up when it has been silent for too
 * long.
 *
 * Time: an op fails with -ETIMEDOUT when nothing at all has been heard from the server for
 * timeout_ns since it began, or after four times that whatever else is heard. A connection that is
 * silent for a third of it is closed and made again, and what it carried is sent again: the same
 * bytes to the same range, which no newer write can have touched, for callers order overlapping
 * writes.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backends/nfs_image.h"

enum { JUKEBOX_DELAY_NS = 200000000, TICK_MAX_NS = 500000000 };

_Static_assert(sizeof(struct bmig_nfs_op) <= BMIG_REQUEST_DRIVER_BYTES, "an op fits a request");

static struct bmig_request *request_of(struct bmig_nfs_op *op)
{
    return (struct bmig_request *)((char *)op - offsetof(struct bmig_request, driver));
}

static uint64_t now_of(const struct bmig_nfs_image *image)
{
    return bmig_loop_now_ns(image->loop);
}

/* ---- an op's life ---- */

void bmig_nfs_pump_soon(struct bmig_nfs_image *image)
{
    if (!image->pump || image->pump->deferred || image->fenced)
        return;
    image->pump->deferred = true;
    bmig_loop_defer(image->loop, &image->pump->task);
}

static void tick_arm(struct bmig_nfs_image *image)
{
    uint64_t delay = image->place.timeout_ns / 12;
    const struct bmig_nfs_op *first = TAILQ_FIRST(&image->delayed);
    if (delay > TICK_MAX_NS)
        delay = TICK_MAX_NS;
    if (first) {
        uint64_t now = now_of(image);
        uint64_t left = first->retry_ns > now ? first->retry_ns - now : 0;
        delay = left < delay ? left : delay;
    }
    bmig_timer_start(image->loop, &image->tick, delay);
}

static void put_waiting(struct bmig_nfs_op *op, bool first)
{
    struct bmig_nfs_ops *list = op->urgent ? &op->image->urgent : &op->image->ready;
    op->list = BMIG_NFS_WAITING;
    if (first)
        TAILQ_INSERT_HEAD(list, op, link);
    else
        TAILQ_INSERT_TAIL(list, op, link);
    bmig_nfs_pump_soon(op->image);
}

void bmig_nfs_op_start(struct bmig_nfs_image *image, struct bmig_nfs_op *op)
{
    op->image = image;
    op->session = NULL;
    op->done_bytes = op->sent_bytes = op->retain_bytes = 0;
    op->started_ns = now_of(image);
    if (image->ops++ == 0 || !bmig_timer_started(&image->tick))
        tick_arm(image);
    put_waiting(op, false);
}

/* libnfs no longer holds op. */
static void op_taken(struct bmig_nfs_op *op)
{
    struct bmig_nfs_image *image = op->image;
    if (!op->session)
        return;
    op->session->bytes_in_flight -= op->sent_bytes;
    image->bytes_in_flight -= op->sent_bytes;
    op->session = NULL;
    op->list = BMIG_NFS_NO_LIST;
    if (op->kind == BMIG_NFS_WRITE && !op->urgent)
        image->writes_sent--;
    bmig_nfs_pump_soon(image);
}

static void check_drained(struct bmig_nfs_image *image)
{
    if (image->writes_sent == 0)
        bmig_nfs_stable_drained(image);
}

void bmig_nfs_op_again(struct bmig_nfs_op *op)
{
    op_taken(op);
    put_waiting(op, true);
    check_drained(op->image);
}

void bmig_nfs_op_end(struct bmig_nfs_op *op, int status)
{
    struct bmig_nfs_image *image = op->image;
    op_taken(op);
    if (op->list == BMIG_NFS_DELAYED)
        TAILQ_REMOVE(&image->delayed, op, link);
    else if (op->list == BMIG_NFS_WAITING && op->urgent)
        TAILQ_REMOVE(&image->urgent, op, link);
    else if (op->list == BMIG_NFS_WAITING)
        TAILQ_REMOVE(&image->ready, op, link);
    op->list = BMIG_NFS_NO_LIST;
    bmig_nfs_stable_release(op);
    image->ops--;
    op->finish(op, status);
    check_drained(image);
}

void bmig_nfs_end_all(struct bmig_nfs_image *image, int status)
{
    struct bmig_nfs_op *op;
    while ((op = TAILQ_FIRST(&image->urgent)) || (op = TAILQ_FIRST(&image->delayed)) ||
           (op = TAILQ_FIRST(&image->ready)))
        bmig_nfs_op_end(op, status);
    bmig_nfs_stable_end_flushes(image, status);
    assert(image->ops == 0);
}

/* ---- answers ---- */

static void op_error(struct bmig_nfs_op *op, uint32_t status)
{
    uint64_t now = now_of(op->image);
    if (status != NFS3ERR_JUKEBOX) {
        bmig_nfs_op_end(op, -bmig_nfs_errno(status));
    } else if (now - op->started_ns >= op->image->place.timeout_ns) {
        bmig_nfs_op_end(op, -ETIMEDOUT);
    } else {
        /* "Try again later" (RFC 1813, 2.6): all wait equally long, so the list is in order of
         * time. */
        op->retry_ns = now + JUKEBOX_DELAY_NS;
        op->list = BMIG_NFS_DELAYED;
        TAILQ_INSERT_TAIL(&op->image->delayed, op, link);
        tick_arm(op->image);
        check_drained(op->image);
    }
}

static void go_on(struct bmig_nfs_op *op, uint32_t count)
{
    op->done_bytes += count;
    if (op->done_bytes == op->length)
        bmig_nfs_op_end(op, 0);
    else
        bmig_nfs_op_again(op);
}

static void read_answered(struct bmig_nfs_op *op, const READ3res *result)
{
    const READ3resok *ok = &result->READ3res_u.resok;
    uint32_t count = ok->data.data_len;
    if (result->status != NFS3_OK) {
        op_error(op, result->status);
        return;
    }
    if (count > op->sent_bytes || (count == 0 && !ok->eof)) {
        bmig_nfs_op_end(op, -EIO); /* an answer to something else */
        return;
    }
    if (ok->eof && count < op->sent_bytes) {
        bmig_nfs_op_end(op, -EIO); /* somebody cut the file: its end is no data, and no zeroes */
        return;
    }
    memcpy(op->data + op->done_bytes, ok->data.data_val, count);
    go_on(op, count);
}

static void write_answered(struct bmig_nfs_op *op, const WRITE3res *result)
{
    const WRITE3resok *ok = &result->WRITE3res_u.resok;
    if (result->status != NFS3_OK) {
        op_error(op, result->status);
        return;
    }
    if (ok->count == 0 || ok->count > op->sent_bytes ||
        (op->stable && ok->committed == UNSTABLE)) { /* RFC 1813, 3.3.7: may do more, never less */
        bmig_nfs_op_end(op, -EIO);
        return;
    }
    if (bmig_nfs_stable_wrote(op, ok->count, ok->committed, ok->verf) != 0) {
        op->stable = true;
        bmig_nfs_op_again(op);
        return;
    }
    go_on(op, ok->count);
}

static void commit_answered(struct bmig_nfs_op *op, const COMMIT3res *result)
{
    if (result->status != NFS3_OK) {
        op_error(op, result->status);
        return;
    }
    memcpy(op->verifier, result->COMMIT3res_u.resok.verf, sizeof(op->verifier));
    bmig_nfs_op_end(op, 0);
}

static void on_reply(struct rpc_context *rpc, int status, void *data, void *user)
{
    struct bmig_nfs_op *op = user;
    struct bmig_nfs_image *image = op->image;
    struct bmig_nfs_session *session = op->session;
    if (op->list != BMIG_NFS_SENT || !session || session->rpc != rpc)
        return; /* its session was dropped, and this is the end of the context */
    TAILQ_REMOVE(&session->sent, op, link);
    if (status != RPC_STATUS_SUCCESS) {
        /* The connection's end or this call's: rpc_service's result will tell. */
        TAILQ_INSERT_TAIL(&session->refused, op, link);
        return;
    }
    session->heard_ns = image->heard_ns = now_of(image);
    op_taken(op);
    if (op->kind == BMIG_NFS_READ)
        read_answered(op, data);
    else if (op->kind == BMIG_NFS_WRITE)
        write_answered(op, data);
    else
        commit_answered(op, data);
}

/* ---- sending ---- */

static int call(struct bmig_nfs_session *session, struct bmig_nfs_op *op)
{
    nfs_fh3 fh = {.data = {.data_len = op->image->fh.length_bytes, .data_val = op->image->fh.data}};
    uint64_t offset = op->offset + op->done_bytes;
    if (op->kind == BMIG_NFS_READ) {
        READ3args args = {.file = fh, .offset = offset, .count = op->sent_bytes};
        return rpc_nfs3_read_async(session->rpc, on_reply, &args, op);
    }
    if (op->kind == BMIG_NFS_COMMIT) {
        COMMIT3args args = {.file = fh}; /* offset 0, count 0: all of the file */
        return rpc_nfs3_commit_async(session->rpc, on_reply, &args, op);
    }
    WRITE3args args = {.file = fh, .offset = offset, .count = op->sent_bytes};
    args.stable = op->stable ? FILE_SYNC : UNSTABLE;
    args.data.data_len = op->sent_bytes;
    args.data.data_val = (char *)op->data + op->done_bytes;
    return rpc_nfs3_write_async(session->rpc, on_reply, &args, op);
}

static void send_on(struct bmig_nfs_session *session, struct bmig_nfs_op *op)
{
    struct bmig_nfs_image *image = op->image;
    TAILQ_REMOVE(op->urgent ? &image->urgent : &image->ready, op, link);
    TAILQ_INSERT_TAIL(&session->sent, op, link);
    op->list = BMIG_NFS_SENT;
    op->session = session;
    op->sent_bytes = op->length - op->done_bytes;
    op->sent_ns = now_of(image);
    session->bytes_in_flight += op->sent_bytes;
    session->unsent = true;
    image->bytes_in_flight += op->sent_bytes;
    if (op->kind == BMIG_NFS_WRITE && !op->urgent)
        image->writes_sent++;
    if (call(session, op) != 0) {
        TAILQ_REMOVE(&session->sent, op, link);
        bmig_nfs_op_end(op, -ENOMEM);
    }
}

/* Sends what it may of a list; false where no session takes any more. */
static bool send_list(struct bmig_nfs_image *image, struct bmig_nfs_ops *list)
{
    struct bmig_nfs_op *op, *next;
    for (op = TAILQ_FIRST(list); op; op = next) {
        uint32_t left = op->length - op->done_bytes;
        next = TAILQ_NEXT(op, link);
        if (image->bytes_in_flight && image->bytes_in_flight + left > BMIG_NFS_IN_FLIGHT_BYTES)
            return false;
        struct bmig_nfs_session *session = bmig_nfs_session_pick(image);
        if (!session)
            return false;
        /* What waits for room to keep its copy lets reads and others pass. */
        if (op->kind == BMIG_NFS_WRITE && !bmig_nfs_stable_reserve(op))
            continue;
        send_on(session, op);
        if (list == &image->ready && bmig_nfs_stable_holds(image))
            return false;
    }
    return true;
}

static void pump(struct bmig_task *task)
{
    struct bmig_nfs_pump *self = (struct bmig_nfs_pump *)task; /* its first member */
    struct bmig_nfs_image *image = self->image;
    if (!image) {
        free(self);
        return;
    }
    self->deferred = false;
    if (image->fenced)
        return;
    if (send_list(image, &image->urgent) && !bmig_nfs_stable_holds(image))
        send_list(image, &image->ready);
    for (uint32_t i = 0; i < image->session_count; i++)
        if (image->sessions[i].unsent)
            bmig_nfs_session_send(&image->sessions[i]);
}

/* ---- time ---- */

static bool expired(const struct bmig_nfs_op *op, uint64_t now)
{
    const struct bmig_nfs_image *image = op->image;
    uint64_t quiet_ns = op->started_ns > image->heard_ns ? op->started_ns : image->heard_ns;
    uint64_t bound_ns = image->place.timeout_ns;
    return now - quiet_ns >= bound_ns || now - op->started_ns >= 4 * bound_ns;
}

static void check_session(struct bmig_nfs_session *session, uint64_t now)
{
    const struct bmig_nfs_image *image = session->image;
    const struct bmig_nfs_op *first = TAILQ_FIRST(&session->sent), *op;
    uint64_t bound_ns = image->place.timeout_ns / 3;
    if (session->state == BMIG_NFS_CONNECTING || session->state == BMIG_NFS_PROBING) {
        if (now - session->heard_ns >= bound_ns)
            bmig_nfs_session_drop(session);
        return;
    }
    if (session->state != BMIG_NFS_UP || !first)
        return;
    bool drop = false;
    uint64_t quiet_ns = first->sent_ns > session->heard_ns ? first->sent_ns : session->heard_ns;
    /* A COMMIT may rightly take long, and begins anew when repeated. */
    if (now - quiet_ns >= (first->kind == BMIG_NFS_COMMIT ? 3 * bound_ns : bound_ns))
        drop = true;
    for (op = TAILQ_FIRST(&session->sent); op; op = TAILQ_NEXT(op, link))
        drop |= expired(op, now);
    if (drop)
        bmig_nfs_session_drop(session);
}

static void end_expired(struct bmig_nfs_ops *list, uint64_t now)
{
    struct bmig_nfs_op *op, *next;
    for (op = TAILQ_FIRST(list); op; op = next) {
        next = TAILQ_NEXT(op, link);
        if (expired(op, now))
            bmig_nfs_op_end(op, -ETIMEDOUT);
    }
}

static void on_tick(struct bmig_timer *timer)
{
    struct bmig_nfs_image *image =
        (struct bmig_nfs_image *)((char *)timer - offsetof(struct bmig_nfs_image, tick));
    uint64_t now = now_of(image);
    struct bmig_nfs_op *op;
    for (uint32_t i = 0; i < image->session_count; i++)
        check_session(&image->sessions[i], now);
    while ((op = TAILQ_FIRST(&image->delayed)) && op->retry_ns <= now) {
        TAILQ_REMOVE(&image->delayed, op, link);
        put_waiting(op, false);
    }
    end_expired(&image->urgent, now);
    end_expired(&image->delayed, now);
    end_expired(&image->ready, now);
    if (image->ops)
        tick_arm(image);
}

/* ---- the driver's slot ---- */

static void request_finish(struct bmig_nfs_op *op, int status)
{
    bmig_disk_complete(request_of(op), status);
}

void bmig_nfs_submit(struct bmig_disk *disk, struct bmig_request *request)
{
    struct bmig_nfs_image *image = disk->state;
    struct bmig_nfs_op *op = (struct bmig_nfs_op *)request->driver;
    if (image->fenced) {
        bmig_disk_complete(request, -ESHUTDOWN);
        return;
    }
    if (request->op == BMIG_FLUSH) {
        bmig_nfs_stable_flush(image, request);
        return;
    }
    assert(request->op == BMIG_READ || request->op == BMIG_WRITE);
    *op = (struct bmig_nfs_op){
        .kind = request->op == BMIG_READ ? BMIG_NFS_READ : BMIG_NFS_WRITE,
        .stable = request->flags & BMIG_FUA,
        .replayable = request->flags & BMIG_REPLAYABLE,
        .offset = request->offset,
        .length = (uint32_t)request->length,
        .data = request->data,
        .finish = request_finish,
    };
    bmig_nfs_op_start(image, op);
}

void bmig_nfs_io_init(struct bmig_nfs_image *image)
{
    TAILQ_INIT(&image->urgent);
    TAILQ_INIT(&image->ready);
    TAILQ_INIT(&image->delayed);
    image->tick.fire = on_tick;
}

int bmig_nfs_io_attach(struct bmig_nfs_image *image)
{
    image->pump = calloc(1, sizeof(*image->pump));
    if (!image->pump)
        return -ENOMEM;
    image->pump->task.run = pump;
    image->pump->image = image;
    return 0;
}

void bmig_nfs_io_detach(struct bmig_nfs_image *image)
{
    bmig_timer_stop(&image->tick);
    if (image->pump->deferred)
        image->pump->image = NULL;
    else
        free(image->pump);
    image->pump = NULL;
}
