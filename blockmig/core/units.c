/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Units: decimal numbers with a unit, exact in integers, so that nothing is rounded on the way in.
 */
#include "blockmig/core/units.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* 128 bits hold the product of any accepted number and unit. */
__extension__ typedef unsigned __int128 u128;

enum { FRACTION_DIGITS_MAX = 9 };

/* A decimal number: digits / scale. */
struct number {
    uint64_t digits;
    uint64_t scale;
};

struct unit {
    const char *name;
    uint64_t factor;
};

#define KI UINT64_C(1024)
#define KD UINT64_C(1000)

static const struct unit size_units[] = {
    {"", 1},
    {"B", 1},
    {"K", KI},
    {"M", KI *KI},
    {"G", KI *KI *KI},
    {"T", KI *KI *KI *KI},
    {"P", KI *KI *KI *KI *KI},
    {"E", KI *KI *KI *KI *KI *KI},
    {"k", KI},
    {"m", KI *KI},
    {"g", KI *KI *KI},
    {"t", KI *KI *KI *KI},
    {"KiB", KI},
    {"MiB", KI *KI},
    {"GiB", KI *KI *KI},
    {"TiB", KI *KI *KI *KI},
    {"PiB", KI *KI *KI *KI *KI},
    {"EiB", KI *KI *KI *KI *KI *KI},
    {"KB", KD},
    {"kB", KD},
    {"MB", KD *KD},
    {"GB", KD *KD *KD},
    {"TB", KD *KD *KD *KD},
    {"PB", KD *KD *KD *KD *KD},
    {"EB", KD *KD *KD *KD *KD *KD},
    {NULL, 0},
};

/* Bits a second; a network's prefixes are powers of 1000. */
static const struct unit bit_units[] = {
    {"bit", 1},       {"kbit", KD},         {"Kbit", KD},
    {"Mbit", KD *KD}, {"Gbit", KD *KD *KD}, {"Tbit", KD *KD *KD *KD},
    {NULL, 0},
};

static const struct unit duration_units[] = {
    {"ns", 1},
    {"us", KD},
    {"ms", KD *KD},
    {"s", KD *KD *KD},
    {"m", 60 * KD *KD *KD},
    {"min", 60 * KD *KD *KD},
    {"h", 3600 * KD *KD *KD},
    {"d", 86400 * KD *KD *KD},
    {NULL, 0},
};

/* Reads digits[.digits]; returns what follows, or NULL where it is no number or too long a one. */
static const char *read_number(const char *text, struct number *number)
{
    *number = (struct number){0, 1};
    const char *start = text;
    bool fraction = false;
    for (;; text++) {
        if (*text == '.' && !fraction && text > start) {
            fraction = true;
            start = text + 1;
            continue;
        }
        if (*text < '0' || *text > '9')
            break;
        uint64_t digit = (uint64_t)(*text - '0');
        if (number->digits > (UINT64_MAX - digit) / 10)
            return NULL;
        number->digits = number->digits * 10 + digit;
        if (fraction && text - start >= FRACTION_DIGITS_MAX)
            return NULL;
        if (fraction)
            number->scale *= 10;
    }
    return text > start ? text : NULL;
}

static const struct unit *find_unit(const struct unit *units, const char *name, size_t length)
{
    for (; units->name; units++)
        if (strlen(units->name) == length && memcmp(units->name, name, length) == 0)
            return units;
    return NULL;
}

/* number * factor / divisor, where that is whole and below 2^63. */
static bool scale_number(struct number number, uint64_t factor, uint64_t divisor, uint64_t *value)
{
    u128 product = (u128)number.digits * factor;
    u128 by = (u128)number.scale * divisor;
    if (product % by != 0 || product / by > INT64_MAX)
        return false;
    *value = (uint64_t)(product / by);
    return true;
}

int bmig_parse_size(const char *text, const char *what, uint64_t *bytes, struct bmig_error *err)
{
    struct number number;
    const char *rest = read_number(text, &number);
    if (rest && *rest == ' ' && rest[1] != '\0')
        rest++;
    const struct unit *unit = rest ? find_unit(size_units, rest, strlen(rest)) : NULL;
    if (!unit)
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "%s '%s': not a size; write it as 4096, 512M, 10G or 1.5T", what,
                              text);
    if (!scale_number(number, unit->factor, 1, bytes))
        return bmig_error_set(err, BMIG_USAGE, ERANGE,
                              "%s '%s': not a whole number of bytes below 8 EiB", what, text);
    return 0;
}

int bmig_parse_rate(const char *text, const char *what, uint64_t *bytes_per_s,
                    struct bmig_error *err)
{
    struct number number;
    const char *rest = read_number(text, &number);
    if (rest && *rest == '\0' && number.digits == 0) {
        *bytes_per_s = 0;
        return 0;
    }
    const struct unit *unit = NULL;
    uint64_t divisor = 1;
    if (rest && *rest != '\0') {
        if (*rest == ' ')
            rest++;
        size_t length = strlen(rest);
        if (length > 2 && strcmp(rest + length - 2, "/s") == 0)
            length -= 2;
        if (length > 0)
            unit = find_unit(size_units, rest, length);
        if (!unit && (unit = find_unit(bit_units, rest, length)))
            divisor = 8;
    }
    if (!unit)
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "%s '%s': not a rate; give its unit, as in 200MiB/s, 1Gbit/s, or 0 "
                              "for no limit",
                              what, text);
    if (!scale_number(number, unit->factor, divisor, bytes_per_s))
        return bmig_error_set(err, BMIG_USAGE, ERANGE,
                              "%s '%s': not a whole number of bytes a second below 8 EiB/s", what,
                              text);
    return 0;
}

/* Terms go from large units to small, each unit once: "1m20s". */
int bmig_parse_duration(const char *text, const char *what, uint64_t *ns, struct bmig_error *err)
{
    uint64_t total = 0, last_factor = UINT64_MAX;
    const char *rest = text;
    struct number number;
    do {
        rest = read_number(rest, &number);
        if (rest && *rest == '\0' && number.digits == 0 && last_factor == UINT64_MAX) {
            *ns = 0;
            return 0;
        }
        if (rest && *rest == ' ')
            rest++;
        size_t length = rest ? strspn(rest, "abcdefghijklmnopqrstuvwxyz") : 0;
        const struct unit *unit = length ? find_unit(duration_units, rest, length) : NULL;
        if (!unit || unit->factor >= last_factor)
            return bmig_error_set(err, BMIG_USAGE, EINVAL,
                                  "%s '%s': not a time; give its unit, as in 250us, 5ms, 1.5s, 10m "
                                  "or 2h",
                                  what, text);
        uint64_t value;
        if (!scale_number(number, unit->factor, 1, &value) || value > INT64_MAX - total)
            return bmig_error_set(err, BMIG_USAGE, ERANGE,
                                  "%s '%s': not a whole number of nanoseconds below 292 years",
                                  what, text);
        total += value;
        last_factor = unit->factor;
        rest += length;
    } while (*rest);
    *ns = total;
    return 0;
}

/* value / unit with one decimal where it is below 100 and the decimal is not 0; rounded to nearest.
 */
static void format_scaled(char *text, size_t capacity, uint64_t value, uint64_t unit,
                          const char *name)
{
    uint64_t tenths = (uint64_t)(((u128)value * 10 + unit / 2) / unit);
    if (tenths >= 1000 || tenths % 10 == 0)
        snprintf(text, capacity, "%llu %s", (unsigned long long)((tenths + 5) / 10), name);
    else
        snprintf(text, capacity, "%llu.%llu %s", (unsigned long long)(tenths / 10),
                 (unsigned long long)(tenths % 10), name);
}

char *bmig_format_size(char *text, size_t capacity, uint64_t bytes)
{
    static const char *const names[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    uint64_t unit = 1;
    size_t i = 0;
    /* The next unit from where rounding would print 1024 of this one. */
    while (i + 1 < sizeof(names) / sizeof(names[0]) && (u128)bytes * 2 >= (u128)unit * 2047) {
        unit *= 1024;
        i++;
    }
    format_scaled(text, capacity, bytes, unit, names[i]);
    return text;
}

char *bmig_format_duration(char *text, size_t capacity, uint64_t ns)
{
    uint64_t s = ns / (KD * KD * KD);
    if (ns < KD)
        snprintf(text, capacity, "%llu ns", (unsigned long long)ns);
    else if (ns < KD * KD - KD / 2)
        format_scaled(text, capacity, ns, KD, "us");
    else if (ns < KD * KD * KD - KD * KD / 2)
        format_scaled(text, capacity, ns, KD * KD, "ms");
    else if (s < 59)
        format_scaled(text, capacity, ns, KD * KD * KD, "s");
    else if (s < 60) /* never rounded up to "60 s" */
        format_scaled(text, capacity, ns - ns % (KD * KD * KD / 10), KD * KD * KD, "s");
    else if (s < 3600)
        snprintf(text, capacity, "%llum%llus", (unsigned long long)(s / 60),
                 (unsigned long long)(s % 60));
    else if (s < 86400)
        snprintf(text, capacity, "%lluh%llum", (unsigned long long)(s / 3600),
                 (unsigned long long)(s / 60 % 60));
    else
        snprintf(text, capacity, "%llud%lluh", (unsigned long long)(s / 86400),
                 (unsigned long long)(s / 3600 % 24));
    return text;
}
