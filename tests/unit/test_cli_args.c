/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The argument parser, by tables: what is understood, what is refused and in which words.
 */
#include "cli/cli.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_WORDS = 16 };

/* Parses a line parted by single spaces ("~" stands for an empty word). */
static int parse(struct bmig_cli *cli, const char *line, struct bmig_error *err)
{
    static char copy[8192];
    static char *argv[MAX_WORDS + 1];
    int argc = 0;
    memset(cli, 0, sizeof(*cli));
    memset(err, 0, sizeof(*err));
    ck_assert(strlen(line) < sizeof(copy));
    strcpy(copy, line);
    argv[argc++] = "blockmig";
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " ")) {
        ck_assert_int_lt(argc, MAX_WORDS);
        argv[argc++] = strcmp(word, "~") == 0 ? "" : word;
    }
    argv[argc] = NULL;
    return bmig_cli_parse(cli, bmig_cli_verbs, argc, argv, err);
}

static const struct {
    const char *line, *verb;
    unsigned words;
    const char *first;
} understood[] = {
    {"jobs", "jobs", 0, NULL},
    {"repo add r /srv", "repo add", 2, "r"},
    {"repo --json list", "repo list", 0, NULL},
    {"--json repo list", "repo list", 0, NULL},
    {"--root /x move v r", "move", 2, "v"},
    {"move v r --bandwidth 200MiB/s", "move", 2, "v"},
    {"--bandwidth 200MiB/s move v r", "move", 2, "v"},
    {"move --bandwidth=200MiB/s v r --root=/x", "move", 2, "v"},
    {"move --detach -- --v r", "move", 2, "--v"},
    {"copy -- -a -b", "copy", 2, "-a"},
    {"copy - b", "copy", 2, "-"},
    {"copy a b --filters=-x", "copy", 2, "a"},
    {"set 7 --max-latency 0", "set", 1, "7"},
    {"volume create v --repo r --size 10G --format qcow2", "volume create", 1, "v"},
    {"wait 3 --timeout 10m", "wait", 1, "3"},
};

START_TEST(options_may_stand_anywhere)
{
    struct bmig_cli cli;
    struct bmig_error err;
    ck_assert_msg(parse(&cli, understood[_i].line, &err) == 0, "%s: %s", understood[_i].line,
                  err.message);
    ck_assert_str_eq(cli.verb->name, understood[_i].verb);
    ck_assert_uint_eq(cli.word_count, understood[_i].words);
    if (understood[_i].first)
        ck_assert_str_eq(cli.words[0], understood[_i].first);
}
END_TEST

static const struct {
    const char *line, *says;
} refused[] = {
    {"", "what shall be done"},
    {"~", "unknown verb ''"},
    {"mvoe v r", "did you mean 'move'"},
    {"jbos", "did you mean 'job"},
    {"vloume list", "unknown verb 'vloume'"},
    {"xyzzy", "see 'blockmig --help'"},
    {"averyveryverylongverbthatisnone", "unknown verb"},
    {"repo", "what about the repo"},
    {"repo lst", "did you mean 'repo list'"},
    {"volume xyzzy", "see 'blockmig volume --help'"},
    {"move v", "'move' needs more words: blockmig move VOLUME DEST"},
    {"job", "'job' needs a word"},
    {"move v r x", "'x' is one word too many"},
    {"jobs x", "takes none"},
    {"move ~ r", "an empty word"},
    {"move v r --bandwith 5MiB/s", "did you mean '--bandwidth'"},
    {"move v r --xyzzy", "unknown option '--xyzzy'"},
    {"jobs --hold", "'jobs' does not take --hold"},
    {"move v r --hold=yes", "--hold takes no value"},
    {"move v r --hold --hold", "--hold is given twice"},
    {"move v r --bandwidth", "--bandwidth needs a value"},
    {"move v r --bandwidth --hold", "--bandwidth needs a value"},
    {"move v r --bandwidth=", "--bandwidth needs a value"},
    {"volume create v --repo --size 1G", "--repo needs a value"},
    {"copy a b --filters -x", "--option=VALUE"},
    {"copy -x b", "unknown option '-x'"},
    {"--root", "--root needs a value"},
    {"--root= jobs", "--root needs a value"},
    {"move v r --bandwidth 5", "--bandwidth"},
    {"move v r --bandwidth -5MiB/s", "--bandwidth"},
    {"move v r --bandwidth 5parsec/s", "--bandwidth"},
    {"move v r --bandwidth 99999999999999999999GiB/s", "--bandwidth"},
    {"move v r --max-latency 5", "--max-latency"},
    {"move v r --max-latency -5ms", "--max-latency"},
    {"move v r --undo-window soon", "--undo-window"},
    {"move v r --format vhdx", "is no format"},
    {"volume create v --repo r", "needs --size SIZE"},
    {"volume create v --size 1G", "needs --repo REPO"},
    {"volume create v --repo r --size -1", "--size"},
    {"volume create v --repo r --size 9E", "--size"},
    {"volume create v --repo r --size 9223372036854775808", "--size"},
    {"volume create v --repo r --size 1.0000000001G", "--size"},
    {"volume create v --repo r --size 1Q", "--size"},
    {"volume import v u", "needs --format F"},
    {"repo add r u --max-jobs x", "--max-jobs: 'x' is not a number"},
    {"repo add r u --max-jobs -1", "--max-jobs: '-1' is not a number"},
    {"repo add r u --max-jobs 4294967296", "--max-jobs"},
};

START_TEST(what_is_wrong_is_usage_and_says_so)
{
    struct bmig_cli cli;
    struct bmig_error err;
    ck_assert_msg(parse(&cli, refused[_i].line, &err) < 0, "'%s' was understood", refused[_i].line);
    ck_assert_int_eq(err.kind, BMIG_USAGE);
    ck_assert_msg(strstr(err.message, refused[_i].says), "'%s': '%s' does not say '%s'",
                  refused[_i].line, err.message, refused[_i].says);
}
END_TEST

START_TEST(values_are_parsed_by_their_kind)
{
    struct bmig_cli cli;
    struct bmig_error err;
    ck_assert_int_eq(parse(&cli, "move v r --bandwidth 200MiB/s --max-latency 5ms --hold", &err),
                     0);
    ck_assert_uint_eq(bmig_cli_number(&cli, "bandwidth", 1), UINT64_C(200) << 20);
    ck_assert_uint_eq(bmig_cli_number(&cli, "max-latency", 1), 5000000);
    ck_assert_uint_eq(bmig_cli_number(&cli, "undo-window", 77), 77);
    ck_assert(bmig_cli_given(&cli, "hold"));
    ck_assert(!bmig_cli_given(&cli, "detach"));
    ck_assert_ptr_null(bmig_cli_text(&cli, "format"));
    ck_assert_int_eq(parse(&cli, "volume create v --repo r --size 9223372036854775807", &err), 0);
    ck_assert_uint_eq(bmig_cli_number(&cli, "size", 0), INT64_MAX);
}
END_TEST

START_TEST(help_needs_no_verb_and_forgives_missing_words)
{
    struct bmig_cli cli;
    struct bmig_error err;
    ck_assert_int_eq(parse(&cli, "--help", &err), 0);
    ck_assert(cli.help && !cli.help_about);
    ck_assert_int_eq(parse(&cli, "help", &err), 0);
    ck_assert(cli.help && !cli.help_about);
    ck_assert_int_eq(parse(&cli, "repo --help", &err), 0);
    ck_assert_str_eq(cli.help_about, "repo");
    ck_assert_int_eq(parse(&cli, "move -h", &err), 0);
    ck_assert_str_eq(cli.help_about, "move");
    ck_assert_int_eq(parse(&cli, "help volume create", &err), 0);
    ck_assert_str_eq(cli.help_about, "volume create");
    ck_assert_int_lt(parse(&cli, "help xyzzy", &err), 0);
    ck_assert_int_eq(parse(&cli, "--version", &err), 0);
    ck_assert(cli.version);
}
END_TEST

START_TEST(every_verb_has_help_with_its_options_and_an_example)
{
    const struct bmig_cli_verb *verb = &bmig_cli_verbs[_i];
    char *all = bmig_cli_help(bmig_cli_verbs, NULL);
    char *text = bmig_cli_help(bmig_cli_verbs, verb->name);
    char line[128];
    ck_assert_ptr_nonnull(all);
    ck_assert_ptr_nonnull(text);
    snprintf(line, sizeof(line), "  %s", verb->name);
    ck_assert_msg(strstr(all, line), "no '%s' in the overall help", verb->name);
    snprintf(line, sizeof(line), "example: blockmig %s", verb->example);
    ck_assert_ptr_nonnull(strstr(text, line));
    for (const struct bmig_cli_flag *flag = verb->flags; flag && flag->name; flag++) {
        snprintf(line, sizeof(line), "  --%s", flag->name);
        ck_assert_msg(strstr(text, line), "no '%s' in the help of '%s'", line, verb->name);
    }
    free(all);
    free(text);
}
END_TEST

START_TEST(every_example_is_understood)
{
    struct bmig_cli cli;
    struct bmig_error err;
    ck_assert_msg(parse(&cli, bmig_cli_verbs[_i].example, &err) == 0, "%s: %s",
                  bmig_cli_verbs[_i].example, err.message);
    ck_assert_ptr_eq(cli.verb, &bmig_cli_verbs[_i]);
}
END_TEST

/* The parser parts words and options before it knows the verb, so this must hold of the tables. */
START_TEST(one_option_name_means_one_kind_everywhere)
{
    for (const struct bmig_cli_verb *a = bmig_cli_verbs; a->name; a++) {
        for (const struct bmig_cli_flag *flag = a->flags; flag && flag->name; flag++) {
            ck_assert_int_lt(flag - a->flags, BMIG_CLI_MAX_FLAGS);
            ck_assert_int_eq(flag->kind == BMIG_CLI_SWITCH, flag->argument == NULL);
            for (const struct bmig_cli_verb *b = bmig_cli_verbs; b->name; b++) {
                for (const struct bmig_cli_flag *other = b->flags; other && other->name; other++)
                    ck_assert_msg(strcmp(flag->name, other->name) != 0 || flag->kind == other->kind,
                                  "--%s of '%s' and '%s'", flag->name, a->name, b->name);
            }
        }
    }
}
END_TEST

START_TEST(hints_are_near_or_not_given)
{
    const char *const names[] = {"move", "pause", "rollback", NULL};
    ck_assert_str_eq(bmig_cli_nearest("moev", names), "move");
    ck_assert_str_eq(bmig_cli_nearest("mov", names), "move");
    ck_assert_str_eq(bmig_cli_nearest("rolback", names), "rollback");
    ck_assert_str_eq(bmig_cli_nearest("puase", names), "pause");
    ck_assert_ptr_null(bmig_cli_nearest("jobs", names));
    ck_assert_ptr_null(bmig_cli_nearest("", names));
}
END_TEST

int main(void)
{
    int verbs = 0;
    while (bmig_cli_verbs[verbs].name)
        verbs++;
    TCase *parser = tcase_create("parser");
    tcase_add_loop_test(parser, options_may_stand_anywhere, 0,
                        sizeof(understood) / sizeof(understood[0]));
    tcase_add_loop_test(parser, what_is_wrong_is_usage_and_says_so, 0,
                        sizeof(refused) / sizeof(refused[0]));
    tcase_add_test(parser, values_are_parsed_by_their_kind);
    tcase_add_test(parser, help_needs_no_verb_and_forgives_missing_words);
    TCase *table = tcase_create("table");
    tcase_add_loop_test(table, every_verb_has_help_with_its_options_and_an_example, 0, verbs);
    tcase_add_loop_test(table, every_example_is_understood, 0, verbs);
    tcase_add_test(table, one_option_name_means_one_kind_everywhere);
    tcase_add_test(table, hints_are_near_or_not_given);
    Suite *suite = suite_create("cli_args");
    suite_add_tcase(suite, parser);
    suite_add_tcase(suite, table);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
