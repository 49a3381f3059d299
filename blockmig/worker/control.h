/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The worker's control socket: what the daemon says to a worker, and what it hears.
 *
 * A unix stream socket that the worker listens on (path given by --control, mode 0600; only the
 * worker's own uid and root are let in, by peer credentials). One JSON object a line, both ways;
 * several connections may be open, events go to all. A line is at most 1 MiB. Strings are UTF-8.
 *
 *   request  {"id": 7, "do": "VERB", ...}
 *   reply    {"id": 7, "ok": true, ...}   or
 *            {"id": 7, "ok": false, "kind": "refused", "code": 28, "message": "..."}   (kinds:
 * core/error.h) event    {"event": "mirror", "state": "synced", ...} as they come, without id
 *
 * A reply may come after those of later requests. An unknown verb or key is an error of kind usage.
 * An IMAGE is {"uri": "...", "format": "raw", "filters": "..." (optional), "secret": "..."
 * (optional; CHAP), "known_zero": true (optional: it was just created and reads as zeroes)}.
 *
 * verbs
 *   hello            -> {"protocol": 1, "version": "...", "pid": N, "volume": "NAME" or null,
 * "loop": "io_uring"} open   {"volume": NAME, "epoch": N, "primary": IMAGE, "listen": [URI, ...],
 *         "size_bytes": N (optional: the volume's; the image may be larger, and is refused if it is smaller)}
 *                    opens the primary read-write and exclusively and serves it as NBD export NAME
 * (and as the default export ""): URI "nbd+unix:///NAME?socket=PATH" or
 * "nbd://127.0.0.1:PORT/NAME", port 0 for one that the system picks.  Once a process.
 *                    -> {"size_bytes": N, "listen": [URI with the real port, ...]}
 *   stat             -> {"volume": .., "epoch": N, "size_bytes": N, "primary": {"uri":..,
 * "format":..}, "secondary": null or the same, "clients": N, "memory_bytes": N (resident),
 *                    "memory_bound_bytes": N, "loop": .., "listen": [..],
 *                    "guest": {"reads": N, "writes": N, "read_bytes": N, "write_bytes": N,
 * "flushes": N, "errors": N, "p50_us": N, "p99_us": N, "p999_us": N, "max_us": N}, "mirror":
 * {"state": "none|copying|verifying|synced|switching|degraded", "paused": false, every member of
 * struct bmig_mirror_stats by its name, times as _us instead of _ns}} mirror-start {"target":
 * IMAGE, "bandwidth_bytes_per_s": 0, "max_latency_us": 0, "leg_timeout_ms": 0, "verify": true,
 * "paused": false} opens the target read-write and exclusively and starts the mirror -> {}
 *   mirror-set {"bandwidth_bytes_per_s": N, "max_latency_us": N}      both keys needed; 0: none,
 * default mirror-pause {"paused": true} mirror-stop      drops the secondary, fenced and closed
 * when the reply comes -> {} switch-prepare   -> {} once the secondary is flushed: the caller now
 * writes the record switch-commit {"epoch": N}   the record is durable -> {} when reads come from
 * the new primary switch-abort     the record was not and will not be written -> {} stop {"force":
 * false}   refuses new clients, answers what is in flight, flushes, closes, replies, exits. refused
 * (kind denied) while a client is connected, unless force.
 *
 * events
 *   {"event": "mirror", "state": STATE, "error": CODE, "message": TEXT}   on each change of the
 * mirror's state
 *   {"event": "clients", "clients": N}
 *   {"event": "exit", "message": TEXT}   the last line before an orderly end
 *
 * The worker does not end when the daemon goes away: it serves on, finishes the copy, and stays in
 * SYNCED or SWITCHING until someone comes back and asks.
 */
#ifndef BLOCKMIG_WORKER_CONTROL_H
#define BLOCKMIG_WORKER_CONTROL_H

#include <jansson.h>

#include "blockmig/core/error.h"
#include "blockmig/core/loop.h"

enum { BMIG_CONTROL_PROTOCOL = 1, BMIG_CONTROL_MAX_LINE = 1 << 20 };

struct bmig_control;
struct bmig_control_call;

/* Called for each request line that is an object with "id" and "do"; arguments (borrowed for the
 * call) is the object without those two. Ends, now or later, with one bmig_control_reply or _fail
 * for call. */
typedef void bmig_control_verb(void *user, struct bmig_control_call *call, const char *verb,
                               json_t *arguments);

/* Listens on a unix socket at path (a stale socket file is replaced, a live one is DENIED). Loop's
 * thread, as all that follow. */
int bmig_control_new(struct bmig_control **control, struct bmig_loop *loop, const char *path,
                     bmig_control_verb *verb, void *user, struct bmig_error *err);

/* Sends what is queued as far as it goes without waiting, and closes. Calls not answered are
 * forgotten. */
void bmig_control_free(struct bmig_control *control);

/* Answers: body's members (taken over; NULL: none) are added to the reply. */
void bmig_control_reply(struct bmig_control_call *call, json_t *body);
void bmig_control_fail(struct bmig_control_call *call, const struct bmig_error *err);

/* Sends event (taken over) to every connection. */
void bmig_control_event(struct bmig_control *control, json_t *event);

#endif
