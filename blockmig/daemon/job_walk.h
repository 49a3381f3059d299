/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A job's thread: the walk over the phases, and what its steps share.
 *
 * A step runs without the mutex, may block within bounds, and says what comes next: 0 with
 * walk->next, or an error, which ends the job by the undo of all that its record names. A step may
 * be run again from its beginning by a later daemon, whatever it had done before: every step first
 * looks at what there is.
 */
#ifndef BLOCKMIG_DAEMON_JOB_WALK_H
#define BLOCKMIG_DAEMON_JOB_WALK_H

#include "blockmig/daemon/job.h"

struct bmig_walk {
    struct bmig_manager *manager;
    struct bmig_job *job;
    enum bmig_job_phase next;
    bool known_zero;     /* the target was created by this walk and nothing was written to it */
    bool attached;       /* the mirror was running once */
    bool resumed;        /* the present phase was begun by a daemon that died */
    uint64_t generation; /* of the worker that has our mirror; 0: not known yet */
    unsigned switch_tries;
    bool told_journal; /* the job's error is the journal's, to be cleared once it can be written */
};

typedef int bmig_walk_step(struct bmig_walk *walk, struct bmig_error *err);

bmig_walk_step bmig_walk_preflight, bmig_walk_create_target, bmig_walk_attach, bmig_walk_copy,
    bmig_walk_hold, bmig_walk_switch, bmig_walk_undo_window, bmig_walk_rollback,
    bmig_walk_rolled_back, bmig_walk_release, bmig_walk_remove_source;

/* -ECANCELED (with err) where the job is to be cancelled, -ESHUTDOWN where the daemon ends, else 0.
 */
int bmig_walk_check(struct bmig_walk *walk, struct bmig_error *err);
int bmig_walk_check_locked(struct bmig_walk *walk, struct bmig_error *err);

/* Waits ms, or until something changes; then as bmig_walk_check. */
int bmig_walk_nap(struct bmig_walk *walk, unsigned ms, struct bmig_error *err);

/* The volume's worker, started or waited for; a reference. -ECHILD: it was given up. */
int bmig_walk_worker(struct bmig_walk *walk, struct bmig_client **worker, uint64_t *generation,
                     struct bmig_error *err);

/* Starts the mirror onto whichever replica is not the primary; finds it started already. 0, or
 * -ECONNRESET where the worker went away meanwhile. */
int bmig_walk_start_mirror(struct bmig_walk *walk, struct bmig_error *err);

/* Asks the worker for its mirror. -ESTALE: the mirror is gone (its worker died). */
int bmig_walk_look(struct bmig_walk *walk, struct bmig_error *err);

/* Drops the mirror, if there is one and a worker that has it. 0: there is none any more. */
int bmig_walk_stop_mirror(struct bmig_manager *manager, const char *volume, unsigned timeout_ms,
                          struct bmig_error *err);

/* State in memory at once, in the journal when it can be written. */
void bmig_walk_state(struct bmig_walk *walk, enum bmig_job_state state,
                     const struct bmig_error *error);

#endif
