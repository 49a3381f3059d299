/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The daemon's end of a worker's control socket (blockmig/worker/control.h): requests with a
 * deadline from any thread, events to one callback, and the news that the worker is gone.
 */
#ifndef BLOCKMIG_DAEMON_WORKER_CLIENT_H
#define BLOCKMIG_DAEMON_WORKER_CLIENT_H

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

#include "blockmig/core/error.h"

struct bmig_client;

/* Both run on the worker's reader thread, without any lock held. gone comes exactly once, last,
 * after bmig_client_alive has turned false. */
struct bmig_client_events {
    void (*event)(void *user, struct bmig_client *worker, const json_t *event);
    void (*gone)(void *user, struct bmig_client *worker);
    void *user;
};

/* Connects to the socket at path, once. -ENOENT or -ECONNREFUSED: no worker is there. The caller
 * owns one reference; the reader thread has one of its own until gone has run. */
int bmig_client_connect(struct bmig_client **worker, const char *path,
                        const struct bmig_client_events *events, struct bmig_error *err);
/* Whether someone listens on path: 0, -ENOENT, -ECONNREFUSED or another error. */
int bmig_client_probe(const char *path);

struct bmig_client *bmig_client_ref(struct bmig_client *worker);
void bmig_client_unref(struct bmig_client *worker); /* NULL is fine */

/* Cuts the connection; the worker lives on. gone follows. */
void bmig_client_disconnect(struct bmig_client *worker);

bool bmig_client_alive(const struct bmig_client *worker);
pid_t bmig_client_pid(const struct bmig_client *worker); /* of the process behind the socket */

/* Sends request (an object with "do"; the reference is taken over) and waits for its reply: *reply
 * (may be NULL) is the caller's. Fails with the worker's own error; -ETIMEDOUT past the deadline,
 * after which the outcome is unknown; -ECONNRESET where the worker is gone. */
int bmig_client_call(struct bmig_client *worker, json_t *request, unsigned timeout_ms,
                     json_t **reply, struct bmig_error *err);

/* A worker that must end and does not answer: SIGKILL by a descriptor that names the process for
 * sure. */
int bmig_client_kill(struct bmig_client *worker, struct bmig_error *err);

/* Waits until its process has ended, so that what it had locked is free. false: it has not. */
bool bmig_client_wait_end(struct bmig_client *worker, unsigned timeout_ms);

/* ---- starting one ---- */

/* Path of blockmig-worker: $BLOCKMIG_WORKER, or beside this executable, or in the libexec folder.
 */
char *bmig_worker_program(void);

/* Starts program in a session of its own, with stdin and stdout on /dev/null and stderr appended to
 * log, and no other descriptor. */
int bmig_worker_spawn(const char *program, const char *control, const char *name, const char *log,
                      pid_t *pid, struct bmig_error *err);

#endif
