/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What the command line prints: JSON documents, aligned tables, errors; never a byte that a
 * terminal would take for a command.
 */
#ifndef CLI_OUTPUT_H
#define CLI_OUTPUT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

#include "blockmig/core/error.h"

/* A copy of text with control characters and what is not UTF-8 written as \n or \xNN; malloc'd.
 * NULL where there is no memory. */
char *bmig_output_clean(const char *text);

/* text as a JSON string, cleaned as above where it has to be. Never fails but for memory (NULL). */
json_t *bmig_output_json_text(const char *text);

/* One document and a newline; takes over object. */
void bmig_output_json(FILE *out, json_t *object);
/* One line, for streams; borrows object. */
void bmig_output_json_line(FILE *out, const json_t *object);

/* "blockmig: MESSAGE", or with json {"error":{"kind","code","message"}}. */
void bmig_output_error(FILE *out, bool json, const struct bmig_error *err);

/* ---- reading answers: a key that is missing, null or of another type is the fallback ---- */

const char *bmig_json_text(const json_t *object, const char *key, const char *fallback);
uint64_t bmig_json_u64(const json_t *object, const char *key, uint64_t fallback);
double bmig_json_real(const json_t *object, const char *key, double fallback);
bool bmig_json_true(const json_t *object, const char *key);

/* ---- tables ---- */

enum { BMIG_TABLE_MAX_COLUMNS = 12 };

struct bmig_table {
    const char *const
        *titles; /* NULL-terminated; one that begins with '>' is aligned to the right */
    unsigned columns;
    char **cells;
    unsigned cell_count, capacity;
    bool failed; /* memory */
};

void bmig_table_init(struct bmig_table *table, const char *const *titles);
void bmig_table_add(struct bmig_table *table, const char *cell); /* copied, cleaned; row by row */
void bmig_table_add_size(struct bmig_table *table, uint64_t bytes);
/* Writes and frees. An empty table is empty_text on stderr instead, so that stdout has rows only.
 */
void bmig_table_print(struct bmig_table *table, FILE *out, const char *empty_text);

/* "key   value" lines of an object, nested ones as "key.inner"; for whatever has no text of its
 * own. */
void bmig_output_fields(FILE *out, const json_t *object);

/* "10.0 GiB": one decimal from KiB on; "unknown" for UINT64_MAX. Returns text. */
char *bmig_output_size(char *text, size_t capacity, uint64_t bytes);
/* "1.2 ms"; "-" for UINT64_MAX. */
char *bmig_output_us(char *text, size_t capacity, uint64_t us);

#endif
