/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * hold [-w] [-x] IMAGE: opens an image (for writing, exclusively), prints "open", and holds it
 * until its input ends. Where it can't, prints the error and exits with its kind.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "blockmig/stack/image.h"

int main(int argc, char **argv)
{
    struct bmig_open_options options = {0};
    struct bmig_error err = {0};
    struct bmig_image_spec spec = {.format = "raw"};
    struct bmig_disk *disk;
    char byte;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-w") == 0)
            options.writable = true;
        else if (strcmp(argv[i], "-x") == 0)
            options.exclusive = true;
        else
            spec.uri = argv[i];
    }
    if (bmig_image_open(&disk, &spec, &options, &err) < 0) {
        fprintf(stderr, "%s\n", err.message);
        return err.kind;
    }
    puts("open");
    fflush(stdout);
    while (read(STDIN_FILENO, &byte, 1) > 0) {
    }
    bmig_disk_close(disk);
    return 0;
}
