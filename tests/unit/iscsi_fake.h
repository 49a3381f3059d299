/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * An iSCSI target in a thread of the test: a small disk in memory, and rules that make it
 * misbehave.
 *
 * It knows as much of RFC 7143 as a session of libiscsi needs. Every function may be called while
 * it serves.
 */
#ifndef TESTS_UNIT_ISCSI_FAKE_H
#define TESTS_UNIT_ISCSI_FAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FAKE_BYTES = 4 << 20, FAKE_BLOCK = 512, FAKE_LOGIN = 0x100, FAKE_NOP = 0x101 };

enum fake_action {
    FAKE_STATUS,  /* answer with `status` and, for 2, `sense` (key << 16 | asc << 8 | ascq) */
    FAKE_CUT,     /* send the first `bytes` of the answer, then close the connection */
    FAKE_MUTE,    /* carry it out and say nothing */
    FAKE_GARBAGE, /* answer with 48 bytes of `status` */
    FAKE_SHORT,   /* GOOD, with the residual of a short transfer */
};

struct fake_rule {
    int opcode;   /* of SCSI, or FAKE_LOGIN, FAKE_NOP */
    uint8_t cdb1; /* bits that must be set in the CDB's second byte */
    int count;    /* commands it holds for; -1: all */
    enum fake_action action;
    uint8_t status;
    uint32_t sense;
    uint32_t bytes;
};

struct fake_options {
    bool thin, zeroes, unmap, ws_unmap, no_write_cache;
    uint32_t window; /* MaxCmdSN - ExpCmdSN + 1; 0: 32 */
    const char *serial;
};

struct fake;

struct fake *fake_new(const struct fake_options *options);
void fake_free(struct fake *fake);

/* "iscsi://127.0.0.1:PORT/iqn.fake/0" in a buffer of the fake's. */
const char *fake_uri(struct fake *fake);

void fake_rule(struct fake *fake, struct fake_rule rule); /* after those there are */
void fake_forget(struct fake *fake);                      /* no rules any more */
void fake_resize(struct fake *fake, uint64_t bytes);      /* at most FAKE_BYTES */
void fake_rename(struct fake *fake, const char *serial);

unsigned fake_count(struct fake *fake, int opcode);    /* how many came */
uint64_t fake_isid(struct fake *fake, unsigned login); /* of the n-th login there was; 0: none */
uint8_t *fake_bytes(struct fake *fake);

#endif
