/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Strings of the control plane: malloc'd, and never NULL for want of memory. The daemon holds no
 * guest's I/O, so where a few bytes can't be had it ends, and is started again from its journal.
 */
#ifndef BLOCKMIG_DAEMON_TEXT_H
#define BLOCKMIG_DAEMON_TEXT_H

#include <stddef.h>
#include <stdint.h>

char *bmig_text(const char *format, ...) __attribute__((format(printf, 1, 2)));
char *bmig_text_copy(const char *text); /* NULL stays NULL */
void *bmig_zalloc(size_t bytes);

/* Puts a copy of text in *slot and frees what was there. */
void bmig_text_set(char **slot, const char *text);

/* text with every byte but letters, digits, "-._~" and those in keep as %XX; malloc'd. */
char *bmig_text_percent_encode(const char *text, const char *keep);

int64_t bmig_wall_ms(void);   /* for people and the journal */
int64_t bmig_steady_ms(void); /* for every bound and interval: never jumps */

/* "2026-01-31T12:00:00.123Z"; text holds 32 bytes. Returns text. */
char *bmig_iso_time(char *text, int64_t wall_ms);

#endif
