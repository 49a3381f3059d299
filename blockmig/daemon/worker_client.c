/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The daemon's end of a worker's control socket.
 *
 * One thread per worker reads lines; callers wait on a condition for the reply with their number.
 * Invariants: a call on the list has its caller waiting for it; alive turns false before the
 * waiting calls are woken and before gone runs, so whoever sees a call fail with -ECONNRESET also
 * sees alive false.
 */
#include "blockmig/daemon/worker_client.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "blockmig/core/log.h"
#include "blockmig/daemon/text.h"
#include "blockmig/worker/control.h"

enum { SEND_TIMEOUT_S = 5 };

struct call {
    json_int_t id;
    json_t *reply;
    struct call *next;
};

struct bmig_client {
    int fd;
    int pidfd; /* -1: the kernel has none */
    pid_t pid;
    atomic_int refs;
    atomic_bool alive;
    struct bmig_client_events events;

    pthread_mutex_t mutex; /* guards what follows; send_mutex is taken before it, never after */
    pthread_cond_t changed;
    json_int_t next_id;
    struct call *calls;

    pthread_mutex_t send_mutex;
    char *line; /* the reader's */
    size_t length, capacity;
};

struct bmig_client *bmig_client_ref(struct bmig_client *worker)
{
    atomic_fetch_add(&worker->refs, 1);
    return worker;
}

void bmig_client_unref(struct bmig_client *worker)
{
    if (!worker || atomic_fetch_sub(&worker->refs, 1) != 1)
        return;
    close(worker->fd);
    if (worker->pidfd >= 0)
        close(worker->pidfd);
    pthread_mutex_destroy(&worker->mutex);
    pthread_mutex_destroy(&worker->send_mutex);
    pthread_cond_destroy(&worker->changed);
    free(worker->line);
    free(worker);
}

bool bmig_client_alive(const struct bmig_client *worker)
{
    return atomic_load(&worker->alive);
}

pid_t bmig_client_pid(const struct bmig_client *worker)
{
    return worker->pid;
}

void bmig_client_disconnect(struct bmig_client *worker)
{
    shutdown(worker->fd, SHUT_RDWR);
}

/* Takes reply over: an object is never shared between threads, not even its count of references. */
static void deliver(struct bmig_client *worker, json_t *reply)
{
    json_t *id = json_object_get(reply, "id");
    pthread_mutex_lock(&worker->mutex);
    for (struct call *call = worker->calls; call; call = call->next)
        if (json_is_integer(id) && call->id == json_integer_value(id) && !call->reply) {
            call->reply = reply;
            reply = NULL;
            pthread_cond_broadcast(&worker->changed);
            break;
        }
    pthread_mutex_unlock(&worker->mutex);
    json_decref(reply); /* its caller gave up waiting */
}

static void take_line(struct bmig_client *worker, const char *line, size_t length)
{
    json_t *object = json_loadb(line, length, 0, NULL);
    if (!json_is_object(object)) {
        bmig_log(BMIG_LOG_ERROR,
                 "worker %d sent a line that is no JSON object: its connection is cut",
                 (int)worker->pid);
        bmig_client_disconnect(worker);
        json_decref(object);
    } else if (json_object_get(object, "event")) {
        worker->events.event(worker->events.user, worker, object);
        json_decref(object);
    } else {
        deliver(worker, object);
    }
}

static void take_lines(struct bmig_client *worker)
{
    size_t begin = 0;
    for (;;) {
        char *end = memchr(worker->line + begin, '\n', worker->length - begin);
        if (!end)
            break;
        size_t length = (size_t)(end - (worker->line + begin));
        take_line(worker, worker->line + begin, length);
        begin += length + 1;
    }
    memmove(worker->line, worker->line + begin, worker->length - begin);
    worker->length -= begin;
}

static bool read_some(struct bmig_client *worker)
{
    if (worker->length == worker->capacity) {
        if (worker->capacity > BMIG_CONTROL_MAX_LINE)
            return false;
        worker->capacity = worker->capacity ? worker->capacity * 2 : 16384;
        worker->line = realloc(worker->line, worker->capacity);
        if (!worker->line)
            return false;
    }
    ssize_t n;
    do {
        n = recv(worker->fd, worker->line + worker->length, worker->capacity - worker->length, 0);
    } while (n < 0 && errno == EINTR);
    if (n <= 0)
        return false;
    worker->length += (size_t)n;
    return true;
}

static void *reader(void *argument)
{
    struct bmig_client *worker = argument;
    while (read_some(worker))
        take_lines(worker);
    shutdown(worker->fd, SHUT_RDWR);
    pthread_mutex_lock(&worker->mutex);
    atomic_store(&worker->alive, false);
    pthread_cond_broadcast(&worker->changed);
    pthread_mutex_unlock(&worker->mutex);
    worker->events.gone(worker->events.user, worker);
    bmig_client_unref(worker);
    return NULL;
}

static int dial(const char *path, int *out, struct bmig_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return bmig_error_set(err, BMIG_USAGE, ENAMETOOLONG, "socket path '%s' is too long", path);
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return bmig_error_set(err, BMIG_FAILED, errno, "no socket: %s", bmig_strerror(errno));
    struct timeval bound = {.tv_sec = SEND_TIMEOUT_S}; /* connect is bounded by it too */
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof bound);
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) {
        int code = errno;
        close(fd);
        return bmig_error_set(err, BMIG_FAILED, code, "can't reach the worker at '%s': %s", path,
                              bmig_strerror(code));
    }
    *out = fd;
    return 0;
}

int bmig_client_probe(const char *path)
{
    int fd, rc = dial(path, &fd, NULL);
    if (rc == 0)
        close(fd);
    return rc;
}

int bmig_client_connect(struct bmig_client **out, const char *path,
                        const struct bmig_client_events *events, struct bmig_error *err)
{
    int fd, rc = dial(path, &fd, err);
    if (rc)
        return rc;
    struct ucred peer = {0};
    socklen_t length = sizeof peer;
    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length);
    if (peer.uid != 0 && peer.uid != geteuid()) {
        close(fd);
        return bmig_error_set(err, BMIG_DENIED, EPERM,
                              "'%s' belongs to user %u, not to a worker of ours", path,
                              (unsigned)peer.uid);
    }
    struct bmig_client *worker = bmig_zalloc(sizeof *worker);
    worker->fd = fd;
    worker->pid = peer.pid;
    worker->pidfd = peer.pid > 0 ? (int)syscall(SYS_pidfd_open, peer.pid, 0) : -1;
    worker->events = *events;
    atomic_init(&worker->refs, 2);
    atomic_init(&worker->alive, true);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&worker->changed, &attributes);
    pthread_mutex_init(&worker->mutex, NULL);
    pthread_mutex_init(&worker->send_mutex, NULL);
    pthread_t thread;
    rc = pthread_create(&thread, NULL, reader, worker);
    if (rc) {
        atomic_init(&worker->refs, 1);
        bmig_client_unref(worker);
        return bmig_error_set(err, BMIG_FAILED, rc, "no thread: %s", bmig_strerror(rc));
    }
    pthread_detach(thread);
    *out = worker;
    return 0;
}

static int send_all(struct bmig_client *worker, const char *text, size_t length)
{
    int rc = 0;
    pthread_mutex_lock(&worker->send_mutex);
    while (length > 0) {
        ssize_t n = send(worker->fd, text, length, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            rc = -errno;
            break;
        }
        text += n;
        length -= (size_t)n;
    }
    pthread_mutex_unlock(&worker->send_mutex);
    if (rc) /* half a line can't be taken back: this connection is of no use any more */
        bmig_client_disconnect(worker);
    return rc;
}

static void enlist(struct bmig_client *worker, struct call *call)
{
    pthread_mutex_lock(&worker->mutex);
    call->id = ++worker->next_id;
    call->next = worker->calls;
    worker->calls = call;
    pthread_mutex_unlock(&worker->mutex);
}

/* Waits for the reply, the deadline or the worker's end, and takes call off the list. */
static json_t *wait_reply(struct bmig_client *worker, struct call *call, unsigned timeout_ms)
{
    struct timespec deadline;
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += timeout_ms / 1000;
    deadline.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (deadline.tv_nsec >= 1000000000) {
        deadline.tv_sec++;
        deadline.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&worker->mutex);
    int rc = 0;
    while (!call->reply && atomic_load(&worker->alive) && rc != ETIMEDOUT)
        rc = pthread_cond_timedwait(&worker->changed, &worker->mutex, &deadline);
    struct call **link = &worker->calls;
    while (*link != call)
        link = &(*link)->next;
    *link = call->next;
    pthread_mutex_unlock(&worker->mutex);
    return call->reply;
}

static int reply_error(json_t *reply, struct bmig_error *err)
{
    const char *kind = json_string_value(json_object_get(reply, "kind"));
    const char *message = json_string_value(json_object_get(reply, "message"));
    json_int_t code = json_integer_value(json_object_get(reply, "code"));
    return bmig_error_set(err, kind ? bmig_error_kind_from_name(kind) : BMIG_FAILED,
                          code > 0 && code < 4096 ? (int)code : EIO, "%s",
                          message ? message : "the worker gave no reason");
}

int bmig_client_call(struct bmig_client *worker, json_t *request, unsigned timeout_ms,
                     json_t **reply, struct bmig_error *err)
{
    struct call call = {0};
    enlist(worker, &call);
    json_object_set_new(request, "id", json_integer(call.id));
    char *verb = bmig_text("%s", json_string_value(json_object_get(request, "do")));
    char *body = json_dumps(request, JSON_COMPACT);
    char *text = bmig_text("%s\n", body);
    json_decref(request);
    free(body);
    int rc = send_all(worker, text, strlen(text));
    explicit_bzero(text, strlen(text)); /* it may have held a secret */
    free(text);
    json_t *answer = wait_reply(worker, &call, rc ? 0 : timeout_ms);
    if (!answer && (rc || !bmig_client_alive(worker)))
        rc = bmig_error_set(err, BMIG_FAILED, ECONNRESET,
                            "the worker (pid %d) ended before it answered '%s'", (int)worker->pid,
                            verb);
    else if (!answer)
        rc = bmig_error_set(err, BMIG_TIMED_OUT, ETIMEDOUT,
                            "the worker (pid %d) did not answer '%s' within %u ms",
                            (int)worker->pid, verb, timeout_ms);
    else if (!json_is_true(json_object_get(answer, "ok")))
        rc = reply_error(answer, err);
    else
        rc = 0;
    free(verb);
    if (rc == 0 && reply)
        *reply = answer;
    else
        json_decref(answer);
    return rc;
}

int bmig_client_kill(struct bmig_client *worker, struct bmig_error *err)
{
    if (worker->pidfd < 0)
        return bmig_error_set(err, BMIG_FAILED, ENOTSUP,
                              "worker %d can't be named for sure: end it yourself",
                              (int)worker->pid);
    if (syscall(SYS_pidfd_send_signal, worker->pidfd, SIGKILL, NULL, 0) && errno != ESRCH)
        return bmig_error_set(err, BMIG_FAILED, errno, "can't end worker %d: %s", (int)worker->pid,
                              bmig_strerror(errno));
    bmig_client_wait_end(worker, 5000);
    return 0;
}

bool bmig_client_wait_end(struct bmig_client *worker, unsigned timeout_ms)
{
    struct pollfd ended = {.fd = worker->pidfd, .events = POLLIN};
    int64_t until = bmig_steady_ms() + timeout_ms;
    for (;;) {
        int64_t left = until - bmig_steady_ms();
        int rc = poll(&ended, worker->pidfd < 0 ? 0 : 1, left > 0 ? (int)left : 0);
        if (rc >= 0 || errno != EINTR)
            return rc > 0;
    }
}
