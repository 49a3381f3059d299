/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Completion: what may stand at the end of a half-written command line, for the shell's script.
 *
 * Words of ours are printed as they are; where a name or file belongs, its kind is ("<VOLUME>",
 * "<REPO>", "<JOB>", "<DEST>", "<FILE>"), and the script finds those that there are.
 */
#include "cli/cli.h"

#include <stdio.h>
#include <string.h>

static bool starts(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

/* The option that word ("--name") is, of any verb; NULL for other words and for "--name=value". */
static const struct bmig_cli_flag *flag_of(const struct bmig_cli_verb *verbs, const char *word)
{
    if (!starts(word, "--"))
        return NULL;
    for (const struct bmig_cli_flag *flag = bmig_cli_global_flags; flag->name; flag++) {
        if (strcmp(flag->name, word + 2) == 0)
            return flag;
    }
    for (; verbs->name; verbs++) {
        for (const struct bmig_cli_flag *flag = verbs->flags; flag && flag->name; flag++) {
            if (strcmp(flag->name, word + 2) == 0)
                return flag;
        }
    }
    return NULL;
}

static void put_flags(const struct bmig_cli_flag *flags, const char *start)
{
    for (; flags && flags->name; flags++) {
        if (starts(flags->name, start))
            printf("--%s\n", flags->name);
    }
}

/* The verbs' first words, or a group's second ones. */
static void put_verbs(const struct bmig_cli_verb *verbs, const char *group, const char *start)
{
    char last[32] = "";
    for (; verbs->name; verbs++) {
        const char *name = verbs->name;
        size_t skip = group ? strlen(group) + 1 : 0;
        if (group && (!starts(name, group) || name[skip - 1] != ' '))
            continue;
        char word[32];
        snprintf(word, sizeof(word), "%.*s", (int)strcspn(name + skip, " "), name + skip);
        if (!starts(word, start) || strcmp(word, last) == 0)
            continue;
        strcpy(last, word);
        puts(word);
    }
}

static void put_value(const struct bmig_cli_flag *flag)
{
    static const char *const values[][2] = {{"repo", "<REPO>"},
                                            {"to", "<REPO>"},
                                            {"secret-file", "<FILE>"},
                                            {"root", "<FILE>"},
                                            {"print", "uri\nxml"}};
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        if (strcmp(flag->name, values[i][0]) == 0)
            puts(values[i][1]);
    }
    if (flag->kind == BMIG_CLI_FORMAT)
        puts("raw");
}

/* What the verb's word number index is a name of. */
static void put_kind(const struct bmig_cli_verb *verb, unsigned index)
{
    static const char *const files[] = {"SRC", "A", "B", "IMAGE", "URI"};
    char word[16];
    const char *at = verb->arguments;
    for (; index > 0 && at; index--) {
        at = strchr(at, ' ');
        at = at ? at + 1 : NULL;
    }
    if (!at || !*at)
        return;
    snprintf(word, sizeof(word), "%.*s", (int)strcspn(at, " "), at);
    bool is_file = strcmp(verb->name, "copy") == 0;
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
        is_file = is_file || strcmp(word, files[i]) == 0;
    /* A name that is yet to be given has no candidates. */
    bool is_new =
        strstr(verb->name, "add") || strstr(verb->name, "create") || strstr(verb->name, "import");
    if (is_file)
        puts("<FILE>");
    else if (strcmp(word, "NAME") != 0)
        printf("<%s>\n", word);
    else if (!is_new)
        puts(starts(verb->name, "repo ") ? "<REPO>" : "<VOLUME>");
}

/* ---- the line so far ---- */

struct line {
    const char *words[2]; /* the first two that are no options */
    unsigned count;
    const struct bmig_cli_flag *pending; /* an option whose value comes next */
};

static void read_line(const struct bmig_cli_verb *verbs, int count, char *const *words,
                      struct line *line)
{
    memset(line, 0, sizeof(*line));
    for (int i = 0; i < count; i++) {
        const struct bmig_cli_flag *flag = line->pending ? NULL : flag_of(verbs, words[i]);
        bool value = line->pending;
        line->pending = flag && flag->kind != BMIG_CLI_SWITCH ? flag : NULL;
        if (value || words[i][0] == '-')
            continue;
        if (line->count < 2)
            line->words[line->count] = words[i];
        line->count++;
    }
}

void bmig_cli_complete(const struct bmig_cli_verb *verbs, int count, char *const *words)
{
    const char *start = count > 0 ? words[count - 1] : "";
    const struct bmig_cli_verb *verb = NULL;
    struct line line;
    char name[64];
    bool group = false;
    read_line(verbs, count > 0 ? count - 1 : 0, words, &line);
    if (line.words[0]) {
        snprintf(name, sizeof(name), "%.30s %.30s", line.words[0],
                 line.words[1] ? line.words[1] : "");
        size_t first = strcspn(name, " ") + 1;
        for (const struct bmig_cli_verb *at = verbs; at->name; at++) {
            group = group || strncmp(at->name, name, first) == 0;
            if (strcmp(at->name, line.words[0]) == 0 || strcmp(at->name, name) == 0)
                verb = at;
        }
    }
    if (line.pending) {
        put_value(line.pending);
    } else if (start[0] == '-') {
        const char *bare = start + strspn(start, "-");
        put_flags(verb ? verb->flags : NULL, bare);
        put_flags(bmig_cli_global_flags, bare);
    } else if (!line.words[0] || (group && !line.words[1])) {
        put_verbs(verbs, line.words[0], start);
    } else if (verb) {
        put_kind(verb, line.count - (group ? 2 : 1));
    }
}
