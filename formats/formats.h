/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The formats there are, by name. A format is a disk on a disk: it gives a file's bytes their meaning. It is
 * always named by the user or the journal, never guessed from what the image holds.
 */
#ifndef FORMATS_FORMATS_H
#define FORMATS_FORMATS_H

#include "blockmig/core/disk.h"

extern const struct bmig_driver bmig_raw_driver;

/* The format by its name ("raw"), or NULL. */
const struct bmig_driver *bmig_format_find(const char *name);

/* The format that the ending of a path stands for (".raw", ".img" and everything unknown: "raw"). */
const char *bmig_format_by_ending(const char *path);

#endif
