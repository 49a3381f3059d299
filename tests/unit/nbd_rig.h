/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A rig for tests of the NBD server: server, volume and mem disk on one loop, a gate between volume
 * and disk that can hold and fail requests, and raw clients that say any bytes. One thread: what a
 * client waits for, the rig steps the loop for.
 */
#ifndef TESTS_UNIT_NBD_RIG_H
#define TESTS_UNIT_NBD_RIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "blockmig/core/disk.h"
#include "blockmig/worker/nbd_protocol.h"
#include "blockmig/worker/nbd_server.h"

struct gate {
    bool hold;            /* requests stay at the gate until gate_open */
    int fail_op;          /* -1: none, or an enum bmig_op */
    uint64_t fail_offset; /* requests of fail_op that touch this byte fail ... */
    int fail_status;      /* ... with this */
    uint64_t seen[BMIG_OP_COUNT];
    uint64_t most_bytes; /* of one READ or WRITE */
    uint32_t last_flags;
    uint64_t last_offset, last_length;
    uint32_t held;
};

struct rig {
    struct bmig_loop *loop;
    struct bmig_pool *pool;
    struct bmig_disk *disk;
    struct bmig_volume *volume;
    struct bmig_nbd_server *server;
    char folder[64];
    char path[96];
    char uri[160];
    int descriptors; /* open before */
};

extern struct gate gate;
extern uint32_t gate_lacks; /* capabilities, from the next rig_start on */

/* Every field of options that is 0 has its default. pool_mib 0: 32. */
void rig_start(struct rig *rig, uint64_t size_bytes, const struct bmig_nbd_server_options *options,
               unsigned pool_mib);
/* Stops the server and asserts that nothing was left: no client, no memory, no descriptor. */
void nbd_rig_stop(struct rig *rig);
void rig_step(struct rig *rig);
/* Steps for as long as anything happens. */
void rig_settle(struct rig *rig);
void gate_open(struct rig *rig);

/* A descriptor connected to the rig; close() it. */
int rig_connect(struct rig *rig);
/* All of it, while the server runs. */
void rig_send(struct rig *rig, int fd, const void *data, size_t length);
void rig_receive(struct rig *rig, int fd, void *data, size_t length);
/* The server has hung up, and there is nothing left to read. */
void rig_expect_end(struct rig *rig, int fd);
/* There is nothing to read, even after all has settled. */
void rig_expect_silence(struct rig *rig, int fd);
void rig_wait_clients(struct rig *rig, uint32_t clients);

/* Connects and shakes hands: EXPORT_NAME, or STRUCTURED_REPLY, base:allocation and GO. */
int rig_client(struct rig *rig, bool structured);

/* The 28 bytes of a request. */
void rig_request(uint8_t *bytes, unsigned type, unsigned flags, uint64_t cookie, uint64_t offset,
                 uint32_t length);
void rig_send_request(struct rig *rig, int fd, unsigned type, unsigned flags, uint64_t cookie,
                      uint64_t offset, uint32_t length);
/* A reply or chunk's header: cookie and error (simple), or type, flags and length. */
struct rig_reply {
    bool structured;
    uint64_t cookie;
    uint32_t error;
    unsigned type, flags;
    uint32_t length;
};
struct rig_reply rig_reply(struct rig *rig, int fd);
/* A simple reply to cookie with error (0: success). */
void rig_expect(struct rig *rig, int fd, uint64_t cookie, uint32_t error);
/* A final error chunk. */
void rig_expect_error_chunk(struct rig *rig, int fd, uint64_t cookie, uint32_t error);
/* Reads by request, simple or structured, to the end; error is what came of it. */
uint32_t rig_read(struct rig *rig, int fd, bool structured, uint64_t offset, uint32_t length,
                  uint8_t *data);
/* The rest of a structured read's answer: chunks into data, until DONE. Asserts that they cover it
 * once. */
uint32_t rig_read_chunks(struct rig *rig, int fd, uint64_t cookie, uint64_t offset, uint32_t length,
                         uint8_t *data, unsigned *chunks);
uint32_t rig_write(struct rig *rig, int fd, uint64_t offset, uint32_t length, const uint8_t *data);

uint64_t rig_random(uint64_t *seed);

#endif
