/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A job's events, followed over breaks: a daemon that is restarted or upgraded while a move runs is
 * not the move's end, so what follows it waits a while for the daemon to come back and takes the
 * job up again.
 */
#include "cli/follow.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/output.h"
#include "cli/progress.h"

enum { DAEMON_PATIENCE_S = 30, RETRY_MS = 250 };

bool bmig_job_is_final(const json_t *job)
{
    const char *state = bmig_json_text(job, "state", "");
    return strcmp(state, "done") == 0 || strcmp(state, "failed") == 0 ||
           strcmp(state, "cancelled") == 0;
}

int bmig_job_parse(const char *text, uint64_t *job, struct bmig_error *err)
{
    char *end = NULL;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || number == 0 || number > INT64_MAX)
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "'%.64s' is not a job's number: 'blockmig jobs' lists them", text);
    *job = number;
    return 0;
}

int bmig_job_outcome(const json_t *job, struct bmig_error *err)
{
    const char *state = bmig_json_text(job, "state", "");
    const json_t *error = json_object_get(job, "error");
    const char *why =
        json_is_object(error) ? bmig_json_text(error, "message", "") : json_string_value(error);
    int code = (int)bmig_json_u64(error, "code", 0);
    uint64_t id = bmig_json_u64(job, "id", 0);
    const char *colon = why && *why ? ": " : "";
    if (strcmp(state, "failed") == 0)
        return bmig_error_set(err, BMIG_FAILED, code, "job %" PRIu64 " failed%s%s", id, colon,
                              why ? why : "");
    if (strcmp(state, "cancelled") == 0)
        return bmig_error_set(err, BMIG_CANCELLED, code ? code : ECANCELED,
                              "job %" PRIu64 " was cancelled%s%s", id,
                              *colon ? colon : "; the volume is where it was", why ? why : "");
    return 0;
}

/* ---- the stream ---- */

static bool on_line(void *user, json_t *object)
{
    struct bmig_follow *follow = user;
    json_t *job = json_object_get(object, "job");
    if (!json_is_object(job) || bmig_json_u64(job, "id", 0) != follow->job)
        return true;
    json_decref(follow->last);
    follow->last = json_incref(job);
    if (follow->heard)
        follow->heard(follow->user, job);
    return !bmig_job_is_final(job);
}

static int read_once(struct bmig_cli *cli, struct bmig_follow *follow, bool *ended,
                     struct bmig_error *err)
{
    char path[64];
    struct bmig_api_stream stream = {
        .line = on_line, .user = follow, .stop = follow->stop, .deadline_ns = follow->deadline_ns};
    snprintf(path, sizeof(path), "/v1/events?job=%" PRIu64, follow->job);
    int rc = bmig_api_follow(cli->api, path, &stream, err);
    *ended = true;
    if (rc < 0)
        return rc;
    if (follow->last && bmig_job_is_final(follow->last))
        follow->end = BMIG_FOLLOW_FINAL;
    else if (stream.end == BMIG_API_STREAM_STOPPED)
        follow->end = BMIG_FOLLOW_DETACHED;
    else if (stream.end == BMIG_API_STREAM_TIMEOUT)
        follow->end = BMIG_FOLLOW_TIMEOUT;
    else
        *ended = false; /* the daemon went away in good order */
    return 0;
}

/* The job as it is now; without it a stream that began after the job's end would say nothing. */
static int look(struct bmig_cli *cli, struct bmig_follow *follow, struct bmig_error *err)
{
    char number[24];
    json_t *job = NULL;
    snprintf(number, sizeof(number), "%" PRIu64, follow->job);
    int rc = bmig_cli_call(cli, "GET", "/v1/jobs/", number, "", NULL, &job, err);
    if (rc < 0)
        return rc;
    json_decref(follow->last);
    follow->last = job;
    if (follow->heard)
        follow->heard(follow->user, job);
    return 0;
}

/* Sleeps a moment; returns false where it is time to stop, with end set. */
static bool wait_a_moment(struct bmig_follow *follow)
{
    struct timespec moment = {0, RETRY_MS * 1000000L};
    if (!*follow->stop)
        nanosleep(&moment, NULL);
    if (*follow->stop)
        follow->end = BMIG_FOLLOW_DETACHED;
    else if (bmig_api_now_ns() >= follow->deadline_ns)
        follow->end = BMIG_FOLLOW_TIMEOUT;
    else
        return true;
    return false;
}

int bmig_follow_job(struct bmig_cli *cli, struct bmig_follow *follow, struct bmig_error *err)
{
    int rc = bmig_cli_api(cli, err);
    if (rc == 0)
        rc = look(cli, follow, err);
    if (rc < 0)
        return rc;
    follow->end = BMIG_FOLLOW_FINAL;
    uint64_t lost_ns = 0;
    while (!bmig_job_is_final(follow->last)) {
        struct bmig_error now = {0};
        bool ended = false;
        rc = read_once(cli, follow, &ended, &now);
        if (rc == 0 && ended)
            return 0;
        if (rc < 0 && now.kind != BMIG_NO_DAEMON) {
            *err = now;
            return rc;
        }
        /* The daemon is gone, or ended the stream before the job did: look again, for a while. */
        if (!wait_a_moment(follow))
            return 0;
        struct bmig_error gone = {0};
        rc = look(cli, follow, &gone);
        if (rc == 0)
            lost_ns = 0;
        else if (gone.kind != BMIG_NO_DAEMON ||
                 (lost_ns &&
                  bmig_api_now_ns() - lost_ns > DAEMON_PATIENCE_S * UINT64_C(1000000000))) {
            *err = gone;
            if (gone.kind == BMIG_NO_DAEMON)
                bmig_error_prefix(err, "job %" PRIu64 " waits for its daemon", follow->job);
            return rc;
        } else if (!lost_ns)
            lost_ns = bmig_api_now_ns();
    }
    return 0;
}

/* ---- attached ---- */

struct attached {
    struct bmig_cli *cli;
    struct bmig_painter painter;
    bool lines;        /* JSON lines on stdout: watch --json */
    char state[24];    /* last heard of */
    char problem[256]; /* last told of */
    json_t *line;      /* the last one printed, so that a repeated snapshot is not */
};

/* What to know, or to do, about the state that the job has come to: said once. */
static void tell(struct attached *attached, const json_t *job)
{
    const char *state = bmig_json_text(job, "state", "");
    const char *problem = bmig_json_text(json_object_get(job, "error"), "message", "");
    uint64_t id = bmig_json_u64(job, "id", 0);
    bool entered = strcmp(state, attached->state) != 0;
    bool hold = bmig_json_true(json_object_get(job, "options"), "hold");
    snprintf(attached->state, sizeof(attached->state), "%s", state);
    if (attached->painter.quiet)
        return;
    if (*problem && strncmp(problem, attached->problem, sizeof(attached->problem) - 1) != 0) {
        char *clean = bmig_output_clean(problem);
        bmig_painter_clear(&attached->painter);
        fprintf(stderr, "job %" PRIu64 " is %s: %s\n", id, state, clean ? clean : "");
        free(clean);
        snprintf(attached->problem, sizeof(attached->problem), "%s", problem);
    }
    if (entered && strcmp(state, "synced") == 0 && hold) {
        bmig_painter_clear(&attached->painter);
        fprintf(stderr, "job %" PRIu64 " is in sync and held: 'blockmig switch %" PRIu64 "'\n", id,
                id);
    } else if (entered && strcmp(state, "undo-window") == 0) {
        bmig_painter_clear(&attached->painter);
        fprintf(stderr,
                "job %" PRIu64 " has switched: 'blockmig rollback %" PRIu64
                "' goes back, 'blockmig commit %" PRIu64 "' ends the undo window\n",
                id, id, id);
    }
}

static void on_heard(void *user, const json_t *job)
{
    struct attached *attached = user;
    struct bmig_progress progress;
    if (attached->lines && !(attached->line && json_equal(attached->line, job))) {
        bmig_output_json_line(stdout, job);
        json_decref(attached->line);
        attached->line = json_deep_copy(job);
    }
    if (attached->lines || bmig_job_is_final(job))
        return;
    tell(attached, job);
    bmig_progress_of_job(&progress, job);
    bmig_painter_show(&attached->painter, &progress, bmig_api_now_ns());
}

int bmig_follow_attached(struct bmig_cli *cli, uint64_t job, struct bmig_error *err)
{
    struct attached attached = {.cli = cli};
    struct bmig_follow follow = {.job = job,
                                 .deadline_ns = UINT64_MAX,
                                 .stop = bmig_cli_catch_stop(),
                                 .heard = on_heard,
                                 .user = &attached};
    bmig_painter_init(&attached.painter, stderr);
    attached.painter.quiet =
        cli->json && !attached.painter.terminal; /* stderr is for a JSON error then */
    attached.lines = cli->json && strcmp(cli->verb->name, "watch") == 0;
    int rc = bmig_follow_job(cli, &follow, err);
    bmig_painter_clear(&attached.painter);
    if (rc == 0 && follow.end == BMIG_FOLLOW_DETACHED) {
        rc = bmig_error_set(err, BMIG_TIMED_OUT, EINTR,
                            "detached: job %" PRIu64 " goes on; 'blockmig watch %" PRIu64
                            "' comes back to it, 'blockmig cancel %" PRIu64 "' ends it",
                            job, job, job);
    } else if (rc == 0) {
        if (cli->json && !attached.lines)
            bmig_output_json(stdout, json_incref(follow.last));
        else if (!cli->json && strcmp(bmig_json_text(follow.last, "state", ""), "done") == 0)
            bmig_job_report(follow.last);
        rc = bmig_job_outcome(follow.last, err);
    }
    json_decref(follow.last);
    json_decref(attached.line);
    return rc;
}
