/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Reading JSON objects strictly.
 */
#include "blockmig/daemon/json_read.h"

#include <errno.h>
#include <string.h>

static const struct bmig_json_field *find(const struct bmig_json_field *fields, const char *name)
{
    for (; fields->name; fields++)
        if (strcmp(fields->name, name) == 0)
            return fields;
    return NULL;
}

static int wrong(const char *name, const char *what, struct bmig_error *err)
{
    return bmig_error_set(err, BMIG_USAGE, EINVAL, "'%s' must be %s", name, what);
}

static int read_field(const struct bmig_json_field *field, json_t *value, struct bmig_error *err)
{
    switch (field->type) {
    case BMIG_JSON_STRING:
        if (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value))
            return wrong(field->name, "a string", err);
        *(const char **)field->value = json_string_value(value);
        break;
    case BMIG_JSON_U64:
        if (!json_is_integer(value) || json_integer_value(value) < 0)
            return wrong(field->name, "a whole number, 0 or more", err);
        *(uint64_t *)field->value = (uint64_t)json_integer_value(value);
        break;
    case BMIG_JSON_BOOL:
        if (!json_is_boolean(value))
            return wrong(field->name, "true or false", err);
        *(bool *)field->value = json_is_true(value);
        break;
    case BMIG_JSON_STRINGS: {
        size_t i;
        json_t *item;
        if (!json_is_array(value))
            return wrong(field->name, "an array of strings", err);
        json_array_foreach(value, i, item) if (!json_is_string(item)) return wrong(
            field->name, "an array of strings", err);
        *(json_t **)field->value = value;
        break;
    }
    }
    if (field->given)
        *field->given = true;
    return 0;
}

int bmig_json_read(const json_t *object, const struct bmig_json_field *fields,
                   struct bmig_error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        const struct bmig_json_field *field = find(fields, key);
        if (!field)
            return bmig_error_set(err, BMIG_USAGE, EINVAL, "unknown key '%.100s'", key);
        if (json_is_null(value))
            continue;
        int rc = read_field(field, value, err);
        if (rc)
            return rc;
    }
    for (const struct bmig_json_field *field = fields; field->name; field++)
        if (field->required &&
            (!(value = json_object_get(object, field->name)) || json_is_null(value)))
            return bmig_error_set(err, BMIG_USAGE, EINVAL, "'%s' is missing", field->name);
    return 0;
}

int bmig_json_parse(const char *text, size_t length, json_t **object, struct bmig_error *err)
{
    json_error_t why;
    if (length == 0) {
        *object = json_object();
        return 0;
    }
    json_t *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        return bmig_error_set(err, BMIG_USAGE, EINVAL, "not JSON: line %d, column %d: %s", why.line,
                              why.column, why.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return bmig_error_set(err, BMIG_USAGE, EINVAL, "a JSON object is expected");
    }
    *object = root;
    return 0;
}

json_t *bmig_json_error(const struct bmig_error *err)
{
    json_t *message = json_string(err->message);
    if (!message) /* not UTF-8: some library's or file's name */
        message = json_string("the message is not valid UTF-8");
    return json_pack("{s:s, s:i, s:o}", "kind", bmig_error_kind_name(err->kind), "code", err->code,
                     "message", message);
}
