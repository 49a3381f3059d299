/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The one list of formats.
 */
#include "formats/formats.h"

#include <stddef.h>
#include <string.h>
#include <strings.h>

static const struct bmig_driver *const formats[] = {
    &bmig_raw_driver,
};

/* Endings that stand for a format, whether or not we can open it: a file named disk.qcow2 is
 * refused rather than served to a guest as raw bytes. */
static const struct {
    const char *ending;
    const char *format;
} endings[] = {
    {".qcow2", "qcow2"}, {".qcow", "qcow"}, {".vhd", "vhd"},
    {".vpc", "vhd"},     {".vhdx", "vhdx"}, {".vmdk", "vmdk"},
};

const struct bmig_driver *bmig_format_find(const char *name)
{
    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++)
        if (strcmp(formats[i]->name, name) == 0)
            return formats[i];
    return NULL;
}

const char *bmig_format_by_ending(const char *path)
{
    size_t length = strlen(path);
    for (size_t i = 0; i < sizeof(endings) / sizeof(endings[0]); i++) {
        size_t ending = strlen(endings[i].ending);
        if (length > ending && strcasecmp(path + length - ending, endings[i].ending) == 0)
            return endings[i].format;
    }
    return "raw";
}
