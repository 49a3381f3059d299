/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The progress line. Its fields are a list in order of worth; the line is as many of them as fit.
 */
#include "cli/progress.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "blockmig/core/units.h"
#include "cli/output.h"

enum { MAX_FIELDS = 8, FIELD_BYTES = 64, PLAIN_EVERY_S = 5 };

void bmig_progress_of_job(struct bmig_progress *progress, const json_t *job)
{
    const char *state = bmig_json_text(job, "state", "?");
    const char *phase = bmig_json_text(job, "phase", "");
    memset(progress, 0, sizeof(*progress));
    snprintf(progress->label, sizeof(progress->label), "job %" PRIu64, bmig_json_u64(job, "id", 0));
    /* "running" says less than its phase does; any other state says more. */
    bool by_phase = strcmp(state, "running") == 0 && *phase;
    snprintf(progress->phase, sizeof(progress->phase), "%s", by_phase ? phase : state);
    progress->percent = bmig_json_real(job, "percent", -1);
    progress->rate_bytes_per_s = bmig_json_u64(job, "rate_bytes_per_s", 0);
    progress->eta_s = bmig_json_u64(job, "eta_s", UINT64_MAX);
    progress->stale_bytes = bmig_json_u64(job, "stale_bytes", UINT64_MAX);
    progress->guest_p99_us = bmig_json_u64(job, "guest_p99_us", UINT64_MAX);
    progress->guest_p99_us_before = bmig_json_u64(job, "guest_p99_us_before", UINT64_MAX);
    if (progress->guest_p99_us == 0)
        progress->guest_p99_us = UINT64_MAX; /* the guest did nothing */
    if (progress->guest_p99_us_before == 0)
        progress->guest_p99_us_before = UINT64_MAX;
}

static void format_eta(char *text, size_t capacity, uint64_t seconds)
{
    if (seconds < 60)
        snprintf(text, capacity, "ETA %" PRIu64 "s", seconds);
    else if (seconds < 3600)
        snprintf(text, capacity, "ETA %" PRIu64 "m%02" PRIu64 "s", seconds / 60, seconds % 60);
    else
        snprintf(text, capacity, "ETA %" PRIu64 "h%02" PRIu64 "m", seconds / 3600,
                 seconds / 60 % 60);
}

static unsigned make_fields(char fields[MAX_FIELDS][FIELD_BYTES], const struct bmig_progress *p)
{
    unsigned count = 0;
    char size[32];
    snprintf(fields[count++], FIELD_BYTES, "%.24s: %.30s", p->label, p->phase);
    if (p->percent >= 0)
        snprintf(fields[count++], FIELD_BYTES, "%.1f%%", p->percent > 100 ? 100 : p->percent);
    if (p->rate_bytes_per_s)
        snprintf(fields[count++], FIELD_BYTES, "%s/s",
                 bmig_output_size(size, sizeof(size), p->rate_bytes_per_s));
    if (p->eta_s != UINT64_MAX)
        format_eta(fields[count++], FIELD_BYTES, p->eta_s);
    if (p->stale_bytes != UINT64_MAX && p->stale_bytes)
        snprintf(fields[count++], FIELD_BYTES, "%s to go",
                 bmig_output_size(size, sizeof(size), p->stale_bytes));
    if (p->guest_p99_us != UINT64_MAX)
        snprintf(fields[count++], FIELD_BYTES, "guest p99 %s",
                 bmig_output_us(size, sizeof(size), p->guest_p99_us));
    if (p->guest_p99_us != UINT64_MAX && p->guest_p99_us_before != UINT64_MAX)
        snprintf(fields[count++], FIELD_BYTES, "(%s before)",
                 bmig_output_us(size, sizeof(size), p->guest_p99_us_before));
    return count;
}

size_t bmig_progress_line(char *text, size_t capacity, unsigned width,
                          const struct bmig_progress *progress)
{
    char fields[MAX_FIELDS][FIELD_BYTES];
    unsigned count = make_fields(fields, progress);
    size_t room = width < capacity - 1 ? width : capacity - 1;
    size_t length = 0;
    text[0] = '\0';
    for (unsigned i = 0; i < count; i++) {
        /* A remark in parentheses belongs to the field before it. */
        const char *gap = i == 0 ? "" : fields[i][0] == '(' ? " " : "  ";
        size_t needed = strlen(gap) + strlen(fields[i]);
        if (i > 0 && length + needed > room)
            break;
        length += (size_t)snprintf(text + length, capacity - length, "%s%s", gap, fields[i]);
        if (length > room) {
            length = room;
            text[length] = '\0';
        }
    }
    return length;
}

/* ---- the painter ---- */

static unsigned terminal_width(FILE *out)
{
    struct winsize size = {0};
    const char *columns = getenv("COLUMNS");
    if (ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col;
    int number = columns ? atoi(columns) : 0;
    return number > 0 ? (unsigned)number : 80;
}

void bmig_painter_init(struct bmig_painter *painter, FILE *out)
{
    const char *term = getenv("TERM");
    *painter = (struct bmig_painter){.out = out};
    painter->terminal = isatty(fileno(out)) && term && strcmp(term, "dumb") != 0;
    painter->width = terminal_width(out);
}

static void paint_over(struct bmig_painter *painter, const char *text, size_t length)
{
    unsigned rest = painter->painted > length ? painter->painted - (unsigned)length : 0;
    fprintf(painter->out, "\r%s%*s", text, (int)rest, "");
    for (unsigned i = 0; i < rest; i++)
        fputc('\b', painter->out);
    fflush(painter->out);
    painter->painted = (unsigned)length;
}

void bmig_painter_show(struct bmig_painter *painter, const struct bmig_progress *progress,
                       uint64_t now_ns)
{
    char text[512];
    if (painter->quiet)
        return;
    if (painter->terminal) {
        painter->width = terminal_width(painter->out);
        /* The last column stays free: a line that fills it makes some terminals scroll. */
        size_t length = bmig_progress_line(text, sizeof(text), painter->width - 1, progress);
        paint_over(painter, text, length);
        return;
    }
    bool same = painter->started && strcmp(painter->phase, progress->phase) == 0;
    if (same && now_ns - painter->last_ns < PLAIN_EVERY_S * UINT64_C(1000000000))
        return;
    bmig_progress_line(text, sizeof(text), sizeof(text), progress);
    fprintf(painter->out, "%s\n", text);
    fflush(painter->out);
    painter->started = true;
    painter->last_ns = now_ns;
    snprintf(painter->phase, sizeof(painter->phase), "%s", progress->phase);
}

void bmig_painter_clear(struct bmig_painter *painter)
{
    if (!painter->terminal || painter->painted == 0)
        return;
    fprintf(painter->out, "\r%*s\r", (int)painter->painted, "");
    fflush(painter->out);
    painter->painted = 0;
}
