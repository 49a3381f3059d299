/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The record filter: one entry a request, filled in at its start and at its end.
 */
#include "backends/record.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "backends/backends.h"

enum { SECTOR_BYTES = 512 };

#define NOT_LOGGED UINT64_MAX

struct record {
    struct bmig_record_entry *entries;
    size_t count, capacity, limit;
    uint64_t events;
    uint64_t dropped;
    uint32_t in_flight;
    enum bmig_record_data data;
    bool lacks_data; /* some WRITE was logged without its data */
    FILE *file;
};

static struct bmig_record_entry *new_entry(struct record *record)
{
    if (record->count == record->limit)
        return NULL;
    if (record->count == record->capacity) {
        size_t capacity = record->capacity ? record->capacity * 2 : 256;
        struct bmig_record_entry *entries =
            realloc(record->entries, capacity * sizeof(record->entries[0]));
        if (!entries)
            return NULL;
        record->entries = entries;
        record->capacity = capacity;
    }
    return &record->entries[record->count++];
}

/* Logs that request came; returns its index. The data is taken now: it is the caller's to change
 * once the request is done. */
static uint64_t log_start(struct record *record, const struct bmig_request *request)
{
    record->events++;
    struct bmig_record_entry *entry = new_entry(record);
    if (!entry) {
        record->dropped++;
        return NOT_LOGGED;
    }
    *entry = (struct bmig_record_entry){.op = request->op,
                                        .flags = request->flags,
                                        .offset = request->offset,
                                        .length = request->length,
                                        .submitted = record->events};
    if (request->op != BMIG_WRITE)
        return record->count - 1;
    if (record->data != BMIG_RECORD_NONE)
        entry->hash = XXH3_64bits(request->data, request->length);
    if (record->data == BMIG_RECORD_KEEP && (entry->data = malloc(request->length)))
        memcpy(entry->data, request->data, request->length);
    else
        record->lacks_data = true;
    return record->count - 1;
}

static void log_end(struct record *record, uint64_t index, const struct bmig_request *request,
                    int status)
{
    record->events++;
    if (index == NOT_LOGGED)
        return;
    struct bmig_record_entry *entry = &record->entries[index];
    entry->completed = record->events;
    entry->status = status;
    if (request->op == BMIG_READ && status == 0 && record->data != BMIG_RECORD_NONE)
        entry->hash = XXH3_64bits(request->data, request->length);
    if (record->file)
        fprintf(record->file,
                "%" PRIu64 " %s %" PRIu64 " %" PRIu64 " %#" PRIx32 " %d %016" PRIx64 "\n", index,
                bmig_filter_op_name(entry->op), entry->offset, entry->length, entry->flags, status,
                entry->hash);
}

static void child_done(struct bmig_request *below, int status)
{
    struct bmig_filter_child *child = (struct bmig_filter_child *)below;
    struct record *record = child->disk->state;
    struct bmig_request *above = child->above;
    log_end(record, child->number, above, status);
    record->in_flight--;
    bmig_filter_child_free(child);
    bmig_disk_complete(above, status);
}

static void record_submit(struct bmig_disk *disk, struct bmig_request *request)
{
    struct record *record = disk->state;
    struct bmig_filter_child *child = bmig_filter_child_new(disk, request, child_done);
    if (!child) {
        bmig_disk_complete(request, -ENOMEM);
        return;
    }
    child->number = log_start(record, request);
    record->in_flight++;
    bmig_disk_submit(disk->next, &child->below);
}

/* ---- looking ---- */

struct bmig_disk *bmig_record_find(struct bmig_disk *disk)
{
    return bmig_filter_at(disk, &bmig_record_driver);
}

void bmig_record_set_data(struct bmig_disk *filter, enum bmig_record_data data)
{
    struct record *record = filter->state;
    record->data = data;
}

size_t bmig_record_count(const struct bmig_disk *filter)
{
    const struct record *record = filter->state;
    return record->count;
}

const struct bmig_record_entry *bmig_record_at(const struct bmig_disk *filter, size_t index)
{
    const struct record *record = filter->state;
    assert(index < record->count);
    return &record->entries[index];
}

size_t bmig_record_count_of(const struct bmig_disk *filter, uint32_t ops, uint64_t offset,
                            uint64_t length)
{
    const struct record *record = filter->state;
    size_t found = 0;
    for (size_t i = 0; i < record->count; i++) {
        const struct bmig_record_entry *entry = &record->entries[i];
        if (ops & 1u << entry->op && (length == 0 || (entry->offset < offset + length &&
                                                      offset < entry->offset + entry->length)))
            found++;
    }
    return found;
}

uint64_t bmig_record_events(const struct bmig_disk *filter)
{
    const struct record *record = filter->state;
    return record->events;
}

void bmig_record_clear(struct bmig_disk *filter)
{
    struct record *record = filter->state;
    assert(record->in_flight == 0);
    for (size_t i = 0; i < record->count; i++)
        free(record->entries[i].data);
    record->count = 0;
    record->events = 0;
    record->dropped = 0;
    record->lacks_data = false;
}

/* ---- cutting the power ---- */

/* The latest point at which a FLUSH began that had ended well by `events`: all that completed
 * before is safe. */
static uint64_t safe_point(const struct record *record, uint64_t events)
{
    uint64_t safe = 0;
    for (size_t i = 0; i < record->count; i++) {
        const struct bmig_record_entry *entry = &record->entries[i];
        if (entry->op == BMIG_FLUSH && entry->completed && entry->completed <= events &&
            entry->status == 0 && entry->submitted > safe)
            safe = entry->submitted;
    }
    return safe;
}

static void apply(const struct bmig_record_entry *entry, bool is_safe, uint64_t *random,
                  uint8_t *image)
{
    for (uint64_t at = 0; at < entry->length; at += SECTOR_BYTES) {
        uint64_t length = entry->length - at < SECTOR_BYTES ? entry->length - at : SECTOR_BYTES;
        /* A discarded block may read as before, however safe the discard is. */
        bool is_done = is_safe && entry->op != BMIG_DISCARD;
        if (!is_done && bmig_filter_random(random) & 1)
            continue;
        if (entry->op == BMIG_WRITE)
            memcpy(image + entry->offset + at, entry->data + at, length);
        else
            memset(image + entry->offset + at, 0, length);
    }
}

int bmig_record_cut_power(const struct bmig_disk *filter, uint64_t events, uint64_t seed,
                          uint8_t *image, uint64_t size_bytes)
{
    const struct record *record = filter->state;
    if (record->lacks_data || record->dropped || size_bytes < filter->size_bytes)
        return -EINVAL;
    uint64_t safe = safe_point(record, events);
    for (size_t i = 0; i < record->count; i++) {
        const struct bmig_record_entry *entry = &record->entries[i];
        if (entry->submitted > events)
            break;
        if (!(BMIG_OPS_CHANGE & 1u << entry->op))
            continue;
        bool ended = entry->completed && entry->completed <= events && entry->status == 0;
        apply(entry, ended && (entry->flags & BMIG_FUA || entry->completed < safe), &seed, image);
    }
    return 0;
}

/* ---- life ---- */

static int parse(struct record *record, const struct bmig_uri *uri, struct bmig_error *err)
{
    static const char *const params[] = {"data", "file", "limit", NULL};
    const char *data = bmig_uri_param(uri, "data");
    const char *path = bmig_uri_param(uri, "file");
    uint64_t limit;
    int status = bmig_uri_check_params(uri, params, err);
    if (status == 0)
        status = bmig_uri_param_u64(uri, "limit", 0, 1 << 30, record->limit, &limit, err);
    if (status != 0)
        return status;
    record->limit = (size_t)limit;
    if (data && strcmp(data, "keep") == 0)
        record->data = BMIG_RECORD_KEEP;
    else if (data && strcmp(data, "hash") == 0)
        record->data = BMIG_RECORD_HASH;
    else if (data && strcmp(data, "none") != 0)
        return bmig_error_set(err, BMIG_USAGE, EINVAL, "record: data=%s: none, hash or keep", data);
    if (path && !(record->file = fopen(path, "we")))
        return bmig_error_set(err, bmig_error_kind_of(errno), errno, "record: '%.200s': %s", path,
                              bmig_strerror(errno));
    return 0;
}

static int record_open(struct bmig_disk *disk, const struct bmig_uri *uri,
                       const struct bmig_open_options *options, struct bmig_error *err)
{
    struct record *record = calloc(1, sizeof(*record));
    if (!record)
        return bmig_error_set(err, BMIG_FAILED, ENOMEM, "out of memory");
    record->limit = 1000000;
    int status = uri ? parse(record, uri, err) : 0;
    if (status < 0) {
        free(record);
        return status;
    }
    disk->state = record;
    bmig_disk_inherit(disk, disk->next);
    return 0;
}

static void record_close(struct bmig_disk *disk)
{
    struct record *record = disk->state;
    bmig_record_clear(disk);
    free(record->entries);
    if (record->file)
        fclose(record->file);
    free(record);
}

const struct bmig_driver bmig_record_driver = {
    .name = "record",
    .open = record_open,
    .close = record_close,
    .submit = record_submit,
};
