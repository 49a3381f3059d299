/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The raw format: an image's bytes are the disk's bytes, so every request is passed on as it is.
 */
#include "formats/formats.h"

static int raw_open(struct bmig_disk *disk, const struct bmig_uri *uri,
                    const struct bmig_open_options *options, struct bmig_error *err)
{
    bmig_disk_inherit(disk, disk->next);
    return 0;
}

static void raw_close(struct bmig_disk *disk)
{
}

static void raw_submit(struct bmig_disk *disk, struct bmig_request *request)
{
    bmig_disk_forward(disk, request, request->offset);
}

const struct bmig_driver bmig_raw_driver = {
    .name = "raw",
    .open = raw_open,
    .close = raw_close,
    .submit = raw_submit,
};
