/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A job's numbers: one table says what the worker calls each, what the API calls it, and whether it
 * is added up over mirrors that were lost (a worker that died, a target that went away) or is just
 * what it is now.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/daemon/daemon_volume.h"
#include "blockmig/daemon/job.h"
#include "blockmig/daemon/json_read.h"
#include "blockmig/daemon/text.h"

enum { REFRESH_MS = 1000 };

static const struct {
    const char *worker, *api;
    bool adds;
} table[BMIG_STAT_COUNT] = {
    [BMIG_STAT_TOTAL] = {"bytes_total", "bytes_total", false},
    [BMIG_STAT_DONE] = {"bytes_done", "bytes_done", false},
    [BMIG_STAT_COPIED] = {"bytes_copied", "bytes_copied", true},
    [BMIG_STAT_RECOPIED] = {"bytes_recopied", "bytes_recopied", true},
    [BMIG_STAT_SKIPPED] = {"bytes_skipped", "bytes_skipped", false},
    [BMIG_STAT_MIRRORED] = {"bytes_mirrored", "bytes_mirrored", true},
    [BMIG_STAT_VERIFIED] = {"bytes_verified", "bytes_verified", false},
    [BMIG_STAT_DIFFERENT] = {"bytes_different", "bytes_different", true},
    [BMIG_STAT_STALE] = {"bytes_stale", "stale_bytes", false},
    [BMIG_STAT_RATE] = {"rate_bytes_per_s", "rate_bytes_per_s", false},
    [BMIG_STAT_ETA] = {"eta_s", "eta_s", false},
    [BMIG_STAT_P50_BEFORE] = {"guest_p50_us_before", "guest_p50_us_before", false},
    [BMIG_STAT_P99_BEFORE] = {"guest_p99_us_before", "guest_p99_us_before", false},
    [BMIG_STAT_P999_BEFORE] = {"guest_p999_us_before", "guest_p999_us_before", false},
    [BMIG_STAT_MAX_BEFORE] = {"guest_max_us_before", "guest_max_us_before", false},
    [BMIG_STAT_P50] = {"guest_p50_us", "guest_p50_us", false},
    [BMIG_STAT_P99] = {"guest_p99_us", "guest_p99_us", false},
    [BMIG_STAT_P999] = {"guest_p999_us", "guest_p999_us", false},
    [BMIG_STAT_MAX] = {"guest_max_us", "guest_max_us", false},
    [BMIG_STAT_HOLD] = {"switch_hold_us", "switch_hold_us", false},
};

/* How much of a move is the copy; the verify has the rest, up to what the switch and the end are
 * left. */
static const double COPY_SHARE = 75, VERIFY_SHARE = 24;

/* eta_s of the worker's UINT64_MAX comes as null, as -1 or as a number past any int64. */
static uint64_t number_of(const json_t *value)
{
    if (json_is_integer(value) && json_integer_value(value) >= 0)
        return (uint64_t)json_integer_value(value);
    return UINT64_MAX;
}

static void take_percent(struct bmig_job *job)
{
    uint64_t total = job->stats[BMIG_STAT_TOTAL], done = job->stats[BMIG_STAT_DONE];
    double part = total ? (double)(done < total ? done : total) / (double)total : 1;
    double percent = job->percent;
    if (strcmp(job->mirror, "copying") == 0)
        percent = part * (job->options.verify ? COPY_SHARE : COPY_SHARE + VERIFY_SHARE);
    else if (strcmp(job->mirror, "verifying") == 0)
        percent = COPY_SHARE + part * VERIFY_SHARE;
    else if (strcmp(job->mirror, "synced") == 0)
        percent = COPY_SHARE + VERIFY_SHARE;
    if (percent > job->percent)
        job->percent = percent;
}

void bmig_job_take_mirror_locked(struct bmig_job *job, const json_t *mirror)
{
    const char *state = json_string_value(json_object_get(mirror, "state"));
    const char *text = json_string_value(json_object_get(mirror, "error_text"));
    if (!state || strcmp(state, "none") == 0)
        return; /* dropped already; the numbers stay as they were */
    snprintf(job->mirror, sizeof job->mirror, "%s", state);
    for (unsigned i = 0; i < BMIG_STAT_COUNT; i++) {
        const json_t *value = json_object_get(mirror, table[i].worker);
        if (value)
            job->stats[i] = number_of(value);
    }
    job->verified = json_is_true(json_object_get(mirror, "verified"));
    job->mirror_error = abs((int)json_integer_value(json_object_get(mirror, "error")));
    snprintf(job->mirror_text, sizeof job->mirror_text, "%s", text ? text : "");
    job->stat_ms = bmig_steady_ms();
    take_percent(job);
}

void bmig_job_mirror_lost_locked(struct bmig_job *job)
{
    for (unsigned i = 0; i < BMIG_STAT_COUNT; i++) {
        if (table[i].adds) {
            job->base[i] += job->stats[i];
            job->stats[i] = 0;
        }
    }
    job->stats[BMIG_STAT_STALE] = job->stats[BMIG_STAT_TOTAL];
    job->stats[BMIG_STAT_DONE] = job->stats[BMIG_STAT_RATE] = 0;
    job->stats[BMIG_STAT_ETA] = UINT64_MAX;
    job->mirror[0] = '\0';
    job->verified = false;
}

static json_t *time_or_null(int64_t wall_ms)
{
    char text[32];
    return wall_ms ? json_string(bmig_iso_time(text, wall_ms)) : json_null();
}

static json_t *stat_value(const struct bmig_job *job, unsigned stat)
{
    bool final = bmig_job_final(job->state);
    if (stat == BMIG_STAT_ETA) {
        if (job->state == BMIG_JOB_DONE)
            return json_integer(0);
        if (final || job->stats[stat] > INT64_MAX || !job->mirror[0])
            return json_null();
    }
    if (stat == BMIG_STAT_RATE && final)
        return json_integer(0);
    return json_integer((json_int_t)(job->stats[stat] + job->base[stat]));
}

json_t *bmig_job_json_locked(const struct bmig_job *job)
{
    json_t *json = json_pack("{s:I, s:s, s:s, s:s, s:s, s:s, s:s, s:f}", "id", (json_int_t)job->id,
                             "kind", "move", "state", bmig_job_state_name(job->state), "phase",
                             bmig_job_phase_name(job->phase), "volume", job->volume, "source",
                             job->source, "target", job->target, "percent", job->percent);
    for (unsigned i = 0; i < BMIG_STAT_COUNT; i++)
        json_object_set_new(json, table[i].api, stat_value(job, i));
    json_object_set_new(json, "verified", json_boolean(job->verified));
    json_object_set_new(json, "switched", json_boolean(job->flipped));
    json_object_set_new(json, "source_kept", json_boolean(job->source_kept));
    json_object_set_new(json, "error",
                        job->error.kind ? bmig_json_error(&job->error) : json_null());
    json_object_set_new(json, "result", job->result ? json_string(job->result) : json_null());
    json_object_set_new(json, "options", bmig_job_options_json(&job->options));
    json_object_set_new(json, "source_uri", json_string(job->from.uri));
    json_object_set_new(json, "target_uri", json_string(job->to.uri));
    json_object_set_new(json, "created", time_or_null(job->created_ms));
    json_object_set_new(json, "started", time_or_null(job->started_ms));
    json_object_set_new(json, "switched_at", time_or_null(job->switched_ms));
    json_object_set_new(json, "finished", time_or_null(job->finished_ms));
    return json;
}

static json_t *numbers_json(const uint64_t *numbers)
{
    json_t *json = json_object();
    for (unsigned i = 0; i < BMIG_STAT_COUNT; i++)
        json_object_set_new(json, table[i].api, json_integer((json_int_t)numbers[i]));
    return json;
}

static void numbers_from_json(uint64_t *numbers, const json_t *json)
{
    for (unsigned i = 0; i < BMIG_STAT_COUNT; i++)
        numbers[i] = (uint64_t)json_integer_value(json_object_get(json, table[i].api));
}

json_t *bmig_job_stats_json(const struct bmig_job *job)
{
    return json_pack("{s:o, s:o, s:b, s:b}", "mirror", numbers_json(job->stats), "lost",
                     numbers_json(job->base), "verified", (int)job->verified, "source_kept",
                     (int)job->source_kept);
}

void bmig_job_stats_from_json(struct bmig_job *job, const json_t *json)
{
    numbers_from_json(job->stats, json_object_get(json, "mirror"));
    numbers_from_json(job->base, json_object_get(json, "lost"));
    job->verified = json_is_true(json_object_get(json, "verified"));
    job->source_kept = json_is_true(json_object_get(json, "source_kept"));
}

json_t *bmig_job_options_json(const struct bmig_move_options *options)
{
    return json_pack("{s:I, s:I, s:I, s:b, s:b, s:b}", "bandwidth_bytes_per_s",
                     (json_int_t)options->bandwidth_bytes_per_s, "max_latency_us",
                     (json_int_t)options->max_latency_us, "undo_window_ms",
                     (json_int_t)options->undo_window_ms, "verify", (int)options->verify, "hold",
                     (int)options->hold, "keep_source", (int)options->keep_source);
}

void bmig_job_options_from_json(struct bmig_move_options *options, const json_t *json)
{
    options->bandwidth_bytes_per_s =
        (uint64_t)json_integer_value(json_object_get(json, "bandwidth_bytes_per_s"));
    options->max_latency_us = (uint64_t)json_integer_value(json_object_get(json, "max_latency_us"));
    options->undo_window_ms = (uint64_t)json_integer_value(json_object_get(json, "undo_window_ms"));
    options->verify = json_is_true(json_object_get(json, "verify"));
    options->hold = json_is_true(json_object_get(json, "hold"));
    options->keep_source = json_is_true(json_object_get(json, "keep_source"));
}

void bmig_job_publish_locked(struct bmig_manager *manager, const struct bmig_job *job)
{
    bmig_events_publish(manager->events, job->id, bmig_job_final(job->state),
                        json_pack("{s:s, s:I, s:o}", "event", "job", "job_id", (json_int_t)job->id,
                                  "job", bmig_job_json_locked(job)));
}

/* Whether the worker's mirror is this job's at present. */
static bool has_mirror(const struct bmig_job *job)
{
    return job->mirror[0] && job->phase >= BMIG_PHASE_COPY && job->phase < BMIG_PHASE_RELEASE &&
           !bmig_job_final(job->state);
}

void bmig_job_refresh(struct bmig_manager *manager, uint64_t id, unsigned max_age_ms)
{
    struct bmig_client *worker = NULL;
    uint64_t generation = 0;
    json_t *stat = NULL;
    bmig_manager_lock(manager);
    struct bmig_job *job = bmig_job_find_locked(manager, id, NULL);
    struct bmig_daemon_volume *volume = NULL;
    if (job && has_mirror(job) && bmig_steady_ms() - job->stat_ms > max_age_ms)
        volume = bmig_daemon_volume_find_locked(manager, job->volume, NULL);
    if (volume)
        worker = bmig_daemon_volume_worker_locked(volume, &generation);
    bmig_manager_unlock(manager);
    if (!worker)
        return;
    if (bmig_client_call(worker, json_pack("{s:s}", "do", "stat"), REFRESH_MS, &stat, NULL) == 0) {
        bmig_manager_lock(manager);
        volume = bmig_daemon_volume_find_locked(manager, job->volume, NULL);
        if (volume && volume->generation == generation && has_mirror(job))
            bmig_job_take_mirror_locked(job, json_object_get(stat, "mirror"));
        bmig_manager_unlock(manager);
        json_decref(stat);
    }
    bmig_client_unref(worker);
}
