/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The manager: opened, run and closed; and the things that walk over all of its state.
 */
#include "blockmig/daemon/manager.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "blockmig/core/log.h"
#include "blockmig/daemon/daemon_volume.h"
#include "blockmig/daemon/job.h"
#include "blockmig/daemon/json_read.h"
#include "blockmig/daemon/repo.h"
#include "blockmig/daemon/text.h"

enum {
    DEFAULT_MAX_JOBS = 4,
    CONFIG_MAX_BYTES = 65536,
    ADOPT_MS = 5000, /* how long start-up waits for workers to be found again */
    CLOSE_MS = 5000, /* how long the end waits for threads that talk to storage */
    EVENTS_KEPT = 10000,
};

void bmig_manager_lock(struct bmig_manager *manager)
{
    pthread_mutex_lock(&manager->mutex);
}

void bmig_manager_unlock(struct bmig_manager *manager)
{
    pthread_mutex_unlock(&manager->mutex);
}

void bmig_manager_wait_locked(struct bmig_manager *manager, unsigned timeout_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_cond_timedwait(&manager->changed, &manager->mutex, &until);
}

void bmig_manager_changed_locked(struct bmig_manager *manager)
{
    pthread_cond_broadcast(&manager->changed);
}

int bmig_manager_thread_locked(struct bmig_manager *manager, void *(*run)(void *), void *argument,
                               struct bmig_error *err)
{
    pthread_t thread;
    int rc = pthread_create(&thread, NULL, run, argument);
    if (rc)
        return bmig_error_set(err, BMIG_FAILED, rc, "no thread: %s", bmig_strerror(rc));
    pthread_detach(thread);
    manager->threads++;
    return 0;
}

void bmig_manager_thread_done(struct bmig_manager *manager)
{
    bmig_manager_lock(manager);
    manager->threads--;
    bmig_manager_changed_locked(manager);
    bmig_manager_unlock(manager);
}

static void record_note(struct bmig_manager *manager, uint64_t job, const char *text)
{
    struct bmig_error ignored = {0};
    if (bmig_journal_begin(manager->journal, &ignored))
        return; /* a note is no reason to stop */
    int rc = bmig_journal_run(manager->journal, &ignored,
                              "INSERT INTO events (time_ms, job, text) VALUES (?, ?, ?)", "iis",
                              bmig_wall_ms(), job, text);
    if (rc == 0)
        rc = bmig_journal_run(manager->journal, &ignored,
                              "DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?",
                              "i", (int64_t)EVENTS_KEPT);
    bmig_journal_end(manager->journal, rc, &ignored);
}

void bmig_manager_note_locked(struct bmig_manager *manager, uint64_t job, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    bmig_log(BMIG_LOG_NOTICE, "%s", text);
    bmig_events_publish(manager->events, job, false,
                        json_pack("{s:s, s:o, s:s}", "event", "note", "job_id",
                                  job ? json_integer((json_int_t)job) : json_null(), "message",
                                  text));
    record_note(manager, job, text);
}

/* ---- opened ---- */

static int read_config(struct bmig_manager *manager, struct bmig_error *err)
{
    FILE *file = fopen(manager->paths.config, "re");
    if (!file) {
        if (errno == ENOENT || errno == ENOTDIR)
            return 0;
        return bmig_error_set(err, bmig_error_kind_of(errno), errno, "'%s': %s",
                              manager->paths.config, bmig_strerror(errno));
    }
    char *text = bmig_zalloc(CONFIG_MAX_BYTES);
    size_t length = fread(text, 1, CONFIG_MAX_BYTES, file);
    fclose(file);
    json_t *config = NULL;
    const struct bmig_json_field fields[] = {
        {.name = "max_jobs", .type = BMIG_JSON_U64, .value = &manager->max_jobs}, {0}};
    int rc = bmig_json_parse(text, length, &config, err);
    if (rc == 0)
        rc = bmig_json_read(config, fields, err);
    if (rc == 0 && manager->max_jobs == 0)
        rc = bmig_error_set(err, BMIG_USAGE, EINVAL, "'max_jobs' must be 1 or more");
    if (rc)
        bmig_error_prefix(err, "'%s'", manager->paths.config);
    json_decref(config);
    free(text);
    return rc;
}

static int load(struct bmig_manager *manager, struct bmig_error *err)
{
    int rc = bmig_journal_open(&manager->journal, manager->paths.journal, err);
    if (rc == 0)
        rc = bmig_repo_load_locked(manager, err);
    if (rc == 0)
        rc = bmig_daemon_volume_load_locked(manager, err);
    return rc ? rc : bmig_job_load_locked(manager, err);
}

int bmig_manager_open(struct bmig_manager *manager, const char *root, struct bmig_error *err)
{
    *manager = (struct bmig_manager){.lock_fd = -1, .max_jobs = DEFAULT_MAX_JOBS};
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&manager->changed, &attributes);
    pthread_mutex_init(&manager->mutex, NULL);
    manager->events = bmig_events_new();
    int rc = bmig_paths_init(&manager->paths, root, err);
    if (rc == 0)
        rc = bmig_paths_make(&manager->paths, err);
    if (rc == 0)
        rc = bmig_paths_lock(&manager->paths, &manager->lock_fd, err);
    if (rc == 0)
        rc = read_config(manager, err);
    return rc ? rc : load(manager, err);
}

static void start_jobs_locked(struct bmig_manager *manager)
{
    for (struct bmig_job *job = manager->jobs; job; job = job->next)
        if (!bmig_job_final(job->state) && job->phase != BMIG_PHASE_QUEUED && !job->has_thread)
            bmig_job_start_locked(manager, job);
    bmig_queue_admit_locked(manager);
}

static bool any_busy_locked(const struct bmig_manager *manager)
{
    for (const struct bmig_daemon_volume *v = manager->volumes; v; v = v->next)
        if (v->busy)
            return true;
    return false;
}

void bmig_manager_run(struct bmig_manager *manager)
{
    bmig_daemon_volume_finish_creations(manager);
    bmig_manager_lock(manager);
    bmig_daemon_volume_adopt_all_locked(manager);
    for (int64_t until = bmig_steady_ms() + ADOPT_MS;
         any_busy_locked(manager) && bmig_steady_ms() < until;)
        bmig_manager_wait_locked(manager, 100);
    start_jobs_locked(manager);
    bmig_manager_unlock(manager);
}

/* ---- closed ---- */

/* Calls under way fail at once when their connection is cut; what talks to storage runs into its
 * own bound. */
static void cut_workers_locked(struct bmig_manager *manager)
{
    for (struct bmig_daemon_volume *v = manager->volumes; v; v = v->next)
        if (v->worker)
            bmig_client_disconnect(v->worker);
}

static bool any_worker_locked(const struct bmig_manager *manager)
{
    for (const struct bmig_daemon_volume *v = manager->volumes; v; v = v->next)
        if (v->worker)
            return true;
    return false;
}

static void free_lists(struct bmig_manager *manager)
{
    bmig_daemon_volume_free_all(manager);
    bmig_repo_free_all(manager);
    bmig_job_free_all(manager);
}

void bmig_manager_stop(struct bmig_manager *manager)
{
    bmig_manager_lock(manager);
    manager->stopping = true;
    bmig_events_close(manager->events);
    cut_workers_locked(manager);
    bmig_manager_changed_locked(manager);
    bmig_manager_unlock(manager);
}

bool bmig_manager_close(struct bmig_manager *manager)
{
    bmig_manager_lock(manager);
    int64_t until = bmig_steady_ms() + CLOSE_MS;
    while ((manager->threads > 0 || any_worker_locked(manager)) && bmig_steady_ms() < until)
        bmig_manager_wait_locked(manager, 100);
    bool clean = manager->threads == 0 && !any_worker_locked(manager);
    bmig_manager_unlock(manager);
    if (!clean)
        return false;
    free_lists(manager);
    bmig_journal_close(manager->journal);
    bmig_events_free(manager->events);
    bmig_paths_fini(&manager->paths);
    pthread_cond_destroy(&manager->changed);
    pthread_mutex_destroy(&manager->mutex);
    if (manager->lock_fd >= 0)
        close(manager->lock_fd);
    return true;
}
