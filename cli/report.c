/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What a move came to, in a few lines on stdout.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/follow.h"
#include "cli/output.h"
#include "cli/progress.h"

/* Milliseconds of "2026-01-31T12:34:56.789Z"; false where it is no such time. */
static bool parse_time(const char *text, int64_t *ms)
{
    struct tm tm = {0};
    unsigned fraction = 0;
    const char *rest = text ? strptime(text, "%Y-%m-%dT%H:%M:%S", &tm) : NULL;
    if (!rest)
        return false;
    if (*rest == '.')
        sscanf(rest, ".%3u", &fraction);
    *ms = (int64_t)timegm(&tm) * 1000 + fraction;
    return true;
}

static void put_time(const json_t *job, char *text, size_t capacity)
{
    int64_t begin, end;
    text[0] = '\0';
    if (parse_time(bmig_json_text(job, "started", NULL), &begin) &&
        parse_time(bmig_json_text(job, "finished", NULL), &end) && end >= begin)
        snprintf(text, capacity, " in %.1f s", (double)(end - begin) / 1e3);
}

static void put_latencies(const json_t *job, const char *title, const char *suffix)
{
    static const char *const names[] = {"guest_p50_us", "guest_p99_us", "guest_p999_us",
                                        "guest_max_us"};
    printf("  %-22s", title);
    for (unsigned i = 0; i < 4; i++) {
        char key[64], text[32];
        snprintf(key, sizeof(key), "%s%s", names[i], suffix);
        uint64_t us = bmig_json_u64(job, key, UINT64_MAX);
        printf("%12s", bmig_output_us(text, sizeof(text), us ? us : UINT64_MAX));
    }
    printf("\n");
}

static void put_guest(const json_t *job)
{
    printf("  %-22s%12s%12s%12s%12s\n", "guest latency", "p50", "p99", "p99.9", "longest");
    put_latencies(job, "  before", "_before");
    put_latencies(job, "  during the move", "");
}

static void put_head(const json_t *job)
{
    char time[64];
    char *source = bmig_output_clean(bmig_json_text(job, "source", "?"));
    char *target = bmig_output_clean(bmig_json_text(job, "target", "?"));
    put_time(job, time, sizeof(time));
    printf("job %" PRIu64 " done%s: %s -> %s\n", bmig_json_u64(job, "id", 0), time,
           source ? source : "?", target ? target : "?");
    free(source);
    free(target);
}

void bmig_job_report(const json_t *job)
{
    char text[64], other[64];
    put_head(job);
    printf("  %-22s%s (%s were zero or holes)\n", "copied",
           bmig_output_size(text, sizeof(text), bmig_json_u64(job, "bytes_copied", 0)),
           bmig_output_size(other, sizeof(other), bmig_json_u64(job, "bytes_skipped", 0)));
    printf("  %-22s%s\n", "of it copied again",
           bmig_output_size(text, sizeof(text), bmig_json_u64(job, "bytes_recopied", 0)));
    printf("  %-22s%s of guest writes\n", "mirrored",
           bmig_output_size(text, sizeof(text), bmig_json_u64(job, "bytes_mirrored", 0)));
    put_guest(job);
    printf("  %-22s%s\n", "pause at the switch",
           bmig_output_us(text, sizeof(text), bmig_json_u64(job, "switch_hold_us", UINT64_MAX)));
    bool unasked = json_is_false(json_object_get(json_object_get(job, "options"), "verify"));
    printf("  %-22s%s\n", "verified",
           bmig_json_true(job, "verified") ? "both replicas equal"
           : unasked                       ? "no: --no-verify was asked for"
                                           : "no");
    char *result = bmig_output_clean(bmig_json_text(job, "result", ""));
    if (result && *result)
        printf("  %-22s%s\n", "note", result);
    free(result);
}
