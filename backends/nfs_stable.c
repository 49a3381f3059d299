/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What the server has answered but not made stable, and what becomes of it when the server
 * restarts.
 *
 * WRITEs go UNSTABLE and FLUSH is COMMIT. Every answer to either carries a verifier that changes
 * when the server loses what it had not made stable (RFC 1813, 3.3.7 and 3.3.21). So each answered
 * write leaves a record, with a copy of its data unless the caller keeps the means to write it
 * again (BMIG_REPLAYABLE), and a COMMIT covers the records older than itself whose verifiers equal
 * its own. Where one differs, its write is lost:
 *  - with a copy, it is written again FILE_SYNC, without what newer writes have since put over it,
 * while new requests wait; then the FLUSH is tried again. Neither the guest nor the caller notices.
 *  - without, the FLUSH fails with -EIO and the caller writes everything since the last good one
 * again. The slate is clean afterwards. A server that restarts breaks every connection. So after
 * each reconnect, where records exist, nothing is sent before a COMMIT has told whether it is the
 * same server: a read must not find what was lost.
 *
 * Copies are bounded: at half of the bound a COMMIT goes out by itself, and at the bound writes
 * wait for it. A COMMIT that fails counts as the loss of what it was to cover: Linux, for one,
 * forgets the data and the error with it.
 *
 * Invariant: records are in the order of the answers, which for overlapping writes is the order of
 * the caller; those before the first that is not STABLE are dropped.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backends/nfs_image.h"

enum record_kind {
    RETAINED,   /* unstable, with a copy */
    REPLAYABLE, /* unstable, without */
    STABLE,     /* only hides what is older */
};

struct bmig_nfs_record {
    TAILQ_ENTRY(bmig_nfs_record) link;
    uint64_t offset, sequence;
    uint32_t length;
    enum record_kind kind;
    bool lost; /* RETAINED: the server has it no more */
    char verifier[NFS3_WRITEVERFSIZE];
    uint8_t data[];
};

/* A part of a lost record on its way back. */
struct rewrite {
    struct bmig_nfs_op op;
};

static void commit_start(struct bmig_nfs_image *image);

/* ---- records ---- */

static void record_free(struct bmig_nfs_stable *stable, struct bmig_nfs_record *record)
{
    TAILQ_REMOVE(&stable->records, record, link);
    stable->record_count--;
    if (record->kind == RETAINED)
        stable->retained_bytes -= record->length;
    if (record->kind != STABLE)
        stable->unstable_count--;
    free(record);
}

/* It is safe, but may hide older ones that are not. */
static void record_settle(struct bmig_nfs_stable *stable, struct bmig_nfs_record *record)
{
    if (record->kind == RETAINED)
        stable->retained_bytes -= record->length;
    if (record->kind != STABLE)
        stable->unstable_count--;
    record->kind = STABLE;
    record->lost = false;
}

static void drop_leading_stable(struct bmig_nfs_stable *stable)
{
    struct bmig_nfs_record *record;
    while ((record = TAILQ_FIRST(&stable->records)) && record->kind == STABLE)
        record_free(stable, record);
}

bool bmig_nfs_stable_reserve(struct bmig_nfs_op *op)
{
    struct bmig_nfs_stable *stable = &op->image->stable;
    uint32_t left = op->length - op->done_bytes;
    if (op->stable || op->replayable || op->retain_bytes)
        return true;
    if (stable->retained_bytes && stable->retained_bytes + left > BMIG_NFS_RETAIN_BYTES) {
        if (stable->rewrite_status != 0) { /* nothing makes room: the server shall say why */
            op->stable = true;
            return true;
        }
        commit_start(op->image);
        return false;
    }
    op->retain_bytes = left;
    stable->retained_bytes += left;
    return true;
}

void bmig_nfs_stable_release(struct bmig_nfs_op *op)
{
    op->image->stable.retained_bytes -= op->retain_bytes;
    op->retain_bytes = 0;
}

int bmig_nfs_stable_wrote(struct bmig_nfs_op *op, uint32_t count, stable_how committed,
                          const char *verifier)
{
    struct bmig_nfs_image *image = op->image;
    struct bmig_nfs_stable *stable = &image->stable;
    enum record_kind kind = committed != UNSTABLE ? STABLE : op->replayable ? REPLAYABLE : RETAINED;
    if (op->urgent || (kind == STABLE && TAILQ_EMPTY(&stable->records)))
        return 0;
    struct bmig_nfs_record *record = malloc(sizeof(*record) + (kind == RETAINED ? count : 0));
    if (!record)
        return -ENOMEM;
    *record = (struct bmig_nfs_record){.offset = op->offset + op->done_bytes,
                                       .sequence = ++stable->sequence,
                                       .length = count,
                                       .kind = kind};
    memcpy(record->verifier, verifier, sizeof(record->verifier));
    if (kind == RETAINED) {
        assert(op->retain_bytes >= count);
        op->retain_bytes -= count; /* what was set aside is now taken */
        memcpy(record->data, op->data + op->done_bytes, count);
    }
    TAILQ_INSERT_TAIL(&stable->records, record, link);
    stable->record_count++;
    stable->unstable_count += kind != STABLE;
    if (stable->retained_bytes > BMIG_NFS_RETAIN_BYTES / 2 ||
        stable->record_count > BMIG_NFS_MAX_RECORDS)
        commit_start(image);
    return 0;
}

/* ---- writing lost data again ---- */

static void settle_state(struct bmig_nfs_image *image)
{
    struct bmig_nfs_stable *stable = &image->stable;
    stable->state = BMIG_NFS_NORMAL;
    if (stable->check_again && stable->unstable_count) {
        stable->state = BMIG_NFS_CHECKING;
        commit_start(image);
    }
    stable->check_again = false;
    if (!TAILQ_EMPTY(&stable->flushes))
        commit_start(image);
    bmig_nfs_pump_soon(image);
}

static void rewrites_end(struct bmig_nfs_image *image)
{
    struct bmig_nfs_stable *stable = &image->stable;
    struct bmig_nfs_record *record;
    if (image->fenced)
        return;
    if (stable->rewrite_status == 0) {
        for (record = TAILQ_FIRST(&stable->records); record; record = TAILQ_NEXT(record, link))
            if (record->lost)
                record_settle(stable, record);
        drop_leading_stable(stable);
    } else {
        /* The copies stay, and the next COMMIT tries again. */
        if (!TAILQ_EMPTY(&stable->flushes))
            stable->lost_status = 0; /* who flushed learns now, and writes again what it can */
        bmig_nfs_stable_end_flushes(image, stable->rewrite_status);
    }
    settle_state(image);
}

static void rewrite_finish(struct bmig_nfs_op *op, int status)
{
    struct bmig_nfs_image *image = op->image;
    struct bmig_nfs_stable *stable = &image->stable;
    if (status != 0 && stable->rewrite_status == 0)
        stable->rewrite_status = status;
    free((struct rewrite *)op);
    if (--stable->rewrites == 0)
        rewrites_end(image);
}

static void rewrite_part(struct bmig_nfs_image *image, struct bmig_nfs_record *record,
                         uint64_t begin, uint64_t end)
{
    struct rewrite *rewrite = calloc(1, sizeof(*rewrite));
    if (!rewrite) {
        image->stable.rewrite_status = -ENOMEM;
        return;
    }
    rewrite->op = (struct bmig_nfs_op){.kind = BMIG_NFS_WRITE,
                                       .stable = true,
                                       .urgent = true,
                                       .offset = begin,
                                       .length = (uint32_t)(end - begin),
                                       .data = record->data + (begin - record->offset),
                                       .finish = rewrite_finish};
    image->stable.rewrites++;
    bmig_nfs_op_start(image, &rewrite->op);
}

/* Writes what of [begin, end) of record no newer one, from `newer` on, has put something over. */
static void rewrite_visible(struct bmig_nfs_image *image, struct bmig_nfs_record *record,
                            uint64_t begin, uint64_t end, struct bmig_nfs_record *newer)
{
    for (; newer && begin < end; newer = TAILQ_NEXT(newer, link)) {
        uint64_t newer_end = newer->offset + newer->length;
        if (newer_end <= begin || newer->offset >= end)
            continue;
        if (newer->offset > begin) /* the part before it; deeper only by what overlaps */
            rewrite_visible(image, record, begin, newer->offset, TAILQ_NEXT(newer, link));
        begin = newer_end;
    }
    if (begin < end)
        rewrite_part(image, record, begin, end);
}

static void rewrites_begin(struct bmig_nfs_image *image)
{
    struct bmig_nfs_stable *stable = &image->stable;
    struct bmig_nfs_record *record;
    stable->state = BMIG_NFS_REWRITING;
    stable->rewrite_status = 0;
    stable->losses++;
    stable->rewrites = 1; /* this function's own, so that the end comes after all are begun */
    for (record = TAILQ_FIRST(&stable->records); record; record = TAILQ_NEXT(record, link))
        if (record->lost)
            rewrite_visible(image, record, record->offset, record->offset + record->length,
                            TAILQ_NEXT(record, link));
    if (--stable->rewrites == 0)
        rewrites_end(image);
}

void bmig_nfs_stable_drained(struct bmig_nfs_image *image)
{
    if (image->stable.state == BMIG_NFS_DRAINING && !image->fenced)
        rewrites_begin(image);
}

static void drain(struct bmig_nfs_image *image)
{
    image->stable.state = BMIG_NFS_DRAINING;
    if (image->writes_sent == 0)
        rewrites_begin(image);
}

/* ---- COMMIT ---- */

static struct bmig_request *request_of(struct bmig_nfs_flush *flush)
{
    return (struct bmig_request *)((char *)flush - offsetof(struct bmig_request, driver));
}

/* Answers the flushes that the COMMIT was begun for; false where there were none. */
static bool end_taken(struct bmig_nfs_image *image, int status)
{
    struct bmig_nfs_flush *flush;
    bool any = false;
    while ((flush = TAILQ_FIRST(&image->stable.flushes)) && flush->taken) {
        TAILQ_REMOVE(&image->stable.flushes, flush, link);
        bmig_disk_complete(request_of(flush), status);
        any = true;
    }
    return any;
}

void bmig_nfs_stable_end_flushes(struct bmig_nfs_image *image, int status)
{
    struct bmig_nfs_flush *flush;
    for (flush = TAILQ_FIRST(&image->stable.flushes); flush; flush = TAILQ_NEXT(flush, link))
        flush->taken = true;
    end_taken(image, status);
}

/* Judges the records that the COMMIT was to cover. Returns whether copies must be written again. */
static bool judge(struct bmig_nfs_stable *stable, const char *verifier, int status)
{
    struct bmig_nfs_record *record;
    bool lost = false;
    for (record = TAILQ_FIRST(&stable->records); record; record = TAILQ_NEXT(record, link)) {
        if (record->sequence > stable->commit_sequence)
            break;
        bool same = status == 0 && memcmp(record->verifier, verifier, NFS3_WRITEVERFSIZE) == 0;
        if (record->kind == REPLAYABLE && !same)
            stable->lost_status = status ? status : -EIO;
        if (record->kind == RETAINED && (record->lost || !same))
            record->lost = lost = true;
        else
            record_settle(stable, record);
    }
    drop_leading_stable(stable);
    return lost;
}

static void commit_finish(struct bmig_nfs_op *op, int status)
{
    struct bmig_nfs_image *image = op->image;
    struct bmig_nfs_stable *stable = &image->stable;
    stable->committing = false;
    if (image->fenced)
        return;
    if (status == -ETIMEDOUT || status == -ENOMEM) {
        /* Nothing is known; the records stay for the next to judge, and what waits for it waits on.
         */
        stable->check_again |= stable->state == BMIG_NFS_CHECKING;
        bmig_nfs_stable_end_flushes(image, status);
        settle_state(image);
        return;
    }
    bool lost = judge(stable, op->verifier, status);
    if (status != 0) {
        /* Whoever flushed learns the server's reason, and needs not hear of it again. */
        if (end_taken(image, status))
            stable->lost_status = 0;
    } else if (!lost) {
        if (end_taken(image, stable->lost_status))
            stable->lost_status = 0;
    }
    if (lost)
        drain(image);
    else
        settle_state(image);
}

static void commit_start(struct bmig_nfs_image *image)
{
    struct bmig_nfs_stable *stable = &image->stable;
    struct bmig_nfs_flush *flush;
    if (stable->committing || stable->state == BMIG_NFS_DRAINING ||
        stable->state == BMIG_NFS_REWRITING)
        return; /* what waits for it starts the next */
    stable->committing = true;
    stable->commit_sequence = stable->sequence;
    for (flush = TAILQ_FIRST(&stable->flushes); flush; flush = TAILQ_NEXT(flush, link))
        flush->taken = true;
    stable->commit =
        (struct bmig_nfs_op){.kind = BMIG_NFS_COMMIT, .urgent = true, .finish = commit_finish};
    bmig_nfs_op_start(image, &stable->commit);
}

void bmig_nfs_stable_flush(struct bmig_nfs_image *image, struct bmig_request *request)
{
    struct bmig_nfs_flush *flush = (struct bmig_nfs_flush *)request->driver;
    flush->taken = false;
    TAILQ_INSERT_TAIL(&image->stable.flushes, flush, link);
    commit_start(image);
}

/* ---- reconnecting ---- */

void bmig_nfs_stable_reconnected(struct bmig_nfs_image *image)
{
    struct bmig_nfs_stable *stable = &image->stable;
    if (stable->unstable_count == 0)
        return;
    if (stable->state == BMIG_NFS_NORMAL) {
        stable->state = BMIG_NFS_CHECKING;
        commit_start(image);
    } else if (stable->state != BMIG_NFS_CHECKING) {
        stable->check_again = true;
    }
}

void bmig_nfs_stable_attached(struct bmig_nfs_image *image)
{
    image->stable.state = BMIG_NFS_NORMAL;
    image->stable.check_again = false;
    bmig_nfs_stable_reconnected(image);
}

bool bmig_nfs_stable_holds(const struct bmig_nfs_image *image)
{
    return image->stable.state != BMIG_NFS_NORMAL;
}

void bmig_nfs_stable_init(struct bmig_nfs_image *image)
{
    TAILQ_INIT(&image->stable.records);
    TAILQ_INIT(&image->stable.flushes);
}

void bmig_nfs_stable_fini(struct bmig_nfs_image *image)
{
    struct bmig_nfs_record *record;
    while ((record = TAILQ_FIRST(&image->stable.records)))
        record_free(&image->stable, record);
}
