/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * An open NFS image: its requests (nfs_io.c), its connections (nfs_session.c), and what the server
 * has not yet made stable (nfs_stable.c).
 *
 * An op is one READ, WRITE or COMMIT on its way. It is on exactly one list: of the image (urgent,
 * ready, delayed) while it waits, of a session (sent, refused) while libnfs holds it. libnfs's
 * callbacks only move ops between lists and note results: nothing is sent, destroyed or reconnected
 * inside them. The pump task sends.
 */
#ifndef BACKENDS_NFS_IMAGE_H
#define BACKENDS_NFS_IMAGE_H

#include <sys/queue.h>

#include "backends/nfs_place.h"
#include "blockmig/core/disk.h"

enum {
    BMIG_NFS_MAX_SESSIONS = 16,
    BMIG_NFS_MAX_REQUESTS = 64,
    /* libnfs copies each WRITE's data into its call: what it may hold at once. */
    BMIG_NFS_IN_FLIGHT_BYTES = 8 << 20,
    /* Copies of writes that the server answered but has not made stable. */
    BMIG_NFS_RETAIN_BYTES = 8 << 20,
    /* Records of REPLAYABLE writes before a COMMIT of our own clears them. */
    BMIG_NFS_MAX_RECORDS = 4096,
};

enum bmig_nfs_kind { BMIG_NFS_READ, BMIG_NFS_WRITE, BMIG_NFS_COMMIT };

struct bmig_nfs_op {
    TAILQ_ENTRY(bmig_nfs_op) link;
    struct bmig_nfs_image *image;
    struct bmig_nfs_session *session; /* while libnfs holds it */
    enum bmig_nfs_kind kind;
    uint8_t list;    /* enum bmig_nfs_list */
    bool stable;     /* WRITE: ask for FILE_SYNC */
    bool replayable; /* WRITE: no copy is kept */
    bool urgent;     /* passes while others are held */
    uint64_t offset; /* of the whole; done_bytes of it are done */
    uint32_t length;
    uint32_t done_bytes;
    uint32_t sent_bytes;   /* of the call under way */
    uint32_t retain_bytes; /* room set aside for its copy */
    uint8_t *data;
    uint64_t started_ns, sent_ns, retry_ns;
    char verifier[NFS3_WRITEVERFSIZE]; /* COMMIT: the reply's */
    void (*finish)(struct bmig_nfs_op *op, int status);
};

enum bmig_nfs_list { BMIG_NFS_NO_LIST, BMIG_NFS_WAITING, BMIG_NFS_DELAYED, BMIG_NFS_SENT };

TAILQ_HEAD(bmig_nfs_ops, bmig_nfs_op);

enum bmig_nfs_session_state {
    BMIG_NFS_DOWN,       /* no context; timer may be set to connect */
    BMIG_NFS_CONNECTING, /* TCP */
    BMIG_NFS_PROBING, /* NULL call: the server works again, and what it had read before came first
                       */
    BMIG_NFS_UP,
};

struct bmig_nfs_session {
    struct bmig_nfs_image *image;
    struct rpc_context *rpc;
    enum bmig_nfs_session_state state;
    struct bmig_watch watch;
    bool watching;
    struct bmig_timer retry;
    uint32_t tries; /* to connect, since it was last up */
    struct bmig_nfs_ops sent, refused;
    uint64_t bytes_in_flight;
    uint64_t heard_ns; /* last answer, or when the connection began */
    bool unsent;       /* calls were queued in libnfs that it has not been told to write */
    bool stepped;      /* the connect or the probe has ended */
    int step_status;
};

/* The task that sends. It outlives the image where it was deferred before a detach, for a deferred
 * task can't be taken back. */
struct bmig_nfs_pump {
    struct bmig_task task;
    struct bmig_nfs_image *image; /* NULL: detached meanwhile */
    bool deferred;
};

enum bmig_nfs_stable_state {
    BMIG_NFS_NORMAL,
    BMIG_NFS_CHECKING,  /* reconnected: a COMMIT tells whether the server is the one we wrote to */
    BMIG_NFS_DRAINING,  /* it is not: writes under way end first */
    BMIG_NFS_REWRITING, /* what it lost is written again */
};

struct bmig_nfs_flush {
    TAILQ_ENTRY(bmig_nfs_flush) link;
    bool taken; /* the COMMIT under way was begun after it came */
};

TAILQ_HEAD(bmig_nfs_flushes, bmig_nfs_flush);
TAILQ_HEAD(bmig_nfs_records, bmig_nfs_record);

struct bmig_nfs_stable {
    enum bmig_nfs_stable_state state;
    struct bmig_nfs_records records; /* oldest answer first */
    uint32_t record_count, unstable_count;
    uint64_t sequence;       /* of the last record */
    uint64_t retained_bytes; /* kept, and set aside for writes under way */
    struct bmig_nfs_op commit;
    bool committing;
    uint64_t commit_sequence;
    struct bmig_nfs_flushes flushes;
    int lost_status;   /* what the next FLUSH must say of REPLAYABLE writes; 0 */
    bool check_again;  /* reconnected while rewriting */
    uint32_t rewrites; /* under way */
    int rewrite_status;
    uint64_t losses; /* restarts of the server that cost data, for `info` */
};

struct bmig_nfs_image {
    struct bmig_disk *disk;
    struct bmig_loop *loop; /* NULL: not attached */
    struct bmig_nfs_place place;
    struct bmig_nfs_fh fh;
    struct bmig_nfs_session sessions[BMIG_NFS_MAX_SESSIONS];
    uint32_t session_count;
    struct bmig_nfs_ops urgent, ready, delayed;
    uint64_t bytes_in_flight;
    uint32_t ops;               /* that exist */
    uint32_t writes_sent;       /* non-urgent WRITEs that libnfs holds */
    uint64_t heard_ns;          /* last answer of any session */
    struct bmig_nfs_pump *pump; /* while attached */
    struct bmig_timer tick;
    bool fenced;
    struct bmig_nfs_stable stable;
    uint64_t reconnects;
    char lock_name[256]; /* "" where none is held */
    char lock_text[400];
    uint32_t read_max_bytes, write_max_bytes; /* the server's */
};

/* ---- nfs_io.c ---- */

void bmig_nfs_submit(struct bmig_disk *disk, struct bmig_request *request);
/* Puts a new op on its way; finish is called once, never from inside this. */
void bmig_nfs_op_start(struct bmig_nfs_image *image, struct bmig_nfs_op *op);
/* Ends an op wherever it waits; libnfs must not hold it. */
void bmig_nfs_op_end(struct bmig_nfs_op *op, int status);
/* Puts an op that was taken from a session back to wait. */
void bmig_nfs_op_again(struct bmig_nfs_op *op);
void bmig_nfs_pump_soon(struct bmig_nfs_image *image);
/* Ends all that waits: ops and flushes. Sessions are closed first. */
void bmig_nfs_end_all(struct bmig_nfs_image *image, int status);
void bmig_nfs_io_init(struct bmig_nfs_image *image);
int bmig_nfs_io_attach(struct bmig_nfs_image *image);
void bmig_nfs_io_detach(struct bmig_nfs_image *image);

/* ---- nfs_session.c ---- */

/* Makes a session of a connected link, which it takes over. */
void bmig_nfs_session_open(struct bmig_nfs_session *session, struct bmig_nfs_image *image,
                           struct bmig_nfs_link *link);
void bmig_nfs_session_attach(struct bmig_nfs_session *session);
void bmig_nfs_session_detach(struct bmig_nfs_session *session);
/* Closes the connection; what it carried waits to be sent again. */
void bmig_nfs_session_drop(struct bmig_nfs_session *session);
/* The one with the least on its way, or NULL; starts connecting those that are down. */
struct bmig_nfs_session *bmig_nfs_session_pick(struct bmig_nfs_image *image);
/* Lets libnfs write what was queued. */
void bmig_nfs_session_send(struct bmig_nfs_session *session);

/* ---- nfs_stable.c ---- */

/* A WRITE's answer: count bytes at op's done_bytes are with the server. -ENOMEM where no copy could
 * be kept: ask again with FILE_SYNC. */
int bmig_nfs_stable_wrote(struct bmig_nfs_op *op, uint32_t count, stable_how committed,
                          const char *verifier);
/* Sets room aside for op's copy; false: it waits until a COMMIT has made some. */
bool bmig_nfs_stable_reserve(struct bmig_nfs_op *op);
void bmig_nfs_stable_release(struct bmig_nfs_op *op);
void bmig_nfs_stable_flush(struct bmig_nfs_image *image, struct bmig_request *request);
/* A session came back. */
void bmig_nfs_stable_reconnected(struct bmig_nfs_image *image);
/* Begins anew after a detach, which ended what was under way here. */
void bmig_nfs_stable_attached(struct bmig_nfs_image *image);
/* The last non-urgent WRITE that libnfs held is answered. */
void bmig_nfs_stable_drained(struct bmig_nfs_image *image);
bool bmig_nfs_stable_holds(const struct bmig_nfs_image *image);
void bmig_nfs_stable_init(struct bmig_nfs_image *image);
void bmig_nfs_stable_fini(struct bmig_nfs_image *image);
void bmig_nfs_stable_end_flushes(struct bmig_nfs_image *image, int status);

/* ---- nfs_lock.c ---- */

/* Takes the lock beside the image, by image->place.link: DENIED with its holder's name where held.
 */
int bmig_nfs_lock(struct bmig_nfs_image *image, struct bmig_error *err);
/* Gives it back, by a link of its own; nothing where none is held. */
void bmig_nfs_unlock(struct bmig_nfs_image *image);

#endif
