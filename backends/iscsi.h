/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The iSCSI backend's inside: a target, the facts of its LUN, the link of some sessions to it, and
 * the operations that travel on the link. Shared by backends/iscsi*.c and their tests only.
 *
 *   iscsi_target.c  the URI taken apart; the ISIDs that make a new login take the place of an old
 * one iscsi_sense.c   what a SCSI status and its sense data mean for the request iscsi_facts.c what
 * the LUN says of itself: parsers of inquiry pages and capacity iscsi_login.c   blocking: connect,
 * log in, ask the facts iscsi_link.c    on the loop: sessions, loss, logging in again, time-outs
 *   iscsi_op.c      on the loop: requests as SCSI commands
 *   iscsi.c         the driver's table
 */
#ifndef BACKENDS_ISCSI_H
#define BACKENDS_ISCSI_H

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>
#include <stdatomic.h>

#include "blockmig/core/disk.h"

enum {
    BMIG_ISCSI_MAX_SESSIONS = 8,
    BMIG_ISCSI_NAME_BYTES = 224, /* RFC 7143 4.2.7.1: 223 and the NUL */
    BMIG_ISCSI_MAX_IO_BYTES = 1 << 20,
    BMIG_ISCSI_DEPTH = 32, /* commands under way on one session */
};

/* ---- the target ---- */

/* Whom to log in to and as whom. Never changes; shared by a disk and by logins that outlive it. */
struct bmig_iscsi_target {
    atomic_uint refs;
    char portal[300]; /* "host:port", "[v6]:port" */
    char name[BMIG_ISCSI_NAME_BYTES];
    char initiator[BMIG_ISCSI_NAME_BYTES];
    uint16_t lun; /* as it goes on the wire: peripheral or flat addressing */
    char user[256];
    char secret[256];
    enum iscsi_header_digest header_digest;
    uint64_t timeout_ns;
    unsigned session_count;
    uint32_t isid; /* the process's */
    int slots[BMIG_ISCSI_MAX_SESSIONS];
};

/* From a URI and options, with one reference. BMIG_USAGE for a URI that says no usable thing; the
 * secret is in no message. */
int bmig_iscsi_target_new(struct bmig_iscsi_target **target, const struct bmig_uri *uri,
                          const struct bmig_open_options *options, unsigned session_count,
                          struct bmig_error *err);
struct bmig_iscsi_target *bmig_iscsi_target_ref(struct bmig_iscsi_target *target);
void bmig_iscsi_target_unref(struct bmig_iscsi_target *target);

/* ---- sense ---- */

enum bmig_iscsi_verdict {
    BMIG_ISCSI_DONE,
    BMIG_ISCSI_AGAIN,       /* send the same at once: the command was not carried out */
    BMIG_ISCSI_LATER,       /* the same after a pause */
    BMIG_ISCSI_RECHECK,     /* the LUN may be another or another size: prove it before going on */
    BMIG_ISCSI_UNSUPPORTED, /* the target knows no such command: do it another way */
    BMIG_ISCSI_LOST,        /* unanswered: the session is gone or out of step */
    BMIG_ISCSI_FAIL,        /* code says why */
};

/* What scsi_status with its sense data (only read for a CHECK CONDITION) asks for. *code: the
 * positive errno that the request fails with if it is not, or can't be, done again. */
enum bmig_iscsi_verdict bmig_iscsi_judge(int scsi_status, const struct scsi_sense *sense,
                                         int *code);

/* Whether the sense says that the device lost its volatile cache. */
bool bmig_iscsi_cache_lost(int scsi_status, const struct scsi_sense *sense);

/* ---- facts ---- */

struct bmig_iscsi_facts {
    uint64_t size_bytes;
    uint32_t block_bytes;
    bool thin;     /* LBPME */
    bool zeroes;   /* LBPRZ: unmapped blocks read as zeroes */
    bool unmap;    /* LBPU: UNMAP */
    bool ws_unmap; /* LBPWS: WRITE SAME (16) with the UNMAP bit */
    bool write_protected;
    bool write_cache;
    bool fua;
    bool rotational;
    bool lba_status; /* GET LBA STATUS worked */
    bool all_unmapped;
    uint32_t max_transfer_blocks; /* 0: no limit told; so below */
    uint32_t max_unmap_blocks;
    uint64_t max_write_same_blocks;
    char vendor[32]; /* "IET VIRTUAL-DISK" */
    char identity[128];
};

/* Parsers of what a target sent: false where it is too short or senseless, and nothing is changed.
 */
bool bmig_iscsi_parse_capacity16(struct bmig_iscsi_facts *facts, const uint8_t *data,
                                 size_t length);
void bmig_iscsi_parse_block_limits(struct bmig_iscsi_facts *facts, const uint8_t *data,
                                   size_t length);
void bmig_iscsi_parse_provisioning(struct bmig_iscsi_facts *facts, const uint8_t *data,
                                   size_t length);
void bmig_iscsi_parse_characteristics(struct bmig_iscsi_facts *facts, const uint8_t *data,
                                      size_t length);
/* A MODE SENSE (6) answer with or without the caching page. */
void bmig_iscsi_parse_mode6(struct bmig_iscsi_facts *facts, const uint8_t *data, size_t length);
/* Page 0x83 and, where there is one, 0x80, to facts->identity. fallback names the LUN where it has
 * no designator of its own. */
void bmig_iscsi_parse_identity(struct bmig_iscsi_facts *facts, const uint8_t *page83,
                               size_t length83, const uint8_t *page80, size_t length80,
                               const char *fallback);
/* GET LBA STATUS's answer to a question from `lba`, cut to block_count: adds to extents. 0, or -EIO
 * where the answer is none. */
int bmig_iscsi_parse_lba_status(const uint8_t *data, size_t length, uint64_t lba,
                                uint64_t block_count, uint32_t block_bytes, bool zeroes,
                                struct bmig_extents *extents);

/* ---- login ---- */

/* Connects, logs in as session `index` and waits until the unit is ready, every step within
 * step_ns. With facts, asks them too. Blocks; any thread. On failure *context is NULL. err->code:
 * ENOENT where there is no such target or LUN, EACCES where it does not let us in, ETIMEDOUT,
 * ECONNREFUSED, EMEDIUMTYPE. */
int bmig_iscsi_login(struct bmig_iscsi_target *target, unsigned index, uint64_t step_ns,
                     struct iscsi_context **context, struct bmig_iscsi_facts *facts,
                     struct bmig_error *err);

/* Logs out, as far as that takes no longer than step_ns, and frees context. Blocks. */
void bmig_iscsi_logout(struct iscsi_context *context, uint64_t step_ns);

/* Frees context so that nothing it had still to send reaches the target. Does not block. */
void bmig_iscsi_drop(struct iscsi_context *context);

/* ---- the link and its operations: the loop's thread ---- */

struct bmig_iscsi;

/* A request on its way, in its driver bytes. It is on exactly one list: waiting, delayed or a
 * session's. */
struct bmig_iscsi_op {
    struct bmig_iscsi_op *next, *prev;
    struct bmig_iscsi_session *session; /* while a command of it is under way */
    struct scsi_task *task;
    struct scsi_iovec iov;
    uint8_t parameters[24]; /* of UNMAP */
    uint64_t deadline_ns;
    uint64_t covers; /* SYNC: the writes that were done when it was sent */
    uint8_t method;  /* of the command under way; see iscsi_op.c */
    uint8_t tries;
    bool flushing; /* the rest is done, the FUA of a ZERO or DISCARD remains */
};
_Static_assert(sizeof(struct bmig_iscsi_op) <= BMIG_REQUEST_DRIVER_BYTES,
               "an op fits into a request");

/* A ring with a sentinel. */
struct bmig_iscsi_list {
    struct bmig_iscsi_op *next, *prev;
};

struct bmig_iscsi_session {
    struct bmig_iscsi *link;
    struct iscsi_context *context;
    struct bmig_watch watch;
    bool watching;
    const char *lost; /* why; noticed inside a callback of the library, acted on outside of it */
    unsigned under_way;
    uint64_t heard_ns;
    uint64_t pinged_ns; /* when it was asked whether it is there; 0: it has said something since */
    struct bmig_iscsi_list ops;
};

enum bmig_iscsi_state {
    BMIG_ISCSI_IDLE, /* not attached */
    BMIG_ISCSI_UP,
    BMIG_ISCSI_DOWN, /* logging in again; nothing is sent */
    BMIG_ISCSI_DEAD, /* what is there now is not what was opened */
};

struct bmig_iscsi_relogin;

struct bmig_iscsi {
    struct bmig_disk *disk;
    struct bmig_iscsi_target *target;
    struct bmig_iscsi_facts facts;
    enum bmig_iscsi_state state;
    unsigned session_count;
    struct bmig_iscsi_session sessions[BMIG_ISCSI_MAX_SESSIONS];
    struct bmig_iscsi_list waiting; /* in order; sent as sessions have room */
    struct bmig_iscsi_list delayed; /* told BUSY; sent again when `retry` fires */
    struct bmig_timer tick;
    struct bmig_timer retry;
    struct bmig_timer backoff; /* until the next login */
    struct bmig_task kick;
    struct bmig_iscsi_relogin *relogin;
    uint64_t tick_due_ns;
    uint64_t down_since_ns;
    uint64_t backoff_ns;
    uint64_t lost_count;
    bool ghosts; /* a write was under way when the link went down: a login must fence it */
    /* Writes counted as they are answered; what the last of them is that a good FLUSH covers. */
    uint64_t writes_done, writes_flushed, last_replayable;
    /* The target may have lost what was not flushed: the next FLUSH must say so. */
    bool cache_doubt;
    bool fencing;
    uint64_t fence_until_ns;
    /* Found out that the target knows no such command, whatever it said of itself. */
    bool no_write_same, no_ws_unmap, no_unmap, no_lba_status;
};

void bmig_iscsi_list_init(struct bmig_iscsi_list *list);
bool bmig_iscsi_list_empty(const struct bmig_iscsi_list *list);
void bmig_iscsi_list_append(struct bmig_iscsi_list *list, struct bmig_iscsi_op *op);
void bmig_iscsi_list_prepend(struct bmig_iscsi_list *list, struct bmig_iscsi_op *op);
void bmig_iscsi_list_remove(struct bmig_iscsi_op *op);

/* The link: starts what the sessions logged in need on the loop; stops it (nothing in flight). */
int bmig_iscsi_link_attach(struct bmig_iscsi *link);
void bmig_iscsi_link_detach(struct bmig_iscsi *link);

/* Queues an op that is on no list, to be sent in its turn. */
void bmig_iscsi_link_send(struct bmig_iscsi *link, struct bmig_iscsi_op *op);
/* The same after a pause. */
void bmig_iscsi_link_send_later(struct bmig_iscsi *link, struct bmig_iscsi_op *op);

void bmig_iscsi_link_fence(struct bmig_iscsi *link);

/* Starts logging in all sessions of link again, which ends with link_logged_in unless it is
 * abandoned. -ENOMEM. */
int bmig_iscsi_relogin_start(struct bmig_iscsi *link, uint64_t step_ns);
void bmig_iscsi_relogin_abandon(struct bmig_iscsi *link);
/* Takes contexts where they are of use, and leaves NULL in their places. */
void bmig_iscsi_link_logged_in(struct bmig_iscsi *link, int status, struct iscsi_context **contexts,
                               const struct bmig_iscsi_facts *facts, const char *why);

/* Ops. start: a request's first command, to the link. issue: hands the op's command to session; 0,
 * or -errno after which the op is still the caller's. finish: answers the request; the op is on no
 * list. */
struct bmig_iscsi_op *bmig_iscsi_op_of(struct bmig_request *request);
struct bmig_request *bmig_iscsi_request_of(struct bmig_iscsi_op *op);
void bmig_iscsi_op_start(struct bmig_iscsi *link, struct bmig_request *request);
int bmig_iscsi_op_issue(struct bmig_iscsi_session *session, struct bmig_iscsi_op *op);
void bmig_iscsi_op_finish(struct bmig_iscsi_op *op, int status);
/* Whether a lost op's command may still change the medium. */
bool bmig_iscsi_op_writes(const struct bmig_iscsi_op *op);

#endif
