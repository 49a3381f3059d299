/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The rig: simulated disks, a virtual clock, and calls that wait.
 */
#include "tests/unit/engine_rig.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/disk_helper.h"

enum { PIECE = 1 << 16 };

void engine_rig_init(struct engine_rig *rig, uint64_t size_bytes)
{
    struct bmig_error err = {0};
    struct bmig_open_options options = {.writable = true};
    char uri[64];
    memset(rig, 0, sizeof(*rig));
    snprintf(uri, sizeof(uri), "mem:?size=%llu", (unsigned long long)size_bytes);
    ck_assert_int_eq(bmig_loop_new(&rig->loop, BMIG_LOOP_VIRTUAL, &err), 0);
    ck_assert_int_eq(bmig_pool_new(&rig->pool, rig->loop, 32 << 20), 0);
    for (int i = 0; i < 2; i++)
        rig->disks[i] = test_open(rig->loop, uri, "record: faults: delay:", &options);
    ck_assert_int_eq(
        bmig_volume_new(&rig->volume, rig->loop, rig->pool, rig->disks[0], "test", 1, &err), 0);
}

void engine_rig_fini(struct engine_rig *rig)
{
    if (bmig_mirror_secondary(rig->volume))
        engine_rig_stop(rig);
    bmig_volume_free(rig->volume);
    for (int i = 0; i < 2; i++)
        test_close(rig->disks[i]);
    bmig_pool_free(rig->pool);
    bmig_loop_free(rig->loop);
}

static void on_event(void *user, enum bmig_mirror_state state)
{
    struct engine_rig *rig = user;
    if (rig->event_count < 64)
        rig->events[rig->event_count++] = state;
}

void engine_rig_mirror(struct engine_rig *rig, bool known_zero, bool verify)
{
    struct bmig_error err = {0};
    struct bmig_mirror_options options = {.verify = verify};
    rig->disks[1]->known_zero = known_zero;
    int status = bmig_mirror_start(rig->volume, rig->disks[1], &options, on_event, rig, &err);
    ck_assert_msg(status == 0, "%s", err.message);
}

static enum bmig_mirror_state state_of(struct engine_rig *rig)
{
    struct bmig_mirror_stats stats;
    bmig_mirror_stats(rig->volume, &stats);
    return stats.state;
}

void engine_rig_until(struct engine_rig *rig, enum bmig_mirror_state state)
{
    uint64_t end_ns = bmig_loop_now_ns(rig->loop) + UINT64_C(3600000000000);
    while (state_of(rig) != state) {
        bmig_loop_step(rig->loop, UINT64_MAX);
        ck_assert_msg(bmig_loop_now_ns(rig->loop) < end_ns, "the mirror is %s for an hour, not %s",
                      bmig_mirror_state_name(state_of(rig)), bmig_mirror_state_name(state));
    }
}

static void fired(struct bmig_timer *timer)
{
}

void engine_rig_run_for(struct engine_rig *rig, uint64_t ns)
{
    struct bmig_timer timer = {.fire = fired};
    bmig_timer_start(rig->loop, &timer, ns);
    while (bmig_timer_started(&timer))
        bmig_loop_step(rig->loop, UINT64_MAX);
}

static void on_stopped(void *user)
{
    ((struct engine_rig *)user)->stopped = true;
}

void engine_rig_stop(struct engine_rig *rig)
{
    rig->stopped = false;
    ck_assert_int_eq(bmig_mirror_stop(rig->volume, on_stopped, rig), 0);
    test_until(rig->loop, &rig->stopped);
}

static void on_prepared(void *user, int status)
{
    struct engine_rig *rig = user;
    rig->prepared = true;
    rig->prepare_status = status;
}

int engine_rig_prepare(struct engine_rig *rig)
{
    rig->prepared = false;
    int status = bmig_mirror_switch_prepare(rig->volume, on_prepared, rig);
    if (status != 0)
        return status;
    test_until(rig->loop, &rig->prepared);
    return rig->prepare_status;
}

void engine_rig_switch(struct engine_rig *rig, uint64_t epoch)
{
    ck_assert_int_eq(engine_rig_prepare(rig), 0);
    bmig_mirror_switch_commit(rig->volume, epoch);
}

static void request_done(struct bmig_volume_request *inner, int status)
{
    struct engine_rig_request *request =
        ENGINE_RIG_OFFSET(struct engine_rig_request, request, inner);
    ck_assert(!request->ended);
    request->ended = true;
    request->status = status;
}

static void submit(struct engine_rig *rig, struct engine_rig_request *request, enum bmig_op op,
                   uint64_t offset, uint64_t length, uint8_t fill, uint32_t flags)
{
    memset(request, 0, sizeof(*request));
    request->request.op = op;
    request->request.flags = flags;
    request->request.offset = offset;
    request->request.length = length;
    request->request.done = request_done;
    if (op == BMIG_READ || op == BMIG_WRITE) {
        request->request.buffer = bmig_buffer_get(rig->pool, (uint32_t)length);
        ck_assert_ptr_nonnull(request->request.buffer);
        request->request.data = request->request.buffer->data;
        memset(request->request.data, fill, length);
    }
    bmig_volume_submit(rig->volume, &request->request);
    ck_assert(!request->ended);
}

void engine_rig_submit(struct engine_rig *rig, struct engine_rig_request *request, enum bmig_op op,
                       uint64_t offset, uint64_t length, uint8_t fill)
{
    submit(rig, request, op, offset, length, fill, 0);
}

void engine_rig_submit_flags(struct engine_rig *rig, struct engine_rig_request *request,
                             enum bmig_op op, uint64_t offset, uint64_t length, uint32_t flags)
{
    submit(rig, request, op, offset, length, 0, flags);
}

int engine_rig_wait(struct engine_rig *rig, struct engine_rig_request *request, uint8_t *out)
{
    test_until(rig->loop, &request->ended);
    if (out)
        memcpy(out, request->request.data, request->request.length);
    bmig_buffer_unref(request->request.buffer);
    request->request.buffer = NULL;
    return request->status;
}

int engine_rig_do(struct engine_rig *rig, enum bmig_op op, uint64_t offset, uint64_t length,
                  uint8_t fill, uint8_t *out)
{
    struct engine_rig_request request;
    engine_rig_submit(rig, &request, op, offset, length, fill);
    return engine_rig_wait(rig, &request, out);
}

void engine_rig_fill(struct engine_rig *rig, struct bmig_disk *disk, uint64_t offset,
                     uint64_t length, uint64_t seed)
{
    uint8_t *data = malloc(PIECE);
    for (uint64_t at = 0; at < length; at += PIECE) {
        uint64_t piece = length - at < PIECE ? length - at : PIECE;
        for (uint64_t i = 0; i < PIECE; i += 8) {
            uint64_t word = test_random(&seed) | 1;
            memcpy(data + i, &word, 8);
        }
        ck_assert_int_eq(test_run(disk, BMIG_WRITE, offset + at, piece, data, 0), 0);
    }
    free(data);
}

bool engine_rig_equal(struct engine_rig *rig)
{
    uint8_t *a = malloc(PIECE), *b = malloc(PIECE);
    bool equal = true;
    uint64_t size = rig->disks[0]->size_bytes;
    for (uint64_t at = 0; at < size && equal; at += PIECE) {
        uint64_t piece = size - at < PIECE ? size - at : PIECE;
        ck_assert_int_eq(test_run(rig->disks[0], BMIG_READ, at, piece, a, 0), 0);
        ck_assert_int_eq(test_run(rig->disks[1], BMIG_READ, at, piece, b, 0), 0);
        equal = memcmp(a, b, piece) == 0;
    }
    free(a);
    free(b);
    return equal;
}
