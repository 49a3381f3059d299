/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The loop's doors for io and watches: they count what is under way and hand it to the kind.
 */
#include <assert.h>

#include "blockmig/core/loop_internal.h"

void bmig_io_list_put(struct bmig_io_list *list, struct bmig_io *io)
{
    io->next = NULL;
    if (list->last)
        list->last->next = io;
    else
        list->first = io;
    list->last = io;
}

struct bmig_io *bmig_io_list_take(struct bmig_io_list *list)
{
    struct bmig_io *io = list->first;
    if (io)
        list->first = io->next;
    if (!list->first)
        list->last = NULL;
    return io;
}

void bmig_io_list_remove(struct bmig_io_list *list, struct bmig_io *io)
{
    struct bmig_io *previous = NULL;
    for (struct bmig_io *at = list->first; at != io; at = at->next) {
        assert(at);
        previous = at;
    }
    if (previous)
        previous->next = io->next;
    else
        list->first = io->next;
    if (list->last == io)
        list->last = previous;
}

void bmig_loop_io(struct bmig_loop *loop, struct bmig_io *io)
{
    io->loop = loop;
    loop->io_count++;
    loop->ops->io(loop, io);
}

void bmig_loop_io_cancel(struct bmig_loop *loop, struct bmig_io *io)
{
    loop->ops->io_cancel(loop, io);
}

void bmig_loop_finish(struct bmig_io *io, int result)
{
    struct bmig_loop *loop = io->loop;
    loop->io_count--;
    loop->ran++;
    io->done(io, result);
}

void bmig_loop_finish_later(struct bmig_io *io, int result)
{
    io->result = result;
    bmig_io_list_put(&io->loop->finished, io);
}

void bmig_loop_finish_all(struct bmig_loop *loop)
{
    struct bmig_io *last = loop->finished.last, *io;
    if (!last)
        return;
    do {
        io = bmig_io_list_take(&loop->finished);
        bmig_loop_finish(io, io->result);
    } while (io != last);
}

int bmig_watch_start(struct bmig_loop *loop, struct bmig_watch *watch, int fd, int events)
{
    watch->loop = loop;
    watch->fd = fd;
    watch->events = events;
    watch->armed = 0;
    watch->impl = NULL;
    int ret = loop->ops->watch_start(watch);
    if (ret == 0)
        loop->watch_count++;
    else
        watch->loop = NULL;
    return ret;
}

void bmig_watch_set(struct bmig_watch *watch, int events)
{
    if (watch->events == events)
        return;
    watch->events = events;
    watch->loop->ops->watch_changed(watch);
}

void bmig_watch_stop(struct bmig_watch *watch)
{
    if (!watch->loop)
        return;
    watch->loop->ops->watch_stop(watch);
    watch->loop->watch_count--;
    watch->loop = NULL;
}

void bmig_loop_ready(struct bmig_watch *watch, int revents)
{
    watch->loop->ran++;
    watch->ready(watch, revents);
}

void bmig_loop_set_buffers(struct bmig_loop *loop, void *base, size_t length)
{
    if (loop->ops->set_buffers)
        loop->ops->set_buffers(loop, base, length);
}
