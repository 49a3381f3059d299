/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The faults filter: a list of rules, the first that fires decides what becomes of a request.
 */
#include "backends/faults.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backends/backends.h"

struct faults {
    struct bmig_fault rules[BMIG_FAULTS_MAX];
    uint64_t random[BMIG_FAULTS_MAX];
    int count;
};

/* ---- which requests ---- */

static bool touches(const struct bmig_fault *rule, const struct bmig_request *request)
{
    if (!(rule->ops & 1u << request->op))
        return false;
    if (rule->length == 0 || request->op == BMIG_FLUSH)
        return true;
    return request->offset < rule->offset + rule->length &&
           rule->offset < request->offset + request->length;
}

/* Counts request against rule and says whether it is hit. */
static bool fires(struct faults *faults, struct bmig_fault *rule,
                  const struct bmig_request *request)
{
    if (!touches(rule, request))
        return false;
    uint64_t beyond = ++rule->matched;
    if (beyond <= rule->after || (rule->times && rule->hits >= rule->times))
        return false;
    beyond -= rule->after;
    if (rule->every && beyond % rule->every != 0)
        return false;
    if (rule->probability > 0) {
        uint64_t drawn = bmig_filter_random(&faults->random[rule - faults->rules]) >> 11;
        if (ldexp((double)drawn, -53) >= rule->probability)
            return false;
    }
    rule->hits++;
    return true;
}

static struct bmig_fault *choose(struct faults *faults, const struct bmig_request *request)
{
    for (int i = 0; i < faults->count; i++)
        if (fires(faults, &faults->rules[i], request))
            return &faults->rules[i];
    return NULL;
}

/* ---- what becomes of them ---- */

static int error_of(const struct bmig_fault *rule)
{
    return rule->error ? -rule->error : -EIO;
}

/* The child's number is the status to answer with, positive, where the disk below had none. */
static void child_done(struct bmig_request *below, int status)
{
    struct bmig_filter_child *child = (struct bmig_filter_child *)below;
    struct bmig_request *above = child->above;
    if (status == 0)
        status = -(int)child->number;
    bmig_filter_child_free(child);
    bmig_disk_complete(above, status);
}

static void corrupt_read_done(struct bmig_request *below, int status)
{
    struct bmig_filter_child *child = (struct bmig_filter_child *)below;
    struct bmig_request *above = child->above;
    if (status == 0)
        above->data[child->number % above->length] ^= 0x01;
    bmig_filter_child_free(child);
    bmig_disk_complete(above, status);
}

static struct bmig_filter_child *new_child(struct bmig_disk *disk, struct bmig_request *request,
                                           int status)
{
    struct bmig_filter_child *child = bmig_filter_child_new(disk, request, child_done);
    if (child)
        child->number = (uint64_t)-status;
    else
        bmig_disk_complete(request, -ENOMEM);
    return child;
}

static void do_late(struct bmig_disk *disk, struct bmig_request *request,
                    const struct bmig_fault *rule)
{
    struct bmig_filter_child *child = new_child(disk, request, error_of(rule));
    if (child)
        bmig_disk_submit(disk->next, &child->below);
}

static void do_torn(struct bmig_disk *disk, struct bmig_request *request,
                    const struct bmig_fault *rule)
{
    uint64_t kept = rule->amount < request->length ? rule->amount : request->length;
    kept -= kept % disk->limits.block_bytes;
    if (kept == 0) {
        bmig_disk_complete(request, -rule->error);
        return;
    }
    struct bmig_filter_child *child = new_child(disk, request, -rule->error);
    if (!child)
        return;
    child->below.length = kept;
    bmig_disk_submit(disk->next, &child->below);
}

static void do_misdirect(struct bmig_disk *disk, struct bmig_request *request,
                         const struct bmig_fault *rule)
{
    uint64_t by = rule->amount - rule->amount % disk->limits.block_bytes;
    uint64_t room = disk->size_bytes - request->offset - request->length;
    if (by > room && by > request->offset) { /* there is no such place */
        bmig_disk_complete(request, 0);
        return;
    }
    struct bmig_filter_child *child = new_child(disk, request, 0);
    if (!child)
        return;
    child->below.offset += by <= room ? by : -by;
    bmig_disk_submit(disk->next, &child->below);
}

static void do_corrupt(struct bmig_disk *disk, struct bmig_request *request,
                       const struct bmig_fault *rule)
{
    struct bmig_filter_child *child = new_child(disk, request, 0);
    if (!child)
        return;
    if (request->op == BMIG_READ) {
        child->below.done = corrupt_read_done;
        child->number = rule->amount;
    } else if (request->op == BMIG_WRITE) {
        size_t rounded = (request->length + 4095) / 4096 * 4096;
        child->copy = aligned_alloc(4096, rounded);
        if (!child->copy) {
            bmig_filter_child_free(child);
            bmig_disk_complete(request, -ENOMEM);
            return;
        }
        memcpy(child->copy, request->data, request->length);
        child->copy[rule->amount % request->length] ^= 0x01;
        child->below.data = child->copy;
    }
    bmig_disk_submit(disk->next, &child->below);
}

static void do_lie(struct bmig_request *request)
{
    if (request->op == BMIG_READ)
        memset(request->data, 0, request->length);
    if (request->op == BMIG_EXTENTS)
        bmig_extents_add(request->extents, request->length, BMIG_EXTENT_HOLE | BMIG_EXTENT_ZERO);
    bmig_disk_complete(request, 0);
}

static void faults_submit(struct bmig_disk *disk, struct bmig_request *request)
{
    const struct bmig_fault *rule = choose(disk->state, request);
    bool has_place = request->op == BMIG_WRITE || request->op == BMIG_ZERO;
    bool has_data = request->op == BMIG_WRITE || request->op == BMIG_READ;
    if (!rule) {
        bmig_disk_forward(disk, request, request->offset);
        return;
    }
    switch (rule->kind) {
    case BMIG_FAULT_ERROR:
        bmig_disk_complete(request, error_of(rule));
        return;
    case BMIG_FAULT_LATE:
        do_late(disk, request, rule);
        return;
    case BMIG_FAULT_LIE:
        do_lie(request);
        return;
    case BMIG_FAULT_TORN:
        if (has_place) {
            do_torn(disk, request, rule);
            return;
        }
        break;
    case BMIG_FAULT_MISDIRECT:
        if (has_place) {
            do_misdirect(disk, request, rule);
            return;
        }
        break;
    case BMIG_FAULT_CORRUPT:
        if (has_data) {
            do_corrupt(disk, request, rule);
            return;
        }
        break;
    }
    bmig_disk_forward(disk, request, request->offset);
}

/* ---- rules ---- */

struct bmig_disk *bmig_faults_find(struct bmig_disk *disk)
{
    return bmig_filter_at(disk, &bmig_faults_driver);
}

int bmig_faults_add(struct bmig_disk *filter, const struct bmig_fault *fault)
{
    struct faults *faults = filter->state;
    if (faults->count == BMIG_FAULTS_MAX)
        return -ENOSPC;
    int number = faults->count++;
    faults->rules[number] = *fault;
    faults->rules[number].matched = 0;
    faults->rules[number].hits = 0;
    faults->random[number] = fault->seed;
    return number;
}

void bmig_faults_clear(struct bmig_disk *filter)
{
    struct faults *faults = filter->state;
    faults->count = 0;
}

const struct bmig_fault *bmig_faults_get(const struct bmig_disk *filter, int number)
{
    const struct faults *faults = filter->state;
    return number >= 0 && number < faults->count ? &faults->rules[number] : NULL;
}

/* ---- from a URI ---- */

static int parse_kind(const struct bmig_uri *uri, enum bmig_fault_kind *kind,
                      struct bmig_error *err)
{
    static const char *const names[] = {
        [BMIG_FAULT_ERROR] = "error",         [BMIG_FAULT_LATE] = "late",
        [BMIG_FAULT_TORN] = "torn",           [BMIG_FAULT_LIE] = "lie",
        [BMIG_FAULT_MISDIRECT] = "misdirect", [BMIG_FAULT_CORRUPT] = "corrupt",
    };
    const char *text = bmig_uri_param(uri, "kind");
    *kind = BMIG_FAULT_ERROR;
    for (unsigned i = 0; text && i < sizeof(names) / sizeof(names[0]); i++)
        if (strcmp(names[i], text) == 0) {
            *kind = (enum bmig_fault_kind)i;
            return 0;
        }
    return text ? bmig_error_set(err, BMIG_USAGE, EINVAL, "faults: there is no kind '%s'", text)
                : 0;
}

static int parse_probability(const struct bmig_uri *uri, double *probability,
                             struct bmig_error *err)
{
    const char *text = bmig_uri_param(uri, "p");
    char *end = NULL;
    *probability = 0;
    if (!text)
        return 0;
    *probability = strtod(text, &end);
    if (end == text || *end || !(*probability > 0 && *probability <= 1))
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "faults: p=%s: not a probability above 0 and up to 1", text);
    return 0;
}

static int parse_error(const struct bmig_uri *uri, struct bmig_fault *fault, struct bmig_error *err)
{
    const char *text = bmig_uri_param(uri, "error");
    fault->error = 0;
    if (text && strcmp(text, "0") == 0 && fault->kind == BMIG_FAULT_TORN)
        return 0;
    return bmig_filter_param_errno(uri, "error", EIO, &fault->error, err);
}

static int parse_rule(const struct bmig_uri *uri, struct bmig_fault *fault, struct bmig_error *err)
{
    uint64_t nth;
    int status;
    if ((status = bmig_filter_param_ops(uri, "op", BMIG_OPS_ALL, &fault->ops, err)) < 0 ||
        (status = parse_kind(uri, &fault->kind, err)) < 0 ||
        (status = parse_error(uri, fault, err)) < 0 ||
        (status = parse_probability(uri, &fault->probability, err)) < 0 ||
        (status = bmig_uri_param_u64(uri, "nth", 1, INT64_MAX, 0, &nth, err)) < 0 ||
        (status = bmig_uri_param_u64(uri, "after", 0, INT64_MAX, nth ? nth - 1 : 0, &fault->after,
                                     err)) < 0 ||
        (status = bmig_uri_param_u64(uri, "every", 1, INT64_MAX, 0, &fault->every, err)) < 0 ||
        (status = bmig_uri_param_u64(uri, "times", 0, INT64_MAX, nth ? 1 : 0, &fault->times, err)) <
            0 ||
        (status = bmig_uri_param_u64(uri, "seed", 0, UINT64_MAX, 0, &fault->seed, err)) < 0 ||
        (status = bmig_filter_param_size(uri, "offset", 0, &fault->offset, err)) < 0 ||
        (status = bmig_filter_param_size(uri, "length", 0, &fault->length, err)) < 0)
        return status;
    if (fault->offset && !fault->length)
        fault->length = INT64_MAX - fault->offset;
    return bmig_filter_param_size(uri, "amount", fault->kind == BMIG_FAULT_MISDIRECT ? 4096 : 0,
                                  &fault->amount, err);
}

static int faults_open(struct bmig_disk *disk, const struct bmig_uri *uri,
                       const struct bmig_open_options *options, struct bmig_error *err)
{
    static const char *const params[] = {"op",     "kind",   "error", "nth",  "after",
                                         "every",  "times",  "p",     "seed", "offset",
                                         "length", "amount", NULL};
    struct bmig_fault fault = {0};
    bool has_rule = uri && uri->param_count > 0;
    int status = has_rule ? bmig_uri_check_params(uri, params, err) : 0;
    if (status == 0 && has_rule)
        status = parse_rule(uri, &fault, err);
    if (status < 0)
        return status;
    struct faults *faults = calloc(1, sizeof(*faults));
    if (!faults)
        return bmig_error_set(err, BMIG_FAILED, ENOMEM, "out of memory");
    disk->state = faults;
    bmig_disk_inherit(disk, disk->next);
    if (has_rule)
        bmig_faults_add(disk, &fault);
    return 0;
}

static void faults_close(struct bmig_disk *disk)
{
    free(disk->state);
}

const struct bmig_driver bmig_faults_driver = {
    .name = "faults",
    .open = faults_open,
    .close = faults_close,
    .submit = faults_submit,
};
