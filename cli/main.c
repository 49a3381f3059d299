/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * blockmig: the command line's entry. Everything is in run.c, where tests reach it.
 */
#include "cli/cli.h"

int main(int argc, char **argv)
{
    return bmig_cli_main(argc, argv);
}
