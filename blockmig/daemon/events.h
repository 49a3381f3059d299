/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Events for the API's streams: a ring of the last lines, and everyone who waits for the next one.
 * Has a lock of its own, taken last: it may be called with the manager's mutex held.
 */
#ifndef BLOCKMIG_DAEMON_EVENTS_H
#define BLOCKMIG_DAEMON_EVENTS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct bmig_events;

/* Ids go up from one run of the daemon to the next: they begin at the time of day in microseconds.
 */
struct bmig_events *bmig_events_new(void);
void bmig_events_free(struct bmig_events *events);

/* Puts "id" and "time" into event (taken over) and hands it to the streams. job: 0 or the job it is
 * about; final: nothing more will come of that job. */
void bmig_events_publish(struct bmig_events *events, uint64_t job, bool final, json_t *event);

uint64_t bmig_events_last_id(struct bmig_events *events);

/* Waits up to timeout_ms for an event with an id above *after (of job, where it is not 0). 1: *line
 * is its JSON and a newline, malloc'd, *after its id; 0: none came; -1: the daemon ends. */
int bmig_events_next(struct bmig_events *events, uint64_t job, unsigned timeout_ms, uint64_t *after,
                     char **line, bool *final);

/* Wakes every waiter for good. */
void bmig_events_close(struct bmig_events *events);

#endif
