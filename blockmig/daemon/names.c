/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Names that people give. An image's name can never lead out of its repository: it is checked part
 * by part here and percent-encoded into the URI, so that nothing in it can become a parameter or
 * another host.
 */
#include "blockmig/daemon/names.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "backends/backends.h"
#include "blockmig/core/uri.h"
#include "blockmig/daemon/text.h"

static bool is_alnum(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

int bmig_name_check(const char *what, const char *name, struct bmig_error *err)
{
    size_t length = strlen(name);
    if (length == 0)
        return bmig_error_set(err, BMIG_USAGE, EINVAL, "the name of a %s is empty", what);
    if (length > BMIG_NAME_MAX_BYTES)
        return bmig_error_set(err, BMIG_USAGE, ENAMETOOLONG,
                              "the %s name '%.40s...' has %zu bytes: at most %d", what, name,
                              length, BMIG_NAME_MAX_BYTES);
    if (!is_alnum(name[0]))
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "the %s name '%s' must begin with a letter or a digit", what, name);
    for (const char *c = name; *c; c++)
        if (!is_alnum(*c) && !strchr("._-", *c))
            return bmig_error_set(
                err, BMIG_USAGE, EINVAL,
                "the %s name '%s': only letters, digits, '.', '_' and '-' are allowed "
                "(byte %zu is not)",
                what, name, (size_t)(c - name) + 1);
    return 0;
}

static int check_part(const char *image, const char *part, size_t length, struct bmig_error *err)
{
    if (length == 0)
        return bmig_error_set(err, BMIG_USAGE, EINVAL, "image '%s': a part of the path is empty",
                              image);
    if (length > 255)
        return bmig_error_set(err, BMIG_USAGE, ENAMETOOLONG,
                              "image '%.60s...': a part of the path has %zu bytes: at most 255",
                              image, length);
    if ((length == 1 && part[0] == '.') || (length == 2 && part[0] == '.' && part[1] == '.'))
        return bmig_error_set(
            err, BMIG_USAGE, EINVAL,
            "image '%s': '.' and '..' are not allowed, an image is inside its repository", image);
    return 0;
}

int bmig_image_name_check(const char *image, struct bmig_error *err)
{
    size_t length = strlen(image);
    if (length == 0)
        return bmig_error_set(err, BMIG_USAGE, EINVAL, "the name of the image is empty");
    if (length > BMIG_IMAGE_NAME_MAX_BYTES)
        return bmig_error_set(err, BMIG_USAGE, ENAMETOOLONG,
                              "the image name '%.40s...' has %zu bytes: at most %d", image, length,
                              BMIG_IMAGE_NAME_MAX_BYTES);
    if (image[0] == '/')
        return bmig_error_set(
            err, BMIG_USAGE, EINVAL,
            "image '%s': a path inside the repository is meant, without a leading '/'", image);
    for (const char *c = image; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            return bmig_error_set(err, BMIG_USAGE, EINVAL,
                                  "the name of the image has a control character at byte %zu",
                                  (size_t)(c - image) + 1);
    for (const char *part = image;;) {
        size_t part_length = strcspn(part, "/");
        int rc = check_part(image, part, part_length, err);
        if (rc)
            return rc;
        if (!part[part_length])
            return 0;
        part += part_length + 1;
    }
}

static bool has_scheme(const char *text)
{
    return strstr(text, "://") != NULL;
}

/* "iqn" is one part of the path, "iqn/lun" two. */
static unsigned path_parts(const char *path)
{
    unsigned parts = 0;
    while (*path) {
        path += strspn(path, "/");
        if (*path)
            parts++;
        path += strcspn(path, "/");
    }
    return parts;
}

static enum bmig_repo_place place_of(const struct bmig_uri *uri)
{
    if (strcmp(uri->scheme, "iscsi") == 0)
        return path_parts(uri->path) >= 2 ? BMIG_PLACE_SINGLE : BMIG_PLACE_TARGET;
    if (strncmp(uri->scheme, "nbd", 3) == 0)
        return path_parts(uri->path) >= 1 ? BMIG_PLACE_SINGLE : BMIG_PLACE_TARGET;
    if (strcmp(uri->scheme, "file") == 0) {
        struct stat st;
        if (stat(uri->path, &st) == 0 && S_ISBLK(st.st_mode))
            return BMIG_PLACE_SINGLE;
    }
    return BMIG_PLACE_FOLDER;
}

int bmig_repo_uri_normalise(const char *text, char **out, enum bmig_repo_place *place,
                            struct bmig_error *err)
{
    if (!has_scheme(text) && text[0] != '/')
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "'%.300s' is neither a URI nor an absolute path", text);
    struct bmig_uri uri;
    int rc = bmig_uri_parse(&uri, text, err);
    if (rc)
        return rc;
    if (!bmig_backend_find(uri.scheme))
        rc = bmig_error_set(err, BMIG_USAGE, EINVAL, "'%.300s': nothing here reads '%s:' places",
                            text, uri.scheme);
    else if (strcmp(uri.scheme, "mem") == 0)
        rc = bmig_error_set(err, BMIG_USAGE, EINVAL,
                            "'%.300s': memory ends with its process, it is no "
                            "place for a volume",
                            text);
    else if (strcmp(uri.scheme, "iscsi") == 0 && path_parts(uri.path) == 0)
        rc = bmig_error_set(err, BMIG_USAGE, EINVAL,
                            "'%.300s' names no target: iscsi://HOST/IQN or iscsi://HOST/IQN/LUN",
                            text);
    if (rc == 0) {
        *place = place_of(&uri);
        if (has_scheme(text)) {
            *out = bmig_text("%s", text);
        } else {
            char *path = bmig_text_percent_encode(uri.path, "/");
            *out = bmig_text("file://%s", path);
            free(path);
        }
    }
    bmig_uri_fini(&uri);
    return rc;
}

static bool is_number(const char *text)
{
    return *text && strspn(text, "0123456789") == strlen(text);
}

static int check_image_of_place(const struct bmig_uri *uri, enum bmig_repo_place place,
                                const char *image, struct bmig_error *err)
{
    if (place == BMIG_PLACE_SINGLE)
        return image ? bmig_error_set(
                           err, BMIG_USAGE, EINVAL,
                           "repository '%s' is one image itself: name it without ':%.100s'",
                           uri->text, image)
                     : 0;
    if (!image)
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "repository '%s' holds images: name one, REPO:%s", uri->text,
                              strcmp(uri->scheme, "iscsi") ? "IMAGE" : "LUN");
    if (strcmp(uri->scheme, "iscsi") == 0 && !is_number(image))
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "'%.100s': an image of repository '%s' is a LUN, a number", image,
                              uri->text);
    return bmig_image_name_check(image, err);
}

int bmig_repo_image_uri(const char *repo_uri, const char *image, char **out, struct bmig_error *err)
{
    struct bmig_uri uri;
    int rc = bmig_uri_parse(&uri, repo_uri, err);
    if (rc)
        return rc;
    enum bmig_repo_place place = place_of(&uri);
    rc = check_image_of_place(&uri, place, image, err);
    bmig_uri_fini(&uri);
    if (rc)
        return rc;
    if (!image) {
        *out = bmig_text("%s", repo_uri);
        return 0;
    }
    size_t base = strcspn(repo_uri, "?#"), end = base;
    while (end > 0 && repo_uri[end - 1] == '/')
        end--;
    char *encoded = bmig_text_percent_encode(image, "/");
    *out = bmig_text("%.*s/%s%s", (int)end, repo_uri, encoded, repo_uri + base);
    free(encoded);
    return 0;
}

int bmig_image_words_parse(const char *text, enum bmig_image_words *form, char **repo, char **image,
                           struct bmig_error *err)
{
    *repo = *image = NULL;
    if (!*text)
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "the place is empty: REPO, REPO:IMAGE or a URI");
    if (has_scheme(text) || text[0] == '/') {
        *form = BMIG_WORDS_URI;
        return 0;
    }
    if (text[0] == '.')
        return bmig_error_set(
            err, BMIG_USAGE, EINVAL,
            "'%.300s': a relative path means nothing to the daemon; give an absolute one", text);
    const char *colon = strchr(text, ':');
    *repo = colon ? bmig_text("%.*s", (int)(colon - text), text) : bmig_text("%s", text);
    int rc = bmig_name_check("repository", *repo, err);
    if (rc == 0 && colon) {
        rc = bmig_image_name_check(colon + 1, err);
        if (rc == 0)
            *image = bmig_text("%s", colon + 1);
    }
    if (rc) {
        free(*repo);
        *repo = NULL;
        return rc;
    }
    *form = colon ? BMIG_WORDS_REPO_IMAGE : BMIG_WORDS_REPO;
    return 0;
}
