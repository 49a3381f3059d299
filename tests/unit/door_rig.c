/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A driver with awkward limits that trusts nobody.
 */
#include "tests/unit/door_rig.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backends/backends.h"

struct door_rig door;

static int rig_open(struct bmig_disk *disk, const struct bmig_uri *uri,
                    const struct bmig_open_options *options, struct bmig_error *err)
{
    disk->size_bytes = door.size_bytes;
    disk->caps = door.caps;
    disk->limits = door.limits;
    door.bytes = calloc(1, door.size_bytes);
    ck_assert_ptr_nonnull(door.bytes);
    return 0;
}

static void rig_close(struct bmig_disk *disk)
{
    ck_assert_uint_eq(door.held_count, 0);
    free(door.bytes);
    door.bytes = NULL;
}

static void inspect(const struct bmig_disk *disk, const struct bmig_request *request)
{
    const struct bmig_limits *limits = &door.limits;
    ck_assert(!(request->flags & BMIG_FUA) || door.caps & BMIG_CAP_FUA);
    ck_assert(!limits->max_requests || disk->in_flight <= limits->max_requests);
    if (disk->in_flight > door.most_at_once)
        door.most_at_once = disk->in_flight;
    if (request->op == BMIG_FLUSH) {
        ck_assert(door.caps & BMIG_CAP_FLUSH);
        return;
    }
    uint64_t unit = limits->block_bytes;
    ck_assert_uint_gt(request->length, 0);
    ck_assert_uint_le(request->offset + request->length, door.size_bytes);
    switch (request->op) {
    case BMIG_READ:
    case BMIG_WRITE:
        ck_assert_uint_le(request->length, limits->max_io_bytes);
        ck_assert_uint_eq((uintptr_t)request->data % limits->memory_align, 0);
        break;
    case BMIG_ZERO:
    case BMIG_DISCARD:
        ck_assert(door.caps & (request->op == BMIG_ZERO ? BMIG_CAP_ZERO : BMIG_CAP_DISCARD));
        ck_assert_uint_le(request->length, limits->max_zero_bytes);
        unit = limits->zero_align;
        break;
    case BMIG_EXTENTS:
        ck_assert(door.caps & BMIG_CAP_EXTENTS);
        ck_assert_uint_eq(request->extents->count, 0);
        break;
    default:
        ck_abort();
    }
    ck_assert_uint_eq(request->offset % unit, 0);
    ck_assert_uint_eq(request->length % unit, 0);
    ck_assert(request->op == BMIG_READ || request->op == BMIG_EXTENTS ||
              door.caps & BMIG_CAP_WRITE);
}

/* Each block is an extent: data, or a hole where it is zero. */
static void tell_extents(struct bmig_request *request)
{
    uint64_t block = door.limits.block_bytes;
    uint64_t at = request->offset;
    do {
        bool zero = true;
        for (uint64_t i = 0; i < block; i++)
            zero = zero && door.bytes[at + i] == 0;
        if (bmig_extents_add(request->extents, block,
                             zero ? BMIG_EXTENT_HOLE | BMIG_EXTENT_ZERO : 0))
            return;
        at += block;
    } while (!door.extents_one_block && at < request->offset + request->length);
}

static void finish(struct bmig_request *request)
{
    int error = door.fail[request->op];
    if (error == 0) {
        if (request->op == BMIG_READ)
            memcpy(request->data, door.bytes + request->offset, request->length);
        else if (request->op == BMIG_WRITE)
            memcpy(door.bytes + request->offset, request->data, request->length);
        else if (request->op == BMIG_ZERO)
            memset(door.bytes + request->offset, 0, request->length);
        else if (request->op == BMIG_DISCARD)
            memset(door.bytes + request->offset, 0xdd, request->length);
        else if (request->op == BMIG_EXTENTS)
            tell_extents(request);
    }
    bmig_disk_complete(request, -error);
}

static void rig_submit(struct bmig_disk *disk, struct bmig_request *request)
{
    inspect(disk, request);
    if (door.log_count < DOOR_LOG_MAX)
        door.log[door.log_count++] =
            (struct door_entry){request->op, request->flags, request->offset, request->length};
    if (door.hold) {
        ck_assert_uint_lt(door.held_count, DOOR_HELD_MAX);
        door.held[door.held_count++] = request;
    } else if (door.sync_errors) {
        bmig_disk_complete(request, -EIO);
    } else {
        finish(request);
    }
}

static void rig_fence(struct bmig_disk *disk)
{
    while (door.held_count)
        bmig_disk_complete(door.held[--door.held_count], -ECANCELED);
    bmig_disk_fenced(disk);
}

static const struct bmig_driver plain_driver = {
    .name = "rig", .open = rig_open, .close = rig_close, .submit = rig_submit};
static const struct bmig_driver fence_driver = {
    .name = "rig", .open = rig_open, .close = rig_close, .submit = rig_submit, .fence = rig_fence};

void door_reset(void)
{
    memset(&door, 0, sizeof(door));
    door.size_bytes = 1 << 20;
    door.caps = BMIG_CAP_WRITE | BMIG_CAP_FLUSH;
    door.limits = (struct bmig_limits){.block_bytes = 4096,
                                       .memory_align = 4096,
                                       .max_io_bytes = 64 << 10,
                                       .max_zero_bytes = 256 << 10,
                                       .zero_align = 64 << 10,
                                       .max_requests = 2,
                                       .preferred_bytes = 64 << 10};
}

struct bmig_disk *door_open(struct bmig_loop *loop, const char *filter)
{
    static const struct bmig_open_options options = {.writable = true};
    struct bmig_error err = {0};
    struct bmig_disk *disk, *top;
    ck_assert_int_eq(bmig_disk_open(&disk, door.fence_cuts ? &fence_driver : &plain_driver, NULL,
                                    NULL, &options, &err),
                     0);
    if (filter) {
        struct bmig_uri uri;
        ck_assert_int_eq(bmig_uri_parse(&uri, filter, &err), 0);
        ck_assert_msg(
            bmig_disk_open(&top, bmig_filter_find(uri.scheme), disk, &uri, &options, &err) == 0,
            "%s", err.message);
        bmig_uri_fini(&uri);
        disk = top;
    }
    ck_assert_int_eq(bmig_disk_attach(disk, loop, &err), 0);
    return disk;
}

void door_release(uint32_t number)
{
    ck_assert_uint_lt(number, door.held_count);
    struct bmig_request *request = door.held[number];
    door.held_count--;
    for (uint32_t i = number; i < door.held_count; i++)
        door.held[i] = door.held[i + 1];
    finish(request);
}

uint32_t door_count(enum bmig_op op)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < door.log_count; i++)
        count += door.log[i].op == op;
    return count;
}
