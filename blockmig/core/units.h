/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Sizes, rates and times as people write them: "10G", "200MiB/s", "5ms"; and back.
 */
#ifndef BLOCKMIG_CORE_UNITS_H
#define BLOCKMIG_CORE_UNITS_H

#include <stddef.h>
#include <stdint.h>

#include "blockmig/core/error.h"

/* "4096", "10G", "1.5T", "512MiB", "10GB": a bare number is bytes; K M G T P E and KiB ... EiB are powers of
 * 1024, KB ... EB of 1000. BMIG_USAGE (what names the argument in the message) for anything else: signs,
 * fractions of a byte, more than 2^63 - 1. */
int bmig_parse_size(const char *text, const char *what, uint64_t *bytes, struct bmig_error *err);

/* "200MiB/s", "1Gbit/s", "0" (no limit): bytes per second. A unit is required: a bare number is refused, for
 * nobody agrees what it would mean. */
int bmig_parse_rate(const char *text, const char *what, uint64_t *bytes_per_s,
                    struct bmig_error *err);

/* "5ms", "250us", "10m", "2h", "1.5s", "0": nanoseconds. A unit is required but for 0. */
int bmig_parse_duration(const char *text, const char *what, uint64_t *ns, struct bmig_error *err);

/* "1.5 GiB", "200 MiB/s" (append "/s" yourself), "5.2 ms", "1m20s". Returns text. 32 bytes suffice. */
char *bmig_format_size(char *text, size_t capacity, uint64_t bytes);
char *bmig_format_duration(char *text, size_t capacity, uint64_t ns);

#endif
