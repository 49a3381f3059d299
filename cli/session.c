/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Images without a daemon: opened here, on a loop of this process.
 */
#include "cli/session.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { POOL_BYTES = 64 << 20, QUIET_NS = 2000000000 };

int bmig_session_begin(struct bmig_session *session, struct bmig_cli *cli, const char *label,
                       struct bmig_error *err)
{
    memset(session, 0, sizeof(*session));
    snprintf(session->label, sizeof(session->label), "%s", label);
    bmig_painter_init(&session->painter, stderr);
    session->painter.quiet =
        cli->json && !session->painter.terminal; /* stderr is for a JSON error then */
    session->stop = bmig_cli_catch_stop();
    session->begin_ns = bmig_api_now_ns();
    int rc = bmig_loop_new(&session->loop, BMIG_LOOP_AUTO, err);
    if (rc < 0)
        return rc;
    rc = bmig_pool_new(&session->pool, session->loop, POOL_BYTES);
    if (rc < 0)
        return bmig_error_set(err, BMIG_FAILED, -rc, "32 MiB for data in flight: %s",
                              bmig_strerror(-rc));
    return 0;
}

int bmig_session_open(struct bmig_session *session, unsigned index, const struct bmig_place *place,
                      const struct bmig_open_options *options, struct bmig_error *err)
{
    struct bmig_disk *disk = NULL;
    int rc = bmig_image_open(&disk, &place->spec, options, err);
    if (rc < 0)
        return rc;
    rc = bmig_disk_attach(disk, session->loop, err);
    if (rc < 0)
        bmig_disk_close(disk);
    else
        session->disks[index] = disk;
    return rc;
}

void bmig_session_end(struct bmig_session *session)
{
    bmig_painter_clear(&session->painter);
    for (unsigned i = 0; i < 2; i++) {
        struct bmig_disk *disk = session->disks[i];
        if (!disk)
            continue;
        while (!bmig_disk_idle(disk))
            bmig_loop_step(session->loop, UINT64_MAX);
        bmig_disk_detach(disk);
        bmig_disk_close(disk);
    }
    while (session->loop && bmig_loop_outstanding(session->loop))
        bmig_loop_step(session->loop, UINT64_MAX);
    if (session->pool)
        bmig_pool_free(session->pool);
    if (session->loop)
        bmig_loop_free(session->loop);
    memset(session, 0, sizeof(*session));
}

void bmig_session_progress(void *user, const struct bmig_mirror_stats *stats)
{
    struct bmig_session *session = user;
    struct bmig_progress progress = {
        .percent = -1, .guest_p99_us = UINT64_MAX, .guest_p99_us_before = UINT64_MAX};
    bool verifying = stats->state == BMIG_MIRROR_VERIFYING;
    uint64_t now_ns = bmig_api_now_ns();
    /* What is over in a moment needs no lines in a log. */
    if (!session->painter.terminal && now_ns - session->begin_ns < QUIET_NS)
        return;
    if (!verifying && stats->state != BMIG_MIRROR_COPYING)
        return;
    snprintf(progress.label, sizeof(progress.label), "%s", session->label);
    snprintf(progress.phase, sizeof(progress.phase), "%s", bmig_mirror_state_name(stats->state));
    if (stats->bytes_total)
        progress.percent = 100.0 * (double)stats->bytes_done / (double)stats->bytes_total;
    progress.rate_bytes_per_s = stats->rate_bytes_per_s;
    progress.eta_s = stats->eta_s;
    progress.stale_bytes = verifying ? UINT64_MAX : stats->bytes_stale;
    bmig_painter_show(&session->painter, &progress, now_ns);
}

struct bmig_open_options bmig_session_options(const struct bmig_place *place, bool writable,
                                              bool still)
{
    /* Only a file's lock lets several readers in; elsewhere it would be one against all. */
    bool lock = writable || (still && bmig_place_is_file(place));
    struct bmig_open_options options = {
        .writable = writable, .exclusive = lock, .direct = true, .secret = place->secret};
    return options;
}

int bmig_session_stat(const struct bmig_place *place, struct bmig_place_stat *stat,
                      struct bmig_error *err)
{
    struct bmig_open_options options = bmig_session_options(place, false, false);
    memset(stat, 0, sizeof(*stat));
    int rc = bmig_image_stat(&place->spec, &options, stat, err);
    if (rc == 0 && !stat->exists)
        rc = bmig_error_set(err, BMIG_NOT_FOUND, ENOENT, "'%.300s' does not exist", place->given);
    return rc;
}

void bmig_session_add(struct bmig_error *err, const char *format, ...)
{
    size_t used = strlen(err->message);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(err->message + used, sizeof(err->message) - used, format, arguments);
    va_end(arguments);
}
