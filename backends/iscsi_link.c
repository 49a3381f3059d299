/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The link: a LUN's sessions on the loop, as one thing that is up or down.
 *
 *   UP --loss--> DOWN --login, and it is the LUN it was--> UP
 *                  \--login, and it is another LUN or size--> DEAD
 *
 * Loss is any session's: a closed connection, an answer out of step, silence, or a command that is
 * unanswered at its request's deadline. All sessions are then dropped together, and all are logged
 * in again, with the ISIDs they had, before anything is sent: the target ends an old session's
 * tasks when its ISID logs in again (RFC 7143 6.3.5), so what is sent afterwards can't be overtaken
 * by what was sent before.
 *
 * Every request is answered within the time-out from its start: those not answered at their
 * deadline get -ETIMEDOUT, whatever the link does. Once the link has been down for that long, new
 * ones get it at once, while logins are tried every two seconds for as long as the disk is
 * attached.
 *
 * A target that crashed may have lost writes that it answered and that were not flushed. A login
 * can't tell: targets report a reset for every new session. So after a loss the next FLUSH fails,
 * if any of those writes was REPLAYABLE, which means that somebody will do them again; for the rest
 * we do as every initiator does.
 */
#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "backends/iscsi.h"
#include "blockmig/core/log.h"

#define container(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))

static const uint64_t MS = 1000000;

enum {
    BACKOFF_FIRST_MS = 100,
    BACKOFF_MOST_MS = 2000,
    RETRY_MS = 20,
    FENCE_MS = 2000,
    STEP_MS = 10000,
    SETUP_MS = 1000
};

static void lose(struct bmig_iscsi *link, const char *why);
static void start_login(struct bmig_iscsi *link);

static uint64_t now_ns(const struct bmig_iscsi *link)
{
    return bmig_loop_now_ns(link->disk->loop);
}

/* ---- sending ---- */

static struct bmig_iscsi_session *least_busy(struct bmig_iscsi *link)
{
    struct bmig_iscsi_session *best = NULL;
    for (unsigned i = 0; i < link->session_count; i++) {
        struct bmig_iscsi_session *session = &link->sessions[i];
        if (session->under_way < BMIG_ISCSI_DEPTH &&
            (!best || session->under_way < best->under_way))
            best = session;
    }
    return best;
}

/* Lets the library write what it can at once: waiting for the loop to find the socket writable
 * first would cost every command a turn. */
static bool flush_out(struct bmig_iscsi_session *session)
{
    if (iscsi_which_events(session->context) & BMIG_WATCH_WRITE &&
        iscsi_service(session->context, BMIG_WATCH_WRITE) < 0)
        session->lost = "the connection broke";
    if (session->lost)
        return false;
    bmig_watch_set(&session->watch, iscsi_which_events(session->context));
    return true;
}

static int refusal(const struct bmig_iscsi *link)
{
    if (link->fencing)
        return -ECANCELED;
    if (link->state == BMIG_ISCSI_DEAD)
        return -EIO;
    if (link->state == BMIG_ISCSI_DOWN &&
        now_ns(link) - link->down_since_ns >= link->target->timeout_ns)
        return -ETIMEDOUT;
    return 0;
}

/* Not from inside a callback of the library: it may end the context. */
static void pump(struct bmig_iscsi *link)
{
    struct bmig_iscsi_session *session = NULL;
    while (!bmig_iscsi_list_empty(&link->waiting)) {
        int status = refusal(link);
        if (status == 0 && (link->state != BMIG_ISCSI_UP || !(session = least_busy(link))))
            break;
        struct bmig_iscsi_op *op = link->waiting.next;
        bmig_iscsi_list_remove(op);
        if (status == 0)
            status = bmig_iscsi_op_issue(session, op);
        if (status)
            bmig_iscsi_op_finish(op, status);
    }
    for (unsigned i = 0; link->state == BMIG_ISCSI_UP && i < link->session_count; i++)
        if (!flush_out(&link->sessions[i]))
            lose(link, link->sessions[i].lost);
}

static void on_kick(struct bmig_task *task)
{
    pump(container(task, struct bmig_iscsi, kick));
}

void bmig_iscsi_link_send(struct bmig_iscsi *link, struct bmig_iscsi_op *op)
{
    bmig_iscsi_list_append(&link->waiting, op);
    bmig_loop_defer(link->disk->loop, &link->kick);
}

void bmig_iscsi_link_send_later(struct bmig_iscsi *link, struct bmig_iscsi_op *op)
{
    bmig_iscsi_list_append(&link->delayed, op);
    /* One pause for all of them; what comes while it runs waits with the rest. It grows with the
     * tries. */
    if (!bmig_timer_started(&link->retry))
        bmig_timer_start(link->disk->loop, &link->retry, RETRY_MS * MS * (1 + op->tries));
}

static void on_retry(struct bmig_timer *timer)
{
    struct bmig_iscsi *link = container(timer, struct bmig_iscsi, retry);
    while (!bmig_iscsi_list_empty(&link->delayed)) {
        struct bmig_iscsi_op *op = link->delayed.next;
        bmig_iscsi_list_remove(op);
        bmig_iscsi_list_append(&link->waiting, op);
    }
    pump(link);
}

/* ---- the end of ops that nobody will answer ---- */

static void fail_list(struct bmig_iscsi_list *list, int status)
{
    while (!bmig_iscsi_list_empty(list)) {
        struct bmig_iscsi_op *op = list->next;
        bmig_iscsi_list_remove(op);
        bmig_iscsi_op_finish(op, status);
    }
}

static void fail_unsent(struct bmig_iscsi *link, int status)
{
    fail_list(&link->waiting, status);
    fail_list(&link->delayed, status);
}

static void expire(struct bmig_iscsi_list *list, uint64_t now)
{
    struct bmig_iscsi_op *next;
    for (struct bmig_iscsi_op *op = list->next; op != (struct bmig_iscsi_op *)list; op = next) {
        next = op->next;
        if (now < op->deadline_ns)
            continue;
        bmig_iscsi_list_remove(op);
        bmig_iscsi_op_finish(op, -ETIMEDOUT);
    }
}

static unsigned under_way(const struct bmig_iscsi *link)
{
    unsigned count = 0;
    for (unsigned i = 0; i < link->session_count; i++)
        count += link->sessions[i].under_way;
    return count;
}

/* ---- fencing ---- */

/* Fenced is: nothing under way, and nothing that was can still be carried out. While the link is
 * up, what is under way is waited for, for a while. After a loss with writes under way only a login
 * does it. */
static void check_fence(struct bmig_iscsi *link)
{
    if (!link->fencing || link->disk->fenced)
        return;
    uint64_t now = now_ns(link);
    if (link->state == BMIG_ISCSI_UP && under_way(link) > 0) {
        if (now >= link->fence_until_ns)
            lose(link, "a fence had to be made");
        return;
    }
    if (link->state == BMIG_ISCSI_DOWN && link->ghosts) {
        if (now - link->down_since_ns < link->target->timeout_ns)
            return;
        bmig_log(BMIG_LOG_WARNING,
                 "%s: can't be reached to fence it; a write it holds may still be carried out "
                 "until it is "
                 "opened again",
                 link->disk->name);
    }
    bmig_disk_fenced(link->disk);
}

void bmig_iscsi_link_fence(struct bmig_iscsi *link)
{
    uint64_t quarter = link->target->timeout_ns / 4;
    link->fencing = true;
    link->fence_until_ns = now_ns(link) + (quarter < FENCE_MS * MS ? quarter : FENCE_MS * MS);
    fail_unsent(link, -ECANCELED);
    check_fence(link);
}

/* ---- loss ---- */

/* Takes a session down. Its unanswered ops go to the head of what waits, in their order. */
static void drop_session(struct bmig_iscsi *link, struct bmig_iscsi_session *session)
{
    if (session->watching)
        bmig_watch_stop(&session->watch);
    session->watching = false;
    /* Calls back what is under way: nothing but on_answer's mark, for the library says CANCELLED.
     */
    bmig_iscsi_drop(session->context);
    session->context = NULL;
    while (!bmig_iscsi_list_empty(&session->ops)) {
        struct bmig_iscsi_op *op = session->ops.prev;
        bmig_iscsi_list_remove(op);
        scsi_free_scsi_task(op->task);
        op->task = NULL;
        op->session = NULL;
        link->ghosts |= bmig_iscsi_op_writes(op);
        bmig_iscsi_list_prepend(&link->waiting, op);
    }
    session->under_way = 0;
    session->lost = NULL;
    session->pinged_ns = 0;
}

static void lose(struct bmig_iscsi *link, const char *why)
{
    assert(link->state == BMIG_ISCSI_UP);
    bmig_log(BMIG_LOG_WARNING, "%s: the connection is lost (%s); logging in again",
             link->disk->name, why);
    link->lost_count++;
    link->state = BMIG_ISCSI_DOWN;
    link->down_since_ns = now_ns(link);
    for (unsigned i = 0; i < link->session_count; i++)
        drop_session(link, &link->sessions[i]);
    if (link->facts.write_cache && link->last_replayable > link->writes_flushed)
        link->cache_doubt = true;
    if (link->fencing)
        fail_unsent(link, -ECANCELED);
    expire(&link->waiting, link->down_since_ns);
    link->backoff_ns = BACKOFF_FIRST_MS * MS;
    start_login(link);
}

static void on_ready(struct bmig_watch *watch, int revents)
{
    struct bmig_iscsi_session *session = container(watch, struct bmig_iscsi_session, watch);
    struct bmig_iscsi *link = session->link;
    int rc = iscsi_service(session->context, revents);
    if (rc < 0 || session->lost) {
        lose(link, session->lost ? session->lost : "the connection broke");
    } else {
        if (revents & BMIG_WATCH_READ) {
            session->heard_ns = now_ns(link);
            session->pinged_ns = 0;
        }
        pump(link);
    }
    check_fence(link);
}

/* ---- logging in again ---- */

/* What must be as it was; else what the upper layers believe of this disk is wrong. */
static const char *changed(const struct bmig_iscsi_facts *was, const struct bmig_iscsi_facts *is)
{
    if (strcmp(was->identity, is->identity) != 0)
        return "another LUN is there now";
    if (was->size_bytes != is->size_bytes || was->block_bytes != is->block_bytes)
        return "it was resized";
    return NULL;
}

static void die(struct bmig_iscsi *link, const char *why)
{
    bmig_log(BMIG_LOG_ERROR, "%s: %s; every request fails until it is opened again",
             link->disk->name, why);
    link->state = BMIG_ISCSI_DEAD;
    fail_unsent(link, -EIO);
}

static int begin_session(struct bmig_iscsi *link, unsigned index, struct iscsi_context *context)
{
    struct bmig_iscsi_session *session = &link->sessions[index];
    session->context = context;
    session->heard_ns = now_ns(link);
    session->pinged_ns = 0;
    session->watch.ready = on_ready;
    int rc = bmig_watch_start(link->disk->loop, &session->watch, iscsi_get_fd(context),
                              iscsi_which_events(context));
    session->watching = rc == 0;
    return rc;
}

/* Takes the contexts of a login that came through. */
static void come_up(struct bmig_iscsi *link, struct iscsi_context **contexts)
{
    bool watched = true;
    for (unsigned i = 0; i < link->session_count; i++) {
        if (watched)
            watched = begin_session(link, i, contexts[i]) == 0;
        if (!watched)
            link->sessions[i].context = contexts[i];
        contexts[i] = NULL;
    }
    if (!watched) {
        for (unsigned i = 0; i < link->session_count; i++)
            drop_session(link, &link->sessions[i]);
        die(link, "the loop takes no more descriptors");
        return;
    }
    bmig_log(BMIG_LOG_NOTICE, "%s: connected again after %llu ms", link->disk->name,
             (unsigned long long)((now_ns(link) - link->down_since_ns) / MS));
    link->state = BMIG_ISCSI_UP;
    pump(link);
}

static void try_again(struct bmig_iscsi *link)
{
    bmig_timer_start(link->disk->loop, &link->backoff, link->backoff_ns);
    link->backoff_ns *= 2;
    if (link->backoff_ns > BACKOFF_MOST_MS * MS)
        link->backoff_ns = BACKOFF_MOST_MS * MS;
}

void bmig_iscsi_link_logged_in(struct bmig_iscsi *link, int status, struct iscsi_context **contexts,
                               const struct bmig_iscsi_facts *facts, const char *why)
{
    if (status == 0) {
        link->ghosts = false; /* whatever the old sessions still had to do, they are dead now */
        why = changed(&link->facts, facts);
    }
    /* A target that is being set up may show a LUN before the LUN has its own name. */
    uint64_t down = now_ns(link) - link->down_since_ns;
    if (status == 0 && !why) {
        come_up(link, contexts);
    } else if (status == 0 && (down >= SETUP_MS * MS || down >= link->target->timeout_ns / 4)) {
        die(link, why);
    } else {
        bmig_log(BMIG_LOG_DEBUG, "%s: %s", link->disk->name, why);
        try_again(link);
    }
    check_fence(link);
}

static void start_login(struct bmig_iscsi *link)
{
    uint64_t half = link->target->timeout_ns / 2;
    if (bmig_iscsi_relogin_start(link, half < STEP_MS * MS ? half : STEP_MS * MS) != 0)
        bmig_timer_start(link->disk->loop, &link->backoff, BACKOFF_MOST_MS * MS);
}

static void on_backoff(struct bmig_timer *timer)
{
    start_login(container(timer, struct bmig_iscsi, backoff));
}

/* ---- time ---- */

/* A session that has said nothing for a quarter of the time-out is asked, and lost if it says
 * nothing for another quarter. */
static const char *listen_to(struct bmig_iscsi_session *session, uint64_t now, uint64_t timeout)
{
    if (session->pinged_ns && now - session->pinged_ns >= timeout / 4)
        return "the target is silent";
    if (!session->pinged_ns && now - session->heard_ns >= timeout / 4) {
        if (iscsi_nop_out_async(session->context, NULL, NULL, 0, NULL) != 0)
            return "no memory";
        session->pinged_ns = now;
    }
    /* In the order of their sending, but for those sent again. */
    for (struct bmig_iscsi_op *op = session->ops.next; op != (struct bmig_iscsi_op *)&session->ops;
         op = op->next)
        if (now >= op->deadline_ns)
            return "a command is not answered";
    return NULL;
}

static void shift(struct bmig_iscsi_list *list, uint64_t late_ns)
{
    for (struct bmig_iscsi_op *op = list->next; op != (struct bmig_iscsi_op *)list; op = op->next)
        op->deadline_ns += late_ns;
}

static uint64_t later(uint64_t then, uint64_t late_ns, uint64_t now)
{
    return then + late_ns < now ? then + late_ns : now;
}

/* We did not run for a while (stopped, or starved): the answers may be there, only not read yet.
 * The time that was ours is not held against the target. */
static void forgive(struct bmig_iscsi *link, uint64_t late_ns, uint64_t now)
{
    shift(&link->waiting, late_ns);
    shift(&link->delayed, late_ns);
    link->down_since_ns = later(link->down_since_ns, late_ns, now);
    for (unsigned i = 0; i < link->session_count; i++) {
        struct bmig_iscsi_session *session = &link->sessions[i];
        shift(&session->ops, late_ns);
        session->heard_ns = later(session->heard_ns, late_ns, now);
        if (session->pinged_ns)
            session->pinged_ns = later(session->pinged_ns, late_ns, now);
    }
}

static void on_tick(struct bmig_timer *timer)
{
    struct bmig_iscsi *link = container(timer, struct bmig_iscsi, tick);
    uint64_t now = now_ns(link), timeout = link->target->timeout_ns;
    uint64_t period = timeout / 16 < 1000 * MS ? timeout / 16 : 1000 * MS;
    if (link->tick_due_ns && now > link->tick_due_ns + timeout / 8)
        forgive(link, now - link->tick_due_ns, now);
    link->tick_due_ns = now + period;
    bmig_timer_start(link->disk->loop, timer, period);
    for (unsigned i = 0; link->state == BMIG_ISCSI_UP && i < link->session_count; i++) {
        const char *why = listen_to(&link->sessions[i], now, timeout);
        if (why)
            lose(link, why);
    }
    expire(&link->waiting, now);
    expire(&link->delayed, now);
    pump(link); /* the pings */
    check_fence(link);
}

/* ---- life ---- */

int bmig_iscsi_link_attach(struct bmig_iscsi *link)
{
    link->kick.run = on_kick;
    link->tick.fire = on_tick;
    link->retry.fire = on_retry;
    link->backoff.fire = on_backoff;
    bmig_iscsi_list_init(&link->waiting);
    bmig_iscsi_list_init(&link->delayed);
    link->state = BMIG_ISCSI_UP;
    for (unsigned i = 0; i < link->session_count; i++) {
        bmig_iscsi_list_init(&link->sessions[i].ops);
        link->sessions[i].link = link;
    }
    for (unsigned i = 0; i < link->session_count; i++) {
        struct iscsi_context *context = link->sessions[i].context;
        int rc = context ? begin_session(link, i, context) : 0;
        if (rc) {
            bmig_iscsi_link_detach(link);
            return rc;
        }
        /* Detached while it was down. */
        if (!context && link->state == BMIG_ISCSI_UP)
            lose(link, "it was lost before");
    }
    on_tick(&link->tick);
    return 0;
}

void bmig_iscsi_link_detach(struct bmig_iscsi *link)
{
    assert(!link->kick.queued);
    bmig_timer_stop(&link->tick);
    link->tick_due_ns = 0;
    bmig_timer_stop(&link->retry);
    bmig_timer_stop(&link->backoff);
    for (unsigned i = 0; i < link->session_count; i++) {
        struct bmig_iscsi_session *session = &link->sessions[i];
        assert(session->under_way == 0);
        if (session->watching)
            bmig_watch_stop(&session->watch);
        session->watching = false;
    }
    bmig_iscsi_relogin_abandon(link);
    link->state = BMIG_ISCSI_IDLE;
}
