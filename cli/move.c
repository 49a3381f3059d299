/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The move: asks the daemon for the job, then shows it to its end, or not.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/follow.h"
#include "cli/output.h"
#include "cli/place.h"

static json_t *make_body(struct bmig_cli *cli, const char *destination)
{
    json_t *body =
        json_pack("{s:[s],s:s,s:b,s:b,s:b,s:b}", "volumes", cli->words[0], "destination",
                  destination, "verify", !bmig_cli_given(cli, "no-verify"), "hold",
                  bmig_cli_given(cli, "hold"), "keep_source", bmig_cli_given(cli, "keep-source"),
                  "dry_run", bmig_cli_given(cli, "dry-run"));
    if (bmig_cli_given(cli, "format"))
        json_object_set_new(body, "format", json_string(bmig_cli_text(cli, "format")));
    if (bmig_cli_given(cli, "bandwidth"))
        json_object_set_new(body, "bandwidth_bytes_per_s",
                            json_integer((json_int_t)bmig_cli_number(cli, "bandwidth", 0)));
    if (bmig_cli_given(cli, "max-latency"))
        json_object_set_new(
            body, "max_latency_us",
            json_integer((json_int_t)(bmig_cli_number(cli, "max-latency", 0) / 1000)));
    if (bmig_cli_given(cli, "undo-window"))
        json_object_set_new(
            body, "undo_window_ms",
            json_integer((json_int_t)(bmig_cli_number(cli, "undo-window", 0) / 1000000)));
    return body;
}

static int check_words(struct bmig_cli *cli, struct bmig_error *err)
{
    const char *volume = cli->words[0];
    if (strchr(volume, ':'))
        return bmig_error_set(
            err, BMIG_REFUSED, ENOTSUP,
            "'%.100s': moving disks of a libvirt domain is not supported in this build; what is: "
            "'blockmig move VOLUME DEST' for a volume of 'blockmig volume list'",
            volume);
    int rc = bmig_cli_check_utf8(volume, "the volume's name", err);
    if (rc == 0)
        rc = bmig_cli_check_utf8(cli->words[1], "the destination", err);
    uint64_t latency = bmig_cli_number(cli, "max-latency", 0);
    if (rc == 0 && latency && latency < 1000)
        rc = bmig_error_set(err, BMIG_USAGE, EINVAL, "--max-latency %.64s: at least 1us",
                            bmig_cli_text(cli, "max-latency"));
    return rc;
}

/* A plan with problems is what a move would be refused for. Takes over plan. */
static int print_plan(struct bmig_cli *cli, json_t *plan, struct bmig_error *err)
{
    const json_t *problems = json_object_get(plan, "problems"), *problem;
    struct bmig_error all = {BMIG_REFUSED, 0, "the move would be refused"};
    size_t index;
    json_array_foreach((json_t *)problems, index, problem)
    {
        const char *text = json_string_value(problem);
        size_t used = strlen(all.message);
        snprintf(all.message + used, sizeof(all.message) - used, "%s%s", index ? "; " : ": ",
                 text ? text : "?");
    }
    if (json_array_size(problems) > 0)
        *err = all;
    if (cli->json) {
        bmig_output_json(stdout, plan);
    } else {
        json_object_del(plan, "problems");
        bmig_output_fields(stdout, plan);
        json_decref(plan);
    }
    return err->kind == BMIG_OK ? 0 : -ECANCELED;
}

static int follow(struct bmig_cli *cli, uint64_t id, struct bmig_error *err)
{
    if (!cli->json)
        fprintf(stderr, "job %" PRIu64 " moves volume '%s'\n", id, cli->words[0]);
    return bmig_follow_attached(cli, id, err);
}

int bmig_cli_move(struct bmig_cli *cli, struct bmig_error *err)
{
    char *destination = NULL;
    json_t *answer = NULL;
    int rc = check_words(cli, err);
    if (rc == 0)
        rc = bmig_place_absolute(cli->words[1], false, &destination, err);
    if (rc < 0)
        return rc;
    rc = bmig_cli_call(cli, "POST", "/v1/moves", "", "", make_body(cli, destination), &answer, err);
    free(destination);
    if (rc < 0)
        return rc;
    if (bmig_cli_given(cli, "dry-run"))
        return print_plan(cli, answer, err);
    uint64_t id = bmig_json_u64(answer, "id", 0);
    if (!bmig_cli_given(cli, "detach")) {
        json_decref(answer);
        return follow(cli, id, err);
    }
    if (cli->json) {
        bmig_output_json(stdout, answer);
        return 0;
    }
    json_decref(answer);
    printf("%" PRIu64 "\n", id);
    fprintf(stderr, "'blockmig watch %" PRIu64 "' shows its progress\n", id);
    return 0;
}

int bmig_cli_migrate(struct bmig_cli *cli, struct bmig_error *err)
{
    return bmig_error_set(err, BMIG_REFUSED, ENOTSUP,
                          "'%.100s': migrating a VM to another host is not supported in this "
                          "build; what is: 'blockmig "
                          "move VOLUME DEST' moves a served volume's storage while its guest runs",
                          cli->words[0]);
}
