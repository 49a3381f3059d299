/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * NBD: an image behind a server of the NBD protocol. The driver's slots; several connections where
 * the server says that a flush on one covers them all.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "backends/backends.h"
#include "backends/nbd_internal.h"
#include "blockmig/core/error.h"

enum {
    BULK_BYTES = 1 << 20, /* what moves bulk data best */
    REQUESTS_PER_CONNECTION = 64,
};

/* A server that has no quick way may write zeroes for as long as this takes: bounded, so that its
 * silence meanwhile is not taken for its death. */
static const uint64_t ZERO_MAX_BYTES = UINT64_C(256) << 20;

static const uint64_t EXTRA_CONNECTION_NS = UINT64_C(2) * 1000 * 1000 * 1000;

static void submit(struct bmig_disk *disk, struct bmig_request *request)
{
    struct nbdc_disk *nbd = disk->state;
    struct nbdc_op *op = (struct nbdc_op *)request->driver;
    *op = (struct nbdc_op){.request = request, .owner = nbd};
    switch (nbd->state) {
    case NBDC_LIVE:
        bmig_nbdc_send(nbd, op);
        break;
    case NBDC_LOST:
    case NBDC_RECONNECTING:
        bmig_nbdc_list_append(&nbd->waiting, op);
        bmig_nbdc_want_connection(nbd);
        break;
    case NBDC_BROKEN:
        bmig_disk_complete(request, -ESTALE);
        break;
    case NBDC_FENCED:
        bmig_disk_complete(request, -ESHUTDOWN);
        break;
    }
}

/* Further connections for a server that wants them. One that fails is done without; one that shows
 * something else is an error. */
static int connect_more(struct nbdc_disk *nbd, uint32_t sessions, struct bmig_error *err)
{
    uint32_t wanted = sessions ? sessions : NBDC_DEFAULT_CONNECTIONS;
    if (!(nbd->facts.caps & BMIG_CAP_MULTI_CONN))
        wanted = 1;
    if (wanted > NBDC_MAX_CONNECTIONS)
        wanted = NBDC_MAX_CONNECTIONS;
    uint64_t bound = nbd->place.timeout_ns;
    if (bound > EXTRA_CONNECTION_NS)
        bound = EXTRA_CONNECTION_NS;
    while (nbd->connection_count < wanted) {
        struct nbd_handle *handle;
        struct nbdc_facts facts;
        struct nbdc_connection *next = &nbd->connections[nbd->connection_count];
        if (bmig_nbdc_connect(&nbd->place, bmig_nbdc_clock_ns() + bound, NULL, &handle, &facts,
                              NULL) < 0)
            break;
        int rc = bmig_nbdc_facts_compare(&nbd->place, &nbd->facts, &facts, err);
        if (rc < 0 || bmig_nbdc_connection_adopt(nbd, next, handle) < 0) {
            nbd_close(handle);
            return rc;
        }
        nbd->connection_count++;
    }
    return 0;
}

static int connect_all(struct nbdc_disk *nbd, const struct bmig_open_options *options,
                       struct bmig_error *err)
{
    struct nbd_handle *handle;
    uint64_t deadline_ns = bmig_nbdc_clock_ns() + nbd->place.timeout_ns;
    int rc = bmig_nbdc_connect(&nbd->place, deadline_ns, NULL, &handle, &nbd->facts, err);
    if (rc < 0)
        return rc;
    if (options->writable && !(nbd->facts.caps & BMIG_CAP_WRITE)) {
        nbd_close(handle);
        return bmig_error_set(err, BMIG_DENIED, EROFS, "'%s': the server offers it read-only",
                              nbd->place.label);
    }
    rc = bmig_nbdc_connection_adopt(nbd, &nbd->connections[0], handle);
    if (rc < 0) {
        nbd_close(handle);
        return bmig_error_set(err, BMIG_FAILED, -rc, "'%s': %s", nbd->place.label,
                              bmig_strerror(-rc));
    }
    nbd->connection_count = 1;
    return connect_more(nbd, options->sessions, err);
}

static void fill_disk(struct bmig_disk *disk, const struct nbdc_disk *nbd, bool writable)
{
    const struct nbdc_facts *facts = &nbd->facts;
    uint32_t max_io = facts->block_max;
    disk->size_bytes = facts->size_bytes;
    disk->caps = writable ? facts->caps : facts->caps & ~(uint32_t)BMIG_CAP_WRITE;
    disk->limits = (struct bmig_limits){
        .block_bytes = facts->block_min,
        .memory_align = 1,
        .max_io_bytes = max_io,
        .max_zero_bytes = ZERO_MAX_BYTES,
        .zero_align = facts->block_min,
        .max_requests = nbd->connection_count * REQUESTS_PER_CONNECTION,
        .preferred_bytes = max_io < BULK_BYTES ? max_io : BULK_BYTES,
    };
    if (facts->block_preferred > disk->limits.preferred_bytes && facts->block_preferred <= max_io)
        disk->limits.preferred_bytes = facts->block_preferred;
    snprintf(disk->name, sizeof(disk->name), "%s", nbd->place.label);
}

static void dispose(struct nbdc_disk *nbd)
{
    bmig_nbdc_cut(nbd);
    bmig_nbdc_close_old(nbd);
    bmig_nbdc_held_fini(&nbd->held);
    bmig_nbdc_place_fini(&nbd->place);
    free(nbd);
}

static int open_disk(struct bmig_disk *disk, const struct bmig_uri *uri,
                     const struct bmig_open_options *options, struct bmig_error *err)
{
    struct nbdc_disk *nbd = calloc(1, sizeof(*nbd));
    if (!nbd)
        return bmig_error_set(err, BMIG_FAILED, ENOMEM, "'%s': out of memory", uri->text);
    nbd->disk = disk;
    bmig_nbdc_held_init(&nbd->held);
    bmig_nbdc_io_init(nbd);
    bmig_nbdc_recover_init(nbd);
    int rc = bmig_nbdc_place_init(&nbd->place, uri, options, err);
    if (rc == 0)
        rc = connect_all(nbd, options, err);
    if (rc < 0) {
        dispose(nbd);
        return rc;
    }
    nbd->state = NBDC_LIVE;
    fill_disk(disk, nbd, options->writable);
    disk->state = nbd;
    return 0;
}

static void close_disk(struct bmig_disk *disk)
{
    struct nbdc_disk *nbd = disk->state;
    /* A goodbye, so that a server does not log a client that vanished. */
    for (uint32_t i = 0; nbd->state == NBDC_LIVE && i < nbd->connection_count; i++)
        (void)nbd_aio_disconnect(nbd->connections[i].handle, 0);
    dispose(nbd);
    disk->state = NULL;
}

static void stop_watches(struct nbdc_disk *nbd, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        bmig_watch_stop(&nbd->connections[i].watch);
}

static int attach(struct bmig_disk *disk)
{
    struct nbdc_disk *nbd = disk->state;
    for (uint32_t i = 0; nbd->state == NBDC_LIVE && i < nbd->connection_count; i++) {
        struct nbdc_connection *connection = &nbd->connections[i];
        int rc = bmig_watch_start(disk->loop, &connection->watch, connection->fd,
                                  bmig_nbdc_events(connection->handle));
        if (rc < 0) {
            stop_watches(nbd, i);
            return rc;
        }
    }
    return 0;
}

static void detach(struct bmig_disk *disk)
{
    struct nbdc_disk *nbd = disk->state;
    assert(!nbd->working && !nbd->settle.queued);
    if (nbd->state == NBDC_LIVE)
        stop_watches(nbd, nbd->connection_count);
    bmig_timer_stop(&nbd->silence);
    bmig_timer_stop(&nbd->retry);
    bmig_timer_stop(&nbd->fence_bound);
}

static int stat_image(const struct bmig_uri *uri, const struct bmig_open_options *options,
                      struct bmig_place_stat *stat, struct bmig_error *err)
{
    struct nbdc_place place;
    struct nbdc_facts facts;
    struct nbd_handle *handle;
    struct bmig_error why = {0};
    int rc = bmig_nbdc_place_init(&place, uri, options, err);
    if (rc < 0)
        return rc;
    *stat = (struct bmig_place_stat){.allocated_bytes = UINT64_MAX,
                                     .free_bytes = UINT64_MAX,
                                     .total_bytes = UINT64_MAX,
                                     .fixed = true};
    rc = bmig_nbdc_connect(&place, bmig_nbdc_clock_ns() + place.timeout_ns, NULL, &handle, &facts,
                           &why);
    if (rc == 0) {
        stat->exists = true;
        stat->size_bytes = facts.size_bytes;
        (void)nbd_aio_disconnect(handle, 0);
        nbd_close(handle);
    } else if (why.kind != BMIG_NOT_FOUND && err && err->kind == BMIG_OK) {
        *err = why;
    }
    bmig_nbdc_place_fini(&place);
    return why.kind == BMIG_NOT_FOUND ? 0 : rc;
}

static void describe(struct bmig_disk *disk,
                     void (*put)(void *user, const char *key, const char *value), void *user)
{
    static const char *const states[] = {"connected", "lost", "reconnecting", "broken", "fenced"};
    const struct nbdc_disk *nbd = disk->state;
    char text[32];
    put(user, "state", states[nbd->state]);
    put(user, "tls", nbd->place.tls ? "required" : "off");
    snprintf(text, sizeof(text), "%u", nbd->connection_count);
    put(user, "connections", text);
    snprintf(text, sizeof(text), "%u", nbd->reconnects);
    put(user, "reconnects", text);
    snprintf(text, sizeof(text), "%u/%u/%u", nbd->facts.block_min, nbd->facts.block_preferred,
             nbd->facts.block_max);
    put(user, "block sizes", text);
}

const struct bmig_driver bmig_nbd_driver = {
    .name = "nbd",
    .open = open_disk,
    .close = close_disk,
    .attach = attach,
    .detach = detach,
    .submit = submit,
    .fence = bmig_nbdc_fence,
    .stat = stat_image,
    .describe = describe,
};
