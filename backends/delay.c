/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The delay filter: requests, or with `late` their answers, wait for a timer or for their release.
 *
 * Invariant: a request that waits is in exactly one list, `hanging` or `timed`; one that is in
 * neither is with the disk below.
 */
#include "backends/delay.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "backends/backends.h"
#include "blockmig/core/units.h"

/* In request->driver while it waits. */
struct waiting {
    struct bmig_timer timer; /* first */
    struct bmig_disk *disk;
    struct bmig_request *request;
    struct waiting *prev, *next;
    struct list *list;
    int status;   /* of what was done already */
    bool is_done; /* only the answer waits */
};
_Static_assert(sizeof(struct waiting) <= BMIG_REQUEST_DRIVER_BYTES, "fits into a request");

struct list {
    struct waiting *head, *tail;
    uint32_t count;
};

struct delay {
    uint64_t delay_ns[BMIG_OP_COUNT];
    uint64_t jitter_ns[BMIG_OP_COUNT];
    uint64_t bytes_per_s;
    uint64_t line_free_ns; /* when the bytes passed so far are through */
    uint64_t random;
    uint32_t hang_ops;
    bool late;
    struct list hanging, timed;
};

static void list_add(struct list *list, struct waiting *waiting)
{
    waiting->list = list;
    waiting->next = NULL;
    waiting->prev = list->tail;
    *(list->tail ? &list->tail->next : &list->head) = waiting;
    list->tail = waiting;
    list->count++;
}

static void list_remove(struct waiting *waiting)
{
    struct list *list = waiting->list;
    *(waiting->prev ? &waiting->prev->next : &list->head) = waiting->next;
    *(waiting->next ? &waiting->next->prev : &list->tail) = waiting->prev;
    list->count--;
}

/* The wait is over: the request goes down, or its answer up. */
static void go(struct waiting *waiting)
{
    struct bmig_request *request = waiting->request;
    list_remove(waiting);
    if (waiting->is_done)
        bmig_disk_complete(request, waiting->status);
    else
        bmig_disk_forward(waiting->disk, request, request->offset);
}

static void timer_fired(struct bmig_timer *timer)
{
    go((struct waiting *)timer);
}

/* How long request is to wait from now. */
static uint64_t latency_ns(struct bmig_disk *disk, const struct bmig_request *request)
{
    struct delay *delay = disk->state;
    uint64_t ns = delay->delay_ns[request->op];
    uint64_t jitter_ns = delay->jitter_ns[request->op];
    if (jitter_ns)
        ns += bmig_filter_random(&delay->random) % (jitter_ns + 1);
    if (delay->bytes_per_s && (request->op == BMIG_READ || request->op == BMIG_WRITE)) {
        uint64_t now_ns = bmig_loop_now_ns(disk->loop);
        uint64_t start_ns = delay->line_free_ns > now_ns ? delay->line_free_ns : now_ns;
        double through_ns = (double)request->length * 1e9 / (double)delay->bytes_per_s;
        delay->line_free_ns = start_ns + (uint64_t)through_ns;
        ns += delay->line_free_ns - now_ns;
    }
    return ns;
}

static void wait_turn(struct bmig_disk *disk, struct bmig_request *request, bool is_done,
                      int status)
{
    struct delay *delay = disk->state;
    struct waiting *waiting = (struct waiting *)request->driver;
    *waiting = (struct waiting){.timer.fire = timer_fired,
                                .disk = disk,
                                .request = request,
                                .is_done = is_done,
                                .status = status};
    if (delay->hang_ops & 1u << request->op) {
        list_add(&delay->hanging, waiting);
        return;
    }
    uint64_t ns = latency_ns(disk, request);
    list_add(&delay->timed, waiting);
    if (ns)
        bmig_timer_start(disk->loop, &waiting->timer, ns);
    else
        go(waiting);
}

static void late_done(struct bmig_request *below, int status)
{
    struct bmig_filter_child *child = (struct bmig_filter_child *)below;
    struct bmig_disk *disk = child->disk;
    struct bmig_request *above = child->above;
    bmig_filter_child_free(child);
    if (disk->fencing)
        bmig_disk_complete(above, status);
    else
        wait_turn(disk, above, true, status);
}

static void delay_submit(struct bmig_disk *disk, struct bmig_request *request)
{
    struct delay *delay = disk->state;
    if (!delay->late) {
        wait_turn(disk, request, false, 0);
        return;
    }
    struct bmig_filter_child *child = bmig_filter_child_new(disk, request, late_done);
    if (child)
        bmig_disk_submit(disk->next, &child->below);
    else
        bmig_disk_complete(request, -ENOMEM);
}

static void cancel_all(struct list *list)
{
    while (list->head) {
        struct waiting *waiting = list->head;
        list_remove(waiting);
        bmig_timer_stop(&waiting->timer);
        bmig_disk_complete(waiting->request, -ECANCELED);
    }
}

static void delay_fence(struct bmig_disk *disk)
{
    struct delay *delay = disk->state;
    cancel_all(&delay->hanging);
    cancel_all(&delay->timed);
    bmig_disk_fenced(disk);
}

struct bmig_disk *bmig_delay_find(struct bmig_disk *disk)
{
    return bmig_filter_at(disk, &bmig_delay_driver);
}

void bmig_delay_set(struct bmig_disk *filter, uint32_t ops, uint64_t delay_ns, uint64_t jitter_ns)
{
    struct delay *delay = filter->state;
    for (unsigned op = 0; op < BMIG_OP_COUNT; op++)
        if (ops & 1u << op) {
            delay->delay_ns[op] = delay_ns;
            delay->jitter_ns[op] = jitter_ns;
        }
}

void bmig_delay_set_rate(struct bmig_disk *filter, uint64_t bytes_per_s)
{
    struct delay *delay = filter->state;
    delay->bytes_per_s = bytes_per_s;
    delay->line_free_ns = 0;
}

void bmig_delay_set_hang(struct bmig_disk *filter, uint32_t ops)
{
    struct delay *delay = filter->state;
    delay->hang_ops = ops;
}

void bmig_delay_set_late(struct bmig_disk *filter, bool late)
{
    struct delay *delay = filter->state;
    delay->late = late;
}

uint32_t bmig_delay_release(struct bmig_disk *filter, uint32_t count)
{
    struct delay *delay = filter->state;
    uint32_t released = 0;
    /* Only those that hang now: what a release lets in may hang again. */
    if (count > delay->hanging.count)
        count = delay->hanging.count;
    while (released < count) {
        go(delay->hanging.head);
        released++;
    }
    return released;
}

uint32_t bmig_delay_hanging(const struct bmig_disk *filter)
{
    const struct delay *delay = filter->state;
    return delay->hanging.count;
}

static int parse(struct delay *delay, const struct bmig_uri *uri, struct bmig_error *err)
{
    static const char *const params[] = {"read",    "write", "zero",   "discard", "flush",
                                         "extents", "all",   "jitter", "rate",    "seed",
                                         "hang",    "late",  NULL};
    uint64_t all_ns, jitter_ns, late;
    const char *rate = bmig_uri_param(uri, "rate");
    int status;
    if ((status = bmig_uri_check_params(uri, params, err)) < 0 ||
        (status = bmig_filter_param_duration(uri, "all", &all_ns, err)) < 0 ||
        (status = bmig_filter_param_duration(uri, "jitter", &jitter_ns, err)) < 0 ||
        (status = bmig_filter_param_ops(uri, "hang", 0, &delay->hang_ops, err)) < 0 ||
        (status = bmig_uri_param_u64(uri, "late", 0, 1, 0, &late, err)) < 0 ||
        (status = bmig_uri_param_u64(uri, "seed", 0, UINT64_MAX, 0, &delay->random, err)) < 0 ||
        (rate && (status = bmig_parse_rate(rate, "rate", &delay->bytes_per_s, err)) < 0))
        return status;
    delay->late = late;
    for (unsigned op = 0; op < BMIG_OP_COUNT; op++) {
        const char *name = bmig_filter_op_name((enum bmig_op)op);
        delay->delay_ns[op] = all_ns;
        delay->jitter_ns[op] = jitter_ns;
        if (bmig_uri_param(uri, name) &&
            (status = bmig_filter_param_duration(uri, name, &delay->delay_ns[op], err)) < 0)
            return status;
    }
    return 0;
}

static int delay_open(struct bmig_disk *disk, const struct bmig_uri *uri,
                      const struct bmig_open_options *options, struct bmig_error *err)
{
    struct delay *delay = calloc(1, sizeof(*delay));
    if (!delay)
        return bmig_error_set(err, BMIG_FAILED, ENOMEM, "out of memory");
    int status = uri ? parse(delay, uri, err) : 0;
    if (status < 0) {
        free(delay);
        return status;
    }
    disk->state = delay;
    bmig_disk_inherit(disk, disk->next);
    /* What waits is not with the disk below, so its limit does not bound what waits here. */
    disk->limits.max_requests = 0;
    return 0;
}

static void delay_close(struct bmig_disk *disk)
{
    free(disk->state);
}

const struct bmig_driver bmig_delay_driver = {
    .name = "delay",
    .open = delay_open,
    .close = delay_close,
    .submit = delay_submit,
    .fence = delay_fence,
};
