/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The switch: prepare at the worker, one transaction in the journal, commit at the worker; and the
 * same back.
 *
 * The record decides. From the moment the transaction was tried until its outcome is durable truth,
 * the volume is in_doubt: no worker is told a primary, and the one that prepared stays frozen in
 * SWITCHING (it serves on; only writes whose leg fails wait). A flip is tried only for the very
 * worker that prepared it: a new one might have written to the old primary alone already.
 */
#include <errno.h>
#include <string.h>

#include "blockmig/core/log.h"
#include "blockmig/daemon/daemon_volume.h"
#include "blockmig/daemon/job_walk.h"
#include "blockmig/daemon/text.h"

enum {
    PREPARE_MS = 60000,
    OUTCOME_MS = 10000,
    SETTLE_MS = 500,
    TRIES_MAX = 5,
    WINDOW_LOOK_MS = 500,
};

enum outcome { FLIPPED, NOT_FLIPPED, LOST /* the worker went away before anything was tried */ };

/* Tells the worker the outcome until it has understood or is gone: it must not stay frozen. */
static int tell(struct bmig_walk *walk, struct bmig_client *worker, bool flipped, uint64_t epoch)
{
    for (;;) {
        struct bmig_error why = {0};
        json_t *request =
            flipped ? json_pack("{s:s, s:I}", "do", "switch-commit", "epoch", (json_int_t)epoch)
                    : json_pack("{s:s}", "do", "switch-abort");
        if (bmig_client_call(worker, request, OUTCOME_MS, NULL, &why) == 0 ||
            !bmig_client_alive(worker))
            return 0;
        bmig_log(BMIG_LOG_ERROR, "job %llu: the worker does not take the outcome of its switch: %s",
                 (unsigned long long)walk->job->id, why.message);
        /* It understood an earlier try whose answer was lost, if it is not switching any more. */
        json_t *stat = NULL;
        bool over = false;
        if (bmig_client_call(worker, json_pack("{s:s}", "do", "stat"), OUTCOME_MS, &stat, NULL) ==
            0) {
            const char *state =
                json_string_value(json_object_get(json_object_get(stat, "mirror"), "state"));
            over = state && strcmp(state, "switching");
        }
        json_decref(stat);
        if (over)
            return 0;
        int rc = bmig_walk_nap(walk, SETTLE_MS, NULL);
        if (rc == -ESHUTDOWN)
            return rc;
    }
}

/* In memory, what the journal now says. */
static void take_flip_locked(struct bmig_walk *walk, struct bmig_daemon_volume *volume,
                             uint64_t epoch, bool back)
{
    struct bmig_job *job = walk->job;
    volume->epoch = epoch;
    bmig_replica_copy(&volume->primary, back ? &job->from : &job->to);
    job->flipped = !back;
    job->switched_ms = bmig_wall_ms();
    job->phase = back ? BMIG_PHASE_ROLLED_BACK : BMIG_PHASE_UNDO_WINDOW;
    bmig_job_set_state_locked(walk->manager, job, bmig_job_state_after_flip(job, back));
    bmig_manager_note_locked(
        walk->manager, job->id, "volume '%s' is on '%s' now (epoch %llu, job %llu)", volume->name,
        volume->primary.uri, (unsigned long long)epoch, (unsigned long long)job->id);
}

/* Writes the record. -ESHUTDOWN: the daemon ends before the outcome is known; the next one finds
 * it. */
static int flip(struct bmig_walk *walk, struct bmig_client *worker, uint64_t generation, bool back,
                uint64_t *epoch, enum outcome *outcome, struct bmig_error *err)
{
    struct bmig_manager *manager = walk->manager;
    struct bmig_error why = {0};
    bool written = false;
    bmig_manager_lock(manager);
    struct bmig_daemon_volume *volume =
        bmig_daemon_volume_find_locked(manager, walk->job->volume, NULL);
    if (!volume || volume->worker != worker || volume->generation != generation ||
        !bmig_client_alive(worker)) {
        bmig_manager_unlock(manager);
        *outcome = LOST;
        return 0;
    }
    *epoch = volume->epoch + 1;
    volume->in_doubt = true;
    int rc = bmig_job_record_flip_locked(manager, walk->job, *epoch, back, &why);
    written = rc == 0;
    while (rc) {
        struct bmig_error settle = {0};
        bmig_log(BMIG_LOG_ERROR, "job %llu: the switch's record: %s",
                 (unsigned long long)walk->job->id, why.message);
        if (bmig_job_settle_flip_locked(manager, walk->job, *epoch, &written, &settle) == 0)
            break;
        walk->job->error = settle;
        why = settle;
        bmig_manager_wait_locked(manager, SETTLE_MS);
        if (manager->stopping) {
            bmig_manager_unlock(manager);
            return -ESHUTDOWN;
        }
    }
    volume->in_doubt = false;
    walk->job->error = (struct bmig_error){0};
    if (written)
        take_flip_locked(walk, volume, *epoch, back);
    else
        bmig_error_set(err, why.kind, why.code, "%s", why.message);
    bmig_manager_changed_locked(manager);
    bmig_manager_unlock(manager);
    *outcome = written ? FLIPPED : NOT_FLIPPED;
    return 0;
}

/* err is set where the outcome is NOT_FLIPPED. */
static int switch_once(struct bmig_walk *walk, bool back, enum outcome *outcome,
                       struct bmig_error *err)
{
    struct bmig_client *worker;
    uint64_t generation, epoch = 0;
    int rc = bmig_walk_worker(walk, &worker, &generation, err);
    if (rc)
        return rc;
    *outcome = LOST;
    if (walk->generation && generation != walk->generation)
        goto out;
    rc =
        bmig_client_call(worker, json_pack("{s:s}", "do", "switch-prepare"), PREPARE_MS, NULL, err);
    if (rc && !bmig_client_alive(worker)) {
        rc = 0;
        goto out;
    }
    *outcome = NOT_FLIPPED;
    /* Refused means that nothing changed; no answer in time means that it may yet prepare. */
    bool frozen = rc == 0 || rc == -ETIMEDOUT;
    rc = rc ? 0 : flip(walk, worker, generation, back, &epoch, outcome, err);
    if (rc == 0 && frozen)
        rc = tell(walk, worker, *outcome == FLIPPED, epoch);
out:
    bmig_client_unref(worker);
    return rc;
}

int bmig_walk_switch(struct bmig_walk *walk, struct bmig_error *err)
{
    enum outcome outcome;
    struct bmig_error why = {0};
    int rc = bmig_walk_check(walk, err);
    if (rc)
        return rc;
    rc = switch_once(walk, false, &outcome, &why);
    if (rc == -ESHUTDOWN)
        return rc;
    if (rc)
        return bmig_error_set(err, why.kind, why.code, "%s", why.message);
    if (outcome == FLIPPED) {
        walk->next = BMIG_PHASE_UNDO_WINDOW;
        return 0;
    }
    /* COPY looks at the mirror and finds the way from whatever it is in now. */
    walk->next = BMIG_PHASE_COPY;
    if (outcome == LOST)
        return 0;
    bmig_log(BMIG_LOG_WARNING, "job %llu did not switch: %s", (unsigned long long)walk->job->id,
             why.message);
    if (++walk->switch_tries >= TRIES_MAX)
        return bmig_error_set(err, why.kind, why.code, "the switch failed %u times: %.400s",
                              walk->switch_tries, why.message);
    bmig_walk_state(walk, BMIG_JOB_SYNCED, &why);
    return bmig_walk_nap(walk, 1000, err);
}

/* ---- the undo window ---- */

/* Mirrors back onto the old replica again if that was lost; as long as it is not in sync there is
 * no way back. */
static void keep_mirroring(struct bmig_walk *walk, int64_t *next_try)
{
    struct bmig_error why = {0};
    int rc = bmig_walk_look(walk, &why);
    bool lost = rc == -ESTALE || strcmp(walk->job->mirror, "degraded") == 0;
    if (!lost || rc == -ESHUTDOWN || bmig_steady_ms() < *next_try)
        return;
    *next_try = bmig_steady_ms() + 5000;
    why = (struct bmig_error){0};
    if (bmig_walk_start_mirror(walk, &why))
        bmig_log(BMIG_LOG_WARNING, "job %llu: the old replica: %s",
                 (unsigned long long)walk->job->id, why.message);
}

int bmig_walk_undo_window(struct bmig_walk *walk, struct bmig_error *err)
{
    struct bmig_job *job = walk->job;
    int64_t window = (int64_t)job->options.undo_window_ms;
    int64_t gone =
        bmig_wall_ms() - job->switched_ms; /* by another clock if the daemon was started again */
    int64_t left = gone < 0 ? window : gone > window ? 0 : window - gone;
    int64_t until = bmig_steady_ms() + left, next_try = 0;
    for (;;) {
        bmig_manager_lock(walk->manager);
        if (job->want_rollback)
            walk->next = BMIG_PHASE_ROLLBACK;
        else if (job->want_commit || bmig_steady_ms() >= until)
            walk->next = BMIG_PHASE_RELEASE;
        bmig_manager_unlock(walk->manager);
        if (walk->next != BMIG_PHASE_UNDO_WINDOW)
            return bmig_walk_check(walk, err);
        keep_mirroring(walk, &next_try);
        int64_t rest = until - bmig_steady_ms();
        int rc = bmig_walk_nap(
            walk, rest < WINDOW_LOOK_MS ? (unsigned)(rest > 0 ? rest : 0) : WINDOW_LOOK_MS, err);
        if (rc)
            return rc;
    }
}

int bmig_walk_rollback(struct bmig_walk *walk, struct bmig_error *err)
{
    enum outcome outcome;
    struct bmig_error why = {0};
    int rc = switch_once(walk, true, &outcome, &why);
    if (rc == -ESHUTDOWN)
        return rc;
    if (rc == 0 && outcome == FLIPPED) {
        walk->next = BMIG_PHASE_ROLLED_BACK;
        return 0;
    }
    bmig_manager_lock(walk->manager);
    walk->job->want_rollback = false;
    bmig_manager_note_locked(walk->manager, walk->job->id, "job %llu was not rolled back: %s",
                             (unsigned long long)walk->job->id,
                             why.kind ? why.message : "its worker went away");
    bmig_manager_unlock(walk->manager);
    walk->next = BMIG_PHASE_UNDO_WINDOW;
    return 0;
}

/* The flip back made the undo records valid again: they say what is left to do. */
int bmig_walk_rolled_back(struct bmig_walk *walk, struct bmig_error *err)
{
    struct bmig_error why = {0};
    walk->next = BMIG_PHASE_END;
    if (bmig_job_undo(walk->manager, walk->job, NULL, &why)) {
        char *text = bmig_text("something is left behind (%s): `cleanup` tries again", why.message);
        bmig_manager_lock(walk->manager);
        bmig_text_set(&walk->job->result, text);
        bmig_manager_unlock(walk->manager);
        free(text);
    }
    return bmig_walk_check(walk, NULL) == -ESHUTDOWN ? -ESHUTDOWN : 0;
}
