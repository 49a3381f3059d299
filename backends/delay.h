/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The delay filter: makes the disk below slow, or silent.
 *
 * As a URI:  delay:?write=5ms&flush=20ms&jitter=1ms
 *   read= write= zero= discard= flush= extents= all=   latency added to an operation
 *   jitter=        up to so much more, at random by seed=
 *   rate=          READ and WRITE bytes pass one after the other at this rate
 *   hang=LIST      operations that are held for ever: until released or fenced
 *   late=1         the operation is done first and its answer held, instead of the other way round
 * The calls below change all that while it runs (loop's thread). A fence ends what is held with
 * -ECANCELED.
 */
#ifndef BACKENDS_DELAY_H
#define BACKENDS_DELAY_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/filter.h"

/* The topmost delay filter at or below disk, or NULL. */
struct bmig_disk *bmig_delay_find(struct bmig_disk *disk);

/* The latency of the operations in ops from now on. */
void bmig_delay_set(struct bmig_disk *filter, uint32_t ops, uint64_t delay_ns, uint64_t jitter_ns);

/* Bytes a second of READ and WRITE; 0: no limit. */
void bmig_delay_set_rate(struct bmig_disk *filter, uint64_t bytes_per_s);

/* Which operations hang from now on; those held already stay held. */
void bmig_delay_set_hang(struct bmig_disk *filter, uint32_t ops);

/* Whether answers are held, or the operations. */
void bmig_delay_set_late(struct bmig_disk *filter, bool late);

/* Lets the oldest `count` of those that hang go, with no delay. Returns how many there were. */
uint32_t bmig_delay_release(struct bmig_disk *filter, uint32_t count);

/* How many hang now. */
uint32_t bmig_delay_hanging(const struct bmig_disk *filter);

#endif
