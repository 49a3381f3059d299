/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Following a job: its events until it ends, we are told to stop, or the time runs out; over
 * restarts of the daemon.
 */
#ifndef CLI_FOLLOW_H
#define CLI_FOLLOW_H

#include <stdint.h>

#include "cli/run.h"

enum bmig_follow_end {
    BMIG_FOLLOW_FINAL,    /* the job is done, failed or cancelled */
    BMIG_FOLLOW_DETACHED, /* a signal came; the job goes on */
    BMIG_FOLLOW_TIMEOUT,
};

struct bmig_follow {
    uint64_t job;
    uint64_t deadline_ns; /* UINT64_MAX: none */
    const volatile sig_atomic_t *stop;
    /* Each time something is heard of the job; may be NULL. */
    void (*heard)(void *user, const json_t *job);
    void *user;
    enum bmig_follow_end end; /* out */
    json_t *last;             /* out: the job as last heard of; the caller's to json_decref */
};

int bmig_follow_job(struct bmig_cli *cli, struct bmig_follow *follow, struct bmig_error *err);

/* Whether a job's state is one it stays in. */
bool bmig_job_is_final(const json_t *job);

/* The number in text ("7"); BMIG_USAGE for anything else. */
int bmig_job_parse(const char *text, uint64_t *job, struct bmig_error *err);

/* The error that a final job's state stands for: 0 where it is done, BMIG_FAILED or BMIG_CANCELLED
 * with its own words otherwise. */
int bmig_job_outcome(const json_t *job, struct bmig_error *err);

/* Shows a job on stderr to its end and then what came of it on stdout; Ctrl-C detaches. What move
 * and watch do. */
int bmig_follow_attached(struct bmig_cli *cli, uint64_t job, struct bmig_error *err);

/* The report of a job that is done, on stdout. */
void bmig_job_report(const json_t *job);

#endif
