/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * check: reads every byte of an image that takes up room, and says which can't be read.
 *
 * In batches: the map of a stretch first, then its data in a window of large reads, then, for each
 * read that failed, its blocks one by one.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/output.h"
#include "cli/session.h"

enum {
    WINDOW = 16,
    READ_BYTES = 1 << 20,
    BATCH_EXTENTS = 1024,
    FINE_BYTES = 4096,
    MAX_REFINED = 64,
    MAX_BAD = 1000
};

struct bad {
    uint64_t offset, length;
    int code;
};

struct check;

struct slot {
    struct bmig_request request;
    struct bmig_buffer *buffer;
    struct check *check;
    bool busy;
};

struct check {
    struct bmig_cli *cli;
    struct bmig_session session;
    struct slot slots[WINDOW];
    unsigned busy;
    struct bmig_extent batch[BATCH_EXTENTS];
    uint64_t next; /* the map is known up to here */
    uint64_t bytes_read, bytes_skipped, bytes_bad;
    struct bad failed[WINDOW * 4]; /* reads of this batch that failed, whole */
    unsigned failed_count;
    struct bad bad[MAX_BAD];
    unsigned bad_count, refined;
    uint64_t begin_ns, shown_ns;
};

static void add_bad(struct check *check, uint64_t offset, uint64_t length, int code)
{
    struct bad *last = check->bad_count ? &check->bad[check->bad_count - 1] : NULL;
    check->bytes_bad += length;
    if (last && last->offset + last->length == offset && last->code == code)
        last->length += length;
    else if (check->bad_count < MAX_BAD)
        check->bad[check->bad_count++] = (struct bad){offset, length, code};
}

static void on_read(struct bmig_request *request, int status)
{
    struct slot *slot = request->user;
    struct check *check = slot->check;
    slot->busy = false;
    check->busy--;
    if (status < 0)
        check->failed[check->failed_count++] =
            (struct bad){request->offset, request->length, -status};
    else
        check->bytes_read += request->length;
}

static struct slot *free_slot(struct check *check)
{
    for (unsigned i = 0; i < WINDOW; i++) {
        if (!check->slots[i].busy)
            return &check->slots[i];
    }
    return NULL;
}

static void show(struct check *check)
{
    struct bmig_progress progress = {.eta_s = UINT64_MAX,
                                     .stale_bytes = UINT64_MAX,
                                     .guest_p99_us = UINT64_MAX,
                                     .guest_p99_us_before = UINT64_MAX};
    uint64_t now_ns = bmig_api_now_ns(),
             done = check->bytes_read + check->bytes_skipped + check->bytes_bad;
    double seconds = (double)(now_ns - check->begin_ns) / 1e9;
    if (now_ns - check->shown_ns < 200000000 || (!check->session.painter.terminal && seconds < 2))
        return;
    check->shown_ns = now_ns;
    snprintf(progress.label, sizeof(progress.label), "check");
    snprintf(progress.phase, sizeof(progress.phase), "reading");
    progress.percent = 100.0 * (double)done / (double)check->session.disks[0]->size_bytes;
    progress.rate_bytes_per_s = seconds > 0 ? (uint64_t)((double)check->bytes_read / seconds) : 0;
    bmig_painter_show(&check->session.painter, &progress, now_ns);
}

/* ---- one by one ---- */

static int compare_bad(const void *a, const void *b)
{
    const struct bad *x = a, *y = b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static void refine(struct check *check)
{
    struct bmig_disk *disk = check->session.disks[0];
    qsort(check->failed, check->failed_count, sizeof(check->failed[0]), compare_bad);
    for (unsigned i = 0; i < check->failed_count; i++) {
        struct bad *whole = &check->failed[i];
        if (check->refined++ >= MAX_REFINED || *check->session.stop) {
            add_bad(check, whole->offset, whole->length, whole->code);
            continue;
        }
        for (uint64_t done = 0; done < whole->length && !*check->session.stop; done += FINE_BYTES) {
            uint64_t left = whole->length - done;
            struct bmig_request request = {.op = BMIG_READ,
                                           .offset = whole->offset + done,
                                           .length = left < FINE_BYTES ? left : FINE_BYTES,
                                           .data = check->slots[0].buffer->data};
            int rc = bmig_disk_run(disk, &request);
            if (rc < 0)
                add_bad(check, whole->offset + done, left < FINE_BYTES ? left : FINE_BYTES, -rc);
            else
                check->bytes_read += left < FINE_BYTES ? left : FINE_BYTES;
        }
    }
    check->failed_count = 0;
}

/* ---- a window of reads ---- */

static void drain(struct check *check, unsigned most)
{
    while (check->busy > most)
        bmig_loop_step(check->session.loop, UINT64_MAX);
}

static void read_range(struct check *check, uint64_t offset, uint64_t length)
{
    while (length && !*check->session.stop) {
        drain(check, WINDOW - 1);
        if (check->failed_count >= WINDOW) {
            drain(check, 0);
            refine(check);
        }
        struct slot *slot = free_slot(check);
        uint64_t part = length < READ_BYTES ? length : READ_BYTES;
        slot->request = (struct bmig_request){.op = BMIG_READ,
                                              .offset = offset,
                                              .length = part,
                                              .data = slot->buffer->data,
                                              .done = on_read,
                                              .user = slot};
        slot->busy = true;
        check->busy++;
        bmig_disk_submit(check->session.disks[0], &slot->request);
        offset += part;
        length -= part;
        show(check);
    }
}

/* The map from next on; where the place can't tell, the rest is data. */
static uint32_t map_batch(struct check *check)
{
    struct bmig_disk *disk = check->session.disks[0];
    struct bmig_extents extents = {.list = check->batch, .capacity = BATCH_EXTENTS};
    struct bmig_request request = {.op = BMIG_EXTENTS,
                                   .offset = check->next,
                                   .length = disk->size_bytes - check->next,
                                   .extents = &extents};
    if (bmig_disk_run(disk, &request) < 0 || extents.count == 0) {
        check->batch[0] = (struct bmig_extent){disk->size_bytes - check->next, BMIG_EXTENT_DATA};
        return 1;
    }
    return extents.count;
}

static void read_all(struct check *check)
{
    uint64_t size = check->session.disks[0]->size_bytes;
    while (check->next < size && !*check->session.stop) {
        uint32_t count = map_batch(check);
        for (uint32_t i = 0; i < count; i++) {
            const struct bmig_extent *extent = &check->batch[i];
            if (extent->flags & BMIG_EXTENT_ZERO)
                check->bytes_skipped += extent->length_bytes;
            else
                read_range(check, check->next, extent->length_bytes);
            check->next += extent->length_bytes;
        }
        drain(check, 0);
        refine(check);
    }
}

/* ---- the verb ---- */

static int prepare(struct check *check, const struct bmig_place *place, struct bmig_error *err)
{
    struct bmig_open_options options = bmig_session_options(place, false, false);
    int rc = bmig_session_open(&check->session, 0, place, &options, err);
    for (unsigned i = 0; rc == 0 && i < WINDOW; i++) {
        check->slots[i].check = check;
        check->slots[i].buffer = bmig_buffer_get(check->session.pool, READ_BYTES);
        if (!check->slots[i].buffer)
            rc = bmig_error_set(err, BMIG_FAILED, ENOMEM, "no memory");
    }
    if (rc == 0 && check->session.disks[0]->size_bytes == 0)
        rc = bmig_error_set(err, BMIG_FAILED, EINVAL, "'%.300s' is empty: there is no disk in it",
                            place->given);
    check->begin_ns = check->session.begin_ns;
    return rc;
}

static void report_json(const struct check *check, const struct bmig_place *place)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < check->bad_count; i++)
        json_array_append_new(list,
                              json_pack("{s:I,s:I,s:s}", "offset", (json_int_t)check->bad[i].offset,
                                        "length", (json_int_t)check->bad[i].length, "error",
                                        bmig_strerror(check->bad[i].code)));
    bmig_output_json(stdout, json_pack("{s:o,s:I,s:I,s:I,s:I,s:b,s:o}", "image",
                                       bmig_output_json_text(place->given), "size_bytes",
                                       (json_int_t)check->session.disks[0]->size_bytes,
                                       "bytes_read", (json_int_t)check->bytes_read, "bytes_skipped",
                                       (json_int_t)check->bytes_skipped, "bytes_unreadable",
                                       (json_int_t)check->bytes_bad, "ok", check->bytes_bad == 0,
                                       "unreadable", list));
}

static int report(const struct check *check, const struct bmig_place *place, struct bmig_error *err)
{
    char read[32], skipped[32], bad[32];
    bmig_output_size(read, sizeof(read), check->bytes_read);
    bmig_output_size(skipped, sizeof(skipped), check->bytes_skipped);
    if (check->cli->json)
        report_json(check, place);
    for (unsigned i = 0; !check->cli->json && i < check->bad_count; i++)
        printf("unreadable: %" PRIu64 " bytes at %" PRIu64 ": %s\n", check->bad[i].length,
               check->bad[i].offset, bmig_strerror(check->bad[i].code));
    if (check->bytes_bad)
        return bmig_error_set(err, BMIG_FAILED, EIO, "'%.300s': %s can't be read, %s can",
                              place->given, bmig_output_size(bad, sizeof(bad), check->bytes_bad),
                              read);
    if (!check->cli->json)
        printf("good: %s read, %s are zero or holes\n", read, skipped);
    return 0;
}

int bmig_cli_check(struct bmig_cli *cli, struct bmig_error *err)
{
    struct bmig_place place = {0};
    struct bmig_place_stat stat;
    struct check *check = calloc(1, sizeof(*check));
    if (!check)
        return bmig_error_set(err, BMIG_FAILED, ENOMEM, "no memory");
    check->cli = cli;
    int rc = bmig_place_resolve(cli, cli->words[0], bmig_cli_text(cli, "format"),
                                bmig_cli_text(cli, "filters"), bmig_cli_text(cli, "secret-file"),
                                &place, err);
    if (rc == 0)
        rc = bmig_session_stat(&place, &stat, err);
    if (rc == 0)
        rc = bmig_session_begin(&check->session, cli, "check", err);
    if (rc == 0)
        rc = prepare(check, &place, err);
    if (rc == 0) {
        read_all(check);
        bmig_painter_clear(&check->session.painter);
        rc = *check->session.stop
                 ? bmig_error_set(err, BMIG_CANCELLED, EINTR,
                                  "'%.300s': interrupted; nothing was changed", place.given)
                 : report(check, &place, err);
    }
    for (unsigned i = 0; i < WINDOW; i++)
        bmig_buffer_unref(check->slots[i].buffer);
    bmig_session_end(&check->session);
    bmig_place_fini(&place);
    free(check);
    return rc;
}
