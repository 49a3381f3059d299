/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Copies and comparisons without a guest: a volume that nobody is served from, and a mirror that
 * ends.
 */
#include "blockmig/engine/transfer.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "blockmig/engine/mirror_internal.h"

enum { PROGRESS_NS = 200000000, TAIL_BYTES = 1 << 20 };

struct run {
    struct bmig_volume *volume;
    bool stopped;
};

static void stopped(void *user)
{
    struct run *run = user;
    run->stopped = true;
}

/* Steps the loop until the mirror needs no more of it; 0, or -ECANCELED. */
static int run_mirror(struct bmig_loop *loop, struct bmig_volume *volume,
                      const struct bmig_transfer_options *options, struct bmig_mirror_stats *stats)
{
    uint64_t shown_ns = bmig_loop_now_ns(loop);
    for (;;) {
        bmig_mirror_stats(volume, stats);
        if (stats->state == BMIG_MIRROR_SYNCED || stats->state == BMIG_MIRROR_DEGRADED)
            return 0;
        if (options->stop && *options->stop)
            return -ECANCELED;
        bmig_loop_step(loop, PROGRESS_NS);
        if (options->progress && bmig_loop_now_ns(loop) - shown_ns >= PROGRESS_NS) {
            shown_ns = bmig_loop_now_ns(loop);
            bmig_mirror_stats(volume, stats);
            options->progress(options->user, stats);
        }
    }
}

static void end(struct bmig_loop *loop, struct bmig_volume *volume)
{
    struct run run = {.volume = volume};
    int status = bmig_mirror_stop(volume, stopped, &run);
    assert(status == 0);
    while (!run.stopped)
        bmig_loop_step(loop, UINT64_MAX);
    bmig_volume_free(volume);
}

static int outcome(int status, const struct bmig_mirror_stats *stats, const char *what,
                   struct bmig_error *err)
{
    if (status != 0)
        return bmig_error_set(err, BMIG_CANCELLED, ECANCELED, "%s: cancelled", what);
    if (stats->state == BMIG_MIRROR_DEGRADED)
        return bmig_error_set(err, BMIG_FAILED, -stats->error, "%s: %s", what, stats->error_text);
    return 0;
}

int bmig_transfer(struct bmig_loop *loop, struct bmig_pool *pool, struct bmig_disk *source,
                  struct bmig_disk *target, const struct bmig_transfer_options *options,
                  struct bmig_mirror_stats *stats, struct bmig_error *err)
{
    struct bmig_mirror_stats own;
    struct bmig_volume *volume;
    struct bmig_mirror_options mirror = {.bandwidth_bytes_per_s = options->bandwidth_bytes_per_s,
                                         .verify = options->verify,
                                         .fail_fast = true};
    if (!stats)
        stats = &own;
    int status = bmig_volume_new(&volume, loop, pool, source, "copy", 0, err);
    if (status != 0)
        return status;
    status = bmig_mirror_start(volume, target, &mirror, NULL, NULL, err);
    if (status != 0) {
        bmig_volume_free(volume);
        return status;
    }
    status = run_mirror(loop, volume, options, stats);
    if (options->progress)
        options->progress(options->user, stats);
    end(loop, volume);
    return outcome(status, stats, "copy", err);
}

/* The larger disk's bytes beyond from must be zero, as if the smaller one went on. */
static int compare_tail(struct bmig_pool *pool, struct bmig_disk *disk, uint64_t from,
                        uint64_t *first_difference, uint64_t *bytes_different)
{
    struct bmig_buffer *buffer = bmig_buffer_get(pool, TAIL_BYTES);
    int status = buffer ? 0 : -ENOMEM;
    while (status == 0 && from < disk->size_bytes) {
        struct bmig_extent extent;
        struct bmig_extents extents = {.list = &extent, .capacity = 1};
        struct bmig_request ask = {.op = BMIG_EXTENTS,
                                   .offset = from,
                                   .length = disk->size_bytes - from,
                                   .extents = &extents};
        status = bmig_disk_run(disk, &ask);
        if (status != 0)
            break;
        if (extent.flags & BMIG_EXTENT_ZERO) {
            from += extent.length_bytes;
            continue;
        }
        struct bmig_request read = {.op = BMIG_READ,
                                    .offset = from,
                                    .length = extent.length_bytes < TAIL_BYTES ? extent.length_bytes
                                                                               : TAIL_BYTES,
                                    .data = buffer->data};
        status = bmig_disk_run(disk, &read);
        if (status == 0 && !bmig_is_zero(buffer->data, read.length)) {
            *bytes_different += read.length;
            if (*first_difference == UINT64_MAX)
                *first_difference = from - from % 4096;
        }
        from += read.length;
    }
    bmig_buffer_unref(buffer);
    return status;
}

int bmig_compare(struct bmig_loop *loop, struct bmig_pool *pool, struct bmig_disk *a,
                 struct bmig_disk *b, const struct bmig_transfer_options *options,
                 uint64_t *first_difference, uint64_t *bytes_different, struct bmig_error *err)
{
    struct bmig_disk *small = a->size_bytes <= b->size_bytes ? a : b;
    struct bmig_disk *large = small == a ? b : a;
    struct bmig_mirror_options mirror = {.bandwidth_bytes_per_s = options->bandwidth_bytes_per_s,
                                         .fail_fast = true};
    struct bmig_mirror_stats stats;
    struct bmig_volume *volume;
    int status = bmig_volume_new(&volume, loop, pool, small, "compare", 0, err);
    if (status != 0)
        return status;
    status = bmig_mirror_start_compare(volume, large, &mirror, NULL, NULL, err);
    if (status != 0) {
        bmig_volume_free(volume);
        return status;
    }
    status = run_mirror(loop, volume, options, &stats);
    if (options->progress)
        options->progress(options->user, &stats);
    *first_difference = bmig_mirror_first_difference(volume);
    *bytes_different = stats.bytes_different;
    /* The disks outlive the comparison: its end fences the larger one, so the rest is read before.
     */
    if (status == 0 && stats.state == BMIG_MIRROR_SYNCED)
        status = compare_tail(pool, large, small->size_bytes, first_difference, bytes_different);
    end(loop, volume);
    if (status != 0 && status != -ECANCELED)
        return bmig_error_set(err, BMIG_FAILED, -status, "%s: %s", large->name,
                              bmig_strerror(-status));
    return outcome(status, &stats, "verify", err);
}
