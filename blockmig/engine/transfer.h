/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Copies and comparisons without a guest: the engine's mirror on a loop of its own, for tools.
 */
#ifndef BLOCKMIG_ENGINE_TRANSFER_H
#define BLOCKMIG_ENGINE_TRANSFER_H

#include <signal.h>
#include <stdint.h>

#include "blockmig/core/disk.h"
#include "blockmig/engine/mirror.h"

struct bmig_transfer_options {
    uint64_t bandwidth_bytes_per_s; /* 0: none */
    bool verify;                    /* transfer: compare afterwards */
    /* Called about five times a second and once at the end, on the calling thread. May be NULL. */
    void (*progress)(void *user, const struct bmig_mirror_stats *stats);
    void *user;
    const volatile sig_atomic_t *stop; /* becomes non-zero: end with BMIG_CANCELLED. May be NULL. */
};

/* Copies all of source to target (both attached to loop, target at least as large) and flushes it;
 * runs the loop until done. stats (may be NULL) is filled in either case. */
int bmig_transfer(struct bmig_loop *loop, struct bmig_pool *pool, struct bmig_disk *source,
                  struct bmig_disk *target, const struct bmig_transfer_options *options,
                  struct bmig_mirror_stats *stats, struct bmig_error *err);

/* Compares a with b, which must read equal over a's size (b's rest must be zero). *first_difference
 * is the offset in bytes of the first difference's 4 KiB block, or UINT64_MAX. Returns 0 where the
 * comparison was made, whatever it found. */
int bmig_compare(struct bmig_loop *loop, struct bmig_pool *pool, struct bmig_disk *a,
                 struct bmig_disk *b, const struct bmig_transfer_options *options,
                 uint64_t *first_difference, uint64_t *bytes_different, struct bmig_error *err);

#endif
