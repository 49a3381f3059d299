/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * recover and cleanup: what the daemon does by itself at its start, on demand; and the removal of
 * what jobs that ended could not remove. Both say what they did, and may be asked for again and
 * again.
 */
#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "blockmig/daemon/daemon_volume.h"
#include "blockmig/daemon/job.h"
#include "blockmig/daemon/text.h"

static void say(json_t *actions, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void say(json_t *actions, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    json_array_append_new(actions, json_string(text));
}

static void recover_volumes_locked(struct bmig_manager *manager, json_t *actions)
{
    for (struct bmig_daemon_volume *v = manager->volumes; v; v = v->next) {
        if (!(v->wanted || v->job) || v->worker || v->busy)
            continue;
        memset(v->deaths, 0, sizeof v->deaths);
        bmig_daemon_volume_revive_locked(manager, v);
        say(actions, "volume '%s': starting its worker again", v->name);
    }
}

static void recover_jobs_locked(struct bmig_manager *manager, json_t *actions)
{
    for (struct bmig_job *job = manager->jobs; job; job = job->next) {
        if (bmig_job_final(job->state) || job->has_thread || job->phase == BMIG_PHASE_QUEUED)
            continue;
        bmig_job_start_locked(manager, job);
        say(actions, "job %llu: going on from phase '%s'", (unsigned long long)job->id,
            bmig_job_phase_name(job->phase));
    }
    bmig_queue_admit_locked(manager);
}

json_t *bmig_manager_recover(struct bmig_manager *manager)
{
    json_t *actions = json_array();
    bmig_manager_lock(manager);
    recover_volumes_locked(manager, actions);
    recover_jobs_locked(manager, actions);
    bmig_manager_unlock(manager);
    return actions;
}

/* Jobs are never freed, so a pointer outlives the mutex. */
static struct bmig_job *next_ended(struct bmig_manager *manager, struct bmig_job *job)
{
    bmig_manager_lock(manager);
    job = job ? job->next : manager->jobs;
    while (job && !(bmig_job_final(job->state) && !job->has_thread && !job->flipped))
        job = job->next;
    bmig_manager_unlock(manager);
    return job;
}

static void cleanup_jobs(struct bmig_manager *manager, json_t *actions)
{
    for (struct bmig_job *job = next_ended(manager, NULL); job; job = next_ended(manager, job)) {
        struct bmig_error err = {0};
        if (bmig_job_undo(manager, job, actions, &err))
            say(actions, "job %llu: %s", (unsigned long long)job->id, err.message);
    }
}

/* A socket that nobody listens on is a leftover; one that answers is a worker, known or not. */
static void cleanup_socket(struct bmig_manager *manager, const char *name, json_t *actions)
{
    static const char prefix[] = "volume-", suffix[] = ".control";
    size_t length = strlen(name), around = strlen(prefix) + strlen(suffix);
    if (length <= around || strncmp(name, prefix, strlen(prefix)) ||
        strcmp(name + length - strlen(suffix), suffix))
        return;
    char *volume = bmig_text("%.*s", (int)(length - around), name + strlen(prefix));
    char *control = bmig_paths_control(&manager->paths, volume);
    char *nbd = bmig_paths_nbd(&manager->paths, volume);
    bmig_manager_lock(manager);
    struct bmig_daemon_volume *known = bmig_daemon_volume_find_locked(manager, volume, NULL);
    bool in_use = known && (known->worker || known->busy);
    bmig_manager_unlock(manager);
    if (!in_use) {
        int rc = bmig_client_probe(control);
        if (rc == -ECONNREFUSED) {
            unlink(control);
            unlink(nbd);
            say(actions, "removed the stale sockets of volume '%s'", volume);
        } else if (rc == 0 && !known) {
            say(actions, "a worker serves '%s', which the journal doesn't know; it is left alone",
                volume);
        }
    }
    free(volume);
    free(control);
    free(nbd);
}

json_t *bmig_manager_cleanup(struct bmig_manager *manager)
{
    json_t *actions = json_array();
    cleanup_jobs(manager, actions);
    DIR *folder = opendir(manager->paths.run);
    struct dirent *entry;
    while (folder && (entry = readdir(folder)))
        cleanup_socket(manager, entry->d_name, actions);
    if (folder)
        closedir(folder);
    return actions;
}
