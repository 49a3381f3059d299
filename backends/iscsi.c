/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The iSCSI driver: a LUN of a target as a disk, over a few sessions of its own (libiscsi).
 *
 * LUNs are made by the array, so there is no create and no remove. `exclusive` takes nothing here:
 * persistent reservations belong to whoever decides which host owns a volume.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/backends.h"
#include "backends/iscsi.h"

enum { DEFAULT_SESSIONS = 2, ZERO_BYTES = 64 << 20, PREFERRED_BYTES = 512 << 10, LOGOUT_MS = 1000 };

static struct bmig_iscsi *link_of(struct bmig_disk *disk)
{
    return disk->state;
}

/* The library writes to its socket with writev, which kills a process that has not said that it
 * wants an errno instead. */
static void ignore_sigpipe(void)
{
    struct sigaction action;
    if (sigaction(SIGPIPE, NULL, &action) == 0 && action.sa_handler == SIG_DFL)
        signal(SIGPIPE, SIG_IGN);
}

static uint64_t least_told(uint64_t a, uint64_t b)
{
    return b && b < a ? b : a;
}

static void fill_limits(struct bmig_disk *disk, const struct bmig_iscsi_facts *facts)
{
    uint64_t block = facts->block_bytes;
    uint64_t io = least_told(BMIG_ISCSI_MAX_IO_BYTES / block, facts->max_transfer_blocks);
    uint64_t zero = least_told(ZERO_BYTES / block, facts->max_write_same_blocks);
    zero = least_told(zero, facts->unmap ? facts->max_unmap_blocks : 0);
    disk->size_bytes = facts->size_bytes;
    disk->limits = (struct bmig_limits){
        .block_bytes = facts->block_bytes,
        .memory_align = 1,
        .max_io_bytes = (uint32_t)(io * block),
        .max_zero_bytes = zero * block,
        .zero_align = facts->block_bytes,
        .max_requests = BMIG_ISCSI_DEPTH * link_of(disk)->session_count,
        .preferred_bytes = (uint32_t)(io < PREFERRED_BYTES / block ? io * block : PREFERRED_BYTES),
    };
}

static void fill_caps(struct bmig_disk *disk, const struct bmig_iscsi_facts *facts, bool writable)
{
    /* A FLUSH is the logical unit's, not the session's (SBC-3 5.23). WRITE SAME is tried whatever
     * the target says of it: many know it that don't say so, and the door makes up for those that
     * don't. */
    disk->caps = BMIG_CAP_FLUSH | BMIG_CAP_MULTI_CONN | BMIG_CAP_GATHERS;
    if (facts->fua)
        disk->caps |= BMIG_CAP_FUA;
    if (facts->lba_status)
        disk->caps |= BMIG_CAP_EXTENTS;
    if (facts->rotational)
        disk->caps |= BMIG_CAP_ROTATIONAL;
    if (!writable)
        return;
    disk->caps |= BMIG_CAP_WRITE | BMIG_CAP_ZERO | BMIG_CAP_FAST_ZERO;
    if (facts->ws_unmap && facts->zeroes)
        disk->caps |= BMIG_CAP_UNMAP;
    if (facts->unmap || facts->ws_unmap)
        disk->caps |= BMIG_CAP_DISCARD;
}

static void close_sessions(struct bmig_iscsi *link)
{
    for (unsigned i = 0; i < link->session_count; i++)
        bmig_iscsi_logout(link->sessions[i].context, LOGOUT_MS * UINT64_C(1000000));
}

static int open_sessions(struct bmig_iscsi *link, bool writable, struct bmig_error *err)
{
    struct bmig_iscsi_target *target = link->target;
    for (unsigned i = 0; i < link->session_count; i++) {
        int rc = bmig_iscsi_login(target, i, target->timeout_ns, &link->sessions[i].context,
                                  i == 0 ? &link->facts : NULL, err);
        if (rc)
            return rc;
        if (i == 0 && writable && link->facts.write_protected)
            return bmig_error_set(err, BMIG_DENIED, EROFS, "the LUN is write-protected");
    }
    return 0;
}

static int iscsi_open(struct bmig_disk *disk, const struct bmig_uri *uri,
                      const struct bmig_open_options *options, struct bmig_error *err)
{
    struct bmig_iscsi *link = calloc(1, sizeof *link);
    if (!link)
        return bmig_error_set(err, BMIG_FAILED, ENOMEM, "'%s': no memory", uri->text);
    unsigned sessions = options->sessions ? options->sessions : DEFAULT_SESSIONS;
    link->session_count = sessions < BMIG_ISCSI_MAX_SESSIONS ? sessions : BMIG_ISCSI_MAX_SESSIONS;
    link->disk = disk;
    ignore_sigpipe();
    int rc = bmig_iscsi_target_new(&link->target, uri, options, link->session_count, err);
    if (rc) {
        free(link);
        return rc;
    }
    rc = open_sessions(link, options->writable, err);
    if (rc) {
        bmig_error_prefix(err, "'%s'", uri->text);
        close_sessions(link);
        bmig_iscsi_target_unref(link->target);
        free(link);
        return rc;
    }
    disk->state = link;
    fill_limits(disk, &link->facts);
    fill_caps(disk, &link->facts, options->writable);
    disk->known_zero = options->writable && link->facts.all_unmapped;
    return 0;
}

static void iscsi_close(struct bmig_disk *disk)
{
    struct bmig_iscsi *link = link_of(disk);
    close_sessions(link);
    bmig_iscsi_target_unref(link->target);
    free(link);
}

static int iscsi_attach(struct bmig_disk *disk)
{
    return bmig_iscsi_link_attach(link_of(disk));
}

static void iscsi_detach(struct bmig_disk *disk)
{
    bmig_iscsi_link_detach(link_of(disk));
}

static void iscsi_submit(struct bmig_disk *disk, struct bmig_request *request)
{
    bmig_iscsi_op_start(link_of(disk), request);
}

static void iscsi_fence(struct bmig_disk *disk)
{
    bmig_iscsi_link_fence(link_of(disk));
}

static int iscsi_stat(const struct bmig_uri *uri, const struct bmig_open_options *options,
                      struct bmig_place_stat *stat, struct bmig_error *err)
{
    struct bmig_iscsi_target *target;
    struct bmig_iscsi_facts facts;
    struct iscsi_context *context;
    struct bmig_error local = {0};
    *stat = (struct bmig_place_stat){
        .fixed = true,
        .allocated_bytes = UINT64_MAX,
        .free_bytes = UINT64_MAX,
        .total_bytes = UINT64_MAX,
    };
    ignore_sigpipe();
    int rc = bmig_iscsi_target_new(&target, uri, options, 1, err);
    if (rc)
        return rc;
    rc = bmig_iscsi_login(target, 0, target->timeout_ns, &context, &facts, &local);
    bmig_iscsi_logout(context, LOGOUT_MS * UINT64_C(1000000));
    bmig_iscsi_target_unref(target);
    if (rc == -ENOENT)
        return 0;
    if (rc)
        return bmig_error_set(err, local.kind, local.code, "'%s': %s", uri->text, local.message);
    stat->exists = true;
    stat->size_bytes = facts.size_bytes;
    stat->known_zero = facts.all_unmapped;
    snprintf(stat->identity, sizeof stat->identity, "%s", facts.identity);
    return 0;
}

static void iscsi_describe(struct bmig_disk *disk,
                           void (*put)(void *user, const char *key, const char *value), void *user)
{
    const struct bmig_iscsi *link = link_of(disk);
    const struct bmig_iscsi_facts *facts = &link->facts;
    char text[64];
    put(user, "device", facts->vendor);
    put(user, "identity", facts->identity);
    snprintf(text, sizeof text, "%u", facts->block_bytes);
    put(user, "logical block", text);
    put(user, "provisioning",
        !facts->thin    ? "thick"
        : facts->zeroes ? "thin, reads as zeroes"
                        : "thin");
    put(user, "write cache", facts->write_cache ? "on" : "off");
    snprintf(text, sizeof text, "%u", link->session_count);
    put(user, "sessions", text);
    snprintf(text, sizeof text, "%llu", (unsigned long long)link->lost_count);
    put(user, "connections lost", text);
}

const struct bmig_driver bmig_iscsi_driver = {
    .name = "iscsi",
    .open = iscsi_open,
    .close = iscsi_close,
    .attach = iscsi_attach,
    .detach = iscsi_detach,
    .submit = iscsi_submit,
    .fence = iscsi_fence,
    .stat = iscsi_stat,
    .describe = iscsi_describe,
};
