/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The verbs of repositories.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/output.h"
#include "cli/place.h"
#include "cli/run.h"

static int put_text(json_t *body, const char *key, const char *text, const char *what,
                    struct bmig_error *err)
{
    int rc = bmig_cli_check_utf8(text, what, err);
    if (rc == 0 && json_object_set_new(body, key, json_string(text)) < 0)
        rc = bmig_error_set(err, BMIG_FAILED, ENOMEM, "no memory");
    return rc;
}

int bmig_cli_repo_add(struct bmig_cli *cli, struct bmig_error *err)
{
    json_t *body = json_object(), *answer = NULL;
    char *uri = NULL, *secret = NULL;
    int rc = bmig_place_absolute(cli->words[1], true, &uri, err);
    if (rc == 0)
        rc = put_text(body, "name", cli->words[0], "the repository's name", err);
    if (rc == 0)
        rc = put_text(body, "uri", uri, "the repository's URI", err);
    if (rc == 0 && bmig_cli_given(cli, "max-jobs"))
        json_object_set_new(body, "max_jobs",
                            json_integer((json_int_t)bmig_cli_number(cli, "max-jobs", 0)));
    if (rc == 0 && bmig_cli_given(cli, "secret-file")) {
        rc = bmig_place_absolute(bmig_cli_text(cli, "secret-file"), true, &secret, err);
        if (rc == 0)
            rc = put_text(body, "secret_file", secret, "--secret-file", err);
    }
    free(uri);
    free(secret);
    if (rc < 0) {
        json_decref(body);
        return rc;
    }
    rc = bmig_cli_call(cli, "POST", "/v1/repos", "", "", body, &answer, err);
    if (rc < 0)
        return rc;
    if (cli->json)
        bmig_output_json(stdout, answer);
    else
        json_decref(answer);
    return 0;
}

/* A number, or "-" where there is none to say. */
static void add_number(struct bmig_table *table, const json_t *object, const char *key)
{
    char text[24] = "-";
    uint64_t number = bmig_json_u64(object, key, 0);
    if (number)
        snprintf(text, sizeof(text), "%" PRIu64, number);
    bmig_table_add(table, text);
}

int bmig_cli_repo_list(struct bmig_cli *cli, struct bmig_error *err)
{
    static const char *const titles[] = {"NAME", "URI", ">MAX JOBS", NULL};
    json_t *answer = NULL, *repo;
    struct bmig_table table;
    size_t index;
    int rc = bmig_cli_call(cli, "GET", "/v1/repos", "", "", NULL, &answer, err);
    if (rc < 0)
        return rc;
    if (cli->json) {
        bmig_output_json(stdout, answer);
        return 0;
    }
    bmig_table_init(&table, titles);
    json_array_foreach(answer, index, repo)
    {
        bmig_table_add(&table, bmig_json_text(repo, "name", "?"));
        bmig_table_add(&table, bmig_json_text(repo, "uri", "?"));
        add_number(&table, repo, "max_jobs");
    }
    bmig_table_print(&table, stdout, "no repositories: add one with 'blockmig repo add NAME URI'");
    json_decref(answer);
    return 0;
}

int bmig_cli_repo_show(struct bmig_cli *cli, struct bmig_error *err)
{
    json_t *answer = NULL;
    int rc = bmig_cli_call(cli, "GET", "/v1/repos/", cli->words[0], "", NULL, &answer, err);
    if (rc < 0)
        return rc;
    if (cli->json) {
        bmig_output_json(stdout, answer);
        return 0;
    }
    bmig_output_fields(stdout, answer);
    json_decref(answer);
    return 0;
}

int bmig_cli_repo_remove(struct bmig_cli *cli, struct bmig_error *err)
{
    json_t *answer = NULL;
    int rc = bmig_cli_call(cli, "DELETE", "/v1/repos/", cli->words[0], "", NULL, &answer, err);
    if (rc < 0)
        return rc;
    if (cli->json)
        bmig_output_json(stdout, answer);
    else
        json_decref(answer);
    return 0;
}
