/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Events for the API's streams. A reader that is slower than the ring loses the oldest lines, never
 * the daemon's memory; every line of a job is the whole job, so what it lost doesn't matter to it.
 */
#include "blockmig/daemon/events.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "blockmig/daemon/text.h"

enum { RING = 1024 };

struct entry {
    uint64_t id, job;
    bool final;
    char *line;
};

struct bmig_events {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    uint64_t first_id, next_id; /* the ring holds the ids from max(first_id, next_id - RING) on */
    bool closed;
    struct entry ring[RING];
};

struct bmig_events *bmig_events_new(void)
{
    struct bmig_events *events = bmig_zalloc(sizeof *events);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&events->changed, &attributes);
    pthread_mutex_init(&events->mutex, NULL);
    events->first_id = events->next_id = (uint64_t)bmig_wall_ms() * 1000;
    return events;
}

void bmig_events_free(struct bmig_events *events)
{
    for (unsigned i = 0; i < RING; i++)
        free(events->ring[i].line);
    pthread_cond_destroy(&events->changed);
    pthread_mutex_destroy(&events->mutex);
    free(events);
}

void bmig_events_publish(struct bmig_events *events, uint64_t job, bool final, json_t *event)
{
    char time[32];
    json_object_set_new(event, "time", json_string(bmig_iso_time(time, bmig_wall_ms())));
    pthread_mutex_lock(&events->mutex);
    uint64_t id = events->next_id;
    json_object_set_new(event, "id", json_integer((json_int_t)id));
    char *text = json_dumps(event, JSON_COMPACT);
    if (text) {
        struct entry *entry = &events->ring[id % RING];
        free(entry->line);
        *entry =
            (struct entry){.id = id, .job = job, .final = final, .line = bmig_text("%s\n", text)};
        events->next_id++;
        pthread_cond_broadcast(&events->changed);
    }
    pthread_mutex_unlock(&events->mutex);
    free(text);
    json_decref(event);
}

uint64_t bmig_events_last_id(struct bmig_events *events)
{
    pthread_mutex_lock(&events->mutex);
    uint64_t id = events->next_id - 1;
    pthread_mutex_unlock(&events->mutex);
    return id;
}

static const struct entry *find(const struct bmig_events *events, uint64_t job, uint64_t after)
{
    uint64_t oldest =
        events->next_id - events->first_id > RING ? events->next_id - RING : events->first_id;
    for (uint64_t id = after + 1 > oldest ? after + 1 : oldest; id < events->next_id; id++) {
        const struct entry *entry = &events->ring[id % RING];
        if (!job || entry->job == job)
            return entry;
    }
    return NULL;
}

int bmig_events_next(struct bmig_events *events, uint64_t job, unsigned timeout_ms, uint64_t *after,
                     char **line, bool *final)
{
    struct timespec deadline;
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += timeout_ms / 1000;
    deadline.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (deadline.tv_nsec >= 1000000000) {
        deadline.tv_sec++;
        deadline.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&events->mutex);
    const struct entry *entry;
    int rc = 0;
    while (!(entry = find(events, job, *after)) && !events->closed && rc != ETIMEDOUT)
        rc = pthread_cond_timedwait(&events->changed, &events->mutex, &deadline);
    if (entry) {
        *line = bmig_text("%s", entry->line);
        *after = entry->id;
        *final = entry->final;
        rc = 1;
    } else {
        *after = events->next_id - 1 > *after ? events->next_id - 1 : *after;
        rc = events->closed ? -1 : 0;
    }
    pthread_mutex_unlock(&events->mutex);
    return rc;
}

void bmig_events_close(struct bmig_events *events)
{
    pthread_mutex_lock(&events->mutex);
    events->closed = true;
    pthread_cond_broadcast(&events->changed);
    pthread_mutex_unlock(&events->mutex);
}
