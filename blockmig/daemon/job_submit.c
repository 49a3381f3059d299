/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A move is asked for: the words are resolved, the preflight is run, and the job is recorded and
 * queued.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/daemon/daemon_volume.h"
#include "blockmig/daemon/job.h"
#include "blockmig/daemon/names.h"
#include "blockmig/daemon/preflight.h"
#include "blockmig/daemon/repo.h"
#include "blockmig/daemon/text.h"

struct draft {
    struct bmig_manager *manager;
    const struct bmig_move_wish *wish;
    uint64_t size_bytes, id;
    struct bmig_replica from, to;
    json_t *problems, *plan;
};

static int look_up(struct draft *draft, struct bmig_error *err)
{
    struct bmig_manager *manager = draft->manager;
    bmig_manager_lock(manager);
    struct bmig_daemon_volume *volume =
        bmig_daemon_volume_find_locked(manager, draft->wish->volume, err);
    if (volume) {
        bmig_replica_copy(&draft->from, &volume->primary);
        draft->size_bytes = volume->size_bytes;
        draft->id = manager->next_job_id; /* if nobody is faster: good enough for an image's name */
    }
    bmig_manager_unlock(manager);
    return volume ? 0 : -ENOENT;
}

/* A repository without an image: VOLUME.raw, or VOLUME-JOB.raw where that name is taken. */
static int choose_image(struct draft *draft, const char *format, struct bmig_error *err)
{
    struct bmig_place_stat stat;
    const struct bmig_move_wish *wish = draft->wish;
    char *image = bmig_text("%s.%s", wish->volume, format);
    int rc = bmig_repo_resolve(draft->manager, wish->destination, image, format, &draft->to, err);
    bool taken = rc == 0 && draft->to.image && strcmp(draft->to.image, image) == 0 &&
                 bmig_replica_stat(draft->manager, &draft->to, &stat, NULL) == 0 && stat.exists &&
                 !stat.fixed;
    free(image);
    if (!taken)
        return rc;
    image = bmig_text("%s-%llu.%s", wish->volume, (unsigned long long)draft->id, format);
    rc = bmig_repo_resolve(draft->manager, wish->destination, image, format, &draft->to, err);
    free(image);
    return rc;
}

static int resolve(struct draft *draft, struct bmig_error *err)
{
    enum bmig_image_words form;
    char *repo, *image;
    const struct bmig_move_wish *wish = draft->wish;
    int rc = bmig_image_words_parse(wish->destination, &form, &repo, &image, err);
    free(repo);
    free(image);
    if (rc)
        return rc;
    if (form == BMIG_WORDS_REPO)
        return choose_image(draft, wish->format ? wish->format : draft->from.format, err);
    return bmig_repo_resolve(draft->manager, wish->destination, NULL, wish->format, &draft->to,
                             err);
}

static int refuse(const json_t *problems, struct bmig_error *err)
{
    char text[sizeof err->message] = "";
    size_t i;
    json_t *problem;
    json_array_foreach(problems, i, problem)
    {
        size_t length = strlen(text);
        snprintf(text + length, sizeof text - length, "%s%s", i ? "; " : "",
                 json_string_value(problem));
    }
    return bmig_error_set(err, BMIG_REFUSED, EPERM, "%s", text);
}

static struct bmig_job *new_job(struct draft *draft)
{
    struct bmig_job *job = bmig_zalloc(sizeof *job);
    job->id = draft->id;
    job->state = BMIG_JOB_QUEUED;
    job->phase = BMIG_PHASE_QUEUED;
    job->volume = bmig_text_copy(draft->wish->volume);
    job->source = bmig_replica_words(&draft->from);
    job->target = bmig_replica_words(&draft->to);
    bmig_replica_copy(&job->from, &draft->from);
    bmig_replica_copy(&job->to, &draft->to);
    job->options = draft->wish->options;
    job->stats[BMIG_STAT_TOTAL] = job->stats[BMIG_STAT_STALE] = draft->size_bytes;
    job->stats[BMIG_STAT_ETA] = UINT64_MAX;
    job->created_ms = bmig_wall_ms();
    return job;
}

static void free_job(struct bmig_job *job)
{
    bmig_replica_fini(&job->from);
    bmig_replica_fini(&job->to);
    free(job->volume);
    free(job->source);
    free(job->target);
    free(job->result);
    free(job);
}

void bmig_job_free_all(struct bmig_manager *manager)
{
    while (manager->jobs) {
        struct bmig_job *job = manager->jobs;
        manager->jobs = job->next;
        free_job(job);
    }
}

/* What may have changed since the preflight looked is looked at once more, under the mutex. */
static int check_again_locked(struct draft *draft, struct bmig_daemon_volume *volume,
                              struct bmig_error *err)
{
    if (volume->job)
        return bmig_error_set(err, BMIG_REFUSED, EBUSY,
                              "volume '%s' is being moved by job %llu: wait for it or cancel it",
                              volume->name, (unsigned long long)volume->job->id);
    if (volume->primary.id != draft->from.id)
        return bmig_error_set(err, BMIG_REFUSED, ESTALE,
                              "volume '%s' was moved meanwhile: ask again", volume->name);
    return bmig_daemon_volume_check_unused_locked(draft->manager, &draft->to, volume->name, err);
}

static json_t *enqueue(struct draft *draft, struct bmig_error *err)
{
    struct bmig_manager *manager = draft->manager;
    struct bmig_job *job = new_job(draft);
    json_t *json = NULL;
    bmig_manager_lock(manager);
    struct bmig_daemon_volume *volume = bmig_daemon_volume_find_locked(manager, job->volume, err);
    int rc = volume ? check_again_locked(draft, volume, err) : -ENOENT;
    job->id = manager->next_job_id;
    if (rc == 0)
        rc = bmig_job_record_new_locked(manager, job, err);
    if (rc == 0) {
        manager->next_job_id++;
        volume->job = job;
        job->next = manager->jobs;
        manager->jobs = job;
        bmig_job_publish_locked(manager, job);
        bmig_queue_admit_locked(manager);
        json = bmig_job_json_locked(job);
    }
    bmig_manager_unlock(manager);
    if (rc)
        free_job(job);
    return json;
}

static json_t *plan_json(struct draft *draft)
{
    char *source = bmig_replica_words(&draft->from), *target = bmig_replica_words(&draft->to);
    json_object_set_new(draft->plan, "dry_run", json_true());
    json_object_set_new(draft->plan, "kind", json_string("move"));
    json_object_set_new(draft->plan, "source", json_string(source));
    json_object_set_new(draft->plan, "target", json_string(target));
    json_object_set_new(draft->plan, "options", bmig_job_options_json(&draft->wish->options));
    json_object_set_new(draft->plan, "ok", json_boolean(json_array_size(draft->problems) == 0));
    json_object_set(draft->plan, "problems", draft->problems);
    free(source);
    free(target);
    return json_incref(draft->plan);
}

json_t *bmig_job_submit(struct bmig_manager *manager, const struct bmig_move_wish *wish,
                        struct bmig_error *err)
{
    struct draft draft = {.manager = manager, .wish = wish};
    json_t *json = NULL;
    draft.problems = json_array();
    draft.plan = json_object();
    int rc = look_up(&draft, err);
    if (rc == 0)
        rc = resolve(&draft, err);
    if (rc == 0)
        rc = bmig_preflight_run(manager, wish->volume, draft.size_bytes, &draft.from, &draft.to,
                                draft.id, false, draft.problems, draft.plan, err);
    if (rc == 0 && wish->dry_run)
        json = plan_json(&draft);
    else if (rc == 0 && json_array_size(draft.problems) > 0)
        refuse(draft.problems, err);
    else if (rc == 0)
        json = enqueue(&draft, err);
    bmig_replica_fini(&draft.from);
    bmig_replica_fini(&draft.to);
    json_decref(draft.problems);
    json_decref(draft.plan);
    return json;
}
