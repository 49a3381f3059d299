/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * info: what an image is and what its place can do.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/output.h"
#include "cli/session.h"

static const struct {
    uint32_t cap;
    const char *name;
} caps[] = {
    {BMIG_CAP_ZERO, "zero"},
    {BMIG_CAP_FAST_ZERO, "fast-zero"},
    {BMIG_CAP_UNMAP, "unmap"},
    {BMIG_CAP_DISCARD, "discard"},
    {BMIG_CAP_FLUSH, "flush"},
    {BMIG_CAP_FUA, "fua"},
    {BMIG_CAP_EXTENTS, "extents"},
    {BMIG_CAP_MULTI_CONN, "multi-conn"},
    {BMIG_CAP_ROTATIONAL, "rotational"},
};

static json_t *size_or_null(uint64_t bytes)
{
    return bytes == UINT64_MAX ? json_null() : json_integer((json_int_t)bytes);
}

static json_t *caps_of(const struct bmig_disk *disk)
{
    json_t *list = json_array();
    for (size_t i = 0; i < sizeof(caps) / sizeof(caps[0]); i++) {
        if (disk->caps & caps[i].cap)
            json_array_append_new(list, json_string(caps[i].name));
    }
    return list;
}

static void put_detail(void *user, const char *key, const char *value)
{
    json_object_set_new(user, key, bmig_output_json_text(value));
}

/* All of it as one object, which the table of fields prints too. */
static json_t *describe(struct bmig_session *session, const struct bmig_place *place,
                        const struct bmig_place_stat *stat)
{
    struct bmig_disk *disk = session->disks[0];
    const struct bmig_limits *limits = &disk->limits;
    json_t *object = json_object(), *details = json_object();
    bmig_disk_describe(disk, put_detail, details);
    json_object_set_new(object, "image", bmig_output_json_text(place->given));
    json_object_set_new(object, "opened", bmig_output_json_text(disk->name));
    json_object_set_new(object, "format", json_string(disk->driver->name));
    json_object_set_new(object, "size_bytes", json_integer((json_int_t)disk->size_bytes));
    json_object_set_new(object, "allocated_bytes", size_or_null(stat->allocated_bytes));
    json_object_set_new(object, "fixed", json_boolean(stat->fixed));
    json_object_set_new(object, "place",
                        json_pack("{s:o,s:o}", "free_bytes", size_or_null(stat->free_bytes),
                                  "total_bytes", size_or_null(stat->total_bytes)));
    json_object_set_new(object, "identity", bmig_output_json_text(stat->identity));
    json_object_set_new(object, "capabilities", caps_of(disk));
    json_object_set_new(
        object, "limits",
        json_pack("{s:I,s:I,s:I,s:I,s:I,s:I}", "block_bytes", (json_int_t)limits->block_bytes,
                  "memory_align", (json_int_t)limits->memory_align, "max_io_bytes",
                  (json_int_t)limits->max_io_bytes, "preferred_bytes",
                  (json_int_t)limits->preferred_bytes, "zero_align", (json_int_t)limits->zero_align,
                  "max_requests", (json_int_t)limits->max_requests));
    json_object_set_new(object, "loop", json_string(bmig_loop_name(session->loop)));
    json_object_set_new(object, "driver", details);
    return object;
}

int bmig_cli_info(struct bmig_cli *cli, struct bmig_error *err)
{
    struct bmig_place place = {0};
    struct bmig_place_stat stat;
    struct bmig_session session = {0};
    int rc = bmig_place_resolve(cli, cli->words[0], bmig_cli_text(cli, "format"),
                                bmig_cli_text(cli, "filters"), bmig_cli_text(cli, "secret-file"),
                                &place, err);
    if (rc == 0)
        rc = bmig_session_stat(&place, &stat, err);
    if (rc == 0)
        rc = bmig_session_begin(&session, cli, "info", err);
    if (rc == 0) {
        struct bmig_open_options options = bmig_session_options(&place, false, false);
        rc = bmig_session_open(&session, 0, &place, &options, err);
    }
    if (rc == 0) {
        json_t *object = describe(&session, &place, &stat);
        if (!cli->json)
            bmig_output_fields(stdout, object);
        else
            bmig_output_json(stdout, json_incref(object));
        json_decref(object);
    }
    bmig_session_end(&session);
    bmig_place_fini(&place);
    return rc;
}
