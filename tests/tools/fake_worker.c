/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A worker for tests of the daemon: speaks blockmig/worker/control.h, copies local raw files at a
 * chosen rate, and misbehaves on demand. It serves no guest.
 *
 * $FAKE_DIR/orders is read at every request; its lines are
 *   rate N               bytes a second that the copy makes (default: all at once)
 *   ignore VERB          neither done nor answered
 *   mute VERB            done, not answered
 *   fail VERB CODE       refused with that errno
 *   die VERB             _exit before it is done;  die-after VERB: done, then _exit without an
 * answer degrade CODE         the mirror turns degraded with that errno clients N            what
 * stat says and $FAKE_DIR/verbs gets a line "VOLUME VERB" for each request but stat.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "blockmig/core/uri.h"
#include "blockmig/worker/control.h"

enum { MAX_CLIENTS = 16, STEP_MS = 20 };

struct replica {
    char *uri, *format;
    int fd;
};

static struct {
    char *volume;
    uint64_t epoch, size_bytes;
    json_t *listen;
    struct replica primary, secondary;
    const char *state; /* of the mirror */
    bool verify, paused, target_was_zero;
    int error;
    uint64_t done;
    double budget;
} worker = {.state = "none", .primary = {.fd = -1}, .secondary = {.fd = -1}};

static struct {
    int fd;
    char line[1 << 16];
    size_t length;
} clients[MAX_CLIENTS];

/* ---- orders ---- */

static bool order(const char *what, const char *verb, long *number)
{
    char path[4096], line[256], word[64], name[64];
    bool found = false;
    snprintf(path, sizeof path, "%s/orders",
             getenv("FAKE_DIR") ? getenv("FAKE_DIR") : "/nonexistent");
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        long value = 0;
        if (verb ? sscanf(line, "%63s %63s %ld", word, name, &value) >= 2 && !strcmp(word, what) &&
                       !strcmp(name, verb)
                 : sscanf(line, "%63s %ld", word, &value) == 2 && !strcmp(word, what)) {
            found = true;
            if (number)
                *number = value;
        }
    }
    if (file)
        fclose(file);
    return found;
}

static void note(const char *verb)
{
    char path[4096], line[256];
    if (!getenv("FAKE_DIR"))
        return;
    snprintf(path, sizeof path, "%s/verbs", getenv("FAKE_DIR"));
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    int n = snprintf(line, sizeof line, "%s %s\n", worker.volume ? worker.volume : "-", verb);
    if (write(fd, line, (size_t)n) != n)
        abort();
    close(fd);
}

/* ---- replicas ---- */

static int open_replica(struct replica *replica, const json_t *image, uint64_t *size_bytes)
{
    struct bmig_uri uri;
    const char *text = json_string_value(json_object_get(image, "uri"));
    if (bmig_uri_parse(&uri, text, NULL))
        return -EINVAL;
    int fd = open(uri.path, O_RDWR | O_CLOEXEC);
    int rc = fd < 0 ? -errno : 0;
    struct stat st;
    bmig_uri_fini(&uri);
    if (rc)
        return rc;
    fstat(fd, &st);
    *size_bytes = (uint64_t)st.st_size;
    *replica = (struct replica){.uri = strdup(text), .format = strdup("raw"), .fd = fd};
    return 0;
}

static void close_replica(struct replica *replica)
{
    free(replica->uri);
    free(replica->format);
    if (replica->fd >= 0)
        close(replica->fd);
    *replica = (struct replica){.fd = -1};
}

static json_t *replica_json(const struct replica *replica)
{
    return replica->uri ? json_pack("{s:s, s:s}", "uri", replica->uri, "format", replica->format)
                        : json_null();
}

static void broadcast(json_t *event);

static void set_state(const char *state)
{
    worker.state = state;
    broadcast(json_pack("{s:s, s:s, s:i, s:s}", "event", "mirror", "state", state, "error",
                        worker.error, "message", worker.error ? strerror(worker.error) : ""));
}

static void copy_step(void)
{
    long code = 0, rate = 0;
    static uint8_t buffer[1 << 16];
    bool copying = !strcmp(worker.state, "copying"), verifying = !strcmp(worker.state, "verifying");
    if ((copying || verifying || !strcmp(worker.state, "synced")) &&
        order("degrade", NULL, &code) && !worker.error) {
        worker.error = (int)code;
        set_state("degraded");
        return;
    }
    if ((!copying && !verifying) || worker.paused)
        return;
    worker.budget =
        order("rate", NULL, &rate) ? worker.budget + (double)rate * STEP_MS / 1000 : 1e18;
    while (worker.done < worker.size_bytes && worker.budget >= sizeof buffer) {
        ssize_t n = pread(worker.primary.fd, buffer, sizeof buffer, (off_t)worker.done);
        if (n <= 0 ||
            (copying && pwrite(worker.secondary.fd, buffer, (size_t)n, (off_t)worker.done) != n))
            abort();
        worker.done += (uint64_t)n;
        worker.budget -= (double)n;
    }
    if (worker.done < worker.size_bytes)
        return;
    worker.done = copying && worker.verify ? 0 : worker.size_bytes;
    set_state(copying && worker.verify ? "verifying" : "synced");
}

/* ---- verbs ---- */

static json_t *refused(int code, const char *kind, const char *message)
{
    return json_pack("{s:b, s:s, s:i, s:s}", "ok", 0, "kind", kind, "code", code, "message",
                     message);
}

static json_t *ok(void)
{
    return json_pack("{s:b}", "ok", 1);
}

static json_t *do_open(const json_t *request)
{
    if (worker.volume)
        return refused(EBUSY, "denied", "open already");
    int rc = open_replica(&worker.primary, json_object_get(request, "primary"), &worker.size_bytes);
    if (rc)
        return refused(-rc, "failed", strerror(-rc));
    worker.volume = strdup(json_string_value(json_object_get(request, "volume")));
    worker.epoch = (uint64_t)json_integer_value(json_object_get(request, "epoch"));
    worker.listen = json_incref(json_object_get(request, "listen"));
    return json_pack("{s:b, s:I, s:O}", "ok", 1, "size_bytes", (json_int_t)worker.size_bytes,
                     "listen", worker.listen);
}

static json_t *do_stat(void)
{
    long connected = 0;
    order("clients", NULL, &connected);
    bool synced = !strcmp(worker.state, "synced") || !strcmp(worker.state, "switching");
    json_t *mirror = json_pack(
        "{s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:I, s:n, s:i, s:b, s:i, s:s}", "state",
        worker.state, "paused", (int)worker.paused, "bytes_total", (json_int_t)worker.size_bytes,
        "bytes_done", (json_int_t)worker.done, "bytes_copied", (json_int_t)worker.done,
        "bytes_stale", (json_int_t)(synced ? 0 : worker.size_bytes - worker.done), "bytes_recopied",
        (json_int_t)0, "bytes_mirrored", (json_int_t)4096, "guest_p99_us", 70, "rate_bytes_per_s",
        (json_int_t)1000, "eta_s", "switch_hold_us", 3, "verified", (int)(synced && worker.verify),
        "error", -worker.error, "error_text", worker.error ? strerror(worker.error) : "");
    return json_pack("{s:b, s:s?, s:I, s:I, s:o, s:o, s:I, s:i, s:i, s:s, s:O?, s:o, s:o}", "ok", 1,
                     "volume", worker.volume, "epoch", (json_int_t)worker.epoch, "size_bytes",
                     (json_int_t)worker.size_bytes, "primary", replica_json(&worker.primary),
                     "secondary", replica_json(&worker.secondary), "clients", (json_int_t)connected,
                     "memory_bytes", 1000, "memory_bound_bytes", 2000, "loop", "fake", "listen",
                     worker.listen, "guest", json_object(), "mirror", mirror);
}

static json_t *do_mirror_start(const json_t *request)
{
    uint64_t size_bytes;
    json_t *target = json_object_get(request, "target");
    if (strcmp(worker.state, "none"))
        return refused(EBUSY, "denied", "there is a mirror");
    int rc = open_replica(&worker.secondary, target, &size_bytes);
    if (rc)
        return refused(-rc, "failed", strerror(-rc));
    if (size_bytes < worker.size_bytes)
        abort();
    worker.verify = json_is_true(json_object_get(request, "verify"));
    worker.paused = json_is_true(json_object_get(request, "paused"));
    worker.done = 0;
    worker.error = 0;
    worker.budget = 0;
    note(json_is_true(json_object_get(target, "known_zero")) ? "target-known-zero"
                                                             : "target-unknown");
    set_state("copying");
    return ok();
}

static json_t *do_switch(bool commit, const json_t *request)
{
    if (strcmp(worker.state, "switching"))
        return refused(EINVAL, "denied", "not switching");
    if (commit) {
        struct replica old = worker.primary;
        worker.primary = worker.secondary;
        worker.secondary = old;
        worker.epoch = (uint64_t)json_integer_value(json_object_get(request, "epoch"));
    }
    set_state("synced");
    return ok();
}

static json_t *do_verb(const char *verb, const json_t *request, bool *end)
{
    if (!strcmp(verb, "hello"))
        return json_pack("{s:b, s:i, s:s, s:i, s:s?, s:s}", "ok", 1, "protocol",
                         BMIG_CONTROL_PROTOCOL, "version", "fake", "pid", (int)getpid(), "volume",
                         worker.volume, "loop", "fake");
    if (!strcmp(verb, "open"))
        return do_open(request);
    if (!strcmp(verb, "stat"))
        return do_stat();
    if (!strcmp(verb, "mirror-start"))
        return do_mirror_start(request);
    if (!strcmp(verb, "mirror-set"))
        return ok();
    if (!strcmp(verb, "mirror-pause")) {
        worker.paused = json_is_true(json_object_get(request, "paused"));
        return ok();
    }
    if (!strcmp(verb, "mirror-stop")) {
        if (!strcmp(worker.state, "switching"))
            return refused(EBUSY, "denied", "switching");
        close_replica(&worker.secondary);
        set_state("none");
        return ok();
    }
    if (!strcmp(verb, "switch-prepare")) {
        if (strcmp(worker.state, "synced"))
            return refused(EBUSY, "denied", "not synced");
        set_state("switching");
        return ok();
    }
    if (!strcmp(verb, "switch-commit") || !strcmp(verb, "switch-abort"))
        return do_switch(!strcmp(verb, "switch-commit"), request);
    if (!strcmp(verb, "stop")) {
        long connected = 0;
        order("clients", NULL, &connected);
        if (connected && !json_is_true(json_object_get(request, "force")))
            return refused(EBUSY, "denied", "a client is connected");
        *end = true;
        return ok();
    }
    return refused(EINVAL, "usage", "unknown verb");
}

/* ---- lines ---- */

static void send_json(int fd, json_t *json)
{
    char *text = json_dumps(json, JSON_COMPACT);
    dprintf(fd, "%s\n", text);
    free(text);
    json_decref(json);
}

static void broadcast(json_t *event)
{
    for (int i = 0; i < MAX_CLIENTS; i++)
        if (clients[i].fd > 0)
            send_json(clients[i].fd, json_incref(event));
    json_decref(event);
}

static void take_line(int fd, const char *line)
{
    json_t *request = json_loads(line, 0, NULL);
    const char *verb = json_string_value(json_object_get(request, "do"));
    long code = 0;
    bool end = false;
    if (!verb)
        abort();
    if (order("die", verb, NULL))
        _exit(9);
    if (order("ignore", verb, NULL)) {
        if (strcmp(verb, "stat"))
            note(verb);
        json_decref(request);
        return;
    }
    json_t *reply = order("fail", verb, &code) ? refused((int)code, "failed", "ordered to fail")
                                               : do_verb(verb, request, &end);
    if (strcmp(verb, "stat"))
        note(verb);
    if (order("die-after", verb, NULL))
        _exit(9);
    json_object_set(reply, "id", json_object_get(request, "id"));
    if (order("mute", verb, NULL))
        json_decref(reply);
    else
        send_json(fd, reply);
    json_decref(request);
    if (end)
        exit(0);
}

static void read_client(int i)
{
    ssize_t n = read(clients[i].fd, clients[i].line + clients[i].length,
                     sizeof clients[i].line - clients[i].length - 1);
    if (n <= 0) {
        close(clients[i].fd);
        clients[i].fd = 0;
        return;
    }
    clients[i].length += (size_t)n;
    clients[i].line[clients[i].length] = '\0';
    char *begin = clients[i].line, *end;
    while ((end = strchr(begin, '\n'))) {
        *end = '\0';
        take_line(clients[i].fd, begin);
        begin = end + 1;
    }
    clients[i].length = strlen(begin);
    memmove(clients[i].line, begin, clients[i].length + 1);
}

static void serve(int listener)
{
    for (;;) {
        struct pollfd fds[MAX_CLIENTS + 1] = {{.fd = listener, .events = POLLIN}};
        for (int i = 0; i < MAX_CLIENTS; i++)
            fds[i + 1] =
                (struct pollfd){.fd = clients[i].fd > 0 ? clients[i].fd : -1, .events = POLLIN};
        poll(fds, MAX_CLIENTS + 1, STEP_MS);
        copy_step();
        for (int i = 0; i < MAX_CLIENTS; i++)
            if (fds[i + 1].revents)
                read_client(i);
        int fd = fds[0].revents ? accept4(listener, NULL, NULL, SOCK_CLOEXEC) : -1;
        for (int i = 0; fd >= 0 && i < MAX_CLIENTS; i++)
            if (clients[i].fd <= 0) {
                clients[i].fd = fd;
                clients[i].length = 0;
                fd = -1;
            }
        if (fd >= 0)
            close(fd);
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (argc < 3 || strcmp(argv[1], "--control"))
        return 2;
    snprintf(address.sun_path, sizeof address.sun_path, "%s", argv[2]);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (order("die", "start", NULL) ||
        bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 8))
        return 1;
    signal(SIGPIPE, SIG_IGN);
    serve(listener);
}
