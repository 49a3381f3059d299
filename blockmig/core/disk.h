/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The disk: one type for backends, formats and filters, and the one door in front of all of them.
 *
 * A disk's life: bmig_disk_open (blocks; any thread) -> bmig_disk_attach (to a loop, which becomes
 * its owner) -> bmig_disk_submit, any number -> bmig_disk_detach (nothing in flight) ->
 * bmig_disk_close (blocks; any thread). Opening and closing talk to servers, so a running loop does
 * them through bmig_loop_work.
 *
 * The door (disk.c) is the only caller of drivers. It checks range, alignment and capability before
 * a driver sees a request, counts what is in flight, splits what is larger than the driver takes,
 * bounces data that is not aligned for it, and makes up for what the driver lacks: ZERO by writing
 * zeroes, FUA by a flush behind the write, EXTENTS by calling everything data, DISCARD by doing
 * nothing, requests smaller than its block by reading around them. Drivers hold no defensive code.
 */
#ifndef BLOCKMIG_CORE_DISK_H
#define BLOCKMIG_CORE_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "blockmig/core/error.h"
#include "blockmig/core/loop.h"
#include "blockmig/core/request.h"
#include "blockmig/core/uri.h"

enum bmig_caps {
    BMIG_CAP_WRITE = 1 << 0,     /* opened for writing */
    BMIG_CAP_ZERO = 1 << 1,      /* the driver does ZERO itself */
    BMIG_CAP_FAST_ZERO = 1 << 2, /* ... faster than writing zeroes */
    BMIG_CAP_UNMAP = 1 << 3,     /* ZERO with MAY_UNMAP frees room */
    BMIG_CAP_DISCARD = 1 << 4,
    BMIG_CAP_FLUSH = 1 << 5, /* FLUSH means something; without it every write is stable at once */
    BMIG_CAP_FUA = 1 << 6,
    BMIG_CAP_EXTENTS = 1 << 7,
    BMIG_CAP_MULTI_CONN =
        1 << 8, /* a FLUSH covers completed writes of every session onto the image */
    BMIG_CAP_ROTATIONAL = 1 << 9,
    BMIG_CAP_GATHERS = 1 << 10, /* what is written gathers in a cache at the place: a late FLUSH is a long one */
};

struct bmig_limits {
    uint32_t block_bytes; /* unit of every offset and length; power of two; 512 or 4096 mostly, 1 at
                             least */
    uint32_t memory_align;    /* of a request's data; power of two */
    uint32_t max_io_bytes;    /* of one READ or WRITE; a multiple of block_bytes */
    uint64_t max_zero_bytes;  /* of one ZERO or DISCARD; a multiple of zero_align */
    uint32_t zero_align;      /* unit of ZERO and DISCARD; the door writes zeroes to the ends */
    uint32_t max_requests;    /* the driver's own; the door queues the rest in order */
    uint32_t preferred_bytes; /* the size of request that moves bulk data best */
};

struct bmig_disk_stats {
    uint64_t requests[BMIG_OP_COUNT];
    uint64_t bytes[BMIG_OP_COUNT];
    uint64_t errors;
};

/* How an image is opened; the fields a driver does not know are checked by the caller. */
struct bmig_open_options {
    bool writable;
    bool exclusive; /* take the lock that keeps a second writer out; DENIED with its holder's name
                       where held */
    bool direct;    /* past the page cache where the place can (local: O_DIRECT) */
    uint32_t sessions;   /* connections to a server; 0: the driver's choice */
    uint64_t timeout_ns; /* bound on connecting and on silence of a server; 0: 30 s */
    const char *secret;  /* CHAP secret or such, borrowed for the call; NULL: none */
};

/* What a place says of an image and of itself. */
struct bmig_place_stat {
    bool exists;
    uint64_t size_bytes;      /* the image's, as its guest would see raw bytes */
    uint64_t allocated_bytes; /* UINT64_MAX: unknown */
    uint64_t free_bytes;      /* room left in the place; UINT64_MAX: unknown */
    uint64_t total_bytes;     /* UINT64_MAX: unknown */
    bool fixed;         /* a device or LUN: it can't be created, grown or removed, only filled */
    bool known_zero;    /* a fixed image that is known to read as zeroes all over */
    char identity[128]; /* equal for two names of one image (device:inode, server file handle, LUN
                           designator); "" where the place can't tell */
};

struct bmig_disk;

/* A driver: ten slots. */
struct bmig_driver {
    const char
        *name; /* "local", "nfs", "raw", "faults", ...; also the URI scheme's or format's name */

    /* Opens uri (backends; next is NULL) or what next holds (formats, filters: takes ownership of
     * next on success only). May block, bounded by options->timeout_ns per step; any thread. Fills
     * disk's size, caps, limits and driver state. NULL: never. On failure nothing is held. */
    int (*open)(struct bmig_disk *disk, const struct bmig_uri *uri,
                const struct bmig_open_options *options, struct bmig_error *err);

    /* Ends what open began: leaves no descriptor, lock, session or memory. May block, bounded; any
     * thread; nothing is in flight and the disk is detached. Not called after a failed open. The
     * door closes next afterwards. */
    void (*close)(struct bmig_disk *disk);

    /* Binds the disk to disk->loop on that loop's thread, without blocking. NULL: nothing to bind.
     * On failure the disk stays unattached and may be closed. next is attached first. */
    int (*attach)(struct bmig_disk *disk);

    /* The reverse; nothing is in flight. NULL: nothing was bound. */
    void (*detach)(struct bmig_disk *disk);

    /* Starts a request that the door has checked; loop's thread; must not block. Ends with exactly
     * one bmig_disk_complete, from here or later, or with bmig_disk_forward. */
    void (*submit)(struct bmig_disk *disk, struct bmig_request *request);

    /* Cuts the disk off from its image for good: completes what is in flight (any status) and then
     * calls bmig_disk_fenced, from which moment no write that was ever submitted can still take
     * effect. Later submits are answered -ESHUTDOWN by the door. Loop's thread; must not block.
     * NULL: what is in flight is waited for. */
    void (*fence)(struct bmig_disk *disk);

    /* Backends only, all blocking (bounded), any thread, NULL where the place can't (-ENOTSUP):
     * create makes a new image of size_bytes that reads as zeroes and takes no room (-EEXIST if the
     * name is taken, and nothing is touched); remove deletes it; stat looks without changing.
     * stat of what does not exist succeeds with exists false. */
    int (*create)(const struct bmig_uri *uri, uint64_t size_bytes,
                  const struct bmig_open_options *options, struct bmig_error *err);
    int (*remove)(const struct bmig_uri *uri, const struct bmig_open_options *options,
                  struct bmig_error *err);
    int (*stat)(const struct bmig_uri *uri, const struct bmig_open_options *options,
                struct bmig_place_stat *stat, struct bmig_error *err);

    /* Says things worth showing in `info`, as put(user, key, value). Loop's thread or unattached.
     * NULL: nothing. */
    void (*describe)(struct bmig_disk *disk,
                     void (*put)(void *user, const char *key, const char *value), void *user);
};

struct bmig_disk {
    const struct bmig_driver *driver;
    void *state;             /* the driver's */
    struct bmig_disk *next;  /* what a format or filter stands on; owned */
    struct bmig_disk *above; /* the format or filter that stands on this one, or NULL */
    struct bmig_loop *loop;  /* NULL while not attached */
    uint64_t size_bytes;
    uint32_t caps;
    struct bmig_limits limits;
    bool known_zero; /* reads as zeroes all over since it was created for us */
    char name[256];  /* for messages and `info`; no secrets */
    struct bmig_disk_stats stats;

    /* The door's. */
    uint32_t in_flight; /* requests the driver holds */
    struct bmig_request *waiting_head, *waiting_tail;
    struct bmig_request *done_head, *done_tail;
    struct bmig_request *child_pool;
    struct bmig_task task;
    bool starting; /* is handing over what waited */
    bool fencing, fenced;
    void (*fence_done)(struct bmig_disk *disk, void *user);
    void *fence_user;
    struct bmig_partial *partials; /* writes smaller than a block, under way and waiting */
};

/* Opens a backend by its URI, or a format or filter on next (taken over on success). *disk is the
 * caller's to close. */
int bmig_disk_open(struct bmig_disk **disk, const struct bmig_driver *driver,
                   struct bmig_disk *next, const struct bmig_uri *uri,
                   const struct bmig_open_options *options, struct bmig_error *err);

/* Closes a detached disk and those below it. NULL is fine. */
void bmig_disk_close(struct bmig_disk *disk);

/* Makes loop the owner, of next first. Loop's thread, as all that follow. */
int bmig_disk_attach(struct bmig_disk *disk, struct bmig_loop *loop, struct bmig_error *err);

/* Nothing may be in flight (asserted); wait for bmig_disk_idle or fence first. The last done may do
 * it, and close the disk. */
void bmig_disk_detach(struct bmig_disk *disk);

/* Hands request to the disk; see struct bmig_request for what the caller owes and gets. Errors that
 * the door finds come through done as well: -EINVAL bad range or empty, -EROFS, -ENOTSUP
 * (FAST_ONLY), -ESHUTDOWN after a fence, -ENOMEM. */
void bmig_disk_submit(struct bmig_disk *disk, struct bmig_request *request);

/* Whether nothing is under way, queued or waiting for its done to run. */
bool bmig_disk_idle(const struct bmig_disk *disk);

/* Fences the disk and everything below; done runs once all that was in flight has completed and
 * nothing can take effect any more. Once per disk. */
void bmig_disk_fence(struct bmig_disk *disk, void (*done)(struct bmig_disk *disk, void *user),
                     void *user);

/* Submits and steps the loop until done; for tools and tests whose loop runs nothing else. */
int bmig_disk_run(struct bmig_disk *disk, struct bmig_request *request);

/* put of driver->describe for the disk and those below it, top first. */
void bmig_disk_describe(struct bmig_disk *disk,
                        void (*put)(void *user, const char *key, const char *value), void *user);

/* ---- for drivers ---- */

/* Ends a request that the driver was given. Loop's thread, from anywhere on it: the caller's done
 * runs later, from the loop. */
void bmig_disk_complete(struct bmig_request *request, int status);

/* Passes the request that submit was given on to disk->next as it is, but for offset: no copy, and
 * its completion goes straight to whoever submitted it. The last thing a submit does with it. */
void bmig_disk_forward(struct bmig_disk *disk, struct bmig_request *request, uint64_t offset);

/* What a driver's fence calls when the promise of bmig_driver.fence holds. */
void bmig_disk_fenced(struct bmig_disk *disk);

/* Pretends to the door that size, caps and limits of a filter are those of next. For open. */
void bmig_disk_inherit(struct bmig_disk *disk, struct bmig_disk *next);

#endif
