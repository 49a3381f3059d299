/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The journal's tables, one script per version: script N takes a journal of version N to N + 1. A
 * script that was released is never changed.
 */
#ifndef BLOCKMIG_DAEMON_JOURNAL_SCHEMA_H
#define BLOCKMIG_DAEMON_JOURNAL_SCHEMA_H

static const char *const bmig_journal_scripts[] = {
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL);"
    "INSERT INTO meta VALUES ('settled', 0);"

    "CREATE TABLE repos ("
    "  name TEXT PRIMARY KEY, uri TEXT NOT NULL, settings TEXT NOT NULL, created_ms INTEGER NOT "
    "NULL);"

    /* wanted: a worker is to run. ready: its image exists. listen: what the user asked for, JSON.
     */
    "CREATE TABLE volumes ("
    "  name TEXT PRIMARY KEY, size_bytes INTEGER NOT NULL, epoch INTEGER NOT NULL,"
    "  primary_replica INTEGER NOT NULL REFERENCES replicas(id) DEFERRABLE INITIALLY DEFERRED,"
    "  wanted INTEGER NOT NULL, ready INTEGER NOT NULL, listen TEXT NOT NULL,"
    "  created_ms INTEGER NOT NULL);"

    /* made: the image was created by us, so it is ours to remove. */
    "CREATE TABLE replicas ("
    "  id INTEGER PRIMARY KEY AUTOINCREMENT,"
    "  volume TEXT NOT NULL REFERENCES volumes(name) ON DELETE CASCADE"
    "    DEFERRABLE INITIALLY DEFERRED,"
    "  repo TEXT REFERENCES repos(name), image TEXT, uri TEXT NOT NULL, format TEXT NOT NULL,"
    "  identity TEXT NOT NULL, made INTEGER NOT NULL,"
    "  role TEXT NOT NULL CHECK (role IN ('primary', 'secondary')));"
    "CREATE INDEX replicas_by_volume ON replicas(volume);"

    "CREATE TABLE jobs ("
    "  id INTEGER PRIMARY KEY, kind TEXT NOT NULL, state TEXT NOT NULL, phase TEXT NOT NULL,"
    "  volume TEXT NOT NULL, source TEXT NOT NULL, target TEXT NOT NULL, options TEXT NOT NULL,"
    "  stats TEXT NOT NULL, places TEXT NOT NULL, error TEXT, result TEXT, percent REAL NOT NULL,"
    "  flipped INTEGER NOT NULL,"
    "  created_ms INTEGER NOT NULL, started_ms INTEGER NOT NULL, switched_ms INTEGER NOT NULL,"
    "  finished_ms INTEGER NOT NULL);"

    /* One row per phase that was entered, written before it begins.
     * state: begun, done, undone, void (while the switch holds there is nothing to undo). */
    "CREATE TABLE phases ("
    "  job INTEGER NOT NULL REFERENCES jobs(id) ON DELETE CASCADE, seq INTEGER NOT NULL,"
    "  phase TEXT NOT NULL, undo TEXT NOT NULL, state TEXT NOT NULL, PRIMARY KEY (job, phase));"

    "CREATE TABLE events ("
    "  id INTEGER PRIMARY KEY AUTOINCREMENT, time_ms INTEGER NOT NULL, job INTEGER NOT NULL,"
    "  text TEXT NOT NULL);",
};

#endif
