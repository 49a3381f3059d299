/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A driver with awkward limits, for tests of the door: it asserts that what it gets is what its
 * limits and capabilities allow, keeps a log, and holds requests until a test lets them go, in any
 * order.
 */
#ifndef TESTS_UNIT_DOOR_RIG_H
#define TESTS_UNIT_DOOR_RIG_H

#include "blockmig/core/disk.h"

enum { DOOR_LOG_MAX = 4096, DOOR_HELD_MAX = 1024 };

struct door_entry {
    enum bmig_op op;
    uint32_t flags;
    uint64_t offset, length;
};

/* One disk at a time; set up before door_open, looked at while it is open. */
struct door_rig {
    uint64_t size_bytes;
    uint32_t caps;
    struct bmig_limits limits;
    bool extents_one_block;  /* EXTENTS answers one extent of a block, else all blocks, also beyond
                                the end */
    bool fence_cuts;         /* the driver has a fence, which ends what is held with nothing done */
    bool hold;               /* requests wait for door_release */
    bool sync_errors;        /* requests end with EIO, inside submit */
    int fail[BMIG_OP_COUNT]; /* positive errno: not done, but answered so */

    uint8_t *bytes;
    struct bmig_request *held[DOOR_HELD_MAX];
    uint32_t held_count;
    struct door_entry log[DOOR_LOG_MAX];
    uint32_t log_count;
    uint32_t most_at_once;
};

extern struct door_rig door;

/* The awkward one: 1 MiB of blocks of 4096 bytes, 64 KiB at most, two at once, and nothing but
 * READ, WRITE and FLUSH. Clears what was logged. */
void door_reset(void);

/* Opens it, attached to loop; with filter on top where it is not NULL (a filter's URI). */
struct bmig_disk *door_open(struct bmig_loop *loop, const char *filter);

/* Does the number-th of those held, and answers it. */
void door_release(uint32_t number);

/* How many of op the driver was given. */
uint32_t door_count(enum bmig_op op);

#endif
