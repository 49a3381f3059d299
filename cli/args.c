/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The argument parser: argv against the table of verbs, all of it checked before anything is tried.
 *
 * Two steps, because options may stand anywhere, even before the verb: first argv is parted into
 * words and options by what any verb's option of that name takes (one name means one kind
 * everywhere), then the words name the verb and each option is held against that verb's own table.
 */
#include "cli/cli.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/core/units.h"

enum { MAX_ARGUMENTS = 64 };

struct option {
    const char *name; /* points into argv, not terminated at name_length */
    size_t name_length;
    const char *value; /* NULL: none given */
};

struct split {
    const char *words[MAX_ARGUMENTS];
    unsigned word_count;
    struct option options[MAX_ARGUMENTS];
    unsigned option_count;
};

static const struct bmig_cli_flag *find_flag(const struct bmig_cli_flag *flags, const char *name,
                                             size_t length)
{
    for (; flags && flags->name; flags++) {
        if (strlen(flags->name) == length && memcmp(flags->name, name, length) == 0)
            return flags;
    }
    return NULL;
}

static const struct bmig_cli_flag *find_flag_anywhere(const struct bmig_cli_verb *verbs,
                                                      const char *name, size_t length)
{
    const struct bmig_cli_flag *flag = find_flag(bmig_cli_global_flags, name, length);
    for (; !flag && verbs->name; verbs++)
        flag = find_flag(verbs->flags, name, length);
    return flag;
}

/* ---- the first step: words and options ---- */

static int add_word(struct split *split, const char *word, struct bmig_error *err)
{
    if (split->word_count == MAX_ARGUMENTS)
        return bmig_error_set(err, BMIG_USAGE, E2BIG, "more than %d words", MAX_ARGUMENTS);
    split->words[split->word_count++] = word;
    return 0;
}

/* Reads the option at argv[*index] and moves *index over its value where that is a word of its own.
 */
static int add_option(struct split *split, const struct bmig_cli_verb *verbs, int argc,
                      char *const *argv, int *index, struct bmig_error *err)
{
    const char *name = argv[*index] + 2;
    const char *equals = strchr(name, '=');
    size_t length = equals ? (size_t)(equals - name) : strlen(name);
    const struct bmig_cli_flag *flag = find_flag_anywhere(verbs, name, length);
    if (split->option_count == MAX_ARGUMENTS)
        return bmig_error_set(err, BMIG_USAGE, E2BIG, "more than %d options", MAX_ARGUMENTS);
    for (unsigned i = 0; i < split->option_count; i++) {
        const struct option *other = &split->options[i];
        if (other->name_length == length && memcmp(other->name, name, length) == 0)
            return bmig_error_set(err, BMIG_USAGE, EINVAL, "--%.*s is given twice",
                                  (int)(length < 64 ? length : 64), name);
    }
    struct option *option = &split->options[split->option_count++];
    *option = (struct option){name, length, equals ? equals + 1 : NULL};
    if (!flag || flag->kind == BMIG_CLI_SWITCH || equals)
        return 0;
    const char *next = *index + 1 < argc ? argv[*index + 1] : NULL;
    /* A number may be negative, to be refused for that; a text that looks like an option most
     * likely is one whose value was forgotten. */
    bool text = flag->kind == BMIG_CLI_TEXT || flag->kind == BMIG_CLI_FORMAT;
    if (!next || strncmp(next, "--", 2) == 0 || (text && next[0] == '-' && next[1]))
        return bmig_error_set(err, BMIG_USAGE, EINVAL, "--%s needs a value: --%s %s%s", flag->name,
                              flag->name, flag->argument,
                              next ? " (one that begins with '-' is written --option=VALUE)" : "");
    option->value = next;
    ++*index;
    return 0;
}

static int split_arguments(struct split *split, const struct bmig_cli_verb *verbs, int argc,
                           char *const *argv, struct bmig_error *err)
{
    bool options_end = false;
    for (int i = 1; i < argc; i++) {
        const char *argument = argv[i];
        int rc = 0;
        if (options_end || argument[0] != '-' || argument[1] == '\0')
            rc = add_word(split, argument, err);
        else if (strcmp(argument, "--") == 0)
            options_end = true;
        else if (strcmp(argument, "-h") == 0)
            split->options[split->option_count++] = (struct option){"help", 4, NULL};
        else if (argument[1] == '-')
            rc = add_option(split, verbs, argc, argv, &i, err);
        else
            rc = bmig_error_set(err, BMIG_USAGE, EINVAL,
                                "unknown option '%.64s': options are written with two dashes, and "
                                "a name that begins with one comes after --",
                                argument);
        if (rc < 0)
            return rc;
        if (split->option_count == MAX_ARGUMENTS)
            return bmig_error_set(err, BMIG_USAGE, E2BIG, "too many options");
    }
    return 0;
}

/* ---- which verb ---- */

static bool group_of(const char *name, char *group, size_t capacity)
{
    const char *space = strchr(name, ' ');
    if (!space || (size_t)(space - name) >= capacity)
        return false;
    memcpy(group, name, (size_t)(space - name));
    group[space - name] = '\0';
    return true;
}

static bool is_group(const struct bmig_cli_verb *verbs, const char *word)
{
    char group[32];
    for (; verbs->name; verbs++) {
        if (group_of(verbs->name, group, sizeof(group)) && strcmp(group, word) == 0)
            return true;
    }
    return false;
}

static int refuse_verb(const struct bmig_cli_verb *verbs, const char *group, const char *word,
                       struct bmig_error *err)
{
    const char *names[BMIG_CLI_MAX_FLAGS * 4];
    unsigned count = 0;
    size_t skip = group ? strlen(group) + 1 : 0;
    for (; verbs->name && count + 1 < sizeof(names) / sizeof(names[0]); verbs++) {
        if (!group || (strncmp(verbs->name, group, skip - 1) == 0 && verbs->name[skip - 1] == ' '))
            names[count++] = verbs->name + skip;
    }
    if (!group) {
        names[count++] = "repo";
        assert(count < sizeof(names) / sizeof(names[0]));
    }
    names[count] = NULL;
    const char *nearest = bmig_cli_nearest(word, names);
    if (nearest)
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "unknown verb '%s%s%.64s': did you mean '%s%s%s'?",
                              group ? group : "", group ? " " : "", word, group ? group : "",
                              group ? " " : "", nearest);
    return bmig_error_set(err, BMIG_USAGE, EINVAL,
                          "unknown verb '%s%s%.64s': see 'blockmig %s%s--help'", group ? group : "",
                          group ? " " : "", word, group ? group : "", group ? " " : "");
}

static const struct bmig_cli_verb *find_verb(const struct bmig_cli_verb *verbs, const char *name)
{
    for (; verbs->name; verbs++) {
        if (strcmp(verbs->name, name) == 0)
            return verbs;
    }
    return NULL;
}

/* Takes the verb's word or two from the front of the words. Help may be asked for without a verb.
 */
static int choose_verb(struct bmig_cli *cli, const struct bmig_cli_verb *verbs, struct split *split,
                       unsigned *taken, struct bmig_error *err)
{
    *taken = 0;
    if (split->word_count > 0 && strcmp(split->words[0], "help") == 0) {
        cli->help = true;
        *taken = 1;
    }
    const char *first = *taken < split->word_count ? split->words[*taken] : NULL;
    if (!first) {
        if (cli->help || cli->version)
            return 0;
        return bmig_error_set(err, BMIG_USAGE, EINVAL, "what shall be done? See 'blockmig --help'");
    }
    if (strlen(first) > 15)
        return refuse_verb(verbs, NULL, first, err);
    ++*taken;
    strcpy(cli->help_name, first);
    if (is_group(verbs, first)) {
        const char *second = *taken < split->word_count ? split->words[*taken] : NULL;
        if (!second && cli->help) {
            cli->help_about = cli->help_name;
            return 0;
        }
        if (!second)
            return bmig_error_set(err, BMIG_USAGE, EINVAL,
                                  "what about the %s? See 'blockmig %s --help'", first, first);
        if (strlen(second) > 15)
            return refuse_verb(verbs, first, second, err);
        ++*taken;
        strcat(cli->help_name, " ");
        strcat(cli->help_name, second);
        cli->verb = find_verb(verbs, cli->help_name);
        if (!cli->verb)
            return refuse_verb(verbs, first, second, err);
    } else {
        cli->verb = find_verb(verbs, first);
        if (!cli->verb)
            return refuse_verb(verbs, NULL, first, err);
    }
    cli->help_about = cli->help_name;
    return 0;
}

/* ---- the second step: the verb's own table ---- */

static const char *const formats[] = {"raw", "qcow2", "vhd", "vmdk", "qcow", NULL};

static int parse_count(const char *text, const char *what, uint64_t *value, struct bmig_error *err)
{
    char *end = NULL;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || number > INT32_MAX)
        return bmig_error_set(err, BMIG_USAGE, EINVAL, "%s: '%.64s' is not a number from 0 to %d",
                              what, text, INT32_MAX);
    *value = number;
    return 0;
}

static int parse_format(const char *text, const char *what, struct bmig_error *err)
{
    for (const char *const *format = formats; *format; format++) {
        if (strcmp(*format, text) == 0)
            return 0;
    }
    return bmig_error_set(err, BMIG_USAGE, EINVAL,
                          "%s: '%.64s' is no format: raw, qcow2, vhd, vmdk, qcow are", what, text);
}

static int parse_value(const struct bmig_cli_flag *flag, const char *text,
                       struct bmig_cli_value *value, struct bmig_error *err)
{
    char what[64] = "--";
    strncat(what, flag->name, sizeof(what) - 3);
    if (flag->kind == BMIG_CLI_SWITCH) {
        if (text)
            return bmig_error_set(err, BMIG_USAGE, EINVAL, "%s takes no value", what);
        value->text = "";
        return 0;
    }
    if (!text || !*text)
        return bmig_error_set(err, BMIG_USAGE, EINVAL, "%s needs a value: %s %s", what, what,
                              flag->argument);
    value->text = text;
    switch (flag->kind) {
    case BMIG_CLI_SIZE:
        return bmig_parse_size(text, what, &value->number, err);
    case BMIG_CLI_RATE:
        return bmig_parse_rate(text, what, &value->number, err);
    case BMIG_CLI_DURATION:
        return bmig_parse_duration(text, what, &value->number, err);
    case BMIG_CLI_COUNT:
        return parse_count(text, what, &value->number, err);
    case BMIG_CLI_FORMAT:
        return parse_format(text, what, err);
    default:
        return 0;
    }
}

static int refuse_option(const struct bmig_cli *cli, const struct bmig_cli_verb *verbs,
                         const struct option *option, struct bmig_error *err)
{
    int length = (int)(option->name_length < 64 ? option->name_length : 64);
    const char *verb = cli->verb ? cli->verb->name : "";
    if (cli->verb && find_flag_anywhere(verbs, option->name, option->name_length))
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "'%s' does not take --%.*s: see 'blockmig %s --help'", verb, length,
                              option->name, verb);
    const char *names[BMIG_CLI_MAX_FLAGS + 8];
    unsigned count = 0;
    for (const struct bmig_cli_flag *flag = cli->verb ? cli->verb->flags : NULL; flag && flag->name;
         flag++)
        names[count++] = flag->name;
    for (const struct bmig_cli_flag *flag = bmig_cli_global_flags; flag->name; flag++)
        names[count++] = flag->name;
    names[count] = NULL;
    char given[72] = "";
    memcpy(given, option->name, (size_t)length);
    const char *nearest = bmig_cli_nearest(given, names);
    if (nearest)
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "unknown option '--%s': did you mean '--%s'?", given, nearest);
    return bmig_error_set(err, BMIG_USAGE, EINVAL,
                          "unknown option '--%s': see 'blockmig %s%s--help'", given, verb,
                          *verb ? " " : "");
}

static int take_options(struct bmig_cli *cli, const struct bmig_cli_verb *verbs,
                        const struct split *split, struct bmig_error *err)
{
    for (unsigned i = 0; i < split->option_count; i++) {
        const struct option *option = &split->options[i];
        if (find_flag(bmig_cli_global_flags, option->name, option->name_length))
            continue;
        const struct bmig_cli_flag *flag =
            cli->verb ? find_flag(cli->verb->flags, option->name, option->name_length) : NULL;
        if (!flag)
            return refuse_option(cli, verbs, option, err);
        ptrdiff_t index = flag - cli->verb->flags;
        assert(index < BMIG_CLI_MAX_FLAGS);
        int rc = parse_value(flag, option->value, &cli->values[index], err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int take_global_options(struct bmig_cli *cli, const struct split *split,
                               struct bmig_error *err)
{
    for (unsigned i = 0; i < split->option_count; i++) {
        const struct option *option = &split->options[i];
        const struct bmig_cli_flag *flag =
            find_flag(bmig_cli_global_flags, option->name, option->name_length);
        if (!flag)
            continue;
        struct bmig_cli_value value = {0};
        int rc = parse_value(flag, option->value, &value, err);
        if (rc < 0)
            return rc;
        if (strcmp(flag->name, "root") == 0)
            cli->root = value.text;
        else if (strcmp(flag->name, "json") == 0)
            cli->json = true;
        else if (strcmp(flag->name, "help") == 0)
            cli->help = true;
        else
            cli->version = true;
    }
    return 0;
}

static int check_required(const struct bmig_cli *cli, struct bmig_error *err)
{
    const struct bmig_cli_flag *flag = cli->verb->flags;
    for (unsigned i = 0; flag && flag[i].name; i++) {
        if (flag[i].required && !cli->values[i].text)
            return bmig_error_set(err, BMIG_USAGE, EINVAL, "'%s' needs --%s %s: %s",
                                  cli->verb->name, flag[i].name, flag[i].argument, flag[i].help);
    }
    return 0;
}

static int take_words(struct bmig_cli *cli, const struct split *split, unsigned taken,
                      struct bmig_error *err)
{
    unsigned least = 0, most = 0;
    for (const char *at = cli->verb->arguments; at && *at; at++) {
        if (at != cli->verb->arguments && at[-1] != ' ')
            continue;
        most++;
        least += *at != '[';
    }
    assert(most <= BMIG_CLI_MAX_WORDS);
    unsigned given = split->word_count - taken;
    if (given > most)
        return bmig_error_set(err, BMIG_USAGE, E2BIG,
                              "'%.200s' is one word too many: blockmig %s%s%s",
                              split->words[taken + most], cli->verb->name, most ? " " : "",
                              most ? cli->verb->arguments : " takes none");
    if (given < least)
        return bmig_error_set(err, BMIG_USAGE, EINVAL, "'%s' needs %s: blockmig %s %s",
                              cli->verb->name, least > 1 ? "more words" : "a word", cli->verb->name,
                              cli->verb->arguments);
    for (unsigned i = 0; i < given; i++) {
        if (!split->words[taken + i][0])
            return bmig_error_set(err, BMIG_USAGE, EINVAL, "an empty word: blockmig %s %s",
                                  cli->verb->name, cli->verb->arguments);
        cli->words[i] = split->words[taken + i];
    }
    cli->word_count = given;
    return 0;
}

int bmig_cli_parse(struct bmig_cli *cli, const struct bmig_cli_verb *verbs, int argc,
                   char *const *argv, struct bmig_error *err)
{
    struct split split = {0};
    unsigned taken = 0;
    int rc = split_arguments(&split, verbs, argc, argv, err);
    if (rc == 0)
        rc = take_global_options(cli, &split, err);
    if (rc == 0)
        rc = choose_verb(cli, verbs, &split, &taken, err);
    if (rc < 0 || cli->help || cli->version)
        return rc;
    rc = take_options(cli, verbs, &split, err);
    if (rc == 0)
        rc = take_words(cli, &split, taken, err);
    if (rc == 0)
        rc = check_required(cli, err);
    return rc;
}

/* ---- what verbs ask ---- */

static const struct bmig_cli_value *value_of(const struct bmig_cli *cli, const char *name)
{
    const struct bmig_cli_flag *flag = find_flag(cli->verb->flags, name, strlen(name));
    assert(flag);
    return &cli->values[flag - cli->verb->flags];
}

bool bmig_cli_given(const struct bmig_cli *cli, const char *flag)
{
    return value_of(cli, flag)->text != NULL;
}

const char *bmig_cli_text(const struct bmig_cli *cli, const char *flag)
{
    return value_of(cli, flag)->text;
}

uint64_t bmig_cli_number(const struct bmig_cli *cli, const char *flag, uint64_t fallback)
{
    const struct bmig_cli_value *value = value_of(cli, flag);
    return value->text ? value->number : fallback;
}
