/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The faults filter: makes chosen requests to the disk below fail, or do something else than they
 * say.
 *
 * As a URI, one rule:  faults:?op=write&nth=3&error=ENOSPC
 *   op=LIST        operations it is for (default all): read, write, zero, discard, flush, extents
 *   kind=KIND      error (default), late, torn, lie, misdirect, corrupt; see enum bmig_fault_kind
 *   error=NAME     an errno's name (default EIO; torn may say OK by error=0)
 *   nth=N          the Nth matching request, and those after it up to times (default 1; 0: for
 * ever) after=N        every one after the first N, up to times (default 0: for ever) every=N of
 * those, each Nth only times=N        at most N of them p=0.01&seed=S  of those, each with this
 * probability offset=&length= only requests that touch this range (sizes) amount=SIZE    torn:
 * bytes that are done; misdirect: how far off; corrupt: which byte of the request More rules: more
 * filters, or the calls below while it runs (loop's thread).
 */
#ifndef BACKENDS_FAULTS_H
#define BACKENDS_FAULTS_H

#include <stdint.h>

#include "backends/filter.h"

enum bmig_fault_kind {
    BMIG_FAULT_ERROR, /* not done, answered with the error */
    BMIG_FAULT_LATE,  /* done, and then answered with the error */
    BMIG_FAULT_TORN,  /* WRITE, ZERO: the first amount bytes (whole blocks) done, then the error, or
                         0 */
    BMIG_FAULT_LIE,   /* not done, answered with success; a READ gives zeroes */
    BMIG_FAULT_MISDIRECT, /* WRITE, ZERO: done amount bytes further on (back, where that is outside)
                           */
    BMIG_FAULT_CORRUPT, /* READ, WRITE: the byte at amount (modulo length) is flipped on the way */
};

struct bmig_fault {
    enum bmig_fault_kind kind;
    uint32_t ops;
    int error; /* positive errno; 0: EIO, but for TORN */
    uint64_t after;
    uint64_t every;     /* 0: each */
    uint64_t times;     /* 0: for ever */
    double probability; /* 0: 1 */
    uint64_t seed;
    uint64_t offset, length; /* length 0: everywhere */
    uint64_t amount;
    uint64_t matched, hits; /* counted by the filter */
};

enum { BMIG_FAULTS_MAX = 16 };

/* The topmost faults filter at or below disk, or NULL. */
struct bmig_disk *bmig_faults_find(struct bmig_disk *disk);

/* Adds a rule (copied); the first that fires decides. Returns its number, or -ENOSPC. */
int bmig_faults_add(struct bmig_disk *filter, const struct bmig_fault *fault);

/* Drops all rules; what they hit stays hit. */
void bmig_faults_clear(struct bmig_disk *filter);

/* A rule by its number, with its counts. Borrowed until it is cleared. */
const struct bmig_fault *bmig_faults_get(const struct bmig_disk *filter, int number);

#endif
