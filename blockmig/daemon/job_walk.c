/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A job's thread: records each phase before it begins, runs it, and ends the job.
 *
 * The end of a failed or cancelled job is the undo of what its record names; behind the flip
 * nothing fails any more, what can't be done there is told in the job's result.
 */
#include "blockmig/daemon/job_walk.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/core/log.h"
#include "blockmig/daemon/daemon_volume.h"
#include "blockmig/daemon/text.h"

enum { JOURNAL_RETRY_MS = 1000 };

/* The phases on one screen. state COUNT: the job's state stays what it is. */
static const struct {
    const char *name;
    enum bmig_job_state state;
    bmig_walk_step *run;
} phases[BMIG_PHASE_COUNT] = {
    [BMIG_PHASE_QUEUED] = {"queued", BMIG_JOB_QUEUED, NULL},
    [BMIG_PHASE_PREFLIGHT] = {"preflight", BMIG_JOB_RUNNING, bmig_walk_preflight},
    [BMIG_PHASE_CREATE_TARGET] = {"create-target", BMIG_JOB_RUNNING, bmig_walk_create_target},
    [BMIG_PHASE_ATTACH] = {"attach", BMIG_JOB_STATE_COUNT, bmig_walk_attach},
    [BMIG_PHASE_COPY] = {"copy", BMIG_JOB_RUNNING, bmig_walk_copy},
    [BMIG_PHASE_HOLD] = {"hold", BMIG_JOB_SYNCED, bmig_walk_hold},
    [BMIG_PHASE_SWITCH] = {"switch", BMIG_JOB_SWITCHING, bmig_walk_switch},
    [BMIG_PHASE_UNDO_WINDOW] = {"undo-window", BMIG_JOB_UNDO_WINDOW, bmig_walk_undo_window},
    [BMIG_PHASE_ROLLBACK] = {"rollback", BMIG_JOB_SWITCHING, bmig_walk_rollback},
    [BMIG_PHASE_ROLLED_BACK] = {"rolled-back", BMIG_JOB_SWITCHING, bmig_walk_rolled_back},
    [BMIG_PHASE_RELEASE] = {"release", BMIG_JOB_SWITCHING, bmig_walk_release},
    [BMIG_PHASE_REMOVE_SOURCE] = {"remove-source", BMIG_JOB_SWITCHING, bmig_walk_remove_source},
    [BMIG_PHASE_END] = {"end", BMIG_JOB_STATE_COUNT, NULL},
};

const char *bmig_job_phase_name(enum bmig_job_phase phase)
{
    return phases[phase].name;
}

enum bmig_job_phase bmig_job_phase_from_name(const char *name)
{
    for (unsigned i = 0; i < BMIG_PHASE_COUNT; i++)
        if (strcmp(phases[i].name, name) == 0)
            return i;
    return BMIG_PHASE_END;
}

int bmig_walk_check_locked(struct bmig_walk *walk, struct bmig_error *err)
{
    if (walk->manager->stopping)
        return -ESHUTDOWN;
    if (walk->job->want_cancel && !walk->job->flipped)
        return bmig_error_set(err, BMIG_CANCELLED, ECANCELED, "cancelled");
    return 0;
}

int bmig_walk_check(struct bmig_walk *walk, struct bmig_error *err)
{
    bmig_manager_lock(walk->manager);
    int rc = bmig_walk_check_locked(walk, err);
    bmig_manager_unlock(walk->manager);
    return rc;
}

int bmig_walk_nap(struct bmig_walk *walk, unsigned ms, struct bmig_error *err)
{
    bmig_manager_lock(walk->manager);
    int rc = bmig_walk_check_locked(walk, NULL);
    if (rc == 0)
        bmig_manager_wait_locked(walk->manager, ms);
    rc = bmig_walk_check_locked(walk, err);
    bmig_manager_unlock(walk->manager);
    return rc;
}

void bmig_walk_state(struct bmig_walk *walk, enum bmig_job_state state,
                     const struct bmig_error *error)
{
    struct bmig_error why = {0};
    struct bmig_job *job = walk->job;
    bmig_manager_lock(walk->manager);
    bool same = job->state == state && strcmp(job->error.message, error ? error->message : "") == 0;
    if (!same) {
        job->error = error ? *error : (struct bmig_error){0};
        bmig_job_set_state_locked(walk->manager, job, state);
        if (error && error->kind)
            bmig_manager_note_locked(walk->manager, job->id, "job %llu is %s: %s",
                                     (unsigned long long)job->id, bmig_job_state_name(state),
                                     error->message);
        /* Only for people: what decides after a crash is the phase. */
        if (bmig_job_record_locked(walk->manager, job, &why))
            bmig_log(BMIG_LOG_WARNING, "job %llu: %s", (unsigned long long)job->id, why.message);
    }
    bmig_manager_unlock(walk->manager);
}

/* ---- records ---- */

static enum bmig_job_state state_in(const struct bmig_walk *walk, enum bmig_job_phase phase)
{
    if (phase == BMIG_PHASE_COPY && walk->job->want_pause)
        return walk->job->state == BMIG_JOB_PAUSED ? BMIG_JOB_PAUSED : BMIG_JOB_RUNNING;
    return phases[phase].state == BMIG_JOB_STATE_COUNT ? walk->job->state : phases[phase].state;
}

static void tell_journal_locked(struct bmig_walk *walk, const struct bmig_error *why)
{
    if (!walk->told_journal)
        bmig_log(BMIG_LOG_ERROR, "job %llu waits: %s", (unsigned long long)walk->job->id,
                 why->message);
    walk->told_journal = true;
    walk->job->error = *why;
    bmig_job_publish_locked(walk->manager, walk->job);
}

/* Nothing goes on that is not recorded: while the journal can't be written the job waits where it
 * is. */
static int enter(struct bmig_walk *walk, enum bmig_job_phase phase, struct bmig_error *err)
{
    struct bmig_job *job = walk->job;
    bmig_manager_lock(walk->manager);
    int rc;
    for (;;) {
        struct bmig_error why = {0};
        rc = bmig_walk_check_locked(walk, err);
        if (rc)
            break;
        if (walk->told_journal)
            job->error = (struct bmig_error){0};
        rc = bmig_job_record_phase_locked(walk->manager, job, phase, state_in(walk, phase), &why);
        if (rc == 0)
            break;
        tell_journal_locked(walk, &why);
        bmig_manager_wait_locked(walk->manager, JOURNAL_RETRY_MS);
    }
    if (rc == 0)
        walk->told_journal = walk->resumed = false;
    bmig_manager_unlock(walk->manager);
    return rc;
}

/* ---- the end ---- */

static int record_end_locked(struct bmig_walk *walk, enum bmig_job_state state,
                             const struct bmig_error *error)
{
    struct bmig_job *job = walk->job;
    enum bmig_job_state before = job->state;
    struct bmig_error why = {0}, end = error ? *error : (struct bmig_error){0};
    job->finished_ms = bmig_wall_ms();
    if (state == BMIG_JOB_DONE)
        job->percent = 100;
    for (;;) {
        if (walk->manager->stopping)
            return -ESHUTDOWN;
        job->error = end;
        job->state = state; /* the row says how it ended; the setter below traces it */
        int rc = bmig_job_record_locked(walk->manager, job, &why);
        job->state = before;
        if (rc == 0)
            return 0;
        tell_journal_locked(walk, &why);
        why = (struct bmig_error){0};
        bmig_manager_wait_locked(walk->manager, JOURNAL_RETRY_MS);
    }
}

static void finish(struct bmig_walk *walk, enum bmig_job_state state,
                   const struct bmig_error *error)
{
    struct bmig_manager *manager = walk->manager;
    struct bmig_job *job = walk->job;
    bmig_manager_lock(manager);
    if (record_end_locked(walk, state, error) == 0) {
        bmig_job_detach_locked(manager, job);
        bmig_manager_note_locked(manager, job->id, "job %llu (%s to %s) %s%s%s",
                                 (unsigned long long)job->id, job->source, job->target,
                                 bmig_job_state_name(state), error ? ": " : "",
                                 error ? error->message : "");
        bmig_job_set_state_locked(manager, job, state);
    }
    bmig_manager_unlock(manager);
}

/* A volume that was stopped when its move began is stopped again. */
static void put_to_rest(struct bmig_walk *walk)
{
    bmig_manager_lock(walk->manager);
    struct bmig_daemon_volume *volume =
        bmig_daemon_volume_find_locked(walk->manager, walk->job->volume, NULL);
    bool stop = volume && !volume->wanted && !walk->manager->stopping;
    bmig_manager_unlock(walk->manager);
    struct bmig_error why = {0};
    if (stop && bmig_daemon_volume_stop(walk->manager, walk->job->volume, false, true, &why))
        bmig_log(BMIG_LOG_WARNING, "volume '%s' stays started: %s", walk->job->volume, why.message);
}

static void end_badly(struct bmig_walk *walk, const struct bmig_error *error)
{
    struct bmig_error why = {0};
    assert(!walk->job->flipped);
    if (bmig_job_undo(walk->manager, walk->job, NULL, &why)) {
        bmig_manager_lock(walk->manager);
        char *text = bmig_text("something is left behind (%s): `cleanup` tries again", why.message);
        bmig_text_set(&walk->job->result, text);
        free(text);
        bmig_manager_unlock(walk->manager);
    }
    put_to_rest(walk);
    finish(walk, error->kind == BMIG_CANCELLED ? BMIG_JOB_CANCELLED : BMIG_JOB_FAILED, error);
}

static void end_well(struct bmig_walk *walk)
{
    struct bmig_error back = {0};
    put_to_rest(walk);
    if (!walk->job->flipped) {
        bmig_error_set(&back, BMIG_CANCELLED, ECANCELED,
                       "rolled back: volume '%s' is on '%.300s' again", walk->job->volume,
                       walk->job->source);
        finish(walk, BMIG_JOB_CANCELLED, &back);
    } else {
        finish(walk, BMIG_JOB_DONE, NULL);
    }
}

/* ---- the thread ---- */

static int step(struct bmig_walk *walk, struct bmig_error *err)
{
    struct bmig_job *job = walk->job;
    walk->next = job->phase;
    int rc = phases[job->phase].run(walk, err);
    if (rc == 0 && walk->next != job->phase && walk->next != BMIG_PHASE_END)
        rc = enter(walk, walk->next, err);
    return rc;
}

static void walk_job(struct bmig_walk *walk)
{
    struct bmig_error err = {0};
    int rc = 0;
    if (!phases[walk->job->phase].run && walk->job->phase != BMIG_PHASE_QUEUED)
        rc = bmig_error_set(&err, BMIG_FAILED, EINVAL,
                            "the journal names a phase that is not known here");
    if (walk->job->phase == BMIG_PHASE_QUEUED)
        rc = enter(walk, BMIG_PHASE_PREFLIGHT, &err);
    while (rc == 0 && walk->next != BMIG_PHASE_END)
        rc = step(walk, &err);
    bmig_manager_lock(walk->manager);
    bool stopping = walk->manager->stopping; /* the next daemon goes on from the record */
    bmig_manager_unlock(walk->manager);
    if (stopping)
        return;
    if (rc == 0)
        end_well(walk);
    else
        end_badly(walk, &err);
}

static void *job_thread(void *argument)
{
    struct bmig_walk *walk = argument;
    struct bmig_manager *manager = walk->manager;
    walk_job(walk);
    bmig_manager_lock(manager);
    walk->job->has_thread = false;
    bmig_queue_admit_locked(manager);
    bmig_manager_changed_locked(manager);
    bmig_manager_unlock(manager);
    free(walk);
    bmig_manager_thread_done(manager);
    return NULL;
}

void bmig_job_start_locked(struct bmig_manager *manager, struct bmig_job *job)
{
    struct bmig_error err = {0};
    struct bmig_walk *walk = bmig_zalloc(sizeof *walk);
    walk->manager = manager;
    walk->job = job;
    walk->resumed = job->phase != BMIG_PHASE_QUEUED;
    walk->attached = job->phase >= BMIG_PHASE_ATTACH;
    job->has_thread = true;
    if (!job->started_ms)
        job->started_ms = bmig_wall_ms();
    if (bmig_manager_thread_locked(manager, job_thread, walk, &err)) {
        bmig_log(BMIG_LOG_ERROR, "job %llu: %s", (unsigned long long)job->id, err.message);
        job->has_thread = false;
        free(walk);
    }
}
