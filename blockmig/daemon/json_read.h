/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Reading JSON objects strictly: a table says which keys there are; every other key, and every
 * wrong type, is BMIG_USAGE with the key's name.
 */
#ifndef BLOCKMIG_DAEMON_JSON_READ_H
#define BLOCKMIG_DAEMON_JSON_READ_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "blockmig/core/error.h"

enum bmig_json_type {
    BMIG_JSON_STRING,  /* const char *, borrowed from the object */
    BMIG_JSON_U64,     /* uint64_t: an integer from 0 to 2^63 - 1 */
    BMIG_JSON_BOOL,    /* bool */
    BMIG_JSON_STRINGS, /* json_t *, borrowed: an array of strings */
};

struct bmig_json_field {
    const char *name; /* NULL ends the table */
    enum bmig_json_type type;
    void *value; /* left alone where the key is missing or null */
    bool required;
    bool *given; /* may be NULL */
};

int bmig_json_read(const json_t *object, const struct bmig_json_field *fields,
                   struct bmig_error *err);

/* Parses text as one object. BMIG_USAGE with line and column otherwise; an empty text is {}. */
int bmig_json_parse(const char *text, size_t length, json_t **object, struct bmig_error *err);

/* {"kind": ..., "code": ..., "message": ...} */
json_t *bmig_json_error(const struct bmig_error *err);

#endif
