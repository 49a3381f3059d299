/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The daemon's numbers in the text format that Prometheus reads. Names and labels are checked names
 * ([A-Za-z0-9._-]), so nothing needs escaping.
 */
#include "blockmig/daemon/metrics.h"

#include <stdio.h>
#include <stdlib.h>

#include "blockmig/daemon/daemon_volume.h"
#include "blockmig/daemon/job.h"

static void head(FILE *out, const char *name, const char *type, const char *help)
{
    fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void put_job_states(FILE *out, const struct bmig_manager *manager)
{
    unsigned count[BMIG_JOB_STATE_COUNT] = {0};
    for (const struct bmig_job *job = manager->jobs; job; job = job->next)
        count[job->state]++;
    head(out, "blockmig_jobs", "gauge", "Jobs that are known, by state.");
    for (unsigned i = 0; i < BMIG_JOB_STATE_COUNT; i++)
        fprintf(out, "blockmig_jobs{state=\"%s\"} %u\n", bmig_job_state_name(i), count[i]);
    head(out, "blockmig_jobs_ended_total", "counter",
         "Jobs that ended since the daemon was started.");
    for (unsigned i = 0; i < 3; i++)
        fprintf(out, "blockmig_jobs_ended_total{state=\"%s\"} %llu\n",
                bmig_job_state_name(BMIG_JOB_DONE + i), (unsigned long long)manager->jobs_ended[i]);
}

static const struct {
    const char *name, *help;
    enum bmig_job_stat stat;
    double scale;
} job_gauges[] = {
    {"blockmig_job_bytes_total", "Size of the disk that a job moves.", BMIG_STAT_TOTAL, 1},
    {"blockmig_job_bytes_copied", "Bytes that the job's copy moved.", BMIG_STAT_COPIED, 1},
    {"blockmig_job_bytes_mirrored", "Guest writes that went to both replicas.", BMIG_STAT_MIRRORED,
     1},
    {"blockmig_job_bytes_stale", "Bytes that the target lacks.", BMIG_STAT_STALE, 1},
    {"blockmig_job_rate_bytes_per_second", "Rate of the copy.", BMIG_STAT_RATE, 1},
    {"blockmig_job_guest_p99_before_seconds", "The guest's p99 latency before the job.",
     BMIG_STAT_P99_BEFORE, 1e-6},
    {"blockmig_job_guest_p99_seconds", "The guest's p99 latency under the job.", BMIG_STAT_P99,
     1e-6},
    {"blockmig_job_guest_max_seconds", "The guest's longest request under the job.", BMIG_STAT_MAX,
     1e-6},
};

static void put_jobs(FILE *out, const struct bmig_manager *manager)
{
    for (size_t i = 0; i < sizeof job_gauges / sizeof *job_gauges; i++) {
        head(out, job_gauges[i].name, "gauge", job_gauges[i].help);
        for (const struct bmig_job *job = manager->jobs; job; job = job->next)
            if (!bmig_job_final(job->state))
                fprintf(out, "%s{job=\"%llu\",volume=\"%s\"} %.9g\n", job_gauges[i].name,
                        (unsigned long long)job->id, job->volume,
                        (double)(job->stats[job_gauges[i].stat] + job->base[job_gauges[i].stat]) *
                            job_gauges[i].scale);
    }
    head(out, "blockmig_job_percent", "gauge", "How far a job is.");
    for (const struct bmig_job *job = manager->jobs; job; job = job->next)
        if (!bmig_job_final(job->state))
            fprintf(out, "blockmig_job_percent{job=\"%llu\",volume=\"%s\"} %.9g\n",
                    (unsigned long long)job->id, job->volume, job->percent);
}

static void put_volumes(FILE *out, const struct bmig_manager *manager)
{
    unsigned count[3] = {0};
    head(out, "blockmig_volume_up", "gauge", "1: the volume is served, 0: it is not.");
    for (const struct bmig_daemon_volume *v = manager->volumes; v; v = v->next) {
        count[v->state]++;
        fprintf(out, "blockmig_volume_up{volume=\"%s\"} %d\n", v->name,
                v->state == BMIG_VOLUME_STARTED && v->worker);
    }
    head(out, "blockmig_volume_epoch", "gauge",
         "How often the volume's primary was switched, and one.");
    for (const struct bmig_daemon_volume *v = manager->volumes; v; v = v->next)
        fprintf(out, "blockmig_volume_epoch{volume=\"%s\"} %llu\n", v->name,
                (unsigned long long)v->epoch);
    head(out, "blockmig_volumes", "gauge", "Volumes, by state.");
    for (unsigned i = 0; i < 3; i++)
        fprintf(out, "blockmig_volumes{state=\"%s\"} %u\n", bmig_daemon_volume_state_name(i),
                count[i]);
    head(out, "blockmig_worker_restarts_total", "counter",
         "Workers that died and were started again.");
    fprintf(out, "blockmig_worker_restarts_total %llu\n",
            (unsigned long long)manager->worker_restarts);
}

char *bmig_metrics_text(struct bmig_manager *manager)
{
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    if (!out)
        return NULL;
    head(out, "blockmig_build_info", "gauge", "The version that runs.");
    fprintf(out, "blockmig_build_info{version=\"%s\"} 1\n", BLOCKMIG_VERSION);
    bmig_manager_lock(manager);
    put_job_states(out, manager);
    put_jobs(out, manager);
    put_volumes(out, manager);
    bmig_manager_unlock(manager);
    fclose(out);
    return text;
}
