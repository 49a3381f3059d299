/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The server as a whole: its export, its limits, its clients, its end.
 */
#include "blockmig/worker/nbd_server.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "blockmig/worker/nbd_internal.h"

enum { MAX_CLIENTS = 64, MAX_REQUESTS = 256, PREFERRED_BYTES = 4096 };

static const uint64_t HANDSHAKE_NS = UINT64_C(10000000000);

/* FLUSH of a volume covers what every client wrote, so CAN_MULTI_CONN; FUA and ZERO are done by the
 * engine where a driver can't, so they are always there; what FAST_ZERO can't do is answered
 * ENOTSUP at once. */
static uint16_t transmission_flags(const struct bmig_nbd_server *server)
{
    uint32_t caps = bmig_volume_caps(server->volume);
    unsigned flags =
        NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_CAN_MULTI_CONN;

    if (server->options.read_only || !(caps & BMIG_CAP_WRITE))
        flags |= NBD_FLAG_READ_ONLY;
    else
        flags |= NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO |
                 (caps & BMIG_CAP_DISCARD ? NBD_FLAG_SEND_TRIM : 0);
    return (uint16_t)flags;
}

static void set_defaults(struct bmig_nbd_server *server)
{
    struct bmig_nbd_server_options *options = &server->options;

    if (!options->max_clients)
        options->max_clients = MAX_CLIENTS;
    if (!options->max_in_flight_requests)
        options->max_in_flight_requests = MAX_REQUESTS;
    if (!options->handshake_timeout_ns)
        options->handshake_timeout_ns = HANDSHAKE_NS;
    /* The other half is for what goes on beside the guests: copying, reading around, bouncing. */
    if (!options->max_in_flight_bytes)
        options->max_in_flight_bytes = bmig_pool_size_bytes(server->pool) / 2;
}

static void check_stopped(struct bmig_task *task)
{
    struct bmig_nbd_server *server =
        (struct bmig_nbd_server *)((char *)task - offsetof(struct bmig_nbd_server, stop_task));
    void (*stopped)(void *user) = server->stopped;

    if (!stopped || server->listeners || server->clients)
        return;
    if (server->waking) {
        bmig_loop_defer(server->loop, &server->stop_task);
        return;
    }
    server->stopped = NULL;
    stopped(server->stopped_user);
}

int bmig_nbd_server_new(struct bmig_nbd_server **made, struct bmig_loop *loop,
                        struct bmig_pool *pool, struct bmig_volume *volume,
                        const struct bmig_nbd_server_options *options, struct bmig_error *err)
{
    struct bmig_nbd_server *server;
    uint32_t block = bmig_volume_block_bytes(volume);

    if (strlen(bmig_volume_name(volume)) > NBD_MAX_STRING_BYTES)
        return bmig_error_set(err, BMIG_USAGE, ENAMETOOLONG,
                              "volume: its name is longer than NBD's 4096 bytes");
    server = calloc(1, sizeof(*server));
    if (!server)
        return bmig_error_set(err, BMIG_FAILED, ENOMEM, "NBD server: out of memory");
    server->loop = loop;
    server->pool = pool;
    server->volume = volume;
    if (options)
        server->options = *options;
    set_defaults(server);
    server->stop_task.run = check_stopped;
    server->export = (struct bmig_nbds_export){
        .name = bmig_volume_name(volume),
        .description = "",
        .size_bytes = bmig_volume_size_bytes(volume),
        .flags = transmission_flags(server),
        .block_min_bytes = 1, /* the engine reads around what is smaller than a block */
        .block_preferred_bytes = block > PREFERRED_BYTES ? block : PREFERRED_BYTES,
        .block_max_bytes = NBDS_MAX_DATA_BYTES,
    };
    nbds_budget_init(server);
    *made = server;
    return 0;
}

int bmig_nbd_server_listen(struct bmig_nbd_server *server, const char *uri, char **bound,
                           struct bmig_error *err)
{
    return nbds_listen(server, uri, bound, err);
}

void bmig_nbd_server_stop(struct bmig_nbd_server *server, uint64_t grace_ns,
                          void (*done)(void *user), void *user)
{
    struct nbds_client *next;

    assert(!server->stopping);
    server->stopping = true;
    server->stopped = done;
    server->stopped_user = user;
    nbds_listeners_stop(server);
    for (struct nbds_client *client = server->clients; client; client = next) {
        next = client->next;
        if (grace_ns)
            nbds_client_end(client, grace_ns);
        else
            nbds_client_cut(client);
    }
    bmig_loop_defer(server->loop, &server->stop_task);
}

void bmig_nbd_server_free(struct bmig_nbd_server *server)
{
    if (!server)
        return;
    assert(!server->clients && !server->listeners && !server->stopped);
    assert(server->shared_used_bytes == 0 && server->active_clients == 0);
    free(server);
}

uint32_t bmig_nbd_server_clients(const struct bmig_nbd_server *server)
{
    return server->client_count;
}
