/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Jobs: what a move is, the states it may be in, and the verbs that each state allows.
 */
#ifndef BLOCKMIG_DAEMON_JOB_H
#define BLOCKMIG_DAEMON_JOB_H

#include "blockmig/daemon/manager.h"

enum bmig_job_state {
    BMIG_JOB_QUEUED,
    BMIG_JOB_RUNNING,
    BMIG_JOB_PAUSED,
    BMIG_JOB_SYNCED,   /* both replicas are equal and stay so */
    BMIG_JOB_DEGRADED, /* the target was lost for now; it is tried again */
    BMIG_JOB_SWITCHING,
    BMIG_JOB_UNDO_WINDOW,
    BMIG_JOB_DONE,
    BMIG_JOB_FAILED,
    BMIG_JOB_CANCELLED,
    BMIG_JOB_STATE_COUNT,
};

enum bmig_job_verb {
    BMIG_VERB_PAUSE = 1 << 0,
    BMIG_VERB_RESUME = 1 << 1,
    BMIG_VERB_CANCEL = 1 << 2,
    BMIG_VERB_SWITCH = 1 << 3,
    BMIG_VERB_ROLLBACK = 1 << 4,
    BMIG_VERB_COMMIT = 1 << 5,
    BMIG_VERB_SET = 1 << 6,
};

const char *bmig_job_state_name(enum bmig_job_state state);
enum bmig_job_state bmig_job_state_from_name(const char *name); /* FAILED where unknown */
const char *bmig_job_verb_name(enum bmig_job_verb verb);
bool bmig_job_final(enum bmig_job_state state);
bool bmig_job_takes_slot(enum bmig_job_state state); /* counts against the budgets */
bool bmig_job_allows(enum bmig_job_state state, enum bmig_job_verb verb);
bool bmig_job_may_become(enum bmig_job_state from, enum bmig_job_state to);

struct bmig_move_options {
    uint64_t bandwidth_bytes_per_s; /* 0: none */
    uint64_t max_latency_us;        /* 0: the worker's default */
    uint64_t undo_window_ms;
    bool verify, hold, keep_source;
};

/* What the worker's stat says of a mirror, and what of it is added up over mirrors that were lost
 * (job_stats.c). */
enum bmig_job_stat {
    BMIG_STAT_TOTAL,
    BMIG_STAT_DONE,
    BMIG_STAT_COPIED,
    BMIG_STAT_RECOPIED,
    BMIG_STAT_SKIPPED,
    BMIG_STAT_MIRRORED,
    BMIG_STAT_VERIFIED,
    BMIG_STAT_DIFFERENT,
    BMIG_STAT_STALE,
    BMIG_STAT_RATE,
    BMIG_STAT_ETA,
    BMIG_STAT_P50_BEFORE,
    BMIG_STAT_P99_BEFORE,
    BMIG_STAT_P999_BEFORE,
    BMIG_STAT_MAX_BEFORE,
    BMIG_STAT_P50,
    BMIG_STAT_P99,
    BMIG_STAT_P999,
    BMIG_STAT_MAX,
    BMIG_STAT_HOLD,
    BMIG_STAT_COUNT,
};

/* A phase's name is what the journal holds; the table is in job_phases.c. */
enum bmig_job_phase {
    BMIG_PHASE_QUEUED,
    BMIG_PHASE_PREFLIGHT,
    BMIG_PHASE_CREATE_TARGET,
    BMIG_PHASE_ATTACH,
    BMIG_PHASE_COPY,
    BMIG_PHASE_HOLD,
    BMIG_PHASE_SWITCH,
    BMIG_PHASE_UNDO_WINDOW,
    BMIG_PHASE_ROLLBACK,
    BMIG_PHASE_ROLLED_BACK,
    BMIG_PHASE_RELEASE,
    BMIG_PHASE_REMOVE_SOURCE,
    BMIG_PHASE_END,
    BMIG_PHASE_COUNT,
};

struct bmig_job {
    uint64_t id;
    enum bmig_job_state state;
    enum bmig_job_phase phase;
    char *volume;
    char *source, *target; /* words for people */
    struct bmig_replica from, to;
    struct bmig_move_options options;
    bool flipped; /* the record says that to is the primary */

    uint64_t stats[BMIG_STAT_COUNT]; /* of the mirror there is */
    uint64_t base[BMIG_STAT_COUNT];  /* of those that were lost */
    bool verified;
    char mirror[16];  /* the state the worker's mirror was in when last asked */
    int mirror_error; /* why it is degraded, positive errno */
    char mirror_text[160];
    int64_t stat_ms;         /* when it was asked, steady clock */
    double percent;          /* never falls */
    struct bmig_error error; /* kind BMIG_OK: none */
    char *result;            /* a sentence for people, about what is left and why; NULL: none */
    bool source_kept;
    int64_t created_ms, started_ms, switched_ms, finished_ms; /* 0: not yet */

    bool has_thread;
    bool want_cancel, want_pause, want_switch, want_rollback, want_commit;
    unsigned lost_mirrors;  /* in a row, without progress in between */
    uint64_t progress_mark; /* bytes clean when the last one was lost */
    struct bmig_job *next;
};

/* ---- job.c ---- */

/* The one place where a job's state changes: asserts that it may. In memory; records are
 * job_store.c's. */
void bmig_job_set_state_locked(struct bmig_manager *manager, struct bmig_job *job,
                               enum bmig_job_state state);
struct bmig_job *bmig_job_find_locked(struct bmig_manager *manager, uint64_t id,
                                      struct bmig_error *err);

/* The volume is free for the next job. */
void bmig_job_detach_locked(struct bmig_manager *manager, struct bmig_job *job);

/* pause, resume, cancel, switch, rollback, commit. */
int bmig_job_verb(struct bmig_manager *manager, uint64_t id, enum bmig_job_verb verb,
                  struct bmig_error *err);
int bmig_job_set_limits(struct bmig_manager *manager, uint64_t id, const uint64_t *bandwidth,
                        const uint64_t *max_latency_us, struct bmig_error *err);

/* ---- job_submit.c ---- */

/* What POST /v1/moves asks for. */
struct bmig_move_wish {
    const char *volume, *destination, *format; /* format NULL: the volume's own, or by the ending */
    struct bmig_move_options options;
    bool dry_run;
};

/* Preflight and, without dry_run, a queued job; the job's or the plan's JSON. NULL with err. */
json_t *bmig_job_submit(struct bmig_manager *manager, const struct bmig_move_wish *wish,
                        struct bmig_error *err);

void bmig_job_free_all(struct bmig_manager *manager);

/* ---- job_stats.c ---- */

json_t *bmig_job_json_locked(const struct bmig_job *job);
json_t *bmig_job_stats_json(const struct bmig_job *job); /* for the journal */
void bmig_job_stats_from_json(struct bmig_job *job, const json_t *json);
json_t *bmig_job_options_json(const struct bmig_move_options *options);
void bmig_job_options_from_json(struct bmig_move_options *options, const json_t *json);

/* Takes in the "mirror" of a worker's stat. */
void bmig_job_take_mirror_locked(struct bmig_job *job, const json_t *mirror);
void bmig_job_mirror_lost_locked(struct bmig_job *job);

/* Asks the worker if what is known is older than max_age_ms. Blocks up to a second. */
void bmig_job_refresh(struct bmig_manager *manager, uint64_t id, unsigned max_age_ms);

/* {"event": "job", "job": {...}} to the streams. */
void bmig_job_publish_locked(struct bmig_manager *manager, const struct bmig_job *job);

/* ---- job_store.c: every call is one transaction ---- */

int bmig_job_load_locked(struct bmig_manager *manager, struct bmig_error *err);
int bmig_job_record_new_locked(struct bmig_manager *manager, struct bmig_job *job,
                               struct bmig_error *err);

/* Records that phase begins, with what undoes it, and that the one before it is done; then
 * job->phase is phase, and state where it differs. */
int bmig_job_record_phase_locked(struct bmig_manager *manager, struct bmig_job *job,
                                 enum bmig_job_phase phase, enum bmig_job_state state,
                                 struct bmig_error *err);

/* The present phase did what it was to do, in a way that its undo must know of. */
int bmig_job_record_phase_done_locked(struct bmig_manager *manager, struct bmig_job *job,
                                      struct bmig_error *err);

/* State, phase, error, options, stats as they are; a final state also drops the row of the replica
 * that is not the volume's any more. */
int bmig_job_record_locked(struct bmig_manager *manager, struct bmig_job *job,
                           struct bmig_error *err);

/* The flip: volume's primary and epoch, the job's phase and flag, in one transaction. Where it
 * fails its outcome is in doubt until bmig_job_settle_flip_locked. back: from to back to from.
 * Memory is not changed. */
int bmig_job_record_flip_locked(struct bmig_manager *manager, struct bmig_job *job, uint64_t epoch,
                                bool back, struct bmig_error *err);

/* Without an undo window the move goes straight on to its end. */
enum bmig_job_state bmig_job_state_after_flip(const struct bmig_job *job, bool back);

/* 0: *written is the durable truth about epoch. */
int bmig_job_settle_flip_locked(struct bmig_manager *manager, const struct bmig_job *job,
                                uint64_t epoch, bool *written, struct bmig_error *err);

/* Phases that were entered and are not undone, the last first. */
struct bmig_phase_record {
    enum bmig_job_phase phase;
    bool done; /* false: begun, and whether it did anything is not known */
    json_t *undo;
};
int bmig_job_undo_list_locked(struct bmig_manager *manager, uint64_t id,
                              struct bmig_phase_record **records, unsigned *count,
                              struct bmig_error *err);
void bmig_job_undo_list_free(struct bmig_phase_record *records, unsigned count);
int bmig_job_record_undone_locked(struct bmig_manager *manager, uint64_t id,
                                  enum bmig_job_phase phase, struct bmig_error *err);

/* ---- job_phases.c ---- */

const char *bmig_job_phase_name(enum bmig_job_phase phase);
enum bmig_job_phase bmig_job_phase_from_name(const char *name);

/* Starts the thread that walks job's phases from where it is. */
void bmig_job_start_locked(struct bmig_manager *manager, struct bmig_job *job);

/* ---- job_undo.c ---- */

/* Undoes what job's record says, the last phase first. What can't be undone stays in the record for
 * cleanup. actions (may be NULL) gets a line for each. Without the mutex. */
int bmig_job_undo(struct bmig_manager *manager, struct bmig_job *job, json_t *actions,
                  struct bmig_error *err);

/* Undo of a target: removes it, if it is surely ours. */
int bmig_job_remove_target(struct bmig_manager *manager, const json_t *undo, bool done,
                           bool *removed, struct bmig_error *err);

/* ---- queue.c ---- */

/* Starts every queued job that the budgets allow, the oldest first. */
void bmig_queue_admit_locked(struct bmig_manager *manager);

#endif
