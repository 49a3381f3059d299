/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The backends and filters there are, by name. The one list; each driver's own file says what it does.
 */
#ifndef BACKENDS_BACKENDS_H
#define BACKENDS_BACKENDS_H

#include "blockmig/core/disk.h"

/* file: and plain paths: files and block devices */
extern const struct bmig_driver bmig_local_driver;
extern const struct bmig_driver bmig_nfs_driver;
extern const struct bmig_driver bmig_iscsi_driver;
extern const struct bmig_driver bmig_nbd_driver;
/* mem:?size=1G, mem:NAME?size= to find it again in this process */
extern const struct bmig_driver bmig_mem_driver;

extern const struct bmig_driver bmig_faults_driver;
extern const struct bmig_driver bmig_delay_driver;
extern const struct bmig_driver bmig_record_driver;

/* The backend for a URI's scheme ("file", "nfs", "iscsi", "nbd", "nbds", "nbd+unix", "mem"), or NULL. */
const struct bmig_driver *bmig_backend_find(const char *scheme);

/* The filter by its name ("faults", "delay", "record"), or NULL. */
const struct bmig_driver *bmig_filter_find(const char *name);

#endif
