/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What was meant by a word that nothing knows: the optimal string alignment distance, bounded to
 * names as long as ours.
 */
#include "cli/cli.h"

#include <string.h>

static unsigned min3(unsigned a, unsigned b, unsigned c)
{
    unsigned least = a < b ? a : b;
    return least < c ? least : c;
}

/* The number of letters to insert, delete, change or swap to make a into b; 1000 where either
 * is longer than any name of ours. */
static unsigned edit_distance(const char *a, const char *b)
{
    enum { MOST = 24 };
    size_t a_length = strlen(a), b_length = strlen(b);
    unsigned rows[MOST + 1][MOST + 1];
    if (a_length > MOST || b_length > MOST)
        return 1000;
    for (size_t i = 0; i <= a_length; i++) {
        for (size_t j = 0; j <= b_length; j++) {
            if (i == 0 || j == 0) {
                rows[i][j] = (unsigned)(i + j);
                continue;
            }
            unsigned change = rows[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            rows[i][j] = min3(rows[i - 1][j] + 1, rows[i][j - 1] + 1, change);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                rows[i - 2][j - 2] + 1 < rows[i][j])
                rows[i][j] = rows[i - 2][j - 2] + 1;
        }
    }
    return rows[a_length][b_length];
}

const char *bmig_cli_nearest(const char *word, const char *const *candidates)
{
    const char *best = NULL;
    unsigned best_distance = strlen(word) <= 4 ? 2 : 3; /* one less is still near */
    for (; *candidates; candidates++) {
        unsigned distance = edit_distance(word, *candidates);
        if (distance < best_distance) {
            best = *candidates;
            best_distance = distance;
        }
    }
    return best;
}
