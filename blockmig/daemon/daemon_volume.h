/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Volumes as the control plane sees them: what the journal says of them, and the worker that serves
 * them.
 */
#ifndef BLOCKMIG_DAEMON_DAEMON_VOLUME_H
#define BLOCKMIG_DAEMON_DAEMON_VOLUME_H

#include "blockmig/core/disk.h"
#include "blockmig/daemon/manager.h"

int bmig_daemon_volume_load_locked(struct bmig_manager *manager, struct bmig_error *err);

struct bmig_daemon_volume *bmig_daemon_volume_find_locked(struct bmig_manager *manager,
                                                          const char *name, struct bmig_error *err);

/* Makes an image and a volume on it; the image first recorded, then made. size_bytes: a multiple of
 * 512. */
int bmig_daemon_volume_create(struct bmig_manager *manager, const char *name, const char *repo,
                              uint64_t size_bytes, const char *format, struct bmig_error *err);

/* A volume on an image that exists, which stays its owner's: it is never removed by us. */
int bmig_daemon_volume_import(struct bmig_manager *manager, const char *name, const char *words,
                              const char *format, struct bmig_error *err);
int bmig_daemon_volume_delete(struct bmig_manager *manager, const char *name,
                              struct bmig_error *err);

json_t *bmig_daemon_volume_list(struct bmig_manager *manager);
json_t *bmig_daemon_volume_show(struct bmig_manager *manager, const char *name,
                                struct bmig_error *err);
const char *bmig_daemon_volume_state_name(enum bmig_volume_state state);

/* BMIG_DENIED, naming the volume, where replica is or may become the image of one other than
 * except. */
int bmig_daemon_volume_check_unused_locked(struct bmig_manager *manager,
                                           const struct bmig_replica *replica, const char *except,
                                           struct bmig_error *err);

/* Inside a transaction: the row of a replica; its id is filled in. */
int bmig_replica_insert(struct bmig_manager *manager, struct bmig_replica *replica,
                        const char *volume, const char *role, struct bmig_error *err);

/* ---- its worker (volume_worker.c) ---- */

/* Starts it, or finds it started already. listen: more URIs to serve at (an array, or NULL).
 * for_job: a job needs it; it stays "not wanted" if it was stopped. Blocks. */
int bmig_daemon_volume_start(struct bmig_manager *manager, const char *name, json_t *listen,
                             bool for_job, struct bmig_error *err);
int bmig_daemon_volume_stop(struct bmig_manager *manager, const char *name, bool force,
                            bool for_job, struct bmig_error *err);

/* Finds or (may_spawn) starts a worker for the volume, which the caller holds busy, and makes it
 * the volume's. Blocks. -ENOENT without err: none lives and none may be started (volume_launch.c).
 */
int bmig_daemon_volume_launch(struct bmig_manager *manager, const char *name, bool may_spawn,
                              const struct bmig_client_events *events, struct bmig_error *err);

/* The URI that local clients use; malloc'd. */
char *bmig_daemon_volume_nbd_uri(struct bmig_manager *manager, const char *name);

/* Begins to bring up a volume whose worker is missing, on a thread. */
void bmig_daemon_volume_revive_locked(struct bmig_manager *manager,
                                      struct bmig_daemon_volume *volume);

/* At start, before other threads: undoes creations that a dead daemon left half done. */
void bmig_daemon_volume_finish_creations(struct bmig_manager *manager);
void bmig_daemon_volume_free_all(struct bmig_manager *manager);

/* At start: workers that live are found again, those that should live are started; on threads. */
void bmig_daemon_volume_adopt_all_locked(struct bmig_manager *manager);

/* A reference to its worker, or NULL; *generation may be NULL. */
struct bmig_client *bmig_daemon_volume_worker_locked(struct bmig_daemon_volume *volume,
                                                     uint64_t *generation);

/* {"event": "volume", ...} to the streams. */
void bmig_daemon_volume_publish_locked(struct bmig_manager *manager,
                                       const struct bmig_daemon_volume *volume);

#endif
