/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The local backend: requests on a file or block device, by the loop's file operations.
 *
 * An image whose size is no multiple of 512 is served rounded up to it: the bytes beyond the file's
 * end read as zeroes, and a write to the last block makes the file that much longer. A file that
 * became shorter than it was is an I/O error, never zeroes.
 *
 * Local I/O can't be called back once the kernel has it, so there is no fence of our own: the door
 * waits.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "backends/backends.h"
#include "backends/local_internal.h"

enum { MAX_RETRIES = 100 };

/* How a ZERO is tried, in this order from where its flags let it begin. */
enum zero_step {
    STEP_PUNCH,      /* free the room */
    STEP_ZERO_RANGE, /* keep the room */
    STEP_REPLACE,    /* free the room ... */
    STEP_ALLOCATE,   /* ... and take it again, where ZERO_RANGE is unknown */
    STEP_NONE,
};

/* In request->driver while a file operation is under way. */
struct local_io {
    struct bmig_io io;
    struct bmig_disk *disk;
    uint32_t moved_bytes;
    uint16_t retries;
    uint8_t zero_step;
};
_Static_assert(sizeof(struct local_io) <= BMIG_REQUEST_DRIVER_BYTES, "fits into a request");

/* In request->driver while a helper thread works on it. */
struct local_work {
    struct bmig_work work;
    struct bmig_disk *disk;
    int status;
};
_Static_assert(sizeof(struct local_work) <= BMIG_REQUEST_DRIVER_BYTES, "fits into a request");

static struct bmig_request *request_of(void *driver)
{
    return (struct bmig_request *)((char *)driver - offsetof(struct bmig_request, driver));
}

/* ---- READ, WRITE ---- */

static void transfer_done(struct bmig_io *io, int result);

static void transfer_go_on(struct local_io *lio)
{
    struct bmig_request *request = request_of(lio);
    struct bmig_local *local = lio->disk->state;
    lio->io = (struct bmig_io){
        .op = request->op == BMIG_READ ? BMIG_IO_READ : BMIG_IO_WRITE,
        .fd = local->fd,
        .offset = request->offset + lio->moved_bytes,
        .length = (uint32_t)request->length - lio->moved_bytes,
        .data = request->data + lio->moved_bytes,
        .done = transfer_done,
    };
    bmig_loop_io(lio->disk->loop, &lio->io);
}

static bool is_passing(struct local_io *lio, int result)
{
    return (result == -EINTR || result == -EAGAIN) && lio->retries++ < MAX_RETRIES;
}

static void transfer_done(struct bmig_io *io, int result)
{
    struct local_io *lio = (struct local_io *)io;
    struct bmig_request *request = request_of(lio);
    struct bmig_local *local = lio->disk->state;
    if (result < 0) {
        if (is_passing(lio, result))
            transfer_go_on(lio);
        else
            bmig_disk_complete(request, result);
        return;
    }
    lio->moved_bytes += (uint32_t)result;
    uint64_t reached = request->offset + lio->moved_bytes;
    if (request->op == BMIG_READ && lio->moved_bytes < request->length &&
        reached >= local->file_bytes) {
        memset(request->data + lio->moved_bytes, 0, request->length - lio->moved_bytes);
        lio->moved_bytes = (uint32_t)request->length;
    }
    if (lio->moved_bytes == request->length) {
        if (request->op == BMIG_WRITE && reached > local->file_bytes)
            local->file_bytes = reached;
        bmig_disk_complete(request, 0);
        return;
    }
    /* Direct I/O goes on from where a block begins. */
    lio->moved_bytes -= lio->moved_bytes % lio->disk->limits.block_bytes;
    if (result == 0 || lio->retries++ >= MAX_RETRIES)
        bmig_disk_complete(request, -EIO); /* the file became shorter, or no progress is made */
    else
        transfer_go_on(lio);
}

/* ---- FLUSH ---- */

static void flush_done(struct bmig_io *io, int result)
{
    struct local_io *lio = (struct local_io *)io;
    if (is_passing(lio, result))
        bmig_loop_io(lio->disk->loop, io);
    else
        bmig_disk_complete(request_of(lio), result < 0 ? result : 0);
}

static void flush_start(struct local_io *lio)
{
    struct bmig_local *local = lio->disk->state;
    lio->io = (struct bmig_io){.op = BMIG_IO_FSYNC, .fd = local->fd, .mode = 1, .done = flush_done};
    bmig_loop_io(lio->disk->loop, &lio->io);
}

/* ---- ZERO; DISCARD of files ---- */

static bool is_unsupported(int result)
{
    return result == -EOPNOTSUPP || result == -ENOSYS || result == -ENOTTY || result == -ENODEV;
}

static enum zero_step first_step(const struct bmig_local *local, const struct bmig_request *request)
{
    if ((request->op == BMIG_DISCARD || request->flags & BMIG_MAY_UNMAP) && !local->no_punch)
        return STEP_PUNCH;
    if (!local->no_zero_range)
        return STEP_ZERO_RANGE;
    return local->no_punch || local->is_device ? STEP_NONE : STEP_REPLACE;
}

static void zero_done(struct bmig_io *io, int result);

static void zero_go_on(struct local_io *lio)
{
    static const int modes[] = {
        [STEP_PUNCH] = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
        [STEP_ZERO_RANGE] = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
        [STEP_REPLACE] = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
        [STEP_ALLOCATE] = FALLOC_FL_KEEP_SIZE,
    };
    struct bmig_request *request = request_of(lio);
    struct bmig_local *local = lio->disk->state;
    if (lio->zero_step == STEP_NONE) {
        /* The door writes zeroes instead. */
        bmig_disk_complete(request, request->op == BMIG_DISCARD ? 0 : -ENOTSUP);
        return;
    }
    lio->io = (struct bmig_io){
        .op = BMIG_IO_FALLOCATE,
        .fd = local->fd,
        .mode = modes[lio->zero_step],
        .offset = request->offset,
        .done = zero_done,
    };
    lio->io.length = (uint32_t)request->length;
    bmig_loop_io(lio->disk->loop, &lio->io);
}

static void zero_done(struct bmig_io *io, int result)
{
    struct local_io *lio = (struct local_io *)io;
    struct bmig_request *request = request_of(lio);
    struct bmig_disk *disk = lio->disk;
    struct bmig_local *local = disk->state;
    if (is_passing(lio, result)) {
        zero_go_on(lio);
        return;
    }
    if (!is_unsupported(result)) {
        if (result == 0 && lio->zero_step == STEP_REPLACE) {
            lio->zero_step = STEP_ALLOCATE;
            zero_go_on(lio);
            return;
        }
        bmig_disk_complete(request, result < 0 ? result : 0);
        return;
    }
    switch ((enum zero_step)lio->zero_step) {
    case STEP_PUNCH:
    case STEP_REPLACE:
        local->no_punch = true;
        disk->caps &= ~(uint32_t)(BMIG_CAP_UNMAP | (local->is_device ? 0 : BMIG_CAP_DISCARD));
        lio->zero_step = request->op == BMIG_DISCARD ? STEP_NONE : first_step(local, request);
        break;
    case STEP_ZERO_RANGE:
        local->no_zero_range = true;
        lio->zero_step = first_step(local, request);
        break;
    case STEP_ALLOCATE: /* it reads as zeroes, and that is what was promised */
        bmig_disk_complete(request, 0);
        return;
    case STEP_NONE:
        break;
    }
    zero_go_on(lio);
}

/* ---- EXTENTS; DISCARD of devices: on a helper thread ---- */

static void work_run(struct bmig_work *work)
{
    struct local_work *lwork = (struct local_work *)work;
    struct bmig_request *request = request_of(lwork);
    struct bmig_local *local = lwork->disk->state;
    if (request->op == BMIG_EXTENTS) {
        lwork->status =
            bmig_local_find_extents(local->fd, lwork->disk->limits.block_bytes, request);
        return;
    }
    uint64_t range[2] = {request->offset, request->length};
    lwork->status = ioctl(local->fd, BLKDISCARD, range) < 0 ? -errno : 0;
}

static void work_done(struct bmig_work *work)
{
    struct local_work *lwork = (struct local_work *)work;
    struct bmig_request *request = request_of(lwork);
    int status = lwork->status;
    if (request->op == BMIG_DISCARD && is_unsupported(status)) {
        lwork->disk->caps &= ~(uint32_t)BMIG_CAP_DISCARD;
        status = 0;
    }
    bmig_disk_complete(request, status);
}

static void work_start(struct bmig_disk *disk, struct bmig_request *request)
{
    struct local_work *lwork = (struct local_work *)request->driver;
    *lwork = (struct local_work){.work = {.run = work_run, .done = work_done}, .disk = disk};
    bmig_loop_work(disk->loop, &lwork->work);
}

/* ---- the driver ---- */

static void local_submit(struct bmig_disk *disk, struct bmig_request *request)
{
    struct bmig_local *local = disk->state;
    struct local_io *lio = (struct local_io *)request->driver;
    if (request->op == BMIG_EXTENTS || (request->op == BMIG_DISCARD && local->is_device)) {
        work_start(disk, request);
        return;
    }
    lio->disk = disk;
    lio->moved_bytes = 0;
    lio->retries = 0;
    switch (request->op) {
    case BMIG_READ:
    case BMIG_WRITE:
        transfer_go_on(lio);
        return;
    case BMIG_FLUSH:
        flush_start(lio);
        return;
    default:
        lio->zero_step = (uint8_t)first_step(local, request);
        zero_go_on(lio);
        return;
    }
}

static void local_close(struct bmig_disk *disk)
{
    struct bmig_local *local = disk->state;
    close(local->fd);
    free(local);
}

static void local_describe(struct bmig_disk *disk,
                           void (*put)(void *user, const char *key, const char *value), void *user)
{
    const struct bmig_local *local = disk->state;
    char text[80];
    put(user, "place", local->is_device ? "block device" : "file");
    if (local->is_direct)
        snprintf(text, sizeof(text), "direct, in units of %u bytes", disk->limits.block_bytes);
    else
        snprintf(text, sizeof(text), "page cache");
    put(user, "access", text);
    put(user, "lock", local->is_locked ? "held" : "none");
}

const struct bmig_driver bmig_local_driver = {
    .name = "local",
    .open = bmig_local_open,
    .close = local_close,
    .submit = local_submit,
    .create = bmig_local_create,
    .remove = bmig_local_remove,
    .stat = bmig_local_stat,
    .describe = local_describe,
};
