/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The API: JSON over HTTP on a unix socket, for root and the daemon's own user. docs/API.md is its
 * reference.
 */
#ifndef BLOCKMIG_DAEMON_API_H
#define BLOCKMIG_DAEMON_API_H

#include <jansson.h>
#include <stdbool.h>

#include "blockmig/daemon/manager.h"

struct bmig_api;
struct MHD_Connection;

enum { BMIG_API_MAX_BODY_BYTES = 65536, BMIG_API_MAX_ARGS = 2 };

/* Listens and serves on threads of its own. */
int bmig_api_start(struct bmig_api **api, struct bmig_manager *manager, struct bmig_error *err);

/* Takes no more requests and waits for those under way; bmig_manager_stop comes before. */
void bmig_api_stop(struct bmig_api *api);

/* One request, as a handler sees it. */
struct bmig_api_request {
    struct bmig_manager *manager;
    struct MHD_Connection *connection;
    char *args[BMIG_API_MAX_ARGS]; /* what stands for the '*'s of the route */
    const json_t *body;            /* an object */

    /* What the handler fills in. */
    int status; /* 200 unless set */
    json_t *reply;
    char *text;  /* instead of reply: plain text */
    bool stream; /* instead of both: the events from after on */
    uint64_t stream_job, stream_after;
};

/* 0, or an error that becomes the reply. */
typedef int bmig_api_handler(struct bmig_api_request *request, struct bmig_error *err);

struct bmig_api_route {
    const char *method, *path; /* "/v1/jobs/ *": a star stands for one part */
    const char *query;         /* the keys that it may have, parted by spaces */
    bmig_api_handler *handler;
};

extern const struct bmig_api_route bmig_api_routes[]; /* ends with method NULL */

const char *bmig_api_query(const struct bmig_api_request *request, const char *key); /* or NULL */
int bmig_api_http_status(enum bmig_error_kind kind);

#endif
