/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Volumes in the journal: created, imported, deleted, shown.
 *
 * Creation is recorded before the image is made (ready = 0) and once more behind it, so that a
 * daemon that dies in between finds what it began; deletion removes the image first and the record
 * last, so that it can be asked for again.
 */
#include "blockmig/daemon/daemon_volume.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/core/log.h"
#include "blockmig/daemon/job.h"
#include "blockmig/daemon/json_read.h"
#include "blockmig/daemon/names.h"
#include "blockmig/daemon/repo.h"
#include "blockmig/daemon/text.h"

enum { SECTOR_BYTES = 512, STAT_TIMEOUT_MS = 1000 };

static const uint64_t EMPTY_ALLOCATED_BYTES =
    1 << 20; /* an image of ours that holds nothing yet takes less */

static void free_volume(struct bmig_daemon_volume *volume)
{
    bmig_replica_fini(&volume->primary);
    bmig_client_unref(volume->worker);
    json_decref(volume->listen);
    json_decref(volume->bound);
    free(volume->name);
    free(volume);
}

static void insert_sorted(struct bmig_manager *manager, struct bmig_daemon_volume *volume)
{
    struct bmig_daemon_volume **link = &manager->volumes;
    while (*link && strcmp((*link)->name, volume->name) < 0)
        link = &(*link)->next;
    volume->next = *link;
    *link = volume;
}

static void unlink_volume(struct bmig_manager *manager, struct bmig_daemon_volume *volume)
{
    struct bmig_daemon_volume **link = &manager->volumes;
    while (*link != volume)
        link = &(*link)->next;
    *link = volume->next;
    free_volume(volume);
}

static char *column(sqlite3_stmt *row, int index)
{
    return bmig_text_copy((const char *)sqlite3_column_text(row, index));
}

static int load_row(void *user, sqlite3_stmt *row)
{
    struct bmig_daemon_volume *volume = bmig_zalloc(sizeof *volume);
    volume->name = column(row, 0);
    volume->size_bytes = (uint64_t)sqlite3_column_int64(row, 1);
    volume->epoch = (uint64_t)sqlite3_column_int64(row, 2);
    volume->wanted = sqlite3_column_int(row, 3);
    volume->busy = !sqlite3_column_int(row, 4); /* half made: see finish_creations */
    volume->listen = json_loads((const char *)sqlite3_column_text(row, 5), 0, NULL);
    volume->created_ms = sqlite3_column_int64(row, 6);
    volume->primary = (struct bmig_replica){
        .id = sqlite3_column_int64(row, 7),
        .repo = column(row, 8),
        .image = column(row, 9),
        .uri = column(row, 10),
        .format = column(row, 11),
        .identity = column(row, 12),
        .made = sqlite3_column_int(row, 13),
    };
    insert_sorted(user, volume);
    return 0;
}

int bmig_daemon_volume_load_locked(struct bmig_manager *manager, struct bmig_error *err)
{
    return bmig_journal_query(
        manager->journal, load_row, manager, err,
        "SELECT v.name, size_bytes, epoch, wanted, ready, listen, created_ms, r.id, "
        "repo, image, uri, format, identity, made FROM volumes v "
        "JOIN replicas r ON r.id = v.primary_replica",
        "");
}

struct bmig_daemon_volume *bmig_daemon_volume_find_locked(struct bmig_manager *manager,
                                                          const char *name, struct bmig_error *err)
{
    for (struct bmig_daemon_volume *v = manager->volumes; v; v = v->next)
        if (strcmp(v->name, name) == 0)
            return v;
    bmig_error_set(err, BMIG_NOT_FOUND, ENOENT, "there is no volume '%.128s'", name);
    return NULL;
}

int bmig_daemon_volume_check_unused_locked(struct bmig_manager *manager,
                                           const struct bmig_replica *replica, const char *except,
                                           struct bmig_error *err)
{
    for (struct bmig_daemon_volume *v = manager->volumes; v; v = v->next) {
        if (except && strcmp(v->name, except) == 0)
            continue;
        if (bmig_replica_same(&v->primary, replica))
            return bmig_error_set(err, BMIG_DENIED, EBUSY, "'%.200s' is the image of volume '%s'",
                                  replica->uri, v->name);
    }
    for (struct bmig_job *job = manager->jobs; job; job = job->next) {
        if (bmig_job_final(job->state) || (except && strcmp(job->volume, except) == 0))
            continue;
        if (bmig_replica_same(&job->to, replica) || bmig_replica_same(&job->from, replica))
            return bmig_error_set(err, BMIG_DENIED, EBUSY,
                                  "'%.200s' is in use by job %llu, which moves '%s'", replica->uri,
                                  (unsigned long long)job->id, job->volume);
    }
    return 0;
}

int bmig_replica_insert(struct bmig_manager *manager, struct bmig_replica *replica,
                        const char *volume, const char *role, struct bmig_error *err)
{
    int rc = bmig_journal_run(
        manager->journal, err,
        "INSERT INTO replicas (volume, repo, image, uri, format, identity, made, role) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        "ssssssbs", volume, replica->repo, replica->image, replica->uri, replica->format,
        replica->identity ? replica->identity : "", (int)replica->made, role);
    if (rc == 0)
        replica->id = bmig_journal_last_id(manager->journal);
    return rc;
}

static int journal_new(struct bmig_manager *manager, struct bmig_daemon_volume *volume, bool ready,
                       struct bmig_error *err)
{
    int rc = bmig_journal_begin(manager->journal, err);
    if (rc)
        return rc;
    rc = bmig_replica_insert(manager, &volume->primary, volume->name, "primary", err);
    if (rc == 0)
        rc = bmig_journal_run(manager->journal, err,
                              "INSERT INTO volumes VALUES (?, ?, 1, ?, 0, ?, '[]', ?)", "siibi",
                              volume->name, volume->size_bytes, volume->primary.id, (int)ready,
                              volume->created_ms);
    return bmig_journal_end(manager->journal, rc, err);
}

static int journal_delete(struct bmig_manager *manager, const char *name, struct bmig_error *err)
{
    int rc = bmig_journal_begin(manager->journal, err);
    if (rc)
        return rc;
    rc = bmig_journal_run(manager->journal, err, "DELETE FROM volumes WHERE name = ?", "s", name);
    return bmig_journal_end(manager->journal, rc, err);
}

static int journal_ready(struct bmig_manager *manager, const struct bmig_daemon_volume *volume,
                         struct bmig_error *err)
{
    int rc = bmig_journal_begin(manager->journal, err);
    if (rc)
        return rc;
    rc = bmig_journal_run(manager->journal, err, "UPDATE volumes SET ready = 1 WHERE name = ?", "s",
                          volume->name);
    if (rc == 0)
        rc =
            bmig_journal_run(manager->journal, err, "UPDATE replicas SET identity = ? WHERE id = ?",
                             "si", volume->primary.identity, volume->primary.id);
    return bmig_journal_end(manager->journal, rc, err);
}

/* Enters volume into the journal and the list, busy: its maker's alone until it says otherwise. */
static int enter(struct bmig_manager *manager, struct bmig_daemon_volume *volume, bool ready,
                 struct bmig_error *err)
{
    bmig_manager_lock(manager);
    int rc = 0;
    if (bmig_daemon_volume_find_locked(manager, volume->name, NULL))
        rc = bmig_error_set(err, BMIG_REFUSED, EEXIST, "there is a volume '%s' already",
                            volume->name);
    if (rc == 0)
        rc = bmig_daemon_volume_check_unused_locked(manager, &volume->primary, NULL, err);
    if (rc == 0)
        rc = journal_new(manager, volume, ready, err);
    if (rc == 0) {
        volume->busy = true;
        insert_sorted(manager, volume);
    }
    bmig_manager_unlock(manager);
    return rc;
}

static void release(struct bmig_manager *manager, struct bmig_daemon_volume *volume)
{
    bmig_manager_lock(manager);
    volume->busy = false;
    bmig_daemon_volume_publish_locked(manager, volume);
    bmig_manager_changed_locked(manager);
    bmig_manager_unlock(manager);
}

static int drop(struct bmig_manager *manager, struct bmig_daemon_volume *volume,
                struct bmig_error *err)
{
    bmig_manager_lock(manager);
    int rc = journal_delete(manager, volume->name, err);
    if (rc == 0) {
        json_t *event = json_pack("{s:s, s:s, s:s}", "event", "volume", "volume", volume->name,
                                  "state", "deleted");
        bmig_events_publish(manager->events, 0, false, event);
        unlink_volume(manager, volume);
    } else {
        volume->busy = false;
    }
    bmig_manager_changed_locked(manager);
    bmig_manager_unlock(manager);
    return rc;
}

static struct bmig_daemon_volume *new_volume(const char *name)
{
    struct bmig_daemon_volume *volume = bmig_zalloc(sizeof *volume);
    volume->name = bmig_text_copy(name);
    volume->epoch = 1;
    volume->listen = json_array();
    volume->created_ms = bmig_wall_ms();
    return volume;
}

static int check_name(struct bmig_manager *manager, const char *name, struct bmig_error *err)
{
    int rc = bmig_name_check("volume", name, err);
    if (rc == 0)
        rc = bmig_paths_check_volume(&manager->paths, name, err);
    if (rc)
        return rc;
    bmig_manager_lock(manager);
    if (bmig_daemon_volume_find_locked(manager, name, NULL))
        rc = bmig_error_set(err, BMIG_REFUSED, EEXIST, "there is a volume '%s' already", name);
    bmig_manager_unlock(manager);
    return rc;
}

static int check_new_image(struct bmig_manager *manager, const struct bmig_daemon_volume *volume,
                           struct bmig_error *err)
{
    struct bmig_place_stat stat;
    int rc = bmig_replica_stat(manager, &volume->primary, &stat, err);
    if (rc)
        return rc;
    if (stat.fixed)
        return bmig_error_set(
            err, BMIG_REFUSED, ENOTSUP,
            "repository '%s' holds fixed images: use `volume import` for one of them",
            volume->primary.repo);
    if (stat.exists)
        return bmig_error_set(err, BMIG_REFUSED, EEXIST,
                              "'%.200s' exists already: import it, or choose another name",
                              volume->primary.uri);
    return 0;
}

static int make_image(struct bmig_manager *manager, struct bmig_daemon_volume *volume,
                      struct bmig_error *err)
{
    struct bmig_place_stat stat;
    int rc = bmig_replica_create(manager, &volume->primary, volume->size_bytes, err);
    if (rc)
        return rc;
    struct bmig_error ignored = {0};
    if (bmig_replica_stat(manager, &volume->primary, &stat, &ignored) == 0)
        bmig_text_set(&volume->primary.identity, stat.identity);
    bmig_manager_lock(manager);
    rc = journal_ready(manager, volume, err);
    bmig_manager_unlock(manager);
    if (rc)
        bmig_replica_remove(manager, &volume->primary, volume->name, NULL);
    return rc;
}

int bmig_daemon_volume_create(struct bmig_manager *manager, const char *name, const char *repo,
                              uint64_t size_bytes, const char *format, struct bmig_error *err)
{
    int rc = check_name(manager, name, err);
    if (rc == 0)
        rc = bmig_name_check("repository", repo, err);
    if (rc)
        return rc;
    if (size_bytes == 0 || size_bytes % SECTOR_BYTES || size_bytes > INT64_MAX - SECTOR_BYTES)
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "size %llu: a multiple of %d bytes is needed",
                              (unsigned long long)size_bytes, SECTOR_BYTES);
    struct bmig_daemon_volume *volume = new_volume(name);
    volume->size_bytes = size_bytes;
    char *image = bmig_text("%s.%s", name, format ? format : "raw");
    rc = bmig_repo_resolve(manager, repo, image, format ? format : "raw", &volume->primary, err);
    free(image);
    volume->primary.made = true;
    if (rc == 0)
        rc = check_new_image(manager, volume, err);
    if (rc == 0)
        rc = enter(manager, volume, false, err);
    if (rc) {
        free_volume(volume);
        return rc;
    }
    rc = make_image(manager, volume, err);
    if (rc)
        drop(manager, volume, NULL);
    else
        release(manager, volume);
    return rc;
}

int bmig_daemon_volume_import(struct bmig_manager *manager, const char *name, const char *words,
                              const char *format, struct bmig_error *err)
{
    struct bmig_place_stat stat;
    int rc = check_name(manager, name, err);
    if (rc)
        return rc;
    struct bmig_daemon_volume *volume = new_volume(name);
    rc = bmig_repo_resolve(manager, words, NULL, format, &volume->primary, err);
    if (rc == 0)
        rc = bmig_replica_stat(manager, &volume->primary, &stat, err);
    if (rc == 0 && !stat.exists)
        rc = bmig_error_set(err, BMIG_NOT_FOUND, ENOENT, "'%.300s' does not exist",
                            volume->primary.uri);
    if (rc == 0 && stat.size_bytes == 0)
        rc = bmig_error_set(err, BMIG_REFUSED, EINVAL,
                            "'%.300s' is empty: a volume has at least %d bytes",
                            volume->primary.uri, SECTOR_BYTES);
    if (rc == 0) {
        volume->size_bytes = stat.size_bytes;
        bmig_text_set(&volume->primary.identity, stat.identity);
        rc = enter(manager, volume, true, err);
    }
    if (rc)
        free_volume(volume);
    else
        release(manager, volume);
    return rc;
}

static struct bmig_daemon_volume *claim_for_delete(struct bmig_manager *manager, const char *name,
                                                   struct bmig_error *err)
{
    struct bmig_daemon_volume *volume = bmig_daemon_volume_find_locked(manager, name, err);
    if (!volume)
        return NULL;
    if (volume->job) {
        bmig_error_set(err, BMIG_DENIED, EBUSY,
                       "volume '%s' is being moved by job %llu: cancel that first", name,
                       (unsigned long long)volume->job->id);
        return NULL;
    }
    if (volume->busy || volume->state != BMIG_VOLUME_STOPPED) {
        bmig_error_set(err, BMIG_DENIED, EBUSY, "volume '%s' is started: stop it first", name);
        return NULL;
    }
    volume->busy = true;
    return volume;
}

int bmig_daemon_volume_delete(struct bmig_manager *manager, const char *name,
                              struct bmig_error *err)
{
    bmig_manager_lock(manager);
    struct bmig_daemon_volume *volume = claim_for_delete(manager, name, err);
    bmig_manager_unlock(manager);
    if (!volume)
        return -EBUSY;
    int rc = volume->primary.made ? bmig_replica_remove(manager, &volume->primary, name, err) : 0;
    if (rc) {
        release(manager, volume);
        return rc;
    }
    return drop(manager, volume, err);
}

/* ---- shown ---- */

const char *bmig_daemon_volume_state_name(enum bmig_volume_state state)
{
    static const char *const names[] = {"stopped", "started", "failed"};
    return names[state];
}

static json_t *volume_json(struct bmig_manager *manager, const struct bmig_daemon_volume *volume)
{
    char *nbd = bmig_daemon_volume_nbd_uri(manager, volume->name), time[32];
    bool started = volume->state == BMIG_VOLUME_STARTED;
    json_t *json = json_pack(
        "{s:s, s:s?, s:s?, s:s, s:s, s:I, s:I, s:s, s:o, s:s?, s:n, s:o, s:o, s:o, s:s, s:b}",
        "name", volume->name, "repo", volume->primary.repo, "image", volume->primary.image, "uri",
        volume->primary.uri, "format", volume->primary.format, "size_bytes",
        (json_int_t)volume->size_bytes, "epoch", (json_int_t)volume->epoch, "state",
        bmig_daemon_volume_state_name(volume->state), "listen",
        json_deep_copy(started && volume->bound ? volume->bound : volume->listen), "nbd_uri",
        started ? nbd : NULL, "clients", "job",
        volume->job ? json_integer((json_int_t)volume->job->id) : json_null(), "worker_pid",
        volume->worker ? json_integer((json_int_t)bmig_client_pid(volume->worker)) : json_null(),
        "error",
        volume->state == BMIG_VOLUME_FAILED ? bmig_json_error(&volume->failure) : json_null(),
        "created", bmig_iso_time(time, volume->created_ms), "image_made_here",
        (int)volume->primary.made);
    free(nbd);
    return json;
}

json_t *bmig_daemon_volume_list(struct bmig_manager *manager)
{
    json_t *list = json_array();
    bmig_manager_lock(manager);
    for (struct bmig_daemon_volume *v = manager->volumes; v; v = v->next)
        json_array_append_new(list, volume_json(manager, v));
    bmig_manager_unlock(manager);
    return list;
}

json_t *bmig_daemon_volume_show(struct bmig_manager *manager, const char *name,
                                struct bmig_error *err)
{
    static const char *const from_worker[] = {"clients", "guest", "loop", "memory_bytes",
                                              "memory_bound_bytes"};
    struct bmig_client *worker = NULL;
    json_t *json = NULL, *stat = NULL;
    bmig_manager_lock(manager);
    struct bmig_daemon_volume *volume = bmig_daemon_volume_find_locked(manager, name, err);
    if (volume) {
        json = volume_json(manager, volume);
        worker = bmig_daemon_volume_worker_locked(volume, NULL);
    }
    bmig_manager_unlock(manager);
    if (worker && bmig_client_call(worker, json_pack("{s:s}", "do", "stat"), STAT_TIMEOUT_MS, &stat,
                                   NULL) == 0)
        for (size_t i = 0; i < sizeof from_worker / sizeof *from_worker; i++) {
            json_t *value = json_object_get(stat, from_worker[i]);
            json_object_set(json, from_worker[i], value ? value : json_null());
        }
    json_decref(stat);
    bmig_client_unref(worker);
    return json;
}

void bmig_daemon_volume_publish_locked(struct bmig_manager *manager,
                                       const struct bmig_daemon_volume *volume)
{
    json_t *event = json_pack("{s:s, s:s, s:s, s:s?}", "event", "volume", "volume", volume->name,
                              "state", bmig_daemon_volume_state_name(volume->state), "message",
                              volume->state == BMIG_VOLUME_FAILED ? volume->failure.message : NULL);
    bmig_events_publish(manager->events, 0, false, event);
}

/* ---- at start ---- */

static bool undo_creation(struct bmig_manager *manager, struct bmig_daemon_volume *volume)
{
    struct bmig_place_stat stat;
    struct bmig_error err = {0};
    int rc = bmig_replica_stat(manager, &volume->primary, &stat, &err);
    if (rc == 0 && stat.exists && !stat.fixed && stat.size_bytes == volume->size_bytes &&
        stat.allocated_bytes <= EMPTY_ALLOCATED_BYTES)
        rc = bmig_replica_remove(manager, &volume->primary, volume->name, &err);
    if (rc)
        bmig_log(BMIG_LOG_WARNING, "volume '%s' was half made and its image may be left: %s",
                 volume->name, err.message);
    return rc == 0;
}

void bmig_daemon_volume_finish_creations(struct bmig_manager *manager)
{
    struct bmig_daemon_volume *next;
    for (struct bmig_daemon_volume *v = manager->volumes; v; v = next) {
        next = v->next;
        if (v->busy && undo_creation(manager, v)) {
            bmig_log(BMIG_LOG_NOTICE, "volume '%s' was half made: undone", v->name);
            drop(manager, v, NULL);
        }
    }
}

void bmig_daemon_volume_free_all(struct bmig_manager *manager)
{
    while (manager->volumes)
        unlink_volume(manager, manager->volumes);
}
