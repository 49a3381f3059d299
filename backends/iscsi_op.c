/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Operations: each request as one SCSI command, its answer judged, and what follows from the
 * judgement.
 *
 * The limits given to the door are such that one command is enough; only a ZERO or DISCARD with FUA
 * takes a second, for neither WRITE SAME nor UNMAP has that bit. Data goes between the socket and
 * request->data directly. UNMAP is no way to ZERO: a target may leave out what it likes of it
 * (SBC-3 4.7.3.4), whereas WRITE SAME with the UNMAP bit writes what it does not unmap.
 */
#include <errno.h>
#include <stddef.h>

#include "backends/iscsi.h"
#include "blockmig/core/log.h"

enum method { READ16, WRITE16, WRITE_SAME, WRITE_SAME_UNMAP, UNMAP, LBA_STATUS, SYNC };

enum { MAX_TRIES = 16, MAX_RECHECKS = 2, LBA_STATUS_BYTES = 8 + 16 * 64, MAX_BLOCK_BYTES = 65536 };

static uint8_t zero_block[MAX_BLOCK_BYTES];

void bmig_iscsi_list_init(struct bmig_iscsi_list *list)
{
    list->next = list->prev = (struct bmig_iscsi_op *)list;
}

bool bmig_iscsi_list_empty(const struct bmig_iscsi_list *list)
{
    return list->next == (const struct bmig_iscsi_op *)list;
}

void bmig_iscsi_list_append(struct bmig_iscsi_list *list, struct bmig_iscsi_op *op)
{
    op->next = (struct bmig_iscsi_op *)list;
    op->prev = list->prev;
    list->prev->next = op;
    list->prev = op;
}

void bmig_iscsi_list_remove(struct bmig_iscsi_op *op)
{
    op->prev->next = op->next;
    op->next->prev = op->prev;
    op->next = op->prev = NULL;
}

void bmig_iscsi_list_prepend(struct bmig_iscsi_list *list, struct bmig_iscsi_op *op)
{
    op->prev = (struct bmig_iscsi_op *)list;
    op->next = list->next;
    list->next->prev = op;
    list->next = op;
}

struct bmig_iscsi_op *bmig_iscsi_op_of(struct bmig_request *request)
{
    return (struct bmig_iscsi_op *)request->driver;
}

struct bmig_request *bmig_iscsi_request_of(struct bmig_iscsi_op *op)
{
    return (struct bmig_request *)((char *)op - offsetof(struct bmig_request, driver));
}

bool bmig_iscsi_op_writes(const struct bmig_iscsi_op *op)
{
    return op->method != READ16 && op->method != LBA_STATUS && op->method != SYNC;
}

void bmig_iscsi_op_finish(struct bmig_iscsi_op *op, int status)
{
    bmig_disk_complete(bmig_iscsi_request_of(op), status);
}

/* How to do the request now; -ENOTSUP where no way is left. */
static int choose_method(const struct bmig_iscsi *link, struct bmig_iscsi_op *op)
{
    const struct bmig_request *request = bmig_iscsi_request_of(op);
    const struct bmig_iscsi_facts *facts = &link->facts;
    if (op->flushing) {
        op->method = SYNC;
        return 0;
    }
    switch (request->op) {
    case BMIG_READ:
        op->method = READ16;
        return 0;
    case BMIG_WRITE:
        op->method = WRITE16;
        return 0;
    case BMIG_ZERO:
        if (link->no_write_same)
            return -ENOTSUP;
        bool unmap = request->flags & BMIG_MAY_UNMAP && facts->ws_unmap && facts->zeroes &&
                     !link->no_ws_unmap;
        op->method = unmap ? WRITE_SAME_UNMAP : WRITE_SAME;
        return 0;
    case BMIG_DISCARD:
        if (facts->unmap && !link->no_unmap)
            op->method = UNMAP;
        else if (facts->ws_unmap && !link->no_ws_unmap)
            op->method = WRITE_SAME_UNMAP;
        else
            return -ENOTSUP;
        return 0;
    case BMIG_EXTENTS:
        op->method = LBA_STATUS;
        return link->no_lba_status ? -ENOTSUP : 0;
    default:
        op->method = SYNC;
        return 0;
    }
}

/* The answer where no way is left: what asks for nothing definite is granted, for the rest the door
 * has another way. */
static void finish_unsupported(struct bmig_iscsi_op *op)
{
    struct bmig_request *request = bmig_iscsi_request_of(op);
    int status = -ENOTSUP;
    if (request->op == BMIG_EXTENTS) {
        request->extents->count = 0;
        bmig_extents_add(request->extents, request->length, BMIG_EXTENT_DATA);
        status = 0;
    } else if (request->op == BMIG_DISCARD) {
        status = 0;
    }
    bmig_iscsi_op_finish(op, status);
}

void bmig_iscsi_op_start(struct bmig_iscsi *link, struct bmig_request *request)
{
    struct bmig_iscsi_op *op = bmig_iscsi_op_of(request);
    *op = (struct bmig_iscsi_op){
        .deadline_ns = bmig_loop_now_ns(link->disk->loop) + link->target->timeout_ns,
    };
    if (choose_method(link, op) != 0)
        finish_unsupported(op);
    else
        bmig_iscsi_link_send(link, op);
}

/* ---- answers ---- */

/* The method was not known: what it was to do is done another way from now on. */
static void fall_back(struct bmig_iscsi *link, struct bmig_iscsi_op *op)
{
    struct bmig_disk *disk = link->disk;
    const char *what = NULL;
    switch (op->method) {
    case WRITE_SAME:
        link->no_write_same = true;
        what = "WRITE SAME (16)";
        break;
    case WRITE_SAME_UNMAP:
        link->no_ws_unmap = true;
        disk->caps &= ~(uint32_t)BMIG_CAP_UNMAP;
        what = "WRITE SAME (16) with UNMAP";
        break;
    case UNMAP:
        link->no_unmap = true;
        what = "UNMAP";
        break;
    case LBA_STATUS:
        link->no_lba_status = true;
        disk->caps &= ~(uint32_t)BMIG_CAP_EXTENTS;
        what = "GET LBA STATUS";
        break;
    case SYNC:
        /* A target without a volatile cache has nothing to flush; any other lies to us. */
        bmig_iscsi_op_finish(op, link->facts.write_cache ? -EIO : 0);
        return;
    default:
        bmig_iscsi_op_finish(op, -EIO);
        return;
    }
    bmig_log(BMIG_LOG_DEBUG, "%s: the target has no %s", disk->name, what);
    if (choose_method(link, op) != 0)
        finish_unsupported(op);
    else
        bmig_iscsi_link_send(link, op);
}

static int read_extents(struct bmig_iscsi *link, struct bmig_iscsi_op *op,
                        const struct scsi_task *task)
{
    struct bmig_request *request = bmig_iscsi_request_of(op);
    uint32_t block = link->facts.block_bytes;
    size_t length = task->datain.data && task->datain.size > 0 ? (size_t)task->datain.size : 0;
    request->extents->count = 0;
    return bmig_iscsi_parse_lba_status(task->datain.data, length, request->offset / block,
                                       request->length / block, block, link->facts.zeroes,
                                       request->extents);
}

/* A flush that came through. Whether what it covers had been lost before it, the link knows. */
static int flushed(struct bmig_iscsi *link, const struct bmig_iscsi_op *op)
{
    bool doubt = link->cache_doubt;
    link->cache_doubt = false;
    if (op->covers > link->writes_flushed)
        link->writes_flushed = op->covers;
    return doubt ? -EIO : 0;
}

static void done(struct bmig_iscsi *link, struct bmig_iscsi_op *op, const struct scsi_task *task)
{
    struct bmig_request *request = bmig_iscsi_request_of(op);
    int status = 0;
    if ((op->method == READ16 || op->method == WRITE16) &&
        task->residual_status != SCSI_RESIDUAL_NO_RESIDUAL)
        status = -EIO; /* GOOD, and yet not all of the bytes */
    else if (op->method == LBA_STATUS)
        status = read_extents(link, op, task);
    else if (op->method == SYNC)
        status = flushed(link, op);
    if (bmig_iscsi_op_writes(op) && !(op->method == WRITE16 && request->flags & BMIG_FUA)) {
        link->writes_done++;
        if (request->flags & BMIG_REPLAYABLE)
            link->last_replayable = link->writes_done;
    }
    if (status == 0 && op->method != WRITE16 && bmig_iscsi_op_writes(op) &&
        request->flags & BMIG_FUA) {
        op->flushing = true;
        op->method = SYNC;
        op->tries = 0;
        bmig_iscsi_link_send(link, op);
        return;
    }
    bmig_iscsi_op_finish(op, status);
}

static void act(struct bmig_iscsi *link, struct bmig_iscsi_op *op, enum bmig_iscsi_verdict verdict,
                int code, const struct scsi_task *task)
{
    if (bmig_iscsi_cache_lost(task->status, &task->sense) && link->facts.write_cache &&
        link->writes_done > link->writes_flushed)
        link->cache_doubt = true;
    if (verdict == BMIG_ISCSI_DONE) {
        done(link, op, task);
    } else if (link->fencing) {
        bmig_iscsi_op_finish(op, -ECANCELED);
    } else if (verdict == BMIG_ISCSI_UNSUPPORTED) {
        fall_back(link, op);
    } else if (verdict == BMIG_ISCSI_AGAIN && op->tries < MAX_TRIES) {
        op->tries++;
        bmig_iscsi_link_send(link, op);
    } else if (verdict == BMIG_ISCSI_LATER) {
        op->tries += op->tries < MAX_TRIES;
        bmig_iscsi_link_send_later(link, op);
    } else {
        bmig_iscsi_op_finish(op, -code);
    }
}

/* The library's callback, inside iscsi_service or the context's end. An op that is not answered
 * stays on its session's list, for the link to take down; nothing here may end the context. */
static void on_answer(struct iscsi_context *context, int status, void *data, void *user)
{
    struct bmig_iscsi_op *op = user;
    struct bmig_iscsi_session *session = op->session;
    struct scsi_task *task = op->task;
    int code;
    task->status = status;
    enum bmig_iscsi_verdict verdict = bmig_iscsi_judge(status, &task->sense, &code);
    if (verdict == BMIG_ISCSI_RECHECK && op->tries++ >= MAX_RECHECKS)
        verdict = BMIG_ISCSI_FAIL;
    if (verdict == BMIG_ISCSI_LOST || verdict == BMIG_ISCSI_RECHECK) {
        session->lost = verdict == BMIG_ISCSI_LOST ? "the connection broke"
                                                   : "the target says that the LUN has changed";
        return;
    }
    bmig_iscsi_list_remove(op);
    session->under_way--;
    op->session = NULL;
    op->task = NULL;
    act(session->link, op, verdict, code, task);
    scsi_free_scsi_task(task);
}

/* ---- commands ---- */

static struct scsi_task *build(struct bmig_iscsi *link, struct bmig_iscsi_op *op)
{
    const struct bmig_request *request = bmig_iscsi_request_of(op);
    uint32_t block = link->facts.block_bytes;
    uint64_t lba = request->offset / block;
    uint32_t blocks = (uint32_t)(request->length / block);
    uint32_t bytes = (uint32_t)request->length;
    bool fua = request->flags & BMIG_FUA && link->facts.fua;
    switch (op->method) {
    case READ16:
        return scsi_cdb_read16(lba, bytes, (int)block, 0, 0, 0, 0, 0);
    case WRITE16:
        return scsi_cdb_write16(lba, bytes, (int)block, 0, 0, fua, 0, 0);
    case WRITE_SAME:
    case WRITE_SAME_UNMAP:
        return scsi_cdb_writesame16(0, 0, op->method == WRITE_SAME_UNMAP, lba, 0, blocks, block);
    case UNMAP:
        return scsi_cdb_unmap(0, 0, sizeof op->parameters);
    case LBA_STATUS:
        return scsi_cdb_get_lba_status(lba, LBA_STATUS_BYTES);
    default:
        return scsi_cdb_synchronizecache16(0, 0, 0, 0);
    }
}

/* SBC-3 5.28.2: one block descriptor. */
static void fill_unmap(struct bmig_iscsi *link, struct bmig_iscsi_op *op)
{
    const struct bmig_request *request = bmig_iscsi_request_of(op);
    uint32_t block = link->facts.block_bytes;
    scsi_set_uint16(op->parameters, sizeof op->parameters - 2);
    scsi_set_uint16(op->parameters + 2, 16);
    scsi_set_uint32(op->parameters + 4, 0);
    scsi_set_uint64(op->parameters + 8, request->offset / block);
    scsi_set_uint32(op->parameters + 16, (uint32_t)(request->length / block));
    scsi_set_uint32(op->parameters + 20, 0);
}

int bmig_iscsi_op_issue(struct bmig_iscsi_session *session, struct bmig_iscsi_op *op)
{
    struct bmig_iscsi *link = session->link;
    const struct bmig_request *request = bmig_iscsi_request_of(op);
    struct scsi_task *task = build(link, op);
    if (!task)
        return -ENOMEM;
    if (op->method == READ16 || op->method == WRITE16) {
        op->iov = (struct scsi_iovec){request->data, request->length};
    } else if (op->method == UNMAP) {
        fill_unmap(link, op);
        op->iov = (struct scsi_iovec){op->parameters, sizeof op->parameters};
    } else {
        op->iov = (struct scsi_iovec){zero_block, link->facts.block_bytes};
    }
    if (task->xfer_dir == SCSI_XFER_WRITE)
        scsi_task_set_iov_out(task, &op->iov, 1);
    else if (op->method == READ16)
        scsi_task_set_iov_in(task, &op->iov, 1);
    if (iscsi_scsi_command_async(session->context, link->target->lun, task, on_answer, NULL, op) !=
        0) {
        scsi_free_scsi_task(task);
        return -ENOMEM;
    }
    op->covers = link->writes_done;
    op->task = task;
    op->session = session;
    bmig_iscsi_list_append(&session->ops, op);
    session->under_way++;
    return 0;
}
