/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Images: the backend at the bottom, filters on it, the format on top, opened in that order.
 */
#include "blockmig/stack/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backends/backends.h"
#include "formats/formats.h"

/* A spec with its words found. */
struct resolved {
    struct bmig_uri uri;
    const struct bmig_driver *backend;
    const struct bmig_driver *format;
};

/* Only a file's name says what is in it; a LUN or an export holds a disk's bytes. */
static const char *format_name(const struct bmig_image_spec *spec, const struct bmig_uri *uri)
{
    if (spec->format)
        return spec->format;
    if (strcmp(uri->scheme, "file") == 0 || strcmp(uri->scheme, "nfs") == 0)
        return bmig_format_by_ending(uri->path);
    return "raw";
}

static int resolve(struct resolved *resolved, const struct bmig_image_spec *spec,
                   struct bmig_error *err)
{
    int status = bmig_uri_parse(&resolved->uri, spec->uri, err);
    if (status < 0)
        return status;
    const char *format = format_name(spec, &resolved->uri);
    resolved->backend = bmig_backend_find(resolved->uri.scheme);
    resolved->format = bmig_format_find(format);
    if (!resolved->backend)
        status =
            bmig_error_set(err, BMIG_USAGE, EINVAL, "'%.200s': '%s:' names no place for an image",
                           resolved->uri.text, resolved->uri.scheme);
    else if (!resolved->format)
        status = bmig_error_set(
            err, spec->format ? BMIG_USAGE : BMIG_REFUSED, ENOTSUP,
            "'%.200s': there is no format '%.40s' here%s", resolved->uri.text, format,
            spec->format ? "" : "; its name says so; if it is wrong, give the format");
    if (status < 0)
        bmig_uri_fini(&resolved->uri);
    return status;
}

static int open_filter(struct bmig_disk **disk, const char *text,
                       const struct bmig_open_options *options, struct bmig_error *err)
{
    struct bmig_uri uri;
    int status = bmig_uri_parse(&uri, text, err);
    if (status < 0)
        return status;
    const struct bmig_driver *driver = bmig_filter_find(uri.scheme);
    if (driver)
        status = bmig_disk_open(disk, driver, *disk, &uri, options, err);
    else
        status = bmig_error_set(err, BMIG_USAGE, EINVAL, "'%.200s': there is no such filter", text);
    bmig_uri_fini(&uri);
    return status;
}

/* Puts the filters in text on *disk, the last first. */
static int open_filters(struct bmig_disk **disk, const char *text,
                        const struct bmig_open_options *options, struct bmig_error *err)
{
    char *words = strdup(text ? text : "");
    int status = words ? 0 : bmig_error_set(err, BMIG_FAILED, ENOMEM, "out of memory");
    int room = BMIG_STACK_MAX - 2; /* the backend's and the format's places are taken */
    size_t end = words ? strlen(words) : 0;
    while (status == 0 && end > 0) {
        while (end > 0 && words[end - 1] == ' ')
            end--;
        words[end] = '\0';
        while (end > 0 && words[end - 1] != ' ')
            end--;
        if (words[end] && room-- == 0)
            status = bmig_error_set(err, BMIG_USAGE, EINVAL, "more than %d filters on one image",
                                    BMIG_STACK_MAX - 2);
        else if (words[end])
            status = open_filter(disk, words + end, options, err);
    }
    free(words);
    return status;
}

int bmig_image_open(struct bmig_disk **out, const struct bmig_image_spec *spec,
                    const struct bmig_open_options *options, struct bmig_error *err)
{
    struct resolved resolved;
    struct bmig_disk *disk = NULL;
    int status = resolve(&resolved, spec, err);
    if (status < 0)
        return status;
    status = bmig_disk_open(&disk, resolved.backend, NULL, &resolved.uri, options, err);
    if (status == 0)
        status = open_filters(&disk, spec->filters, options, err);
    if (status == 0)
        status = bmig_disk_open(&disk, resolved.format, disk, NULL, options, err);
    bmig_uri_fini(&resolved.uri);
    if (status < 0) {
        bmig_disk_close(disk);
        return status;
    }
    *out = disk;
    return 0;
}

static int cannot(const struct resolved *resolved, const char *what, struct bmig_error *err)
{
    return bmig_error_set(err, BMIG_REFUSED, ENOTSUP, "'%.200s': an image there can't be %s",
                          resolved->uri.text, what);
}

int bmig_image_create(const struct bmig_image_spec *spec, uint64_t size_bytes,
                      const struct bmig_open_options *options, struct bmig_error *err)
{
    struct resolved resolved;
    int status = resolve(&resolved, spec, err);
    if (status < 0)
        return status;
    if (size_bytes == 0)
        status = bmig_error_set(err, BMIG_USAGE, EINVAL, "'%.200s': an image can't have size 0",
                                resolved.uri.text);
    else if (resolved.format != &bmig_raw_driver)
        status = bmig_error_set(err, BMIG_REFUSED, ENOTSUP,
                                "'%.200s': images of format %s can be read but not created",
                                resolved.uri.text, resolved.format->name);
    else if (!resolved.backend->create)
        status = cannot(&resolved, "created", err);
    else
        status = resolved.backend->create(&resolved.uri, size_bytes, options, err);
    bmig_uri_fini(&resolved.uri);
    return status;
}

int bmig_image_remove(const struct bmig_image_spec *spec, const struct bmig_open_options *options,
                      struct bmig_error *err)
{
    struct resolved resolved;
    int status = resolve(&resolved, spec, err);
    if (status < 0)
        return status;
    status = resolved.backend->remove ? resolved.backend->remove(&resolved.uri, options, err)
                                      : cannot(&resolved, "removed", err);
    bmig_uri_fini(&resolved.uri);
    return status;
}

/* What the format makes of the bytes: known only by opening it. */
static int stat_format(const struct bmig_image_spec *spec, const struct bmig_open_options *options,
                       struct bmig_place_stat *stat, struct bmig_error *err)
{
    struct bmig_open_options reading = *options;
    struct bmig_disk *disk;
    reading.writable = false;
    reading.exclusive = false;
    int status = bmig_image_open(&disk, spec, &reading, err);
    if (status < 0)
        return status;
    stat->size_bytes = disk->size_bytes;
    stat->known_zero = false;
    bmig_disk_close(disk);
    return 0;
}

int bmig_image_stat(const struct bmig_image_spec *spec, const struct bmig_open_options *options,
                    struct bmig_place_stat *stat, struct bmig_error *err)
{
    struct resolved resolved;
    int status = resolve(&resolved, spec, err);
    if (status < 0)
        return status;
    status = resolved.backend->stat ? resolved.backend->stat(&resolved.uri, options, stat, err)
                                    : cannot(&resolved, "examined", err);
    if (status == 0 && stat->exists && resolved.format != &bmig_raw_driver)
        status = stat_format(spec, options, stat, err);
    bmig_uri_fini(&resolved.uri);
    return status;
}
