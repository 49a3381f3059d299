/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Help and completion: the table of verbs, written out.
 */
#include "cli/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LEFT_COLUMN = 26 };

static void put_flags(FILE *out, const struct bmig_cli_flag *flags)
{
    for (; flags && flags->name; flags++) {
        char left[64];
        snprintf(left, sizeof(left), "--%s%s%s", flags->name, flags->argument ? " " : "",
                 flags->argument ? flags->argument : "");
        fprintf(out, "  %-*s%s%s\n", LEFT_COLUMN - 2, left, flags->help,
                flags->required ? " (required)" : "");
    }
}

static void put_verb_line(FILE *out, const struct bmig_cli_verb *verb)
{
    char left[80];
    snprintf(left, sizeof(left), "%s%s%s", verb->name, *verb->arguments ? " " : "",
             verb->arguments);
    fprintf(out, "  %-*s%s\n", LEFT_COLUMN - 2, left, verb->summary);
}

static void put_all(FILE *out, const struct bmig_cli_verb *verbs)
{
    fprintf(out, "blockmig moves disks of running VMs between storage repositories.\n\n"
                 "usage: blockmig [--root DIR] [--json] VERB ...\n");
    const char *group = NULL;
    for (const struct bmig_cli_verb *verb = verbs; verb->name; verb++) {
        if (!group || strcmp(group, verb->group) != 0) {
            group = verb->group;
            fprintf(out, "\n%s\n", group);
        }
        put_verb_line(out, verb);
    }
    fprintf(out, "\nOptions of all verbs\n");
    put_flags(out, bmig_cli_global_flags);
    fprintf(out,
            "\nSizes are written 10G or 512MiB, rates 200MiB/s or 1Gbit/s, times 5ms or 10m.\n"
            "Exit: 0 done, 1 failed, 2 usage, 3 refused by preflight, 4 cancelled, 5 no daemon,\n"
            "6 not found, 7 denied, 8 wait timed out.\n"
            "'blockmig VERB --help' says more and has an example.\n");
}

static void put_verb(FILE *out, const struct bmig_cli_verb *verb)
{
    fprintf(out, "blockmig %s: %s\n\nusage: blockmig %s%s%s%s\n", verb->name, verb->summary,
            verb->name, *verb->arguments ? " " : "", verb->arguments,
            verb->flags ? " [OPTIONS]" : "");
    if (verb->details)
        fprintf(out, "\n%s", verb->details);
    if (verb->flags) {
        fprintf(out, "\n");
        put_flags(out, verb->flags);
    }
    fprintf(out, "\nexample: blockmig %s\n", verb->example);
}

static bool in_group(const char *name, const char *group)
{
    size_t length = strlen(group);
    return strncmp(name, group, length) == 0 && name[length] == ' ';
}

char *bmig_cli_help(const struct bmig_cli_verb *verbs, const char *about)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    if (!about)
        put_all(out, verbs);
    bool first = true;
    for (const struct bmig_cli_verb *verb = verbs; about && verb->name; verb++) {
        if (strcmp(verb->name, about) == 0) {
            put_verb(out, verb);
        } else if (in_group(verb->name, about)) {
            fprintf(out, "%s", first ? "usage: blockmig VERB ...\n\n" : "");
            put_verb_line(out, verb);
            first = false;
        }
    }
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
