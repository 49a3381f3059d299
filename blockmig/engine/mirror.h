/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The mirror: a volume's second replica from its first byte to the switch and after.
 *
 *   start -> COPYING -> (VERIFYING) -> SYNCED -> switch -> SYNCED with the roles exchanged ->
 * release
 *
 * One pass: every region is copied once, a region hit by a guest write in the act is visited again,
 * and clean regions get each guest write on both replicas at once. Nothing that happens to the
 * secondary reaches the guest: its regions turn stale and the mirror says DEGRADED. Loop's thread
 * only.
 */
#ifndef BLOCKMIG_ENGINE_MIRROR_H
#define BLOCKMIG_ENGINE_MIRROR_H

#include <stdbool.h>
#include <stdint.h>

#include "blockmig/core/disk.h"
#include "blockmig/engine/volume.h"

enum bmig_mirror_state {
    BMIG_MIRROR_NONE,      /* the volume has one replica */
    BMIG_MIRROR_COPYING,   /* regions are stale and being copied */
    BMIG_MIRROR_VERIFYING, /* all clean; both are read again and compared */
    BMIG_MIRROR_SYNCED,    /* all clean (and verified, where asked): a switch may begin */
    BMIG_MIRROR_SWITCHING, /* between switch_prepare and switch_commit or _abort */
    BMIG_MIRROR_DEGRADED,  /* the secondary is given up: fenced or failing; regions are stale */
};

struct bmig_mirror_options {
    uint64_t bandwidth_bytes_per_s; /* cap on the copy; 0: none */
    uint64_t max_latency_ns;        /* bound on the guest's p99; 0: a multiple of the p99 before */
    uint64_t leg_timeout_ns;        /* a secondary leg that takes longer is given up; 0: 5 s */
    bool verify;
    bool paused;
    bool fail_fast; /* the first error gives the secondary up, for tools; else it is tried again a
                       few times */
};

struct bmig_mirror_stats {
    enum bmig_mirror_state state;
    bool paused;
    uint64_t bytes_total;    /* the disk's size */
    uint64_t bytes_done;     /* of it, clean now (copying) or compared (verifying) */
    uint64_t bytes_copied;   /* moved by the copy, second visits included; zeroes skipped not */
    uint64_t bytes_recopied; /* of bytes_copied, second and later visits */
    uint64_t bytes_skipped;  /* made clean without moving data: holes and zeroes */
    uint64_t bytes_mirrored; /* guest writes that went to both */
    uint64_t bytes_verified;
    uint64_t bytes_different; /* found by verify, copied again */
    uint64_t bytes_stale;
    uint64_t rate_bytes_per_s; /* of the current phase, over the last seconds */
    uint64_t eta_s;            /* UINT64_MAX: unknown */
    uint64_t guest_p99_ns_before, guest_p50_ns_before, guest_p999_ns_before, guest_max_ns_before;
    uint64_t guest_p99_ns, guest_p50_ns, guest_p999_ns, guest_max_ns; /* since the mirror began */
    uint64_t switch_hold_ns; /* longest that the flip kept any guest request from being sent */
    bool verified;
    int error; /* why DEGRADED: -errno; 0 otherwise */
    char error_text[160];
};

/* Called on each change of state; from the loop, never inside a call below. */
typedef void bmig_mirror_event(void *user, enum bmig_mirror_state state);

/* Makes secondary (attached, of at least the volume's size, writable; borrowed until release or
 * cancel is done) the volume's second replica and begins to copy. -EBUSY where there is one,
 * -EINVAL where sizes or blocks don't fit. */
int bmig_mirror_start(struct bmig_volume *volume, struct bmig_disk *secondary,
                      const struct bmig_mirror_options *options, bmig_mirror_event *event,
                      void *user, struct bmig_error *err);

/* Changes bandwidth and latency bound of a running copy (0: no cap, the default bound). */
void bmig_mirror_set(struct bmig_volume *volume, uint64_t bandwidth_bytes_per_s,
                     uint64_t max_latency_ns);

/* Stops and restarts the copy and the verify; mirrored writes go on. */
void bmig_mirror_pause(struct bmig_volume *volume, bool paused);

void bmig_mirror_stats(struct bmig_volume *volume, struct bmig_mirror_stats *stats);

/* Drops the secondary, whichever state but SWITCHING (-EBUSY, and done is not called): done runs
 * once nothing of ours can touch it any more; the disk is then the caller's to detach and close. */
int bmig_mirror_stop(struct bmig_volume *volume, void (*done)(void *user), void *user);

/* First half of the switch: flushes the secondary; done(0) means that both replicas hold every
 * acknowledged write durably, and from here until commit or abort a write whose leg fails is not
 * answered. done(-errno): nothing changed. -EBUSY now where the state is not SYNCED. */
int bmig_mirror_switch_prepare(struct bmig_volume *volume, void (*done)(void *user, int status),
                               void *user);

/* The record is durable: flips. The old primary is the secondary and mirroring goes on. A write
 * that waited is answered by the new order of things. */
void bmig_mirror_switch_commit(struct bmig_volume *volume, uint64_t epoch);

/* The record was not written: everything as before; writes that waited are answered. */
void bmig_mirror_switch_abort(struct bmig_volume *volume);

struct bmig_disk *bmig_mirror_secondary(const struct bmig_volume *volume);

const char *bmig_mirror_state_name(enum bmig_mirror_state state);

#endif
