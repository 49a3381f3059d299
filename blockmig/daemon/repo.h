/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Repositories: named places, and the way from REPO:IMAGE to an image that can be opened.
 */
#ifndef BLOCKMIG_DAEMON_REPO_H
#define BLOCKMIG_DAEMON_REPO_H

#include "blockmig/core/disk.h"
#include "blockmig/daemon/manager.h"
#include "blockmig/stack/image.h"

int bmig_repo_load_locked(struct bmig_manager *manager, struct bmig_error *err);

void bmig_repo_free_all(struct bmig_manager *manager);

int bmig_repo_add(struct bmig_manager *manager, const char *name, const char *uri,
                  uint64_t max_jobs, const char *secret_file, struct bmig_error *err);
int bmig_repo_remove(struct bmig_manager *manager, const char *name, struct bmig_error *err);

/* All, or the one of that name with its room as well (asks the place: blocks). NULL with err: no
 * such. */
json_t *bmig_repo_list(struct bmig_manager *manager);
json_t *bmig_repo_show(struct bmig_manager *manager, const char *name, struct bmig_error *err);

struct bmig_repo *bmig_repo_find_locked(struct bmig_manager *manager, const char *name,
                                        struct bmig_error *err);

/* Fills repo, image and uri from "REPO", "REPO:IMAGE" or a URI; a folder named without an image is
 * given default_image (NULL: an error). format: NULL takes the ending's. Doesn't touch the place.
 * replica is zeroed or filled before. */
int bmig_repo_resolve(struct bmig_manager *manager, const char *words, const char *default_image,
                      const char *format, struct bmig_replica *replica, struct bmig_error *err);

/* ---- images, blocking, without the mutex ---- */

/* Reads a file that holds a secret, without its trailing newline. file NULL: *secret NULL. */
int bmig_repo_secret_read(const char *file, char **secret, struct bmig_error *err);

/* What a replica needs to be opened: its secret, read from its repository's file. The caller wipes
 * and frees *secret (bmig_repo_secret_free); NULL: there is none. */
int bmig_repo_secret(struct bmig_manager *manager, const struct bmig_replica *replica,
                     char **secret, struct bmig_error *err);
void bmig_repo_secret_free(char *secret);

int bmig_replica_stat(struct bmig_manager *manager, const struct bmig_replica *replica,
                      struct bmig_place_stat *stat, struct bmig_error *err);
/* Whether an image that does not exist could be made there: for local paths, which else say nothing
 * of a folder that is missing or can't be written. */
int bmig_replica_check_folder(const char *uri, struct bmig_error *err);
int bmig_replica_create(struct bmig_manager *manager, const struct bmig_replica *replica,
                        uint64_t size_bytes, struct bmig_error *err);
/* Removing what does not exist is done already. Refuses an image that is a volume's primary, but
 * for the volume named owner (NULL: none), which is being deleted. */
int bmig_replica_remove(struct bmig_manager *manager, const struct bmig_replica *replica,
                        const char *owner, struct bmig_error *err);

/* The IMAGE object of the worker's protocol; NULL with err where the secret can't be read. */
json_t *bmig_replica_image_json(struct bmig_manager *manager, const struct bmig_replica *replica,
                                bool known_zero, struct bmig_error *err);

#endif
