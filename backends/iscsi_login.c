/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Login: the steps that talk to a target one after the other, on whatever thread may wait for them.
 *
 * The library's asynchronous calls are waited for with poll, so that every step is bounded. A
 * command that was given up on still points into its dialogue; so a dialogue that failed is
 * dropped, context and all, in the frame where it lives, and only a clean one hands its context on.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "backends/iscsi.h"

enum { TRIES = 16, ANSWER_BYTES = 255, PAUSE_MS = 100 };

struct dialogue {
    struct bmig_iscsi_target *target;
    struct iscsi_context *context;
    uint64_t step_ns;
    uint64_t deadline_ns; /* of the step under way */
    bool answered;
    int status;
    struct scsi_task *task;
    char text[256]; /* what the library said when it answered; it says less afterwards */
};

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void on_answer(struct iscsi_context *context, int status, void *data, void *user)
{
    struct dialogue *d = user;
    d->answered = true;
    d->status = status;
    snprintf(d->text, sizeof d->text, "%s", iscsi_get_error(context));
}

/* Serves the context until the step's answer is there. -ETIMEDOUT, or -EIO where the connection is
 * gone. */
static int await(struct dialogue *d)
{
    while (!d->answered) {
        uint64_t now = now_ns();
        if (now >= d->deadline_ns)
            return -ETIMEDOUT;
        struct pollfd fd = {.fd = iscsi_get_fd(d->context)};
        fd.events = (short)iscsi_which_events(d->context);
        uint64_t wait_ms = (d->deadline_ns - now) / 1000000 + 1;
        int rc = poll(&fd, 1, wait_ms > 1000 ? 1000 : (int)wait_ms);
        if (rc < 0 && errno != EINTR)
            return -errno;
        if (rc > 0 && iscsi_service(d->context, fd.revents) < 0 && !d->answered)
            return -EIO;
    }
    return 0;
}

static void begin_step(struct dialogue *d)
{
    d->answered = false;
    d->status = -1;
    snprintf(d->text, sizeof d->text, "the connection was closed");
    d->deadline_ns = now_ns() + d->step_ns;
}

static void free_task(struct dialogue *d)
{
    if (d->task)
        scsi_free_scsi_task(d->task);
    d->task = NULL;
}

/* One command, once. 0: answered, d->status and d->task say how. */
static int command_once(struct dialogue *d, const uint8_t *cdb, int cdb_bytes, int answer_bytes)
{
    uint8_t copy[SCSI_CDB_MAX_SIZE] = {0};
    memcpy(copy, cdb, (size_t)cdb_bytes);
    free_task(d);
    d->task = scsi_create_task(cdb_bytes, copy, answer_bytes ? SCSI_XFER_READ : SCSI_XFER_NONE,
                               answer_bytes);
    if (!d->task)
        return -ENOMEM;
    begin_step(d);
    if (iscsi_scsi_command_async(d->context, d->target->lun, d->task, on_answer, NULL, d) != 0)
        return -EIO;
    return await(d);
}

/* A command, through the unit attentions that wait for a new session, and while the target is busy.
 * 0 with the answer in d->task; -ETIMEDOUT and -EIO where the session is of no more use; else the
 * errno that stands for its refusal, after which the session goes on. */
static int command(struct dialogue *d, const uint8_t *cdb, int cdb_bytes, int answer_bytes)
{
    uint64_t until = now_ns() + d->step_ns;
    for (int try = 0;; try++) {
        int rc = command_once(d, cdb, cdb_bytes, answer_bytes);
        if (rc)
            return rc;
        int code;
        enum bmig_iscsi_verdict verdict = bmig_iscsi_judge(d->status, &d->task->sense, &code);
        /* Every question is asked afresh here, so "it has changed" is no more than a unit
         * attention. */
        bool attention = d->status == SCSI_STATUS_CHECK_CONDITION &&
                         d->task->sense.key == SCSI_SENSE_UNIT_ATTENTION;
        if (verdict == BMIG_ISCSI_DONE)
            return 0;
        if (verdict == BMIG_ISCSI_LOST)
            return -EIO;
        if (verdict == BMIG_ISCSI_LATER && now_ns() < until)
            poll(NULL, 0, PAUSE_MS);
        else if (!(verdict == BMIG_ISCSI_AGAIN || attention) || try >= TRIES)
            return -code;
    }
}

static const uint8_t *answer(const struct dialogue *d)
{
    return d->task->datain.data;
}

static size_t answer_bytes(const struct dialogue *d)
{
    return d->task->datain.data && d->task->datain.size > 0 ? (size_t)d->task->datain.size : 0;
}

static int inquiry(struct dialogue *d, int page)
{
    uint8_t cdb[6] = {SCSI_OPCODE_INQUIRY, page >= 0, page >= 0 ? (uint8_t)page : 0, 0,
                      ANSWER_BYTES,        0};
    return command(d, cdb, sizeof cdb, ANSWER_BYTES);
}

/* ---- the facts ---- */

static int lost(int rc)
{
    return rc == -ETIMEDOUT || rc == -EIO || rc == -ENOMEM ? rc : 0;
}

static int ask_kind(struct dialogue *d, struct bmig_iscsi_facts *facts, struct bmig_error *err)
{
    int rc = inquiry(d, -1);
    if (rc)
        return bmig_error_set(err, BMIG_FAILED, -rc, "INQUIRY: %s", bmig_strerror(-rc));
    if (answer_bytes(d) < 36)
        return bmig_error_set(err, BMIG_FAILED, EPROTO, "INQUIRY: a short answer");
    uint8_t kind = answer(d)[0];
    if (kind >> 5)
        return bmig_error_set(err, BMIG_NOT_FOUND, ENOENT, "the target has no such LUN");
    if ((kind & 0x1f) != SCSI_INQUIRY_PERIPHERAL_DEVICE_TYPE_DIRECT_ACCESS)
        return bmig_error_set(err, BMIG_REFUSED, EMEDIUMTYPE, "the LUN is not a disk (it is a %s)",
                              scsi_devtype_to_str(kind & 0x1f));
    snprintf(facts->vendor, sizeof facts->vendor, "%.8s %.16s", (const char *)answer(d) + 8,
             (const char *)answer(d) + 16);
    for (char *c = facts->vendor; *c; c++)
        if ((unsigned char)*c < ' ' || (unsigned char)*c > '~')
            *c = '?';
    return 0;
}

static int ask_capacity(struct dialogue *d, struct bmig_iscsi_facts *facts, struct bmig_error *err)
{
    uint8_t cdb[16] = {SCSI_OPCODE_SERVICE_ACTION_IN, SCSI_READCAPACITY16, [13] = 32};
    int rc = command(d, cdb, sizeof cdb, 32);
    if (rc)
        return bmig_error_set(err, BMIG_FAILED, -rc, "READ CAPACITY (16): %s", bmig_strerror(-rc));
    if (!bmig_iscsi_parse_capacity16(facts, answer(d), answer_bytes(d)))
        return bmig_error_set(err, BMIG_FAILED, EPROTO, "READ CAPACITY (16): a senseless answer");
    return 0;
}

/* Pages that a LUN may lack: then the fact keeps its cautious default. */
static int ask_pages(struct dialogue *d, struct bmig_iscsi_facts *facts)
{
    int rc = inquiry(d, SCSI_INQUIRY_PAGECODE_BLOCK_LIMITS);
    if (!rc)
        bmig_iscsi_parse_block_limits(facts, answer(d), answer_bytes(d));
    if (!lost(rc) && !(rc = inquiry(d, SCSI_INQUIRY_PAGECODE_BLOCK_DEVICE_CHARACTERISTICS)))
        bmig_iscsi_parse_characteristics(facts, answer(d), answer_bytes(d));
    if (!lost(rc) && facts->thin &&
        !(rc = inquiry(d, SCSI_INQUIRY_PAGECODE_LOGICAL_BLOCK_PROVISIONING)))
        bmig_iscsi_parse_provisioning(facts, answer(d), answer_bytes(d));
    if (lost(rc))
        return rc;
    facts->write_cache = true; /* unless we are told otherwise */
    for (int page = 0x08; page >= 0; page = page ? 0 : -1) {
        uint8_t cdb[6] = {SCSI_OPCODE_MODESENSE6, 0, (uint8_t)(page ? page : 0x3f), 0,
                          ANSWER_BYTES,           0};
        rc = command(d, cdb, sizeof cdb, ANSWER_BYTES);
        if (!rc) {
            bmig_iscsi_parse_mode6(facts, answer(d), answer_bytes(d));
            break;
        }
        if (lost(rc))
            return rc;
    }
    return 0;
}

static int ask_identity(struct dialogue *d, struct bmig_iscsi_facts *facts)
{
    uint8_t page83[ANSWER_BYTES];
    size_t length83 = 0;
    int rc = inquiry(d, SCSI_INQUIRY_PAGECODE_DEVICE_IDENTIFICATION);
    if (lost(rc))
        return rc;
    if (!rc) {
        length83 = answer_bytes(d) < sizeof page83 ? answer_bytes(d) : sizeof page83;
        memcpy(page83, answer(d), length83);
    }
    rc = inquiry(d, SCSI_INQUIRY_PAGECODE_UNIT_SERIAL_NUMBER);
    if (lost(rc))
        return rc;
    char fallback[64];
    snprintf(fallback, sizeof fallback, "%.40s/%u", d->target->name, d->target->lun);
    bmig_iscsi_parse_identity(facts, page83, length83, rc ? NULL : answer(d),
                              rc ? 0 : answer_bytes(d), fallback);
    return 0;
}

/* Whether GET LBA STATUS is known, and whether all is unmapped: the latter by walking the extents
 * as long as they are, and no further than a few. */
static int ask_allocation(struct dialogue *d, struct bmig_iscsi_facts *facts)
{
    if (!facts->thin)
        return 0;
    uint64_t blocks = facts->size_bytes / facts->block_bytes, at = 0;
    for (int i = 0; i < 64 && at < blocks; i++) {
        uint8_t cdb[16] = {SCSI_OPCODE_SERVICE_ACTION_IN, SCSI_GET_LBA_STATUS, [13] = ANSWER_BYTES};
        for (int byte = 0; byte < 8; byte++)
            cdb[2 + byte] = (uint8_t)(at >> (56 - 8 * byte));
        int rc = command(d, cdb, sizeof cdb, ANSWER_BYTES);
        if (rc)
            return lost(rc);
        struct bmig_extent one = {0};
        struct bmig_extents extents = {.list = &one, .capacity = 1};
        if (bmig_iscsi_parse_lba_status(answer(d), answer_bytes(d), at, blocks - at,
                                        facts->block_bytes, facts->zeroes, &extents))
            return 0;
        facts->lba_status = true;
        if (!(one.flags & BMIG_EXTENT_ZERO))
            return 0;
        at += one.length_bytes / facts->block_bytes;
    }
    facts->all_unmapped = at == blocks && facts->zeroes;
    return 0;
}

static int ask_facts(struct dialogue *d, struct bmig_iscsi_facts *facts, struct bmig_error *err)
{
    memset(facts, 0, sizeof *facts);
    int rc = ask_kind(d, facts, err);
    if (!rc)
        rc = ask_capacity(d, facts, err);
    if (rc)
        return rc;
    rc = ask_pages(d, facts);
    if (!rc)
        rc = ask_identity(d, facts);
    if (!rc)
        rc = ask_allocation(d, facts);
    if (rc)
        return bmig_error_set(err, BMIG_FAILED, -rc, "the target stopped answering: %s",
                              bmig_strerror(-rc));
    return 0;
}

/* ---- connect and log in ---- */

/* The number in parentheses that ends the library's texts, or 0: an errno, or a login's status
 * class and detail (RFC 7143 11.13.5). */
static int number_in(const char *text)
{
    const char *paren = strrchr(text, '(');
    return paren ? atoi(paren + 1) : 0;
}

static int login_refused(struct dialogue *d, struct bmig_error *err)
{
    switch (strstr(d->text, "Status: ") ? number_in(d->text) : 0) {
    case 0x0201:
        return bmig_error_set(err, BMIG_DENIED, EACCES,
                              "the target refuses our CHAP user or secret%s",
                              d->target->user[0] ? "" : " (none was given)");
    case 0x0202:
        return bmig_error_set(err, BMIG_DENIED, EACCES,
                              "the target does not admit the initiator '%s'", d->target->initiator);
    case 0x0203:
    case 0x0204:
        return bmig_error_set(err, BMIG_NOT_FOUND, ENOENT, "there is no target '%s'",
                              d->target->name);
    default:
        return bmig_error_set(err, BMIG_FAILED, ECONNABORTED, "the login failed: %s", d->text);
    }
}

static int connect_to(struct dialogue *d, const char *portal, struct bmig_error *err)
{
    begin_step(d);
    if (iscsi_connect_async(d->context, portal, on_answer, d) != 0)
        return bmig_error_set(err, BMIG_FAILED, EHOSTUNREACH, "%s", iscsi_get_error(d->context));
    int rc = await(d);
    if (rc == -ETIMEDOUT)
        return bmig_error_set(err, BMIG_FAILED, ETIMEDOUT, "no answer to the connection");
    if (rc || d->status != SCSI_STATUS_GOOD) {
        int code = number_in(d->text);
        return bmig_error_set(err, BMIG_FAILED, code > 0 && code < 4096 ? code : ECONNREFUSED,
                              "can't connect to %s: %s", portal,
                              code > 0 && code < 4096 ? bmig_strerror(code) : d->text);
    }
    return 0;
}

static int connect_and_log_in(struct dialogue *d, struct bmig_error *err)
{
    char portal[256];
    snprintf(portal, sizeof portal, "%.255s", d->target->portal);
    for (int redirects = 0;; redirects++) {
        int rc = connect_to(d, portal, err);
        if (rc)
            return rc;
        begin_step(d);
        rc = iscsi_login_async(d->context, on_answer, d) != 0 ? -EPROTO : await(d);
        if (rc == -ETIMEDOUT)
            return bmig_error_set(err, BMIG_FAILED, ETIMEDOUT, "no answer to the login");
        if (!rc && d->status == SCSI_STATUS_GOOD)
            return 0;
        if (rc || d->status != SCSI_STATUS_REDIRECT || redirects >= 3)
            return login_refused(d, err);
        snprintf(portal, sizeof portal, "%s", iscsi_get_target_address(d->context));
        iscsi_disconnect(d->context);
    }
}

static int wait_until_ready(struct dialogue *d, struct bmig_error *err)
{
    static const uint8_t cdb[6] = {SCSI_OPCODE_TESTUNITREADY};
    int rc = command(d, cdb, sizeof cdb, 0);
    if (rc == -ENXIO)
        return bmig_error_set(err, BMIG_NOT_FOUND, ENOENT, "the target has no such LUN");
    if (rc == -EBUSY)
        return bmig_error_set(err, BMIG_DENIED, EBUSY, "another host has reserved the LUN");
    if (rc)
        return bmig_error_set(err, BMIG_FAILED, -rc, "the LUN is not ready: %s",
                              bmig_strerror(-rc));
    return 0;
}

static int prepare(struct dialogue *d, unsigned index)
{
    struct bmig_iscsi_target *target = d->target;
    d->context = iscsi_create_context(target->initiator);
    if (!d->context)
        return -ENOMEM;
    /* On its own the library would log in again and repeat the WRITEs, for ever and with another
     * ISID, so that the old session's commands could still come after the new one's. */
    iscsi_set_noautoreconnect(d->context, 1);
    iscsi_set_isid_random(d->context, target->isid, (uint32_t)target->slots[index]);
    iscsi_set_session_type(d->context, ISCSI_SESSION_NORMAL);
    iscsi_set_targetname(d->context, target->name);
    iscsi_set_header_digest(d->context, target->header_digest);
    iscsi_set_tcp_user_timeout(d->context, (int)(target->timeout_ns / 1000000));
    if (target->user[0])
        iscsi_set_initiator_username_pwd(d->context, target->user, target->secret);
    return 0;
}

int bmig_iscsi_login(struct bmig_iscsi_target *target, unsigned index, uint64_t step_ns,
                     struct iscsi_context **context, struct bmig_iscsi_facts *facts,
                     struct bmig_error *err)
{
    *context = NULL;
    struct dialogue d = {.target = target, .step_ns = step_ns};
    if (prepare(&d, index) != 0)
        return bmig_error_set(err, BMIG_FAILED, ENOMEM, "no memory for a session");
    int rc = connect_and_log_in(&d, err);
    if (!rc && !facts)
        rc = wait_until_ready(&d, err);
    if (!rc && facts) {
        /* The kind first: what is no disk may never be ready. */
        struct bmig_iscsi_facts kind = {0};
        rc = ask_kind(&d, &kind, err);
        if (!rc)
            rc = wait_until_ready(&d, err);
        if (!rc)
            rc = ask_facts(&d, facts, err);
    }
    if (rc)
        bmig_iscsi_drop(d.context);
    else
        *context = d.context;
    free_task(&d);
    return rc;
}

void bmig_iscsi_logout(struct iscsi_context *context, uint64_t step_ns)
{
    if (!context)
        return;
    struct dialogue d = {.context = context, .step_ns = step_ns};
    begin_step(&d);
    if (iscsi_is_logged_in(context) && iscsi_logout_async(context, on_answer, &d) == 0)
        await(&d);
    iscsi_destroy_context(context);
}

void bmig_iscsi_drop(struct iscsi_context *context)
{
    if (!context)
        return;
    /* An abortive close: what the kernel still holds of our writes is not sent any more. */
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    int fd = iscsi_get_fd(context);
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    iscsi_destroy_context(context);
}
