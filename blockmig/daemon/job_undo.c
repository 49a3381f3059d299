/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The undo of a job: the records of its phases, the last first. Each action may be run any number
 * of times and be interrupted anywhere; a target is removed only if it is surely the one that the
 * job made, and never while a worker may still write to it.
 */
#include <errno.h>
#include <string.h>

#include "blockmig/daemon/job_walk.h"
#include "blockmig/daemon/repo.h"
#include "blockmig/daemon/text.h"

enum { STOP_MS = 30000 };

int bmig_job_remove_target(struct bmig_manager *manager, const json_t *undo, bool done,
                           bool *removed, struct bmig_error *err)
{
    struct bmig_replica image = {0};
    struct bmig_place_stat stat;
    uint64_t size_bytes = (uint64_t)json_integer_value(json_object_get(undo, "size_bytes"));
    bmig_replica_from_json(&image, json_object_get(undo, "image"));
    *removed = false;
    int rc = bmig_replica_stat(manager, &image, &stat, err);
    /* Begun and not done: it may be someone else's of the same name, and if it is ours it holds
     * nothing. */
    bool empty = stat.size_bytes <= size_bytes && stat.allocated_bytes <= 1 << 20;
    if (rc == 0 && stat.exists && !done && !empty)
        rc = bmig_error_set(err, BMIG_REFUSED, EEXIST,
                            "'%.200s' is left: it can't be told whether blockmig made it",
                            image.uri);
    else if (rc == 0 && stat.exists) {
        rc = bmig_replica_remove(manager, &image, NULL, err);
        *removed = rc == 0;
    }
    bmig_replica_fini(&image);
    return rc;
}

static int undo_one(struct bmig_manager *manager, const struct bmig_phase_record *record,
                    json_t *actions, struct bmig_error *err)
{
    const char *what = json_string_value(json_object_get(record->undo, "do"));
    if (what && strcmp(what, "mirror-stop") == 0)
        return bmig_walk_stop_mirror(
            manager, json_string_value(json_object_get(record->undo, "volume")), STOP_MS, err);
    if (!what || strcmp(what, "remove"))
        return bmig_error_set(err, BMIG_FAILED, EINVAL,
                              "the journal holds an undo that is not known here");
    bool removed;
    int rc = bmig_job_remove_target(manager, record->undo, record->done, &removed, err);
    if (removed && actions) {
        const json_t *uri = json_object_get(json_object_get(record->undo, "image"), "uri");
        char *text = bmig_text("removed '%s'", json_string_value(uri));
        json_array_append_new(actions, json_string(text));
        free(text);
    }
    return rc;
}

int bmig_job_undo(struct bmig_manager *manager, struct bmig_job *job, json_t *actions,
                  struct bmig_error *err)
{
    struct bmig_phase_record *records = NULL;
    unsigned count = 0;
    bmig_manager_lock(manager);
    int rc = bmig_job_undo_list_locked(manager, job->id, &records, &count, err);
    bmig_manager_unlock(manager);
    for (unsigned i = 0; rc == 0 && i < count; i++) {
        /* In order, and not past a failure: a target must not go while its mirror may run. */
        rc = undo_one(manager, &records[i], actions, err);
        bmig_manager_lock(manager);
        if (rc == 0)
            rc = bmig_job_record_undone_locked(manager, job->id, records[i].phase, err);
        bmig_manager_unlock(manager);
    }
    bmig_job_undo_list_free(records, count);
    return rc;
}
