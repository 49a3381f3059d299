/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The URIs that name images and repositories, taken apart and percent-decoded.
 */
#ifndef BLOCKMIG_CORE_URI_H
#define BLOCKMIG_CORE_URI_H

#include <stdint.h>

#include "blockmig/core/error.h"

enum { BMIG_URI_MAX_PARAMS = 16 };

struct bmig_uri {
    char *scheme;  /* "file", "nfs", "iscsi", "nbd", "nbds", "nbd+unix", "mem"; lower case */
    char *user;    /* NULL where there is none */
    char *host;    /* NULL or the name or address, IPv6 without its brackets */
    uint16_t port; /* 0 where there is none */
    char *
        path; /* decoded, from the first '/' on; "" where there is none. file: always absolute; mem: and
                     the filters: a name, without a '/' of its own */
    struct {
        char *name;
        char *value;
    } params[BMIG_URI_MAX_PARAMS];
    unsigned param_count;
    char *text; /* the URI as given, without its user's password if it had one: safe to print */
};

/* Parses text: a URI, or a plain path (absolute or relative), which becomes file with an absolute
 * path. What begins with a scheme we know and ':' is a URI, and so is what begins with any word of two
 * letters or more and "://"; everything else is a plain path and taken byte for byte ('%', '?', ':', newlines
 * mean nothing in it). BMIG_USAGE for: an empty text; in a URI %00, a control character,
 * a bad escape, an unknown scheme, a missing host, a port that is none, a password in the
 * authority (secrets come from files or the environment), more parameters than fit, a name given
 * twice. Takes nothing; *uri is filled on success and freed with bmig_uri_fini. */
int bmig_uri_parse(struct bmig_uri *uri, const char *text, struct bmig_error *err);
void bmig_uri_fini(struct bmig_uri *uri);

/* The value of a parameter, or NULL. Borrowed until bmig_uri_fini. */
const char *bmig_uri_param(const struct bmig_uri *uri, const char *name);

/* A parameter as a number between min and max; fallback where it is not given; BMIG_USAGE where it is
 * no such number. */
int bmig_uri_param_u64(const struct bmig_uri *uri, const char *name, uint64_t min, uint64_t max,
                       uint64_t fallback, uint64_t *value, struct bmig_error *err);

/* BMIG_USAGE where uri has a parameter that is not among names (NULL-terminated). */
int bmig_uri_check_params(const struct bmig_uri *uri, const char *const *names,
                          struct bmig_error *err);

#endif
