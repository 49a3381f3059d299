/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What the files of the local backend share. Nobody else includes this.
 *
 *   local.c          requests on an open file or block device
 *   local_open.c     opening it: what it is, its size, its alignment, what it can do
 *   local_place.c    create, remove, stat
 *   local_extents.c  where its data lies
 *   local_lock.c     keeping a second writer out
 */
#ifndef BACKENDS_LOCAL_INTERNAL_H
#define BACKENDS_LOCAL_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "blockmig/core/disk.h"

struct bmig_local {
    int fd;
    bool is_device;
    bool is_direct;
    bool is_locked;
    /* Bytes that the file really has; what the disk has beyond (a size that is no multiple of the
     * block) reads as zeroes until it is written. */
    uint64_t file_bytes;
    /* What fallocate turned out not to do here. */
    bool no_punch;
    bool no_zero_range;
    bool no_discard;
};

enum { BMIG_LOCAL_SHOW_BYTES = 200 };

/* path as fit for a message: control characters as '?', a long one without its middle. Returns
 * text. */
const char *bmig_local_show(char text[BMIG_LOCAL_SHOW_BYTES], const char *path);

/* err for a system call on path that failed with code: which, why, what to do. what: "opened". */
int bmig_local_explain(struct bmig_error *err, int code, const char *path, const char *what);

/* 0 where st is of a regular file or a block device; else REFUSED with what it is. */
int bmig_local_check_kind(const struct stat *st, const char *path, struct bmig_error *err);

/* Size of the block device or file behind fd. */
int bmig_local_size(int fd, const struct stat *st, uint64_t *size_bytes);

/* The size of the disk that a file of file_bytes is. */
uint64_t bmig_local_round_size(uint64_t file_bytes);

/* A number from /sys for the device (st_dev or st_rdev) below its queue folder; fallback where
 * there is none. */
uint64_t bmig_local_queue_value(dev_t device, const char *name, uint64_t fallback);

/* Takes the lock that keeps a second writer out (and, for a writer, readers that want the image to
 * stand still), held until fd is closed. DENIED with the holder's name where someone else has it.
 */
int bmig_local_lock(int fd, bool writable, const char *path, struct bmig_error *err);

/* DENIED where anybody has the image at fd open under such a lock. */
int bmig_local_check_unlocked(int fd, const char *path, struct bmig_error *err);

/* open(2) of a block device to the exclusion of others (-1 and errno EBUSY where it is taken),
 * after a moment's patience for I/O that a killed process left behind. */
int bmig_local_open_exclusive(const char *path, int flags, dev_t device);

/* err for a block device that is in use by something in the kernel or a program that holds it
 * exclusively. */
int bmig_local_explain_busy(struct bmig_error *err, const char *path, dev_t device);

/* Answers an EXTENTS request from SEEK_DATA and SEEK_HOLE; blocks. */
int bmig_local_find_extents(int fd, uint32_t block_bytes, const struct bmig_request *request);

int bmig_local_open(struct bmig_disk *disk, const struct bmig_uri *uri,
                    const struct bmig_open_options *options, struct bmig_error *err);
int bmig_local_create(const struct bmig_uri *uri, uint64_t size_bytes,
                      const struct bmig_open_options *options, struct bmig_error *err);
int bmig_local_remove(const struct bmig_uri *uri, const struct bmig_open_options *options,
                      struct bmig_error *err);
int bmig_local_stat(const struct bmig_uri *uri, const struct bmig_open_options *options,
                    struct bmig_place_stat *stat, struct bmig_error *err);

#endif
