/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Where an NFS image is: its server, its directory's handle, its name and, where it exists, its
 * file.
 *
 * nfs://host[:nfsport]/export/path/to/image?uid=&gid=&nfsport=&mountport=&version=3. Where the
 * export ends and the path begins is for the server to say: MNT is tried on the image's directory
 * and then on ever shorter prefixes; what is left is walked by LOOKUP.
 */
#ifndef BACKENDS_NFS_PLACE_H
#define BACKENDS_NFS_PLACE_H

#include "backends/nfs_sync.h"
#include "blockmig/core/disk.h"
#include "blockmig/core/error.h"
#include "blockmig/core/uri.h"

/* A new image's time of change, which no write leaves as it is: it tells that an image was never
 * written to. Servers say how much room a file takes with too many meanings for that alone to tell.
 */
enum { BMIG_NFS_FRESH_MTIME_S = 1234567890, BMIG_NFS_FRESH_USED_BYTES = 65536 };

struct bmig_nfs_place {
    char text[200];   /* nfs://host/path, for messages */
    char host[256];   /* as named */
    char address[64]; /* numeric: what was connected to, and is again */
    uint16_t nfs_port, mount_port;
    uint32_t uid, gid;
    uint64_t timeout_ns;
    struct bmig_nfs_link link; /* connected to the NFS port */
    char export[1024];         /* what MNT took */
    struct bmig_nfs_fh directory;
    char name[256];
    bool exists;
    struct bmig_nfs_fh file;  /* where it exists */
    struct fattr3 attributes; /* where it exists */
};

/* Finds the directory that uri's image is in, and whether it is. NOT_FOUND where the directory
 * isn't there. On success the caller ends with bmig_nfs_place_fini. */
int bmig_nfs_place_find(struct bmig_nfs_place *place, const struct bmig_uri *uri,
                        const struct bmig_open_options *options, struct bmig_error *err);
void bmig_nfs_place_fini(struct bmig_nfs_place *place);

/* Sets err for a call on place that failed with result (-errno): "cannot WHAT 'nfs://...': why;
 * remedy". */
int bmig_nfs_place_error(const struct bmig_nfs_place *place, int result, const char *what,
                         struct bmig_error *err);

/* bmig_driver's slots. */
int bmig_nfs_create(const struct bmig_uri *uri, uint64_t size_bytes,
                    const struct bmig_open_options *options, struct bmig_error *err);
int bmig_nfs_remove(const struct bmig_uri *uri, const struct bmig_open_options *options,
                    struct bmig_error *err);
int bmig_nfs_stat(const struct bmig_uri *uri, const struct bmig_open_options *options,
                  struct bmig_place_stat *stat, struct bmig_error *err);

#endif
