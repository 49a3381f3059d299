/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What tests of the engine share: a volume on simulated disks and a virtual clock.
 */
#ifndef TESTS_UNIT_ENGINE_RIG_H
#define TESTS_UNIT_ENGINE_RIG_H

#include "backends/delay.h"
#include "backends/faults.h"
#include "backends/mem.h"
#include "backends/record.h"
#include "blockmig/engine/mirror.h"
#include "blockmig/engine/volume.h"

/* Each disk is mem with the filters record, faults and delay on it, from the top down. */
struct engine_rig {
    struct bmig_loop *loop;
    struct bmig_pool *pool;
    struct bmig_disk *disks[2]; /* 0: the source, 1: the target */
    struct bmig_volume *volume;
    enum bmig_mirror_state events[64];
    unsigned event_count;
    bool stopped;
    bool prepared;
    int prepare_status;
};

/* Disks of size_bytes each, and a volume on the first. */
void engine_rig_init(struct engine_rig *rig, uint64_t size_bytes);
void engine_rig_fini(struct engine_rig *rig); /* stops a mirror that is there */

/* Starts a mirror to disks[1] (known_zero says whether that is believed); fails the test where it
 * can't. */
void engine_rig_mirror(struct engine_rig *rig, bool known_zero, bool verify);

/* Steps until the mirror is in state; fails the test after a simulated hour. */
void engine_rig_until(struct engine_rig *rig, enum bmig_mirror_state state);

/* Steps for ns of simulated time. */
void engine_rig_run_for(struct engine_rig *rig, uint64_t ns);

void engine_rig_stop(struct engine_rig *rig);   /* the mirror; waits */
int engine_rig_prepare(struct engine_rig *rig); /* waits; the status */
void engine_rig_switch(struct engine_rig *rig,
                       uint64_t epoch); /* prepare and commit; fails the test where it can't */

/* A guest request, in a buffer of its own. */
struct engine_rig_request {
    struct bmig_volume_request request;
    bool ended;
    int status;
};
void engine_rig_submit(struct engine_rig *rig, struct engine_rig_request *request, enum bmig_op op,
                       uint64_t offset, uint64_t length, uint8_t fill);
void engine_rig_submit_flags(struct engine_rig *rig, struct engine_rig_request *request,
                             enum bmig_op op, uint64_t offset, uint64_t length, uint32_t flags);
/* Waits, and gives the buffer back (READ: after copying it to out, if not NULL). */
int engine_rig_wait(struct engine_rig *rig, struct engine_rig_request *request, uint8_t *out);
int engine_rig_do(struct engine_rig *rig, enum bmig_op op, uint64_t offset, uint64_t length,
                  uint8_t fill, uint8_t *out);

/* Writes seeded random bytes to [offset, offset + length) of a disk, beside the volume. */
void engine_rig_fill(struct engine_rig *rig, struct bmig_disk *disk, uint64_t offset,
                     uint64_t length, uint64_t seed);

/* Whether both disks read the same all over; nothing may be under way. */
bool engine_rig_equal(struct engine_rig *rig);

#define ENGINE_RIG_OFFSET(type, member, pointer)                                                   \
    ((type *)((char *)(pointer)-offsetof(type, member)))

#endif
