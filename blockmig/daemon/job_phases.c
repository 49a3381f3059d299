/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The phases at both ends of a move: preflight and the target's making before the mirror, release
 * and the source's end behind the switch.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/core/log.h"
#include "blockmig/daemon/daemon_volume.h"
#include "blockmig/daemon/job_walk.h"
#include "blockmig/daemon/preflight.h"
#include "blockmig/daemon/repo.h"
#include "blockmig/daemon/text.h"

enum { RELEASE_TRIES = 5, STOP_MS = 30000 };

static uint64_t size_of_volume(struct bmig_walk *walk)
{
    bmig_manager_lock(walk->manager);
    struct bmig_daemon_volume *volume =
        bmig_daemon_volume_find_locked(walk->manager, walk->job->volume, NULL);
    uint64_t size_bytes = volume ? volume->size_bytes : 0;
    bmig_manager_unlock(walk->manager);
    return size_bytes;
}

static char *join(const json_t *problems)
{
    char *text = bmig_text("%s", "");
    size_t i;
    json_t *problem;
    json_array_foreach(problems, i, problem)
    {
        char *longer = bmig_text("%s%s%s", text, i ? "; " : "", json_string_value(problem));
        free(text);
        text = longer;
    }
    return text;
}

/* Copies of both replicas are looked at, and what was found out is put back under the mutex. */
int bmig_walk_preflight(struct bmig_walk *walk, struct bmig_error *err)
{
    struct bmig_replica from = {0}, to = {0};
    json_t *problems = json_array();
    bmig_replica_copy(&from, &walk->job->from);
    bmig_replica_copy(&to, &walk->job->to);
    int rc = bmig_preflight_run(walk->manager, walk->job->volume, size_of_volume(walk), &from, &to,
                                walk->job->id, false, problems, NULL, err);
    if (rc == 0 && json_array_size(problems) > 0) {
        char *text = join(problems);
        rc = bmig_error_set(err, BMIG_REFUSED, EPERM, "%s", text);
        free(text);
    }
    bmig_manager_lock(walk->manager);
    bmig_text_set(&walk->job->from.identity, from.identity);
    walk->job->to.made = to.made;
    bmig_text_set(&walk->job->to.identity, to.identity);
    bmig_manager_unlock(walk->manager);
    bmig_replica_fini(&from);
    bmig_replica_fini(&to);
    json_decref(problems);
    walk->next = BMIG_PHASE_CREATE_TARGET;
    return rc ? rc : bmig_walk_check(walk, err);
}

/* A daemon that died may have made it: then it has our size and holds nothing. */
static bool looks_like_ours(const struct bmig_place_stat *stat, uint64_t size_bytes)
{
    return stat->exists && !stat->fixed && stat->size_bytes == size_bytes &&
           stat->allocated_bytes <= 1 << 20;
}

static int make_target(struct bmig_walk *walk, uint64_t size_bytes, struct bmig_error *err)
{
    struct bmig_place_stat stat;
    struct bmig_error why = {0};
    int rc = bmig_replica_create(walk->manager, &walk->job->to, size_bytes, &why);
    if (rc == -EEXIST && walk->resumed &&
        bmig_replica_stat(walk->manager, &walk->job->to, &stat, NULL) == 0 &&
        looks_like_ours(&stat, size_bytes))
        rc = 0;
    if (rc == -EEXIST) { /* someone's: the undo must not touch it */
        bmig_manager_lock(walk->manager);
        bmig_job_record_undone_locked(walk->manager, walk->job->id, BMIG_PHASE_CREATE_TARGET, NULL);
        bmig_manager_unlock(walk->manager);
    }
    if (rc)
        return bmig_error_set(err, rc == -EEXIST ? BMIG_REFUSED : why.kind, why.code, "%s",
                              why.message);
    return 0;
}

int bmig_walk_create_target(struct bmig_walk *walk, struct bmig_error *err)
{
    struct bmig_place_stat stat;
    int rc = 0;
    if (walk->job->to.made)
        rc = make_target(walk, size_of_volume(walk), err);
    if (rc == 0)
        rc = bmig_replica_stat(walk->manager, &walk->job->to, &stat, err);
    if (rc)
        return rc;
    walk->known_zero = walk->job->to.made || stat.known_zero;
    walk->next = BMIG_PHASE_ATTACH;
    bmig_manager_lock(walk->manager);
    bmig_text_set(&walk->job->to.identity, stat.identity);
    rc = bmig_job_record_phase_done_locked(walk->manager, walk->job, err);
    bmig_manager_unlock(walk->manager);
    return rc ? rc : bmig_walk_check(walk, err);
}

/* ---- behind the switch: nothing fails any more ---- */

static void say(struct bmig_walk *walk, bool kept, const char *text)
{
    bmig_manager_lock(walk->manager);
    walk->job->source_kept = kept;
    bmig_text_set(&walk->job->result, text);
    bmig_manager_unlock(walk->manager);
}

int bmig_walk_release(struct bmig_walk *walk, struct bmig_error *err)
{
    struct bmig_error why = {0};
    walk->next = BMIG_PHASE_REMOVE_SOURCE;
    for (unsigned i = 0; i < RELEASE_TRIES; i++) {
        why = (struct bmig_error){0};
        if (bmig_walk_stop_mirror(walk->manager, walk->job->volume, STOP_MS, &why) == 0)
            return 0;
        int rc = bmig_walk_nap(walk, 1000, NULL);
        if (rc)
            return rc;
    }
    /* The old image may still be written to, so it is not ours to remove. */
    char *text = bmig_text("the old image '%s' is kept, for the worker did not let go of it: %s",
                           walk->job->from.uri, why.message);
    say(walk, true, text);
    free(text);
    walk->next = BMIG_PHASE_END;
    return 0;
}

int bmig_walk_remove_source(struct bmig_walk *walk, struct bmig_error *err)
{
    struct bmig_error why = {0};
    const struct bmig_replica *from = &walk->job->from;
    char *text = NULL;
    walk->next = BMIG_PHASE_END;
    if (walk->job->options.keep_source)
        text = bmig_text("the old image '%s' is kept, as asked", from->uri);
    else if (!from->made)
        text = bmig_text(
            "the old image '%s' is kept, for it was not made by blockmig: remove it yourself",
            from->uri);
    else if (bmig_replica_remove(walk->manager, from, NULL, &why))
        text = bmig_text("the old image '%s' is left: %s", from->uri, why.message);
    say(walk, text != NULL, text);
    if (text)
        bmig_log(BMIG_LOG_NOTICE, "job %llu: %s", (unsigned long long)walk->job->id, text);
    free(text);
    return bmig_walk_check(walk, NULL);
}
