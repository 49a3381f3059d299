/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The journal on SQLite: prepared statements behind two calls, and transactions whose outcome is
 * never guessed.
 *
 * Invariants: every transaction begins IMMEDIATE, so a conflict shows before anything was done; no
 * transaction is open between two calls from outside but those between begin and commit or
 * rollback.
 */
#include "blockmig/daemon/journal.h"

#include <assert.h>
#include <errno.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/daemon/journal_schema.h"
#include "blockmig/daemon/text.h"

enum { MAX_STATEMENTS = 96, BUSY_MS = 2000, APPLICATION_ID = 0x426d6967 /* "Bmig" */ };

struct bmig_journal {
    sqlite3 *db;
    char *path;
    bool in_transaction;
    unsigned statement_count;
    struct {
        const char *sql;
        sqlite3_stmt *statement;
    } statements[MAX_STATEMENTS];
};

static int errno_of(int rc)
{
    switch (rc & 0xff) {
    case SQLITE_FULL:
        return ENOSPC;
    case SQLITE_READONLY:
        return EROFS;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return EBUSY;
    case SQLITE_NOMEM:
        return ENOMEM;
    case SQLITE_PERM:
    case SQLITE_AUTH:
    case SQLITE_CANTOPEN:
        return EACCES;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return EUCLEAN;
    case SQLITE_CONSTRAINT:
        return EEXIST;
    default:
        return EIO;
    }
}

static int fail(struct bmig_journal *journal, int rc, struct bmig_error *err)
{
    int code = errno_of(rc);
    if (code == EUCLEAN)
        return bmig_error_set(
            err, BMIG_FAILED, code,
            "journal '%s' is damaged (%s): put it back from a backup, or move it away to "
            "begin with an empty one",
            journal->path, sqlite3_errmsg(journal->db));
    return bmig_error_set(err, code == EROFS || code == EACCES ? BMIG_DENIED : BMIG_FAILED, code,
                          "journal '%s': %s", journal->path,
                          journal->db ? sqlite3_errmsg(journal->db) : sqlite3_errstr(rc));
}

static int exec(struct bmig_journal *journal, const char *sql, struct bmig_error *err)
{
    int rc = sqlite3_exec(journal->db, sql, NULL, NULL, NULL);
    return rc == SQLITE_OK ? 0 : fail(journal, rc, err);
}

static int statement_for(struct bmig_journal *journal, const char *sql, sqlite3_stmt **statement,
                         struct bmig_error *err)
{
    for (unsigned i = 0; i < journal->statement_count; i++)
        if (journal->statements[i].sql == sql) {
            *statement = journal->statements[i].statement;
            return 0;
        }
    assert(journal->statement_count < MAX_STATEMENTS);
    int rc = sqlite3_prepare_v3(journal->db, sql, -1, SQLITE_PREPARE_PERSISTENT, statement, NULL);
    if (rc != SQLITE_OK)
        return fail(journal, rc, err);
    journal->statements[journal->statement_count].sql = sql;
    journal->statements[journal->statement_count++].statement = *statement;
    return 0;
}

static void bind(sqlite3_stmt *statement, const char *types, va_list args)
{
    for (int i = 1; *types; types++, i++)
        switch (*types) {
        case 's': {
            const char *text = va_arg(args, const char *);
            sqlite3_bind_text(statement, i, text, -1, SQLITE_TRANSIENT); /* NULL binds NULL */
            break;
        }
        case 'i':
            sqlite3_bind_int64(statement, i, va_arg(args, int64_t));
            break;
        case 'b':
            sqlite3_bind_int(statement, i, va_arg(args, int));
            break;
        case 'd':
            sqlite3_bind_double(statement, i, va_arg(args, double));
            break;
        default:
            assert(!"unknown letter");
        }
}

static int run(struct bmig_journal *journal, bmig_journal_row *row, void *user,
               struct bmig_error *err, const char *sql, const char *types, va_list args)
{
    sqlite3_stmt *statement;
    int rc = statement_for(journal, sql, &statement, err);
    if (rc)
        return rc;
    assert(sqlite3_bind_parameter_count(statement) == (int)strlen(types));
    bind(statement, types, args);
    int step, stop = 0;
    while ((step = sqlite3_step(statement)) == SQLITE_ROW && !stop)
        stop = row ? row(user, statement) : 0;
    rc = step == SQLITE_DONE || step == SQLITE_ROW ? 0 : fail(journal, step, err);
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    return rc;
}

int bmig_journal_run(struct bmig_journal *journal, struct bmig_error *err, const char *sql,
                     const char *types, ...)
{
    va_list args;
    va_start(args, types);
    int rc = run(journal, NULL, NULL, err, sql, types, args);
    va_end(args);
    return rc;
}

int bmig_journal_query(struct bmig_journal *journal, bmig_journal_row *row, void *user,
                       struct bmig_error *err, const char *sql, const char *types, ...)
{
    va_list args;
    va_start(args, types);
    int rc = run(journal, row, user, err, sql, types, args);
    va_end(args);
    return rc;
}

static int first_number(void *user, sqlite3_stmt *row)
{
    *(int64_t *)user = sqlite3_column_int64(row, 0);
    return 1;
}

int bmig_journal_number(struct bmig_journal *journal, int64_t fallback, int64_t *value,
                        struct bmig_error *err, const char *sql, const char *types, ...)
{
    va_list args;
    *value = fallback;
    va_start(args, types);
    int rc = run(journal, first_number, value, err, sql, types, args);
    va_end(args);
    return rc;
}

int64_t bmig_journal_last_id(struct bmig_journal *journal)
{
    return sqlite3_last_insert_rowid(journal->db);
}

int bmig_journal_begin(struct bmig_journal *journal, struct bmig_error *err)
{
    assert(!journal->in_transaction);
    int rc = exec(journal, "BEGIN IMMEDIATE", err);
    journal->in_transaction = rc == 0;
    return rc;
}

void bmig_journal_rollback(struct bmig_journal *journal)
{
    journal->in_transaction = false;
    /* Some failures have rolled back already, and then there is nothing to do. */
    if (!sqlite3_get_autocommit(journal->db))
        sqlite3_exec(journal->db, "ROLLBACK", NULL, NULL, NULL);
}

int bmig_journal_commit(struct bmig_journal *journal, struct bmig_error *err)
{
    assert(journal->in_transaction);
    /* A statement's failure may have ended the transaction: COMMIT would then say yes to nothing.
     */
    int rc = sqlite3_get_autocommit(journal->db)
                 ? bmig_error_set(err, BMIG_FAILED, EIO, "journal '%s': the transaction was lost",
                                  journal->path)
                 : exec(journal, "COMMIT", err);
    if (rc)
        bmig_journal_rollback(journal);
    journal->in_transaction = false;
    return rc;
}

int bmig_journal_end(struct bmig_journal *journal, int rc, struct bmig_error *err)
{
    if (rc == 0)
        return bmig_journal_commit(journal, err);
    bmig_journal_rollback(journal);
    return rc;
}

int bmig_journal_settle(struct bmig_journal *journal, struct bmig_error *err)
{
    bmig_journal_rollback(journal);
    int rc = bmig_journal_begin(journal, err);
    if (rc)
        return rc;
    rc = bmig_journal_run(journal, err, "UPDATE meta SET value = value + 1 WHERE key = 'settled'",
                          "");
    return bmig_journal_end(journal, rc, err);
}

static int pragma_text(void *user, sqlite3_stmt *row)
{
    bmig_text_set(user, (const char *)sqlite3_column_text(row, 0));
    return 1;
}

static int check_whole(struct bmig_journal *journal, struct bmig_error *err)
{
    char *answer = NULL;
    int rc = bmig_journal_query(journal, pragma_text, &answer, err, "PRAGMA quick_check(1)", "");
    if (rc == 0 && (!answer || strcmp(answer, "ok")))
        rc = bmig_error_set(
            err, BMIG_FAILED, EUCLEAN,
            "journal '%s' is damaged (%.200s): put it back from a backup, or move it away to "
            "begin with an empty one",
            journal->path, answer ? answer : "no answer");
    free(answer);
    return rc;
}

static int bring_up_to_date(struct bmig_journal *journal, struct bmig_error *err)
{
    int64_t version, application, tables;
    int rc = bmig_journal_begin(journal, err);
    if (rc)
        return rc;
    rc = bmig_journal_number(journal, 0, &version, err, "PRAGMA user_version", "");
    if (rc == 0)
        rc = bmig_journal_number(journal, 0, &application, err, "PRAGMA application_id", "");
    if (rc == 0)
        rc =
            bmig_journal_number(journal, 0, &tables, err, "SELECT count(*) FROM sqlite_schema", "");
    if (rc == 0 && tables > 0 && application != APPLICATION_ID)
        rc = bmig_error_set(err, BMIG_FAILED, EINVAL,
                            "'%s' is no journal of blockmig: move it away", journal->path);
    else if (rc == 0 && version > BMIG_JOURNAL_VERSION)
        rc = bmig_error_set(
            err, BMIG_FAILED, ENOTSUP,
            "journal '%s' was written by a newer blockmigd (version %d, this one knows %d)",
            journal->path, (int)version, BMIG_JOURNAL_VERSION);
    for (; rc == 0 && version < BMIG_JOURNAL_VERSION; version++)
        rc = exec(journal, bmig_journal_scripts[version], err);
    if (rc == 0) {
        char sql[96];
        sqlite3_snprintf(sizeof sql, sql, "PRAGMA user_version = %d; PRAGMA application_id = %d",
                         BMIG_JOURNAL_VERSION, APPLICATION_ID);
        rc = exec(journal, sql, err);
    }
    return bmig_journal_end(journal, rc, err);
}

static int open_database(struct bmig_journal *journal, struct bmig_error *err)
{
    int rc = sqlite3_open_v2(journal->path, &journal->db,
                             SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX |
                                 SQLITE_OPEN_NOFOLLOW,
                             NULL);
    if (rc != SQLITE_OK)
        return fail(journal, rc, err);
    sqlite3_extended_result_codes(journal->db, 1);
    sqlite3_busy_timeout(journal->db, BUSY_MS);
    rc = exec(journal,
              "PRAGMA journal_mode=DELETE; PRAGMA synchronous=EXTRA; PRAGMA foreign_keys=ON;"
              "PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON",
              err);
    if (rc == 0)
        rc = check_whole(journal, err);
    if (rc == 0)
        rc = bring_up_to_date(journal, err);
    return rc ? rc : bmig_journal_settle(journal, err);
}

int bmig_journal_open(struct bmig_journal **out, const char *path, struct bmig_error *err)
{
    struct bmig_journal *journal = bmig_zalloc(sizeof *journal);
    journal->path = bmig_text("%s", path);
    int rc = open_database(journal, err);
    if (rc) {
        bmig_journal_close(journal);
        return rc;
    }
    *out = journal;
    return 0;
}

void bmig_journal_close(struct bmig_journal *journal)
{
    if (!journal)
        return;
    for (unsigned i = 0; i < journal->statement_count; i++)
        sqlite3_finalize(journal->statements[i].statement);
    int rc = sqlite3_close(journal->db);
    assert(rc == SQLITE_OK);
    (void)rc;
    free(journal->path);
    free(journal);
}
