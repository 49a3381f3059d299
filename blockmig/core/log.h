/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The log: lines to stderr in the form systemd's journal reads ("<6>text"), or plain with a time on
 * a terminal. Never called on the I/O path; any thread may call it. Never given a secret.
 */
#ifndef BLOCKMIG_CORE_LOG_H
#define BLOCKMIG_CORE_LOG_H

enum bmig_log_level {
    BMIG_LOG_ERROR = 3,   /* someone must act */
    BMIG_LOG_WARNING = 4, /* it goes on, but not as asked */
    BMIG_LOG_NOTICE = 5,  /* a state changed that an operator cares for */
    BMIG_LOG_DEBUG = 7,
};

/* Lines above this level are dropped. Default NOTICE, or what BLOCKMIG_LOG (error, warning, notice,
 * debug) says. */
void bmig_log_set_level(enum bmig_log_level level);

/* Names the program and, where there is one, the volume: the prefix of every line. Copied. */
void bmig_log_set_name(const char *name);

void bmig_log(enum bmig_log_level level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
