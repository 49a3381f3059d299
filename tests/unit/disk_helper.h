/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What tests of disks share: requests that wait, requests that don't, opening by URI.
 */
#ifndef TESTS_UNIT_DISK_HELPER_H
#define TESTS_UNIT_DISK_HELPER_H

#include <stdbool.h>
#include <stdint.h>

#include "blockmig/core/disk.h"

/* A request under way; ended and status tell of its end. */
struct test_request {
    struct bmig_request request;
    bool ended;
    int status;
};

/* Submits without waiting. data is NULL but for READ and WRITE. */
void test_submit(struct bmig_disk *disk, struct test_request *test, enum bmig_op op,
                 uint64_t offset, uint64_t length, uint8_t *data, uint32_t flags);

/* Submits and steps the loop until it has ended; returns the status. */
int test_run(struct bmig_disk *disk, enum bmig_op op, uint64_t offset, uint64_t length,
             uint8_t *data, uint32_t flags);

/* Steps the loop until *flag. */
void test_until(struct bmig_loop *loop, const bool *flag);

/* Opens the image (uri as in bmig_uri_parse, filters may be NULL), attached to loop; fails the test
 * where it can't. */
struct bmig_disk *test_open(struct bmig_loop *loop, const char *uri, const char *filters,
                            const struct bmig_open_options *options);
void test_close(struct bmig_disk *disk);

/* Fences disk and steps its loop until that is done. */
void test_fence(struct bmig_disk *disk);

/* A sequence of random numbers. */
uint64_t test_random(uint64_t *state);

#endif
