/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * NFSv3 calls one at a time, blocking and bounded: for opening, creating, looking, locking.
 *
 * libnfs's own blocking calls wait for ever and turn errors into others, so these drive its raw
 * calls with poll. Every call returns 0 or -errno as the server said it (NFS3ERR_NOSPC is -ENOSPC),
 * and leaves the words for it in link->reason. NFS3ERR_JUKEBOX is tried again until the time is up.
 * A call that times out or loses its connection ends the link: later calls return -ENOTCONN.
 */
#ifndef BACKENDS_NFS_SYNC_H
#define BACKENDS_NFS_SYNC_H

#include <stdbool.h>
#include <stdint.h>

#include <nfsc/libnfs.h> /* first: the others use its types */

#include <nfsc/libnfs-raw.h>

#include <nfsc/libnfs-raw-mount.h>
#include <nfsc/libnfs-raw-nfs.h>

struct bmig_nfs_fh {
    uint32_t length_bytes;
    char data[NFS3_FHSIZE];
};

struct bmig_nfs_link {
    struct rpc_context *rpc; /* NULL: not connected */
    uint64_t timeout_ns;
    char reason[160];
};

/* Connects to a port of a numeric address as uid and gid (AUTH_SYS). */
int bmig_nfs_link_open(struct bmig_nfs_link *link, const char *address, uint16_t port, uint32_t uid,
                       uint32_t gid, uint64_t timeout_ns);
void bmig_nfs_link_close(struct bmig_nfs_link *link);

/* An rpc context with its credentials set and reconnecting left to us; NULL where memory is short.
 */
struct rpc_context *bmig_nfs_context_new(uint32_t uid, uint32_t gid);

/* The TCP port of a program, from a link to a portmapper; -ENOENT where it is not registered. */
int bmig_nfs_call_getport(struct bmig_nfs_link *link, uint32_t program, uint32_t version,
                          uint16_t *port);

/* *auth_sys: whether the server takes AUTH_SYS for this export. */
int bmig_nfs_call_mount(struct bmig_nfs_link *link, const char *directory, struct bmig_nfs_fh *fh,
                        bool *auth_sys);

int bmig_nfs_call_null(struct bmig_nfs_link *link);
int bmig_nfs_call_getattr(struct bmig_nfs_link *link, const struct bmig_nfs_fh *fh,
                          struct fattr3 *attributes);
int bmig_nfs_call_lookup(struct bmig_nfs_link *link, const struct bmig_nfs_fh *directory,
                         const char *name, struct bmig_nfs_fh *fh);
int bmig_nfs_call_access(struct bmig_nfs_link *link, const struct bmig_nfs_fh *fh, uint32_t wanted,
                         uint32_t *granted);
int bmig_nfs_call_fsinfo(struct bmig_nfs_link *link, const struct bmig_nfs_fh *fh,
                         struct FSINFO3resok *info);
int bmig_nfs_call_fsstat(struct bmig_nfs_link *link, const struct bmig_nfs_fh *fh,
                         struct FSSTAT3resok *info);
/* CREATE GUARDED: -EEXIST where the name is taken. fh is left empty where the server names none. */
int bmig_nfs_call_create(struct bmig_nfs_link *link, const struct bmig_nfs_fh *directory,
                         const char *name, uint32_t mode, struct bmig_nfs_fh *fh);
int bmig_nfs_call_set_size(struct bmig_nfs_link *link, const struct bmig_nfs_fh *fh,
                           uint64_t size_bytes);
int bmig_nfs_call_set_mtime(struct bmig_nfs_link *link, const struct bmig_nfs_fh *fh,
                            uint32_t seconds);
int bmig_nfs_call_remove(struct bmig_nfs_link *link, const struct bmig_nfs_fh *directory,
                         const char *name);
int bmig_nfs_call_rename(struct bmig_nfs_link *link, const struct bmig_nfs_fh *directory,
                         const char *from, const char *to);
int bmig_nfs_call_link(struct bmig_nfs_link *link, const struct bmig_nfs_fh *file,
                       const struct bmig_nfs_fh *directory, const char *name);
/* Of small files, from their begin: bytes read, or -errno; all of text stably written, or -errno.
 */
int bmig_nfs_call_read_text(struct bmig_nfs_link *link, const struct bmig_nfs_fh *fh, char *text,
                            uint32_t capacity);
int bmig_nfs_call_write_text(struct bmig_nfs_link *link, const struct bmig_nfs_fh *fh,
                             const char *text);

/* Positive errno of an nfsstat3; EIO for what has no better. */
int bmig_nfs_errno(uint32_t status);

#endif
