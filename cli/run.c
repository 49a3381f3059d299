/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * One run of the command line: descriptors, arguments, the verb, its error, the exit code.
 */
#include "cli/run.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/output.h"

/* A descriptor of 0 to 2 that is closed would be given to the first image opened, and a message
 * written into the image. */
static void hold_stdio(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= 2);
    if (fd > 2)
        close(fd);
}

int bmig_cli_api(struct bmig_cli *cli, struct bmig_error *err)
{
    return cli->api ? 0 : bmig_api_open(&cli->api, cli->root, err);
}

int bmig_cli_call(struct bmig_cli *cli, const char *method, const char *before, const char *name,
                  const char *after, json_t *body, json_t **answer, struct bmig_error *err)
{
    int rc = bmig_cli_api(cli, err);
    char *path = rc == 0 ? bmig_api_path(cli->api, before, name, after) : NULL;
    if (path) {
        rc = bmig_api_call(cli->api, method, path, body, answer, err);
        free(path);
        return rc;
    }
    json_decref(body);
    return rc < 0 ? rc : bmig_error_set(err, BMIG_FAILED, ENOMEM, "no memory");
}

int bmig_cli_check_utf8(const char *text, const char *what, struct bmig_error *err)
{
    json_t *string = json_string(text);
    json_decref(string);
    if (!string)
        return bmig_error_set(err, BMIG_USAGE, EILSEQ, "%s '%.200s': not UTF-8", what, text);
    return 0;
}

static volatile sig_atomic_t stop_signal;

static void on_stop(int number)
{
    stop_signal = number;
}

const volatile sig_atomic_t *bmig_cli_catch_stop(void)
{
    /* Once only: a second Ctrl-C ends a process whose orderly end hangs. */
    struct sigaction action = {.sa_handler = on_stop, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    return &stop_signal;
}

static int print_help(const struct bmig_cli *cli, FILE *out)
{
    char *text = bmig_cli_help(bmig_cli_verbs, cli->help_about);
    if (!text)
        return BMIG_FAILED;
    fputs(text, out);
    free(text);
    return BMIG_OK;
}

/* Data that never reached its reader is no success. A reader that went away on purpose (a pipe to
 * head) has what it wanted. */
static int flush_output(bool json)
{
    struct bmig_error err = {0};
    if (fflush(stdout) == 0 && !ferror(stdout))
        return BMIG_OK;
    if (errno == EPIPE)
        return BMIG_FAILED;
    bmig_error_set(&err, BMIG_FAILED, errno, "can't write to stdout: %s", bmig_strerror(errno));
    bmig_output_error(stderr, json, &err);
    return BMIG_FAILED;
}

static bool wants_json(int argc, char *const *argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--json") == 0)
            return true;
    }
    return false;
}

static int run(struct bmig_cli *cli, int argc, char **argv, struct bmig_error *err)
{
    if (argc == 1) {
        print_help(cli, stderr);
        return BMIG_USAGE;
    }
    int rc = bmig_cli_parse(cli, bmig_cli_verbs, argc, argv, err);
    if (rc < 0)
        return err->kind;
    if (cli->help)
        return print_help(cli, stdout);
    if (cli->version) {
        if (cli->json)
            bmig_output_json(stdout, json_pack("{s:s}", "version", BLOCKMIG_VERSION));
        else
            printf("blockmig %s\n", BLOCKMIG_VERSION);
        return BMIG_OK;
    }
    if (!cli->root && getenv("BLOCKMIG_ROOT") && *getenv("BLOCKMIG_ROOT"))
        cli->root = getenv("BLOCKMIG_ROOT");
    rc = cli->verb->run(cli, err);
    return rc < 0 && err->kind == BMIG_OK ? BMIG_FAILED : (int)err->kind;
}

int bmig_cli_main(int argc, char **argv)
{
    struct bmig_cli cli = {0};
    struct bmig_error err = {0};
    hold_stdio();
    signal(SIGPIPE, SIG_IGN);
    if (argc >= 2 && strcmp(argv[1], "__complete") == 0) {
        bmig_cli_complete(bmig_cli_verbs, argc - 2, argv + 2);
        return BMIG_OK;
    }
    bool json = wants_json(argc, argv);
    int code = run(&cli, argc, argv, &err);
    int flushed = flush_output(json);
    if (err.kind != BMIG_OK)
        bmig_output_error(stderr, json, &err);
    bmig_api_close(cli.api);
    return code != BMIG_OK ? code : flushed;
}
