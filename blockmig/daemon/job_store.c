/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Jobs in the journal. Each call is one transaction, and the flip of the record is one of them: the
 * volume's primary and epoch, the roles, the job's phase and the meaning of its undo records change
 * together or not at all.
 */
#include <errno.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/daemon/daemon_volume.h"
#include "blockmig/daemon/job.h"
#include "blockmig/daemon/json_read.h"
#include "blockmig/daemon/text.h"

/* ---- rows ---- */

static char *dump(json_t *json) /* takes json over */
{
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    return text;
}

static char *column(sqlite3_stmt *row, int index)
{
    return bmig_text_copy((const char *)sqlite3_column_text(row, index));
}

static json_t *column_json(sqlite3_stmt *row, int index)
{
    const char *text = (const char *)sqlite3_column_text(row, index);
    return text ? json_loads(text, 0, NULL) : NULL;
}

static void error_from_json(struct bmig_error *err, const json_t *json)
{
    const char *kind = json_string_value(json_object_get(json, "kind"));
    const char *message = json_string_value(json_object_get(json, "message"));
    if (kind)
        bmig_error_set(err, bmig_error_kind_from_name(kind),
                       (int)json_integer_value(json_object_get(json, "code")), "%s", message);
}

static int load_row(void *user, sqlite3_stmt *row)
{
    struct bmig_manager *manager = user;
    struct bmig_job *job = bmig_zalloc(sizeof *job);
    job->id = (uint64_t)sqlite3_column_int64(row, 0);
    job->state = bmig_job_state_from_name((const char *)sqlite3_column_text(row, 1));
    job->phase = bmig_job_phase_from_name((const char *)sqlite3_column_text(row, 2));
    job->volume = column(row, 3);
    job->source = column(row, 4);
    job->target = column(row, 5);
    json_t *options = column_json(row, 6), *stats = column_json(row, 7),
           *places = column_json(row, 8), *error = column_json(row, 9);
    bmig_job_options_from_json(&job->options, options);
    bmig_job_stats_from_json(job, stats);
    bmig_replica_from_json(&job->from, json_object_get(places, "from"));
    bmig_replica_from_json(&job->to, json_object_get(places, "to"));
    error_from_json(&job->error, error);
    json_decref(options);
    json_decref(stats);
    json_decref(places);
    json_decref(error);
    job->result = column(row, 10);
    job->percent = sqlite3_column_double(row, 11);
    job->flipped = sqlite3_column_int(row, 12);
    job->created_ms = sqlite3_column_int64(row, 13);
    job->started_ms = sqlite3_column_int64(row, 14);
    job->switched_ms = sqlite3_column_int64(row, 15);
    job->finished_ms = sqlite3_column_int64(row, 16);
    job->next = manager->jobs;
    manager->jobs = job;
    if (job->id >= manager->next_job_id)
        manager->next_job_id = job->id + 1;
    struct bmig_daemon_volume *volume = bmig_daemon_volume_find_locked(manager, job->volume, NULL);
    if (volume && !bmig_job_final(job->state))
        volume->job = job;
    return 0;
}

int bmig_job_load_locked(struct bmig_manager *manager, struct bmig_error *err)
{
    manager->next_job_id = 1;
    return bmig_journal_query(
        manager->journal, load_row, manager, err,
        "SELECT id, state, phase, volume, source, target, options, stats, places, error, "
        "result, percent, flipped, created_ms, started_ms, switched_ms, finished_ms "
        "FROM jobs ORDER BY id",
        "");
}

static int update_job(struct bmig_manager *manager, const struct bmig_job *job,
                      enum bmig_job_phase phase, enum bmig_job_state state, struct bmig_error *err)
{
    char *options = dump(bmig_job_options_json(&job->options)),
         *stats = dump(bmig_job_stats_json(job));
    char *error = dump(job->error.kind ? bmig_json_error(&job->error) : NULL);
    char *places = dump(json_pack("{s:o, s:o}", "from", bmig_replica_json(&job->from), "to",
                                  bmig_replica_json(&job->to)));
    int rc = bmig_journal_run(
        manager->journal, err,
        "UPDATE jobs SET state = ?, phase = ?, options = ?, stats = ?, places = ?, "
        "error = ?, result = ?, percent = ?, started_ms = ?, finished_ms = ? "
        "WHERE id = ?",
        "sssssssdiii", bmig_job_state_name(state), bmig_job_phase_name(phase), options, stats,
        places, error, job->result, job->percent, job->started_ms, job->finished_ms, job->id);
    free(options);
    free(stats);
    free(error);
    free(places);
    return rc;
}

/* ---- transactions ---- */

static int insert_job(struct bmig_manager *manager, struct bmig_job *job, struct bmig_error *err)
{
    int rc = bmig_replica_insert(manager, &job->to, job->volume, "secondary", err);
    if (rc)
        return rc;
    rc = bmig_journal_run(
        manager->journal, err,
        "INSERT INTO jobs VALUES (?, 'move', ?, ?, ?, ?, ?, '', '', '', NULL, NULL, 0, 0, "
        "?, 0, 0, 0)",
        "isssssi", job->id, bmig_job_state_name(job->state), bmig_job_phase_name(job->phase),
        job->volume, job->source, job->target, job->created_ms);
    return rc ? rc : update_job(manager, job, job->phase, job->state, err);
}

int bmig_job_record_new_locked(struct bmig_manager *manager, struct bmig_job *job,
                               struct bmig_error *err)
{
    int rc = bmig_journal_begin(manager->journal, err);
    return rc ? rc : bmig_journal_end(manager->journal, insert_job(manager, job, err), err);
}

/* What a phase leaves that must be undone if the job does not go through. */
static json_t *undo_of(const struct bmig_job *job, enum bmig_job_phase phase, uint64_t size_bytes)
{
    if (phase == BMIG_PHASE_CREATE_TARGET && job->to.made)
        return json_pack("{s:s, s:o, s:I}", "do", "remove", "image", bmig_replica_json(&job->to),
                         "size_bytes", (json_int_t)size_bytes);
    if (phase == BMIG_PHASE_ATTACH)
        return json_pack("{s:s, s:s}", "do", "mirror-stop", "volume", job->volume);
    return NULL;
}

static int enter_phase(struct bmig_manager *manager, struct bmig_job *job,
                       enum bmig_job_phase phase, enum bmig_job_state state, struct bmig_error *err)
{
    struct bmig_daemon_volume *volume = bmig_daemon_volume_find_locked(manager, job->volume, NULL);
    char *undo = dump(undo_of(job, phase, volume ? volume->size_bytes : 0));
    int rc = bmig_journal_run(manager->journal, err,
                              "UPDATE phases SET state = 'done' WHERE job = ? AND phase = ? "
                              "AND state = 'begun'",
                              "is", job->id, bmig_job_phase_name(job->phase));
    if (rc == 0 && phase != BMIG_PHASE_QUEUED && phase != BMIG_PHASE_END)
        rc = bmig_journal_run(
            manager->journal, err,
            "INSERT OR REPLACE INTO phases VALUES (?1, (SELECT coalesce(max(seq), 0) + 1 "
            "FROM phases WHERE job = ?1), ?2, ?3, 'begun')",
            "iss", job->id, bmig_job_phase_name(phase), undo ? undo : "null");
    if (rc == 0)
        rc = update_job(manager, job, phase, state, err);
    free(undo);
    return rc;
}

int bmig_job_record_phase_locked(struct bmig_manager *manager, struct bmig_job *job,
                                 enum bmig_job_phase phase, enum bmig_job_state state,
                                 struct bmig_error *err)
{
    int rc = bmig_journal_begin(manager->journal, err);
    if (rc == 0)
        rc = bmig_journal_end(manager->journal, enter_phase(manager, job, phase, state, err), err);
    if (rc)
        return rc;
    job->phase = phase;
    if (job->state == state)
        bmig_job_publish_locked(manager, job);
    else
        bmig_job_set_state_locked(manager, job, state);
    return 0;
}

int bmig_job_record_phase_done_locked(struct bmig_manager *manager, struct bmig_job *job,
                                      struct bmig_error *err)
{
    int rc = bmig_journal_begin(manager->journal, err);
    if (rc)
        return rc;
    rc = bmig_journal_run(manager->journal, err,
                          "UPDATE phases SET state = 'done' WHERE job = ? AND phase = ?", "is",
                          job->id, bmig_job_phase_name(job->phase));
    if (rc == 0)
        rc = bmig_journal_run(manager->journal, err,
                              "UPDATE replicas SET identity = ?, made = ? WHERE id = ?", "sbi",
                              job->to.identity, (int)job->to.made, job->to.id);
    if (rc == 0)
        rc = update_job(manager, job, job->phase, job->state, err);
    return bmig_journal_end(manager->journal, rc, err);
}

int bmig_job_record_locked(struct bmig_manager *manager, struct bmig_job *job,
                           struct bmig_error *err)
{
    int rc = bmig_journal_begin(manager->journal, err);
    if (rc)
        return rc;
    rc = update_job(manager, job, job->phase, job->state, err);
    if (rc == 0 && bmig_job_final(job->state))
        rc = bmig_journal_run(manager->journal, err,
                              "DELETE FROM replicas WHERE volume = ? AND role = 'secondary'", "s",
                              job->volume);
    return bmig_journal_end(manager->journal, rc, err);
}

/* ---- the flip ---- */

static int flip_volume(struct bmig_manager *manager, const struct bmig_job *job, uint64_t epoch,
                       const struct bmig_replica *to, const struct bmig_replica *from,
                       struct bmig_error *err)
{
    int64_t now = 0;
    int rc = bmig_journal_run(manager->journal, err,
                              "UPDATE volumes SET epoch = ?, primary_replica = ? WHERE name = ? "
                              "AND epoch = ? AND primary_replica = ?",
                              "iisii", epoch, to->id, job->volume, epoch - 1, from->id);
    if (rc == 0)
        rc = bmig_journal_number(manager->journal, 0, &now, err, "SELECT changes()", "");
    if (rc == 0 && now != 1)
        rc = bmig_error_set(err, BMIG_FAILED, ESTALE,
                            "volume '%s' is not at epoch %llu in the journal: nothing was switched",
                            job->volume, (unsigned long long)epoch - 1);
    if (rc == 0)
        rc = bmig_journal_run(
            manager->journal, err,
            "UPDATE replicas SET role = CASE id WHEN ?1 THEN 'primary' ELSE 'secondary' "
            "END WHERE volume = ?2",
            "is", to->id, job->volume);
    return rc;
}

enum bmig_job_state bmig_job_state_after_flip(const struct bmig_job *job, bool back)
{
    return back || !job->options.undo_window_ms ? BMIG_JOB_SWITCHING : BMIG_JOB_UNDO_WINDOW;
}

static int flip_job(struct bmig_manager *manager, struct bmig_job *job, bool back,
                    struct bmig_error *err)
{
    enum bmig_job_phase phase = back ? BMIG_PHASE_ROLLED_BACK : BMIG_PHASE_UNDO_WINDOW;
    int rc = enter_phase(manager, job, phase, bmig_job_state_after_flip(job, back), err);
    if (rc == 0)
        rc = bmig_journal_run(manager->journal, err,
                              "UPDATE jobs SET flipped = ?, switched_ms = ? WHERE id = ?", "bii",
                              (int)!back, bmig_wall_ms(), job->id);
    /* While the target is the primary nothing of it may be undone. */
    if (rc == 0 && back)
        rc = bmig_journal_run(manager->journal, err,
                              "UPDATE phases SET state = 'done' WHERE job = ? AND state = 'void'",
                              "i", job->id);
    else if (rc == 0)
        rc = bmig_journal_run(
            manager->journal, err,
            "UPDATE phases SET state = 'void' WHERE job = ? AND phase IN ('create-target', "
            "'attach') AND state IN ('begun', 'done')",
            "i", job->id);
    return rc;
}

int bmig_job_record_flip_locked(struct bmig_manager *manager, struct bmig_job *job, uint64_t epoch,
                                bool back, struct bmig_error *err)
{
    const struct bmig_replica *to = back ? &job->from : &job->to,
                              *from = back ? &job->to : &job->from;
    int rc = bmig_journal_begin(manager->journal, err);
    if (rc)
        return rc;
    rc = flip_volume(manager, job, epoch, to, from, err);
    if (rc == 0)
        rc = flip_job(manager, job, back, err);
    return bmig_journal_end(manager->journal, rc, err);
}

int bmig_job_settle_flip_locked(struct bmig_manager *manager, const struct bmig_job *job,
                                uint64_t epoch, bool *written, struct bmig_error *err)
{
    int64_t now;
    int rc = bmig_journal_settle(manager->journal, err);
    if (rc == 0)
        rc = bmig_journal_number(manager->journal, 0, &now, err,
                                 "SELECT epoch FROM volumes WHERE name = ?", "s", job->volume);
    if (rc == 0)
        *written = (uint64_t)now == epoch;
    return rc;
}

/* ---- undo records ---- */

struct undo_list {
    struct bmig_phase_record *records;
    unsigned count;
};

static int undo_row(void *user, sqlite3_stmt *row)
{
    struct undo_list *list = user;
    struct bmig_phase_record *records =
        realloc(list->records, (list->count + 1) * sizeof *list->records);
    if (!records)
        return 1;
    list->records = records;
    records[list->count++] = (struct bmig_phase_record){
        .phase = bmig_job_phase_from_name((const char *)sqlite3_column_text(row, 0)),
        .undo = column_json(row, 1),
        .done = strcmp((const char *)sqlite3_column_text(row, 2), "begun") != 0,
    };
    return 0;
}

int bmig_job_undo_list_locked(struct bmig_manager *manager, uint64_t id,
                              struct bmig_phase_record **records, unsigned *count,
                              struct bmig_error *err)
{
    struct undo_list list = {0};
    int rc =
        bmig_journal_query(manager->journal, undo_row, &list, err,
                           "SELECT phase, undo, state FROM phases WHERE job = ? AND undo <> 'null' "
                           "AND state IN ('begun', 'done') ORDER BY seq DESC",
                           "i", id);
    *records = list.records;
    *count = list.count;
    return rc;
}

void bmig_job_undo_list_free(struct bmig_phase_record *records, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        json_decref(records[i].undo);
    free(records);
}

int bmig_job_record_undone_locked(struct bmig_manager *manager, uint64_t id,
                                  enum bmig_job_phase phase, struct bmig_error *err)
{
    int rc = bmig_journal_begin(manager->journal, err);
    if (rc)
        return rc;
    rc = bmig_journal_run(manager->journal, err,
                          "UPDATE phases SET state = 'undone' WHERE job = ? AND phase = ?", "is",
                          id, bmig_job_phase_name(phase));
    return bmig_journal_end(manager->journal, rc, err);
}
