/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The phases in which a worker's mirror runs: attach, copy, hold; and the way back to attach when
 * the mirror is lost, because its worker died or because the target failed.
 *
 * Invariant: numbers and states are taken from a worker only if it is of the generation that has
 * our mirror; a new one has none, whatever it answers.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/core/log.h"
#include "blockmig/daemon/daemon_volume.h"
#include "blockmig/daemon/job_walk.h"
#include "blockmig/daemon/repo.h"
#include "blockmig/daemon/text.h"

enum {
    LOOK_MS = 500,
    STAT_MS = 5000,
    ATTACH_MS = 120000, /* its steps are bounded by themselves */
    SET_MS = 5000,
    LOST_MAX = 6, /* mirrors lost in a row without progress, then the job fails */
    BACKOFF_MS = 500,
    ROOM_MS = 10000,
};

/* ---- the worker ---- */

static int worker_now(struct bmig_walk *walk, struct bmig_client **worker, uint64_t *generation,
                      bool *start, struct bmig_error *err)
{
    struct bmig_daemon_volume *volume =
        bmig_daemon_volume_find_locked(walk->manager, walk->job->volume, err);
    *start = false;
    if (!volume)
        return -ENOENT;
    *worker = bmig_daemon_volume_worker_locked(volume, generation);
    if (*worker || volume->busy)
        return 0;
    if (volume->state == BMIG_VOLUME_FAILED)
        return bmig_error_set(err, volume->failure.kind, ECHILD, "%s", volume->failure.message);
    *start = true;
    return 0;
}

int bmig_walk_worker(struct bmig_walk *walk, struct bmig_client **worker, uint64_t *generation,
                     struct bmig_error *err)
{
    *worker = NULL;
    for (;;) {
        bool start;
        bmig_manager_lock(walk->manager);
        int rc = bmig_walk_check_locked(walk, err);
        if (rc == 0)
            rc = worker_now(walk, worker, generation, &start, err);
        if (rc == 0 && !*worker && !start)
            bmig_manager_wait_locked(walk->manager, 1000);
        bmig_manager_unlock(walk->manager);
        if (rc || *worker)
            return rc;
        if (start &&
            (rc = bmig_daemon_volume_start(walk->manager, walk->job->volume, NULL, true, err)))
            return rc;
    }
}

static int call(struct bmig_client *worker, json_t *request, unsigned timeout_ms, json_t **reply,
                struct bmig_error *err)
{
    int rc = bmig_client_call(worker, request, timeout_ms, reply, err);
    return rc && !bmig_client_alive(worker) ? -ECONNRESET : rc;
}

/* ---- looking ---- */

static void lost_locked(struct bmig_walk *walk)
{
    bmig_job_mirror_lost_locked(walk->job);
    walk->generation = 0;
    bmig_job_publish_locked(walk->manager, walk->job);
}

/* Whether the mirror that the worker has is ours: onto the replica that is not the primary. */
static bool is_ours(const struct bmig_job *job, const json_t *stat)
{
    const struct bmig_replica *secondary = job->flipped ? &job->from : &job->to;
    const char *uri = json_string_value(json_object_get(json_object_get(stat, "secondary"), "uri"));
    const char *state =
        json_string_value(json_object_get(json_object_get(stat, "mirror"), "state"));
    return uri && state && strcmp(state, "none") && strcmp(uri, secondary->uri) == 0;
}

int bmig_walk_look(struct bmig_walk *walk, struct bmig_error *err)
{
    struct bmig_client *worker;
    uint64_t generation;
    json_t *stat = NULL;
    struct bmig_error why = {0};
    int rc = bmig_walk_worker(walk, &worker, &generation, err);
    if (rc)
        return rc;
    rc = call(worker, json_pack("{s:s}", "do", "stat"), STAT_MS, &stat, &why);
    bmig_manager_lock(walk->manager);
    if (rc == 0 && !walk->generation)
        walk->generation = generation; /* found by a daemon that was started again */
    if (rc == -ECONNRESET ||
        (rc == 0 && (generation != walk->generation || !is_ours(walk->job, stat)))) {
        lost_locked(walk);
        rc = -ESTALE;
    } else if (rc == 0) {
        bmig_job_take_mirror_locked(walk->job, json_object_get(stat, "mirror"));
        bmig_job_publish_locked(walk->manager, walk->job);
    } else {
        bmig_log(BMIG_LOG_WARNING, "job %llu: %s", (unsigned long long)walk->job->id, why.message);
        rc = 0; /* a worker that is slow to answer: what is known stands, and it is asked again */
    }
    bmig_manager_unlock(walk->manager);
    json_decref(stat);
    bmig_client_unref(worker);
    return rc;
}

/* ---- attach ---- */

static json_t *start_request(struct bmig_walk *walk, struct bmig_error *err)
{
    struct bmig_replica target = {0};
    bmig_manager_lock(walk->manager);
    bmig_replica_copy(&target, walk->job->flipped ? &walk->job->from : &walk->job->to);
    struct bmig_move_options options = walk->job->options;
    bool paused = walk->job->want_pause, known_zero = walk->known_zero && !walk->job->flipped;
    walk->known_zero = false; /* whatever comes of it, it may have been written to */
    bmig_manager_unlock(walk->manager);
    json_t *image = bmig_replica_image_json(walk->manager, &target, known_zero, err);
    bmig_replica_fini(&target);
    if (!image)
        return NULL;
    return json_pack("{s:s, s:o, s:I, s:I, s:i, s:b, s:b}", "do", "mirror-start", "target", image,
                     "bandwidth_bytes_per_s", (json_int_t)options.bandwidth_bytes_per_s,
                     "max_latency_us", (json_int_t)options.max_latency_us, "leg_timeout_ms", 0,
                     "verify", (int)options.verify, "paused", (int)paused);
}

/* A worker that lives may have our mirror from before, or the rest of one that could not be
 * stopped. */
static int settle_existing(struct bmig_walk *walk, struct bmig_client *worker, bool *ours,
                           struct bmig_error *err)
{
    json_t *stat = NULL;
    *ours = false;
    int rc = call(worker, json_pack("{s:s}", "do", "stat"), STAT_MS, &stat, err);
    if (rc)
        return rc;
    const char *state =
        json_string_value(json_object_get(json_object_get(stat, "mirror"), "state"));
    *ours = is_ours(walk->job, stat) && strcmp(state, "degraded");
    if (!*ours && state && strcmp(state, "none"))
        rc = call(worker, json_pack("{s:s}", "do", "mirror-stop"), ATTACH_MS, NULL, err);
    json_decref(stat);
    return rc;
}

int bmig_walk_start_mirror(struct bmig_walk *walk, struct bmig_error *err)
{
    struct bmig_client *worker;
    uint64_t generation;
    bool ours;
    int rc = bmig_walk_worker(walk, &worker, &generation, err);
    if (rc)
        return rc;
    rc = settle_existing(walk, worker, &ours, err);
    if (rc == 0 && !ours) {
        json_t *request = start_request(walk, err);
        rc = request ? call(worker, request, ATTACH_MS, NULL, err) : -EIO;
    }
    if (rc == 0) {
        bmig_manager_lock(walk->manager);
        walk->generation = generation;
        walk->attached = true;
        if (!ours)
            strcpy(walk->job->mirror, "copying");
        bmig_manager_unlock(walk->manager);
    }
    bmig_client_unref(worker);
    return rc;
}

/* ---- a mirror that was lost ---- */

static bool made_progress(struct bmig_job *job)
{
    uint64_t mark = job->base[BMIG_STAT_COPIED] + job->stats[BMIG_STAT_COPIED];
    bool progress = mark > job->progress_mark;
    job->progress_mark = mark;
    return progress;
}

static bool is_no_space(int code)
{
    return code == ENOSPC || code == EDQUOT;
}

static bool has_room(struct bmig_walk *walk)
{
    struct bmig_place_stat stat;
    uint64_t stale = walk->job->stats[BMIG_STAT_STALE];
    return bmig_replica_stat(walk->manager, &walk->job->to, &stat, NULL) == 0 &&
           stat.free_bytes != UINT64_MAX && stat.free_bytes > stale;
}

/* Paused until someone says `resume` or the target has room for what is stale. */
static int wait_for_room(struct bmig_walk *walk, struct bmig_error *err)
{
    int rc = 0;
    walk->job->want_pause = true;
    for (int64_t next = bmig_steady_ms() + ROOM_MS; rc == 0;) {
        bmig_manager_lock(walk->manager);
        bool resumed = !walk->job->want_pause;
        bmig_manager_unlock(walk->manager);
        if (resumed)
            break;
        if (bmig_steady_ms() >= next) {
            if (has_room(walk))
                break;
            next = bmig_steady_ms() + ROOM_MS;
        }
        rc = bmig_walk_nap(walk, 1000, err);
    }
    bmig_manager_lock(walk->manager);
    walk->job->want_pause = false;
    bmig_manager_unlock(walk->manager);
    return rc;
}

/* why: what the target or its mirror failed with. 0: try again. */
static int after_loss(struct bmig_walk *walk, const struct bmig_error *why, struct bmig_error *err)
{
    struct bmig_job *job = walk->job;
    bmig_manager_lock(walk->manager);
    job->lost_mirrors = made_progress(job) ? 1 : job->lost_mirrors + 1;
    unsigned lost = job->lost_mirrors;
    bmig_manager_unlock(walk->manager);
    if (is_no_space(why->code)) {
        struct bmig_error text = {0};
        bmig_error_set(
            &text, BMIG_FAILED, why->code,
            "no-space: the target is full; make room there, it goes on by itself or with "
            "`resume`: %.300s",
            why->message);
        bmig_walk_state(walk, BMIG_JOB_PAUSED, &text);
        return wait_for_room(walk, err);
    }
    if (lost >= LOST_MAX)
        return bmig_error_set(err, why->kind, why->code, "given up after %u tries: %.400s", lost,
                              why->message);
    bmig_walk_state(walk, BMIG_JOB_DEGRADED, why);
    int64_t until = bmig_steady_ms() + ((int64_t)BACKOFF_MS << lost);
    int rc = 0;
    while (rc == 0 && bmig_steady_ms() < until && job->lost_mirrors > 0) /* `resume` makes it 0 */
        rc = bmig_walk_nap(walk, (unsigned)(until - bmig_steady_ms()), err);
    return rc;
}

/* The target failed: the mirror is dropped, and after a pause begun again. */
static int degraded(struct bmig_walk *walk, struct bmig_error *err)
{
    struct bmig_error why = {0}, ignored = {0};
    struct bmig_job *job = walk->job;
    bmig_manager_lock(walk->manager);
    bmig_error_set(&why, BMIG_FAILED, job->mirror_error, "the target '%.200s' failed: %s",
                   job->to.uri,
                   job->mirror_text[0] ? job->mirror_text : bmig_strerror(job->mirror_error));
    bmig_manager_unlock(walk->manager);
    bmig_walk_stop_mirror(walk->manager, job->volume, ATTACH_MS, &ignored);
    int rc = after_loss(walk, &why, err);
    bmig_manager_lock(walk->manager);
    lost_locked(walk);
    bmig_manager_unlock(walk->manager);
    walk->next = BMIG_PHASE_ATTACH;
    return rc;
}

int bmig_walk_attach(struct bmig_walk *walk, struct bmig_error *err)
{
    struct bmig_error why = {0};
    int rc = bmig_walk_start_mirror(walk, &why);
    walk->next = BMIG_PHASE_COPY;
    if (rc == 0)
        return 0;
    walk->next = BMIG_PHASE_ATTACH;
    if (rc == -ECONNRESET)
        return bmig_walk_nap(walk, 200, err);
    int stop = bmig_walk_check(walk, err);
    if (stop)
        return stop;
    if (!walk->attached || rc == -ECHILD) /* it never worked, or never will: no use trying again */
        return bmig_error_set(err, why.kind, why.code, "%s", why.message);
    return after_loss(walk, &why, err);
}

/* ---- copy and hold ---- */

static int apply_pause(struct bmig_walk *walk)
{
    struct bmig_job *job = walk->job;
    bmig_manager_lock(walk->manager);
    bool want = job->want_pause, is = job->state == BMIG_JOB_PAUSED;
    struct bmig_daemon_volume *volume =
        bmig_daemon_volume_find_locked(walk->manager, job->volume, NULL);
    struct bmig_client *worker =
        want != is && volume ? bmig_daemon_volume_worker_locked(volume, NULL) : NULL;
    bmig_manager_unlock(walk->manager);
    if (!worker)
        return 0;
    struct bmig_error why = {0};
    int rc = call(worker, json_pack("{s:s, s:b}", "do", "mirror-pause", "paused", (int)want),
                  SET_MS, NULL, &why);
    bmig_client_unref(worker);
    if (rc == 0)
        bmig_walk_state(walk, want ? BMIG_JOB_PAUSED : BMIG_JOB_RUNNING, NULL);
    else
        bmig_log(BMIG_LOG_WARNING, "job %llu: pause: %s", (unsigned long long)job->id, why.message);
    return 0;
}

static bool mirror_is(struct bmig_walk *walk, const char *state)
{
    bmig_manager_lock(walk->manager);
    bool is = strcmp(walk->job->mirror, state) == 0;
    bmig_manager_unlock(walk->manager);
    return is;
}

static int look_and_route(struct bmig_walk *walk, struct bmig_error *err)
{
    int rc = bmig_walk_look(walk, err);
    if (rc == -ESTALE) {
        walk->next = BMIG_PHASE_ATTACH;
        return 0;
    }
    if (rc == 0 && mirror_is(walk, "degraded"))
        return degraded(walk, err);
    return rc;
}

int bmig_walk_copy(struct bmig_walk *walk, struct bmig_error *err)
{
    for (;;) {
        int rc = look_and_route(walk, err);
        if (rc || walk->next != BMIG_PHASE_COPY)
            return rc;
        apply_pause(walk);
        if (mirror_is(walk, "synced") && walk->job->state != BMIG_JOB_PAUSED) {
            walk->next = walk->job->options.hold ? BMIG_PHASE_HOLD : BMIG_PHASE_SWITCH;
            return bmig_walk_check(walk, err);
        }
        rc = bmig_walk_nap(walk, LOOK_MS, err);
        if (rc)
            return rc;
    }
}

int bmig_walk_hold(struct bmig_walk *walk, struct bmig_error *err)
{
    for (;;) {
        int rc = look_and_route(walk, err);
        if (rc || walk->next != BMIG_PHASE_HOLD)
            return rc;
        bmig_manager_lock(walk->manager);
        bool synced = strcmp(walk->job->mirror, "synced") == 0;
        if (!synced)
            walk->next = BMIG_PHASE_COPY;
        else if (walk->job->want_switch)
            walk->next = BMIG_PHASE_SWITCH;
        bmig_manager_unlock(walk->manager);
        if (walk->next != BMIG_PHASE_HOLD)
            return bmig_walk_check(walk, err);
        rc = bmig_walk_nap(walk, LOOK_MS, err);
        if (rc)
            return rc;
    }
}

/* ---- the mirror's end ---- */

int bmig_walk_stop_mirror(struct bmig_manager *manager, const char *name, unsigned timeout_ms,
                          struct bmig_error *err)
{
    struct bmig_client *worker = NULL;
    bmig_manager_lock(manager);
    struct bmig_daemon_volume *volume = bmig_daemon_volume_find_locked(manager, name, NULL);
    /* One that is just being started has no mirror, but it may be one that is being found again. */
    for (int64_t until = bmig_steady_ms() + timeout_ms;
         volume && volume->busy && !volume->worker && !manager->stopping &&
         bmig_steady_ms() < until;
         volume = bmig_daemon_volume_find_locked(manager, name, NULL))
        bmig_manager_wait_locked(manager, 1000);
    if (volume)
        worker = bmig_daemon_volume_worker_locked(volume, NULL);
    bmig_manager_unlock(manager);
    if (!worker)
        return 0;
    json_t *stat = NULL;
    int rc = call(worker, json_pack("{s:s}", "do", "stat"), STAT_MS, &stat, err);
    const char *state =
        json_string_value(json_object_get(json_object_get(stat, "mirror"), "state"));
    if (rc == 0 && state && strcmp(state, "none"))
        rc = call(worker, json_pack("{s:s}", "do", "mirror-stop"), timeout_ms, NULL, err);
    json_decref(stat);
    bmig_client_unref(worker);
    return rc == -ECONNRESET ? 0 : rc; /* it died, and its mirror with it */
}
