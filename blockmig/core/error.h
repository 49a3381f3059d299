/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Errors of the control path: what failed, where, and what the user can do about it.
 *
 * The I/O path returns 0 or -errno and prints nothing. The control path returns the same and takes
 * a struct bmig_error as its last argument, which is untouched on success and set once on failure.
 * Its kind is what decides the CLI's exit code, so kinds and exit codes are one table.
 */
#ifndef BLOCKMIG_CORE_ERROR_H
#define BLOCKMIG_CORE_ERROR_H

#include <stdarg.h>

/* The values are the CLI's exit codes, and the API's "kind" strings name them. */
enum bmig_error_kind {
    BMIG_OK = 0,
    BMIG_FAILED = 1,    /* it was tried and did not work; message says what holds now */
    BMIG_USAGE = 2,     /* the words of the request are wrong; nothing was tried */
    BMIG_REFUSED = 3,   /* preflight: the request is understood and would not be safe or possible */
    BMIG_CANCELLED = 4, /* someone asked for it to stop */
    BMIG_NO_DAEMON = 5, /* no blockmigd answers at the root in use */
    BMIG_NOT_FOUND = 6, /* the thing named does not exist */
    BMIG_DENIED = 7,    /* it exists and may not be used: permission, lock, another writer */
    BMIG_TIMED_OUT = 8, /* a wait the caller bounded ran out; the thing waited for goes on */
};

struct bmig_error {
    enum bmig_error_kind kind;
    int code; /* positive errno, or 0 where none fits */
    char message[512];
};

/* Sets err (may be NULL) and returns -code, or -EIO where code is 0. A second set on the same err
 * is a programming error and keeps the first. message: "what 'which': why; what to do". */
int bmig_error_set(struct bmig_error *err, enum bmig_error_kind kind, int code, const char *format,
                   ...) __attribute__((format(printf, 4, 5)));

/* Puts "prefix: " before the message of an err that is set. */
void bmig_error_prefix(struct bmig_error *err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The kind that an errno (positive) stands for where nothing better is known: ENOENT is NOT_FOUND,
 * EACCES, EPERM, EROFS and EBUSY are DENIED, the rest FAILED. */
enum bmig_error_kind bmig_error_kind_of(int code);

/* "failed", "usage", "refused", ...; and back, BMIG_FAILED where the word is unknown. */
const char *bmig_error_kind_name(enum bmig_error_kind kind);
enum bmig_error_kind bmig_error_kind_from_name(const char *name);

/* strerror without its shared buffer: the result is a constant string. */
const char *bmig_strerror(int code);

#endif
