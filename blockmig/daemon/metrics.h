/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The daemon's numbers in the text format that Prometheus reads.
 */
#ifndef BLOCKMIG_DAEMON_METRICS_H
#define BLOCKMIG_DAEMON_METRICS_H

#include "blockmig/daemon/manager.h"

char *bmig_metrics_text(struct bmig_manager *manager); /* malloc'd */

#endif
