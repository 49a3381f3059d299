/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Visits: a short list and a bit for each region of each.
 */
#include "blockmig/engine/visit.h"

#include <assert.h>
#include <stddef.h>

void bmig_visit_begin(struct bmig_visits *visits, struct bmig_visit *visit, uint64_t first,
                      uint32_t count)
{
    assert(count > 0 && count <= BMIG_VISIT_MAX_REGIONS);
    *visit = (struct bmig_visit){.first = first, .count = count, .next = visits->head};
    if (visit->next)
        visit->next->prev = visit;
    visits->head = visit;
}

void bmig_visit_end(struct bmig_visits *visits, struct bmig_visit *visit)
{
    if (visit->prev)
        visit->prev->next = visit->next;
    else
        visits->head = visit->next;
    if (visit->next)
        visit->next->prev = visit->prev;
    visit->next = visit->prev = NULL;
}

void bmig_visit_go(struct bmig_visit *visit, uint64_t now_ns)
{
    visit->tainted = 0;
    visit->going = true;
    visit->began_ns = now_ns;
}

void bmig_visits_taint(struct bmig_visits *visits, uint64_t first, uint64_t last)
{
    for (struct bmig_visit *visit = visits->head; visit; visit = visit->next) {
        uint64_t end = visit->first + visit->count;
        uint64_t from = first > visit->first ? first : visit->first;
        uint64_t to = last + 1 < end ? last + 1 : end;
        for (uint64_t region = from; region < to; region++)
            visit->tainted |= UINT64_C(1) << (region - visit->first);
    }
}
