/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Names that people give: of repositories and volumes, of images inside a repository, and of the
 * place that a move goes to.
 */
#ifndef BLOCKMIG_DAEMON_NAMES_H
#define BLOCKMIG_DAEMON_NAMES_H

#include <stdbool.h>

#include "blockmig/core/error.h"

enum { BMIG_NAME_MAX_BYTES = 128, BMIG_IMAGE_NAME_MAX_BYTES = 1024 };

/* BMIG_USAGE unless name is [A-Za-z0-9][A-Za-z0-9._-]{0,127}. what: "repository", "volume". */
int bmig_name_check(const char *what, const char *name, struct bmig_error *err);

/* BMIG_USAGE unless image is a relative path that stays inside its repository: no "..", no empty or
 * "." part, no control characters, not absolute. */
int bmig_image_name_check(const char *image, struct bmig_error *err);

/* What a repository's URI stands for. */
enum bmig_repo_place {
    BMIG_PLACE_FOLDER, /* images are made and removed in it: file, nfs */
    BMIG_PLACE_TARGET, /* holds fixed images with names: iscsi without a LUN, nbd without an export
                        */
    BMIG_PLACE_SINGLE, /* is one fixed image itself: a LUN, an export, a block device */
};

/* Checks a repository's URI and puts it into the form that is stored (a plain path becomes
 * file:///...); *uri is malloc'd. A relative path is refused, for the daemon has a folder of its
 * own. */
int bmig_repo_uri_normalise(const char *text, char **uri, enum bmig_repo_place *place,
                            struct bmig_error *err);

/* The URI of an image in a repository: the path extended, the parameters kept. image is NULL for
 * the one image that a SINGLE place is. *uri is malloc'd. */
int bmig_repo_image_uri(const char *repo_uri, const char *image, char **uri,
                        struct bmig_error *err);

/* How a destination or image is written: a URI or path, a repository, or REPO:IMAGE. */
enum bmig_image_words { BMIG_WORDS_URI, BMIG_WORDS_REPO, BMIG_WORDS_REPO_IMAGE };

/* Takes text apart; *repo and *image are malloc'd, or NULL where the form has none. */
int bmig_image_words_parse(const char *text, enum bmig_image_words *form, char **repo, char **image,
                           struct bmig_error *err);

#endif
