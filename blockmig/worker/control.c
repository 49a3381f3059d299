/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The control socket: lines of JSON in, lines of JSON out, for a few connections.
 *
 * A peer that does not read is cut off once MAX_UNSENT bytes wait for it: the worker's memory is
 * not its to take.
 */
#include "blockmig/worker/control.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 16, MAX_UNSENT = 4 << 20, READ_BYTES = 16384 };

struct connection {
    struct bmig_control *control;
    struct connection *next;
    int fd;
    bool dead; /* to be freed once no io is under way */
    struct bmig_io recv, send;
    bool receiving, sending;
    char *line; /* what has come of the next line */
    size_t line_length, line_capacity;
    char *out; /* what is to be sent; [0, sent) is under way or gone */
    size_t out_length, out_capacity, out_sent;
    struct msghdr msg;
    struct iovec iov;
    char chunk[READ_BYTES];
};

struct bmig_control_call {
    struct bmig_control *control;
    struct connection *connection; /* NULL: it has gone */
    json_int_t id;
    struct bmig_control_call *next;
};

struct bmig_control {
    struct bmig_loop *loop;
    int fd;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    bmig_control_verb *verb;
    void *user;
    struct connection *connections;
    struct bmig_control_call *calls;
    uint32_t count;
    struct bmig_watch accept;
};

static void receive(struct connection *connection);

/* ---- the end of a connection ---- */

static void connection_reap(struct connection *connection)
{
    struct bmig_control *control = connection->control;
    if (!connection->dead || connection->receiving || connection->sending)
        return;
    struct connection **link = &control->connections;
    while (*link != connection)
        link = &(*link)->next;
    *link = connection->next;
    control->count--;
    close(connection->fd);
    free(connection->line);
    free(connection->out);
    free(connection);
}

static void connection_drop(struct connection *connection)
{
    struct bmig_control *control = connection->control;
    if (!connection->dead) {
        connection->dead = true;
        shutdown(connection->fd, SHUT_RDWR);
        for (struct bmig_control_call *call = control->calls; call; call = call->next)
            if (call->connection == connection)
                call->connection = NULL;
        if (connection->receiving)
            bmig_loop_io_cancel(control->loop, &connection->recv);
        if (connection->sending)
            bmig_loop_io_cancel(control->loop, &connection->send);
    }
    connection_reap(connection);
}

/* ---- sending ---- */

static void send_more(struct connection *connection);

static void sent(struct bmig_io *io, int result)
{
    struct connection *connection = io->user;
    connection->sending = false;
    if (connection->dead || result < 0) {
        connection_drop(connection);
        return;
    }
    connection->out_sent += (size_t)result;
    send_more(connection);
}

static void send_more(struct connection *connection)
{
    if (connection->sending || connection->dead)
        return;
    if (connection->out_sent == connection->out_length) {
        connection->out_sent = connection->out_length = 0;
        return;
    }
    connection->iov.iov_base = connection->out + connection->out_sent;
    connection->iov.iov_len = connection->out_length - connection->out_sent;
    connection->msg = (struct msghdr){.msg_iov = &connection->iov, .msg_iovlen = 1};
    connection->send = (struct bmig_io){.op = BMIG_IO_SENDMSG,
                                        .fd = connection->fd,
                                        .msg = &connection->msg,
                                        .done = sent,
                                        .user = connection};
    connection->sending = true;
    bmig_loop_io(connection->control->loop, &connection->send);
}

/* Puts text and a newline behind what waits. While a send is under way the memory may not move, so
 * what is new is then only appended within capacity, and a line that does not fit drops the peer
 * that reads so slowly. */
static void send_line(struct connection *connection, const char *text)
{
    size_t length = strlen(text);
    size_t need = connection->out_length + length + 1;
    if (connection->dead)
        return;
    if (!connection->out) {
        connection->out_capacity = MAX_UNSENT; /* only touched pages are real */
        connection->out = malloc(connection->out_capacity);
    }
    if (!connection->out || need > connection->out_capacity) {
        connection_drop(connection);
        return;
    }
    memcpy(connection->out + connection->out_length, text, length);
    connection->out[connection->out_length + length] = '\n';
    connection->out_length = need;
    send_more(connection);
}

static void call_free(struct bmig_control_call *call)
{
    struct bmig_control_call **link = &call->control->calls;
    while (*link != call)
        link = &(*link)->next;
    *link = call->next;
    free(call);
}

static void answer(struct bmig_control_call *call, json_t *reply)
{
    char *text = json_dumps(reply, JSON_COMPACT);
    json_decref(reply);
    if (text && call->connection)
        send_line(call->connection, text);
    free(text);
    call_free(call);
}

void bmig_control_reply(struct bmig_control_call *call, json_t *body)
{
    json_t *reply = json_pack("{s:I, s:b}", "id", call->id, "ok", 1);
    if (body) {
        json_object_update(reply, body);
        json_decref(body);
    }
    answer(call, reply);
}

void bmig_control_fail(struct bmig_control_call *call, const struct bmig_error *err)
{
    answer(call,
           json_pack("{s:I, s:b, s:s, s:i, s:s}", "id", call->id, "ok", 0, "kind",
                     bmig_error_kind_name(err->kind), "code", err->code, "message", err->message));
}

void bmig_control_event(struct bmig_control *control, json_t *event)
{
    char *text = json_dumps(event, JSON_COMPACT);
    json_decref(event);
    for (struct connection *connection = control->connections, *next; text && connection;
         connection = next) {
        next = connection->next;
        send_line(connection, text);
    }
    free(text);
}

/* ---- receiving ---- */

static void fail_line(struct connection *connection, json_int_t id, const char *message)
{
    json_t *reply = json_pack("{s:I, s:b, s:s, s:i, s:s}", "id", id, "ok", 0, "kind", "usage",
                              "code", EINVAL, "message", message);
    char *text = json_dumps(reply, JSON_COMPACT);
    json_decref(reply);
    if (text)
        send_line(connection, text);
    free(text);
}

static void take_line(struct connection *connection, const char *line, size_t length)
{
    struct bmig_control *control = connection->control;
    json_error_t error;
    json_t *object = json_loadb(line, length, JSON_REJECT_DUPLICATES, &error);
    const json_t *id = object ? json_object_get(object, "id") : NULL;
    const json_t *verb = object ? json_object_get(object, "do") : NULL;
    struct bmig_control_call *call = NULL;
    if (!object)
        fail_line(connection, 0, error.text);
    else if (!json_is_integer(id) || !json_is_string(verb))
        fail_line(connection, json_integer_value(id),
                  "a request is an object with a number \"id\" and a "
                  "string \"do\"");
    else if (!(call = calloc(1, sizeof(*call))))
        fail_line(connection, json_integer_value(id), "out of memory");
    if (call) {
        call->control = control;
        call->connection = connection;
        call->id = json_integer_value(id);
        call->next = control->calls;
        control->calls = call;
        char *name = strdup(json_string_value(verb));
        json_object_del(object, "id");
        json_object_del(object, "do");
        control->verb(control->user, call, name ? name : "", object);
        free(name);
    }
    json_decref(object);
}

/* Takes what has come apart into lines. Returns false where the peer sends lines without end. */
static bool take_chunk(struct connection *connection, size_t length)
{
    size_t need = connection->line_length + length;
    if (need > connection->line_capacity) {
        size_t capacity = need * 2;
        char *line = realloc(connection->line, capacity);
        if (!line)
            return false;
        connection->line = line;
        connection->line_capacity = capacity;
    }
    memcpy(connection->line + connection->line_length, connection->chunk, length);
    connection->line_length = need;
    size_t start = 0;
    while (!connection->dead) {
        char *end = memchr(connection->line + start, '\n', connection->line_length - start);
        if (!end)
            break;
        size_t stop = (size_t)(end - connection->line);
        take_line(connection, connection->line + start, stop - start);
        start = stop + 1;
    }
    connection->line_length -= start;
    memmove(connection->line, connection->line + start, connection->line_length);
    return connection->line_length < BMIG_CONTROL_MAX_LINE;
}

static void received(struct bmig_io *io, int result)
{
    struct connection *connection = io->user;
    if (connection->dead || result <= 0) {
        connection->receiving = false;
        connection_drop(connection);
        return;
    }
    bool sane =
        take_chunk(connection, (size_t)result); /* receiving stays set: nothing frees it in there */
    connection->receiving = false;
    if (!sane || connection->dead)
        connection_drop(connection);
    else
        receive(connection);
}

static void receive(struct connection *connection)
{
    connection->recv = (struct bmig_io){.op = BMIG_IO_RECV,
                                        .fd = connection->fd,
                                        .data = connection->chunk,
                                        .length = READ_BYTES,
                                        .done = received,
                                        .user = connection};
    connection->receiving = true;
    bmig_loop_io(connection->control->loop, &connection->recv);
}

/* ---- listening ---- */

static bool peer_allowed(int fd)
{
    struct ucred peer;
    socklen_t length = sizeof(peer);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0)
        return false;
    return peer.uid == 0 || peer.uid == geteuid();
}

static void accept_ready(struct bmig_watch *watch, int revents)
{
    struct bmig_control *control =
        (struct bmig_control *)((char *)watch - offsetof(struct bmig_control, accept));
    int fd = accept4(control->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    struct connection *connection = NULL;
    if (control->count < MAX_CONNECTIONS && peer_allowed(fd))
        connection = calloc(1, sizeof(*connection));
    if (!connection) {
        close(fd);
        return;
    }
    connection->control = control;
    connection->fd = fd;
    connection->next = control->connections;
    control->connections = connection;
    control->count++;
    receive(connection);
}

/* A socket file that nobody listens on is left from a worker that died. */
static int remove_stale(const struct sockaddr_un *address, struct bmig_error *err)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return bmig_error_set(err, BMIG_FAILED, errno, "control socket: %s", bmig_strerror(errno));
    int connected = connect(fd, (const struct sockaddr *)address, sizeof(*address));
    int code = errno;
    close(fd);
    if (connected == 0 || code == EAGAIN)
        return bmig_error_set(err, BMIG_DENIED, EADDRINUSE, "%s: a worker listens there already",
                              address->sun_path);
    if (code == ECONNREFUSED)
        unlink(address->sun_path);
    return 0;
}

int bmig_control_new(struct bmig_control **out, struct bmig_loop *loop, const char *path,
                     bmig_control_verb *verb, void *user, struct bmig_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path))
        return bmig_error_set(err, BMIG_USAGE, ENAMETOOLONG,
                              "%s: too long for a socket's path (%zu bytes at most)", path,
                              sizeof(address.sun_path) - 1);
    strcpy(address.sun_path, path);
    int status = remove_stale(&address, err);
    if (status != 0)
        return status;
    struct bmig_control *control = calloc(1, sizeof(*control));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mode_t mask = umask(0177);
    int failed = !control || fd < 0 ||
                 bind(fd, (const struct sockaddr *)&address, sizeof(address)) != 0 ||
                 listen(fd, MAX_CONNECTIONS) != 0;
    int code = errno;
    umask(mask);
    if (failed) {
        if (fd >= 0)
            close(fd);
        free(control);
        return bmig_error_set(err, bmig_error_kind_of(code), code, "%s: can't listen: %s", path,
                              bmig_strerror(code));
    }
    control->loop = loop;
    control->fd = fd;
    strcpy(control->path, path);
    control->verb = verb;
    control->user = user;
    control->accept.ready = accept_ready;
    bmig_watch_start(loop, &control->accept, fd, BMIG_WATCH_READ);
    *out = control;
    return 0;
}

void bmig_control_free(struct bmig_control *control)
{
    if (!control)
        return;
    bmig_watch_stop(&control->accept);
    unlink(control->path);
    close(control->fd);
    /* The last words go out as far as the socket takes them. */
    for (unsigned i = 0; i < 50 && control->connections; i++) {
        bool waiting = false;
        for (struct connection *connection = control->connections; connection;
             connection = connection->next)
            waiting |= connection->sending;
        if (!waiting)
            break;
        bmig_loop_step(control->loop, 20000000);
    }
    for (struct connection *connection = control->connections, *next; connection;
         connection = next) {
        next = connection->next;
        connection_drop(connection);
    }
    while (control->connections)
        bmig_loop_step(control->loop, 20000000);
    while (control->calls)
        call_free(control->calls);
    free(control);
}
