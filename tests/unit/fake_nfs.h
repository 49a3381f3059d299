/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * An NFSv3 server of a test's own, on a thread, with one export "/export" of files in memory, which
 * misbehaves on request: it forgets what was not committed, changes its verifier, answers short,
 * asks for time, fails, falls silent, cuts connections.
 *
 * Every file has its bytes and its stable bytes: UNSTABLE writes change the first, FILE_SYNC and
 * COMMIT the second too, and a restart puts the stable ones back. MOUNT and NFS share one port. One
 * server at a time.
 */
#ifndef TESTS_UNIT_FAKE_NFS_H
#define TESTS_UNIT_FAKE_NFS_H

#include <stdbool.h>
#include <stdint.h>

enum fake_nfs_call {
    FAKE_READ,
    FAKE_WRITE,
    FAKE_WRITE_SYNC, /* those WRITEs that ask for FILE_SYNC; counted as WRITE too */
    FAKE_COMMIT,
    FAKE_CONNECTION,
    FAKE_CALLS,
};

/* How it misbehaves; all zero: not at all. Set as a whole. */
struct fake_nfs_faults {
    uint32_t most_bytes;   /* a READ or WRITE does at most so many */
    uint32_t jukebox;      /* so many READs, WRITEs, COMMITs get NFS3ERR_JUKEBOX */
    uint32_t fail_status;  /* every WRITE gets this */
    uint32_t fail_reads;   /* every READ gets this */
    uint32_t fail_commits; /* so many COMMITs get NFS3ERR_IO, and what they were to make stable
                              stays so */
    bool frozen;           /* nothing is read or answered; connections are not accepted */
    bool hung;             /* READ, WRITE, COMMIT are done but not answered; the rest is */
    uint32_t cut_after;   /* the connection is closed instead of the answer, at the Nth READ, WRITE,
                             COMMIT */
    uint32_t restart_at;  /* a restart in place of the Nth READ, WRITE, COMMIT */
    uint32_t forget_at;   /* a silent restart before the Nth */
    bool late_commit;     /* one COMMIT is done at once but answered behind the next WRITE */
    bool long_reads;      /* READs answer more than was asked */
    bool bad_handles;     /* LOOKUP gives a handle longer than the protocol's 64 bytes */
    uint32_t deny_access; /* ACCESS bits that are withheld */
    bool no_hard_links;
};

void fake_nfs_start(void);
void fake_nfs_stop(void);
uint16_t fake_nfs_port(void);

/* "nfs://127.0.0.1/export/NAME?nfsport=P&mountport=P&uid=0&gid=0", in a static buffer. */
const char *fake_nfs_uri(const char *name);

void fake_nfs_set(struct fake_nfs_faults faults);

/* Crash and come back at once: connections break, unstable bytes are gone, the verifier is another.
 */
void fake_nfs_restart(void);
/* The same without breaking a connection, as an address that moves to another machine may. */
void fake_nfs_forget(void);

uint64_t fake_nfs_count(enum fake_nfs_call call);
uint32_t fake_nfs_open_connections(void);
/* Puts a file there (size_bytes of zeroes where text is NULL), both stable and not. */
void fake_nfs_put(const char *name, const char *text, uint64_t size_bytes);
bool fake_nfs_has(const char *name);
uint64_t fake_nfs_size(const char *name);
void fake_nfs_truncate(const char *name, uint64_t size_bytes);
/* Copies what would survive a crash. */
void fake_nfs_stable(const char *name, uint64_t offset, uint64_t length, void *into);

#endif
