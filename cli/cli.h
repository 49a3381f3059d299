/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The command line: one table of verbs drives parsing, help, completion and what runs.
 *
 * A verb's run gets its words and options parsed and checked, prints its data on stdout (one JSON
 * document with --json) and returns 0 or -errno with err set; err's kind is the exit code. Progress
 * and errors go to stderr. Nothing here serves guest I/O.
 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "blockmig/core/error.h"

enum bmig_cli_kind {
    BMIG_CLI_SWITCH,
    BMIG_CLI_TEXT,
    BMIG_CLI_SIZE,     /* bytes */
    BMIG_CLI_RATE,     /* bytes per second */
    BMIG_CLI_DURATION, /* nanoseconds */
    BMIG_CLI_COUNT,    /* a plain number from 0 to 2^31 - 1 */
    BMIG_CLI_FORMAT,   /* a format's name */
};

struct bmig_cli_flag {
    const char *name; /* without dashes; NULL ends a table. One name means one kind in every verb */
    enum bmig_cli_kind kind;
    bool required;
    const char *argument; /* how the usage writes its value; NULL for a switch */
    const char *help;
};

enum { BMIG_CLI_MAX_FLAGS = 16, BMIG_CLI_MAX_WORDS = 4 };

struct bmig_cli;

struct bmig_cli_verb {
    const char *name;      /* "jobs", "repo add"; NULL ends the table */
    const char *arguments; /* "NAME URI": each word is required, but those in brackets */
    const char *group;     /* headline in the overall help */
    const char *summary;   /* one line */
    const char *details;   /* more for the verb's own help; may be NULL */
    const char *example;   /* without "blockmig " */
    bool needs_daemon;
    const struct bmig_cli_flag *flags; /* may be NULL */
    int (*run)(struct bmig_cli *cli, struct bmig_error *err);
};

extern const struct bmig_cli_verb bmig_cli_verbs[];
extern const struct bmig_cli_flag bmig_cli_global_flags[];

struct bmig_cli_value {
    const char *text; /* NULL: not given */
    uint64_t number;
};

struct bmig_cli {
    const struct bmig_cli_verb *verb;
    const char *words[BMIG_CLI_MAX_WORDS]; /* the verb's, borrowed from argv */
    unsigned word_count;
    struct bmig_cli_value values[BMIG_CLI_MAX_FLAGS]; /* in the order of verb->flags */
    const char *root;                                 /* NULL: the system's folders */
    bool json, help, version;
    const char *help_about; /* with help: "move", "repo", or NULL for all */
    char help_name[32];
    struct bmig_api *api; /* opened when first used */
};

/* Takes argv apart into cli (zeroed by the caller). BMIG_USAGE with a hint for anything that the
 * table does not know. With help or version set, verb may be NULL. No output. */
int bmig_cli_parse(struct bmig_cli *cli, const struct bmig_cli_verb *verbs, int argc,
                   char *const *argv, struct bmig_error *err);

/* An option of the verb that runs; asking for one that its table lacks is a broken invariant. */
bool bmig_cli_given(const struct bmig_cli *cli, const char *flag);
const char *bmig_cli_text(const struct bmig_cli *cli, const char *flag); /* NULL: not given */
uint64_t bmig_cli_number(const struct bmig_cli *cli, const char *flag, uint64_t fallback);

/* The candidate nearest to word, or NULL where none is near enough to be what was meant. candidates
 * ends with NULL. */
const char *bmig_cli_nearest(const char *word, const char *const *candidates);

/* ---- help.c ---- */

/* The overall help (about NULL), a group's ("repo") or a verb's. Returned text is malloc'd. */
char *bmig_cli_help(const struct bmig_cli_verb *verbs, const char *about);

/* ---- complete.c ---- */

/* Candidates for the last of words (what a shell completes), one a line on stdout. */
void bmig_cli_complete(const struct bmig_cli_verb *verbs, int count, char *const *words);

/* ---- main ---- */

/* Everything but main's frame: returns the exit code. */
int bmig_cli_main(int argc, char **argv);

/* ---- the verbs' functions, by file ---- */

int bmig_cli_repo_add(struct bmig_cli *cli, struct bmig_error *err);
int bmig_cli_repo_list(struct bmig_cli *cli, struct bmig_error *err);
int bmig_cli_repo_show(struct bmig_cli *cli, struct bmig_error *err);
int bmig_cli_repo_remove(struct bmig_cli *cli, struct bmig_error *err);

int bmig_cli_volume_create(struct bmig_cli *cli, struct bmig_error *err);
int bmig_cli_volume_import(struct bmig_cli *cli, struct bmig_error *err);
int bmig_cli_volume_start(struct bmig_cli *cli, struct bmig_error *err);
int bmig_cli_volume_stop(struct bmig_cli *cli, struct bmig_error *err);
int bmig_cli_volume_list(struct bmig_cli *cli, struct bmig_error *err);
int bmig_cli_volume_show(struct bmig_cli *cli, struct bmig_error *err);
int bmig_cli_volume_delete(struct bmig_cli *cli, struct bmig_error *err);

int bmig_cli_move(struct bmig_cli *cli, struct bmig_error *err);
int bmig_cli_migrate(struct bmig_cli *cli, struct bmig_error *err);

int bmig_cli_jobs(struct bmig_cli *cli, struct bmig_error *err);
int bmig_cli_job(struct bmig_cli *cli, struct bmig_error *err);
int bmig_cli_job_verb(struct bmig_cli *cli, struct bmig_error *err); /* pause ... commit */
int bmig_cli_set(struct bmig_cli *cli, struct bmig_error *err);
int bmig_cli_watch(struct bmig_cli *cli, struct bmig_error *err);
int bmig_cli_wait(struct bmig_cli *cli, struct bmig_error *err);
int bmig_cli_actions(struct bmig_cli *cli, struct bmig_error *err); /* recover, cleanup */

int bmig_cli_copy(struct bmig_cli *cli, struct bmig_error *err);
int bmig_cli_verify(struct bmig_cli *cli, struct bmig_error *err);
int bmig_cli_info(struct bmig_cli *cli, struct bmig_error *err);
int bmig_cli_check(struct bmig_cli *cli, struct bmig_error *err);

#endif
