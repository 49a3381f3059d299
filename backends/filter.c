/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What the filters share.
 */
#include "backends/filter.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/core/units.h"

static const char *const op_names[] = {
    [BMIG_READ] = "read",       [BMIG_WRITE] = "write", [BMIG_ZERO] = "zero",
    [BMIG_DISCARD] = "discard", [BMIG_FLUSH] = "flush", [BMIG_EXTENTS] = "extents",
};

const char *bmig_filter_op_name(enum bmig_op op)
{
    return op_names[op];
}

static uint32_t find_ops(const char *word, size_t length)
{
    if (length == 3 && memcmp(word, "all", 3) == 0)
        return BMIG_OPS_ALL;
    for (unsigned op = 0; op < BMIG_OP_COUNT; op++)
        if (strlen(op_names[op]) == length && memcmp(op_names[op], word, length) == 0)
            return 1u << op;
    return 0;
}

int bmig_filter_param_ops(const struct bmig_uri *uri, const char *name, uint32_t fallback,
                          uint32_t *ops, struct bmig_error *err)
{
    const char *text = bmig_uri_param(uri, name);
    *ops = text ? 0 : fallback;
    while (text && *text) {
        size_t length = strcspn(text, ",");
        uint32_t found = find_ops(text, length);
        if (!found)
            return bmig_error_set(
                err, BMIG_USAGE, EINVAL,
                "%s: %s=%s: the operations are read, write, zero, discard, flush, "
                "extents and all",
                uri->scheme, name, bmig_uri_param(uri, name));
        *ops |= found;
        text += length + (text[length] == ',');
    }
    return 0;
}

int bmig_filter_param_errno(const struct bmig_uri *uri, const char *name, int fallback, int *code,
                            struct bmig_error *err)
{
    const char *text = bmig_uri_param(uri, name);
    *code = fallback;
    if (!text)
        return 0;
    for (*code = 1; *code < 134; (*code)++) {
        const char *known = strerrorname_np(*code);
        if (known && strcmp(known, text) == 0)
            return 0;
    }
    return bmig_error_set(err, BMIG_USAGE, EINVAL, "%s: %s=%s: not an error's name, like EIO",
                          uri->scheme, name, text);
}

int bmig_filter_param_duration(const struct bmig_uri *uri, const char *name, uint64_t *ns,
                               struct bmig_error *err)
{
    const char *text = bmig_uri_param(uri, name);
    *ns = 0;
    return text ? bmig_parse_duration(text, name, ns, err) : 0;
}

int bmig_filter_param_size(const struct bmig_uri *uri, const char *name, uint64_t fallback,
                           uint64_t *bytes, struct bmig_error *err)
{
    const char *text = bmig_uri_param(uri, name);
    *bytes = fallback;
    return text ? bmig_parse_size(text, name, bytes, err) : 0;
}

/* splitmix64: any state is as good as any other, so small seeds are fine. */
uint64_t bmig_filter_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

struct bmig_disk *bmig_filter_at(struct bmig_disk *disk, const struct bmig_driver *driver)
{
    while (disk && disk->driver != driver)
        disk = disk->next;
    return disk;
}

struct bmig_filter_child *bmig_filter_child_new(struct bmig_disk *disk, struct bmig_request *above,
                                                void (*done)(struct bmig_request *below,
                                                             int status))
{
    struct bmig_filter_child *child = calloc(1, sizeof(*child));
    if (!child)
        return NULL;
    child->above = above;
    child->disk = disk;
    child->below.op = above->op;
    child->below.flags = above->flags;
    child->below.offset = above->offset;
    child->below.length = above->length;
    child->below.data = above->data;
    child->below.extents = above->extents;
    child->below.done = done;
    return child;
}

void bmig_filter_child_free(struct bmig_filter_child *child)
{
    free(child->copy);
    free(child);
}
