/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The one list of backends and filters.
 */
#include "backends/backends.h"

#include <stddef.h>
#include <string.h>

static const struct {
    const char *scheme;
    const struct bmig_driver *driver;
} backends[] = {
    {"file", &bmig_local_driver},
    {"nfs", &bmig_nfs_driver},
    {"iscsi", &bmig_iscsi_driver},
    {"nbd", &bmig_nbd_driver},      {"nbds", &bmig_nbd_driver},
    {"nbd+unix", &bmig_nbd_driver}, {"nbds+unix", &bmig_nbd_driver},
    {"mem", &bmig_mem_driver},
};

static const struct bmig_driver *const filters[] = {
    &bmig_faults_driver,
    &bmig_delay_driver,
    &bmig_record_driver,
    NULL,
};

const struct bmig_driver *bmig_backend_find(const char *scheme)
{
    for (size_t i = 0; i < sizeof(backends) / sizeof(backends[0]); i++)
        if (strcmp(backends[i].scheme, scheme) == 0)
            return backends[i].driver;
    return NULL;
}

const struct bmig_driver *bmig_filter_find(const char *name)
{
    for (size_t i = 0; filters[i]; i++)
        if (strcmp(filters[i]->name, name) == 0)
            return filters[i];
    return NULL;
}
