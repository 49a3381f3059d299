/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * NBD requests on their way to the server and back, through libnbd's asynchronous calls.
 *
 * Every request goes onto the least busy connection. libnbd answers inside nbd_aio_notify_*, with
 * the handle locked, and the door may submit again from within a completion: so an answer is only
 * put onto a list, which is emptied when libnbd has returned. A call may also find its connection
 * dead and answer everything on it at once, so after each batch of calls settle looks at what
 * became of the connections, once, and sets their watches. An answer of ENOTCONN or ESHUTDOWN is
 * none: the request stays in `sent` until nbd_recover.c takes it back and sends it again.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backends/nbd_internal.h"
#include "blockmig/core/error.h"
#include "blockmig/core/log.h"

enum {
    REPLIES_AT_ONCE = 128,  /* taken from one connection before the loop goes on */
    SOCKET_BYTES = 2 << 20, /* of a unix socket's buffer: one large write, in one go */
    EXTENTS_MAX_BYTES = 1 << 30,
};

_Static_assert(sizeof(struct nbdc_op) <= BMIG_REQUEST_DRIVER_BYTES, "an op fits into a request");

/* ---- lists ---- */

void bmig_nbdc_list_append(struct nbdc_op_list *list, struct nbdc_op *op)
{
    op->next = NULL;
    op->previous = list->tail;
    if (list->tail)
        list->tail->next = op;
    else
        list->head = op;
    list->tail = op;
}

void bmig_nbdc_list_remove(struct nbdc_op_list *list, struct nbdc_op *op)
{
    *(op->previous ? &op->previous->next : &list->head) = op->next;
    *(op->next ? &op->next->previous : &list->tail) = op->previous;
    op->next = op->previous = NULL;
}

struct nbdc_op *bmig_nbdc_list_pop(struct nbdc_op_list *list)
{
    struct nbdc_op *op = list->head;
    if (op)
        bmig_nbdc_list_remove(list, op);
    return op;
}

/* ---- answers ---- */

/* A write that is stable at once need not be kept, unless an older one is: written again, that
 * would overwrite it. */
static bool must_hold(const struct nbdc_disk *nbd, const struct bmig_request *request)
{
    return (nbd->facts.caps & BMIG_CAP_FLUSH) && (!(request->flags & BMIG_FUA) || nbd->held.head);
}

static int finish_flush(struct nbdc_disk *nbd, const struct nbdc_op *op, int status)
{
    if (status == 0)
        bmig_nbdc_held_flushed(&nbd->held, op->flush_sequence);
    if (status == 0 && nbd->flush_must_fail && op->request) {
        nbd->flush_must_fail = false;
        return -EIO;
    }
    return status;
}

void bmig_nbdc_finish(struct nbdc_disk *nbd, struct nbdc_op *op, int status)
{
    struct bmig_request *request = op->request;
    if (!request) {
        nbd->own_flush_sent = false;
        finish_flush(nbd, op, status);
        return;
    }
    switch (request->op) {
    case BMIG_READ:
        /* A server may answer with success and too little; libnbd leaves that to us. */
        if (status == 0 && op->seen_bytes != request->length)
            status = -EIO;
        break;
    case BMIG_EXTENTS:
        if (status == 0 && op->seen_bytes == 0)
            status = -EIO;
        break;
    case BMIG_WRITE:
    case BMIG_ZERO:
        if (status == 0 && must_hold(nbd, request))
            bmig_nbdc_held_add(&nbd->held, request);
        break;
    case BMIG_FLUSH:
        status = finish_flush(nbd, op, status);
        break;
    default:
        break;
    }
    bmig_disk_complete(request, status);
}

static void hand_back(struct nbdc_disk *nbd, struct nbdc_op *op, int status)
{
    bmig_nbdc_list_remove(&nbd->sent, op);
    op->connection->in_flight--;
    op->connection = NULL;
    op->status = status;
    bmig_nbdc_list_append(&nbd->answered, op);
}

static int answered(void *user, int *error)
{
    struct nbdc_op *op = user;
    struct nbdc_disk *nbd = op->owner;
    struct nbdc_connection *connection = op->connection;
    if (*error == ENOTCONN || *error == ESHUTDOWN) {
        connection->dead = true;
        return 1;
    }
    hand_back(nbd, op, -*error);
    return 1;
}

static int chunk_came(void *user, const void *data, size_t count, uint64_t offset, unsigned status,
                      int *error)
{
    struct nbdc_op *op = user;
    if (status != LIBNBD_READ_ERROR)
        op->seen_bytes += count;
    return 0;
}

/* base:allocation: pairs of a length and flags whose values are those of bmig_extent_flags. The
 * last may reach past what was asked for. */
static int extents_came(void *user, const char *context, uint64_t offset, uint32_t *entries,
                        size_t count, int *error)
{
    struct nbdc_op *op = user;
    struct bmig_request *request = op->request;
    if (strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0)
        return 0;
    for (size_t i = 0; i + 1 < count; i += 2) {
        uint64_t left = request->length - op->seen_bytes;
        uint64_t length = entries[i] < left ? entries[i] : left;
        uint32_t flags = entries[i + 1] & (BMIG_EXTENT_HOLE | BMIG_EXTENT_ZERO);
        if (length == 0 || bmig_extents_add(request->extents, length, flags) != 0)
            break;
        op->seen_bytes += length;
    }
    return 0;
}

/* ---- sending ---- */

static int64_t issue(struct nbdc_op *op)
{
    struct nbd_handle *handle = op->connection->handle;
    struct bmig_request *request = op->request;
    nbd_completion_callback done = {.callback = answered, .user_data = op};
    nbd_chunk_callback chunk = {.callback = chunk_came, .user_data = op};
    nbd_extent_callback extent = {.callback = extents_came, .user_data = op};
    if (!request)
        return nbd_aio_flush(handle, done, 0);

    uint64_t offset = request->offset, length = request->length;
    uint32_t flags = (request->flags & BMIG_FUA) ? LIBNBD_CMD_FLAG_FUA : 0;
    switch (request->op) {
    case BMIG_READ:
        return nbd_aio_pread_structured(handle, request->data, length, offset, chunk, done, 0);
    case BMIG_WRITE:
        return nbd_aio_pwrite(handle, request->data, length, offset, done, flags);
    case BMIG_ZERO:
        if (!(request->flags & BMIG_MAY_UNMAP))
            flags |= LIBNBD_CMD_FLAG_NO_HOLE;
        if (request->flags & BMIG_FAST_ONLY)
            flags |= LIBNBD_CMD_FLAG_FAST_ZERO;
        return nbd_aio_zero(handle, length, offset, done, flags);
    case BMIG_DISCARD:
        return nbd_aio_trim(handle, length, offset, done, flags);
    case BMIG_FLUSH:
        return nbd_aio_flush(handle, done, 0);
    case BMIG_EXTENTS:
        if (length > EXTENTS_MAX_BYTES)
            length = EXTENTS_MAX_BYTES;
        return nbd_aio_block_status(handle, length, offset, extent, done, 0);
    default:
        errno = ENOTSUP;
        return -1;
    }
}

static struct nbdc_connection *least_busy(struct nbdc_disk *nbd)
{
    struct nbdc_connection *best = NULL;
    for (uint32_t i = 0; i < nbd->connection_count; i++) {
        struct nbdc_connection *connection = &nbd->connections[i];
        if (!connection->dead && (!best || connection->in_flight < best->in_flight))
            best = connection;
    }
    return best;
}

void bmig_nbdc_send(struct nbdc_disk *nbd, struct nbdc_op *op)
{
    struct nbdc_connection *connection = least_busy(nbd);
    op->seen_bytes = 0;
    op->flush_sequence = nbd->held.sequence;
    op->connection = connection;
    /* Before the call: an answer within it must find the task queued ahead of the door's own. */
    bmig_loop_defer(nbd->disk->loop, &nbd->settle);
    if (!connection) {
        bmig_nbdc_list_append(&nbd->waiting, op);
        return;
    }
    if (op->request && op->request->op == BMIG_EXTENTS)
        op->request->extents->count = 0;
    if (connection->in_flight++ == 0)
        connection->heard_ns = bmig_loop_now_ns(nbd->disk->loop);
    bmig_nbdc_list_append(&nbd->sent, op);
    if (issue(op) >= 0 || op->connection != connection)
        return;

    int code = nbd_get_errno() ? nbd_get_errno() : EIO;
    if (nbd_aio_is_ready(connection->handle) <= 0 &&
        nbd_aio_is_processing(connection->handle) <= 0) {
        connection->dead = true;
        return;
    }
    hand_back(nbd, op, -code);
}

static void send_own_flush(struct nbdc_disk *nbd)
{
    nbd->own_flush = (struct nbdc_op){.owner = nbd};
    nbd->own_flush_sent = true;
    bmig_nbdc_send(nbd, &nbd->own_flush);
}

/* ---- descriptors ---- */

int bmig_nbdc_events(struct nbd_handle *handle)
{
    unsigned direction = nbd_aio_get_direction(handle);
    return ((direction & LIBNBD_AIO_DIRECTION_READ) ? BMIG_WATCH_READ : 0) |
           ((direction & LIBNBD_AIO_DIRECTION_WRITE) ? BMIG_WATCH_WRITE : 0);
}

void bmig_nbdc_finish_answered(struct nbdc_disk *nbd)
{
    struct nbdc_op *op;
    while ((op = bmig_nbdc_list_pop(&nbd->answered)) != NULL)
        bmig_nbdc_finish(nbd, op, op->status);
}

static void settle(struct nbdc_disk *nbd)
{
    bmig_nbdc_finish_answered(nbd);
    if (nbd->state != NBDC_LIVE)
        return;
    uint32_t in_flight = 0;
    for (uint32_t i = 0; i < nbd->connection_count; i++) {
        struct nbdc_connection *connection = &nbd->connections[i];
        if (connection->dead || nbd_aio_is_dead(connection->handle) > 0 ||
            nbd_aio_is_closed(connection->handle) > 0) {
            bmig_nbdc_lose(nbd, "the connection was closed");
            return;
        }
        int events = bmig_nbdc_events(connection->handle);
        if (events != connection->watch.events)
            bmig_watch_set(&connection->watch, events);
        in_flight += connection->in_flight;
    }
    if (in_flight && !bmig_timer_started(&nbd->silence))
        bmig_timer_start(nbd->disk->loop, &nbd->silence, nbd->place.timeout_ns / 4);
    if (nbd->fencing)
        bmig_nbdc_fence_advance(nbd);
    else if (bmig_nbdc_held_wants_flush(&nbd->held) && !nbd->own_flush_sent)
        send_own_flush(nbd);
}

static void settle_run(struct bmig_task *task)
{
    settle((struct nbdc_disk *)((char *)task - offsetof(struct nbdc_disk, settle)));
}

/* libnbd takes one reply, or one piece of one, at a time, and may be told of readable data only
 * where there is some. */
static void take_replies(struct nbdc_connection *connection)
{
    struct nbd_handle *handle = connection->handle;
    for (int i = 0; i < REPLIES_AT_ONCE; i++) {
        int waiting = 0;
        if (!(nbd_aio_get_direction(handle) & LIBNBD_AIO_DIRECTION_READ))
            return;
        if (nbd_aio_notify_read(handle) < 0) {
            connection->dead = true;
            return;
        }
        if (ioctl(connection->fd, FIONREAD, &waiting) < 0 || waiting == 0)
            return;
    }
}

static void ready(struct bmig_watch *watch, int revents)
{
    struct nbdc_connection *connection =
        (struct nbdc_connection *)((char *)watch - offsetof(struct nbdc_connection, watch));
    struct nbdc_disk *nbd = connection->owner;
    unsigned direction = nbd_aio_get_direction(connection->handle);
    if (revents & POLLIN)
        connection->heard_ns = bmig_loop_now_ns(nbd->disk->loop);
    if ((revents & POLLOUT) && (direction & LIBNBD_AIO_DIRECTION_WRITE) &&
        nbd_aio_notify_write(connection->handle) < 0)
        connection->dead = true;
    if (revents & POLLIN)
        take_replies(connection);
    else if (revents & (POLLHUP | POLLERR | POLLNVAL))
        connection->dead = true;
    /* Now, not by the task: the answers' own tasks may take the disk off the loop. */
    settle(nbd);
}

static void silence_fired(struct bmig_timer *timer)
{
    struct nbdc_disk *nbd =
        (struct nbdc_disk *)((char *)timer - offsetof(struct nbdc_disk, silence));
    uint64_t now = bmig_loop_now_ns(nbd->disk->loop);
    bool busy = false;
    if (nbd->state != NBDC_LIVE)
        return;
    for (uint32_t i = 0; i < nbd->connection_count; i++) {
        const struct nbdc_connection *connection = &nbd->connections[i];
        if (connection->in_flight == 0)
            continue;
        busy = true;
        if (now - connection->heard_ns >= nbd->place.timeout_ns) {
            bmig_nbdc_lose(nbd, "the server has not answered in time");
            return;
        }
    }
    if (busy)
        bmig_timer_start(nbd->disk->loop, timer, nbd->place.timeout_ns / 4);
}

int bmig_nbdc_connection_adopt(struct nbdc_disk *nbd, struct nbdc_connection *connection,
                               struct nbd_handle *handle)
{
    int fd = fcntl(nbd_aio_get_fd(handle), F_DUPFD_CLOEXEC, 3);
    if (fd < 0)
        return -errno;
    int bytes = SOCKET_BYTES;
    if (nbd->place.socket)
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    *connection = (struct nbdc_connection){.owner = nbd, .handle = handle, .fd = fd};
    connection->watch.ready = ready;
    if (!nbd->disk->loop)
        return 0;
    int rc = bmig_watch_start(nbd->disk->loop, &connection->watch, fd, bmig_nbdc_events(handle));
    if (rc < 0) {
        close(fd);
        connection->handle = NULL;
    }
    return rc;
}

void bmig_nbdc_io_init(struct nbdc_disk *nbd)
{
    nbd->settle.run = settle_run;
    nbd->silence.fire = silence_fired;
}
