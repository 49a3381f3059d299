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

/* ---- completion ---- */

static void complete_flags(const struct bmig_cli_flag *flags, const char *start)
{
    for (; flags && flags->name; flags++) {
        if (strncmp(flags->name, start, strlen(start)) == 0)
            printf("--%s\n", flags->name);
    }
}

static void complete_verb(const struct bmig_cli_verb *verbs, const char *group, const char *start)
{
    char last[32] = "";
    for (; verbs->name; verbs++) {
        const char *name = verbs->name;
        if (group) {
            if (!in_group(name, group))
                continue;
            name += strlen(group) + 1;
        }
        size_t length = strcspn(name, " ");
        if (strncmp(name, start, strlen(start)) != 0 ||
            (strlen(last) == length && strncmp(last, name, length) == 0))
            continue;
        snprintf(last, sizeof(last), "%.*s", (int)length, name);
        printf("%s\n", last);
    }
}

/* What stands at the verb's next word ("VOLUME", "JOB", "SRC", ...): the shell's script knows what
 * to do with it. */
static void complete_word(const struct bmig_cli_verb *verb, unsigned index)
{
    const char *at = verb->arguments;
    while (index-- > 0 && at) {
        at = strchr(at, ' ');
        at = at ? at + 1 : NULL;
    }
    if (at && *at)
        printf("<%.*s>\n", (int)strcspn(at, " "), at);
}

void bmig_cli_complete(const struct bmig_cli_verb *verbs, int count, char *const *words)
{
    const char *start = count > 0 ? words[count - 1] : "";
    const char *plain[2] = {NULL, NULL};
    unsigned plain_count = 0;
    for (int i = 0; i + 1 < count; i++) {
        if (words[i][0] != '-' && plain_count < 2)
            plain[plain_count] = words[i];
        plain_count += words[i][0] != '-';
    }
    char name[64] = "";
    const struct bmig_cli_verb *verb = NULL;
    bool group = false;
    for (const struct bmig_cli_verb *at = verbs; at->name && plain[0]; at++) {
        group = group || in_group(at->name, plain[0]);
        snprintf(name, sizeof(name), "%.30s %.30s", plain[0], plain[1] ? plain[1] : "");
        if (strcmp(at->name, plain[0]) == 0 || strcmp(at->name, name) == 0)
            verb = at;
    }
    if (strncmp(start, "-", 1) == 0) {
        const char *bare = start + strspn(start, "-");
        complete_flags(verb ? verb->flags : NULL, bare);
        complete_flags(bmig_cli_global_flags, bare);
    } else if (!plain[0]) {
        complete_verb(verbs, NULL, start);
    } else if (group && !plain[1]) {
        complete_verb(verbs, plain[0], start);
    } else if (verb) {
        complete_word(verb, plain_count - (group ? 2 : 1));
    }
}
