/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Preflight: facts gathered from both places, then judged. The judging is a pure function of the
 * facts.
 */
#include "blockmig/daemon/preflight.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/core/units.h"
#include "blockmig/daemon/daemon_volume.h"
#include "blockmig/daemon/job.h"
#include "blockmig/daemon/repo.h"
#include "blockmig/daemon/text.h"
#include "formats/formats.h"

static const uint64_t SLACK_BYTES = 16 << 20;

static void add(json_t *problems, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(json_t *problems, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    json_array_append_new(problems, json_string(text));
}

uint64_t bmig_preflight_room_bytes(uint64_t size_bytes, uint64_t allocated_bytes)
{
    uint64_t held = allocated_bytes < size_bytes ? allocated_bytes : size_bytes;
    return held + held / 50 + SLACK_BYTES;
}

static void judge_source(const struct bmig_preflight_facts *facts, json_t *problems)
{
    if (facts->source_error.kind)
        add(problems, "the source can't be read: %s", facts->source_error.message);
    else if (!facts->source.exists)
        add(problems, "the source '%.300s' does not exist any more: `volume show %s`",
            facts->from->uri, facts->volume);
    else if (facts->source.size_bytes < facts->size_bytes)
        add(problems,
            "the source '%.300s' was cut to %llu bytes outside of blockmig; the volume has %llu",
            facts->from->uri, (unsigned long long)facts->source.size_bytes,
            (unsigned long long)facts->size_bytes);
}

static void judge_fixed(const struct bmig_preflight_facts *facts, json_t *problems)
{
    if (!facts->target.exists)
        add(problems,
            "the target '%.300s' does not exist and can't be created: make it at the storage first",
            facts->to->uri);
    else if (facts->target.size_bytes < facts->size_bytes)
        add(problems,
            "the target '%.300s' is too small: it has %llu bytes and the volume %llu; choose or "
            "make "
            "a larger one",
            facts->to->uri, (unsigned long long)facts->target.size_bytes,
            (unsigned long long)facts->size_bytes);
}

static void judge_room(const struct bmig_preflight_facts *facts, json_t *problems)
{
    char need[32], have[32];
    uint64_t room = bmig_preflight_room_bytes(
        facts->size_bytes,
        facts->source_error.kind ? facts->size_bytes : facts->source.allocated_bytes);
    if (facts->target.free_bytes == UINT64_MAX || facts->target_ours ||
        facts->target.free_bytes >= room)
        return;
    bmig_format_size(need, sizeof need, room);
    bmig_format_size(have, sizeof have, facts->target.free_bytes);
    add(problems,
        "there is not enough room for '%.300s': about %s are needed and %s are free; make room or "
        "choose another repository",
        facts->to->uri, need, have);
}

static bool same_image(const struct bmig_preflight_facts *facts)
{
    if (strcmp(facts->from->uri, facts->to->uri) == 0)
        return true;
    return facts->source.exists && facts->target.exists && facts->source.identity[0] &&
           strcmp(facts->source.identity, facts->target.identity) == 0;
}

static void judge_target(const struct bmig_preflight_facts *facts, json_t *problems)
{
    if (facts->target_error.kind) {
        add(problems, "the target can't be reached: %s", facts->target_error.message);
        return;
    }
    if (same_image(facts))
        add(problems,
            "source and target are one image ('%.200s' and '%.200s'): choose another place",
            facts->from->uri, facts->to->uri);
    else if (facts->target_used.kind)
        add(problems, "%s: choose another place", facts->target_used.message);
    else if (facts->target.fixed)
        judge_fixed(facts, problems);
    else if (facts->target.exists && !facts->target_ours)
        add(problems,
            "the target '%.300s' exists already and is not overwritten: name another image, or "
            "remove "
            "it yourself",
            facts->to->uri);
    else
        judge_room(facts, problems);
}

void bmig_preflight_judge(const struct bmig_preflight_facts *facts, json_t *problems)
{
    if (facts->moving_job)
        add(problems, "volume '%s' is being moved by job %llu: wait for it or cancel it",
            facts->volume, (unsigned long long)facts->moving_job);
    if (!bmig_format_find(facts->to->format))
        add(problems, "format '%.60s' can't be written here: choose another with --format",
            facts->to->format);
    judge_source(facts, problems);
    judge_target(facts, problems);
}

static json_t *bytes_or_null(uint64_t bytes)
{
    return bytes > INT64_MAX ? json_null() : json_integer((json_int_t)bytes);
}

static void write_plan(const struct bmig_preflight_facts *facts, json_t *plan)
{
    uint64_t allocated = facts->source.allocated_bytes;
    json_object_set_new(plan, "volume", json_string(facts->volume));
    json_object_set_new(plan, "size_bytes", json_integer((json_int_t)facts->size_bytes));
    json_object_set_new(plan, "source_uri", json_string(facts->from->uri));
    json_object_set_new(plan, "source_allocated_bytes", bytes_or_null(allocated));
    json_object_set_new(plan, "target_uri", json_string(facts->to->uri));
    json_object_set_new(plan, "target_format", json_string(facts->to->format));
    json_object_set_new(plan, "target_created", json_boolean(!facts->target.fixed));
    json_object_set_new(plan, "target_free_bytes", bytes_or_null(facts->target.free_bytes));
    json_object_set_new(
        plan, "room_bytes",
        json_integer((json_int_t)bmig_preflight_room_bytes(facts->size_bytes, allocated)));
}

int bmig_preflight_run(struct bmig_manager *manager, const char *volume, uint64_t size_bytes,
                       struct bmig_replica *from, struct bmig_replica *to, uint64_t own_job,
                       bool target_ours, json_t *problems, json_t *plan, struct bmig_error *err)
{
    struct bmig_preflight_facts facts = {.volume = volume,
                                         .size_bytes = size_bytes,
                                         .from = from,
                                         .to = to,
                                         .target_ours = target_ours};
    bmig_replica_stat(manager, from, &facts.source, &facts.source_error);
    if (bmig_replica_stat(manager, to, &facts.target, &facts.target_error) == 0 &&
        !facts.target.exists)
        bmig_replica_check_folder(to->uri, &facts.target_error);
    if (facts.source.exists && facts.source.identity[0])
        bmig_text_set(&from->identity, facts.source.identity);
    bmig_text_set(&to->identity, facts.target.exists ? facts.target.identity : "");
    to->made = !facts.target.fixed;
    bmig_manager_lock(manager);
    struct bmig_daemon_volume *v = bmig_daemon_volume_find_locked(manager, volume, err);
    if (v && v->job && v->job->id != own_job)
        facts.moving_job = v->job->id;
    bmig_daemon_volume_check_unused_locked(manager, to, volume, &facts.target_used);
    bmig_manager_unlock(manager);
    if (!v)
        return -ENOENT;
    bmig_preflight_judge(&facts, problems);
    if (plan)
        write_plan(&facts, plan);
    return 0;
}
