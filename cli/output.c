/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Printing. Names come from users and servers, so everything that reaches a terminal is cleaned
 * first.
 */
#include "cli/output.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/core/units.h"

/* The length of the UTF-8 sequence at text, or 0 where there is none (RFC 3629, section 4). */
static unsigned utf8_length(const unsigned char *text)
{
    unsigned first = text[0];
    unsigned length = first < 0x80   ? 1
                      : first < 0xc2 ? 0
                      : first < 0xe0 ? 2
                      : first < 0xf0 ? 3
                      : first < 0xf5 ? 4
                                     : 0;
    for (unsigned i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    }
    if ((first == 0xe0 && text[1] < 0xa0) || (first == 0xed && text[1] > 0x9f) ||
        (first == 0xf0 && text[1] < 0x90) || (first == 0xf4 && text[1] > 0x8f))
        return 0;
    return length;
}

char *bmig_output_clean(const char *text)
{
    char *cleaned = malloc(strlen(text) * 4 + 1);
    char *out = cleaned;
    if (!cleaned)
        return NULL;
    for (const unsigned char *at = (const unsigned char *)text; *at;) {
        unsigned length = utf8_length(at);
        /* C0, DEL, and the C1 controls that UTF-8 writes as c2 80 to c2 9f */
        bool control = *at < 0x20 || *at == 0x7f || (length == 2 && at[0] == 0xc2 && at[1] < 0xa0);
        if (length && !control) {
            memcpy(out, at, length);
            out += length;
            at += length;
        } else if (*at == '\n') {
            *out++ = '\\';
            *out++ = 'n';
            at++;
        } else {
            out += sprintf(out, "\\x%02x", *at);
            at++;
        }
    }
    *out = '\0';
    return cleaned;
}

json_t *bmig_output_json_text(const char *text)
{
    char *cleaned = bmig_output_clean(text);
    json_t *string = cleaned ? json_string(cleaned) : NULL;
    free(cleaned);
    return string;
}

void bmig_output_json(FILE *out, json_t *object)
{
    json_dumpf(object, out, JSON_INDENT(2) | JSON_ENCODE_ANY);
    fputc('\n', out);
    json_decref(object);
}

void bmig_output_json_line(FILE *out, const json_t *object)
{
    json_dumpf(object, out, JSON_COMPACT | JSON_ENCODE_ANY);
    fputc('\n', out);
    fflush(out);
}

void bmig_output_error(FILE *out, bool json, const struct bmig_error *err)
{
    char *message = bmig_output_clean(err->message);
    const char *text = message ? message : "no memory";
    if (json)
        bmig_output_json(out, json_pack("{s:{s:s,s:i,s:s}}", "error", "kind",
                                        bmig_error_kind_name(err->kind), "code", err->code,
                                        "message", text));
    else
        fprintf(out, "blockmig: %s\n", text);
    free(message);
}

/* ---- reading answers ---- */

const char *bmig_json_text(const json_t *object, const char *key, const char *fallback)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : fallback;
}

uint64_t bmig_json_u64(const json_t *object, const char *key, uint64_t fallback)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value) || json_number_value(value) < 0)
        return fallback;
    return json_is_integer(value) ? (uint64_t)json_integer_value(value)
                                  : (uint64_t)json_real_value(value);
}

double bmig_json_real(const json_t *object, const char *key, double fallback)
{
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : fallback;
}

bool bmig_json_true(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
}

/* ---- tables ---- */

void bmig_table_init(struct bmig_table *table, const char *const *titles)
{
    *table = (struct bmig_table){.titles = titles};
    while (titles[table->columns])
        table->columns++;
    assert(table->columns <= BMIG_TABLE_MAX_COLUMNS);
}

void bmig_table_add(struct bmig_table *table, const char *cell)
{
    if (table->cell_count == table->capacity) {
        unsigned capacity = table->capacity ? table->capacity * 2 : 64;
        char **cells = realloc(table->cells, capacity * sizeof(*cells));
        if (!cells) {
            table->failed = true;
            return;
        }
        table->cells = cells;
        table->capacity = capacity;
    }
    char *copy = bmig_output_clean(cell);
    if (!copy)
        table->failed = true;
    else
        table->cells[table->cell_count++] = copy;
}

void bmig_table_add_size(struct bmig_table *table, uint64_t bytes)
{
    char text[32];
    bmig_table_add(table, bmig_output_size(text, sizeof(text), bytes));
}

/* Characters, not bytes: continuation bytes take no column. Wide characters may be off, no more. */
static unsigned text_width(const char *text)
{
    unsigned width = 0;
    for (; *text; text++)
        width += (*text & 0xc0) != 0x80;
    return width;
}

static void put_cell(FILE *out, const char *text, unsigned width, bool right, bool last)
{
    unsigned pad = width - text_width(text);
    fprintf(out, "%*s%s", right ? (int)pad : 0, "", text);
    if (!last)
        fprintf(out, "%*s", (right ? 0 : (int)pad) + 2, "");
}

static void print_rows(struct bmig_table *table, FILE *out)
{
    unsigned widths[BMIG_TABLE_MAX_COLUMNS] = {0};
    for (unsigned i = 0; i < table->columns; i++)
        widths[i] = text_width(table->titles[i] + (table->titles[i][0] == '>'));
    for (unsigned i = 0; i < table->cell_count; i++) {
        unsigned width = text_width(table->cells[i]);
        if (width > widths[i % table->columns])
            widths[i % table->columns] = width;
    }
    for (unsigned i = 0; i < table->columns; i++) {
        const char *title = table->titles[i];
        put_cell(out, title + (title[0] == '>'), widths[i], title[0] == '>',
                 i + 1 == table->columns);
    }
    for (unsigned i = 0; i < table->cell_count; i++) {
        unsigned column = i % table->columns;
        fprintf(out, "%s", column ? "" : "\n");
        put_cell(out, table->cells[i], widths[column], table->titles[column][0] == '>',
                 column + 1 == table->columns);
    }
    fputc('\n', out);
}

void bmig_table_print(struct bmig_table *table, FILE *out, const char *empty_text)
{
    if (table->failed)
        fprintf(stderr, "blockmig: no memory for the table\n");
    else if (table->cell_count == 0)
        fprintf(stderr, "%s\n", empty_text);
    else
        print_rows(table, out);
    for (unsigned i = 0; i < table->cell_count; i++)
        free(table->cells[i]);
    free(table->cells);
}

/* ---- objects without a text of their own ---- */

/* "a, b, c" where all are strings; NULL otherwise. */
static char *join_strings(const json_t *array)
{
    char *joined = strdup(""), *text = NULL;
    size_t index;
    const json_t *value;
    json_array_foreach((json_t *)array, index, value)
    {
        const char *string = json_string_value(value);
        if (!string || !joined ||
            asprintf(&text, "%s%s%s", joined, index ? ", " : "", string) < 0) {
            free(joined);
            return NULL;
        }
        free(joined);
        joined = text;
    }
    return joined;
}

/* "guest_p99_us", "guest_p99_us_before" */
static bool ends_in_us(const char *key)
{
    const char *unit = strstr(key, "_us");
    return unit && (unit[3] == '\0' || unit[3] == '_');
}

static void put_field(FILE *out, const char *key, const json_t *value)
{
    char size[32];
    const char *unit = strstr(key, "bytes");
    char *text = NULL, *joined = json_is_array(value) ? join_strings(value) : NULL;
    if (joined) {
        text = bmig_output_clean(joined);
        free(joined);
    } else if (json_is_string(value)) {
        text = bmig_output_clean(json_string_value(value));
    } else if (json_is_integer(value) && unit && json_integer_value(value) >= 1024) {
        bmig_output_size(size, sizeof(size), (uint64_t)json_integer_value(value));
        if (asprintf(&text, "%" JSON_INTEGER_FORMAT " (%s)", json_integer_value(value), size) < 0)
            text = NULL;
    } else if (json_is_integer(value) && ends_in_us(key) && json_integer_value(value) >= 1000) {
        bmig_output_us(size, sizeof(size), (uint64_t)json_integer_value(value));
        if (asprintf(&text, "%" JSON_INTEGER_FORMAT " (%s)", json_integer_value(value), size) < 0)
            text = NULL;
    } else if (json_is_null(value)) {
        text = strdup("-");
    } else {
        text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    }
    fprintf(out, "%-30s %s\n", key, text ? text : "");
    free(text);
}

static void put_fields(FILE *out, const char *prefix, const json_t *object)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        char name[128];
        snprintf(name, sizeof(name), "%s%s%s", prefix, *prefix ? "." : "", key);
        if (json_is_object(value))
            put_fields(out, name, value);
        else
            put_field(out, name, value);
    }
}

void bmig_output_fields(FILE *out, const json_t *object)
{
    put_fields(out, "", object);
}

char *bmig_output_size(char *text, size_t capacity, uint64_t bytes)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    unsigned unit = 0;
    double value = (double)bytes;
    if (bytes == UINT64_MAX) {
        snprintf(text, capacity, "unknown");
        return text;
    }
    /* 1023.95 and above would print as "1024.0" */
    while (unit < 6 && value >= (unit ? 1023.95 : 1024)) {
        value /= 1024;
        unit++;
    }
    if (unit)
        snprintf(text, capacity, "%.1f %s", value, units[unit]);
    else
        snprintf(text, capacity, "%" PRIu64 " %s", bytes, bytes == 1 ? "byte" : "bytes");
    return text;
}

char *bmig_output_us(char *text, size_t capacity, uint64_t us)
{
    if (us == UINT64_MAX)
        snprintf(text, capacity, "-");
    else if (us < 1000)
        snprintf(text, capacity, "%" PRIu64 " us", us);
    else if (us < 1000000)
        snprintf(text, capacity, "%.1f ms", (double)us / 1e3);
    else
        snprintf(text, capacity, "%.1f s", (double)us / 1e6);
    return text;
}
