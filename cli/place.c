/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Images by the words of the command line. A file whose name has a colon is not mistaken for
 * REPO:IMAGE when it is written as a path, and nothing is ever guessed from what an image holds.
 */
#include "cli/place.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backends/backends.h"
#include "blockmig/core/uri.h"
#include "cli/output.h"
#include "formats/formats.h"

enum { MAX_SECRET_BYTES = 1024 };

enum bmig_place_form bmig_place_form(const char *text)
{
    char scheme[16];
    const char *colon = strchr(text, ':');
    if (!colon || text[0] == '/' || text[0] == '.')
        return BMIG_PLACE_FORM_PATH;
    if (strncmp(colon, "://", 3) == 0)
        return BMIG_PLACE_FORM_URI;
    snprintf(scheme, sizeof(scheme), "%.*s", (int)(colon - text < 15 ? colon - text : 15), text);
    return bmig_backend_find(scheme) ? BMIG_PLACE_FORM_URI : BMIG_PLACE_FORM_REPO_IMAGE;
}

int bmig_place_absolute(const char *text, bool bare_is_path, char **absolute,
                        struct bmig_error *err)
{
    char folder[PATH_MAX];
    bool path = bmig_place_form(text) == BMIG_PLACE_FORM_PATH;
    bool bare = !strchr(text, '/') && text[0] != '.';
    if (!path || text[0] == '/' || (bare && !bare_is_path)) {
        *absolute = strdup(text);
    } else {
        if (!getcwd(folder, sizeof(folder)))
            return bmig_error_set(err, BMIG_FAILED, errno, "'%.200s': the current folder: %s", text,
                                  bmig_strerror(errno));
        if (asprintf(absolute, "%s/%s", folder, text) < 0)
            *absolute = NULL;
    }
    return *absolute ? 0 : bmig_error_set(err, BMIG_FAILED, ENOMEM, "no memory");
}

/* ---- secrets ---- */

static int read_secret(const char *path, char **secret, struct bmig_error *err)
{
    char text[MAX_SECRET_BYTES + 1];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    ssize_t length = fd >= 0 ? read(fd, text, sizeof(text)) : -1;
    int code = errno;
    if (fd >= 0)
        close(fd);
    if (length < 0)
        return bmig_error_set(err, bmig_error_kind_of(code), code, "--secret-file '%.200s': %s",
                              path, bmig_strerror(code));
    while (length > 0 && (text[length - 1] == '\n' || text[length - 1] == '\r'))
        length--;
    if (length == 0 || length > MAX_SECRET_BYTES || memchr(text, '\0', (size_t)length))
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "--secret-file '%.200s': no secret of 1 to %d bytes", path,
                              MAX_SECRET_BYTES);
    *secret = strndup(text, (size_t)length);
    explicit_bzero(text, sizeof(text));
    return *secret ? 0 : bmig_error_set(err, BMIG_FAILED, ENOMEM, "no memory");
}

/* Only iSCSI's CHAP has secrets; they come from a file or the environment, never from argv. */
static int find_secret(const struct bmig_uri *uri, const char *secret_file,
                       struct bmig_place *place, struct bmig_error *err)
{
    const char *environment = getenv("BLOCKMIG_SECRET");
    if (strcmp(uri->scheme, "iscsi") != 0 || !uri->user)
        return 0;
    if (secret_file)
        return read_secret(secret_file, &place->secret, err);
    if (!environment || !*environment)
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "'%.200s' names the CHAP user '%.64s' without a secret: give it with "
                              "--secret-file FILE or in BLOCKMIG_SECRET",
                              uri->text, uri->user);
    place->secret = strdup(environment);
    return place->secret ? 0 : bmig_error_set(err, BMIG_FAILED, ENOMEM, "no memory");
}

/* ---- formats ---- */

/* What the ending of a name says is checked where the image is opened. */
static int check_format(const struct bmig_place *place, struct bmig_error *err)
{
    if (!place->spec.format || bmig_format_find(place->spec.format))
        return 0;
    return bmig_error_set(err, BMIG_REFUSED, ENOTSUP,
                          "'%.200s': format %s is not supported in this build; raw is",
                          place->given, place->spec.format);
}

/* ---- REPO:IMAGE ---- */

static int ask_daemon(struct bmig_cli *cli, const char *text, struct bmig_place *place,
                      struct bmig_error *err)
{
    json_t *answer = NULL;
    int rc = bmig_cli_call(cli, "GET", "/v1/resolve?image=", text, "", NULL, &answer, err);
    if (rc < 0) {
        if (err->kind == BMIG_NO_DAEMON)
            bmig_error_prefix(err, "'%.100s' is REPO:IMAGE (a path is written ./NAME)", text);
        return rc;
    }
    const char *uri = bmig_json_text(answer, "uri", NULL);
    const char *format = bmig_json_text(answer, "format", NULL);
    const char *secret_file = bmig_json_text(answer, "secret_file", NULL);
    place->uri = uri ? strdup(uri) : NULL;
    place->format = format ? strdup(format) : NULL;
    place->secret_file = secret_file ? strdup(secret_file) : NULL;
    json_decref(answer);
    return place->uri ? 0
                      : bmig_error_set(err, BMIG_FAILED, EPROTO,
                                       "blockmigd did not say where '%.200s' is", text);
}

int bmig_place_resolve(struct bmig_cli *cli, const char *text, const char *format,
                       const char *filters, const char *secret_file, struct bmig_place *place,
                       struct bmig_error *err)
{
    *place = (struct bmig_place){.given = text};
    int rc = 0;
    if (bmig_place_form(text) == BMIG_PLACE_FORM_REPO_IMAGE)
        rc = ask_daemon(cli, text, place, err);
    place->spec.uri = place->uri ? place->uri : text;
    place->spec.format = format ? format : place->format;
    place->spec.filters = filters;
    struct bmig_uri uri = {0};
    if (rc == 0)
        rc = bmig_uri_parse(&uri, place->spec.uri, err);
    if (rc == 0)
        rc = find_secret(&uri, secret_file ? secret_file : place->secret_file, place, err);
    place->is_file = rc == 0 && strcmp(uri.scheme, "file") == 0;
    bmig_uri_fini(&uri);
    if (rc == 0)
        rc = check_format(place, err);
    return rc;
}

bool bmig_place_is_file(const struct bmig_place *place)
{
    return place->is_file;
}

void bmig_place_fini(struct bmig_place *place)
{
    if (place->secret)
        explicit_bzero(place->secret, strlen(place->secret));
    free(place->uri);
    free(place->format);
    free(place->secret);
    free(place->secret_file);
    *place = (struct bmig_place){0};
}
