/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The log: one write(2) a line, so that lines of several threads and programs stay whole.
 */
#include "blockmig/core/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static atomic_int log_level = -1;
static char log_name[64] = "blockmig";

static int level_now(void)
{
    int level = atomic_load(&log_level);
    if (level >= 0)
        return level;
    const char *word = getenv("BLOCKMIG_LOG");
    level = BMIG_LOG_NOTICE;
    if (word && strcmp(word, "error") == 0)
        level = BMIG_LOG_ERROR;
    else if (word && strcmp(word, "warning") == 0)
        level = BMIG_LOG_WARNING;
    else if (word && strcmp(word, "debug") == 0)
        level = BMIG_LOG_DEBUG;
    atomic_store(&log_level, level);
    return level;
}

void bmig_log_set_level(enum bmig_log_level level)
{
    atomic_store(&log_level, (int)level);
}

void bmig_log_set_name(const char *name)
{
    snprintf(log_name, sizeof(log_name), "%s", name);
}

void bmig_log(enum bmig_log_level level, const char *format, ...)
{
    if ((int)level > level_now())
        return;
    char line[1024];
    int used;
    if (getenv("JOURNAL_STREAM")) {
        used = snprintf(line, sizeof(line), "<%d>%s: ", (int)level, log_name);
    } else {
        struct timespec now;
        struct tm local;
        clock_gettime(CLOCK_REALTIME, &now);
        localtime_r(&now.tv_sec, &local);
        used = snprintf(line, sizeof(line), "%02d:%02d:%02d.%03ld %s: ", local.tm_hour,
                        local.tm_min, local.tm_sec, now.tv_nsec / 1000000, log_name);
    }
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line + used, sizeof(line) - (size_t)used - 1, format, arguments);
    va_end(arguments);
    size_t length = strnlen(line, sizeof(line) - 2);
    line[length++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, length);
    (void)written; /* there is nobody left to tell */
}
