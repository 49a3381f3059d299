/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What the files of the NBD client share: the place a URI names, a connection to it, and the disk's
 * state.
 *
 *   nbd_connect.c  the URI, and connecting with a deadline (blocks; any thread)
 *   nbd_held.c     the writes that the server has acknowledged and not yet made stable
 *   nbd.c          the driver: opening, closing, what the disk can do
 *   nbd_io.c       requests on their way to the server and back
 *   nbd_recover.c  what happens when the server is gone: cutting, reconnecting, fencing
 */
#ifndef BACKENDS_NBD_INTERNAL_H
#define BACKENDS_NBD_INTERNAL_H

#include <libnbd.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "blockmig/core/disk.h"

enum {
    NBDC_MAX_CONNECTIONS = 8,
    NBDC_DEFAULT_CONNECTIONS = 4, /* where the server lets several connections share an export */
};

/* ---- nbd_connect.c ---- */

/* Where the server is and how to speak to it; owns its strings. */
struct nbdc_place {
    char *socket; /* a unix socket's path, or NULL for TCP */
    char *host;
    char port[8];
    char *export_name;
    bool tls;
    char *tls_certificates, *tls_psk_file, *tls_user;
    char *label; /* for messages; no secrets */
    uint64_t timeout_ns;
};

/* What a server says of an export. Must be the same again after a reconnect. */
struct nbdc_facts {
    uint64_t size_bytes;
    uint32_t block_min, block_preferred, block_max;
    uint32_t caps; /* BMIG_CAP_*, WRITE where it is not read-only */
};

int bmig_nbdc_place_init(struct nbdc_place *place, const struct bmig_uri *uri,
                         const struct bmig_open_options *options, struct bmig_error *err);
void bmig_nbdc_place_fini(struct nbdc_place *place);

uint64_t bmig_nbdc_clock_ns(void);

/* Connects and negotiates until deadline_ns (bmig_nbdc_clock_ns) or until *stop (may be NULL)
 * becomes true. */
int bmig_nbdc_connect(const struct nbdc_place *place, uint64_t deadline_ns, const atomic_bool *stop,
                      struct nbd_handle **handle, struct nbdc_facts *facts, struct bmig_error *err);

/* Drives handle until *status is no longer INT_MAX; -ETIMEDOUT, -ECANCELED, or -ENOTCONN. */
int bmig_nbdc_drive(struct nbd_handle *handle, const int *status, uint64_t deadline_ns,
                    const atomic_bool *stop);

/* Says which of two sets of facts differ. 0, or -ESTALE. */
int bmig_nbdc_facts_compare(const struct nbdc_place *place, const struct nbdc_facts *before,
                            const struct nbdc_facts *now, struct bmig_error *err);

/* ---- nbd_held.c ---- */

/* One acknowledged write (data) or zeroing (no data) that a server may still lose. */
struct nbdc_held_write {
    struct nbdc_held_write *next;
    uint64_t offset, length;
    uint64_t sequence;
    bool is_zero;
    uint8_t data[];
};

/* Those of a disk, oldest first. */
struct nbdc_held {
    struct nbdc_held_write *head, **tail;
    uint64_t bytes;
    uint64_t sequence; /* of the last write acknowledged */
    uint64_t
        unheld_sequence; /* of the last one that was not kept; 0: all since the last flush were */
};

void bmig_nbdc_held_init(struct nbdc_held *held);
void bmig_nbdc_held_fini(struct nbdc_held *held);

/* Takes note of a WRITE or ZERO that the server has acknowledged but not made stable. */
void bmig_nbdc_held_add(struct nbdc_held *held, const struct bmig_request *request);

/* A flush that was sent when held->sequence was `sequence` has succeeded. */
void bmig_nbdc_held_flushed(struct nbdc_held *held, uint64_t sequence);

/* Whether so much is held that a flush should be sent to be rid of it. */
bool bmig_nbdc_held_wants_flush(const struct nbdc_held *held);

/* Writes all that is held to a server that may have lost it, and flushes. Blocks; the caller sees
 * to it that nothing else touches held. */
int bmig_nbdc_held_replay(const struct nbdc_held *held, struct nbd_handle *handle,
                          uint64_t deadline_ns, const atomic_bool *stop);

/* ---- the disk ---- */

struct nbdc_disk;

struct nbdc_connection {
    struct nbdc_disk *owner;
    struct nbd_handle *handle;
    /* A duplicate of the handle's descriptor: libnbd closes its own without notice when a
     * connection dies, and a watch's descriptor must outlive the watch. */
    int fd;
    struct bmig_watch watch;
    uint32_t in_flight;
    uint64_t
        heard_ns; /* when the server last said something, or was first asked after an idle time */
    bool dead;
};

/* A request's part of the driver, kept in struct bmig_request.driver. */
struct nbdc_op {
    struct bmig_request *request; /* NULL: a flush of the driver's own */
    struct nbdc_disk *owner;
    struct nbdc_connection *connection; /* NULL: waiting for a connection */
    struct nbdc_op *next, *previous;
    uint64_t seen_bytes;     /* READ: bytes answered so far; EXTENTS: bytes described so far */
    uint64_t flush_sequence; /* FLUSH: the held writes that it will cover */
    int status;              /* once answered */
};

struct nbdc_op_list {
    struct nbdc_op *head, *tail;
};

void bmig_nbdc_list_append(struct nbdc_op_list *list, struct nbdc_op *op);
void bmig_nbdc_list_remove(struct nbdc_op_list *list, struct nbdc_op *op);
struct nbdc_op *bmig_nbdc_list_pop(struct nbdc_op_list *list);

enum nbdc_state {
    NBDC_LIVE,
    NBDC_LOST,         /* no connection, and nobody has asked for one */
    NBDC_RECONNECTING, /* requests wait for one */
    NBDC_BROKEN,       /* the server came back as another: never again */
    NBDC_FENCED,
};

struct nbdc_disk {
    struct bmig_disk *disk;
    struct nbdc_place place;
    struct nbdc_facts facts;
    struct nbdc_connection connections[NBDC_MAX_CONNECTIONS];
    uint32_t connection_count;
    enum nbdc_state state;
    struct nbdc_op_list sent;     /* in the order they were submitted */
    struct nbdc_op_list waiting;  /* the same, for a connection */
    struct nbdc_op_list answered; /* for the door, once libnbd has returned */
    struct nbdc_held held;
    struct nbdc_op own_flush;
    bool own_flush_sent;
    bool flush_must_fail;    /* acknowledged writes may be lost: the next flush says so */
    struct bmig_task settle; /* after a batch of calls: descriptors' directions, connections lost */
    struct bmig_timer silence;

    /* nbd_recover.c's */
    struct bmig_timer retry;
    struct bmig_timer fence_bound;
    struct bmig_work work;
    bool working;
    bool fencing;
    atomic_bool stop;    /* makes the work end early */
    uint64_t give_up_ns; /* when what waits is answered -ETIMEDOUT; bmig_nbdc_clock_ns */
    uint64_t backoff_ns;
    struct nbd_handle *fresh[NBDC_MAX_CONNECTIONS]; /* the work's result */
    uint32_t fresh_count;
    int old_fds[NBDC_MAX_CONNECTIONS]; /* of connections that are cut */
    uint32_t old_count;
    int work_status;
    struct bmig_error work_error;
    uint32_t reconnects;
};

/* ---- nbd_io.c ---- */

void bmig_nbdc_io_init(struct nbdc_disk *nbd);

/* What the handle of a connection waits for, as BMIG_WATCH_*. */
int bmig_nbdc_events(struct nbd_handle *handle);

/* Sends op on the least busy connection. */
void bmig_nbdc_send(struct nbdc_disk *nbd, struct nbdc_op *op);

/* Hands the door what libnbd has answered. Not from within a call of libnbd. */
void bmig_nbdc_finish_answered(struct nbdc_disk *nbd);

/* Answers op, which is on no list any more. */
void bmig_nbdc_finish(struct nbdc_disk *nbd, struct nbdc_op *op, int status);

/* Gives connection its handle, and a watch where the disk is attached. -errno: no descriptor. */
int bmig_nbdc_connection_adopt(struct nbdc_disk *nbd, struct nbdc_connection *connection,
                               struct nbd_handle *handle);

/* ---- nbd_recover.c ---- */

void bmig_nbdc_recover_init(struct nbdc_disk *nbd);

/* Cuts every connection and takes back what was sent; reconnects where something waits. */
void bmig_nbdc_lose(struct nbdc_disk *nbd, const char *why);

/* Something waits: sees to it that there will be a connection or an answer. */
void bmig_nbdc_want_connection(struct nbdc_disk *nbd);

/* Frees the handles of all connections; what is left of them goes to old_fds. */
void bmig_nbdc_cut(struct nbdc_disk *nbd);
void bmig_nbdc_close_old(struct nbdc_disk *nbd);

void bmig_nbdc_fence(struct bmig_disk *disk);
void bmig_nbdc_fence_advance(struct nbdc_disk *nbd);

#endif
