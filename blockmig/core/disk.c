/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The one door: every request to every driver passes here, and leaves here.
 *
 * A request takes one of two ways. Direct: it is as the driver wants it, and the driver gets it.
 * Split: the door makes children of it, a few at a time, and answers it when the last has ended;
 * the state of the split lies in the request's driver memory, which no driver owns meanwhile. A
 * child may itself be split.
 *
 * Invariants: in_flight counts what a driver holds; a request is answered exactly once, from the
 * disk's task; of partial-block writes to one block, one is under way at a time.
 */
#include "blockmig/core/disk.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/core/disk_internal.h"

#define min(a, b) ((a) < (b) ? (a) : (b))

enum { MAX_CHILDREN = 8, ZEROES_BYTES = 1 << 20 };

/* In .bss and never written: every page is the kernel's one zero page. */
static _Alignas(4096) uint8_t zeroes[ZEROES_BYTES];

/* What the door keeps in a request that it splits. */
struct split {
    uint64_t cursor; /* the next byte to make a child for */
    uint64_t end;
    bool zero_by_write; /* a ZERO that is done by writing zeroes */
    bool flush_after;   /* FUA by a flush behind the rest */
    bool extents;       /* an EXTENTS whose range was widened to blocks */
};
_Static_assert(sizeof(struct split) <= BMIG_REQUEST_DRIVER_BYTES, "split fits into a request");

static void route(struct bmig_disk *disk, struct bmig_request *request);
static void split_go_on(struct bmig_disk *disk, struct bmig_request *request);
static void start_waiting(struct bmig_disk *disk);
static void fence_check(struct bmig_disk *disk);

static struct split *split_of(struct bmig_request *request)
{
    return (struct split *)request->driver;
}

/* ---- answering ---- */

static void finish(struct bmig_disk *disk, struct bmig_request *request, int status)
{
    request->status = status;
    request->next = NULL;
    if (request->fua_hidden)
        request->flags |= BMIG_FUA;
    request->fua_hidden = false;
    if (disk->done_tail)
        disk->done_tail->next = request;
    else
        disk->done_head = request;
    disk->done_tail = request;
    bmig_loop_defer(disk->loop, &disk->task);
}

static void child_put(struct bmig_disk *disk, struct bmig_request *child)
{
    child->next = disk->child_pool;
    disk->child_pool = child;
}

static struct bmig_request *child_get(struct bmig_disk *disk, struct bmig_request *parent)
{
    struct bmig_request *child = disk->child_pool;
    if (child)
        disk->child_pool = child->next;
    else if (!(child = aligned_alloc(16, sizeof(*child))))
        return NULL;
    memset(child, 0, offsetof(struct bmig_request, driver));
    child->parent = parent;
    child->is_child = true;
    child->flags = parent->flags;
    return child;
}

/* Data that was bounced goes back to where the caller wants it. */
static void bounce_end(struct bmig_request *request, int status)
{
    if (!request->bounce)
        return;
    uint8_t *aligned = request->data;
    request->data = request->bounce;
    request->bounce = NULL;
    if (request->op == BMIG_READ && status == 0)
        memcpy(request->data, aligned, request->length);
    free(aligned);
}

static void child_done(struct bmig_disk *disk, struct bmig_request *child)
{
    struct bmig_request *parent = child->parent;
    int status = child->status;
    if (child->op == BMIG_ZERO && status == -ENOTSUP && !child->rerouted &&
        !(child->flags & BMIG_FAST_ONLY)) {
        /* The driver found out that its place can't: from now on the door writes zeroes. */
        child->rerouted = true;
        disk->caps &= ~(uint32_t)(BMIG_CAP_ZERO | BMIG_CAP_FAST_ZERO | BMIG_CAP_UNMAP);
        route(disk, child);
        return;
    }
    child_put(disk, child);
    if (status != 0 && parent->status == 0)
        parent->status = status;
    parent->pending--;
    split_go_on(disk, parent);
}

static void run_done(struct bmig_task *task)
{
    struct bmig_disk *disk = (struct bmig_disk *)((char *)task - offsetof(struct bmig_disk, task));
    /* The last done may give the disk to a thread that closes it, but never before a fence is done: a
     * disk that is not being fenced is not looked at behind it. One that it begins to fence comes
     * here again. */
    struct bmig_request *last = disk->done_tail;
    bool is_last = !last;
    while (!is_last) {
        struct bmig_request *request = disk->done_head;
        is_last = request == last; /* what is answered from here on waits for the next turn */
        disk->done_head = request->next;
        if (!disk->done_head)
            disk->done_tail = NULL;
        if (request->is_child) {
            child_done(disk, request);
        } else if (is_last && !disk->fencing) {
            request->done(request, request->status);
            return;
        } else {
            request->done(request, request->status);
        }
    }
    fence_check(disk);
}

/* ---- the driver's side ---- */

static void hand_over(struct bmig_disk *disk, struct bmig_request *request)
{
    assert(request->path_depth < BMIG_STACK_MAX);
    request->path[request->path_depth++] = disk;
    disk->in_flight++;
    disk->stats.requests[request->op]++;
    disk->stats.bytes[request->op] += request->length;
    disk->driver->submit(disk, request);
}

/* Ends a request that a fenced disk was to get. One that came by a disk above is counted back
 * there. */
static void refuse(struct bmig_disk *disk, struct bmig_request *request)
{
    if (request->path_depth) {
        bmig_disk_complete(request, -ESHUTDOWN);
        return;
    }
    bounce_end(request, -ESHUTDOWN);
    if (!bmig_disk_partial_step(disk, request, -ESHUTDOWN))
        finish(disk, request, -ESHUTDOWN);
}

static void dispatch(struct bmig_disk *disk, struct bmig_request *request)
{
    if (disk->fencing) {
        refuse(disk, request);
        return;
    }
    if (disk->waiting_head ||
        (disk->limits.max_requests && disk->in_flight >= disk->limits.max_requests)) {
        request->next = NULL;
        if (disk->waiting_tail)
            disk->waiting_tail->next = request;
        else
            disk->waiting_head = request;
        disk->waiting_tail = request;
        return;
    }
    hand_over(disk, request);
}

/* Not within itself, which a driver that ends requests inside submit would make it be: as deep as
 * the queue is long. */
static void start_waiting(struct bmig_disk *disk)
{
    if (disk->starting)
        return;
    disk->starting = true;
    while (disk->waiting_head &&
           (!disk->limits.max_requests || disk->in_flight < disk->limits.max_requests)) {
        struct bmig_request *request = disk->waiting_head;
        disk->waiting_head = request->next;
        if (!disk->waiting_head)
            disk->waiting_tail = NULL;
        hand_over(disk, request);
    }
    disk->starting = false;
}

void bmig_disk_forward(struct bmig_disk *disk, struct bmig_request *request, uint64_t offset)
{
    request->offset = offset;
    dispatch(disk->next, request);
}

void bmig_disk_complete(struct bmig_request *request, int status)
{
    uint8_t depth = request->path_depth;
    struct bmig_disk *path[BMIG_STACK_MAX];
    assert(depth > 0 && status <= 0);
    memcpy(path, request->path, sizeof(path));
    request->path_depth = 0;
    bounce_end(request, status);
    if (status == 0 && request->op == BMIG_EXTENTS)
        assert(request->extents->count > 0);
    bool partial = bmig_disk_partial_step(path[0], request, status);
    if (!partial)
        finish(path[0], request, status);
    for (uint8_t i = 0; i < depth; i++) {
        if (status != 0)
            path[i]->stats.errors++;
        assert(path[i]->in_flight > 0);
        path[i]->in_flight--;
        start_waiting(path[i]);
        if (path[i]->fencing)
            bmig_loop_defer(path[i]->loop, &path[i]->task);
    }
}

void bmig_disk_dispatch(struct bmig_disk *disk, struct bmig_request *request)
{
    dispatch(disk, request);
}

void bmig_disk_finish(struct bmig_disk *disk, struct bmig_request *request, int status)
{
    finish(disk, request, status);
}

/* ---- splitting ---- */

static void split_begin(struct bmig_disk *disk, struct bmig_request *request, struct split split)
{
    *split_of(request) = split;
    request->status = 0;
    request->pending = 0;
    split_go_on(disk, request);
}

/* The child for the bytes at cursor: at most up to the next edge that the driver has. */
static void split_child(struct bmig_disk *disk, struct bmig_request *request,
                        struct bmig_request *child)
{
    struct split *split = split_of(request);
    const struct bmig_limits *limits = &disk->limits;
    uint64_t left = split->end - split->cursor;
    bool write_zeroes = split->zero_by_write;
    uint32_t unit = limits->block_bytes;
    uint64_t most = limits->max_io_bytes;

    child->op = request->op;
    if (request->op == BMIG_ZERO || request->op == BMIG_DISCARD) {
        uint64_t misfit = split->cursor % limits->zero_align;
        if (!write_zeroes && (misfit || left < limits->zero_align)) {
            write_zeroes = true; /* an end that the driver can't zero */
            left = min(left, limits->zero_align - misfit);
        } else if (!write_zeroes) {
            unit = limits->zero_align;
            most = limits->max_zero_bytes;
        }
    }
    if (write_zeroes) {
        child->op = BMIG_WRITE;
        child->flags &= BMIG_FUA | BMIG_REPLAYABLE;
        child->data = zeroes;
        most = min(most, ZEROES_BYTES);
    }
    uint64_t misfit = split->cursor % unit;
    if (misfit || left < unit)
        left = min(left, unit - misfit);
    else
        left = min(left - left % unit, most);
    child->offset = split->cursor;
    child->length = left;
    if (request->data && !write_zeroes)
        child->data = request->data + (split->cursor - request->offset);
    if (!(disk->caps & BMIG_CAP_FUA))
        child->flags &= ~(uint32_t)BMIG_FUA;
    split->cursor += left;
}

static void split_extents_end(struct bmig_request *request)
{
    struct split *split = split_of(request);
    struct bmig_extents *extents = request->extents;
    uint64_t skip = request->offset - split->cursor;
    uint64_t room = request->length;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < extents->count && room; i++) {
        struct bmig_extent extent = extents->list[i];
        uint64_t cut = min(skip, extent.length_bytes);
        skip -= cut;
        extent.length_bytes = min(extent.length_bytes - cut, room);
        room -= extent.length_bytes;
        if (extent.length_bytes)
            extents->list[kept++] = extent;
    }
    extents->count = kept;
}

/* A parent's next step, whenever a child has ended or it has just begun. */
static void split_go_on(struct bmig_disk *disk, struct bmig_request *request)
{
    struct split *split = split_of(request);
    while (!split->extents && split->cursor < split->end && request->pending < MAX_CHILDREN &&
           request->status == 0) {
        struct bmig_request *child = child_get(disk, request);
        if (!child) {
            if (request->pending)
                return; /* memory comes back with the children */
            request->status = -ENOMEM;
            break;
        }
        split_child(disk, request, child);
        request->pending++;
        route(disk, child);
    }
    if (request->pending)
        return;
    if (request->status == 0 && split->flush_after) {
        struct bmig_request *child = child_get(disk, request);
        split->flush_after = false;
        if (child) {
            child->op = BMIG_FLUSH;
            child->flags = 0;
            request->pending = 1;
            dispatch(disk, child);
            return;
        }
        request->status = -ENOMEM;
    }
    if (split->extents && request->status == 0)
        split_extents_end(request);
    finish(disk, request, request->status);
}

static void split_extents(struct bmig_disk *disk, struct bmig_request *request)
{
    struct bmig_request *child = child_get(disk, request);
    if (!child) {
        finish(disk, request, -ENOMEM);
        return;
    }
    uint64_t block = disk->limits.block_bytes;
    uint64_t start = request->offset - request->offset % block;
    uint64_t end = request->offset + request->length;
    end = min((end + block - 1) / block * block, disk->size_bytes);
    *split_of(request) = (struct split){.cursor = start, .end = end, .extents = true};
    request->status = 0;
    request->pending = 1;
    child->op = BMIG_EXTENTS;
    child->offset = start;
    child->length = end - start;
    child->extents = request->extents;
    dispatch(disk, child);
}

/* ---- routing ---- */

static void route_data(struct bmig_disk *disk, struct bmig_request *request)
{
    const struct bmig_limits *limits = &disk->limits;
    uint64_t misfit = (request->offset | request->length) & (limits->block_bytes - 1);
    bool fua = request->flags & BMIG_FUA && !(disk->caps & BMIG_CAP_FUA);

    if (misfit && request->is_child && request->length < limits->block_bytes) {
        bmig_disk_partial_start(disk, request);
        return;
    }
    if (misfit || request->length > limits->max_io_bytes || (fua && disk->caps & BMIG_CAP_FLUSH)) {
        split_begin(disk, request,
                    (struct split){.cursor = request->offset,
                                   .end = request->offset + request->length,
                                   .flush_after = fua && disk->caps & BMIG_CAP_FLUSH});
        return;
    }
    if (fua) { /* every write is stable at once here */
        request->flags &= ~(uint32_t)BMIG_FUA;
        request->fua_hidden = true;
    }
    if ((uintptr_t)request->data & (limits->memory_align - 1)) {
        size_t align = limits->memory_align > 16 ? limits->memory_align : 16;
        uint8_t *aligned = aligned_alloc(align, (request->length + align - 1) / align * align);
        if (!aligned) {
            finish(disk, request, -ENOMEM);
            return;
        }
        if (request->op == BMIG_WRITE)
            memcpy(aligned, request->data, request->length);
        request->bounce = request->data;
        request->data = aligned;
    }
    dispatch(disk, request);
}

static void route_zero(struct bmig_disk *disk, struct bmig_request *request)
{
    const struct bmig_limits *limits = &disk->limits;
    bool by_write = !(disk->caps & BMIG_CAP_ZERO);
    bool fua = request->flags & BMIG_FUA && !(disk->caps & BMIG_CAP_FUA);
    uint64_t misfit = (request->offset | request->length) & (limits->zero_align - 1);

    if (request->flags & BMIG_FAST_ONLY && !(disk->caps & BMIG_CAP_FAST_ZERO)) {
        finish(disk, request, -ENOTSUP);
        return;
    }
    if (request->is_child && !by_write && !misfit) {
        dispatch(disk, request);
        return;
    }
    /* Always by a child, so that a driver which finds that it can't is made up for. */
    split_begin(disk, request,
                (struct split){.cursor = request->offset,
                               .end = request->offset + request->length,
                               .zero_by_write = by_write,
                               .flush_after = fua && disk->caps & BMIG_CAP_FLUSH});
}

/* DISCARD promises nothing, so what does not fit the driver's units is simply left out. */
static void route_discard(struct bmig_disk *disk, struct bmig_request *request)
{
    uint64_t align = disk->limits.zero_align;
    uint64_t start = (request->offset + align - 1) / align * align;
    uint64_t end = request->offset + request->length;
    end -= end % align;
    if (!(disk->caps & BMIG_CAP_DISCARD) || start >= end) {
        finish(disk, request, 0);
        return;
    }
    if (request->is_child) {
        dispatch(disk, request);
        return;
    }
    bool fua = request->flags & BMIG_FUA && !(disk->caps & BMIG_CAP_FUA);
    split_begin(disk, request,
                (struct split){.cursor = start,
                               .end = end,
                               .flush_after = fua && disk->caps & BMIG_CAP_FLUSH});
}

static void route_extents(struct bmig_disk *disk, struct bmig_request *request)
{
    request->extents->count = 0;
    if (!(disk->caps & BMIG_CAP_EXTENTS)) {
        bmig_extents_add(request->extents, request->length, BMIG_EXTENT_DATA);
        finish(disk, request, 0);
        return;
    }
    split_extents(disk, request);
}

static void route(struct bmig_disk *disk, struct bmig_request *request)
{
    switch (request->op) {
    case BMIG_READ:
    case BMIG_WRITE:
        route_data(disk, request);
        return;
    case BMIG_ZERO:
        route_zero(disk, request);
        return;
    case BMIG_DISCARD:
        route_discard(disk, request);
        return;
    case BMIG_EXTENTS:
        route_extents(disk, request);
        return;
    case BMIG_FLUSH:
        if (disk->caps & BMIG_CAP_FLUSH)
            dispatch(disk, request);
        else
            finish(disk, request, 0);
        return;
    case BMIG_OP_COUNT:
        break;
    }
    assert(!"an operation that exists");
}

static int check(const struct bmig_disk *disk, const struct bmig_request *request)
{
    if (disk->fencing)
        return -ESHUTDOWN;
    if (request->op == BMIG_FLUSH)
        return 0;
    if (request->length == 0 || request->offset > disk->size_bytes ||
        request->length > disk->size_bytes - request->offset)
        return -EINVAL;
    bool changes = request->op != BMIG_READ && request->op != BMIG_EXTENTS;
    if (changes && !(disk->caps & BMIG_CAP_WRITE))
        return -EROFS;
    return 0;
}

void bmig_disk_submit(struct bmig_disk *disk, struct bmig_request *request)
{
    assert(disk->loop && request->done);
    assert(request->data || (request->op != BMIG_READ && request->op != BMIG_WRITE));
    request->parent = NULL;
    request->path_depth = 0;
    request->is_child = false;
    request->pending = 0;
    request->status = 0;
    request->bounce = NULL;
    request->partial = NULL;
    request->rerouted = false;
    request->fua_hidden = false;
    int status = check(disk, request);
    if (status != 0)
        finish(disk, request, status);
    else
        route(disk, request);
}

/* ---- fencing ---- */

void bmig_disk_fence(struct bmig_disk *disk, void (*done)(struct bmig_disk *disk, void *user),
                     void *user)
{
    assert(disk->loop && !disk->fencing);
    disk->fence_done = done;
    disk->fence_user = user;
    for (struct bmig_disk *level = disk; level; level = level->next)
        level->fencing = true;
    for (struct bmig_disk *level = disk; level; level = level->next) {
        struct bmig_request *request = level->waiting_head;
        level->waiting_head = level->waiting_tail = NULL;
        while (request) {
            struct bmig_request *next = request->next;
            refuse(level, request);
            request = next;
        }
        if (level->driver->fence)
            level->driver->fence(level);
        else
            level->fenced = true;
    }
    bmig_loop_defer(disk->loop, &disk->task);
}

void bmig_disk_fenced(struct bmig_disk *disk)
{
    assert(disk->fencing && !disk->fenced);
    disk->fenced = true;
    bmig_loop_defer(disk->loop, &disk->task);
}

static void fence_check(struct bmig_disk *disk)
{
    while (disk->above && disk->above->fencing)
        disk = disk->above;
    for (struct bmig_disk *level = disk; level; level = level->next)
        if (!level->fenced || !bmig_disk_idle(level))
            return;
    void (*done)(struct bmig_disk *, void *) = disk->fence_done;
    disk->fence_done = NULL;
    if (done)
        done(disk, disk->fence_user);
}

/* ---- life ---- */

int bmig_disk_open(struct bmig_disk **out, const struct bmig_driver *driver, struct bmig_disk *next,
                   const struct bmig_uri *uri, const struct bmig_open_options *options,
                   struct bmig_error *err)
{
    struct bmig_disk *disk = calloc(1, sizeof(*disk));
    if (!disk)
        return bmig_error_set(err, BMIG_FAILED, ENOMEM, "out of memory");
    struct bmig_open_options filled = *options;
    if (filled.timeout_ns == 0)
        filled.timeout_ns = UINT64_C(30000000000);
    disk->driver = driver;
    disk->next = next;
    disk->task.run = run_done;
    if (uri)
        snprintf(disk->name, sizeof(disk->name), "%s", uri->text);
    int status = driver->open(disk, uri, &filled, err);
    if (status != 0) {
        free(disk);
        return status;
    }
    const struct bmig_limits *limits = &disk->limits;
    assert(limits->block_bytes && !(limits->block_bytes & (limits->block_bytes - 1)));
    assert(limits->memory_align && !(limits->memory_align & (limits->memory_align - 1)));
    assert(limits->max_io_bytes && limits->max_io_bytes % limits->block_bytes == 0);
    assert(limits->zero_align && limits->max_zero_bytes);
    if (next)
        next->above = disk;
    *out = disk;
    return 0;
}

void bmig_disk_close(struct bmig_disk *disk)
{
    while (disk) {
        struct bmig_disk *next = disk->next;
        assert(!disk->loop && bmig_disk_idle(disk));
        disk->driver->close(disk);
        while (disk->child_pool) {
            struct bmig_request *child = disk->child_pool;
            disk->child_pool = child->next;
            free(child);
        }
        free(disk);
        disk = next;
    }
}

int bmig_disk_attach(struct bmig_disk *disk, struct bmig_loop *loop, struct bmig_error *err)
{
    assert(!disk->loop);
    if (disk->next) {
        int status = bmig_disk_attach(disk->next, loop, err);
        if (status != 0)
            return status;
    }
    disk->loop = loop;
    int status = disk->driver->attach ? disk->driver->attach(disk) : 0;
    if (status != 0) {
        disk->loop = NULL;
        if (disk->next)
            bmig_disk_detach(disk->next);
        return bmig_error_set(err, BMIG_FAILED, -status, "%s: can't be used: %s", disk->name,
                              bmig_strerror(-status));
    }
    return 0;
}

void bmig_disk_detach(struct bmig_disk *disk)
{
    assert(disk->loop && bmig_disk_idle(disk));
    assert(!disk->task.queued);
    if (disk->driver->detach)
        disk->driver->detach(disk);
    disk->loop = NULL;
    if (disk->next)
        bmig_disk_detach(disk->next);
}

bool bmig_disk_idle(const struct bmig_disk *disk)
{
    return disk->in_flight == 0 && !disk->waiting_head && !disk->done_head && !disk->partials;
}

void bmig_disk_inherit(struct bmig_disk *disk, struct bmig_disk *next)
{
    disk->size_bytes = next->size_bytes;
    disk->caps = next->caps;
    disk->limits = next->limits;
    disk->known_zero = next->known_zero;
    memcpy(disk->name, next->name, sizeof(disk->name));
}

void bmig_disk_describe(struct bmig_disk *disk,
                        void (*put)(void *user, const char *key, const char *value), void *user)
{
    for (; disk; disk = disk->next)
        if (disk->driver->describe)
            disk->driver->describe(disk, put, user);
}

struct run_state {
    void (*done)(struct bmig_request *, int);
    void *user;
    int status;
    bool ended;
};

static void run_ended(struct bmig_request *request, int status)
{
    struct run_state *state = request->user;
    state->status = status;
    state->ended = true;
}

int bmig_disk_run(struct bmig_disk *disk, struct bmig_request *request)
{
    struct run_state state = {.done = request->done, .user = request->user};
    request->done = run_ended;
    request->user = &state;
    bmig_disk_submit(disk, request);
    while (!state.ended)
        bmig_loop_step(disk->loop, UINT64_MAX);
    request->done = state.done;
    request->user = state.user;
    return state.status;
}
