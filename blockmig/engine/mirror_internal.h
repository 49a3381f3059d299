/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The mirror's state, for the files of the engine alone: mirror.c, copy.c, scout.c, verify.c,
 * throttle.c, switch.c.
 */
#ifndef BLOCKMIG_ENGINE_MIRROR_INTERNAL_H
#define BLOCKMIG_ENGINE_MIRROR_INTERNAL_H

#include "blockmig/engine/mirror.h"
#include "blockmig/engine/region_map.h"
#include "blockmig/engine/throttle.h"
#include "blockmig/engine/visit.h"
#include "blockmig/engine/volume_internal.h"

#define BMIG_TICK_NS                UINT64_C(100000000)
#define BMIG_LEG_TIMEOUT_NS         UINT64_C(5000000000)
#define BMIG_COPY_TIMEOUT_NS        UINT64_C(60000000000)
#define BMIG_RETRY_NS               UINT64_C(200000000)
#define BMIG_FLUSH_EVERY_BYTES      (UINT64_C(256) << 20)
#define BMIG_FLUSH_EVERY_BUSY_BYTES (UINT64_C(16) << 20)

enum {
    BMIG_MAX_FAILURES = 8,        /* of the copy in a row, until the secondary is given up */
    BMIG_SCOUT_REGIONS = 1 << 17, /* that one look at the primary's extents covers at most */
    BMIG_SCOUT_EXTENTS = 4096,
    BMIG_VISITS_MAX = 64, /* copies and comparisons in the act at most */
    BMIG_EVENTS_MAX = 16,
    BMIG_MAX_DIFFERENCES =
        3, /* times that verify may find differences, until the secondary is given up */
};

/* Holes and zeroes of the primary ahead of the copy. */
struct bmig_scout {
    bool wanted; /* first pass, and the primary can tell */
    bool busy;
    uint64_t first, end; /* regions known */
    uint64_t
        *zero; /* bit per region from first on: reads as zero, and no guest write hit it since */
    uint64_t *touched; /* while busy: a guest write hit it */
    struct bmig_extents extents;
    struct bmig_request request;
};

struct bmig_copy_op;
struct bmig_copier {
    uint64_t cursor; /* region */
    uint32_t ops_out;
    uint64_t bytes_out;
    struct bmig_copy_op *free_ops;
    struct bmig_buffer_wait wait;
    bool waiting;
};

struct bmig_verify_op;
struct bmig_verifier {
    uint64_t *todo; /* NULL: no verify wanted */
    uint64_t todo_count;
    uint64_t cursor;
    uint32_t ops_out;
    uint64_t bytes_out;
    uint32_t rounds_with_differences;
    bool differed; /* in this round */
    struct bmig_verify_op *free_ops;
    struct bmig_buffer_wait wait;
    bool waiting;
    bool looking;            /* at the secondary's extents */
    bool looking_at_primary; /* or at the primary's */
    uint64_t look_began_ns;
    struct bmig_extents extents;
    struct bmig_request request;
    uint64_t look_first, look_end; /* regions */
    bool only;                     /* compare and report; the secondary is not written to */
    uint64_t first_difference;     /* bytes; only */
};

struct bmig_mirror {
    struct bmig_volume *volume;
    struct bmig_mirror_options options;
    bmig_mirror_event *event;
    void *user;
    enum bmig_mirror_state state;
    struct bmig_region_map map;
    struct bmig_visits visits;
    struct bmig_scout scout;
    struct bmig_copier copier;
    struct bmig_verifier verifier;
    struct bmig_throttle throttle;
    struct bmig_timer tick, pace, retry;
    struct bmig_task task; /* events, and the last of a stop */
    struct bmig_task prepare_task;

    bool secondary_known_zero; /* regions not written to read as zeroes there */
    bool legs_open;            /* changes to clean regions go to the secondary */
    bool verified;
    bool suspended; /* the copy waits after an error */
    uint32_t failures;
    uint32_t busy; /* requests of ours under way, on either replica */

    struct bmig_request flush;
    bool flushing, flush_for_prepare;
    uint64_t flush_began_ns;
    bool flushed; /* nothing was written to the secondary since its last good flush began */
    uint64_t unflushed_bytes;

    bool fencing, fenced;
    bool stopping, stop_flushed;
    void (*stop_done)(void *user);
    void *stop_user;

    bool preparing, prepared;
    void (*prepare_done)(void *user, int status);
    void *prepare_user;
    uint64_t switch_hold_ns;

    enum bmig_mirror_state events[BMIG_EVENTS_MAX];
    uint32_t event_count;

    struct bmig_histogram before, during;
    uint64_t bytes_copied, bytes_recopied, bytes_skipped, bytes_mirrored, bytes_verified,
        bytes_different;
    uint64_t rate_bytes_per_s, rate_base, rate_since_ns;
    int error;
    char error_text[160];
};

static inline struct bmig_disk *bmig_secondary(const struct bmig_mirror *mirror)
{
    return mirror->volume->replicas[1 - mirror->volume->primary];
}

static inline struct bmig_disk *bmig_primary(const struct bmig_mirror *mirror)
{
    return mirror->volume->replicas[mirror->volume->primary];
}

/* ---- mirror.c ---- */
void bmig_mirror_set_state(struct bmig_mirror *mirror, enum bmig_mirror_state state);
/* Something ended: goes on with whatever is next. */
void bmig_mirror_advance(struct bmig_mirror *mirror);
/* A copy, comparison or flush failed: suspends the copy and tries again, or gives the secondary up.
 * where names the replica: "target" or "source". */
void bmig_mirror_trouble(struct bmig_mirror *mirror, const char *where, uint64_t offset,
                         int status);
void bmig_mirror_give_up(struct bmig_mirror *mirror, int status, const char *text);
void bmig_mirror_flush(struct bmig_mirror *mirror);
/* How many bytes the copy or the verify may have under way now, and in one piece. */
uint64_t bmig_mirror_window_bytes(const struct bmig_mirror *mirror);
uint32_t bmig_mirror_piece_bytes(const struct bmig_mirror *mirror);
/* Whether bytes may move now; if not, arms the timer that goes on when they may. */
bool bmig_mirror_pace(struct bmig_mirror *mirror, uint64_t bytes);
/* Whether a guest change is under way in [first, last]. */
bool bmig_mirror_guest_in(const struct bmig_mirror *mirror, uint64_t first, uint64_t last);

/* ---- copy.c ---- */
void bmig_copy_pump(struct bmig_mirror *mirror);
void bmig_copy_restart(struct bmig_mirror *mirror); /* from the first stale region */
void bmig_copy_fini(struct bmig_mirror *mirror);

/* ---- scout.c ---- */
int bmig_scout_init(struct bmig_mirror *mirror);
void bmig_scout_fini(struct bmig_mirror *mirror);
/* Looks from region on; the copy goes on when it is known. */
void bmig_scout_look(struct bmig_mirror *mirror, uint64_t region);
bool bmig_scout_zero(const struct bmig_mirror *mirror, uint64_t region);
void bmig_scout_touch(struct bmig_mirror *mirror, uint64_t region);

/* ---- verify.c ---- */
int bmig_verify_init(struct bmig_mirror *mirror, bool only);
void bmig_verify_fini(struct bmig_mirror *mirror);
void bmig_verify_add(struct bmig_mirror *mirror,
                     uint64_t region); /* it was copied: (again) to be compared */
void bmig_verify_begin(struct bmig_mirror *mirror);
void bmig_verify_pump(struct bmig_mirror *mirror);
bool bmig_verify_idle(const struct bmig_mirror *mirror);

/* ---- switch.c ---- */
void bmig_switch_flushed(struct bmig_mirror *mirror, int status);
/* Ends a preparation that can't be waited for: nothing was handed over yet, so it is as if a leg
 * had failed. */
void bmig_switch_prepare_fails(struct bmig_mirror *mirror, int status);

/* ---- mirror.c, for transfer.c ---- */
/* bmig_mirror_start where the secondary is only read: everything counts as clean and is compared.
 */
int bmig_mirror_start_compare(struct bmig_volume *volume, struct bmig_disk *secondary,
                              const struct bmig_mirror_options *options, bmig_mirror_event *event,
                              void *user, struct bmig_error *err);
uint64_t bmig_mirror_first_difference(const struct bmig_volume *volume);

#endif
