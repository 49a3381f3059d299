/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The API's HTTP side, on libmicrohttpd with a thread per connection: a handler may block, and an
 * event stream is just a handler that takes long. Requests are bounded in number, size and time
 * before they reach a handler.
 */
#include "blockmig/daemon/api.h"

#include <errno.h>
#include <microhttpd.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "blockmig/core/log.h"
#include "blockmig/daemon/job.h"
#include "blockmig/daemon/json_read.h"
#include "blockmig/daemon/text.h"
#include "blockmig/daemon/worker_client.h"

enum {
    MAX_CONNECTIONS = 128,
    IDLE_S = 60,
    STREAM_BLOCK_BYTES = 32768,
    STREAM_WAIT_MS = 1000,
    DISCARD_MAX_BYTES = 16 << 20,
};

struct bmig_api {
    struct bmig_manager *manager;
    struct MHD_Daemon *http;
};

/* What is collected of a request until it is whole. */
struct intake {
    char *body;
    size_t length;
    bool too_large;
};

int bmig_api_http_status(enum bmig_error_kind kind)
{
    switch (kind) {
    case BMIG_OK:
        return MHD_HTTP_OK;
    case BMIG_USAGE:
        return MHD_HTTP_BAD_REQUEST;
    case BMIG_NOT_FOUND:
        return MHD_HTTP_NOT_FOUND;
    case BMIG_DENIED:
        return MHD_HTTP_FORBIDDEN;
    case BMIG_REFUSED:
        return MHD_HTTP_PRECONDITION_FAILED;
    case BMIG_CANCELLED:
        return MHD_HTTP_CONFLICT;
    case BMIG_TIMED_OUT:
        return MHD_HTTP_REQUEST_TIMEOUT;
    case BMIG_FAILED:
    case BMIG_NO_DAEMON:
        break;
    }
    return MHD_HTTP_INTERNAL_SERVER_ERROR;
}

/* ---- replies ---- */

static enum MHD_Result send_text(struct MHD_Connection *connection, int status, char *text,
                                 const char *type, const char *allow)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        free(text);
        return MHD_NO;
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    if (allow)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, allow);
    enum MHD_Result rc = MHD_queue_response(connection, (unsigned)status, response);
    MHD_destroy_response(response);
    return rc;
}

static enum MHD_Result send_json(struct MHD_Connection *connection, int status, json_t *json,
                                 const char *allow)
{
    char *body = json ? json_dumps(json, JSON_INDENT(2) | JSON_ENCODE_ANY) : NULL;
    char *text =
        body
            ? bmig_text("%s\n", body)
            : bmig_text("{\"error\": {\"kind\": \"failed\", \"code\": 12, \"message\": \"the reply "
                        "could not be written\"}}\n");
    status = body ? status : MHD_HTTP_INTERNAL_SERVER_ERROR;
    free(body);
    json_decref(json);
    return send_text(connection, status, text, "application/json", allow);
}

static enum MHD_Result send_error(struct MHD_Connection *connection, int status,
                                  const struct bmig_error *err, const char *allow)
{
    return send_json(connection, status, json_pack("{s:o}", "error", bmig_json_error(err)), allow);
}

/* ---- the event stream ---- */

struct stream {
    struct bmig_manager *manager;
    struct MHD_Connection *connection;
    uint64_t job, after;
    char *line; /* what is being sent, or NULL */
    size_t sent;
    bool last; /* nothing comes after line */
};

static bool peer_is_gone(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct pollfd state = {.fd = info->connect_fd, .events = POLLRDHUP};
    return poll(&state, 1, 0) > 0 && (state.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

static ssize_t stream_read(void *user, uint64_t position, char *buffer, size_t capacity)
{
    struct stream *stream = user;
    while (!stream->line) {
        if (stream->last || peer_is_gone(stream->connection))
            return MHD_CONTENT_READER_END_OF_STREAM;
        if (bmig_events_next(stream->manager->events, stream->job, STREAM_WAIT_MS, &stream->after,
                             &stream->line, &stream->last) < 0)
            return MHD_CONTENT_READER_END_OF_STREAM;
        /* The stream of one job ends with it; that of all never does. */
        stream->last = stream->last && stream->job;
    }
    size_t rest = strlen(stream->line) - stream->sent, n = rest < capacity ? rest : capacity;
    memcpy(buffer, stream->line + stream->sent, n);
    stream->sent += n;
    if (n == rest) {
        free(stream->line);
        stream->line = NULL;
        stream->sent = 0;
    }
    return (ssize_t)n;
}

static void stream_free(void *user)
{
    struct stream *stream = user;
    free(stream->line);
    free(stream);
}

static char *snapshot_line(struct bmig_manager *manager, uint64_t id, uint64_t last_id, bool *final)
{
    char time[32];
    json_t *jobs = json_array();
    *final = false;
    bmig_manager_lock(manager);
    for (struct bmig_job *job = manager->jobs; job; job = job->next) {
        if (id && job->id != id)
            continue;
        json_array_append_new(jobs, bmig_job_json_locked(job));
        *final = id && bmig_job_final(job->state);
    }
    bmig_manager_unlock(manager);
    json_t *event =
        json_pack("{s:s, s:I, s:s, s:o}", "event", "snapshot", "id", (json_int_t)last_id, "time",
                  bmig_iso_time(time, bmig_wall_ms()), "jobs", jobs);
    char *text = json_dumps(event, JSON_COMPACT);
    char *line = bmig_text("%s\n", text ? text : "{}");
    free(text);
    json_decref(event);
    return line;
}

static enum MHD_Result send_stream(const struct bmig_api_request *request)
{
    struct stream *stream = bmig_zalloc(sizeof *stream);
    stream->manager = request->manager;
    stream->connection = request->connection;
    stream->job = request->stream_job;
    /* What happens between the two lines is in the snapshot and comes again: nothing is lost. */
    uint64_t last_id = bmig_events_last_id(request->manager->events);
    stream->after = request->stream_after ? request->stream_after : last_id;
    stream->line = snapshot_line(request->manager, stream->job, last_id, &stream->last);
    struct MHD_Response *response = MHD_create_response_from_callback(
        MHD_SIZE_UNKNOWN, STREAM_BLOCK_BYTES, stream_read, stream, stream_free);
    if (!response) {
        stream_free(stream);
        return MHD_NO;
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/x-ndjson");
    enum MHD_Result rc = MHD_queue_response(request->connection, MHD_HTTP_OK, response);
    MHD_destroy_response(response);
    return rc;
}

/* ---- routes ---- */

/* Whether url is of the route's form; args get what stands for its stars. */
static bool route_matches(const char *path, const char *url, char **args)
{
    unsigned count = 0;
    while (*path) {
        if (*path == '*') {
            size_t length = strcspn(url, "/");
            if (length == 0)
                return false;
            free(args[count]);
            args[count++] = bmig_text("%.*s", (int)length, url);
            path++;
            url += length;
        } else if (*path++ != *url++) {
            return false;
        }
    }
    return *url == '\0';
}

struct query_check {
    const char *allowed;
    const char *unknown;
};

static enum MHD_Result check_key(void *user, enum MHD_ValueKind kind, const char *key,
                                 const char *value)
{
    struct query_check *check = user;
    size_t length = strlen(key);
    for (const char *word = check->allowed; *word; word += strcspn(word, " "), word += *word == ' ')
        if (strcspn(word, " ") == length && strncmp(word, key, length) == 0)
            return MHD_YES;
    check->unknown = key;
    return MHD_NO;
}

const char *bmig_api_query(const struct bmig_api_request *request, const char *key)
{
    return MHD_lookup_connection_value(request->connection, MHD_GET_ARGUMENT_KIND, key);
}

static int run_route(const struct bmig_api_route *route, struct bmig_api_request *request,
                     const struct intake *intake, struct bmig_error *err)
{
    struct query_check check = {.allowed = route->query ? route->query : ""};
    MHD_get_connection_values(request->connection, MHD_GET_ARGUMENT_KIND, check_key, &check);
    if (check.unknown)
        return bmig_error_set(err, BMIG_USAGE, EINVAL, "unknown query '%.60s'", check.unknown);
    json_t *body = NULL;
    int rc = bmig_json_parse(intake->body, intake->length, &body, err);
    request->body = body;
    if (rc == 0)
        rc = route->handler(request, err);
    json_decref(body);
    request->body = NULL;
    return rc;
}

static enum MHD_Result reply(struct bmig_api_request *request, int rc, const struct bmig_error *err)
{
    if (rc)
        return send_error(request->connection, bmig_api_http_status(err->kind), err, NULL);
    if (request->stream)
        return send_stream(request);
    if (request->text)
        return send_text(request->connection, request->status, request->text,
                         "text/plain; version=0.0.4", NULL);
    return send_json(request->connection, request->status, request->reply, NULL);
}

static enum MHD_Result route_request(struct bmig_manager *manager,
                                     struct MHD_Connection *connection, const char *method,
                                     const char *url, const struct intake *intake)
{
    char allow[64] = "";
    struct bmig_error err = {0};
    struct bmig_api_request request = {
        .manager = manager, .connection = connection, .status = MHD_HTTP_OK};
    enum MHD_Result result = MHD_NO;
    const struct bmig_api_route *route = bmig_api_routes;
    for (; route->method; route++) {
        if (!route_matches(route->path, url, request.args))
            continue;
        if (strcmp(route->method, method) == 0)
            break;
        snprintf(allow + strlen(allow), sizeof allow - strlen(allow), "%s%s", *allow ? ", " : "",
                 route->method);
    }
    if (route->method) {
        int rc = run_route(route, &request, intake, &err);
        result = reply(&request, rc, &err);
    } else if (*allow) {
        bmig_error_set(&err, BMIG_USAGE, EOPNOTSUPP, "'%.100s' takes %s, not %.20s", url, allow,
                       method);
        result = send_error(connection, MHD_HTTP_METHOD_NOT_ALLOWED, &err, allow);
    } else {
        bmig_error_set(&err, BMIG_NOT_FOUND, ENOENT, "there is no '%.200s' in this API", url);
        result = send_error(connection, MHD_HTTP_NOT_FOUND, &err, NULL);
    }
    for (unsigned i = 0; i < BMIG_API_MAX_ARGS; i++)
        free(request.args[i]);
    return result;
}

/* ---- requests ---- */

static bool peer_is_welcome(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct ucred peer;
    socklen_t length = sizeof peer;
    return info && getsockopt(info->connect_fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 &&
           (peer.uid == 0 || peer.uid == geteuid());
}

static void collect(struct intake *intake, const char *data, size_t length)
{
    if (intake->length + length > BMIG_API_MAX_BODY_BYTES)
        intake->too_large = true;
    if (!intake->too_large) {
        if (!intake->body)
            intake->body = bmig_zalloc(BMIG_API_MAX_BODY_BYTES);
        memcpy(intake->body + intake->length, data, length);
    }
    intake->length += length;
}

static enum MHD_Result handle(void *user, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *data,
                              size_t *length, void **state)
{
    struct bmig_api *api = user;
    struct intake *intake = *state;
    struct bmig_error err = {0};
    if (!intake) {
        *state = bmig_zalloc(sizeof *intake);
        return MHD_YES;
    }
    if (*length > 0) {
        collect(intake, data, *length);
        *length = 0;
        return intake->length > DISCARD_MAX_BYTES ? MHD_NO : MHD_YES;
    }
    if (!peer_is_welcome(connection)) {
        bmig_error_set(&err, BMIG_DENIED, EPERM, "only root and the daemon's own user may ask");
        return send_error(connection, MHD_HTTP_FORBIDDEN, &err, NULL);
    }
    if (intake->too_large) {
        bmig_error_set(&err, BMIG_USAGE, EMSGSIZE, "the body has %zu bytes: at most %d",
                       intake->length, BMIG_API_MAX_BODY_BYTES);
        return send_error(connection, MHD_HTTP_CONTENT_TOO_LARGE, &err, NULL);
    }
    return route_request(api->manager, connection, method, url, intake);
}

static void completed(void *user, struct MHD_Connection *connection, void **state,
                      enum MHD_RequestTerminationCode why)
{
    struct intake *intake = *state;
    if (intake)
        free(intake->body);
    free(intake);
    *state = NULL;
}

/* ---- the socket ---- */

/* The state folder's lock is ours, so whoever left a socket here is gone, unless it is no
 * blockmigd. */
static int clear_stale(const char *path, struct bmig_error *err)
{
    struct stat st;
    if (lstat(path, &st))
        return 0;
    if (!S_ISSOCK(st.st_mode) || bmig_client_probe(path) == 0)
        return bmig_error_set(err, BMIG_DENIED, EADDRINUSE, "'%s' is in use by something else",
                              path);
    unlink(path);
    return 0;
}

static int listen_at(const char *path, int *out, struct bmig_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int rc = clear_stale(path, err);
    if (rc)
        return rc;
    strcpy(address.sun_path, path); /* its length was checked in bmig_paths_init */
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    mode_t mask = umask(0177);
    rc = fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 64) ? -errno
                                                                                           : 0;
    umask(mask);
    if (rc) {
        if (fd >= 0)
            close(fd);
        return bmig_error_set(err, bmig_error_kind_of(-rc), -rc, "can't listen at '%s': %s", path,
                              bmig_strerror(-rc));
    }
    *out = fd;
    return 0;
}

int bmig_api_start(struct bmig_api **out, struct bmig_manager *manager, struct bmig_error *err)
{
    int fd = -1, rc = listen_at(manager->paths.socket, &fd, err);
    if (rc)
        return rc;
    struct bmig_api *api = bmig_zalloc(sizeof *api);
    api->manager = manager;
    api->http = MHD_start_daemon(
        MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL, 0, NULL,
        NULL, handle, api, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)MAX_CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_S,
        MHD_OPTION_NOTIFY_COMPLETED, completed, NULL, MHD_OPTION_END);
    if (!api->http) {
        close(fd);
        free(api);
        return bmig_error_set(err, BMIG_FAILED, EIO,
                              "the API can't be served: libmicrohttpd refused");
    }
    *out = api;
    return 0;
}

void bmig_api_stop(struct bmig_api *api)
{
    unlink(api->manager->paths.socket);
    MHD_stop_daemon(api->http); /* closes the socket too */
    free(api);
}
