/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What the files of the worker share: worker.c (life and verbs), worker_replica.c (images opened
 * and closed beside the loop), worker_stat.c (what it says of itself).
 */
#ifndef BLOCKMIG_WORKER_WORKER_INTERNAL_H
#define BLOCKMIG_WORKER_WORKER_INTERNAL_H

#include <jansson.h>
#include <stdbool.h>

#include "blockmig/core/buffer.h"
#include "blockmig/engine/mirror.h"
#include "blockmig/engine/volume.h"
#include "blockmig/worker/control.h"
#include "blockmig/worker/nbd_server.h"
#include "blockmig/worker/worker.h"

enum { BMIG_WORKER_POOL_BYTES = 24 << 20, BMIG_WORKER_MAX_LISTEN = 8 };

/* An image of the volume: what it is called and, once open, its disk. */
struct bmig_replica {
    char *uri, *format, *filters, *secret;
    bool known_zero;
    struct bmig_disk *disk;
};

/* An open or a close under way on a helper thread. */
struct bmig_replica_work {
    struct bmig_work work;
    struct bmig_replica *replica;
    struct bmig_disk *closing;
    int status;
    struct bmig_error error;
    void (*done)(struct bmig_replica_work *work);
    struct bmig_worker *worker;
    struct bmig_control_call *call; /* NULL: nobody waits */
    json_t *arguments;              /* a reference; what the verb was given */
};

struct bmig_worker {
    struct bmig_loop *loop;
    struct bmig_pool *pool;
    struct bmig_control *control;
    struct bmig_volume *volume;
    struct bmig_nbd_server *server;
    char *listen[BMIG_WORKER_MAX_LISTEN];
    unsigned listen_count;
    struct bmig_replica *primary, *secondary; /* owned; which is which follows the flip */
    bool opening, attaching, detaching, stopping;
    struct bmig_control_call *waiting_call; /* of a stop or detach or prepare under way */
    struct bmig_control_call *stop_call;
};

/* Takes the members of an IMAGE object; NULL and err where it is none. */
struct bmig_replica *bmig_replica_new(json_t *image, struct bmig_error *err);
void bmig_replica_free(struct bmig_replica *replica); /* not open; NULL is fine */

/* Opens replica read-write and exclusively on a helper thread, attaches it to the loop, then calls
 * work->done with work->status and work->error set. work is malloc'd, filled by the caller but for
 * status, error and work.work, and freed by its done. */
void bmig_replica_open(struct bmig_replica_work *work);

/* Detaches work->replica's disk, closes it on a helper thread, then calls work->done. */
void bmig_replica_close(struct bmig_replica_work *work);

json_t *bmig_worker_stat(struct bmig_worker *worker);

#endif
