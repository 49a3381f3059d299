/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The daemon's API as the command line uses it: JSON over HTTP on a unix socket.
 *
 * One connection at a time, one thread. An answer that is an error becomes err with its own kind;
 * no answer is BMIG_NO_DAEMON.
 */
#ifndef CLI_API_H
#define CLI_API_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "blockmig/core/error.h"

struct bmig_api;

/* For the daemon under root (NULL: the system's). Does not connect yet. */
int bmig_api_open(struct bmig_api **api, const char *root, struct bmig_error *err);
void bmig_api_close(struct bmig_api *api); /* NULL is fine */
const char *bmig_api_socket(const struct bmig_api *api);

/* method on path (percent-encoded; bmig_api_path) with body (taken over; NULL: none). *answer (may
 * be NULL) is the caller's to json_decref; never NULL on success. */
int bmig_api_call(struct bmig_api *api, const char *method, const char *path, json_t *body,
                  json_t **answer, struct bmig_error *err);

/* "before" + name, percent-encoded + "after"; malloc'd, NULL where there is no memory. */
char *bmig_api_path(struct bmig_api *api, const char *before, const char *name, const char *after);

enum bmig_api_stream_end {
    BMIG_API_STREAM_ENDED,   /* the daemon ended it, or line asked for it */
    BMIG_API_STREAM_STOPPED, /* *stop became non-zero */
    BMIG_API_STREAM_TIMEOUT, /* deadline_ms has come */
};

struct bmig_api_stream {
    /* Called with each line's object (borrowed); returns whether to go on. */
    bool (*line)(void *user, json_t *object);
    void *user;
    const volatile sig_atomic_t *stop; /* may be NULL */
    uint64_t deadline_ns;              /* CLOCK_MONOTONIC; UINT64_MAX: none */
    enum bmig_api_stream_end end;      /* out, where 0 was returned */
};

/* GET of a stream of JSON lines. A connection that breaks is BMIG_NO_DAEMON, like one that never
 * was. */
int bmig_api_follow(struct bmig_api *api, const char *path, struct bmig_api_stream *stream,
                    struct bmig_error *err);

uint64_t bmig_api_now_ns(void); /* CLOCK_MONOTONIC */

#endif
