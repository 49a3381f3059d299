/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A loop, a pool and up to two images on it: what copy, verify, info and check stand on.
 */
#ifndef CLI_SESSION_H
#define CLI_SESSION_H

#include "blockmig/core/buffer.h"
#include "blockmig/engine/mirror.h"
#include "cli/place.h"
#include "cli/progress.h"

struct bmig_session {
    struct bmig_loop *loop;
    struct bmig_pool *pool;
    struct bmig_disk *disks[2];
    struct bmig_painter painter;
    char label[16];
    uint64_t begin_ns;
    const volatile sig_atomic_t *stop;
};

/* A session whose disks are yet to be opened. Catches SIGINT and its like. label: of progress
 * lines. */
int bmig_session_begin(struct bmig_session *session, struct bmig_cli *cli, const char *label,
                       struct bmig_error *err);

/* Opens place into disks[index] and attaches it. */
int bmig_session_open(struct bmig_session *session, unsigned index, const struct bmig_place *place,
                      const struct bmig_open_options *options, struct bmig_error *err);

/* Waits for what is in flight, closes and frees everything. Of a zeroed session too. */
void bmig_session_end(struct bmig_session *session);

/* progress of struct bmig_transfer_options; user is the session. */
void bmig_session_progress(void *user, const struct bmig_mirror_stats *stats);

/* How place is to be opened. still: nobody may write to it meanwhile, where a lock can see to that.
 */
struct bmig_open_options bmig_session_options(const struct bmig_place *place, bool writable,
                                              bool still);

/* stat of place, where BMIG_NOT_FOUND is an image that does not exist. */
int bmig_session_stat(const struct bmig_place *place, struct bmig_place_stat *stat,
                      struct bmig_error *err);

/* Puts more at the end of a message that is set. */
void bmig_session_add(struct bmig_error *err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
