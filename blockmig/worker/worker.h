/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The worker: one volume, its replicas, its NBD server and its control socket, as one state.
 */
#ifndef BLOCKMIG_WORKER_WORKER_H
#define BLOCKMIG_WORKER_WORKER_H

#include "blockmig/core/error.h"
#include "blockmig/core/loop.h"

struct bmig_worker;

/* A worker that listens for control at path and waits for `open`. */
int bmig_worker_new(struct bmig_worker **worker, struct bmig_loop *loop, const char *control_path,
                    struct bmig_error *err);

/* As the verb stop with force. The loop stops when it is done. */
void bmig_worker_stop(struct bmig_worker *worker);

/* After the loop has stopped. */
void bmig_worker_free(struct bmig_worker *worker);

#endif
