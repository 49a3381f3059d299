/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Strings and clocks of the control plane.
 */
#include "blockmig/daemon/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "blockmig/core/log.h"

static void *must(void *memory)
{
    if (!memory) {
        bmig_log(BMIG_LOG_ERROR, "no memory left: ending; the journal has everything");
        abort();
    }
    return memory;
}

char *bmig_text(const char *format, ...)
{
    va_list args;
    char *text = NULL;
    va_start(args, format);
    int length = vasprintf(&text, format, args);
    va_end(args);
    return must(length < 0 ? NULL : text);
}

char *bmig_text_copy(const char *text)
{
    return text ? must(strdup(text)) : NULL;
}

void *bmig_zalloc(size_t bytes)
{
    return must(calloc(1, bytes));
}

void bmig_text_set(char **slot, const char *text)
{
    char *copy = bmig_text_copy(text);
    free(*slot);
    *slot = copy;
}

char *bmig_text_percent_encode(const char *text, const char *keep)
{
    static const char plain[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
    char *out = bmig_zalloc(strlen(text) * 3 + 1), *end = out;
    for (; *text; text++) {
        if (strchr(plain, *text) || strchr(keep, *text))
            *end++ = *text;
        else
            end += sprintf(end, "%%%02X", (unsigned char)*text);
    }
    return out;
}

static int64_t clock_ms(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int64_t bmig_wall_ms(void)
{
    return clock_ms(CLOCK_REALTIME);
}

int64_t bmig_steady_ms(void)
{
    return clock_ms(CLOCK_MONOTONIC);
}

char *bmig_iso_time(char *text, int64_t wall_ms)
{
    time_t seconds = (time_t)(wall_ms / 1000);
    struct tm tm;
    char day[24];
    gmtime_r(&seconds, &tm);
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text, 32, "%s.%03dZ", day, (int)(wall_ms % 1000));
    return text;
}
