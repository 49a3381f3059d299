/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The record filter: keeps a log of every request that passes, for tests that look at what was
 * issued, and for cutting the power at any point of it.
 *
 * As a URI:  record:?data=keep&file=/tmp/log
 *   data=      none (default), hash (XXH3 of what was read or written), keep (a copy of what was
 * written) file=PATH  a line for each request that ended: number, operation, offset, length, flags,
 * status, hash limit=N    log no more than N requests (default 1000000); the rest is counted Loop's
 * thread, as all calls below.
 */
#ifndef BACKENDS_RECORD_H
#define BACKENDS_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/filter.h"

enum bmig_record_data { BMIG_RECORD_NONE, BMIG_RECORD_HASH, BMIG_RECORD_KEEP };

/* One request, in the order of their coming. `submitted` and `completed` are points on one count of
 * events that begins at 1; completed is 0 while it is under way. */
struct bmig_record_entry {
    enum bmig_op op;
    uint32_t flags;
    uint64_t offset, length;
    uint64_t submitted, completed;
    int status;
    uint64_t hash;
    uint8_t *data; /* WRITE, where data is kept */
};

/* The topmost record filter at or below disk, or NULL. */
struct bmig_disk *bmig_record_find(struct bmig_disk *disk);

void bmig_record_set_data(struct bmig_disk *filter, enum bmig_record_data data);

/* Entries so far, and one of them (borrowed until the next request or clear). */
size_t bmig_record_count(const struct bmig_disk *filter);
const struct bmig_record_entry *bmig_record_at(const struct bmig_disk *filter, size_t index);

/* Entries of the operations in ops that touch [offset, offset + length); length 0: anywhere. */
size_t bmig_record_count_of(const struct bmig_disk *filter, uint32_t ops, uint64_t offset,
                            uint64_t length);

/* Events so far: the points at which power can be cut are 0 to this. */
uint64_t bmig_record_events(const struct bmig_disk *filter);

/* Forgets the log; nothing may be in flight (asserted). */
void bmig_record_clear(struct bmig_disk *filter);

/* Makes of image (size_bytes, as it was before the first entry) what a medium with a volatile cache
 * may hold if power is cut after `events` events. What completed with FUA, or before a FLUSH that
 * completed, is there; of everything else that was submitted by then, each 512-byte block is there
 * or not as seed says. A later write is never undone by an earlier one. Needs BMIG_RECORD_KEEP from
 * the start; -EINVAL without. */
int bmig_record_cut_power(const struct bmig_disk *filter, uint64_t events, uint64_t seed,
                          uint8_t *image, uint64_t size_bytes);

#endif
