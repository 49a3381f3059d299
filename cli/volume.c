/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The verbs of volumes.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/disk_xml.h"
#include "cli/output.h"
#include "cli/place.h"
#include "cli/run.h"

/* Prints answer as JSON where that was asked for; takes it over. */
static void finish(struct bmig_cli *cli, json_t *answer)
{
    if (cli->json)
        bmig_output_json(stdout, answer);
    else
        json_decref(answer);
}

int bmig_cli_volume_create(struct bmig_cli *cli, struct bmig_error *err)
{
    const char *name = cli->words[0], *repo = bmig_cli_text(cli, "repo");
    const char *format = bmig_cli_text(cli, "format");
    uint64_t size = bmig_cli_number(cli, "size", 0);
    json_t *answer = NULL;
    int rc = bmig_cli_check_utf8(name, "the volume's name", err);
    if (rc == 0)
        rc = bmig_cli_check_utf8(repo, "--repo", err);
    if (rc == 0 && (size == 0 || size % 512 != 0))
        rc = bmig_error_set(err, BMIG_USAGE, EINVAL,
                            "--size %.64s: a disk is one or more sectors of 512 bytes; %s",
                            bmig_cli_text(cli, "size"), size ? "round it up" : "give it a size");
    if (rc < 0)
        return rc;
    json_t *body = json_pack("{s:s,s:s,s:I,s:s}", "name", name, "repo", repo, "size_bytes",
                             (json_int_t)size, "format", format ? format : "raw");
    rc = bmig_cli_call(cli, "POST", "/v1/volumes", "", "", body, &answer, err);
    if (rc == 0)
        finish(cli, answer);
    return rc;
}

int bmig_cli_volume_import(struct bmig_cli *cli, struct bmig_error *err)
{
    char *uri = NULL;
    json_t *answer = NULL;
    int rc = bmig_place_absolute(cli->words[1], true, &uri, err);
    if (rc == 0)
        rc = bmig_cli_check_utf8(cli->words[0], "the volume's name", err);
    if (rc == 0)
        rc = bmig_cli_check_utf8(uri, "the image", err);
    if (rc == 0) {
        json_t *body = json_pack("{s:s,s:s,s:s}", "name", cli->words[0], "uri", uri, "format",
                                 bmig_cli_text(cli, "format"));
        rc = bmig_cli_call(cli, "POST", "/v1/volumes/import", "", "", body, &answer, err);
    }
    if (rc == 0)
        finish(cli, answer);
    free(uri);
    return rc;
}

/* ---- start ---- */

static int print_xml(struct bmig_cli *cli, json_t *answer, const char *uri, struct bmig_error *err)
{
    char *xml = NULL;
    int rc = bmig_disk_xml(uri, cli->words[0], &xml, err);
    if (rc == 0 && cli->json) {
        json_object_set_new(answer, "xml", json_string(xml));
        bmig_output_json(stdout, json_incref(answer));
    } else if (rc == 0) {
        fputs(xml, stdout);
    }
    free(xml);
    return rc;
}

int bmig_cli_volume_start(struct bmig_cli *cli, struct bmig_error *err)
{
    const char *print = bmig_cli_text(cli, "print"), *listen = bmig_cli_text(cli, "listen");
    bool xml = print && strcmp(print, "xml") == 0;
    json_t *body = json_object(), *answer = NULL;
    int rc = 0;
    if (print && !xml && strcmp(print, "uri") != 0)
        rc = bmig_error_set(err, BMIG_USAGE, EINVAL, "--print '%.64s': uri or xml", print);
    if (rc == 0 && listen)
        rc = bmig_cli_check_utf8(listen, "--listen", err);
    if (rc < 0) {
        json_decref(body);
        return rc;
    }
    if (listen)
        json_object_set_new(body, "listen", json_pack("[s]", listen));
    rc = bmig_cli_call(cli, "POST", "/v1/volumes/", cli->words[0], "/start", body, &answer, err);
    if (rc < 0)
        return rc;
    const char *uri = bmig_json_text(answer, "uri", bmig_json_text(answer, "nbd_uri", ""));
    if (xml)
        rc = print_xml(cli, answer, uri, err);
    else if (cli->json)
        bmig_output_json(stdout, json_incref(answer));
    else
        printf("%s\n", uri);
    json_decref(answer);
    return rc;
}

int bmig_cli_volume_stop(struct bmig_cli *cli, struct bmig_error *err)
{
    json_t *answer = NULL;
    json_t *body = json_pack("{s:b}", "force", bmig_cli_given(cli, "force"));
    int rc = bmig_cli_call(cli, "POST", "/v1/volumes/", cli->words[0], "/stop", body, &answer, err);
    if (rc == 0)
        finish(cli, answer);
    return rc;
}

/* ---- looking ---- */

static void add_row(struct bmig_table *table, const json_t *volume)
{
    char text[32];
    bmig_table_add(table, bmig_json_text(volume, "name", "?"));
    bmig_table_add(table, bmig_json_text(volume, "state", "?"));
    bmig_table_add_size(table, bmig_json_u64(volume, "size_bytes", UINT64_MAX));
    bmig_table_add(table, bmig_json_text(volume, "repo", "-"));
    bmig_table_add(table, bmig_json_text(volume, "image", bmig_json_text(volume, "uri", "-")));
    bmig_table_add(table, bmig_json_text(volume, "format", "?"));
    uint64_t job = bmig_json_u64(volume, "job", 0);
    snprintf(text, sizeof(text), "%" PRIu64, job);
    bmig_table_add(table, job ? text : "-");
}

int bmig_cli_volume_list(struct bmig_cli *cli, struct bmig_error *err)
{
    static const char *const titles[] = {"NAME",  "STATE",  ">SIZE", "REPO",
                                         "IMAGE", "FORMAT", ">JOB",  NULL};
    json_t *answer = NULL, *volume;
    struct bmig_table table;
    size_t index;
    int rc = bmig_cli_call(cli, "GET", "/v1/volumes", "", "", NULL, &answer, err);
    if (rc < 0)
        return rc;
    if (cli->json) {
        bmig_output_json(stdout, answer);
        return 0;
    }
    bmig_table_init(&table, titles);
    json_array_foreach(answer, index, volume) add_row(&table, volume);
    bmig_table_print(
        &table, stdout,
        "no volumes: make one with 'blockmig volume create NAME --repo REPO --size SIZE'");
    json_decref(answer);
    return 0;
}

int bmig_cli_volume_show(struct bmig_cli *cli, struct bmig_error *err)
{
    json_t *answer = NULL;
    int rc = bmig_cli_call(cli, "GET", "/v1/volumes/", cli->words[0], "", NULL, &answer, err);
    if (rc < 0)
        return rc;
    if (!cli->json)
        bmig_output_fields(stdout, answer);
    finish(cli, answer);
    return 0;
}

int bmig_cli_volume_delete(struct bmig_cli *cli, struct bmig_error *err)
{
    json_t *answer = NULL;
    int rc = bmig_cli_call(cli, "DELETE", "/v1/volumes/", cli->words[0], "", NULL, &answer, err);
    if (rc == 0)
        finish(cli, answer);
    return rc;
}
