/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The server's half of the NBD handshake as a machine over bytes: no sockets, no loop, no
 * allocation, so that a test or a fuzzer can feed it anything.
 *
 * Invariant: it answers one message at a time. Input is taken only while the output of the message
 * before has been sent, so what a client can make it hold is one answer.
 */
#ifndef BLOCKMIG_WORKER_NBD_HANDSHAKE_H
#define BLOCKMIG_WORKER_NBD_HANDSHAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "blockmig/worker/nbd_protocol.h"

/* What there is to be had. Strings are borrowed as long as a handshake runs. */
struct bmig_nbds_export {
    const char *name;        /* also answers to ""; at most NBD_MAX_STRING_BYTES */
    const char *description; /* short; "" where there is none */
    uint64_t size_bytes;
    uint16_t flags; /* nbd_transmission_flags, all but SEND_DF */
    uint32_t block_min_bytes, block_preferred_bytes, block_max_bytes;
};

enum bmig_nbds_phase {
    BMIG_NBDS_FLAGS,   /* the client's flags are awaited */
    BMIG_NBDS_OPTION,  /* an option */
    BMIG_NBDS_SKIP,    /* the rest of the data of an option that is refused */
    BMIG_NBDS_READY,   /* to transmission, once the output is sent */
    BMIG_NBDS_GOODBYE, /* close, once the output is sent */
};

enum {
    /* An option with more data is refused, but skipped: the longest that means anything to us has
       two strings. */
    BMIG_NBDS_OPTION_MAX_BYTES = 16384,
    /* One with more still is taken for an attack ("Termination of the session during option
       haggling"). */
    BMIG_NBDS_OPTION_SKIP_BYTES = 1 << 20,
    BMIG_NBDS_OUT_BYTES = NBD_MAX_STRING_BYTES + 1024,
    BMIG_NBDS_CONTEXT_ID = 1, /* base:allocation's, the only one */
};

struct bmig_nbds_handshake {
    const struct bmig_nbds_export *export;
    enum bmig_nbds_phase phase;
    bool no_zeroes;
    bool structured; /* replies, negotiated */
    bool allocation; /* base:allocation selected */
    uint32_t option; /* being skipped */
    uint32_t skip_bytes;
    uint32_t skip_reply;
    uint32_t out_bytes;
    uint8_t out[BMIG_NBDS_OUT_BYTES];
};

/* Puts the greeting into out. */
void bmig_nbds_handshake_init(struct bmig_nbds_handshake *handshake,
                              const struct bmig_nbds_export *export);

/* Takes at most one message from data and returns how many bytes that were: 0 where more are needed
 * first (at most BMIG_NBDS_OPTION_MAX_BYTES + 16 in all) or the phase is READY or GOODBYE, whose
 * bytes are not ours. The answer is in out; the caller sends it and sets out_bytes to 0 before it
 * calls again (asserted). */
size_t bmig_nbds_handshake_input(struct bmig_nbds_handshake *handshake, const uint8_t *data,
                                 size_t length);

#endif
