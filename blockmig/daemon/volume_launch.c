/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Getting at a volume's worker: one that lives is found by its control socket and brought in line
 * with the journal, else one is started and told its primary.
 *
 * Invariants. A worker is told its primary only between two lines that hold the mutex
 * (begin_generation), where the generation is counted up: a switch prepared with one generation
 * never flips the record of another, for then a new worker may already write to the old primary
 * alone. A worker found alive is brought in line with the journal's epoch before anyone else may
 * talk to it: the record decides.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "blockmig/daemon/daemon_volume.h"
#include "blockmig/daemon/repo.h"
#include "blockmig/daemon/text.h"
#include "blockmig/worker/control.h"

enum {
    CONNECT_MS = 10000, /* from spawn until the control socket answers */
    HELLO_MS = 5000,
    OPEN_MS = 120000, /* the steps below are bounded by themselves, at 30 s each */
};

struct launch {
    struct bmig_manager *manager;
    const struct bmig_client_events *events;
    char *name;
    char *control;
    bool may_spawn;
    bool fresh; /* the worker said that it has no volume yet, so nobody is hurt if it ends */
    struct bmig_replica primary;
    uint64_t epoch, size_bytes;
    json_t *listen;
    json_t *bound;
};

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

static int spawn_and_connect(struct launch *launch, struct bmig_client **worker,
                             struct bmig_error *err)
{
    pid_t pid;
    char *program = bmig_worker_program();
    char *log = bmig_paths_volume_log(&launch->manager->paths, launch->name);
    unlink(launch->control); /* nobody listens there: the caller has tried */
    int rc = bmig_worker_spawn(program, launch->control, launch->name, log, &pid, err);
    int64_t until = bmig_steady_ms() + CONNECT_MS;
    while (rc == 0) {
        struct bmig_error why = {0};
        rc = bmig_client_connect(worker, launch->control, launch->events, &why);
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
    struct bmig_error why = {0};
    int rc = bmig_client_connect(worker, launch->control, launch->events, &why);
    if (rc == 0)
        return 0;
    if (!is_absent(rc))
        return bmig_error_set(err, why.kind, why.code, "%s", why.message);
    if (!launch->may_spawn)
        return -ENOENT;
    return spawn_and_connect(launch, worker, err);
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
        launch->size_bytes = volume->size_bytes;
        json_decref(launch->listen);
        launch->listen = json_deep_copy(volume->listen);
    }
    bmig_manager_unlock(launch->manager);
    return volume != NULL;
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
                              json_pack("{s:s, s:s, s:I, s:o, s:o, s:I}", "do", "open", "volume",
                                        launch->name, "epoch", (json_int_t)launch->epoch, "primary",
                                        image, "listen", listen, "size_bytes",
                                        (json_int_t)launch->size_bytes),
                              OPEN_MS, &reply, err);
    if (rc)
        return rc;
    launch->bound = json_incref(json_object_get(reply, "listen"));
    json_decref(reply);
    return 0;
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
int bmig_daemon_volume_launch(struct bmig_manager *manager, const char *name, bool may_spawn,
                              const struct bmig_client_events *events, struct bmig_error *err)
{
    struct launch launch = {.manager = manager, .may_spawn = may_spawn, .events = events};
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
            volume->bound = json_deep_copy(launch.bound);
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
