/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Preflight: whether a move can be done and is safe, judged from facts that were gathered before.
 * Every problem is found, not only the first, and each says what to do about it.
 */
#ifndef BLOCKMIG_DAEMON_PREFLIGHT_H
#define BLOCKMIG_DAEMON_PREFLIGHT_H

#include <jansson.h>

#include "blockmig/core/disk.h"
#include "blockmig/daemon/manager.h"

struct bmig_preflight_facts {
    const char *volume;
    uint64_t size_bytes;
    const struct bmig_replica *from, *to;
    uint64_t moving_job;            /* that moves the volume already; 0: none */
    struct bmig_error source_error; /* kind BMIG_OK: source holds */
    struct bmig_place_stat source;
    struct bmig_error target_error;
    struct bmig_place_stat target;
    struct bmig_error target_used; /* by another volume or job; BMIG_OK: it is not */
    bool target_ours;              /* it exists because this very job made it */
};

/* Adds a string to problems for each reason not to begin. */
void bmig_preflight_judge(const struct bmig_preflight_facts *facts, json_t *problems);

/* Room that a new image may need: what the source holds, a fiftieth more and slack, at most the
 * whole disk and the same. */
uint64_t bmig_preflight_room_bytes(uint64_t size_bytes, uint64_t allocated_bytes);

/* Asks both places (blocks) and judges; from and to are filled in with what they say. */
int bmig_preflight_run(struct bmig_manager *manager, const char *volume, uint64_t size_bytes,
                       struct bmig_replica *from, struct bmig_replica *to, uint64_t own_job,
                       bool target_ours, json_t *problems, json_t *plan, struct bmig_error *err);

#endif
