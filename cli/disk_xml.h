/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A served volume as libvirt writes it: the <disk> of a domain's XML.
 */
#ifndef CLI_DISK_XML_H
#define CLI_DISK_XML_H

#include "blockmig/core/error.h"

/* The <disk> for an NBD URI (nbd://, nbd+unix://); malloc'd. serial is what the guest sees as its
 * name. */
int bmig_disk_xml(const char *nbd_uri, const char *serial, char **xml, struct bmig_error *err);

#endif
