/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Listening: from a URI to a bound socket, and from there to clients.
 */
#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "blockmig/core/log.h"
#include "blockmig/worker/nbd_internal.h"

enum { BACKLOG = 64, NBD_PORT = 10809 };

static const uint64_t RETRY_NS =
    100000000; /* after an accept that failed for want of descriptors or memory */

/* ---- unix ---- */

static int fill_address(struct sockaddr_un *address, const char *path, struct bmig_error *err)
{
    size_t length = strlen(path);

    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (length == 0 || length >= sizeof(address->sun_path))
        return bmig_error_set(err, BMIG_USAGE, ENAMETOOLONG,
                              "socket '%s': a unix socket's path has 1 to %zu bytes", path,
                              sizeof(address->sun_path) - 1);
    memcpy(address->sun_path, path, length);
    return 0;
}

/* Removes the socket file of a server that is no more. Only a refused connection proves that. */
static int remove_stale(const struct sockaddr_un *address, struct bmig_error *err)
{
    const char *path = address->sun_path;
    struct stat st;
    int fd, rc;

    if (lstat(path, &st))
        return errno == ENOENT ? 0
                               : bmig_error_set(err, bmig_error_kind_of(errno), errno,
                                                "socket '%s': %s", path, bmig_strerror(errno));
    if (!S_ISSOCK(st.st_mode))
        return bmig_error_set(
            err, BMIG_DENIED, EEXIST,
            "socket '%s': something that is no socket has this name; choose another", path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return bmig_error_set(err, BMIG_FAILED, errno, "socket '%s': %s", path,
                              bmig_strerror(errno));
    rc = connect(fd, (const struct sockaddr *)address, sizeof(*address)) ? errno : 0;
    close(fd);
    if (rc != ECONNREFUSED)
        return bmig_error_set(
            err, BMIG_DENIED, EADDRINUSE,
            "socket '%s': another server listens there; stop it or choose another path", path);
    if (unlink(path) && errno != ENOENT)
        return bmig_error_set(err, bmig_error_kind_of(errno), errno, "socket '%s': stale, and %s",
                              path, bmig_strerror(errno));
    return 0;
}

static int bind_unix(struct nbds_listener *listener, const char *path, struct bmig_error *err)
{
    struct sockaddr_un address;
    struct stat st;
    int rc = fill_address(&address, path, err);

    if (rc == 0)
        rc = remove_stale(&address, err);
    if (rc)
        return rc;
    listener->path = strdup(path);
    listener->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (!listener->path || listener->fd < 0 ||
        bind(listener->fd, (struct sockaddr *)&address, sizeof(address)) || lstat(path, &st) ||
        listen(listener->fd, BACKLOG))
        return bmig_error_set(err, bmig_error_kind_of(errno), errno, "socket '%s': %s", path,
                              bmig_strerror(errno));
    listener->device = st.st_dev;
    listener->inode = st.st_ino;
    return 0;
}

/* ---- TCP ---- */

static int bind_first(struct nbds_listener *listener, const struct addrinfo *list)
{
    int error = EADDRNOTAVAIL, one = 1;

    for (const struct addrinfo *at = list; at; at = at->ai_next) {
        int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);

        if (fd < 0) {
            error = errno;
            continue;
        }
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
        if (bind(fd, at->ai_addr, at->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0) {
            listener->fd = fd;
            return 0;
        }
        error = errno;
        close(fd);
    }
    return error;
}

static int bind_tcp(struct nbds_listener *listener, const struct bmig_uri *uri,
                    struct bmig_error *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list;
    uint64_t port;
    char service[8];
    int rc =
        bmig_uri_param_u64(uri, "port", 0, 65535, uri->port ? uri->port : NBD_PORT, &port, err);

    if (rc)
        return rc;
    if (!uri->host || !*uri->host)
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "'%s': name the address to listen on, as in nbd://127.0.0.1/",
                              uri->text);
    snprintf(service, sizeof(service), "%u", (unsigned)port);
    rc = getaddrinfo(uri->host, service, &hints, &list);
    if (rc)
        return bmig_error_set(err, BMIG_NOT_FOUND, EADDRNOTAVAIL, "'%s': %s", uri->host,
                              gai_strerror(rc));
    rc = bind_first(listener, list);
    freeaddrinfo(list);
    if (rc)
        return bmig_error_set(err, rc == EADDRINUSE ? BMIG_DENIED : bmig_error_kind_of(rc), rc,
                              "'%s': %s", uri->text, bmig_strerror(rc));
    return 0;
}

/* ---- the URI that clients use ---- */

static void put_escaped(FILE *out, const char *text, const char *plain)
{
    for (; *text; text++)
        if (isalnum((unsigned char)*text) || strchr(plain, *text))
            fputc(*text, out);
        else
            fprintf(out, "%%%02X", (unsigned char)*text);
}

static int describe(const struct nbds_listener *listener, const char *host, char **bound)
{
    struct sockaddr_storage address = {.ss_family = AF_UNSPEC};
    socklen_t length = sizeof(address);
    char service[8] = "0";
    size_t size;
    FILE *out = open_memstream(bound, &size);

    if (!out)
        return -ENOMEM;
    if (listener->path) {
        fputs("nbd+unix:///", out);
        put_escaped(out, listener->server->export.name, "-._~");
        fputs("?socket=", out);
        put_escaped(out, listener->path, "-._~/");
    } else {
        bool v6 = strchr(host, ':');

        getsockname(listener->fd, (struct sockaddr *)&address, &length);
        getnameinfo((struct sockaddr *)&address, length, NULL, 0, service, sizeof(service),
                    NI_NUMERICSERV | NI_NUMERICHOST);
        fprintf(out, "nbd://%s%s%s:%s/", v6 ? "[" : "", host, v6 ? "]" : "", service);
        put_escaped(out, listener->server->export.name, "-._~");
    }
    return fclose(out) ? -ENOMEM : 0;
}

/* ---- accepting ---- */

static void listener_free(struct nbds_listener *listener)
{
    struct stat st;

    bmig_timer_stop(&listener->retry);
    if (listener->fd >= 0)
        close(listener->fd);
    /* Only the file that is still ours: someone may have put another in its place. */
    if (listener->inode && lstat(listener->path, &st) == 0 && st.st_dev == listener->device &&
        st.st_ino == listener->inode)
        unlink(listener->path);
    free(listener->path);
    free(listener);
}

static void accept_next(struct nbds_listener *listener);

static void forget(struct nbds_listener *listener)
{
    struct bmig_nbd_server *server = listener->server;
    struct nbds_listener **link = &server->listeners;

    while (*link != listener)
        link = &(*link)->next;
    *link = listener->next;
    listener_free(listener);
    bmig_loop_defer(server->loop, &server->stop_task);
}

static void accepted(struct bmig_io *io, int result)
{
    struct nbds_listener *listener = io->user;
    struct bmig_nbd_server *server = listener->server;

    listener->accepting = false;
    if (result >= 0) {
        if (server->stopping || server->client_count >= server->options.max_clients)
            close(result);
        else
            nbds_client_new(server, result);
    }
    if (server->stopping)
        forget(listener);
    else if (result == -EMFILE || result == -ENFILE || result == -ENOMEM || result == -ENOBUFS)
        bmig_timer_start(server->loop, &listener->retry, RETRY_NS);
    else
        accept_next(listener);
}

static void accept_next(struct nbds_listener *listener)
{
    listener->accept = (struct bmig_io){
        .op = BMIG_IO_ACCEPT, .fd = listener->fd, .done = accepted, .user = listener};
    listener->accepting = true;
    bmig_loop_io(listener->server->loop, &listener->accept);
}

static void retry_fired(struct bmig_timer *timer)
{
    accept_next((struct nbds_listener *)((char *)timer - offsetof(struct nbds_listener, retry)));
}

void nbds_listeners_stop(struct bmig_nbd_server *server)
{
    struct nbds_listener *next;

    for (struct nbds_listener *listener = server->listeners; listener; listener = next) {
        next = listener->next;
        if (listener->accepting)
            bmig_loop_io_cancel(server->loop, &listener->accept);
        else
            forget(listener);
    }
}

/* ---- */

static int check_uri(const struct bmig_nbd_server *server, const struct bmig_uri *uri,
                     struct bmig_error *err)
{
    static const char *const unix_params[] = {"socket", NULL}, *const tcp_params[] = {"port", NULL};
    const char *name = uri->path[0] == '/' ? uri->path + 1 : uri->path;
    bool unix_socket = strcmp(uri->scheme, "nbd+unix") == 0;

    if (!unix_socket && strcmp(uri->scheme, "nbd") != 0)
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "'%s': a server listens on nbd:// or nbd+unix://", uri->text);
    if (*name && strcmp(name, server->export.name) != 0)
        return bmig_error_set(err, BMIG_USAGE, EINVAL, "'%s': the export is named '%s'", uri->text,
                              server->export.name);
    if (unix_socket && !bmig_uri_param(uri, "socket"))
        return bmig_error_set(err, BMIG_USAGE, EINVAL, "'%s': ?socket=PATH is missing", uri->text);
    return bmig_uri_check_params(uri, unix_socket ? unix_params : tcp_params, err);
}

static int make_listener(struct nbds_listener **made, struct bmig_nbd_server *server,
                         const struct bmig_uri *uri, struct bmig_error *err)
{
    const char *path = bmig_uri_param(uri, "socket");
    struct nbds_listener *listener = calloc(1, sizeof(*listener));
    int rc;

    if (!listener)
        return bmig_error_set(err, BMIG_FAILED, ENOMEM, "'%s': out of memory", uri->text);
    listener->server = server;
    listener->fd = -1;
    listener->retry.fire = retry_fired;
    rc = path ? bind_unix(listener, path, err) : bind_tcp(listener, uri, err);
    if (rc) {
        listener_free(listener);
        return rc;
    }
    *made = listener;
    return 0;
}

/* A URI's port is never 0 (core/uri.h), but to listen on "HOST:0" means any: the same as
 * "HOST?port=0". */
static int parse(struct bmig_uri *uri, const char *text, struct bmig_error *err)
{
    const char *authority = strstr(text, "://");
    size_t length = authority ? (size_t)(authority - text) + 3 : 0;
    char *other;
    int rc;

    length += strcspn(text + length, "/?#");
    if (length < 2 || memcmp(text + length - 2, ":0", 2) != 0)
        return bmig_uri_parse(uri, text, err);
    if (asprintf(&other, "%.*s%s%sport=0", (int)length - 2, text, text + length,
                 strchr(text, '?') ? "&" : "?") < 0)
        return bmig_error_set(err, BMIG_FAILED, ENOMEM, "'%s': out of memory", text);
    rc = bmig_uri_parse(uri, other, err);
    free(other);
    return rc;
}

int nbds_listen(struct bmig_nbd_server *server, const char *text, char **bound,
                struct bmig_error *err)
{
    struct nbds_listener *listener = NULL;
    struct bmig_uri uri;
    int rc = parse(&uri, text, err);

    assert(!server->stopping);
    if (rc)
        return rc;
    rc = check_uri(server, &uri, err);
    if (rc == 0)
        rc = make_listener(&listener, server, &uri, err);
    if (listener && bound && describe(listener, uri.host ? uri.host : "", bound)) {
        listener_free(listener);
        listener = NULL;
        rc = bmig_error_set(err, BMIG_FAILED, ENOMEM, "'%s': out of memory", text);
    }
    if (listener) {
        listener->next = server->listeners;
        server->listeners = listener;
        accept_next(listener);
    }
    bmig_uri_fini(&uri);
    return rc;
}
