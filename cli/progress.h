/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Progress: one line of a job or a copy as it stands, painted over itself on a terminal and written
 * now and then elsewhere.
 */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

/* UINT64_MAX: unknown, or not worth a word. */
struct bmig_progress {
    char label[48];            /* "job 7", "copy" */
    char phase[48];            /* "copying", "verifying", "synced", ... */
    double percent;            /* below 0: none */
    uint64_t rate_bytes_per_s; /* 0 says nothing */
    uint64_t eta_s;
    uint64_t stale_bytes;
    uint64_t guest_p99_us, guest_p99_us_before;
};

/* What a job object says. */
void bmig_progress_of_job(struct bmig_progress *progress, const json_t *job);

/* Writes the line into text, no wider than width columns: what matters least is left out first, and
 * a line without room for its first words is cut. Returns its length. */
size_t bmig_progress_line(char *text, size_t capacity, unsigned width,
                          const struct bmig_progress *progress);

struct bmig_painter {
    FILE *out;
    bool terminal;
    bool quiet;       /* paints nothing */
    unsigned width;   /* columns */
    unsigned painted; /* columns of the line that stands there now; 0: none */
    uint64_t last_ns; /* when a plain line was last written */
    char phase[48];   /* of the last plain line */
    bool started;
};

/* For out (stderr, mostly): a terminal or not, and how wide. */
void bmig_painter_init(struct bmig_painter *painter, FILE *out);

/* Shows progress: on a terminal always; elsewhere at each change of phase and every 5 s. */
void bmig_painter_show(struct bmig_painter *painter, const struct bmig_progress *progress,
                       uint64_t now_ns);

/* Leaves the cursor at the start of an empty line, for whatever is to be printed next. */
void bmig_painter_clear(struct bmig_painter *painter);

#endif
