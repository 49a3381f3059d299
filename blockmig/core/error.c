/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Errors of the control path, and the one table of kinds.
 */
#include "blockmig/core/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char *const kind_names[] = {
    [BMIG_OK] = "ok",
    [BMIG_FAILED] = "failed",
    [BMIG_USAGE] = "usage",
    [BMIG_REFUSED] = "refused",
    [BMIG_CANCELLED] = "cancelled",
    [BMIG_NO_DAEMON] = "no-daemon",
    [BMIG_NOT_FOUND] = "not-found",
    [BMIG_DENIED] = "denied",
    [BMIG_TIMED_OUT] = "timed-out",
};

enum { KIND_COUNT = sizeof(kind_names) / sizeof(kind_names[0]) };

int bmig_error_set(struct bmig_error *err, enum bmig_error_kind kind, int code, const char *format,
                   ...)
{
    if (err && err->kind == BMIG_OK) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(err->message, sizeof(err->message), format, arguments);
        va_end(arguments);
        err->kind = kind;
        err->code = code;
    }
    return code > 0 ? -code : -EIO;
}

void bmig_error_prefix(struct bmig_error *err, const char *format, ...)
{
    if (!err || err->kind == BMIG_OK)
        return;
    char prefix[sizeof(err->message)];
    char whole[sizeof(err->message)];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(prefix, sizeof(prefix), format, arguments);
    va_end(arguments);
    size_t used = strnlen(prefix, sizeof(prefix) - 3);
    memcpy(whole, prefix, used);
    memcpy(whole + used, ": ", 2);
    snprintf(whole + used + 2, sizeof(whole) - used - 2, "%s", err->message);
    memcpy(err->message, whole, sizeof(whole));
}

enum bmig_error_kind bmig_error_kind_of(int code)
{
    switch (code) {
    case ENOENT:
        return BMIG_NOT_FOUND;
    case EACCES:
    case EPERM:
    case EROFS:
    case EBUSY:
        return BMIG_DENIED;
    case ECANCELED:
        return BMIG_CANCELLED;
    default:
        return BMIG_FAILED;
    }
}

const char *bmig_error_kind_name(enum bmig_error_kind kind)
{
    return (unsigned)kind < KIND_COUNT ? kind_names[kind] : kind_names[BMIG_FAILED];
}

enum bmig_error_kind bmig_error_kind_from_name(const char *name)
{
    for (unsigned kind = 0; name && kind < KIND_COUNT; kind++)
        if (strcmp(kind_names[kind], name) == 0)
            return (enum bmig_error_kind)kind;
    return BMIG_FAILED;
}

const char *bmig_strerror(int code)
{
    const char *text = strerrordesc_np(code);
    return text ? text : "unknown error";
}
