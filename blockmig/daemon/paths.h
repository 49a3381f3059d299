/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Where a daemon keeps its things: folders, sockets, the journal and the lock that keeps a second
 * daemon out.
 */
#ifndef BLOCKMIG_DAEMON_PATHS_H
#define BLOCKMIG_DAEMON_PATHS_H

#include "blockmig/core/error.h"

struct bmig_paths {
    char *root; /* NULL: the system's folders */
    char *etc, *run, *state, *log;
    char *socket;  /* the API's */
    char *journal; /* the SQLite file */
    char *lock;
    char *config; /* may not exist */
};

/* Works out the paths under root, or the system's where root is NULL. BMIG_USAGE where the API's
 * socket would not fit into a unix address. Touches nothing. */
int bmig_paths_init(struct bmig_paths *paths, const char *root, struct bmig_error *err);
void bmig_paths_fini(struct bmig_paths *paths);

/* Makes the folders that are missing (0755 etc, 0700 the rest). */
int bmig_paths_make(const struct bmig_paths *paths, struct bmig_error *err);

/* Takes the state folder for this process; the lock ends with the descriptor. BMIG_DENIED, naming
 * the holder's pid, where another daemon has it. */
int bmig_paths_lock(const struct bmig_paths *paths, int *fd, struct bmig_error *err);

/* "RUN/volume-NAME.control" and the like; malloc'd. */
char *bmig_paths_control(const struct bmig_paths *paths, const char *volume);
char *bmig_paths_nbd(const struct bmig_paths *paths, const char *volume);
char *bmig_paths_volume_log(const struct bmig_paths *paths, const char *volume);

/* BMIG_USAGE where a volume of that name would have sockets that don't fit into a unix address. */
int bmig_paths_check_volume(const struct bmig_paths *paths, const char *volume,
                            struct bmig_error *err);

#endif
