/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The API's routes: what each reads, which function it is, what it answers.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "blockmig/daemon/api.h"
#include "blockmig/daemon/daemon_volume.h"
#include "blockmig/daemon/job.h"
#include "blockmig/daemon/json_read.h"
#include "blockmig/daemon/metrics.h"
#include "blockmig/daemon/repo.h"
#include "blockmig/daemon/text.h"

enum { CREATED = 201, FRESH_MS = 200 };

static int no_body(const struct bmig_api_request *request, struct bmig_error *err)
{
    static const struct bmig_json_field none[] = {{0}};
    return bmig_json_read(request->body, none, err);
}

static int parse_id(const char *text, const char *what, uint64_t *id, struct bmig_error *err)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || value > INT64_MAX)
        return bmig_error_set(err, BMIG_USAGE, EINVAL, "'%.60s' is no %s", text, what);
    *id = value;
    return 0;
}

/* ---- the daemon ---- */

static int get_status(struct bmig_api_request *request, struct bmig_error *err)
{
    struct bmig_manager *manager = request->manager;
    json_int_t volumes = 0, running = 0, queued = 0;
    bmig_manager_lock(manager);
    for (struct bmig_daemon_volume *v = manager->volumes; v; v = v->next)
        volumes++;
    for (struct bmig_job *job = manager->jobs; job; job = job->next) {
        queued += job->state == BMIG_JOB_QUEUED;
        running += job->state != BMIG_JOB_QUEUED && !bmig_job_final(job->state);
    }
    request->reply = json_pack("{s:s, s:I, s:s?, s:I, s:I, s:I, s:I}", "version", BLOCKMIG_VERSION,
                               "pid", (json_int_t)getpid(), "root", manager->paths.root, "volumes",
                               volumes, "jobs_running", running, "jobs_queued", queued, "max_jobs",
                               (json_int_t)manager->max_jobs);
    bmig_manager_unlock(manager);
    return 0;
}

static int post_recover(struct bmig_api_request *request, struct bmig_error *err)
{
    int rc = no_body(request, err);
    if (rc == 0)
        request->reply = json_pack("{s:o}", "actions", bmig_manager_recover(request->manager));
    return rc;
}

static int post_cleanup(struct bmig_api_request *request, struct bmig_error *err)
{
    int rc = no_body(request, err);
    if (rc == 0)
        request->reply = json_pack("{s:o}", "actions", bmig_manager_cleanup(request->manager));
    return rc;
}

static int get_metrics(struct bmig_api_request *request, struct bmig_error *err)
{
    request->text = bmig_metrics_text(request->manager);
    return request->text ? 0
                         : bmig_error_set(err, BMIG_FAILED, ENOMEM, "no memory for the metrics");
}

static int get_events(struct bmig_api_request *request, struct bmig_error *err)
{
    const char *job = bmig_api_query(request, "job"), *after = bmig_api_query(request, "after");
    int rc = 0;
    if (job)
        rc = parse_id(job, "job's number", &request->stream_job, err);
    if (rc == 0 && after)
        rc = parse_id(after, "event's id", &request->stream_after, err);
    if (rc == 0 && job) {
        bmig_manager_lock(request->manager);
        rc = bmig_job_find_locked(request->manager, request->stream_job, err) ? 0 : -ENOENT;
        bmig_manager_unlock(request->manager);
    }
    request->stream = rc == 0;
    return rc;
}

static int get_resolve(struct bmig_api_request *request, struct bmig_error *err)
{
    const char *image = bmig_api_query(request, "image"),
               *format = bmig_api_query(request, "format");
    struct bmig_replica replica = {0};
    char *secret_file = NULL;
    if (!image)
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "'image' is missing: /v1/resolve?image=REPO:IMAGE");
    int rc = bmig_repo_resolve(request->manager, image, NULL, format, &replica, err);
    if (rc)
        return rc;
    if (replica.repo) {
        bmig_manager_lock(request->manager);
        struct bmig_repo *repo = bmig_repo_find_locked(request->manager, replica.repo, NULL);
        secret_file = repo ? bmig_text_copy(repo->secret_file) : NULL;
        bmig_manager_unlock(request->manager);
    }
    request->reply = json_pack("{s:s, s:s, s:s?}", "uri", replica.uri, "format", replica.format,
                               "secret_file", secret_file);
    free(secret_file);
    bmig_replica_fini(&replica);
    return 0;
}

/* ---- repositories ---- */

static int get_repos(struct bmig_api_request *request, struct bmig_error *err)
{
    request->reply = bmig_repo_list(request->manager);
    return 0;
}

static int get_repo(struct bmig_api_request *request, struct bmig_error *err)
{
    request->reply = bmig_repo_show(request->manager, request->args[0], err);
    return request->reply ? 0 : -ENOENT;
}

static int post_repos(struct bmig_api_request *request, struct bmig_error *err)
{
    const char *name = "", *uri = "", *secret_file = NULL;
    uint64_t max_jobs = 0;
    const struct bmig_json_field fields[] = {
        {.name = "name", .type = BMIG_JSON_STRING, .value = &name, .required = true},
        {.name = "uri", .type = BMIG_JSON_STRING, .value = &uri, .required = true},
        {.name = "max_jobs", .type = BMIG_JSON_U64, .value = &max_jobs},
        {.name = "secret_file", .type = BMIG_JSON_STRING, .value = &secret_file},
        {0}};
    int rc = bmig_json_read(request->body, fields, err);
    if (rc == 0)
        rc = bmig_repo_add(request->manager, name, uri, max_jobs, secret_file, err);
    if (rc)
        return rc;
    request->status = CREATED;
    request->reply = bmig_repo_show(request->manager, name, err);
    return request->reply ? 0 : -ENOENT;
}

static int delete_repo(struct bmig_api_request *request, struct bmig_error *err)
{
    int rc = bmig_repo_remove(request->manager, request->args[0], err);
    if (rc == 0)
        request->reply = json_pack("{s:s}", "removed", request->args[0]);
    return rc;
}

/* ---- volumes ---- */

static int show_volume(struct bmig_api_request *request, const char *name, int status,
                       struct bmig_error *err)
{
    request->status = status;
    request->reply = bmig_daemon_volume_show(request->manager, name, err);
    return request->reply ? 0 : -ENOENT;
}

static int get_volumes(struct bmig_api_request *request, struct bmig_error *err)
{
    request->reply = bmig_daemon_volume_list(request->manager);
    return 0;
}

static int get_volume(struct bmig_api_request *request, struct bmig_error *err)
{
    return show_volume(request, request->args[0], 200, err);
}

static int post_volumes(struct bmig_api_request *request, struct bmig_error *err)
{
    const char *name = "", *repo = "", *format = NULL; /* the required ones are set, or it fails */
    uint64_t size_bytes = 0;
    const struct bmig_json_field fields[] = {
        {.name = "name", .type = BMIG_JSON_STRING, .value = &name, .required = true},
        {.name = "repo", .type = BMIG_JSON_STRING, .value = &repo, .required = true},
        {.name = "size_bytes", .type = BMIG_JSON_U64, .value = &size_bytes, .required = true},
        {.name = "format", .type = BMIG_JSON_STRING, .value = &format},
        {0}};
    int rc = bmig_json_read(request->body, fields, err);
    if (rc == 0)
        rc = bmig_daemon_volume_create(request->manager, name, repo, size_bytes, format, err);
    return rc ? rc : show_volume(request, name, CREATED, err);
}

static int post_import(struct bmig_api_request *request, struct bmig_error *err)
{
    const char *name = "", *uri = "", *format = NULL;
    const struct bmig_json_field fields[] = {
        {.name = "name", .type = BMIG_JSON_STRING, .value = &name, .required = true},
        {.name = "uri", .type = BMIG_JSON_STRING, .value = &uri, .required = true},
        {.name = "format", .type = BMIG_JSON_STRING, .value = &format},
        {0}};
    int rc = bmig_json_read(request->body, fields, err);
    if (rc == 0)
        rc = bmig_daemon_volume_import(request->manager, name, uri, format, err);
    return rc ? rc : show_volume(request, name, CREATED, err);
}

static int delete_volume(struct bmig_api_request *request, struct bmig_error *err)
{
    int rc = bmig_daemon_volume_delete(request->manager, request->args[0], err);
    if (rc == 0)
        request->reply = json_pack("{s:s}", "deleted", request->args[0]);
    return rc;
}

static int post_start(struct bmig_api_request *request, struct bmig_error *err)
{
    json_t *listen = NULL;
    const char *name = request->args[0];
    const struct bmig_json_field fields[] = {
        {.name = "listen", .type = BMIG_JSON_STRINGS, .value = &listen}, {0}};
    int rc = bmig_json_read(request->body, fields, err);
    if (rc == 0)
        rc = bmig_daemon_volume_start(request->manager, name, listen, false, err);
    if (rc)
        return rc;
    bmig_manager_lock(request->manager);
    struct bmig_daemon_volume *volume = bmig_daemon_volume_find_locked(request->manager, name, err);
    if (volume) {
        char *uri = bmig_daemon_volume_nbd_uri(request->manager, name);
        request->reply = json_pack("{s:s, s:o}", "uri", uri, "listen",
                                   json_deep_copy(volume->bound ? volume->bound : volume->listen));
        free(uri);
    }
    bmig_manager_unlock(request->manager);
    return volume ? 0 : -ENOENT;
}

static int post_stop(struct bmig_api_request *request, struct bmig_error *err)
{
    bool force = false;
    const struct bmig_json_field fields[] = {
        {.name = "force", .type = BMIG_JSON_BOOL, .value = &force}, {0}};
    int rc = bmig_json_read(request->body, fields, err);
    if (rc == 0)
        rc = bmig_daemon_volume_stop(request->manager, request->args[0], force, false, err);
    return rc ? rc : show_volume(request, request->args[0], 200, err);
}

/* ---- moves and jobs ---- */

static int one_volume(const json_t *volumes, const char **name, struct bmig_error *err)
{
    size_t count = json_array_size(volumes);
    if (count == 0)
        return bmig_error_set(err, BMIG_USAGE, EINVAL, "'volumes' names none");
    if (count > 1)
        return bmig_error_set(err, BMIG_REFUSED, ENOTSUP,
                              "%zu volumes in one move are not possible yet: move them one by one",
                              count);
    *name = json_string_value(json_array_get(volumes, 0));
    return 0;
}

static int post_moves(struct bmig_api_request *request, struct bmig_error *err)
{
    struct bmig_move_wish wish = {.options = {.verify = true}};
    struct bmig_move_options *options = &wish.options;
    json_t *volumes = NULL;
    const struct bmig_json_field fields[] = {
        {.name = "volumes", .type = BMIG_JSON_STRINGS, .value = &volumes, .required = true},
        {.name = "destination",
         .type = BMIG_JSON_STRING,
         .value = &wish.destination,
         .required = true},
        {.name = "format", .type = BMIG_JSON_STRING, .value = &wish.format},
        {.name = "bandwidth_bytes_per_s",
         .type = BMIG_JSON_U64,
         .value = &options->bandwidth_bytes_per_s},
        {.name = "max_latency_us", .type = BMIG_JSON_U64, .value = &options->max_latency_us},
        {.name = "verify", .type = BMIG_JSON_BOOL, .value = &options->verify},
        {.name = "hold", .type = BMIG_JSON_BOOL, .value = &options->hold},
        {.name = "undo_window_ms", .type = BMIG_JSON_U64, .value = &options->undo_window_ms},
        {.name = "keep_source", .type = BMIG_JSON_BOOL, .value = &options->keep_source},
        {.name = "dry_run", .type = BMIG_JSON_BOOL, .value = &wish.dry_run},
        {0}};
    int rc = bmig_json_read(request->body, fields, err);
    if (rc == 0)
        rc = one_volume(volumes, &wish.volume, err);
    if (rc)
        return rc;
    request->status = wish.dry_run ? 200 : CREATED;
    request->reply = bmig_job_submit(request->manager, &wish, err);
    return request->reply ? 0 : -EIO;
}

static int get_jobs(struct bmig_api_request *request, struct bmig_error *err)
{
    json_t *list = json_array();
    bmig_manager_lock(request->manager);
    for (struct bmig_job *job = request->manager->jobs; job; job = job->next)
        json_array_insert_new(list, 0, bmig_job_json_locked(job));
    bmig_manager_unlock(request->manager);
    request->reply = list;
    return 0;
}

static int show_job(struct bmig_api_request *request, uint64_t id, struct bmig_error *err)
{
    bmig_manager_lock(request->manager);
    struct bmig_job *job = bmig_job_find_locked(request->manager, id, err);
    request->reply = job ? bmig_job_json_locked(job) : NULL;
    bmig_manager_unlock(request->manager);
    return job ? 0 : -ENOENT;
}

static int get_job(struct bmig_api_request *request, struct bmig_error *err)
{
    uint64_t id;
    int rc = parse_id(request->args[0], "job's number", &id, err);
    if (rc)
        return rc;
    bmig_job_refresh(request->manager, id, FRESH_MS);
    return show_job(request, id, err);
}

static int patch_job(struct bmig_api_request *request, struct bmig_error *err)
{
    uint64_t id, bandwidth, latency;
    bool has_bandwidth = false, has_latency = false;
    const struct bmig_json_field fields[] = {
        {.name = "bandwidth_bytes_per_s",
         .type = BMIG_JSON_U64,
         .value = &bandwidth,
         .given = &has_bandwidth},
        {.name = "max_latency_us", .type = BMIG_JSON_U64, .value = &latency, .given = &has_latency},
        {0}};
    int rc = parse_id(request->args[0], "job's number", &id, err);
    if (rc == 0)
        rc = bmig_json_read(request->body, fields, err);
    if (rc == 0)
        rc = bmig_job_set_limits(request->manager, id, has_bandwidth ? &bandwidth : NULL,
                                 has_latency ? &latency : NULL, err);
    return rc ? rc : show_job(request, id, err);
}

static int post_job_verb(struct bmig_api_request *request, struct bmig_error *err)
{
    static const enum bmig_job_verb verbs[] = {BMIG_VERB_PAUSE,    BMIG_VERB_RESUME,
                                               BMIG_VERB_CANCEL,   BMIG_VERB_SWITCH,
                                               BMIG_VERB_ROLLBACK, BMIG_VERB_COMMIT};
    uint64_t id;
    int rc = parse_id(request->args[0], "job's number", &id, err);
    if (rc == 0)
        rc = no_body(request, err);
    if (rc)
        return rc;
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
        if (strcmp(request->args[1], bmig_job_verb_name(verbs[i])) == 0) {
            rc = bmig_job_verb(request->manager, id, verbs[i], err);
            return rc ? rc : show_job(request, id, err);
        }
    return bmig_error_set(err, BMIG_NOT_FOUND, ENOENT, "jobs have no verb '%.60s'",
                          request->args[1]);
}

const struct bmig_api_route bmig_api_routes[] = {
    {"GET", "/v1/status", NULL, get_status},
    {"GET", "/v1/repos", NULL, get_repos},
    {"POST", "/v1/repos", NULL, post_repos},
    {"GET", "/v1/repos/*", NULL, get_repo},
    {"DELETE", "/v1/repos/*", NULL, delete_repo},
    {"GET", "/v1/volumes", NULL, get_volumes},
    {"POST", "/v1/volumes", NULL, post_volumes},
    {"POST", "/v1/volumes/import", NULL, post_import},
    {"GET", "/v1/volumes/*", NULL, get_volume},
    {"DELETE", "/v1/volumes/*", NULL, delete_volume},
    {"POST", "/v1/volumes/*/start", NULL, post_start},
    {"POST", "/v1/volumes/*/stop", NULL, post_stop},
    {"POST", "/v1/moves", NULL, post_moves},
    {"GET", "/v1/jobs", NULL, get_jobs},
    {"GET", "/v1/jobs/*", NULL, get_job},
    {"PATCH", "/v1/jobs/*", NULL, patch_job},
    {"POST", "/v1/jobs/*/*", NULL, post_job_verb},
    {"GET", "/v1/events", "job after", get_events},
    {"GET", "/v1/resolve", "image format", get_resolve},
    {"POST", "/v1/recover", NULL, post_recover},
    {"POST", "/v1/cleanup", NULL, post_cleanup},
    {"GET", "/metrics", NULL, get_metrics},
    {0},
};
