/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A volume's worker over time: started, watched, started again when it dies, stopped.
 *
 * Invariant: one thread at a time holds the volume busy and may start or stop its worker; the
 * reader thread of a worker that died only takes note and hands over to a thread that brings it up
 * again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "blockmig/core/log.h"
#include "blockmig/daemon/daemon_volume.h"
#include "blockmig/daemon/job.h"
#include "blockmig/daemon/text.h"

enum {
    STOP_MS = 60000,
    END_MS = 5000,
    BACKOFF_FIRST_MS = 100,
    BACKOFF_LAST_MS = 10000,
    BUSY_MS = 150000,
};

static void on_event(void *user, struct bmig_client *worker, const json_t *event);
static void on_gone(void *user, struct bmig_client *worker);

struct bmig_client *bmig_daemon_volume_worker_locked(struct bmig_daemon_volume *volume,
                                                     uint64_t *generation)
{
    if (generation)
        *generation = volume->generation;
    return volume->worker ? bmig_client_ref(volume->worker) : NULL;
}

char *bmig_daemon_volume_nbd_uri(struct bmig_manager *manager, const char *name)
{
    char *path = bmig_paths_nbd(&manager->paths, name);
    char *encoded = bmig_text_percent_encode(path, "/");
    char *uri = bmig_text("nbd+unix:///%s?socket=%s", name, encoded);
    free(encoded);
    free(path);
    return uri;
}

static int bring_up(struct bmig_manager *manager, const char *name, bool may_spawn,
                    struct bmig_error *err)
{
    struct bmig_client_events events = {.event = on_event, .gone = on_gone, .user = manager};
    return bmig_daemon_volume_launch(manager, name, may_spawn, &events, err);
}

/* ---- watched ---- */

static void on_event(void *user, struct bmig_client *worker, const json_t *event)
{
    struct bmig_manager *manager = user;
    bmig_manager_lock(manager);
    bmig_manager_changed_locked(manager); /* a job that waits for its mirror looks again */
    bmig_manager_unlock(manager);
}

static bool too_many_deaths(struct bmig_daemon_volume *volume)
{
    int64_t now = bmig_steady_ms();
    memmove(volume->deaths + 1, volume->deaths, sizeof volume->deaths - sizeof *volume->deaths);
    volume->deaths[0] = now;
    int64_t oldest = volume->deaths[BMIG_DEATHS_MAX - 1];
    return oldest && now - oldest < BMIG_DEATHS_WINDOW_MS;
}

static void give_up_locked(struct bmig_manager *manager, struct bmig_daemon_volume *volume)
{
    volume->state = BMIG_VOLUME_FAILED;
    volume->failure = (struct bmig_error){0};
    bmig_error_set(
        &volume->failure, BMIG_FAILED, ECHILD,
        "the worker of '%s' died %d times within %d s: given up; see its log under '%s', then "
        "`volume start` it",
        volume->name, BMIG_DEATHS_MAX, BMIG_DEATHS_WINDOW_MS / 1000, manager->paths.log);
    bmig_manager_note_locked(manager, volume->job ? volume->job->id : 0, "%s",
                             volume->failure.message);
    bmig_daemon_volume_publish_locked(manager, volume);
}

static bool still_needed(const struct bmig_manager *manager,
                         const struct bmig_daemon_volume *volume)
{
    return !manager->stopping && !volume->stopping && (volume->wanted || volume->job);
}

struct revival {
    struct bmig_manager *manager;
    char *name;
};

static bool revive_once(struct bmig_manager *manager, const char *name, bool spawn,
                        unsigned *backoff_ms)
{
    struct bmig_error err = {0};
    int rc = bring_up(manager, name, spawn, &err);
    bmig_manager_lock(manager);
    struct bmig_daemon_volume *volume = bmig_daemon_volume_find_locked(manager, name, NULL);
    bool again = rc && spawn && volume && still_needed(manager, volume);
    if (again && (err.code == ECHILD || err.code == ECONNRESET) && too_many_deaths(volume)) {
        give_up_locked(manager, volume);
        again = false;
    } else if (rc && volume && err.message[0]) {
        volume->state = BMIG_VOLUME_FAILED;
        volume->failure = err;
        bmig_manager_note_locked(manager, volume->job ? volume->job->id : 0, "volume '%s': %s",
                                 name, err.message);
        bmig_daemon_volume_publish_locked(manager, volume);
    }
    for (int64_t until = bmig_steady_ms() + *backoff_ms; again;) {
        int64_t left = until - bmig_steady_ms();
        if (left <= 0)
            break;
        bmig_manager_wait_locked(manager, (unsigned)left);
        again = still_needed(manager, volume); /* busy is ours, so it is still there */
    }
    *backoff_ms = *backoff_ms * 2 < BACKOFF_LAST_MS ? *backoff_ms * 2 : BACKOFF_LAST_MS;
    bmig_manager_unlock(manager);
    return again;
}

static void *revive(void *argument)
{
    struct revival *revival = argument;
    struct bmig_manager *manager = revival->manager;
    unsigned backoff_ms = BACKOFF_FIRST_MS;
    bmig_manager_lock(manager);
    struct bmig_daemon_volume *volume =
        bmig_daemon_volume_find_locked(manager, revival->name, NULL);
    bool spawn = still_needed(manager, volume), ends = manager->stopping;
    bmig_manager_unlock(manager);
    while (!ends && revive_once(manager, revival->name, spawn, &backoff_ms))
        ;
    bmig_manager_lock(manager);
    volume = bmig_daemon_volume_find_locked(manager, revival->name, NULL);
    volume->busy = false;
    bmig_manager_changed_locked(manager);
    bmig_manager_unlock(manager);
    free(revival->name);
    free(revival);
    bmig_manager_thread_done(manager);
    return NULL;
}

void bmig_daemon_volume_revive_locked(struct bmig_manager *manager,
                                      struct bmig_daemon_volume *volume)
{
    if (volume->busy || volume->worker)
        return;
    struct revival *revival = bmig_zalloc(sizeof *revival);
    revival->manager = manager;
    revival->name = bmig_text_copy(volume->name);
    volume->busy = true;
    if (bmig_manager_thread_locked(manager, revive, revival, &volume->failure)) {
        volume->busy = false;
        volume->state = BMIG_VOLUME_FAILED;
        free(revival->name);
        free(revival);
    }
}

static void on_gone(void *user, struct bmig_client *worker)
{
    struct bmig_manager *manager = user;
    bmig_manager_lock(manager);
    struct bmig_daemon_volume *volume = manager->volumes;
    while (volume && volume->worker != worker)
        volume = volume->next;
    if (volume) {
        volume->worker = NULL;
        bmig_client_unref(worker);
        if (still_needed(manager, volume)) {
            bmig_manager_note_locked(manager, volume->job ? volume->job->id : 0,
                                     "volume '%s': its worker (pid %d) died; starting it again",
                                     volume->name, (int)bmig_client_pid(worker));
            manager->worker_restarts++;
            if (too_many_deaths(volume))
                give_up_locked(manager, volume);
            else
                bmig_daemon_volume_revive_locked(manager, volume);
        } else if (!manager->stopping && !volume->stopping) {
            volume->state = BMIG_VOLUME_STOPPED;
            bmig_daemon_volume_publish_locked(manager, volume);
        }
        bmig_manager_changed_locked(manager);
    }
    bmig_manager_unlock(manager);
}

/* ---- started and stopped ---- */

static int journal_wanted(struct bmig_manager *manager, const struct bmig_daemon_volume *volume,
                          bool wanted, const json_t *listen, struct bmig_error *err)
{
    int rc = bmig_journal_begin(manager->journal, err);
    if (rc)
        return rc;
    char *text = json_dumps(listen, JSON_COMPACT);
    rc = bmig_journal_run(manager->journal, err,
                          "UPDATE volumes SET wanted = ?, listen = ? WHERE name = ?", "bss",
                          (int)wanted, text, volume->name);
    free(text);
    return bmig_journal_end(manager->journal, rc, err);
}

/* The volume once nobody else starts or stops it. */
static struct bmig_daemon_volume *wait_idle_locked(struct bmig_manager *manager, const char *name,
                                                   struct bmig_error *err)
{
    int64_t until = bmig_steady_ms() + BUSY_MS;
    for (;;) {
        struct bmig_daemon_volume *volume = bmig_daemon_volume_find_locked(manager, name, err);
        if (!volume || !volume->busy)
            return volume;
        int64_t left = until - bmig_steady_ms();
        if (left <= 0 || manager->stopping) {
            bmig_error_set(err, BMIG_TIMED_OUT, ETIMEDOUT,
                           "volume '%s' is still being started or stopped: %s", name,
                           volume->failure.message);
            return NULL;
        }
        bmig_manager_wait_locked(manager, (unsigned)left);
    }
}

static bool same_listen(const struct bmig_daemon_volume *volume, const json_t *listen)
{
    return !listen || json_array_size(listen) == 0 || json_equal(volume->listen, listen);
}

static int started_already(struct bmig_manager *manager, struct bmig_daemon_volume *volume,
                           const json_t *listen, bool for_job, struct bmig_error *err)
{
    if (!same_listen(volume, listen))
        return bmig_error_set(err, BMIG_DENIED, EBUSY,
                              "volume '%s' is started already, at other addresses: stop it first",
                              volume->name);
    if (for_job || volume->wanted)
        return 0;
    int rc = journal_wanted(manager, volume, true, volume->listen, err);
    if (rc == 0)
        volume->wanted = true;
    return rc;
}

static int claim_start(struct bmig_manager *manager, struct bmig_daemon_volume *volume,
                       json_t *listen, bool for_job, struct bmig_error *err)
{
    if (!for_job) {
        json_t *wish = listen ? listen : volume->listen;
        int rc = journal_wanted(manager, volume, true, wish, err);
        if (rc)
            return rc;
        if (listen) {
            json_decref(volume->listen);
            volume->listen = json_deep_copy(listen); /* the request's own ends with it */
        }
        volume->wanted = true;
    }
    volume->busy = true;
    memset(volume->deaths, 0, sizeof volume->deaths);
    return 0;
}

int bmig_daemon_volume_start(struct bmig_manager *manager, const char *name, json_t *listen,
                             bool for_job, struct bmig_error *err)
{
    bmig_manager_lock(manager);
    struct bmig_daemon_volume *volume = wait_idle_locked(manager, name, err);
    int rc = volume ? 0 : -ENOENT;
    if (rc == 0 && volume->worker) {
        rc = started_already(manager, volume, listen, for_job, err);
        bmig_manager_unlock(manager);
        return rc;
    }
    if (rc == 0)
        rc = claim_start(manager, volume, listen, for_job, err);
    bmig_manager_unlock(manager);
    if (rc)
        return rc;
    struct bmig_error why = {0};
    rc = bring_up(manager, name, true, &why);
    bmig_manager_lock(manager);
    volume->busy = false;
    if (rc && !for_job) {
        volume->state = BMIG_VOLUME_STOPPED;
        if (journal_wanted(manager, volume, false, volume->listen, NULL) == 0)
            volume->wanted = false;
    }
    if (rc)
        rc = bmig_error_set(err, why.kind, why.code, "volume '%s' can't be started: %s", name,
                            why.message);
    bmig_manager_changed_locked(manager);
    bmig_manager_unlock(manager);
    return rc;
}

static int stop_worker(struct bmig_client *worker, bool force, struct bmig_error *err)
{
    struct bmig_error why = {0};
    int rc = bmig_client_call(worker, json_pack("{s:s, s:b}", "do", "stop", "force", (int)force),
                              STOP_MS, NULL, &why);
    if (rc == 0 || !bmig_client_alive(worker)) {
        bmig_client_wait_end(worker, END_MS);
        bmig_client_disconnect(worker);
        return 0;
    }
    if (why.kind == BMIG_TIMED_OUT && force)
        return bmig_client_kill(worker, err);
    return bmig_error_set(err, why.kind, why.code, "%s", why.message);
}

static struct bmig_daemon_volume *claim_stop(struct bmig_manager *manager, const char *name,
                                             bool for_job, struct bmig_error *err)
{
    struct bmig_daemon_volume *volume = bmig_daemon_volume_find_locked(manager, name, err);
    if (!volume)
        return NULL;
    if (volume->job && !for_job) {
        bmig_error_set(err, BMIG_DENIED, EBUSY,
                       "volume '%s' is being moved by job %llu: cancel that first", name,
                       (unsigned long long)volume->job->id);
        return NULL;
    }
    volume->stopping = true; /* ends a thread that tries to bring it up */
    bmig_manager_changed_locked(manager);
    struct bmig_daemon_volume *idle = wait_idle_locked(manager, name, err);
    if (idle) {
        idle->busy = idle->stopping = true;
    } else if ((volume = bmig_daemon_volume_find_locked(manager, name, NULL))) {
        volume->stopping = false;
    }
    return idle;
}

int bmig_daemon_volume_stop(struct bmig_manager *manager, const char *name, bool force,
                            bool for_job, struct bmig_error *err)
{
    bmig_manager_lock(manager);
    struct bmig_daemon_volume *volume = claim_stop(manager, name, for_job, err);
    struct bmig_client *worker = volume ? bmig_daemon_volume_worker_locked(volume, NULL) : NULL;
    bmig_manager_unlock(manager);
    if (!volume)
        return -EBUSY;
    int rc = worker ? stop_worker(worker, force, err) : 0;
    bmig_manager_lock(manager);
    /* The reader drops the volume's reference; until then the volume is not ours to hand on. */
    for (int64_t until = bmig_steady_ms() + END_MS; rc == 0 && volume->worker;) {
        if (bmig_steady_ms() > until)
            rc = bmig_error_set(err, BMIG_TIMED_OUT, ETIMEDOUT, "the worker of '%s' does not end",
                                name);
        else
            bmig_manager_wait_locked(manager, 100);
    }
    if (rc == 0)
        rc = journal_wanted(manager, volume, false, volume->listen, err);
    if (rc == 0) {
        volume->wanted = false;
        volume->state = BMIG_VOLUME_STOPPED;
        bmig_daemon_volume_publish_locked(manager, volume);
    }
    volume->stopping = volume->busy = false;
    if (!volume->worker &&
        volume->wanted) /* the journal did not take it: it should run after all */
        bmig_daemon_volume_revive_locked(manager, volume);
    bmig_manager_changed_locked(manager);
    bmig_manager_unlock(manager);
    bmig_client_unref(worker);
    return rc;
}

void bmig_daemon_volume_adopt_all_locked(struct bmig_manager *manager)
{
    for (struct bmig_daemon_volume *volume = manager->volumes; volume; volume = volume->next) {
        char *control = bmig_paths_control(&manager->paths, volume->name);
        if (still_needed(manager, volume) || access(control, F_OK) == 0)
            bmig_daemon_volume_revive_locked(manager, volume);
        free(control);
    }
}
