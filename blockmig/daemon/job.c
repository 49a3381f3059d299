/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Jobs: the state table, the verb table and the verbs. A verb only says what is wanted; the job's
 * own thread does it.
 */
#include "blockmig/daemon/job.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "blockmig/core/log.h"
#include "blockmig/daemon/daemon_volume.h"
#include "blockmig/daemon/text.h"

/* Short, so that the tables fit on a screen. */
#define P BMIG_VERB_PAUSE
#define R BMIG_VERB_RESUME
#define X BMIG_VERB_CANCEL
#define W BMIG_VERB_SWITCH
#define B BMIG_VERB_ROLLBACK
#define C BMIG_VERB_COMMIT
#define S BMIG_VERB_SET

/* slot: it copies, or may begin to at any moment, so it counts against the budgets. */
static const struct {
    const char *name;
    bool final, slot;
    unsigned verbs;
} states[BMIG_JOB_STATE_COUNT] = {
    [BMIG_JOB_QUEUED] = {"queued", false, false, X | S},
    [BMIG_JOB_RUNNING] = {"running", false, true, P | X | S},
    [BMIG_JOB_PAUSED] = {"paused", false, true, R | X | S},
    [BMIG_JOB_SYNCED] = {"synced", false, false, X | W | S},
    [BMIG_JOB_DEGRADED] = {"degraded", false, true, P | R | X | S},
    [BMIG_JOB_SWITCHING] = {"switching", false, true, 0},
    [BMIG_JOB_UNDO_WINDOW] = {"undo-window", false, false, B | C | S},
    [BMIG_JOB_DONE] = {"done", true, false, 0},
    [BMIG_JOB_FAILED] = {"failed", true, false, 0},
    [BMIG_JOB_CANCELLED] = {"cancelled", true, false, 0},
};

/* From a state (row) to a state (column).    que run pau syn deg swi und don fai can */
static const char transitions[BMIG_JOB_STATE_COUNT][BMIG_JOB_STATE_COUNT + 1] = {
    [BMIG_JOB_QUEUED] = /*      */ "-x------xx",
    [BMIG_JOB_RUNNING] =
        /*     */ "x-xxxx--xx", /* queued: admitted, and its volume was not ready */
    [BMIG_JOB_PAUSED] = /*      */ "-x-xx---xx",
    [BMIG_JOB_SYNCED] = /*      */ "-xx-xx--xx",
    [BMIG_JOB_DEGRADED] = /*    */ "-xxx----xx",
    [BMIG_JOB_SWITCHING] = /*   */ "-x-xx-xxxx", /* failed, cancelled: its record was never written,
                                                    or was taken back */
    [BMIG_JOB_UNDO_WINDOW] = /* */ "-----x----",
    [BMIG_JOB_DONE] = /*        */ "----------",
    [BMIG_JOB_FAILED] = /*      */ "----------",
    [BMIG_JOB_CANCELLED] = /*   */ "----------",
};

static const struct {
    enum bmig_job_verb verb;
    const char *name;
} verbs[] = {
    {P, "pause"},    {R, "resume"}, {X, "cancel"}, {W, "switch"},
    {B, "rollback"}, {C, "commit"}, {S, "set"},
};

const char *bmig_job_state_name(enum bmig_job_state state)
{
    return states[state].name;
}

enum bmig_job_state bmig_job_state_from_name(const char *name)
{
    for (unsigned i = 0; i < BMIG_JOB_STATE_COUNT; i++)
        if (strcmp(states[i].name, name) == 0)
            return i;
    return BMIG_JOB_FAILED;
}

const char *bmig_job_verb_name(enum bmig_job_verb verb)
{
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
        if (verbs[i].verb == verb)
            return verbs[i].name;
    return "?";
}

bool bmig_job_final(enum bmig_job_state state)
{
    return states[state].final;
}

bool bmig_job_takes_slot(enum bmig_job_state state)
{
    return states[state].slot;
}

bool bmig_job_allows(enum bmig_job_state state, enum bmig_job_verb verb)
{
    return states[state].verbs & verb;
}

bool bmig_job_may_become(enum bmig_job_state from, enum bmig_job_state to)
{
    return transitions[from][to] == 'x';
}

void bmig_job_set_state_locked(struct bmig_manager *manager, struct bmig_job *job,
                               enum bmig_job_state state)
{
    if (job->state == state)
        return;
    assert(bmig_job_may_become(job->state, state));
    bmig_log(BMIG_LOG_DEBUG, "job %llu: %s -> %s", (unsigned long long)job->id,
             states[job->state].name, states[state].name);
    job->state = state;
    if (states[state].final)
        manager->jobs_ended[state - BMIG_JOB_DONE]++;
    bmig_job_publish_locked(manager, job);
    bmig_manager_changed_locked(manager);
}

struct bmig_job *bmig_job_find_locked(struct bmig_manager *manager, uint64_t id,
                                      struct bmig_error *err)
{
    for (struct bmig_job *job = manager->jobs; job; job = job->next)
        if (job->id == id)
            return job;
    bmig_error_set(err, BMIG_NOT_FOUND, ENOENT, "there is no job %llu", (unsigned long long)id);
    return NULL;
}

void bmig_job_detach_locked(struct bmig_manager *manager, struct bmig_job *job)
{
    struct bmig_daemon_volume *volume = bmig_daemon_volume_find_locked(manager, job->volume, NULL);
    if (volume && volume->job == job)
        volume->job = NULL;
}

static int not_now(const struct bmig_job *job, enum bmig_job_verb verb, struct bmig_error *err)
{
    const char *advice = "";
    if (verb == X && job->flipped && !states[job->state].final)
        advice = job->state == BMIG_JOB_UNDO_WINDOW ? ": it has switched; `rollback` brings it back"
                                                    : ": it has switched already";
    else if (verb == W && !states[job->state].final)
        advice = ": it is not synced yet";
    else if (verb == X && job->state == BMIG_JOB_SWITCHING)
        advice = ": wait for the switch's outcome";
    return bmig_error_set(err, BMIG_DENIED, EBUSY, "job %llu is %s: '%s' is not possible%s",
                          (unsigned long long)job->id, states[job->state].name,
                          bmig_job_verb_name(verb), advice);
}

static int want(struct bmig_job *job, enum bmig_job_verb verb, struct bmig_error *err)
{
    switch (verb) {
    case P:
        job->want_pause = true;
        return 0;
    case R:
        job->want_pause = false;
        job->lost_mirrors = 0;
        return 0;
    case X:
        job->want_cancel = true;
        return 0;
    case W:
        if (job->phase != BMIG_PHASE_HOLD)
            return not_now(job, verb, err);
        job->want_switch = true;
        return 0;
    case B:
        if (job->phase != BMIG_PHASE_UNDO_WINDOW || job->want_commit)
            return not_now(job, verb, err);
        if (strcmp(job->mirror, "synced"))
            return bmig_error_set(
                err, BMIG_DENIED, EBUSY,
                "job %llu: the old place is not in sync (%s): wait for it, or `commit`",
                (unsigned long long)job->id, job->mirror[0] ? job->mirror : "unknown");
        job->want_rollback = true;
        return 0;
    case C:
        if (job->phase != BMIG_PHASE_UNDO_WINDOW || job->want_rollback)
            return not_now(job, verb, err);
        job->want_commit = true;
        return 0;
    case S:
        break;
    }
    return 0;
}

/* One that no thread has yet ends at once. */
static int cancel_queued_locked(struct bmig_manager *manager, struct bmig_job *job,
                                struct bmig_error *err)
{
    enum bmig_job_state before = job->state;
    int64_t finished = job->finished_ms;
    struct bmig_error none = {0};
    bmig_error_set(&none, BMIG_CANCELLED, ECANCELED, "cancelled before it began");
    job->finished_ms = bmig_wall_ms();
    job->error = none;
    job->state = BMIG_JOB_CANCELLED;
    job->phase = BMIG_PHASE_END;
    int rc = bmig_job_record_locked(manager, job, err);
    job->state = before;
    if (rc) {
        job->finished_ms = finished;
        job->error = (struct bmig_error){0};
        job->phase = BMIG_PHASE_QUEUED;
        return rc;
    }
    bmig_job_detach_locked(manager, job);
    bmig_job_set_state_locked(manager, job, BMIG_JOB_CANCELLED);
    return 0;
}

int bmig_job_verb(struct bmig_manager *manager, uint64_t id, enum bmig_job_verb verb,
                  struct bmig_error *err)
{
    bmig_manager_lock(manager);
    struct bmig_job *job = bmig_job_find_locked(manager, id, err);
    int rc = job ? 0 : -ENOENT;
    if (rc == 0 && !bmig_job_allows(job->state, verb)) {
        /* Asked for twice is asked for once. */
        bool again = (verb == X && (job->state == BMIG_JOB_CANCELLED || job->want_cancel)) ||
                     (verb == P && job->state == BMIG_JOB_PAUSED) ||
                     (verb == R && job->state == BMIG_JOB_RUNNING);
        rc = again ? 0 : not_now(job, verb, err);
    } else if (rc == 0 && job->state == BMIG_JOB_QUEUED && verb == X && !job->has_thread) {
        rc = cancel_queued_locked(manager, job, err);
    } else if (rc == 0) {
        rc = want(job, verb, err);
    }
    bmig_manager_changed_locked(manager);
    bmig_manager_unlock(manager);
    return rc;
}

/* The worker hears of it here, or from the job's thread when the mirror starts. */
static void tell_limits(struct bmig_manager *manager, struct bmig_client *worker,
                        const struct bmig_move_options *options, uint64_t id)
{
    struct bmig_error why = {0};
    if (!worker)
        return;
    if (bmig_client_call(worker,
                         json_pack("{s:s, s:I, s:I}", "do", "mirror-set", "bandwidth_bytes_per_s",
                                   (json_int_t)options->bandwidth_bytes_per_s, "max_latency_us",
                                   (json_int_t)options->max_latency_us),
                         5000, NULL, &why))
        bmig_log(BMIG_LOG_DEBUG, "job %llu: limits: %s", (unsigned long long)id, why.message);
    bmig_client_unref(worker);
}

int bmig_job_set_limits(struct bmig_manager *manager, uint64_t id, const uint64_t *bandwidth,
                        const uint64_t *max_latency_us, struct bmig_error *err)
{
    struct bmig_client *worker = NULL;
    struct bmig_move_options options = {0};
    bmig_manager_lock(manager);
    struct bmig_job *job = bmig_job_find_locked(manager, id, err);
    int rc = job ? 0 : -ENOENT;
    if (rc == 0 && !bmig_job_allows(job->state, S))
        rc = not_now(job, S, err);
    if (rc == 0) {
        struct bmig_move_options before = job->options;
        if (bandwidth)
            job->options.bandwidth_bytes_per_s = *bandwidth;
        if (max_latency_us)
            job->options.max_latency_us = *max_latency_us;
        rc = bmig_job_record_locked(manager, job, err);
        if (rc)
            job->options = before;
        options = job->options;
        struct bmig_daemon_volume *volume =
            bmig_daemon_volume_find_locked(manager, job->volume, NULL);
        if (rc == 0 && volume)
            worker = bmig_daemon_volume_worker_locked(volume, NULL);
        bmig_job_publish_locked(manager, job);
    }
    bmig_manager_unlock(manager);
    tell_limits(manager, worker, &options, id);
    return rc;
}
