/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * URIs: RFC 3986's generic syntax as far as images need it, and the line between a URI and a plain
 * path.
 *
 * A text is a URI if it begins with the name of a scheme we know and ':', or with any scheme's name
 * and
 * "://" (which is refused if we don't know it). Everything else is a plain path, taken byte for
 * byte: '%',
 * '?', '#', ':' and newlines in it mean nothing, and "C:\x", "json:{}" or "disk:1" are files.
 * Whoever has a file whose relative name reads like a URI writes "./" before it.
 */
#include "blockmig/core/uri.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum authority {
    NO_AUTHORITY, /* all before '?' is the path, a mere name */
    LOCAL,        /* [//[localhost]]path, made absolute */
    NO_HOST,      /* ///path */
    HOST,         /* //[user@]host[:port]/path */
};

static const struct scheme {
    const char *name;
    enum authority authority;
} schemes[] = {
    {"file", LOCAL},          {"nfs", HOST},
    {"iscsi", HOST},          {"nbd", HOST},
    {"nbds", HOST},           {"nbd+unix", NO_HOST},
    {"nbds+unix", NO_HOST},   {"mem", NO_AUTHORITY},
    {"faults", NO_AUTHORITY}, {"delay", NO_AUTHORITY},
    {"record", NO_AUTHORITY},
};

static bool is_scheme_char(char c, bool first)
{
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
        return true;
    return !first && ((c >= '0' && c <= '9') || c == '+' || c == '.' || c == '-');
}

/* Length of the scheme that text begins with if it is a URI, 0 if it is a plain path; *scheme is
 * NULL for one that we don't know. */
static size_t match_scheme(const char *text, const struct scheme **scheme)
{
    size_t length = 0;
    while (is_scheme_char(text[length], length == 0))
        length++;
    *scheme = NULL;
    if (length < 2 || text[length] != ':')
        return 0;
    bool slashes = strncmp(text + length + 1, "//", 2) == 0;
    for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++) {
        const char *name = schemes[i].name;
        if (strlen(name) == length &&
            (strncmp(text, name, length) == 0 || (slashes && strncasecmp(text, name, length) == 0)))
            *scheme = &schemes[i];
    }
    return *scheme || slashes ? length : 0;
}

/* What of text may be shown: not what follows ':' or '%' in the user's part, where a password may
 * be. */
static char *safe_text(const char *text)
{
    char *safe = strdup(text);
    char *authority = safe ? strstr(safe, "://") : NULL;
    if (!authority)
        return safe;
    authority += 3;
    char *end = authority + strcspn(authority, "/?");
    char *at = memrchr(authority, '@', (size_t)(end - authority));
    char *secret = authority + strcspn(authority, ":%@");
    if (at && secret < at)
        memmove(secret, at, strlen(at) + 1);
    return safe;
}

struct parser {
    struct bmig_uri *uri;
    const char *safe;
    struct bmig_error *err;
};

static int refuse(struct parser *parser, const char *why)
{
    return bmig_error_set(parser->err, BMIG_USAGE, EINVAL, "'%s': %s", parser->safe, why);
}

static int no_memory(struct bmig_error *err)
{
    return bmig_error_set(err, BMIG_FAILED, ENOMEM, "out of memory");
}

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Decodes length bytes of text into a new string. */
static int decode(struct parser *parser, const char *text, size_t length, char **out)
{
    char *decoded = malloc(length + 1);
    if (!decoded)
        return no_memory(parser->err);
    size_t used = 0;
    const char *why = NULL;
    for (size_t i = 0; i < length && !why; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '%') {
            int high = i + 1 < length ? hex(text[i + 1]) : -1;
            int low = high >= 0 && i + 2 < length ? hex(text[i + 2]) : -1;
            if (low < 0)
                why = "a '%' must be followed by two hexadecimal digits (write '%' itself as %25)";
            c = (unsigned char)(high * 16 + low);
            i += 2;
        }
        if (!why && (c < 0x20 || c == 0x7f))
            why = c == 0 ? "%00 can't be in a name" : "control characters can't be in a URI";
        decoded[used++] = (char)c;
    }
    decoded[used] = '\0';
    if (why) {
        free(decoded);
        return refuse(parser, why);
    }
    *out = decoded;
    return 0;
}

static int parse_port(struct parser *parser, const char *text, size_t length)
{
    uint32_t port = 0;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9' || i >= 5)
            return refuse(parser, "the port must be a number from 1 to 65535");
        port = port * 10 + (uint32_t)(text[i] - '0');
    }
    if (port == 0 || port > 65535)
        return refuse(parser, "the port must be a number from 1 to 65535");
    parser->uri->port = (uint16_t)port;
    return 0;
}

/* host[:port], an IPv6 address in brackets. */
static int parse_host(struct parser *parser, const char *text, size_t length)
{
    const char *end = text + length;
    const char *host = text, *host_end, *rest;
    if (length > 0 && *text == '[') {
        host = text + 1;
        host_end = memchr(host, ']', length - 1);
        if (!host_end)
            return refuse(parser, "an IPv6 address must end with ']'");
        for (const char *p = host; p < host_end; p++)
            if (hex(*p) < 0 && *p != ':' && *p != '.')
                return refuse(parser, "what is in brackets must be an IPv6 address");
        rest = host_end + 1;
    } else {
        host_end = memchr(text, ':', length);
        if (!host_end)
            host_end = end;
        rest = host_end;
        if (memchr(rest, ':', (size_t)(end - rest)) != memrchr(rest, ':', (size_t)(end - rest)))
            return refuse(parser, "an IPv6 address must be in brackets, as in [::1]");
    }
    if (host == host_end)
        return refuse(parser, "it names no host");
    if (rest < end && *rest != ':')
        return refuse(parser, "there is something between ']' and the port");
    int status = decode(parser, host, (size_t)(host_end - host), &parser->uri->host);
    if (status == 0 && rest < end)
        status = parse_port(parser, rest + 1, (size_t)(end - rest - 1));
    return status;
}

static int parse_authority(struct parser *parser, const char *text, size_t length)
{
    const char *at = memrchr(text, '@', length);
    if (at) {
        size_t user_length = (size_t)(at - text);
        if (user_length == 0)
            return refuse(parser, "there is no user before '@'");
        if (memchr(text, ':', user_length))
            return refuse(parser,
                          "a password does not belong into a URI, where others see it; give it "
                          "by a file or the environment");
        int status = decode(parser, text, user_length, &parser->uri->user);
        if (status < 0)
            return status;
        length -= user_length + 1;
        text = at + 1;
    }
    return parse_host(parser, text, length);
}

/* Puts the working folder before a relative path. Takes path over. */
static int make_absolute(char **path, struct bmig_error *err)
{
    assert(*path);
    if ((*path)[0] == '/')
        return 0;
    char *folder = getcwd(NULL, 0);
    if (!folder)
        return bmig_error_set(err, bmig_error_kind_of(errno), errno,
                              "the working folder can't be told: %s; give an absolute path",
                              bmig_strerror(errno));
    char *absolute = NULL;
    int length = asprintf(&absolute, "%s/%s", strcmp(folder, "/") ? folder : "", *path);
    free(folder);
    if (length < 0)
        return no_memory(err);
    free(*path);
    *path = absolute;
    return 0;
}

static int parse_path(struct parser *parser, const struct scheme *scheme, const char *text,
                      size_t length)
{
    bool slashes = scheme->authority != NO_AUTHORITY && length >= 2 && memcmp(text, "//", 2) == 0;
    if (!slashes && (scheme->authority == HOST || scheme->authority == NO_HOST)) {
        char why[160];
        snprintf(why, sizeof(why),
                 "write it as %s://%s/...; if it is meant to be a file's name, put ./ before it",
                 scheme->name, scheme->authority == HOST ? "HOST" : "");
        return refuse(parser, why);
    }
    if (slashes) {
        text += 2;
        length -= 2;
        const char *slash = memchr(text, '/', length);
        size_t authority = slash ? (size_t)(slash - text) : length;
        int status = 0;
        if (scheme->authority == HOST)
            status = parse_authority(parser, text, authority);
        else if (scheme->authority == NO_HOST && authority > 0)
            status = refuse(parser, "there is no host in it: three slashes, then the name");
        else if (authority > 0 && !(authority == 9 && memcmp(text, "localhost", 9) == 0))
            status = refuse(parser, "a file is on this host: three slashes, then the path");
        if (status < 0)
            return status;
        text += authority;
        length -= authority;
    }
    int status = decode(parser, text, length, &parser->uri->path);
    if (status != 0 || scheme->authority != LOCAL)
        return status;
    if (length == 0)
        return refuse(parser, "it names no path");
    return make_absolute(&parser->uri->path, parser->err);
}

static int parse_param(struct parser *parser, const char *text, size_t length)
{
    struct bmig_uri *uri = parser->uri;
    const char *equals = memchr(text, '=', length);
    size_t name_length = equals ? (size_t)(equals - text) : length;
    if (name_length == 0)
        return refuse(parser, "there is a parameter without a name");
    if (uri->param_count == BMIG_URI_MAX_PARAMS)
        return refuse(parser, "it has more than 16 parameters");
    char *name = NULL, *value = NULL;
    int status = decode(parser, text, name_length, &name);
    if (status == 0)
        status = equals ? decode(parser, equals + 1, length - name_length - 1, &value)
                        : decode(parser, "", 0, &value);
    if (status == 0 && bmig_uri_param(uri, name)) {
        char why[120];
        snprintf(why, sizeof(why), "the parameter '%.60s' is given twice", name);
        status = refuse(parser, why);
    }
    if (status < 0) {
        free(name);
        free(value);
        return status;
    }
    uri->params[uri->param_count].name = name;
    uri->params[uri->param_count++].value = value;
    return 0;
}

static int parse_params(struct parser *parser, const char *text)
{
    while (*text) {
        size_t length = strcspn(text, "&");
        int status = parse_param(parser, text, length);
        if (status < 0)
            return status;
        text += length;
        if (*text == '&' && *++text == '\0')
            return refuse(parser, "there is a parameter without a name");
    }
    return 0;
}

static int parse_uri(struct parser *parser, const struct scheme *scheme, const char *rest)
{
    size_t length = strcspn(rest, "?");
    int status = parse_path(parser, scheme, rest, length);
    if (status == 0 && rest[length] == '?')
        status = parse_params(parser, rest + length + 1);
    return status;
}

static int parse_text(struct parser *parser, const char *text)
{
    const struct scheme *scheme;
    size_t length = match_scheme(text, &scheme);
    struct bmig_uri *uri = parser->uri;
    if (length > 0 && !scheme)
        return refuse(parser,
                      "there is no such scheme; those known are file, nfs, iscsi, nbd, nbds, "
                      "nbd+unix and nbds+unix");
    uri->text = strdup(scheme ? parser->safe : text);
    uri->scheme = strdup(scheme ? scheme->name : "file");
    if (!uri->text || !uri->scheme)
        return no_memory(parser->err);
    if (scheme)
        return parse_uri(parser, scheme, text + length + 1);
    uri->path = strdup(text);
    if (!uri->path)
        return no_memory(parser->err);
    return make_absolute(&uri->path, parser->err);
}

int bmig_uri_parse(struct bmig_uri *out, const char *text, struct bmig_error *err)
{
    if (!text || !*text)
        return bmig_error_set(err, BMIG_USAGE, EINVAL, "an empty name is no image");
    char *safe = safe_text(text);
    if (!safe)
        return no_memory(err);
    struct bmig_uri uri = {0};
    struct parser parser = {.uri = &uri, .safe = safe, .err = err};
    int status = parse_text(&parser, text);
    free(safe);
    if (status < 0) {
        bmig_uri_fini(&uri);
        return status;
    }
    *out = uri;
    return 0;
}

void bmig_uri_fini(struct bmig_uri *uri)
{
    free(uri->scheme);
    free(uri->user);
    free(uri->host);
    free(uri->path);
    free(uri->text);
    for (unsigned i = 0; i < uri->param_count; i++) {
        free(uri->params[i].name);
        free(uri->params[i].value);
    }
    memset(uri, 0, sizeof(*uri));
}

const char *bmig_uri_param(const struct bmig_uri *uri, const char *name)
{
    for (unsigned i = 0; i < uri->param_count; i++)
        if (strcmp(uri->params[i].name, name) == 0)
            return uri->params[i].value;
    return NULL;
}

int bmig_uri_param_u64(const struct bmig_uri *uri, const char *name, uint64_t min, uint64_t max,
                       uint64_t fallback, uint64_t *value, struct bmig_error *err)
{
    const char *text = bmig_uri_param(uri, name);
    if (!text) {
        *value = fallback;
        return 0;
    }
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || number < min || number > max)
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "'%s': %s must be a number from %llu to %llu, not '%s'", uri->text,
                              name, (unsigned long long)min, (unsigned long long)max, text);
    *value = number;
    return 0;
}

int bmig_uri_check_params(const struct bmig_uri *uri, const char *const *names,
                          struct bmig_error *err)
{
    for (unsigned i = 0; i < uri->param_count; i++) {
        const char *const *name = names;
        while (*name && strcmp(*name, uri->params[i].name) != 0)
            name++;
        if (*name)
            continue;
        char known[200] = "";
        for (name = names; *name; name++) {
            size_t used = strlen(known);
            snprintf(known + used, sizeof(known) - used, "%s%s", used ? ", " : "", *name);
        }
        return bmig_error_set(err, BMIG_USAGE, EINVAL, "%s: knows no parameter '%s' (%s%s)",
                              uri->scheme, uri->params[i].name,
                              *known ? "it knows " : "it has none", known);
    }
    return 0;
}
