/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What tests may ask of a mem image beside the disk contract.
 */
#ifndef BACKENDS_MEM_H
#define BACKENDS_MEM_H

#include <stdint.h>

#include "blockmig/core/disk.h"

/* The room that a mem disk's image takes, in bytes. Loop's thread. */
uint64_t bmig_mem_allocated_bytes(const struct bmig_disk *disk);

#endif
