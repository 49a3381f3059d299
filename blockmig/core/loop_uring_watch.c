/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Watches on io_uring.
 *
 * The kernel's one-shot polls are armed again before each wait for what the watch then wants: one
 * poll per direction, so that adding and dropping POLLOUT, which libraries do all the time, cancels
 * nothing.
 *
 * A struct poll stays until no completion can name it: not armed, stopped, and on no list.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "blockmig/core/loop_uring.h"

static void look_at(struct uring_loop *uring, struct poll *poll)
{
    if (poll->changed)
        return;
    poll->changed = true;
    poll->next_changed = uring->first_changed;
    uring->first_changed = poll;
}

int bmig_uring_watch_start(struct bmig_watch *watch)
{
    struct uring_loop *uring = bmig_uring_of(watch->loop);
    if (fcntl(watch->fd, F_GETFD) < 0)
        return -errno;
    struct poll *poll = uring->free_polls;
    if (poll)
        uring->free_polls = poll->next_ready;
    else
        poll = malloc(sizeof(*poll));
    if (!poll)
        return -ENOMEM;
    *poll = (struct poll){.watch = watch, .fd = watch->fd};
    watch->impl = poll;
    look_at(uring, poll);
    return 0;
}

void bmig_uring_watch_changed(struct bmig_watch *watch)
{
    look_at(bmig_uring_of(watch->loop), watch->impl);
}

void bmig_uring_watch_stop(struct bmig_watch *watch)
{
    struct poll *poll = watch->impl;
    poll->watch = NULL;
    watch->impl = NULL;
    look_at(bmig_uring_of(watch->loop), poll);
}

static void give_back(struct uring_loop *uring, struct poll *poll)
{
    if (poll->watch || poll->changed || poll->ready || poll->armed[READ] || poll->armed[WRITE])
        return;
    poll->next_ready = uring->free_polls;
    uring->free_polls = poll;
}

/* Brings one direction to what is wanted; false where the submission queue is full. */
static bool arm_direction(struct uring_loop *uring, struct poll *poll, int direction)
{
    int event = direction == READ ? BMIG_WATCH_READ : BMIG_WATCH_WRITE;
    unsigned tag = direction == READ ? TAG_READ_POLL : TAG_WRITE_POLL;
    bool add = poll->watch && poll->watch->events & event && !poll->armed[direction];
    bool remove = !poll->watch && poll->armed[direction] && !poll->removing[direction];
    if (!add && !remove)
        return true;
    struct io_uring_sqe *sqe = bmig_uring_sqe(uring);
    if (!sqe)
        return false;
    if (add) {
        io_uring_prep_poll_add(sqe, poll->fd, (unsigned)event);
        sqe->user_data = bmig_uring_data(poll, tag);
        poll->armed[direction] = true;
        uring->polls_out++;
    } else {
        io_uring_prep_poll_remove(sqe, bmig_uring_data(poll, tag));
        sqe->user_data = TAG_NOTHING;
        poll->removing[direction] = true;
    }
    return true;
}

void bmig_uring_arm_changed(struct uring_loop *uring)
{
    while (uring->first_changed) {
        struct poll *poll = uring->first_changed;
        for (int direction = 0; direction < DIRECTIONS; direction++)
            if (!arm_direction(uring, poll, direction))
                return;
        uring->first_changed = poll->next_changed;
        poll->changed = false;
        give_back(uring, poll);
    }
}

void bmig_uring_complete_poll(struct uring_loop *uring, struct poll *poll, int direction,
                              int result)
{
    uring->polls_out--;
    poll->armed[direction] = false;
    poll->removing[direction] = false;
    if (!poll->watch) {
        give_back(uring, poll);
        return;
    }
    look_at(uring, poll);
    if (result >= 0)
        poll->revents |= result;
    else if (result != -ECANCELED)
        poll->revents |= POLLERR | POLLNVAL;
    if (poll->ready)
        return;
    poll->ready = true;
    poll->next_ready = NULL;
    *uring->last_ready = poll;
    uring->last_ready = &poll->next_ready;
}

/* After all completions are looked at, so that both directions make one callback. */
void bmig_uring_run_ready(struct uring_loop *uring)
{
    struct poll *poll;
    while ((poll = uring->first_ready)) {
        uring->first_ready = poll->next_ready;
        if (!uring->first_ready)
            uring->last_ready = &uring->first_ready;
        poll->ready = false;
        int events = poll->watch ? poll->watch->events : 0;
        int revents = poll->revents & (events | POLLERR | POLLHUP | POLLNVAL);
        poll->revents = 0;
        if (events && revents)
            bmig_loop_ready(poll->watch, revents);
        else
            give_back(uring, poll);
    }
}

void bmig_uring_free_polls(struct uring_loop *uring)
{
    while (uring->first_changed) {
        struct poll *poll = uring->first_changed;
        uring->first_changed = poll->next_changed;
        poll->changed = false;
        give_back(uring, poll);
    }
    while (uring->free_polls) {
        struct poll *poll = uring->free_polls;
        uring->free_polls = poll->next_ready;
        free(poll);
    }
}
