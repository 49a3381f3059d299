/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The journal: everything that must outlive the daemon, in one SQLite file.
 *
 * One connection, used under the manager's mutex only. Rollback journal and synchronous=EXTRA: a
 * commit that returned 0 is durable. A commit that failed may or may not be: bmig_journal_settle
 * finds out, and makes what it finds durable.
 */
#ifndef BLOCKMIG_DAEMON_JOURNAL_H
#define BLOCKMIG_DAEMON_JOURNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "blockmig/core/error.h"

struct bmig_journal;
struct sqlite3_stmt;

enum { BMIG_JOURNAL_VERSION = 1 };

/* Opens the journal, makes or brings up to date its tables, and proves that it can be written. */
int bmig_journal_open(struct bmig_journal **journal, const char *path, struct bmig_error *err);
void bmig_journal_close(struct bmig_journal *journal);

int bmig_journal_begin(struct bmig_journal *journal, struct bmig_error *err);

/* 0: durable. Otherwise the outcome is in doubt until bmig_journal_settle returned 0. */
int bmig_journal_commit(struct bmig_journal *journal, struct bmig_error *err);

/* Ends a transaction that was not committed; none under way is fine. */
void bmig_journal_rollback(struct bmig_journal *journal);

/* commit where rc is 0, else rollback and rc: the end of most transactions. */
int bmig_journal_end(struct bmig_journal *journal, int rc, struct bmig_error *err);

/* Writes a transaction of no meaning. 0: it is durable, and so is all that can be read now. */
int bmig_journal_settle(struct bmig_journal *journal, struct bmig_error *err);

/* Runs one statement. types has a letter per argument: 's' const char * (NULL is NULL), 'i' int64_t
 * or uint64_t, 'b' int, 'd' double. sql must be a constant: its address names the prepared
 * statement. */
int bmig_journal_run(struct bmig_journal *journal, struct bmig_error *err, const char *sql,
                     const char *types, ...);

/* The same for each row. row returns 0 to go on. */
typedef int bmig_journal_row(void *user, struct sqlite3_stmt *row);
int bmig_journal_query(struct bmig_journal *journal, bmig_journal_row *row, void *user,
                       struct bmig_error *err, const char *sql, const char *types, ...);

/* The first column of the first row; fallback where there is none. */
int bmig_journal_number(struct bmig_journal *journal, int64_t fallback, int64_t *value,
                        struct bmig_error *err, const char *sql, const char *types, ...);

int64_t bmig_journal_last_id(struct bmig_journal *journal);

#endif
