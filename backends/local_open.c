/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Opening a file or block device: what it is, its size, how it wants to be accessed, what it can
 * do.
 *
 * Direct I/O is used where it is asked for and the image's size fits its unit; elsewhere the page
 * cache is. The disk's size is the file's, rounded up to 512 bytes whatever the unit, so that it
 * does not depend on how the image was opened.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "backends/local_internal.h"

enum { SECTOR_BYTES = 512, MAX_BLOCK_BYTES = 4096 };

const char *bmig_local_show(char text[BMIG_LOCAL_SHOW_BYTES], const char *path)
{
    size_t length = strlen(path), half = (BMIG_LOCAL_SHOW_BYTES - 6) / 2;
    if (length < BMIG_LOCAL_SHOW_BYTES)
        memcpy(text, path, length + 1);
    else
        snprintf(text, BMIG_LOCAL_SHOW_BYTES, "%.*s[...]%s", (int)half, path,
                 path + length - half + 1);
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    return text;
}

/* Why there is nothing at path: a link to nothing, or a folder that is missing. */
static int explain_missing(struct bmig_error *err, const char *path, const char *shown)
{
    struct stat st;
    char target[PATH_MAX], shown_target[BMIG_LOCAL_SHOW_BYTES];
    if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode)) {
        ssize_t length = readlink(path, target, sizeof(target) - 1);
        target[length > 0 ? length : 0] = '\0';
        return bmig_error_set(err, BMIG_NOT_FOUND, ENOENT,
                              "'%s': is a symbolic link to '%s', which does not exist", shown,
                              bmig_local_show(shown_target, target));
    }
    const char *slash = strrchr(path, '/');
    size_t length = slash && slash > path ? (size_t)(slash - path) : 1;
    if (length < sizeof(target)) {
        memcpy(target, path, length);
        target[length] = '\0';
        if (stat(target, &st) < 0 && errno == ENOENT)
            return bmig_error_set(err, BMIG_NOT_FOUND, ENOENT,
                                  "'%s': its folder '%s' does not exist; make it first, or correct "
                                  "the path",
                                  shown, bmig_local_show(shown_target, target));
    }
    return bmig_error_set(err, BMIG_NOT_FOUND, ENOENT, "'%s': does not exist", shown);
}

int bmig_local_explain(struct bmig_error *err, int code, const char *path, const char *what)
{
    char shown[BMIG_LOCAL_SHOW_BYTES];
    const char *hint = NULL;
    bmig_local_show(shown, path);
    switch (code) {
    case ENOENT:
        return explain_missing(err, path, shown);
    case EACCES:
        return bmig_error_set(
            err, BMIG_DENIED, code,
            "'%s': can't be %s: permission denied to user %u; see the modes of it and of "
            "the folders above",
            shown, what, (unsigned)geteuid());
    case EROFS:
        return bmig_error_set(err, BMIG_DENIED, code,
                              "'%s': can't be %s: its file system is mounted read-only", shown,
                              what);
    case EPERM:
        hint = "it may be immutable or append-only (see lsattr)";
        break;
    case ETXTBSY:
        hint = "it is in use as swap space or as a program";
        break;
    case ENOSPC:
        hint = "make room on its file system";
        break;
    case EDQUOT:
        hint = "a quota is used up";
        break;
    case EFBIG:
        hint = "its file system takes no file of that size";
        break;
    case EMFILE:
    case ENFILE:
        hint = "raise the limit of open files";
        break;
    default:
        break;
    }
    return bmig_error_set(err, bmig_error_kind_of(code), code, "'%s': can't be %s: %s%s%s", shown,
                          what, bmig_strerror(code), hint ? "; " : "", hint ? hint : "");
}

int bmig_local_check_kind(const struct stat *st, const char *path, struct bmig_error *err)
{
    char shown[BMIG_LOCAL_SHOW_BYTES];
    const char *kind = S_ISDIR(st->st_mode)    ? "a directory"
                       : S_ISFIFO(st->st_mode) ? "a FIFO"
                       : S_ISSOCK(st->st_mode) ? "a socket"
                       : S_ISCHR(st->st_mode)  ? "a character device"
                                               : NULL;
    if (S_ISREG(st->st_mode) || S_ISBLK(st->st_mode))
        return 0;
    return bmig_error_set(err, BMIG_REFUSED, S_ISDIR(st->st_mode) ? EISDIR : ENOTBLK,
                          "'%s': is %s; an image is a file or a block device",
                          bmig_local_show(shown, path), kind ? kind : "of an unknown kind");
}

int bmig_local_size(int fd, const struct stat *st, uint64_t *size_bytes)
{
    if (!S_ISBLK(st->st_mode)) {
        *size_bytes = (uint64_t)st->st_size;
        return 0;
    }
    return ioctl(fd, BLKGETSIZE64, size_bytes) < 0 ? -errno : 0;
}

uint64_t bmig_local_round_size(uint64_t file_bytes)
{
    return (file_bytes + SECTOR_BYTES - 1) / SECTOR_BYTES * SECTOR_BYTES;
}

uint64_t bmig_local_queue_value(dev_t device, const char *name, uint64_t fallback)
{
    /* A partition's queue is that of the disk above it. */
    static const char *const places[] = {"queue", "../queue"};
    for (size_t i = 0; i < 2; i++) {
        char path[128];
        unsigned long long value;
        snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s/%s", major(device), minor(device),
                 places[i], name);
        FILE *file = fopen(path, "re");
        if (!file)
            continue;
        int found = fscanf(file, "%llu", &value);
        fclose(file);
        if (found == 1)
            return value;
    }
    return fallback;
}

/* ---- direct I/O ---- */

/* Whether a direct read of unit bytes at offset 0 is taken (how many it gives does not matter). */
static bool probe_read(int fd, uint32_t unit)
{
    void *data = NULL;
    if (posix_memalign(&data, MAX_BLOCK_BYTES, MAX_BLOCK_BYTES) != 0)
        return false;
    ssize_t result = pread(fd, data, unit, 0);
    free(data);
    return result >= 0;
}

/* The units of direct I/O on fd, which has O_DIRECT set; false where there is none. */
static bool direct_units(int fd, uint32_t *offset_align, uint32_t *memory_align)
{
#ifdef STATX_DIOALIGN
    struct statx stx;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 && stx.stx_mask & STATX_DIOALIGN) {
        *offset_align = stx.stx_dio_offset_align;
        *memory_align = stx.stx_dio_mem_align;
        return *offset_align && *offset_align <= MAX_BLOCK_BYTES && *memory_align &&
               *memory_align <= MAX_BLOCK_BYTES;
    }
#endif
    int sector = 0;
    if (ioctl(fd, BLKSSZGET, &sector) == 0 && sector >= SECTOR_BYTES && sector <= MAX_BLOCK_BYTES)
        *offset_align = (uint32_t)sector;
    else if (probe_read(fd, SECTOR_BYTES))
        *offset_align = SECTOR_BYTES;
    else if (probe_read(fd, MAX_BLOCK_BYTES))
        *offset_align = MAX_BLOCK_BYTES;
    else
        return false;
    *memory_align = *offset_align;
    return true;
}

static void choose_access(struct bmig_disk *disk, struct bmig_local *local, bool direct)
{
    uint32_t offset_align = SECTOR_BYTES, memory_align = 1;
    int flags = fcntl(local->fd, F_GETFL);
    int sector = SECTOR_BYTES;
    if (local->is_device)
        (void)ioctl(local->fd, BLKSSZGET, &sector);
    if (direct && fcntl(local->fd, F_SETFL, flags | O_DIRECT) == 0) {
        local->is_direct = direct_units(local->fd, &offset_align, &memory_align) &&
                           disk->size_bytes % offset_align == 0;
        if (!local->is_direct) {
            offset_align = SECTOR_BYTES;
            memory_align = 1;
            (void)fcntl(local->fd, F_SETFL, flags & ~O_DIRECT);
        }
    }
    if (offset_align < SECTOR_BYTES)
        offset_align = SECTOR_BYTES;
    disk->limits = (struct bmig_limits){
        .block_bytes = offset_align,
        .memory_align = memory_align,
        .max_io_bytes = 8 << 20,
        .max_zero_bytes = 1 << 30,
        /* A device zeroes whole sectors; a file's are the file system's matter. */
        .zero_align =
            local->is_device && sector > (int)offset_align ? (uint32_t)sector : offset_align,
        .max_requests = 256,
        .preferred_bytes = 1 << 20,
    };
}

static void find_caps(struct bmig_disk *disk, struct bmig_local *local, const struct stat *st)
{
    dev_t device = local->is_device ? st->st_rdev : st->st_dev;
    disk->caps = BMIG_CAP_FLUSH | BMIG_CAP_MULTI_CONN | (local->is_direct ? 0 : BMIG_CAP_GATHERS);
    if (bmig_local_queue_value(device, "rotational", 0))
        disk->caps |= BMIG_CAP_ROTATIONAL;
    if (local->is_device) {
        /* The kernel always has a way to zero a device's range. */
        disk->caps |= BMIG_CAP_ZERO;
        if (bmig_local_queue_value(device, "write_zeroes_max_bytes", 0))
            disk->caps |= BMIG_CAP_FAST_ZERO | BMIG_CAP_UNMAP;
        if (bmig_local_queue_value(device, "discard_max_bytes", 0))
            disk->caps |= BMIG_CAP_DISCARD;
        return;
    }
    disk->caps |= BMIG_CAP_EXTENTS | BMIG_CAP_ZERO | BMIG_CAP_FAST_ZERO;
    /* Beyond the file's end there is nothing that a hole could free, so this asks and changes
     * nothing. */
    off_t beyond = (off_t)(disk->size_bytes + (1 << 20));
    local->no_punch = (fcntl(local->fd, F_GETFL) & O_ACCMODE) == O_RDONLY ||
                      fallocate(local->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, beyond,
                                MAX_BLOCK_BYTES) < 0;
    if (!local->no_punch)
        disk->caps |= BMIG_CAP_UNMAP | BMIG_CAP_DISCARD;
}

/* ---- open ---- */

/* The kernel lets a device that is set read-only be opened for writing, and fails the writes. */
static int check_writable_device(int fd, const struct stat *st, const char *path,
                                 struct bmig_error *err)
{
    int read_only = 0;
    char shown[BMIG_LOCAL_SHOW_BYTES];
    if (S_ISBLK(st->st_mode) && ioctl(fd, BLKROGET, &read_only) == 0 && read_only)
        return bmig_error_set(err, BMIG_DENIED, EROFS, "'%s': the device is read-only",
                              bmig_local_show(shown, path));
    return 0;
}

static int open_path(const char *path, const struct bmig_open_options *options, struct stat *st,
                     struct bmig_error *err)
{
    if (stat(path, st) < 0)
        return bmig_local_explain(err, errno, path, "opened");
    int status = bmig_local_check_kind(st, path, err);
    if (status < 0)
        return status;
    int flags = options->writable ? O_RDWR : O_RDONLY;
    /* Not blocking, in case a FIFO took the name's place meanwhile. */
    flags |= O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    int fd = S_ISBLK(st->st_mode) && options->writable && options->exclusive
                 ? bmig_local_open_exclusive(path, flags, st->st_rdev)
                 : open(path, flags);
    if (fd < 0 && errno == EBUSY && S_ISBLK(st->st_mode))
        return bmig_local_explain_busy(err, path, st->st_rdev);
    if (fd < 0)
        return bmig_local_explain(err, errno, path,
                                  options->writable ? "opened for writing" : "opened");
    status = fstat(fd, st) < 0 ? bmig_local_explain(err, errno, path, "opened")
                               : bmig_local_check_kind(st, path, err);
    if (status == 0 && options->writable)
        status = check_writable_device(fd, st, path, err);
    if (status < 0) {
        close(fd);
        return status;
    }
    (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    return fd;
}

static int open_file(struct bmig_disk *disk, struct bmig_local *local, const char *path,
                     const struct bmig_open_options *options, struct bmig_error *err)
{
    struct stat st;
    local->fd = open_path(path, options, &st, err);
    if (local->fd < 0)
        return local->fd;
    local->is_device = S_ISBLK(st.st_mode);
    int status = 0;
    if (options->exclusive) {
        status = bmig_local_lock(local->fd, options->writable, path, err);
        local->is_locked = true;
    }
    /* The size once nobody else may change it. */
    if (status == 0 && (fstat(local->fd, &st) < 0 ||
                        (status = bmig_local_size(local->fd, &st, &local->file_bytes)) < 0))
        status = bmig_local_explain(err, status < 0 ? -status : errno, path, "measured");
    if (status < 0) {
        close(local->fd);
        return status;
    }
    disk->size_bytes = bmig_local_round_size(local->file_bytes);
    choose_access(disk, local, options->direct);
    find_caps(disk, local, &st);
    if (options->writable)
        disk->caps |= BMIG_CAP_WRITE;
    /* Nobody else writes, and there is no data anywhere in it. */
    disk->known_zero = options->writable && options->exclusive && !local->is_device &&
                       lseek(local->fd, 0, SEEK_DATA) < 0 && errno == ENXIO;
    return 0;
}

int bmig_local_open(struct bmig_disk *disk, const struct bmig_uri *uri,
                    const struct bmig_open_options *options, struct bmig_error *err)
{
    static const char *const no_params[] = {NULL};
    int status = bmig_uri_check_params(uri, no_params, err);
    if (status < 0)
        return status;
    struct bmig_local *local = calloc(1, sizeof(*local));
    if (!local)
        return bmig_error_set(err, BMIG_FAILED, ENOMEM, "out of memory");
    status = open_file(disk, local, uri->path, options, err);
    if (status < 0) {
        free(local);
        return status;
    }
    disk->state = local;
    return 0;
}
