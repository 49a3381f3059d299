/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A request: one operation on one disk, from submit until its done has run.
 */
#ifndef BLOCKMIG_CORE_REQUEST_H
#define BLOCKMIG_CORE_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "blockmig/core/extents.h"

struct bmig_disk;

enum bmig_op {
    BMIG_READ,
    BMIG_WRITE,
    BMIG_ZERO,    /* the range reads as zeroes afterwards */
    BMIG_DISCARD, /* the range's bytes are of no interest: may read as anything until written */
    BMIG_FLUSH,   /* all writes that completed before this was submitted survive a power cut */
    BMIG_EXTENTS,
    BMIG_OP_COUNT,
};

enum bmig_request_flags {
    BMIG_FUA = 1,       /* WRITE, ZERO, DISCARD: done only when it survives a power cut */
    BMIG_MAY_UNMAP = 2, /* ZERO: may free the room (still reads as zeroes) */
    BMIG_FAST_ONLY = 4, /* ZERO: -ENOTSUP where it would be no faster than writing zeroes */
    /* WRITE: the caller keeps the means to write this again and will, if a later FLUSH fails. A driver
     * that must otherwise hold a copy until the server's stable storage has it (NFS) need not. */
    BMIG_REPLAYABLE = 8,
};

/* How many disks may stand on each other. */
enum { BMIG_STACK_MAX = 8 };

/* What a driver may keep in a request while it owns it. */
enum { BMIG_REQUEST_DRIVER_BYTES = 192 };

struct bmig_request {
    enum bmig_op op;
    uint32_t flags;
    uint64_t offset;              /* bytes */
    uint64_t length;              /* bytes; 0 for FLUSH, never 0 otherwise */
    uint8_t *data;                /* READ, WRITE: borrowed until done */
    struct bmig_extents *extents; /* EXTENTS: borrowed until done; count is reset by the door */
    /* Runs exactly once, on the loop's thread, never inside bmig_disk_submit. status: 0 or -errno. The
     * request is the caller's again when it runs, and may be freed or submitted again in it. */
    void (*done)(struct bmig_request *request, int status);
    void *user;

    /* The door's, from submit until done. */
    struct bmig_request *next;
    struct bmig_request *parent;
    struct bmig_disk *path[BMIG_STACK_MAX]; /* the disks that forwarded it, top first */
    uint8_t path_depth;
    bool is_child;
    bool rerouted; /* a ZERO that its driver could not do after all */
    bool fua_hidden; /* from a driver that has no FUA, until it is answered */
    struct bmig_partial *partial;
    uint32_t pending; /* children under way */
    int status;
    uint8_t *bounce; /* the caller's data, while data is an aligned copy */
    uint64_t submitted_ns;

    /* The driver's, from its submit until bmig_disk_complete. */
    _Alignas(16) unsigned char driver[BMIG_REQUEST_DRIVER_BYTES];
};

#endif
