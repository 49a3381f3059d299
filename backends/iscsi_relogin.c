/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Logging in again: all sessions of a lost link, on a helper thread, for the link to take over.
 *
 * The job owns all that it uses, for the disk may be detached and closed before it ends: then its
 * result is dropped, and with its reference to the target the ISIDs become free.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#include "backends/iscsi.h"

struct bmig_iscsi_relogin {
    struct bmig_work work;
    struct bmig_iscsi *link; /* NULL: nobody waits any more */
    struct bmig_iscsi_target *target;
    uint64_t step_ns;
    struct iscsi_context *contexts[BMIG_ISCSI_MAX_SESSIONS];
    struct bmig_iscsi_facts facts;
    int status;
    struct bmig_error err;
};

static struct bmig_iscsi_relogin *relogin_of(struct bmig_work *work)
{
    return (struct bmig_iscsi_relogin *)((char *)work - offsetof(struct bmig_iscsi_relogin, work));
}

static void drop_all(struct bmig_iscsi_relogin *relogin)
{
    for (unsigned i = 0; i < relogin->target->session_count; i++) {
        bmig_iscsi_drop(relogin->contexts[i]);
        relogin->contexts[i] = NULL;
    }
}

static void run(struct bmig_work *work)
{
    struct bmig_iscsi_relogin *relogin = relogin_of(work);
    for (unsigned i = 0; i < relogin->target->session_count && relogin->status == 0; i++)
        relogin->status =
            bmig_iscsi_login(relogin->target, i, relogin->step_ns, &relogin->contexts[i],
                             i == 0 ? &relogin->facts : NULL, &relogin->err);
    if (relogin->status)
        drop_all(relogin);
}

static void done(struct bmig_work *work)
{
    struct bmig_iscsi_relogin *relogin = relogin_of(work);
    struct bmig_iscsi *link = relogin->link;
    if (link) {
        link->relogin = NULL;
        bmig_iscsi_link_logged_in(link, relogin->status, relogin->contexts, &relogin->facts,
                                  relogin->err.message);
    }
    drop_all(relogin);
    bmig_iscsi_target_unref(relogin->target);
    free(relogin);
}

int bmig_iscsi_relogin_start(struct bmig_iscsi *link, uint64_t step_ns)
{
    struct bmig_iscsi_relogin *relogin = calloc(1, sizeof *relogin);
    if (!relogin)
        return -ENOMEM;
    relogin->work.run = run;
    relogin->work.done = done;
    relogin->link = link;
    relogin->target = bmig_iscsi_target_ref(link->target);
    relogin->step_ns = step_ns;
    link->relogin = relogin;
    bmig_loop_work(link->disk->loop, &relogin->work);
    return 0;
}

void bmig_iscsi_relogin_abandon(struct bmig_iscsi *link)
{
    if (link->relogin)
        link->relogin->link = NULL;
    link->relogin = NULL;
}
