/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What a move came to, in a few lines on stdout.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/follow.h"
#include "cli/output.h"
#include "cli/progress.h"

static void put_time(const json_t *job, char *text, size_t capacity)
{
    uint64_t seconds = bmig_json_u64(job, "elapsed_s", UINT64_MAX);
    const json_t *times = json_object_get(job, "times");
    uint64_t begin =
        bmig_json_u64(times, "started_ms", bmig_json_u64(times, "created_ms", UINT64_MAX));
    uint64_t end =
        bmig_json_u64(times, "ended_ms", bmig_json_u64(times, "finished_ms", UINT64_MAX));
    text[0] = '\0';
    if (begin != UINT64_MAX && end != UINT64_MAX && end >= begin)
        snprintf(text, capacity, " in %.1f s", (double)(end - begin) / 1e3);
    else if (seconds != UINT64_MAX)
        snprintf(text, capacity, " in %" PRIu64 " s", seconds);
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

void bmig_job_report(const json_t *job)
{
    char text[64], other[64];
    put_time(job, text, sizeof(text));
    char *source = bmig_output_clean(bmig_json_text(job, "source", "?"));
    char *target = bmig_output_clean(bmig_json_text(job, "target", "?"));
    printf("job %" PRIu64 " done%s: %s -> %s\n", bmig_json_u64(job, "id", 0), text,
           source ? source : "?", target ? target : "?");
    free(source);
    free(target);
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
    printf("  %-22s%s\n", "verified",
           bmig_json_true(job, "verified") ? "both replicas equal"
                                           : "no: --no-verify was asked for");
}
