/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The NFS backend: images that are files on an NFSv3 server, through libnfs's raw calls.
 *
 * libnfs's file interface is not used: it drops the write verifier, so a server that restarts
 * between a WRITE and its COMMIT loses data and nobody hears of it, and it turns every write error
 * into EFAULT.
 *
 * What NFSv3 can't do: ZERO and DISCARD (the door writes zeroes), EXTENTS (all is data), and a
 * fence that holds against the server itself. Fencing closes the connections by reset, so the
 * server drops what it had not read; a WRITE that it had read may still take effect afterwards. Who
 * must be sure waits, or has the export withdrawn from this host.
 */
#include "backends/backends.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/nfs_image.h"

enum { DEFAULT_SESSIONS = 4, MAX_IO_BYTES = 1 << 20, SMALLEST_IO_BYTES = 512 };

/* ---- open and close ---- */

static int check_access(struct bmig_nfs_image *image, bool writable, struct bmig_error *err)
{
    struct bmig_nfs_place *place = &image->place;
    uint32_t wanted = ACCESS3_READ | (writable ? ACCESS3_MODIFY : 0), granted = 0;
    if (!place->exists)
        return bmig_error_set(err, BMIG_NOT_FOUND, ENOENT, "'%s' does not exist", place->text);
    int result = bmig_nfs_call_access(&place->link, &place->file, wanted, &granted);
    if (result == 0 && (granted & wanted) != wanted)
        result = -EACCES;
    if (result != 0)
        return bmig_nfs_place_error(place, result,
                                    granted & ACCESS3_READ ? "open for writing" : "open", err);
    return 0;
}

static int read_limits(struct bmig_nfs_image *image, struct bmig_error *err)
{
    struct bmig_disk *disk = image->disk;
    struct bmig_nfs_place *place = &image->place;
    struct FSINFO3resok info;
    int result = bmig_nfs_call_fsinfo(&place->link, &place->file, &info);
    if (result != 0)
        return bmig_nfs_place_error(place, result, "ask for the limits of", err);
    image->read_max_bytes = info.rtmax;
    image->write_max_bytes = info.wtmax;
    uint32_t most = info.rtmax < info.wtmax ? info.rtmax : info.wtmax;
    if (most > MAX_IO_BYTES || most == 0)
        most = most ? MAX_IO_BYTES : 64 << 10;
    if (most >= 4096)
        most -= most % 4096;
    if (most < SMALLEST_IO_BYTES)
        return bmig_error_set(err, BMIG_REFUSED, EINVAL,
                              "'%s': the server takes only %u bytes a request", place->text, most);
    disk->limits = (struct bmig_limits){
        .block_bytes = 1, /* so that an end which is no multiple of anything needs no care */
        .memory_align = 1,
        .max_io_bytes = most,
        .max_zero_bytes = most,
        .zero_align = 1,
        .max_requests = BMIG_NFS_MAX_REQUESTS,
        .preferred_bytes = most,
    };
    return 0;
}

static int open_sessions(struct bmig_nfs_image *image, uint32_t count, struct bmig_error *err)
{
    struct bmig_nfs_place *place = &image->place;
    bmig_nfs_session_open(&image->sessions[image->session_count++], image, &place->link);
    while (image->session_count < count) {
        int result = bmig_nfs_link_open(&place->link, place->address, place->nfs_port, place->uid,
                                        place->gid, place->timeout_ns);
        if (result != 0)
            return bmig_nfs_place_error(place, result, "connect again for", err);
        bmig_nfs_session_open(&image->sessions[image->session_count++], image, &place->link);
    }
    return 0;
}

static void image_free(struct bmig_nfs_image *image)
{
    for (uint32_t i = 0; i < image->session_count; i++)
        bmig_nfs_session_drop(&image->sessions[i]);
    bmig_nfs_unlock(image);
    bmig_nfs_place_fini(&image->place);
    bmig_nfs_stable_fini(image);
    free(image);
}

static int nfs_driver_open(struct bmig_disk *disk, const struct bmig_uri *uri,
                           const struct bmig_open_options *options, struct bmig_error *err)
{
    struct bmig_nfs_image *image = calloc(1, sizeof(*image));
    if (!image)
        return bmig_error_set(err, BMIG_FAILED, ENOMEM, "'%s': out of memory", uri->text);
    image->disk = disk;
    bmig_nfs_io_init(image);
    bmig_nfs_stable_init(image);
    int result = bmig_nfs_place_find(&image->place, uri, options, err);
    if (result == 0)
        result = check_access(image, options->writable, err);
    if (result == 0)
        result = read_limits(image, err);
    if (result == 0 && options->writable && options->exclusive)
        result = bmig_nfs_lock(image, err);
    if (result == 0) {
        uint32_t sessions = options->sessions ? options->sessions : DEFAULT_SESSIONS;
        image->fh = image->place.file;
        result = open_sessions(
            image, sessions < BMIG_NFS_MAX_SESSIONS ? sessions : BMIG_NFS_MAX_SESSIONS, err);
    }
    if (result != 0) {
        image_free(image);
        return result;
    }
    disk->state = image;
    disk->size_bytes = image->place.attributes.size;
    disk->known_zero = options->writable && options->exclusive &&
                       image->place.attributes.mtime.seconds == BMIG_NFS_FRESH_MTIME_S &&
                       image->place.attributes.mtime.nseconds == 0 &&
                       image->place.attributes.used <= BMIG_NFS_FRESH_USED_BYTES;
    disk->caps = (options->writable ? BMIG_CAP_WRITE : 0) | BMIG_CAP_FLUSH | BMIG_CAP_GATHERS |
                 BMIG_CAP_FUA | BMIG_CAP_MULTI_CONN;
    snprintf(disk->name, sizeof(disk->name), "%s", image->place.text);
    return 0;
}

static void nfs_driver_close(struct bmig_disk *disk)
{
    image_free(disk->state);
    disk->state = NULL;
}

/* ---- on a loop ---- */

static int nfs_driver_attach(struct bmig_disk *disk)
{
    struct bmig_nfs_image *image = disk->state;
    if (bmig_nfs_io_attach(image) != 0)
        return -ENOMEM;
    image->loop = disk->loop;
    for (uint32_t i = 0; i < image->session_count; i++)
        bmig_nfs_session_attach(&image->sessions[i]);
    bmig_nfs_stable_attached(image);
    return 0;
}

/* Closes what carries something and ends all there is; the rest stays as it is. */
static void stop(struct bmig_nfs_image *image, bool all, int status)
{
    image->fenced = true; /* nothing begins meanwhile */
    for (uint32_t i = 0; i < image->session_count; i++) {
        struct bmig_nfs_session *session = &image->sessions[i];
        if (all || session->state != BMIG_NFS_UP || !TAILQ_EMPTY(&session->sent))
            bmig_nfs_session_drop(session);
        bmig_nfs_session_detach(session);
    }
    bmig_nfs_end_all(image, status);
}

static void nfs_driver_detach(struct bmig_disk *disk)
{
    struct bmig_nfs_image *image = disk->state;
    bool was_fenced = image->fenced;
    stop(image, false, -ECANCELED); /* COMMITs of our own; the door holds nothing */
    bmig_nfs_io_detach(image);
    image->fenced = was_fenced;
    image->loop = NULL;
}

static void nfs_driver_fence(struct bmig_disk *disk)
{
    struct bmig_nfs_image *image = disk->state;
    stop(image, true, -ECANCELED);
    bmig_nfs_stable_fini(image); /* copies of a disk that is no longer ours must not be written */
    bmig_disk_fenced(disk);
}

static void nfs_driver_describe(struct bmig_disk *disk,
                                void (*put)(void *user, const char *key, const char *value),
                                void *user)
{
    const struct bmig_nfs_image *image = disk->state;
    char text[160];
    snprintf(text, sizeof(text), "%s port %u, NFSv3, uid %u gid %u", image->place.address,
             image->place.nfs_port, image->place.uid, image->place.gid);
    put(user, "server", text);
    put(user, "export", image->place.export);
    snprintf(text, sizeof(text), "%u", image->session_count);
    put(user, "connections", text);
    snprintf(text, sizeof(text), "read %u, write %u bytes a request", image->read_max_bytes,
             image->write_max_bytes);
    put(user, "server limits", text);
    snprintf(text, sizeof(text), "%llu reconnects, %llu restarts with data written again",
             (unsigned long long)image->reconnects, (unsigned long long)image->stable.losses);
    put(user, "since opened", text);
    if (image->lock_name[0])
        put(user, "lock", image->lock_name);
}

const struct bmig_driver bmig_nfs_driver = {
    .name = "nfs",
    .open = nfs_driver_open,
    .close = nfs_driver_close,
    .attach = nfs_driver_attach,
    .detach = nfs_driver_detach,
    .submit = bmig_nfs_submit,
    .fence = nfs_driver_fence,
    .create = bmig_nfs_create,
    .remove = bmig_nfs_remove,
    .stat = bmig_nfs_stat,
    .describe = nfs_driver_describe,
};
