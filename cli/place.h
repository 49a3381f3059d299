/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Where an image is, as it is written on the command line: a path, REPO:IMAGE or a URI.
 */
#ifndef CLI_PLACE_H
#define CLI_PLACE_H

#include <stdbool.h>

#include "blockmig/stack/image.h"
#include "cli/run.h"

enum bmig_place_form {
    BMIG_PLACE_FORM_PATH,       /* begins with '/' or '.', or has no colon */
    BMIG_PLACE_FORM_URI,        /* has "://", or begins with a scheme of ours and a colon */
    BMIG_PLACE_FORM_REPO_IMAGE, /* everything else with a colon */
};

enum bmig_place_form bmig_place_form(const char *text);

/* text as the daemon may take it, whose folder is not ours: a relative path made absolute.
 * bare_is_path: a single word is a path and not a repository. *absolute is malloc'd. */
int bmig_place_absolute(const char *text, bool bare_is_path, char **absolute,
                        struct bmig_error *err);

/* An image named on the command line, ready to be opened. Strings are its own or argv's. */
struct bmig_place {
    const char *given; /* for messages */
    struct bmig_image_spec spec;
    bool is_file;
    char *uri, *format, *secret, *secret_file; /* malloc'd */
};

/* Finds out where the image is (asking the daemon for REPO:IMAGE) and checks that its format is one
 * that this build opens. secret_file is used where the URI names a user. */
int bmig_place_resolve(struct bmig_cli *cli, const char *text, const char *format,
                       const char *filters, const char *secret_file, struct bmig_place *place,
                       struct bmig_error *err);
/* Whether it is a file or device of this host. */
bool bmig_place_is_file(const struct bmig_place *place);
void bmig_place_fini(struct bmig_place *place); /* of a zeroed one too */

#endif
