/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Repositories: named places, kept in the journal and in a list beside it.
 */
#include "blockmig/daemon/repo.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#include "backends/backends.h"
#include "blockmig/daemon/names.h"
#include "blockmig/daemon/text.h"
#include "formats/formats.h"

static const char PROBE_IMAGE[] = ".blockmig-probe"; /* a name that is looked at, never made */

static void free_repo(struct bmig_repo *repo)
{
    free(repo->name);
    free(repo->uri);
    free(repo->secret_file);
    free(repo);
}

static void insert_sorted(struct bmig_manager *manager, struct bmig_repo *repo)
{
    struct bmig_repo **link = &manager->repos;
    while (*link && strcmp((*link)->name, repo->name) < 0)
        link = &(*link)->next;
    repo->next = *link;
    *link = repo;
}

static int load_row(void *user, sqlite3_stmt *row)
{
    struct bmig_repo *repo = bmig_zalloc(sizeof *repo);
    repo->name = bmig_text_copy((const char *)sqlite3_column_text(row, 0));
    repo->uri = bmig_text_copy((const char *)sqlite3_column_text(row, 1));
    json_t *settings = json_loads((const char *)sqlite3_column_text(row, 2), 0, NULL);
    repo->max_jobs = (uint64_t)json_integer_value(json_object_get(settings, "max_jobs"));
    repo->secret_file = bmig_text_copy(json_string_value(json_object_get(settings, "secret_file")));
    json_decref(settings);
    insert_sorted(user, repo);
    return 0;
}

int bmig_repo_load_locked(struct bmig_manager *manager, struct bmig_error *err)
{
    return bmig_journal_query(manager->journal, load_row, manager, err,
                              "SELECT name, uri, settings FROM repos", "");
}

struct bmig_repo *bmig_repo_find_locked(struct bmig_manager *manager, const char *name,
                                        struct bmig_error *err)
{
    for (struct bmig_repo *repo = manager->repos; repo; repo = repo->next)
        if (strcmp(repo->name, name) == 0)
            return repo;
    bmig_error_set(err, BMIG_NOT_FOUND, ENOENT, "there is no repository '%.128s'", name);
    return NULL;
}

static int journal_repo(struct bmig_manager *manager, const struct bmig_repo *repo,
                        struct bmig_error *err)
{
    json_t *settings = json_pack("{s:I, s:s?}", "max_jobs", (json_int_t)repo->max_jobs,
                                 "secret_file", repo->secret_file);
    char *text = json_dumps(settings, JSON_COMPACT);
    int rc = bmig_journal_begin(manager->journal, err);
    if (rc == 0) {
        rc = bmig_journal_run(manager->journal, err, "INSERT INTO repos VALUES (?, ?, ?, ?)",
                              "sssi", repo->name, repo->uri, text, bmig_wall_ms());
        rc = bmig_journal_end(manager->journal, rc, err);
    }
    free(text);
    json_decref(settings);
    return rc;
}

/* A replica that stands for the place itself, to ask it about its room. */
static int probe_replica(const struct bmig_repo *repo, struct bmig_replica *replica,
                         struct bmig_error *err)
{
    enum bmig_repo_place place;
    char *normal = NULL;
    int rc = bmig_repo_uri_normalise(repo->uri, &normal, &place, err);
    free(normal);
    if (rc)
        return rc;
    if (place == BMIG_PLACE_TARGET)
        return 0; /* no image to ask about without a number; replica->uri stays NULL */
    replica->repo = bmig_text_copy(repo->name);
    replica->format = bmig_text("raw");
    return bmig_repo_image_uri(repo->uri, place == BMIG_PLACE_SINGLE ? NULL : PROBE_IMAGE,
                               &replica->uri, err);
}

static int probe(struct bmig_manager *manager, const struct bmig_repo *repo,
                 struct bmig_place_stat *stat, struct bmig_error *err)
{
    struct bmig_replica replica = {0};
    *stat = (struct bmig_place_stat){.free_bytes = UINT64_MAX, .total_bytes = UINT64_MAX};
    int rc = probe_replica(repo, &replica, err);
    if (rc == 0 && replica.uri) {
        char *secret = NULL;
        struct bmig_open_options options = {.timeout_ns = 10000000000ull};
        struct bmig_image_spec spec = {.uri = replica.uri, .format = "raw"};
        rc = bmig_repo_secret_read(repo->secret_file, &secret, err);
        options.secret = secret;
        if (rc == 0)
            rc = bmig_image_stat(&spec, &options, stat, err);
        if (rc == 0 && !stat->exists)
            rc = bmig_replica_check_folder(replica.uri, err);
        bmig_repo_secret_free(secret);
    }
    bmig_replica_fini(&replica);
    return rc;
}

static int check_new(struct bmig_manager *manager, const char *name, struct bmig_error *err)
{
    int rc = bmig_name_check("repository", name, err);
    if (rc)
        return rc;
    if (bmig_backend_find(name))
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "'%s' can't name a repository: '%s:...' is a kind of place", name,
                              name);
    bmig_manager_lock(manager);
    if (bmig_repo_find_locked(manager, name, NULL))
        rc = bmig_error_set(err, BMIG_REFUSED, EEXIST, "there is a repository '%s' already", name);
    bmig_manager_unlock(manager);
    return rc;
}

int bmig_repo_add(struct bmig_manager *manager, const char *name, const char *uri,
                  uint64_t max_jobs, const char *secret_file, struct bmig_error *err)
{
    enum bmig_repo_place place;
    struct bmig_place_stat stat;
    int rc = check_new(manager, name, err);
    if (rc)
        return rc;
    if (secret_file && secret_file[0] != '/')
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "secret_file '%.200s' must be an absolute path", secret_file);
    struct bmig_repo *repo = bmig_zalloc(sizeof *repo);
    repo->name = bmig_text_copy(name);
    repo->max_jobs = max_jobs;
    repo->secret_file = bmig_text_copy(secret_file);
    rc = bmig_repo_uri_normalise(uri, &repo->uri, &place, err);
    if (rc == 0) {
        rc = probe(manager, repo, &stat, err);
        if (rc)
            bmig_error_prefix(err, "repository '%s' can't be used", name);
    }
    if (rc == 0) {
        bmig_manager_lock(manager);
        if (bmig_repo_find_locked(manager, name, NULL))
            rc = bmig_error_set(err, BMIG_REFUSED, EEXIST, "there is a repository '%s' already",
                                name);
        else
            rc = journal_repo(manager, repo, err);
        if (rc == 0) {
            insert_sorted(manager, repo);
            repo = NULL;
        }
        bmig_manager_unlock(manager);
    }
    if (repo)
        free_repo(repo);
    return rc;
}

static int check_unused_locked(struct bmig_manager *manager, const char *name,
                               struct bmig_error *err)
{
    int64_t used;
    int rc = bmig_journal_number(manager->journal, 0, &used, err,
                                 "SELECT count(*) FROM replicas WHERE repo = ?", "s", name);
    if (rc == 0 && used > 0)
        rc = bmig_error_set(
            err, BMIG_REFUSED, EBUSY,
            "repository '%s' holds %d image(s) of volumes: move or delete those first", name,
            (int)used);
    return rc;
}

static void unlink_repo(struct bmig_manager *manager, struct bmig_repo *repo)
{
    struct bmig_repo **link = &manager->repos;
    while (*link != repo)
        link = &(*link)->next;
    *link = repo->next;
    free_repo(repo);
}

void bmig_repo_free_all(struct bmig_manager *manager)
{
    while (manager->repos)
        unlink_repo(manager, manager->repos);
}

int bmig_repo_remove(struct bmig_manager *manager, const char *name, struct bmig_error *err)
{
    bmig_manager_lock(manager);
    struct bmig_repo *repo = bmig_repo_find_locked(manager, name, err);
    int rc = repo ? check_unused_locked(manager, name, err) : -ENOENT;
    if (rc == 0)
        rc = bmig_journal_begin(manager->journal, err);
    if (rc == 0) {
        rc = bmig_journal_run(manager->journal, err, "DELETE FROM repos WHERE name = ?", "s", name);
        rc = bmig_journal_end(manager->journal, rc, err);
        if (rc == 0)
            unlink_repo(manager, repo);
    }
    bmig_manager_unlock(manager);
    return rc;
}

static json_t *repo_json(struct bmig_manager *manager, const struct bmig_repo *repo)
{
    json_t *volumes = json_array();
    for (struct bmig_daemon_volume *v = manager->volumes; v; v = v->next)
        if (v->primary.repo && strcmp(v->primary.repo, repo->name) == 0)
            json_array_append_new(volumes, json_string(v->name));
    return json_pack("{s:s, s:s, s:I, s:s?, s:o}", "name", repo->name, "uri", repo->uri, "max_jobs",
                     (json_int_t)repo->max_jobs, "secret_file", repo->secret_file, "volumes",
                     volumes);
}

json_t *bmig_repo_list(struct bmig_manager *manager)
{
    json_t *list = json_array();
    bmig_manager_lock(manager);
    for (struct bmig_repo *repo = manager->repos; repo; repo = repo->next)
        json_array_append_new(list, repo_json(manager, repo));
    bmig_manager_unlock(manager);
    return list;
}

static json_t *bytes_or_null(uint64_t bytes)
{
    return bytes > INT64_MAX ? json_null() : json_integer((json_int_t)bytes);
}

json_t *bmig_repo_show(struct bmig_manager *manager, const char *name, struct bmig_error *err)
{
    struct bmig_repo copy = {0};
    bmig_manager_lock(manager);
    struct bmig_repo *repo = bmig_repo_find_locked(manager, name, err);
    json_t *json = repo ? repo_json(manager, repo) : NULL;
    if (repo) {
        copy.name = bmig_text_copy(repo->name);
        copy.uri = bmig_text_copy(repo->uri);
        copy.secret_file = bmig_text_copy(repo->secret_file);
    }
    bmig_manager_unlock(manager);
    if (!json)
        return NULL;
    struct bmig_place_stat stat;
    struct bmig_error why = {0};
    bool reachable = probe(manager, &copy, &stat, &why) == 0;
    json_object_set_new(json, "reachable", json_boolean(reachable));
    json_object_set_new(json, "problem", reachable ? json_null() : json_string(why.message));
    json_object_set_new(json, "free_bytes",
                        bytes_or_null(reachable ? stat.free_bytes : UINT64_MAX));
    json_object_set_new(json, "total_bytes",
                        bytes_or_null(reachable ? stat.total_bytes : UINT64_MAX));
    free(copy.name);
    free(copy.uri);
    free(copy.secret_file);
    return json;
}

static int resolve_repo(struct bmig_manager *manager, const char *default_image,
                        struct bmig_replica *replica, struct bmig_error *err)
{
    enum bmig_repo_place place;
    char *repo_uri = NULL, *normal = NULL;
    bmig_manager_lock(manager);
    struct bmig_repo *repo = bmig_repo_find_locked(manager, replica->repo, err);
    if (repo)
        repo_uri = bmig_text_copy(repo->uri);
    bmig_manager_unlock(manager);
    if (!repo_uri)
        return -ENOENT;
    int rc = bmig_repo_uri_normalise(repo_uri, &normal, &place, err);
    free(normal);
    if (rc == 0 && !replica->image && place == BMIG_PLACE_FOLDER)
        replica->image = bmig_text_copy(default_image);
    if (rc == 0)
        rc = bmig_repo_image_uri(repo_uri, replica->image, &replica->uri, err);
    free(repo_uri);
    return rc;
}

static int resolve_format(const char *format, struct bmig_replica *replica, struct bmig_error *err)
{
    if (!format) {
        const char *name = replica->image ? replica->image : replica->uri;
        char *path = bmig_text("%.*s", (int)strcspn(name, "?#"), name);
        replica->format = bmig_text("%s", bmig_format_by_ending(path));
        free(path);
        return 0;
    }
    if (!bmig_format_find(format))
        return bmig_error_set(err, BMIG_USAGE, EINVAL, "format '%.60s' is not known here", format);
    replica->format = bmig_text("%s", format);
    return 0;
}

int bmig_repo_resolve(struct bmig_manager *manager, const char *words, const char *default_image,
                      const char *format, struct bmig_replica *replica, struct bmig_error *err)
{
    enum bmig_image_words form;
    enum bmig_repo_place place;
    bmig_replica_fini(replica);
    int rc = bmig_image_words_parse(words, &form, &replica->repo, &replica->image, err);
    if (rc == 0 && form == BMIG_WORDS_URI)
        rc = bmig_repo_uri_normalise(words, &replica->uri, &place, err);
    else if (rc == 0)
        rc = resolve_repo(manager, default_image, replica, err);
    if (rc == 0)
        rc = resolve_format(format, replica, err);
    if (rc == 0)
        replica->identity = bmig_text("%s", "");
    else
        bmig_replica_fini(replica);
    return rc;
}
