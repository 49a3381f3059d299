/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A disk against a model of its bytes.
 */
#include "tests/unit/model_helper.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/core/buffer.h"
#include "tests/unit/disk_helper.h"

enum { MiB = 1 << 20 };

static uint8_t *buffer;
static const struct bmig_open_options reading;

static void check_all(struct bmig_disk *disk, const uint8_t *model)
{
    for (uint64_t at = 0; at < disk->size_bytes; at += 4 * MiB) {
        uint64_t length = disk->size_bytes - at < 4 * MiB ? disk->size_bytes - at : 4 * MiB;
        ck_assert_int_eq(test_run(disk, BMIG_READ, at, length, buffer, 0), 0);
        ck_assert_msg(memcmp(buffer, model + at, length) == 0, "differs in %llu+%llu",
                      (unsigned long long)at, (unsigned long long)length);
    }
}

/* Where EXTENTS says zero, the model must be; and what it covers must be the whole disk. */
static void check_extents(struct bmig_disk *disk, const uint8_t *model)
{
    struct bmig_extent list[7];
    uint64_t at = 0;
    while (at < disk->size_bytes) {
        struct bmig_extents extents = {list, 0, 7};
        struct test_request test;
        memset(&test, 0, sizeof(test));
        struct bmig_request request = {
            .op = BMIG_EXTENTS, .offset = at, .length = disk->size_bytes - at, .extents = &extents};
        ck_assert_int_eq(bmig_disk_run(disk, &request), 0);
        ck_assert_uint_gt(extents.count, 0);
        for (uint32_t i = 0; i < extents.count; i++) {
            ck_assert_uint_gt(list[i].length_bytes, 0);
            ck_assert_uint_eq(list[i].length_bytes % 512, 0);
            ck_assert_uint_le(list[i].length_bytes, disk->size_bytes - at);
            if (list[i].flags & BMIG_EXTENT_ZERO)
                ck_assert(bmig_is_zero(model + at, list[i].length_bytes));
            at += list[i].length_bytes;
        }
    }
}

void test_against_model(struct bmig_loop *loop, const char *uri,
                        const struct bmig_open_options *options, uint64_t seed)
{
    enum { LANES = 8, TURNS = 150 };
    static struct test_request lanes[LANES];
    buffer = aligned_alloc(4096, 4 * MiB);
    struct bmig_disk *disk = test_open(loop, uri, NULL, options);
    uint8_t *model = calloc(1, disk->size_bytes);
    uint64_t lane_bytes = disk->size_bytes / LANES / 4096 * 4096;
    for (unsigned turn = 0; turn < TURNS; turn++) {
        for (unsigned lane = 0; lane < LANES; lane++) {
            uint64_t start = lane * lane_bytes;
            uint64_t room = lane == LANES - 1 ? disk->size_bytes - start : lane_bytes;
            uint64_t unit = test_random(&seed) % 4 ? 512 : 1; /* some fit no block at all */
            uint64_t offset = test_random(&seed) % (room / unit) * unit;
            uint64_t most = room - offset < 200000 ? room - offset : 200000;
            uint64_t length = (1 + test_random(&seed) % (most / unit ? most / unit : 1)) * unit;
            uint8_t *data = buffer + lane * (4 * MiB / LANES) + (test_random(&seed) % 3 ? 0 : 7);
            static const enum bmig_op ops[] = {BMIG_WRITE, BMIG_WRITE, BMIG_ZERO, BMIG_ZERO,
                                               BMIG_READ};
            enum bmig_op op = ops[test_random(&seed) % 5];
            offset += start;
            if (length > most)
                length = most;
            if (op == BMIG_WRITE) {
                for (uint64_t i = 0; i < length; i++)
                    data[i] = (uint8_t)(test_random(&seed) | 1);
                memcpy(model + offset, data, length);
            } else if (op == BMIG_ZERO) {
                memset(model + offset, 0, length);
                data = NULL;
            }
            uint32_t flags = op == BMIG_READ                             ? 0
                             : op == BMIG_ZERO && test_random(&seed) & 1 ? BMIG_MAY_UNMAP
                             : test_random(&seed) % 8 == 0               ? BMIG_FUA
                                                                         : 0;
            test_submit(disk, &lanes[lane], op, offset, length, data, flags);
        }
        for (unsigned lane = 0; lane < LANES; lane++) {
            struct bmig_request *request = &lanes[lane].request;
            test_until(loop, &lanes[lane].ended);
            ck_assert_msg(lanes[lane].status == 0, "turn %u: operation %d at %llu+%llu: %d", turn,
                          request->op, (unsigned long long)request->offset,
                          (unsigned long long)request->length, lanes[lane].status);
            if (request->op == BMIG_READ)
                ck_assert_msg(memcmp(request->data, model + request->offset, request->length) == 0,
                              "turn %u: %llu+%llu differs", turn,
                              (unsigned long long)request->offset,
                              (unsigned long long)request->length);
        }
        if (turn % 50 == 49)
            ck_assert_int_eq(test_run(disk, BMIG_FLUSH, 0, 0, NULL, 0), 0);
    }
    check_all(disk, model);
    check_extents(disk, model);
    test_close(disk);
    disk = test_open(loop, uri, NULL, &reading);
    check_all(disk, model);
    test_close(disk);
    free(model);
    free(buffer);
}
