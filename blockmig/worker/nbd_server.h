/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The NBD server: a volume as an export of the full newstyle protocol (NetworkBlockDevice/nbd
 * doc/proto.md), on unix sockets and TCP, for any number of clients within limits. Loop's thread
 * only.
 */
#ifndef BLOCKMIG_WORKER_NBD_SERVER_H
#define BLOCKMIG_WORKER_NBD_SERVER_H

#include <stdbool.h>
#include <stdint.h>

#include "blockmig/core/buffer.h"
#include "blockmig/core/error.h"
#include "blockmig/core/loop.h"
#include "blockmig/core/uri.h"
#include "blockmig/engine/volume.h"

struct bmig_nbd_server;

struct bmig_nbd_server_options {
    uint32_t max_clients;            /* 0: 64; further connections are closed at once */
    uint64_t handshake_timeout_ns;   /* 0: 10 s, from accept to transmission */
    uint64_t max_in_flight_bytes;    /* over all clients; 0: what the pool allows */
    uint32_t max_in_flight_requests; /* of one client; 0: 256 */
    bool read_only;
    /* Called when the number of connected clients changes. May be NULL. */
    void (*clients_changed)(void *user, uint32_t clients);
    void *user;
};

/* A server for volume (borrowed until free), not yet listening. */
int bmig_nbd_server_new(struct bmig_nbd_server **server, struct bmig_loop *loop,
                        struct bmig_pool *pool, struct bmig_volume *volume,
                        const struct bmig_nbd_server_options *options, struct bmig_error *err);

/* Listens on "nbd+unix:///EXPORT?socket=PATH" (a stale socket file of ours is replaced; one that
 * someone listens on is DENIED) or "nbd://HOST[:PORT]/EXPORT" (port 0 or none in a listen URI with
 * ?port=0: the system picks one). *bound (if not NULL) is the URI that clients use, malloc'd.
 * Blocks only for bind. */
int bmig_nbd_server_listen(struct bmig_nbd_server *server, const char *uri, char **bound,
                           struct bmig_error *err);

/* Stops accepting, disconnects clients once what they have in flight is answered (their sockets are
 * cut after grace_ns), then calls done; the server may then be freed. */
void bmig_nbd_server_stop(struct bmig_nbd_server *server, uint64_t grace_ns,
                          void (*done)(void *user), void *user);
void bmig_nbd_server_free(struct bmig_nbd_server *server); /* stopped (asserted) */

uint32_t bmig_nbd_server_clients(const struct bmig_nbd_server *server);

#endif
