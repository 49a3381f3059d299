/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The requests of the transmission phase as words: what one says, whether it may be said, and how
 * an errno is said back. Pure functions over bytes.
 */
#ifndef BLOCKMIG_WORKER_NBD_COMMAND_H
#define BLOCKMIG_WORKER_NBD_COMMAND_H

#include <stdbool.h>
#include <stdint.h>

#include "blockmig/worker/nbd_protocol.h"

/* "Request message" */
struct bmig_nbds_command {
    uint64_t cookie;
    uint64_t offset;
    uint32_t length;
    uint16_t flags;
    uint16_t type;
};

/* What a client may do, settled by its handshake. */
struct bmig_nbds_session {
    uint64_t size_bytes;
    uint32_t max_data_bytes; /* of one READ or WRITE */
    bool read_only;
    bool structured;
    bool allocation;
};

enum { BMIG_NBDS_DF_BYTES = 1 << 20 }; /* the longest READ that goes out as one chunk */

/* Takes NBD_REQUEST_BYTES apart. False where the magic is wrong: the stream is out of step for
 * good. */
bool bmig_nbds_command_parse(struct bmig_nbds_command *command, const uint8_t *data);

/* 0, or the -errno that refuses it. *why is set to words for a human then. */
int bmig_nbds_command_check(const struct bmig_nbds_command *command,
                            const struct bmig_nbds_session *session, const char **why);

/* The protocol's number for an error (positive or negative errno). */
uint32_t bmig_nbds_error_number(int error);

#endif
