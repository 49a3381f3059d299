/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The queue: which of the jobs that wait may begin. Oldest first; one that its repositories'
 * budgets hold back does not hold back the ones behind it.
 */
#include <string.h>

#include "blockmig/daemon/job.h"

static bool touches(const struct bmig_job *job, const char *repo)
{
    return (job->from.repo && strcmp(job->from.repo, repo) == 0) ||
           (job->to.repo && strcmp(job->to.repo, repo) == 0);
}

/* A job that a thread has walks its phases; whether it holds a slot is said by its state. */
static bool holds_slot(const struct bmig_job *job)
{
    return job->has_thread && (bmig_job_takes_slot(job->state) || job->state == BMIG_JOB_QUEUED);
}

static uint64_t running(const struct bmig_manager *manager, const char *repo)
{
    uint64_t count = 0;
    for (const struct bmig_job *job = manager->jobs; job; job = job->next)
        if (holds_slot(job) && (!repo || touches(job, repo)))
            count++;
    return count;
}

static bool repo_has_room(struct bmig_manager *manager, const struct bmig_job *job)
{
    for (const struct bmig_repo *repo = manager->repos; repo; repo = repo->next)
        if (repo->max_jobs && touches(job, repo->name) &&
            running(manager, repo->name) >= repo->max_jobs)
            return false;
    return true;
}

static struct bmig_job *next_queued(struct bmig_manager *manager)
{
    struct bmig_job *oldest = NULL; /* the list has the newest first */
    for (struct bmig_job *job = manager->jobs; job; job = job->next)
        if (job->state == BMIG_JOB_QUEUED && !job->has_thread && repo_has_room(manager, job))
            oldest = job;
    return oldest;
}

void bmig_queue_admit_locked(struct bmig_manager *manager)
{
    struct bmig_job *job;
    while (!manager->stopping && running(manager, NULL) < manager->max_jobs &&
           (job = next_queued(manager))) {
        bmig_job_start_locked(manager, job);
        if (!job->has_thread)
            return; /* no thread to be had now; the next change tries again */
    }
}
