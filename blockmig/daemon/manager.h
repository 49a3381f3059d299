/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The manager: all of the control plane's state in memory, and the one mutex that guards it.
 *
 * Threads and the mutex. API requests run on a thread per connection; every job that was admitted
 * has a thread of its own that walks its phases; every worker has a reader thread; a volume whose
 * worker died has a thread that brings it up again. All of them take manager->mutex to look at or
 * change what is below, and the journal is used under it. It is never held across a call that talks
 * to a worker or to storage: such a call is made on values copied out before. Functions whose name
 * ends in _locked want the mutex held.
 *
 * What keeps a volume from going away meanwhile: it is freed only while it is not busy and has no
 * job. busy is held by the one thread that starts, stops, restarts, creates or deletes it.
 * Repositories are copied out. Jobs are never freed.
 */
#ifndef BLOCKMIG_DAEMON_MANAGER_H
#define BLOCKMIG_DAEMON_MANAGER_H

#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "blockmig/core/error.h"
#include "blockmig/daemon/events.h"
#include "blockmig/daemon/journal.h"
#include "blockmig/daemon/paths.h"
#include "blockmig/daemon/worker_client.h"

struct bmig_job;

/* One image that is, was or will be a volume's. The strings are owned. */
struct bmig_replica {
    int64_t id;  /* in the journal; 0: not there */
    char *repo;  /* NULL: outside of every repository */
    char *image; /* NULL: the repository is the image, or there is none */
    char *uri;
    char *format;
    char *identity; /* what bmig_place_stat says; "" where the place can't tell */
    bool made;      /* by us, so ours to remove */
};

struct bmig_repo {
    char *name;
    char *uri;
    char *secret_file; /* NULL: none */
    uint64_t max_jobs; /* 0: no limit of its own */
    struct bmig_repo *next;
};

enum bmig_volume_state {
    BMIG_VOLUME_STOPPED,
    BMIG_VOLUME_STARTED,
    BMIG_VOLUME_FAILED, /* it should run and does not; failure says why */
};

enum { BMIG_DEATHS_MAX = 5, BMIG_DEATHS_WINDOW_MS = 60000 };

struct bmig_daemon_volume {
    char *name;
    uint64_t size_bytes;
    uint64_t epoch;
    struct bmig_replica primary;
    bool wanted;    /* the journal's: a worker is to run */
    json_t *listen; /* URIs beside the volume's own socket that were asked for */
    int64_t created_ms;

    enum bmig_volume_state state;
    bool busy;
    bool stopping; /* its worker's end is our doing */
    bool in_doubt; /* a flip's outcome is being found out: no worker may be told a primary */
    struct bmig_client *worker; /* one reference; NULL: none */
    uint64_t generation; /* counts the workers: one more each time a worker is told its primary */
    json_t *bound;       /* the URIs that clients use */
    int64_t deaths[BMIG_DEATHS_MAX]; /* when its last workers died, steady clock */
    struct bmig_error failure;
    struct bmig_job *job; /* the one that is not final */
    struct bmig_daemon_volume *next;
};

struct bmig_manager {
    struct bmig_paths paths;
    int lock_fd;
    uint64_t max_jobs; /* that run at a time */

    pthread_mutex_t mutex;
    pthread_cond_t changed; /* any state that someone may wait for; steady clock */
    struct bmig_journal *journal;
    struct bmig_events *events;
    struct bmig_repo *repos;
    struct bmig_daemon_volume *volumes;
    struct bmig_job *jobs; /* the newest first */
    uint64_t next_job_id;
    bool stopping;
    unsigned threads;                        /* of jobs and restarts */
    uint64_t worker_restarts, jobs_ended[3]; /* done, failed, cancelled; for metrics */
};

/* Opens the state folder and loads the journal; nothing runs yet. */
int bmig_manager_open(struct bmig_manager *manager, const char *root, struct bmig_error *err);

/* Finds the workers that live, starts those that should, goes on with the jobs. */
void bmig_manager_run(struct bmig_manager *manager);

/* Asks all threads to end; workers live on. */
void bmig_manager_stop(struct bmig_manager *manager);

/* Waits for them, bounded. true: all ended and everything was freed. No API request may be under
 * way. */
bool bmig_manager_close(struct bmig_manager *manager);

void bmig_manager_lock(struct bmig_manager *manager);
void bmig_manager_unlock(struct bmig_manager *manager);

/* Waits for a change, at most timeout_ms. */
void bmig_manager_wait_locked(struct bmig_manager *manager, unsigned timeout_ms);
void bmig_manager_changed_locked(struct bmig_manager *manager);

/* Starts a detached thread that bmig_manager_close waits for. run gets argument. */
int bmig_manager_thread_locked(struct bmig_manager *manager, void *(*run)(void *), void *argument,
                               struct bmig_error *err);
void bmig_manager_thread_done(struct bmig_manager *manager); /* the last thing such a thread does */

/* A line for people: into the log, the events and (text kept for good) the journal where it can be
 * written. */
void bmig_manager_note_locked(struct bmig_manager *manager, uint64_t job, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* POST /v1/recover and /v1/cleanup: an array of what was done. */
json_t *bmig_manager_recover(struct bmig_manager *manager);
json_t *bmig_manager_cleanup(struct bmig_manager *manager);

/* ---- replicas ---- */

void bmig_replica_fini(struct bmig_replica *replica);
void bmig_replica_copy(struct bmig_replica *to, const struct bmig_replica *from);
json_t *bmig_replica_json(const struct bmig_replica *replica);
void bmig_replica_from_json(struct bmig_replica *replica, const json_t *json);
char *bmig_replica_words(const struct bmig_replica *replica); /* "REPO:IMAGE", "REPO" or the URI */
bool bmig_replica_same(const struct bmig_replica *a, const struct bmig_replica *b); /* one image? */

#endif
