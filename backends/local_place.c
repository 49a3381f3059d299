/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Making, removing and looking at local images.
 *
 * A new image is durable, by name and by size, when create returns, and gone when remove returns.
 * An existing name is never touched by create; remove takes regular files that nobody has locked,
 * and nothing else.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "backends/local_internal.h"

static const char *const no_params[] = {NULL};

/* Opens the folder that path's last part is in. */
static int open_folder(const char *path)
{
    const char *slash = strrchr(path, '/');
    size_t length = slash > path ? (size_t)(slash - path) : 1;
    char *folder = strndup(path, length);
    if (!folder)
        return -ENOMEM;
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int code = errno;
    free(folder);
    return fd < 0 ? -code : fd;
}

static int sync_folder(const char *path)
{
    int fd = open_folder(path);
    if (fd < 0)
        return fd;
    int status = fsync(fd) < 0 ? -errno : 0;
    close(fd);
    return status;
}

static int explain_existing(struct bmig_error *err, const char *path)
{
    struct stat st;
    char shown[BMIG_LOCAL_SHOW_BYTES];
    bmig_local_show(shown, path);
    if (stat(path, &st) == 0 && S_ISBLK(st.st_mode))
        return bmig_error_set(err, BMIG_DENIED, EEXIST,
                              "'%s': is a block device; it can be filled but not created", shown);
    return bmig_error_set(
        err, BMIG_DENIED, EEXIST,
        "'%s': exists already and was not touched; remove it or take another name", shown);
}

int bmig_local_create(const struct bmig_uri *uri, uint64_t size_bytes,
                      const struct bmig_open_options *options, struct bmig_error *err)
{
    const char *path = uri->path;
    int status = bmig_uri_check_params(uri, no_params, err);
    if (status < 0)
        return status;
    if (size_bytes > INT64_MAX)
        return bmig_local_explain(err, EFBIG, path, "created");
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 && errno == EEXIST)
        return explain_existing(err, path);
    if (fd < 0)
        return bmig_local_explain(err, errno, path, "created");
    status = ftruncate(fd, (off_t)size_bytes) < 0 || fsync(fd) < 0 ? -errno : 0;
    close(fd);
    if (status == 0)
        status = sync_folder(path);
    if (status < 0) {
        (void)unlink(path);
        return bmig_local_explain(err, -status, path, "created");
    }
    return 0;
}

static int check_removable(const char *path, struct bmig_error *err)
{
    struct stat st;
    char shown[BMIG_LOCAL_SHOW_BYTES];
    if (lstat(path, &st) < 0)
        return bmig_local_explain(err, errno, path, "removed");
    if (S_ISLNK(st.st_mode))
        return bmig_error_set(err, BMIG_REFUSED, ELOOP,
                              "'%s': is a symbolic link; name the image itself to remove it",
                              bmig_local_show(shown, path));
    if (S_ISBLK(st.st_mode))
        return bmig_error_set(err, BMIG_REFUSED, ENOTSUP,
                              "'%s': is a block device and can't be removed",
                              bmig_local_show(shown, path));
    int status = bmig_local_check_kind(&st, path, err);
    if (status < 0)
        return status;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return bmig_local_explain(err, errno, path, "removed");
    status = bmig_local_check_unlocked(fd, path, err);
    close(fd);
    return status;
}

int bmig_local_remove(const struct bmig_uri *uri, const struct bmig_open_options *options,
                      struct bmig_error *err)
{
    const char *path = uri->path;
    int status = bmig_uri_check_params(uri, no_params, err);
    if (status == 0)
        status = check_removable(path, err);
    if (status < 0)
        return status;
    if (unlink(path) < 0)
        return bmig_local_explain(err, errno, path, "removed");
    status = sync_folder(path);
    return status < 0 ? bmig_local_explain(err, -status, path, "removed durably") : 0;
}

static void stat_room(int fd, struct bmig_place_stat *out)
{
    struct statvfs room;
    if (fstatvfs(fd, &room) < 0)
        return;
    out->free_bytes = (uint64_t)room.f_bavail * room.f_frsize;
    out->total_bytes = (uint64_t)room.f_blocks * room.f_frsize;
}

static int stat_device(const char *path, const struct stat *st, struct bmig_place_stat *out,
                       struct bmig_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int status = fd < 0 ? -errno : bmig_local_size(fd, st, &out->size_bytes);
    if (fd >= 0)
        close(fd);
    if (status < 0)
        return bmig_local_explain(err, -status, path, "examined");
    out->fixed = true;
    out->allocated_bytes = UINT64_MAX;
    snprintf(out->identity, sizeof(out->identity), "local:device:%u:%u", major(st->st_rdev),
             minor(st->st_rdev));
    return 0;
}

static int stat_missing(const char *path, struct bmig_place_stat *out, struct bmig_error *err)
{
    struct stat st;
    if (lstat(path, &st) == 0) /* a link to nothing: neither to be opened nor to be created */
        return bmig_local_explain(err, ENOENT, path, "examined");
    int fd = open_folder(path);
    if (fd >= 0) {
        stat_room(fd, out);
        close(fd);
    }
    return 0;
}

int bmig_local_stat(const struct bmig_uri *uri, const struct bmig_open_options *options,
                    struct bmig_place_stat *out, struct bmig_error *err)
{
    const char *path = uri->path;
    struct stat st;
    *out = (struct bmig_place_stat){.free_bytes = UINT64_MAX, .total_bytes = UINT64_MAX};
    int status = bmig_uri_check_params(uri, no_params, err);
    if (status < 0)
        return status;
    if (stat(path, &st) < 0)
        return errno == ENOENT ? stat_missing(path, out, err)
                               : bmig_local_explain(err, errno, path, "examined");
    status = bmig_local_check_kind(&st, path, err);
    if (status < 0)
        return status;
    if (S_ISBLK(st.st_mode)) {
        status = stat_device(path, &st, out, err);
    } else {
        out->size_bytes = bmig_local_round_size((uint64_t)st.st_size);
        out->allocated_bytes = (uint64_t)st.st_blocks * 512;
        snprintf(out->identity, sizeof(out->identity), "local:%llx:%llx",
                 (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
        int fd = open_folder(path);
        if (fd >= 0) {
            stat_room(fd, out);
            close(fd);
        }
    }
    out->exists = status == 0;
    return status;
}
