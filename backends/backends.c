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
#if __has_include("backends/local.c")
    {"file", &bmig_local_driver},
#endif
#if __has_include("backends/nfs.c")
    {"nfs", &bmig_nfs_driver},
#endif
#if __has_include("backends/iscsi.c")
    {"iscsi", &bmig_iscsi_driver},
#endif
#if __has_include("backends/nbd.c")
    {"nbd", &bmig_nbd_driver},      {"nbds", &bmig_nbd_driver},
    {"nbd+unix", &bmig_nbd_driver}, {"nbds+unix", &bmig_nbd_driver},
#endif
    {"mem", &bmig_mem_driver},
};

static const struct bmig_driver *const filters[] = {
#if __has_include("backends/faults.c")
    &bmig_faults_driver,
#endif
#if __has_include("backends/delay.c")
    &bmig_delay_driver,
#endif
#if __has_include("backends/record.c")
    &bmig_record_driver,
#endif
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
