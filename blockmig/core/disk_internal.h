/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What the files of the door share: disk.c (routing, splitting, answering) and disk_partial.c
 * (requests smaller than a block). Nobody else includes this.
 */
#ifndef BLOCKMIG_CORE_DISK_INTERNAL_H
#define BLOCKMIG_CORE_DISK_INTERNAL_H

#include "blockmig/core/disk.h"

/* Starts a child whose range lies within one block and is smaller. */
void bmig_disk_partial_start(struct bmig_disk *disk, struct bmig_request *request);

/* The driver has completed request: if it was a step of a partial one, goes on with it and returns
 * true. */
bool bmig_disk_partial_step(struct bmig_disk *disk, struct bmig_request *request, int status);

/* Hands a request that fits the driver to it, now or when it has room. */
void bmig_disk_dispatch(struct bmig_disk *disk, struct bmig_request *request);

/* Queues the request's answer. */
void bmig_disk_finish(struct bmig_disk *disk, struct bmig_request *request, int status);

#endif
