/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The verbs of jobs.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/follow.h"
#include "cli/output.h"
#include "cli/progress.h"

static void add_row(struct bmig_table *table, const json_t *job)
{
    char text[64], size[32];
    uint64_t eta = bmig_json_u64(job, "eta_s", UINT64_MAX);
    uint64_t rate = bmig_json_u64(job, "rate_bytes_per_s", 0);
    bool final = bmig_job_is_final(job);
    snprintf(text, sizeof(text), "%" PRIu64, bmig_json_u64(job, "id", 0));
    bmig_table_add(table, text);
    bmig_table_add(table, bmig_json_text(job, "state", "?"));
    bmig_table_add(table, final ? "-" : bmig_json_text(job, "phase", "-"));
    bmig_table_add(table, bmig_json_text(job, "volume", "-"));
    bmig_table_add(table, bmig_json_text(job, "source", "-"));
    bmig_table_add(table, bmig_json_text(job, "target", "-"));
    snprintf(text, sizeof(text), "%.1f%%", bmig_json_real(job, "percent", 0));
    bmig_table_add(table, text);
    snprintf(text, sizeof(text), "%s/s", bmig_output_size(size, sizeof(size), rate));
    bmig_table_add(table, rate && !final ? text : "-");
    snprintf(text, sizeof(text), "%" PRIu64 "s", eta);
    bmig_table_add(table, eta != UINT64_MAX && !final ? text : "-");
}

int bmig_cli_jobs(struct bmig_cli *cli, struct bmig_error *err)
{
    static const char *const titles[] = {">JOB",   "STATE", "PHASE", "VOLUME", "SOURCE",
                                         "TARGET", ">DONE", ">RATE", ">ETA",   NULL};
    json_t *answer = NULL, *job;
    struct bmig_table table;
    size_t index;
    int rc = bmig_cli_call(cli, "GET", "/v1/jobs", "", "", NULL, &answer, err);
    if (rc < 0)
        return rc;
    if (cli->json) {
        bmig_output_json(stdout, answer);
        return 0;
    }
    bmig_table_init(&table, titles);
    json_array_foreach(answer, index, job) add_row(&table, job);
    bmig_table_print(&table, stdout, "no jobs: 'blockmig move VOLUME DEST' makes one");
    json_decref(answer);
    return 0;
}

int bmig_cli_job(struct bmig_cli *cli, struct bmig_error *err)
{
    uint64_t id;
    json_t *job = NULL;
    int rc = bmig_job_parse(cli->words[0], &id, err);
    if (rc == 0)
        rc = bmig_cli_call(cli, "GET", "/v1/jobs/", cli->words[0], "", NULL, &job, err);
    if (rc < 0)
        return rc;
    if (cli->json) {
        bmig_output_json(stdout, job);
        return 0;
    }
    bmig_output_fields(stdout, job);
    json_decref(job);
    return 0;
}

/* pause, resume, cancel, switch, rollback, commit: the verb is the last part of the path. */
int bmig_cli_job_verb(struct bmig_cli *cli, struct bmig_error *err)
{
    uint64_t id;
    char after[32];
    json_t *answer = NULL;
    int rc = bmig_job_parse(cli->words[0], &id, err);
    if (rc < 0)
        return rc;
    snprintf(after, sizeof(after), "/%s", cli->verb->name);
    rc = bmig_cli_call(cli, "POST", "/v1/jobs/", cli->words[0], after, NULL, &answer, err);
    if (rc < 0)
        return rc;
    if (cli->json) {
        bmig_output_json(stdout, answer);
        return 0;
    }
    fprintf(stderr, "job %" PRIu64 ": %s\n", id, bmig_json_text(answer, "state", "accepted"));
    json_decref(answer);
    return 0;
}

int bmig_cli_set(struct bmig_cli *cli, struct bmig_error *err)
{
    uint64_t id;
    json_t *answer = NULL;
    int rc = bmig_job_parse(cli->words[0], &id, err);
    if (rc < 0)
        return rc;
    if (!bmig_cli_given(cli, "bandwidth") && !bmig_cli_given(cli, "max-latency"))
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "'set' needs --bandwidth RATE, --max-latency TIME, or both");
    json_t *body = json_object();
    if (bmig_cli_given(cli, "bandwidth"))
        json_object_set_new(body, "bandwidth_bytes_per_s",
                            json_integer((json_int_t)bmig_cli_number(cli, "bandwidth", 0)));
    if (bmig_cli_given(cli, "max-latency"))
        json_object_set_new(
            body, "max_latency_us",
            json_integer((json_int_t)(bmig_cli_number(cli, "max-latency", 0) / 1000)));
    rc = bmig_cli_call(cli, "PATCH", "/v1/jobs/", cli->words[0], "", body, &answer, err);
    if (rc < 0)
        return rc;
    if (cli->json)
        bmig_output_json(stdout, answer);
    else
        json_decref(answer);
    return 0;
}

int bmig_cli_watch(struct bmig_cli *cli, struct bmig_error *err)
{
    uint64_t id;
    int rc = bmig_job_parse(cli->words[0], &id, err);
    return rc < 0 ? rc : bmig_follow_attached(cli, id, err);
}

int bmig_cli_wait(struct bmig_cli *cli, struct bmig_error *err)
{
    struct bmig_follow follow = {.deadline_ns = UINT64_MAX};
    int rc = bmig_job_parse(cli->words[0], &follow.job, err);
    if (rc < 0)
        return rc;
    if (bmig_cli_given(cli, "timeout")) {
        uint64_t now = bmig_api_now_ns(), bound = bmig_cli_number(cli, "timeout", 0);
        follow.deadline_ns = bound < UINT64_MAX - now ? now + bound : UINT64_MAX;
    }
    follow.stop = bmig_cli_catch_stop();
    rc = bmig_follow_job(cli, &follow, err);
    if (rc == 0 && follow.end == BMIG_FOLLOW_FINAL) {
        rc = bmig_job_outcome(follow.last, err);
    } else if (rc == 0) {
        const char *why =
            follow.end == BMIG_FOLLOW_TIMEOUT ? "the time to wait ran out" : "interrupted";
        rc = bmig_error_set(err, BMIG_TIMED_OUT, ETIMEDOUT,
                            "%s: job %" PRIu64 " goes on (%.32s, %.1f%%)", why, follow.job,
                            bmig_json_text(follow.last, "state", "?"),
                            bmig_json_real(follow.last, "percent", 0));
    }
    if (cli->json && follow.last)
        bmig_output_json(stdout, json_incref(follow.last));
    json_decref(follow.last);
    return rc;
}

/* recover, cleanup: what was done, one line each. */
int bmig_cli_actions(struct bmig_cli *cli, struct bmig_error *err)
{
    char path[32];
    json_t *answer = NULL, *action;
    size_t index;
    snprintf(path, sizeof(path), "/v1/%s", cli->verb->name);
    int rc = bmig_cli_call(cli, "POST", path, "", "", NULL, &answer, err);
    if (rc < 0)
        return rc;
    if (cli->json) {
        bmig_output_json(stdout, answer);
        return 0;
    }
    const json_t *actions = json_object_get(answer, "actions");
    json_array_foreach(actions, index, action)
    {
        char *text = json_is_string(action) ? bmig_output_clean(json_string_value(action))
                                            : json_dumps(action, JSON_COMPACT | JSON_ENCODE_ANY);
        printf("%s\n", text ? text : "");
        free(text);
    }
    if (json_array_size(actions) == 0)
        fprintf(stderr, "nothing to do\n");
    json_decref(answer);
    return 0;
}
