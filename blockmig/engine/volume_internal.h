/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What the files of the engine share: the volume's state, its operations, and where the mirror
 * joins in.
 *
 *   volume.c    guest requests: order, legs, answers          mirror.c   the secondary's life and
 * troubles switch.c    the flip                                      copy.c     stale regions
 * become clean scout.c     holes and zeroes ahead of the copy            verify.c   both replicas
 * read and compared visit.c     copies and comparisons in the act, and the guest writes that hit
 * them throttle.c  how fast
 */
#ifndef BLOCKMIG_ENGINE_VOLUME_INTERNAL_H
#define BLOCKMIG_ENGINE_VOLUME_INTERNAL_H

#include "blockmig/engine/range_lock.h"
#include "blockmig/engine/volume.h"

struct bmig_mirror;

enum { RECENT_COUNT = 4 };
#define BMIG_RECENT_NS UINT64_C(5000000000)

/* One guest request under way: a leg for each replica it goes to. */
struct bmig_volume_op {
    struct bmig_volume *volume;
    struct bmig_volume_request
        *request; /* NULL once answered: a leg that is given up outlives the answer */
    enum bmig_op op;
    uint32_t flags;
    uint64_t offset, length;
    uint8_t *data;
    struct bmig_extents *extents;
    struct bmig_buffer *buffer; /* a reference, changes only */
    struct bmig_range range;    /* held by WRITE, ZERO, DISCARD until answered; rarely by READ */
    bool has_range;
    bool in_list;       /* of the volume's changes */
    bool before_switch; /* under way when the switch began to be prepared */
    bool old;           /* under way at the flip: reads of its range stay with the old primary */
    bool done_again;    /* it was issued anew after the flip */
    bool doubtful;      /* a leg failed while it was open which replica will be the primary */
    uint8_t legs_used, legs_out; /* bit i: replica i */
    int status[2];               /* by replica */
    uint64_t started_ns;
    struct bmig_volume_op *next, *prev;
    struct bmig_request legs[2]; /* by replica */
};

struct bmig_volume {
    struct bmig_loop *loop;
    struct bmig_pool *pool;
    char name[128];
    uint64_t size_bytes;
    uint32_t block_bytes;
    uint64_t epoch;
    struct bmig_disk *replicas[2];
    unsigned primary; /* index */
    struct bmig_mirror *mirror;

    struct bmig_range_lock lock;
    struct bmig_volume_op *changes; /* WRITE, ZERO, DISCARD, FLUSH whose legs are out or doubtful */
    struct bmig_volume_op *free_ops;
    uint64_t under_way;    /* guest requests not answered */
    uint64_t old_count;    /* ops with old set */
    uint64_t before_count; /* ops with before_switch set */
    uint64_t doubtful_count;
    bool in_doubt;     /* SWITCHING: failures are not answered */
    uint8_t dead_legs; /* bit i: legs of replica i are not waited for, it is given up */

    struct bmig_volume_request *failed_head, *failed_tail; /* answered without a leg */
    struct bmig_task task;

    struct bmig_histogram latency;  /* since the volume began */
    struct bmig_histogram interval; /* since the throttle last looked */
    struct bmig_histogram
        recent[RECENT_COUNT]; /* the last seconds, in turns: what "before" means */
    unsigned recent_index;
    uint64_t recent_began_ns;
    uint64_t requests[BMIG_OP_COUNT], bytes[BMIG_OP_COUNT], errors;
};

/* Begins or, after a flip, begins again a change whose range is held. */
void bmig_volume_issue_change(struct bmig_volume_op *op);

/* The legs of a change that may be answered now: settles the replicas and answers. */
void bmig_volume_settle(struct bmig_volume_op *op);

/* Answers the guest and lets the op's range go, though a leg may still be out. */
void bmig_volume_answer(struct bmig_volume_op *op, int status);

/* ---- mirror.c, for volume.c ---- */

/* A change of [offset, offset + length) is about to go out. Returns whether the secondary gets a
 * leg, and which part of the range that is. Taints what is being copied there. */
bool bmig_mirror_before_change(struct bmig_mirror *mirror, uint64_t offset, uint64_t length,
                               uint64_t *leg_start, uint64_t *leg_end);

/* A change has ended with these statuses; either may be an error. */
void bmig_mirror_after_change(struct bmig_mirror *mirror, const struct bmig_volume_op *op,
                              int primary_status, int secondary_status);

/* Whether the secondary holds what the primary does all over the range, but for changes under way.
 */
bool bmig_mirror_is_clean(const struct bmig_mirror *mirror, uint64_t offset, uint64_t length);

/* A leg that had been given up has come back, or the last leg of the volume's changes has. */
void bmig_mirror_leg_returned(struct bmig_mirror *mirror);

/* ---- switch.c, for volume.c ---- */
void bmig_switch_op_ended(struct bmig_mirror *mirror);

#endif
