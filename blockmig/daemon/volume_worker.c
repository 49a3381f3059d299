/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A volume's worker: started, found again, watched, started again when it dies, stopped.
 *
 * Invariants. A worker is told its primary only between two lines that hold the mutex
 * (begin_generation), where the generation is counted up: a switch prepared with one generation
 * never flips the record of another, for then a new worker may already write to the old primary
 * alone. A worker found alive is brought in line with the journal's epoch before anyone else may
 * talk to it: the record decides.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "blockmig/core/log.h"
#include "blockmig/daemon/daemon_volume.h"
#include "blockmig/daemon/job.h"
#include "blockmig/daemon/repo.h"
#include "blockmig/daemon/text.h"
#include "blockmig/worker/control.h"

enum {
    CONNECT_MS = 10000, /* from spawn until the control socket answers */
    HELLO_MS = 5000,
    OPEN_MS = 120000, /* the steps below are bounded by themselves, at 30 s each */
    STOP_MS = 60000,
    BACKOFF_FIRST_MS = 100,
    BACKOFF_LAST_MS = 10000,
    BUSY_MS = 150000,
};

struct launch {
    struct bmig_manager *manager;
    char *name;
    char *control;
    bool may_spawn;
    bool fresh; /* the worker said that it has no volume yet, so nobody is hurt if it ends */
    struct bmig_replica primary;
    uint64_t epoch;
    json_t *listen;
    json_t *bound;
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

static void nap(unsigned ms)
{
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&ts, NULL);
}

/* ---- a process and a connection ---- */

static bool is_absent(int rc)
{
    return rc == -ENOENT || rc == -ECONNREFUSED;
}

static int spawn_and_connect(struct launch *launch, const struct bmig_client_events *events,
                             struct bmig_client **worker, struct bmig_error *err)
{
    pid_t pid;
    char *program = bmig_worker_program();
    char *log = bmig_paths_volume_log(&launch->manager->paths, launch->name);
    unlink(launch->control); /* nobody listens there: the caller has tried */
    int rc = bmig_worker_spawn(program, launch->control, launch->name, log, &pid, err);
    int64_t until = bmig_steady_ms() + CONNECT_MS;
    while (rc == 0) {
        struct bmig_error why = {0};
        rc = bmig_client_connect(worker, launch->control, events, &why);
        if (rc == 0)
            break;
        /* SIGCHLD is ignored, so children that end vanish and waitpid says ECHILD. */
        if (waitpid(pid, NULL, WNOHANG) != 0)
            rc = bmig_error_set(
                err, BMIG_FAILED, ECHILD,
                "the worker of '%s' ended before it could be reached; its log is '%s'",
                launch->name, log);
        else if (!is_absent(rc) || bmig_steady_ms() > until)
            rc = bmig_error_set(err, why.kind, why.code, "%s", why.message);
        else
            rc = 0;
        nap(10);
    }
    free(program);
    free(log);
    return rc;
}

static int reach(struct launch *launch, struct bmig_client **worker, struct bmig_error *err)
{
    struct bmig_client_events events = {
        .event = on_event, .gone = on_gone, .user = launch->manager};
    struct bmig_error why = {0};
    int rc = bmig_client_connect(worker, launch->control, &events, &why);
    if (rc == 0)
        return 0;
    if (!is_absent(rc))
        return bmig_error_set(err, why.kind, why.code, "%s", why.message);
    if (!launch->may_spawn)
        return -ENOENT;
    return spawn_and_connect(launch, &events, worker, err);
}

/* ---- a worker that has its volume ---- */

static bool begin_generation(struct launch *launch)
{
    bmig_manager_lock(launch->manager);
    struct bmig_daemon_volume *volume =
        bmig_daemon_volume_find_locked(launch->manager, launch->name, NULL);
    while (volume && volume->in_doubt && !launch->manager->stopping)
        bmig_manager_wait_locked(launch->manager, 1000);
    if (launch->manager->stopping)
        volume = NULL;
    if (volume) {
        volume->generation++;
        bmig_replica_copy(&launch->primary, &volume->primary);
        launch->epoch = volume->epoch;
        json_decref(launch->listen);
        launch->listen = json_deep_copy(volume->listen);
    }
    bmig_manager_unlock(launch->manager);
    return volume != NULL;
}

static int check_size(struct launch *launch, uint64_t size_bytes, struct bmig_error *err)
{
    bmig_manager_lock(launch->manager);
    struct bmig_daemon_volume *volume =
        bmig_daemon_volume_find_locked(launch->manager, launch->name, NULL);
    uint64_t known = volume ? volume->size_bytes : 0;
    bmig_manager_unlock(launch->manager);
    if (size_bytes >= known)
        return 0;
    return bmig_error_set(
        err, BMIG_REFUSED, EINVAL,
        "the image of '%s' has %llu bytes and the volume has %llu: it was cut outside of "
        "blockmig",
        launch->name, (unsigned long long)size_bytes, (unsigned long long)known);
}

static int open_volume(struct launch *launch, struct bmig_client *worker, struct bmig_error *err)
{
    json_t *reply = NULL;
    json_t *image = bmig_replica_image_json(launch->manager, &launch->primary, false, err);
    if (!image)
        return -EIO;
    char *own = bmig_daemon_volume_nbd_uri(launch->manager, launch->name);
    json_t *listen = json_array();
    json_array_append_new(listen, json_string(own));
    json_array_extend(listen, launch->listen);
    free(own);
    int rc = bmig_client_call(worker,
                              json_pack("{s:s, s:s, s:I, s:o, s:o}", "do", "open", "volume",
                                        launch->name, "epoch", (json_int_t)launch->epoch, "primary",
                                        image, "listen", listen),
                              OPEN_MS, &reply, err);
    if (rc)
        return rc;
    rc =
        check_size(launch, (uint64_t)json_integer_value(json_object_get(reply, "size_bytes")), err);
    launch->bound = json_incref(json_object_get(reply, "listen"));
    json_decref(reply);
    return rc;
}

static int call_simple(struct bmig_client *worker, const char *verb, struct bmig_error *err)
{
    return bmig_client_call(worker, json_pack("{s:s}", "do", verb), HELLO_MS, NULL, err);
}

/* The worker was left by a daemon that died. What it may not know is whether the record was
 * flipped. */
static int align(struct launch *launch, struct bmig_client *worker, const json_t *stat,
                 struct bmig_error *err)
{
    uint64_t epoch = (uint64_t)json_integer_value(json_object_get(stat, "epoch"));
    const char *state =
        json_string_value(json_object_get(json_object_get(stat, "mirror"), "state"));
    bool switching = state && strcmp(state, "switching") == 0;
    if (epoch == launch->epoch)
        return switching ? call_simple(worker, "switch-abort", err) : 0;
    if (epoch + 1 == launch->epoch && switching)
        return bmig_client_call(
            worker,
            json_pack("{s:s, s:I}", "do", "switch-commit", "epoch", (json_int_t)launch->epoch),
            HELLO_MS, NULL, err);
    return bmig_error_set(
        err, BMIG_DENIED, ESTALE,
        "the running worker of '%s' (pid %d) has epoch %llu and the journal %llu: they "
        "don't belong together; it is left alone, stop it by hand once its guest is off",
        launch->name, (int)bmig_client_pid(worker), (unsigned long long)epoch,
        (unsigned long long)launch->epoch);
}

static int adopt(struct launch *launch, struct bmig_client *worker, struct bmig_error *err)
{
    json_t *stat = NULL;
    int rc = bmig_client_call(worker, json_pack("{s:s}", "do", "stat"), HELLO_MS, &stat, err);
    if (rc)
        return rc;
    rc = align(launch, worker, stat, err);
    launch->bound = json_incref(json_object_get(stat, "listen"));
    json_decref(stat);
    return rc;
}

static int greet(struct launch *launch, struct bmig_client *worker, struct bmig_error *err)
{
    json_t *hello = NULL;
    int rc = bmig_client_call(worker, json_pack("{s:s}", "do", "hello"), HELLO_MS, &hello, err);
    if (rc)
        return rc;
    json_int_t protocol = json_integer_value(json_object_get(hello, "protocol"));
    const char *name = json_string_value(json_object_get(hello, "volume"));
    if (protocol != BMIG_CONTROL_PROTOCOL)
        rc = bmig_error_set(err, BMIG_FAILED, EPROTONOSUPPORT,
                            "the worker of '%s' speaks protocol %d, this blockmigd %d",
                            launch->name, (int)protocol, BMIG_CONTROL_PROTOCOL);
    else if (name && strcmp(name, launch->name))
        rc = bmig_error_set(err, BMIG_DENIED, EBUSY, "the worker at '%s' serves '%.128s'",
                            launch->control, name);
    else if (!begin_generation(launch))
        rc = bmig_error_set(err, BMIG_NOT_FOUND, ENOENT, "volume '%s' is gone", launch->name);
    else if ((launch->fresh = !name))
        rc = open_volume(launch, worker, err);
    else
        rc = adopt(launch, worker, err);
    json_decref(hello);
    return rc;
}

static void end_worker(struct bmig_client *worker)
{
    struct bmig_error ignored = {0};
    bmig_client_call(worker, json_pack("{s:s, s:b}", "do", "stop", "force", 1), HELLO_MS, NULL,
                     &ignored);
    bmig_client_disconnect(worker);
}

/* A worker for the volume, which the caller holds busy. Without the mutex. */
static int bring_up(struct bmig_manager *manager, const char *name, bool may_spawn,
                    struct bmig_error *err)
{
    struct launch launch = {.manager = manager, .may_spawn = may_spawn};
    struct bmig_client *worker = NULL;
    launch.name = bmig_text_copy(name);
    launch.control = bmig_paths_control(&manager->paths, name);
    int rc = reach(&launch, &worker, err);
    if (rc == 0) {
        rc = greet(&launch, worker, err);
        bmig_manager_lock(manager);
        struct bmig_daemon_volume *volume = bmig_daemon_volume_find_locked(manager, name, NULL);
        if (rc == 0 && !bmig_client_alive(worker))
            rc = bmig_error_set(err, BMIG_FAILED, ECONNRESET, "the worker of '%s' ended at once",
                                name);
        if (rc == 0 && volume) {
            volume->worker = worker;
            worker = NULL;
            volume->state = BMIG_VOLUME_STARTED;
            json_decref(volume->bound);
            volume->bound = json_incref(launch.bound);
            bmig_daemon_volume_publish_locked(manager, volume);
        }
        bmig_manager_unlock(manager);
        if (worker && launch.fresh) /* one that may serve a guest is left alone */
            end_worker(worker);
        else if (worker)
            bmig_client_disconnect(worker);
        bmig_client_unref(worker);
    }
    bmig_replica_fini(&launch.primary);
    json_decref(launch.listen);
    json_decref(launch.bound);
    free(launch.name);
    free(launch.control);
    return rc;
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
        json_incref(wish);
        json_decref(volume->listen);
        volume->listen = wish;
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
        bmig_client_wait_end(worker, HELLO_MS);
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
    for (int64_t until = bmig_steady_ms() + HELLO_MS; rc == 0 && volume->worker;) {
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
