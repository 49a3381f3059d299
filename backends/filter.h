/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What the filters share: words of operations and errors, requests of their own to the disk below.
 */
#ifndef BACKENDS_FILTER_H
#define BACKENDS_FILTER_H

#include <stdint.h>

#include "blockmig/core/disk.h"

/* A set of operations: 1 << BMIG_READ | ... */
enum {
    BMIG_OPS_ALL = (1 << BMIG_OP_COUNT) - 1,
    BMIG_OPS_CHANGE = 1 << BMIG_WRITE | 1 << BMIG_ZERO | 1 << BMIG_DISCARD
};

/* "read", "write", "zero", "discard", "flush", "extents". */
const char *bmig_filter_op_name(enum bmig_op op);

/* uri's parameter `name`, a list like "write,flush" or "all", as a set; fallback where it is not
 * given. */
int bmig_filter_param_ops(const struct bmig_uri *uri, const char *name, uint32_t fallback,
                          uint32_t *ops, struct bmig_error *err);

/* uri's parameter `name`, an errno by its name like "ENOSPC"; fallback where it is not given. */
int bmig_filter_param_errno(const struct bmig_uri *uri, const char *name, int fallback, int *code,
                            struct bmig_error *err);

/* A duration, 0 where it is not given; a size, fallback where it is not given. */
int bmig_filter_param_duration(const struct bmig_uri *uri, const char *name, uint64_t *ns,
                               struct bmig_error *err);
int bmig_filter_param_size(const struct bmig_uri *uri, const char *name, uint64_t fallback,
                           uint64_t *bytes, struct bmig_error *err);

/* The next of a sequence of random numbers; *state is any number to begin with. */
uint64_t bmig_filter_random(uint64_t *state);

/* The topmost disk of driver at or below disk, or NULL. */
struct bmig_disk *bmig_filter_at(struct bmig_disk *disk, const struct bmig_driver *driver);

/* A request of the filter's own, to the disk below, for one it was given: a filter that wants to
 * see the outcome, or to do something else than asked, can't forward. */
struct bmig_filter_child {
    struct bmig_request below; /* first */
    struct bmig_request *above;
    struct bmig_disk *disk; /* the filter */
    uint8_t *copy;          /* freed with the child */
    uint64_t number;        /* the filter's own */
};

/* A child that asks what above asks, to be changed and then submitted to disk->next; done is
 * below's. NULL where there is no memory. */
struct bmig_filter_child *bmig_filter_child_new(struct bmig_disk *disk, struct bmig_request *above,
                                                void (*done)(struct bmig_request *below,
                                                             int status));
void bmig_filter_child_free(struct bmig_filter_child *child);

#endif
