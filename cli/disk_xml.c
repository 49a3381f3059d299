/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * libvirt's <disk type='network'> for NBD. error_policy='stop' stands because libvirt drops
 * <reconnect> for NBD in some versions: a worker that is started again then finds a paused VM to
 * resume, not a guest with EIO.
 */
#include "cli/disk_xml.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/core/uri.h"

static void put_escaped(FILE *out, const char *text)
{
    for (; *text; text++) {
        switch (*text) {
        case '&':
            fputs("&amp;", out);
            break;
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '\'':
            fputs("&apos;", out);
            break;
        default:
            if ((unsigned char)*text >= 0x20 || *text == '\t')
                fputc(*text, out);
        }
    }
}

static void put_attribute(FILE *out, const char *name, const char *value)
{
    fprintf(out, " %s='", name);
    put_escaped(out, value);
    fputc('\'', out);
}

static void put_source(FILE *out, const struct bmig_uri *uri, const char *socket)
{
    char port[8];
    const char *export = uri->path[0] == '/' ? uri->path + 1 : uri->path;
    fputs("  <source protocol='nbd'", out);
    put_attribute(out, "name", export);
    fputs(">\n    <host", out);
    if (socket) {
        fputs(" transport='unix'", out);
        put_attribute(out, "socket", socket);
    } else {
        snprintf(port, sizeof(port), "%u", uri->port ? uri->port : 10809);
        put_attribute(out, "name", uri->host);
        put_attribute(out, "port", port);
    }
    fputs("/>\n    <reconnect delay='30'/>\n  </source>\n", out);
}

int bmig_disk_xml(const char *nbd_uri, const char *serial, char **xml, struct bmig_error *err)
{
    struct bmig_uri uri = {0};
    size_t size = 0;
    *xml = NULL;
    int rc = bmig_uri_parse(&uri, nbd_uri, err);
    if (rc < 0)
        return rc;
    const char *socket =
        strcmp(uri.scheme, "nbd+unix") == 0 ? bmig_uri_param(&uri, "socket") : NULL;
    if (!socket && (strcmp(uri.scheme, "nbd") != 0 || !uri.host)) {
        bmig_uri_fini(&uri);
        return bmig_error_set(err, BMIG_FAILED, EINVAL,
                              "'%.200s' is no place that libvirt's <disk> can name", nbd_uri);
    }
    FILE *out = open_memstream(xml, &size);
    if (out) {
        fputs("<disk type='network' device='disk'>\n"
              "  <driver name='qemu' type='raw' cache='none' discard='unmap' error_policy='stop' "
              "rerror_policy='stop'/>\n",
              out);
        put_source(out, &uri, socket);
        fputs("  <target dev='vda' bus='virtio'/>\n  <serial>", out);
        put_escaped(out, serial);
        fputs("</serial>\n</disk>\n", out);
        fclose(out);
    }
    bmig_uri_fini(&uri);
    return *xml ? 0 : bmig_error_set(err, BMIG_FAILED, ENOMEM, "no memory");
}
