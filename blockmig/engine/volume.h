/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The volume: what a guest sees, on one replica or two, and the door of the engine.
 *
 * A front end hands guest requests to bmig_volume_submit; the volume orders overlapping writes,
 * sends the legs, and answers when the guest may know. Everything a move does to a volume goes
 * through blockmig/engine/mirror.h. Loop's thread only.
 */
#ifndef BLOCKMIG_ENGINE_VOLUME_H
#define BLOCKMIG_ENGINE_VOLUME_H

#include <stdbool.h>
#include <stdint.h>

#include "blockmig/core/buffer.h"
#include "blockmig/core/disk.h"
#include "blockmig/core/histogram.h"

struct bmig_volume;

enum { BMIG_VOLUME_MAX_BYTES = BMIG_BUFFER_MAX_BYTES }; /* of one READ or WRITE */

/* One guest request. The front end fills the first part, keeps it until done, and must not touch
 * the buffer's bytes of a WRITE between submit and done: they are the one snapshot that feeds both
 * replicas. The volume takes references of its own on buffer where a leg outlives the answer. */
struct bmig_volume_request {
    enum bmig_op op;              /* READ, WRITE, ZERO, DISCARD, FLUSH, EXTENTS */
    uint32_t flags;               /* BMIG_FUA, BMIG_MAY_UNMAP, BMIG_FAST_ONLY */
    uint64_t offset;              /* bytes; any alignment (the door below reads around) */
    uint64_t length;              /* bytes; READ and WRITE: at most BMIG_VOLUME_MAX_BYTES */
    struct bmig_buffer *buffer;   /* READ, WRITE */
    uint8_t *data;                /* READ, WRITE: inside buffer */
    struct bmig_extents *extents; /* EXTENTS */
    /* Exactly once, never inside submit. status 0 or -errno. */
    void (*done)(struct bmig_volume_request *request, int status);
    void *user;

    /* The volume's from submit until done. */
    struct bmig_volume_request *next;
    int status;
};

/* A volume on primary (attached, borrowed until bmig_volume_free or until a switch makes it the
 * secondary and it is released). epoch is the journal's. */
int bmig_volume_new(struct bmig_volume **volume, struct bmig_loop *loop, struct bmig_pool *pool,
                    struct bmig_disk *primary, const char *name, uint64_t epoch,
                    struct bmig_error *err);

/* Frees an idle volume (asserted) without a mirror. Its disks are the caller's. */
void bmig_volume_free(struct bmig_volume *volume);

void bmig_volume_submit(struct bmig_volume *volume, struct bmig_volume_request *request);

/* Whether no guest request is under way. */
bool bmig_volume_idle(const struct bmig_volume *volume);

uint64_t bmig_volume_size_bytes(const struct bmig_volume *volume);
/* The unit below which a guest's write costs a read as well: what to advertise as minimum or
 * preferred. */
uint32_t bmig_volume_block_bytes(const struct bmig_volume *volume);
/* Capabilities that a guest may be promised (BMIG_CAP_WRITE, ZERO, FAST_ZERO, DISCARD, FLUSH, FUA,
 * EXTENTS): fixed for the volume's life, whatever replicas come and go. */
uint32_t bmig_volume_caps(const struct bmig_volume *volume);
struct bmig_disk *bmig_volume_primary(const struct bmig_volume *volume);
uint64_t bmig_volume_epoch(const struct bmig_volume *volume);
const char *bmig_volume_name(const struct bmig_volume *volume);

struct bmig_volume_stats {
    uint64_t reads, writes, read_bytes, write_bytes, flushes,
        errors; /* of the guest, since the volume began */
};
void bmig_volume_stats(const struct bmig_volume *volume, struct bmig_volume_stats *stats);

/* Guest latencies since the volume began: READ and WRITE, submit to done. */
const struct bmig_histogram *bmig_volume_latency(const struct bmig_volume *volume);

#endif
