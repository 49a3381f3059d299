/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A disk against a model of its bytes.
 */
#ifndef TESTS_UNIT_MODEL_HELPER_H
#define TESTS_UNIT_MODEL_HELPER_H

#include "blockmig/core/disk.h"

/* Opens the image at uri, which must read as zeroes and have 64 KiB or more, and sends it random
 * requests by seed, several at once to different parts, of any alignment; compares every byte read,
 * and at the end all of them and the extents, also after opening it again. */
void test_against_model(struct bmig_loop *loop, const char *uri,
                        const struct bmig_open_options *options, uint64_t seed);

#endif
