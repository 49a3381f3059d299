/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The NBD server's own types: server, listener, client, request, piece. Private to nbd_*.c.
 *
 * A client's bytes come in through one receive buffer; each NBD request takes a slot; a READ or
 * WRITE longer than a buffer is a stream of pieces, each one volume request with a buffer of its
 * own. What a client's current request can't have now (a piece, a share of the memory) stops that
 * client's parsing and receiving, so that everything a client can make us hold is bounded, whatever
 * it sends and whether or not it reads.
 */
#ifndef BLOCKMIG_WORKER_NBD_INTERNAL_H
#define BLOCKMIG_WORKER_NBD_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "blockmig/worker/nbd_command.h"
#include "blockmig/worker/nbd_handshake.h"
#include "blockmig/worker/nbd_server.h"

enum {
    NBDS_RX_BYTES = 65536,
    NBDS_DIRECT_BYTES =
        16384, /* a payload's rest from here on is received where it belongs, without a copy */
    NBDS_EXTRA_PIECES =
        8,             /* of one client, beside one per request: how wide its long requests go */
    NBDS_IOVECS = 128, /* of one sendmsg */
    NBDS_MAX_DATA_BYTES = 32 << 20,
    NBDS_HEADER_BYTES = 88,
};

struct nbds_client;
struct nbds_request;

/* One volume request of an NBD request, and then the message that answers it. */
struct nbds_piece {
    struct bmig_volume_request guest;
    struct nbds_request *request;
    struct nbds_piece *next; /* in the list it is in: unused, ready, held or to be sent */
    struct bmig_buffer *buffer;
    struct bmig_extents extents;
    uint32_t filled_bytes;  /* WRITE: of the payload */
    uint32_t payload_bytes; /* of the message, at guest.data */
    uint32_t header_bytes;
    uint8_t header[NBDS_HEADER_BYTES];
};

struct nbds_list {
    struct nbds_piece *head, *tail;
};

struct nbds_request {
    struct nbds_client *client;
    struct nbds_request *next; /* unused slots */
    struct bmig_nbds_command command;
    int error;                /* the first one */
    uint32_t issued_bytes;    /* READ: given to the volume; WRITE: taken off the stream */
    uint32_t streamed_bytes;  /* READ by simple reply: given to the socket */
    uint32_t pending;         /* pieces with the volume */
    uint32_t live;            /* pieces in use */
    struct nbds_piece *ready; /* READ by simple reply: pieces whose turn has not come */
    struct nbds_piece piece;  /* its own; a long one borrows more */
    bool piece_used;
};

enum nbds_client_state {
    NBDS_HANDSHAKE,
    NBDS_TRANSMISSION,
    NBDS_ENDING, /* takes nothing more, answers what is in flight, closes */
    NBDS_CUT,    /* sends nothing more either */
};

struct nbds_client {
    struct bmig_nbd_server *server;
    struct nbds_client *next, **link; /* of the server's clients */
    enum nbds_client_state state;
    int fd;
    struct bmig_timer timer; /* handshake deadline, then bound on the ending */
    struct bmig_task task;   /* the client's turn: see nbds_client_kick */
    struct bmig_nbds_session session;
    struct bmig_nbds_handshake *handshake; /* NULL once over */

    struct bmig_io rx;
    bool rx_busy, rx_direct; /* a RECV is under way; into the current WRITE's piece */
    uint32_t rx_head, rx_tail;
    uint8_t *rx_buffer;
    uint32_t drain_bytes;         /* payload of a refused WRITE still to come */
    struct nbds_request *current; /* READ or WRITE that is not wholly issued */
    struct nbds_piece *filling;   /* the current WRITE's */
    bool stalled;                 /* parsing waits for a slot, a piece or memory */

    struct bmig_io tx;
    bool tx_busy;
    struct msghdr tx_msg;
    struct iovec tx_iov[NBDS_IOVECS];
    struct nbds_list out;    /* messages to be sent, the first perhaps in part */
    uint32_t out_sent_bytes; /* of the first */
    struct nbds_request
        *streaming;        /* READ by simple reply that is half sent: nothing may come between */
    struct nbds_list held; /* messages that wait for its end */

    /* Memory; see nbd_budget.c. */
    uint32_t used_bytes;
    bool waits_budget, waits_pool, active;
    struct nbds_client *wait_next;
    struct bmig_buffer_wait pool_wait;

    uint32_t requests_used;
    struct nbds_request *unused_requests;
    uint32_t fresh_requests; /* slots that were never used lie behind this index, untouched */
    struct nbds_request *requests;
    struct nbds_piece *unused_pieces; /* of extra */
    struct nbds_piece extra[NBDS_EXTRA_PIECES];
};

struct nbds_listener {
    struct bmig_nbd_server *server;
    struct nbds_listener *next;
    struct bmig_io accept;
    struct bmig_timer retry;
    bool accepting;
    bool tcp;
    int fd;
    char *path; /* of a unix socket, NULL else */
    dev_t device;
    ino_t inode;
};

struct bmig_nbd_server {
    struct bmig_loop *loop;
    struct bmig_pool *pool;
    struct bmig_volume *volume;
    struct bmig_nbd_server_options options;
    struct bmig_nbds_export export;
    struct nbds_listener *listeners;
    struct nbds_client *clients;
    uint32_t client_count;

    uint32_t reserve_bytes; /* of each client */
    uint64_t shared_bytes, shared_used_bytes;
    uint32_t active_clients;
    struct nbds_client *wait_head, *wait_tail, *granting;
    struct bmig_task wake;
    bool waking; /* the task is queued */

    bool stopping;
    uint64_t grace_ns;
    void (*stopped)(void *user);
    void *stopped_user;
    struct bmig_task stop_task;
};

/* ---- nbd_listen.c ---- */
int nbds_listen(struct bmig_nbd_server *server, const char *uri, char **bound,
                struct bmig_error *err);
/* Ends accepting; the listener goes away once its ACCEPT has. */
void nbds_listeners_stop(struct bmig_nbd_server *server);

/* ---- nbd_client.c ---- */
/* Takes over fd. */
void nbds_client_new(struct bmig_nbd_server *server, int fd);
/* Its turn comes in this iteration or the next: parse on if it was stalled, send what there is, go
 * if done. */
void nbds_client_kick(struct nbds_client *client);
/* Parses what there is and receives more. */
void nbds_client_run(struct nbds_client *client);
void nbds_client_end(struct nbds_client *client, uint64_t bound_ns);
void nbds_client_cut(struct nbds_client *client);

/* ---- nbd_request.c ---- */
/* Takes the next request from client->rx; false where it needs more bytes or waits (then stalled).
 */
bool nbds_request_next(struct nbds_client *client);
/* Goes on with client->current; false as above. */
bool nbds_request_continue(struct nbds_client *client);
/* Bytes have been received into the filling piece itself. */
void nbds_request_filled(struct nbds_client *client, uint32_t bytes);
/* The current request will never be whole: its stream has ended. */
void nbds_request_abandon(struct nbds_client *client);
/* A message was sent, or will never be: gives back what it held. */
void nbds_piece_release(struct nbds_piece *piece);

/* ---- nbd_reply.c ---- */
/* A piece of a request has come back from the volume: whatever can be said now is queued. */
void nbds_reply_piece(struct nbds_piece *piece, int status);
/* Answers the whole request with its error or with a success without data, in piece, which has no
 * buffer. */
void nbds_reply_request(struct nbds_piece *piece, const char *why);
/* Fills client->tx_iov from client->out. Returns the number of iovecs. */
int nbds_reply_gather(struct nbds_client *client);
/* That many bytes are sent: releases what is done. */
void nbds_reply_sent(struct nbds_client *client, size_t bytes);
/* Drops what is queued; nothing may be under way. */
void nbds_reply_drop(struct nbds_client *client);

/* ---- nbd_budget.c ---- */
void nbds_budget_init(struct bmig_nbd_server *server);
/* A buffer of want bytes, or of fewer (but no fewer than a client's reserve) where there is no room
 * for more, or NULL: then the client is run again when there may be. */
struct bmig_buffer *nbds_budget_get(struct nbds_client *client, uint32_t want);
/* Takes the buffer back. */
void nbds_budget_put(struct nbds_client *client, struct bmig_buffer *buffer);
/* The client waits no more. */
void nbds_budget_forget(struct nbds_client *client);

#endif
