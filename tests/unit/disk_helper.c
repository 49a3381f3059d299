/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What tests of disks share.
 */
#include "tests/unit/disk_helper.h"

#include <check.h>
#include <string.h>

#include "blockmig/stack/image.h"

static void request_ended(struct bmig_request *request, int status)
{
    struct test_request *test = request->user;
    ck_assert(!test->ended);
    test->ended = true;
    test->status = status;
}

void test_submit(struct bmig_disk *disk, struct test_request *test, enum bmig_op op,
                 uint64_t offset, uint64_t length, uint8_t *data, uint32_t flags)
{
    memset(test, 0, sizeof(*test));
    test->request.op = op;
    test->request.offset = offset;
    test->request.length = length;
    test->request.data = data;
    test->request.flags = flags;
    test->request.done = request_ended;
    test->request.user = test;
    bmig_disk_submit(disk, &test->request);
    ck_assert(!test->ended);
}

int test_run(struct bmig_disk *disk, enum bmig_op op, uint64_t offset, uint64_t length,
             uint8_t *data, uint32_t flags)
{
    struct test_request test;
    test_submit(disk, &test, op, offset, length, data, flags);
    test_until(disk->loop, &test.ended);
    return test.status;
}

void test_until(struct bmig_loop *loop, const bool *flag)
{
    while (!*flag)
        bmig_loop_step(loop, UINT64_MAX);
}

struct bmig_disk *test_open(struct bmig_loop *loop, const char *uri, const char *filters,
                            const struct bmig_open_options *options)
{
    struct bmig_disk *disk = NULL;
    struct bmig_error err = {0};
    struct bmig_image_spec spec = {.uri = uri, .format = "raw", .filters = filters};
    ck_assert_msg(bmig_image_open(&disk, &spec, options, &err) == 0, "%s", err.message);
    ck_assert_msg(bmig_disk_attach(disk, loop, &err) == 0, "%s", err.message);
    return disk;
}

void test_close(struct bmig_disk *disk)
{
    /* The task of a disk may be queued behind its last answer. */
    while (bmig_loop_step(disk->loop, 0)) {
    }
    bmig_disk_detach(disk);
    bmig_disk_close(disk);
}

static void fence_ended(struct bmig_disk *disk, void *user)
{
    bool *ended = user;
    ck_assert(!*ended);
    *ended = true;
}

void test_fence(struct bmig_disk *disk)
{
    bool ended = false;
    bmig_disk_fence(disk, fence_ended, &ended);
    test_until(disk->loop, &ended);
}

uint64_t test_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}
