/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The place an NBD URI names, and connecting to it within a bound.
 *
 * libnbd's own URI parser and synchronous calls are not used: the one takes more than we mean to
 * offer (local commands, vsock), the others wait for ever for a server that says nothing. nbd://
 * and nbd+unix:// never speak TLS, nbds:// and nbds+unix:// nothing else.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <time.h>

#include "backends/nbd_internal.h"
#include "blockmig/core/error.h"
#include "blockmig/core/uri.h"

enum { STOP_LOOK_MS = 50 }; /* how soon a connect that waits notices that it is to stop */

/* NBD proto.md, "Block size constraints": what holds where the server says nothing. */
enum { ASSUMED_MIN = 512, ASSUMED_PREFERRED = 4096, ASSUMED_MAX = 32 << 20 };

static const uint64_t DEFAULT_TIMEOUT_NS = UINT64_C(30) * 1000 * 1000 * 1000;

uint64_t bmig_nbdc_clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static char *copy_or_null(const char *text)
{
    return text ? strdup(text) : NULL;
}

static int check_words(const struct bmig_uri *uri, bool tls, bool is_unix, struct bmig_error *err)
{
    static const char *const tcp[] = {NULL};
    static const char *const local[] = {"socket", NULL};
    static const char *const tcp_tls[] = {"tls-certificates", "tls-psk-file", "tls-username", NULL};
    static const char *const local_tls[] = {"socket", "tls-certificates", "tls-psk-file",
                                            "tls-username", NULL};
    const char *const *known = is_unix ? (tls ? local_tls : local) : (tls ? tcp_tls : tcp);
    int rc = bmig_uri_check_params(uri, known, err);
    if (rc < 0)
        return rc;

    const char *socket = bmig_uri_param(uri, "socket");
    if (is_unix && (!socket || !*socket))
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "'%s': a unix socket's path is missing (?socket=PATH)", uri->text);
    if (is_unix && strlen(socket) >= sizeof(((struct sockaddr_un *)0)->sun_path))
        return bmig_error_set(err, BMIG_USAGE, ENAMETOOLONG,
                              "'%s': the path of the socket is longer than the system takes",
                              uri->text);
    if (is_unix && ((uri->host && *uri->host) || uri->port))
        return bmig_error_set(err, BMIG_USAGE, EINVAL, "'%s': a unix socket has no host or port",
                              uri->text);
    if (!is_unix && (!uri->host || !*uri->host))
        return bmig_error_set(err, BMIG_USAGE, EINVAL, "'%s': the host is missing", uri->text);
    if (uri->user && !tls)
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "'%s': a user means something with TLS only (nbds)", uri->text);
    if (bmig_uri_param(uri, "tls-certificates") && bmig_uri_param(uri, "tls-psk-file"))
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "'%s': tls-certificates and tls-psk-file exclude each other",
                              uri->text);
    return 0;
}

int bmig_nbdc_place_init(struct nbdc_place *place, const struct bmig_uri *uri,
                         const struct bmig_open_options *options, struct bmig_error *err)
{
    memset(place, 0, sizeof(*place));
    bool is_unix = strstr(uri->scheme, "+unix") != NULL;
    place->tls = strncmp(uri->scheme, "nbds", 4) == 0;
    int rc = check_words(uri, place->tls, is_unix, err);
    if (rc < 0)
        return rc;

    const char *name = uri->path[0] == '/' ? uri->path + 1 : uri->path;
    if (is_unix)
        place->socket = copy_or_null(bmig_uri_param(uri, "socket"));
    else
        place->host = copy_or_null(uri->host);
    snprintf(place->port, sizeof(place->port), "%u", uri->port ? (unsigned)uri->port : 10809u);
    place->export_name = strdup(name);
    place->tls_certificates = copy_or_null(bmig_uri_param(uri, "tls-certificates"));
    place->tls_psk_file = copy_or_null(bmig_uri_param(uri, "tls-psk-file"));
    /* A unix socket has no authority that a user could stand in. */
    place->tls_user = copy_or_null(uri->user ? uri->user : bmig_uri_param(uri, "tls-username"));
    place->label = strdup(uri->text);
    place->timeout_ns = options->timeout_ns ? options->timeout_ns : DEFAULT_TIMEOUT_NS;
    if ((is_unix ? !place->socket : !place->host) || !place->export_name || !place->label) {
        bmig_nbdc_place_fini(place);
        return bmig_error_set(err, BMIG_FAILED, ENOMEM, "'%s': out of memory", uri->text);
    }
    return 0;
}

void bmig_nbdc_place_fini(struct nbdc_place *place)
{
    free(place->socket);
    free(place->host);
    free(place->export_name);
    free(place->tls_certificates);
    free(place->tls_psk_file);
    free(place->tls_user);
    free(place->label);
    memset(place, 0, sizeof(*place));
}

/* ---- connecting ---- */

/* What libnbd says went wrong, without the name of its function in front. */
static int set_library_error(const struct nbdc_place *place, struct bmig_error *err)
{
    int code = nbd_get_errno();
    const char *text = nbd_get_error();
    const char *colon = text ? strstr(text, ": ") : NULL;
    if (colon && strncmp(text, "nbd_", 4) == 0)
        text = colon + 2;
    if (code == 0)
        code = ECONNABORTED;
    enum bmig_error_kind kind = bmig_error_kind_of(code);
    return bmig_error_set(err, kind, code, "'%s': %s", place->label,
                          text && *text ? text : bmig_strerror(code));
}

static int configure(struct nbd_handle *handle, const struct nbdc_place *place)
{
    int mode = place->tls ? LIBNBD_TLS_REQUIRE : LIBNBD_TLS_DISABLE;
    if (nbd_set_export_name(handle, place->export_name) < 0 || nbd_set_tls(handle, mode) < 0 ||
        nbd_add_meta_context(handle, LIBNBD_CONTEXT_BASE_ALLOCATION) < 0 ||
        nbd_set_request_structured_replies(handle, true) < 0 ||
        /* nbd.c counts the bytes of each answer, so a buffer need not be cleared beforehand. */
        nbd_set_pread_initialize(handle, false) < 0)
        return -1;
    if (place->tls_certificates && nbd_set_tls_certificates(handle, place->tls_certificates) < 0)
        return -1;
    if (place->tls_psk_file && nbd_set_tls_psk_file(handle, place->tls_psk_file) < 0)
        return -1;
    if (place->tls_user && nbd_set_tls_username(handle, place->tls_user) < 0)
        return -1;
    return 0;
}

/* One turn of poll and notify. 0, or -errno (-ENOTCONN: the handle is dead). */
static int turn(struct nbd_handle *handle, uint64_t deadline_ns, const atomic_bool *stop)
{
    uint64_t now = bmig_nbdc_clock_ns();
    if (now >= deadline_ns)
        return -ETIMEDOUT;
    if (stop && atomic_load(stop))
        return -ECANCELED;
    unsigned direction = nbd_aio_get_direction(handle);
    struct pollfd entry = {.fd = nbd_aio_get_fd(handle), .events = 0};
    if (direction & LIBNBD_AIO_DIRECTION_READ)
        entry.events |= POLLIN;
    if (direction & LIBNBD_AIO_DIRECTION_WRITE)
        entry.events |= POLLOUT;
    uint64_t left_ms = (deadline_ns - now) / 1000000 + 1;
    int ready = poll(&entry, 1, left_ms < STOP_LOOK_MS ? (int)left_ms : STOP_LOOK_MS);
    if (ready < 0)
        return errno == EINTR ? 0 : -errno;
    if (ready == 0)
        return 0;
    int rc = 0;
    if ((entry.revents & (POLLIN | POLLHUP | POLLERR)) && (direction & LIBNBD_AIO_DIRECTION_READ))
        rc = nbd_aio_notify_read(handle);
    else if (direction & LIBNBD_AIO_DIRECTION_WRITE)
        rc = nbd_aio_notify_write(handle);
    return rc < 0 ? -ENOTCONN : 0;
}

static bool is_over(struct nbd_handle *handle)
{
    return nbd_aio_is_dead(handle) > 0 || nbd_aio_is_closed(handle) > 0;
}

int bmig_nbdc_drive(struct nbd_handle *handle, const int *status, uint64_t deadline_ns,
                    const atomic_bool *stop)
{
    while (*status == INT_MAX) {
        int rc = turn(handle, deadline_ns, stop);
        if (rc < 0)
            return rc;
        if (is_over(handle) && *status == INT_MAX)
            return -ENOTCONN;
    }
    return *status;
}

static int negotiate(struct nbd_handle *handle, const struct nbdc_place *place,
                     uint64_t deadline_ns, const atomic_bool *stop, struct bmig_error *err)
{
    int rc = place->socket ? nbd_aio_connect_unix(handle, place->socket)
                           : nbd_aio_connect_tcp(handle, place->host, place->port);
    if (rc < 0)
        return set_library_error(place, err);
    while (nbd_aio_is_ready(handle) <= 0) {
        if (is_over(handle))
            return set_library_error(place, err);
        rc = turn(handle, deadline_ns, stop);
        if (rc == -ENOTCONN)
            return set_library_error(place, err);
        if (rc == -ETIMEDOUT)
            return bmig_error_set(err, BMIG_FAILED, ETIMEDOUT,
                                  "'%s': the server did not complete the NBD handshake in time",
                                  place->label);
        if (rc < 0)
            return bmig_error_set(err, rc == -ECANCELED ? BMIG_CANCELLED : BMIG_FAILED, -rc,
                                  "'%s': %s", place->label, bmig_strerror(-rc));
    }
    return 0;
}

static int read_block_sizes(struct nbd_handle *handle, const struct nbdc_place *place,
                            struct nbdc_facts *facts, struct bmig_error *err)
{
    int64_t minimum = nbd_get_block_size(handle, LIBNBD_SIZE_MINIMUM);
    int64_t preferred = nbd_get_block_size(handle, LIBNBD_SIZE_PREFERRED);
    int64_t maximum = nbd_get_block_size(handle, LIBNBD_SIZE_MAXIMUM);
    if (minimum <= 0)
        minimum = facts->size_bytes % ASSUMED_MIN == 0 ? ASSUMED_MIN : 1;
    if (preferred <= 0)
        preferred = ASSUMED_PREFERRED;
    if (maximum <= 0 || maximum > ASSUMED_MAX)
        maximum = ASSUMED_MAX;
    if ((minimum & (minimum - 1)) != 0 || minimum > 65536 || maximum < minimum)
        return bmig_error_set(err, BMIG_FAILED, EPROTO,
                              "'%s': the server's block sizes make no sense (%lld to %lld)",
                              place->label, (long long)minimum, (long long)maximum);
    if (facts->size_bytes % (uint64_t)minimum != 0)
        return bmig_error_set(err, BMIG_FAILED, EPROTO,
                              "'%s': the size of %llu bytes is no multiple of the server's own "
                              "block of %lld",
                              place->label, (unsigned long long)facts->size_bytes,
                              (long long)minimum);
    facts->block_min = (uint32_t)minimum;
    facts->block_preferred = preferred > UINT32_MAX ? UINT32_MAX : (uint32_t)preferred;
    facts->block_max = (uint32_t)(maximum - maximum % minimum);
    return 0;
}

static int read_facts(struct nbd_handle *handle, const struct nbdc_place *place,
                      struct nbdc_facts *facts, struct bmig_error *err)
{
    int64_t size = nbd_get_size(handle);
    if (size < 0)
        return set_library_error(place, err);
    memset(facts, 0, sizeof(*facts));
    facts->size_bytes = (uint64_t)size;
    if (nbd_is_read_only(handle) == 0)
        facts->caps |= BMIG_CAP_WRITE;
    if (nbd_can_zero(handle) > 0)
        facts->caps |= BMIG_CAP_ZERO | BMIG_CAP_UNMAP;
    if (nbd_can_fast_zero(handle) > 0)
        facts->caps |= BMIG_CAP_FAST_ZERO;
    if (nbd_can_trim(handle) > 0)
        facts->caps |= BMIG_CAP_DISCARD;
    if (nbd_can_flush(handle) > 0)
        facts->caps |= BMIG_CAP_FLUSH | BMIG_CAP_GATHERS;
    if (nbd_can_fua(handle) > 0)
        facts->caps |= BMIG_CAP_FUA;
    if (nbd_can_meta_context(handle, LIBNBD_CONTEXT_BASE_ALLOCATION) > 0)
        facts->caps |= BMIG_CAP_EXTENTS;
    if (nbd_can_multi_conn(handle) > 0)
        facts->caps |= BMIG_CAP_MULTI_CONN;
    if (nbd_is_rotational(handle) > 0)
        facts->caps |= BMIG_CAP_ROTATIONAL;
    return read_block_sizes(handle, place, facts, err);
}

int bmig_nbdc_connect(const struct nbdc_place *place, uint64_t deadline_ns, const atomic_bool *stop,
                      struct nbd_handle **handle, struct nbdc_facts *facts, struct bmig_error *err)
{
    struct nbd_handle *made = nbd_create();
    if (!made)
        return set_library_error(place, err);
    int rc = configure(made, place);
    if (rc < 0)
        rc = set_library_error(place, err);
    else
        rc = negotiate(made, place, deadline_ns, stop, err);
    if (rc == 0)
        rc = read_facts(made, place, facts, err);
    if (rc < 0) {
        nbd_close(made);
        return rc;
    }
    *handle = made;
    return 0;
}

int bmig_nbdc_facts_compare(const struct nbdc_place *place, const struct nbdc_facts *before,
                            const struct nbdc_facts *now, struct bmig_error *err)
{
    if (before->size_bytes != now->size_bytes)
        return bmig_error_set(err, BMIG_FAILED, ESTALE,
                              "'%s': the server came back with %llu bytes where there were %llu",
                              place->label, (unsigned long long)now->size_bytes,
                              (unsigned long long)before->size_bytes);
    if (before->block_min != now->block_min || before->block_preferred != now->block_preferred ||
        before->block_max != now->block_max)
        return bmig_error_set(
            err, BMIG_FAILED, ESTALE,
            "'%s': the server came back with block sizes %u/%u/%u where they were "
            "%u/%u/%u",
            place->label, now->block_min, now->block_preferred, now->block_max, before->block_min,
            before->block_preferred, before->block_max);
    if (before->caps != now->caps)
        return bmig_error_set(err, BMIG_FAILED, ESTALE,
                              "'%s': the server came back with other abilities (%#x, were %#x)",
                              place->label, now->caps, before->caps);
    return 0;
}
