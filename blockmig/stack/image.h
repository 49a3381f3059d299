/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * An image: a URI, a format and, for tests and trials, filters, opened as one stack of disks.
 *
 * Everything here blocks, bounded by options->timeout_ns per step, and may run on any thread; a running
 * loop calls it through bmig_loop_work.
 */
#ifndef BLOCKMIG_STACK_IMAGE_H
#define BLOCKMIG_STACK_IMAGE_H

#include <stdint.h>

#include "blockmig/core/disk.h"

/* What to open. Strings are borrowed for the call. */
struct bmig_image_spec {
    const char *uri;     /* or a plain path */
    const char *format;  /* "raw"; NULL: by the ending of the name, or raw */
    const char *filters; /* NULL, or filters from the top down, each a URI, parted by spaces:
                            "delay:?write=5ms faults:?op=write&nth=3&error=ENOSPC" */
};

/* Opens backend, filters, format. The disk is the caller's: attach, use, detach, bmig_disk_close. */
int bmig_image_open(struct bmig_disk **disk, const struct bmig_image_spec *spec,
                    const struct bmig_open_options *options, struct bmig_error *err);

/* Makes a new image of size_bytes as its guest sees it. -EEXIST where the name is taken. */
int bmig_image_create(const struct bmig_image_spec *spec, uint64_t size_bytes,
                      const struct bmig_open_options *options, struct bmig_error *err);

int bmig_image_remove(const struct bmig_image_spec *spec, const struct bmig_open_options *options,
                      struct bmig_error *err);

/* Looks at an image and its place. What does not exist is no error: stat->exists is false. */
int bmig_image_stat(const struct bmig_image_spec *spec, const struct bmig_open_options *options,
                    struct bmig_place_stat *stat, struct bmig_error *err);

#endif
