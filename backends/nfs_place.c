/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * From an nfs: URI to file handles: the server's address and ports, its exports, the walk to the
 * image.
 *
 * Symbolic links are not followed: a link's target is a path of the client's, and this client has
 * no file system of its own to follow it in. They are named in the error instead.
 */
#include "backends/nfs_place.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PORTMAPPER_PORT = 111, DEFAULT_NFS_PORT = 2049, DEFAULT_TIMEOUT_S = 30 };

/* ---- words ---- */

static const char *remedy_of(const struct bmig_nfs_place *place, int code, char *text,
                             size_t capacity)
{
    switch (code) {
    case EACCES:
    case EPERM:
        snprintf(text, capacity,
                 "; it was asked for as uid %u, gid %u: give others by ?uid=&gid=, or have the "
                 "export and the file's mode allow these (root may be squashed)",
                 place->uid, place->gid);
        return text;
    case EROFS:
        return "; the export is read-only";
    case ESTALE:
        return "; the file was removed or replaced on the server";
    case ENOSPC:
    case EDQUOT:
        return "; make room on the server";
    default:
        return "";
    }
}

int bmig_nfs_place_error(const struct bmig_nfs_place *place, int result, const char *what,
                         struct bmig_error *err)
{
    char remedy[256];
    int code = -result;
    const char *reason = place->link.rpc ? bmig_strerror(code) : place->link.reason;
    return bmig_error_set(err, bmig_error_kind_of(code), code, "cannot %s '%s': %s%s", what,
                          place->text, reason, remedy_of(place, code, remedy, sizeof(remedy)));
}

static int port_error(const struct bmig_nfs_place *place, int result, const char *service,
                      uint16_t port, const char *remedy, struct bmig_error *err)
{
    return bmig_error_set(err, BMIG_FAILED, -result, "%s of '%s' (port %u) can't be reached: %s%s",
                          service, place->host, port, place->link.reason, remedy);
}

/* ---- the URI ---- */

static int parse_numbers(struct bmig_nfs_place *place, const struct bmig_uri *uri,
                         struct bmig_error *err)
{
    uint64_t uid, gid, nfs_port, mount_port;
    int result = bmig_uri_param_u64(uri, "uid", 0, UINT32_MAX - 1, geteuid(), &uid, err);
    if (result == 0)
        result = bmig_uri_param_u64(uri, "gid", 0, UINT32_MAX - 1, getegid(), &gid, err);
    if (result == 0)
        result = bmig_uri_param_u64(uri, "nfsport", 1, 65535, uri->port, &nfs_port, err);
    if (result == 0)
        result = bmig_uri_param_u64(uri, "mountport", 1, 65535, 0, &mount_port, err);
    if (result != 0)
        return result;
    if (uri->port && nfs_port != uri->port)
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "'%s': the port is given twice and differs; leave out nfsport",
                              uri->text);
    place->uid = (uint32_t)uid;
    place->gid = (uint32_t)gid;
    place->nfs_port = (uint16_t)nfs_port;
    place->mount_port = (uint16_t)mount_port;
    return 0;
}

/* Each component once and none that walks out of the export. */
static int check_path(const struct bmig_uri *uri, struct bmig_error *err)
{
    size_t length = strlen(uri->path);
    if (length < 2 || uri->path[length - 1] == '/')
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "'%s': a file is needed: nfs://host/export/path/to/image", uri->text);
    if (length >= sizeof(((struct bmig_nfs_place *)0)->export))
        return bmig_error_set(err, BMIG_USAGE, ENAMETOOLONG, "'%.100s...': the path is too long",
                              uri->text);
    for (const char *at = uri->path; *at;) {
        size_t part = strcspn(++at, "/");
        if ((part == 1 && at[0] == '.') || (part == 2 && at[0] == '.' && at[1] == '.'))
            return bmig_error_set(err, BMIG_USAGE, EINVAL,
                                  "'%s': '.' and '..' are not taken in a path; write it out",
                                  uri->text);
        if (part > 255)
            return bmig_error_set(err, BMIG_USAGE, ENAMETOOLONG,
                                  "'%.100s...': a name in the path is longer than 255 bytes",
                                  uri->text);
        at += part;
    }
    return 0;
}

static int parse(struct bmig_nfs_place *place, const struct bmig_uri *uri,
                 const struct bmig_open_options *options, struct bmig_error *err)
{
    static const char *const names[] = {"uid", "gid", "nfsport", "mountport", "version", NULL};
    const char *version = bmig_uri_param(uri, "version");
    int result = bmig_uri_check_params(uri, names, err);
    if (result != 0)
        return result;
    if (version && strcmp(version, "3") != 0)
        return bmig_error_set(err, BMIG_USAGE, EPROTONOSUPPORT,
                              "'%s': version=%s is not supported, only NFS version 3 is; "
                              "leave version out and have the server offer NFSv3",
                              uri->text, version);
    if (!uri->host || !uri->host[0] || strlen(uri->host) >= sizeof(place->host))
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "'%s': a server is needed: nfs://host/export/path/to/image",
                              uri->text);
    if (uri->user)
        return bmig_error_set(
            err, BMIG_USAGE, EINVAL,
            "'%s': NFS knows no user names; give numbers by ?uid=&gid=", uri->text);
    result = check_path(uri, err);
    if (result == 0)
        result = parse_numbers(place, uri, err);
    if (result != 0)
        return result;
    memcpy(place->host, uri->host, strlen(uri->host) + 1);
    snprintf(place->text, sizeof(place->text), "nfs://%s%s", uri->host, uri->path);
    place->timeout_ns = options && options->timeout_ns ? options->timeout_ns
                                                       : DEFAULT_TIMEOUT_S * UINT64_C(1000000000);
    return 0;
}

/* ---- the server ---- */

static int connect_to(struct bmig_nfs_place *place, uint16_t port)
{
    return bmig_nfs_link_open(&place->link, place->address, port, place->uid, place->gid,
                              place->timeout_ns);
}

/* The port of a program, asked of the portmapper where it is not given. */
static int find_port(struct bmig_nfs_place *place, uint32_t program, uint16_t *port,
                     const char *service, const char *parameter, struct bmig_error *err)
{
    char remedy[80];
    if (*port)
        return 0;
    snprintf(remedy, sizeof(remedy), "; or give the port of %s by ?%s=", service, parameter);
    int result = connect_to(place, PORTMAPPER_PORT);
    if (result == 0)
        result = bmig_nfs_call_getport(&place->link, program, 3, port);
    if (result == -ENOENT)
        bmig_error_set(err, BMIG_FAILED, EPROTONOSUPPORT,
                       "'%s' offers no %s over TCP that its portmapper knows of; start it%s",
                       place->host, service, remedy);
    else if (result != 0)
        port_error(place, result, "the portmapper", PORTMAPPER_PORT, remedy, err);
    bmig_nfs_link_close(&place->link);
    return result;
}

/* Sets place->address to the first of the host's addresses that takes a connection on port. */
static int find_address(struct bmig_nfs_place *place, struct bmig_error *err)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *list;
    uint16_t port = place->mount_port ? place->mount_port : PORTMAPPER_PORT;
    int result = getaddrinfo(place->host, NULL, &hints, &list);
    if (result != 0)
        return bmig_error_set(err, BMIG_FAILED, EHOSTUNREACH, "no address for the host '%s': %s",
                              place->host, gai_strerror(result));
    for (struct addrinfo *each = list; each; each = each->ai_next) {
        if (getnameinfo(each->ai_addr, each->ai_addrlen, place->address, sizeof(place->address),
                        NULL, 0, NI_NUMERICHOST) != 0)
            continue;
        result = connect_to(place, port);
        bmig_nfs_link_close(&place->link);
        if (result == 0)
            break;
    }
    freeaddrinfo(list);
    if (result == 0)
        return 0;
    if (place->mount_port)
        return port_error(place, result, "the mount service", port,
                          "; is it running and not behind a firewall?", err);
    return port_error(place, result, "the portmapper", port,
                      "; is it running and not behind a firewall? Or give the ports by "
                      "?nfsport=&mountport=",
                      err);
}

/* ---- the export ---- */

/* Tries MNT on path's directory and on each shorter prefix. On success place->export is what it
 * took and place->directory its handle. */
static int mount_longest(struct bmig_nfs_place *place, const char *path, struct bmig_error *err)
{
    int denied = 0, result = connect_to(place, place->mount_port);
    if (result != 0)
        return port_error(place, result, "the mount service", place->mount_port, "; is it running?",
                          err);
    snprintf(place->export, sizeof(place->export), "%s", path);
    for (;;) {
        bool auth_sys = true;
        char *slash = strrchr(place->export, '/');
        if (!slash)
            break;
        slash[slash == place->export] = 0; /* the root keeps its slash */
        result = bmig_nfs_call_mount(&place->link, place->export, &place->directory, &auth_sys);
        if (result == 0 && auth_sys)
            return 0;
        if (result == 0) {
            return bmig_error_set(err, BMIG_DENIED, EACCES,
                                  "the export '%s' of '%s' does not take AUTH_SYS credentials; "
                                  "export it with sec=sys for this host",
                                  place->export, place->host);
        }
        if (!place->link.rpc)
            return port_error(place, result, "the mount service", place->mount_port, "", err);
        if (result == -EACCES || result == -EPERM)
            denied = result;
        if (slash == place->export)
            break;
    }
    if (denied)
        return bmig_error_set(err, BMIG_DENIED, -denied,
                              "'%s' does not let this host mount '%s' or a folder above it; "
                              "export it to this host",
                              place->host, path);
    return bmig_error_set(err, BMIG_NOT_FOUND, ENOENT,
                          "'%s' exports neither the folder of '%s' nor one above it; 'showmount "
                          "-e %s' lists what it does",
                          place->host, path, place->host);
}

static int step(struct bmig_nfs_place *place, const char *name, struct bmig_error *err)
{
    struct bmig_nfs_fh found;
    int result = bmig_nfs_call_lookup(&place->link, &place->directory, name, &found);
    if (result == 0)
        result = bmig_nfs_call_getattr(&place->link, &found, &place->attributes);
    if (result == -ENOENT)
        return bmig_error_set(err, BMIG_NOT_FOUND, ENOENT, "'%s': there is no folder '%s'",
                              place->text, name);
    if (result != 0)
        return bmig_nfs_place_error(place, result, "reach", err);
    if (place->attributes.type != NF3DIR)
        return bmig_error_set(err, BMIG_REFUSED, ENOTDIR, "'%s': '%s' is %s, not a folder",
                              place->text, name,
                              place->attributes.type == NF3LNK ? "a symbolic link" : "a file");
    place->directory = found;
    return 0;
}

/* From place->directory along the rest of path; the last component is the image's name. */
static int walk(struct bmig_nfs_place *place, const char *rest, struct bmig_error *err)
{
    for (;;) {
        rest += strspn(rest, "/");
        size_t length = strcspn(rest, "/");
        memcpy(place->name, rest, length);
        place->name[length] = 0;
        rest += length;
        if (!*rest)
            break;
        int result = step(place, place->name, err);
        if (result != 0)
            return result;
    }
    int result = bmig_nfs_call_lookup(&place->link, &place->directory, place->name, &place->file);
    if (result == -ENOENT)
        return 0;
    if (result == 0)
        result = bmig_nfs_call_getattr(&place->link, &place->file, &place->attributes);
    if (result != 0)
        return bmig_nfs_place_error(place, result, "look up", err);
    if (place->attributes.type != NF3REG)
        return bmig_error_set(err, BMIG_REFUSED, place->attributes.type == NF3DIR ? EISDIR : EINVAL,
                              "'%s' is %s, not a file", place->text,
                              place->attributes.type == NF3DIR   ? "a folder"
                              : place->attributes.type == NF3LNK ? "a symbolic link"
                                                                 : "a device, socket or FIFO");
    place->exists = true;
    return 0;
}

int bmig_nfs_place_find(struct bmig_nfs_place *place, const struct bmig_uri *uri,
                        const struct bmig_open_options *options, struct bmig_error *err)
{
    memset(place, 0, sizeof(*place));
    int result = parse(place, uri, options, err);
    if (result == 0)
        result = find_address(place, err);
    if (result == 0)
        result = find_port(place, MOUNT_PROGRAM, &place->mount_port, "the mount service",
                           "mountport", err);
    if (result == 0 && !place->nfs_port &&
        find_port(place, NFS_PROGRAM, &place->nfs_port, "NFSv3", "nfsport", NULL) != 0)
        place->nfs_port = DEFAULT_NFS_PORT; /* servers that registered nothing listen there */
    if (result == 0)
        result = mount_longest(place, uri->path, err);
    bmig_nfs_link_close(&place->link);
    if (result != 0)
        return result;
    result = connect_to(place, place->nfs_port);
    if (result == 0)
        result = bmig_nfs_call_null(&place->link);
    if (result != 0)
        result = port_error(place, result, "the NFS service", place->nfs_port,
                            "; is it running, and does it offer version 3?", err);
    else
        result = walk(place, uri->path + (place->export[1] ? strlen(place->export) : 0), err);
    if (result != 0)
        bmig_nfs_place_fini(place);
    return result;
}

void bmig_nfs_place_fini(struct bmig_nfs_place *place)
{
    bmig_nfs_link_close(&place->link);
}

/* ---- create, remove, stat ---- */

int bmig_nfs_create(const struct bmig_uri *uri, uint64_t size_bytes,
                    const struct bmig_open_options *options, struct bmig_error *err)
{
    struct bmig_nfs_place place;
    struct FSINFO3resok info;
    int result = bmig_nfs_place_find(&place, uri, options, err);
    if (result != 0)
        return result;
    if (place.exists) {
        bmig_nfs_place_fini(&place);
        return bmig_error_set(err, BMIG_DENIED, EEXIST, "'%s' exists already", place.text);
    }
    result = bmig_nfs_call_fsinfo(&place.link, &place.directory, &info);
    if (result == 0 && size_bytes > info.maxfilesize) {
        bmig_nfs_place_fini(&place);
        return bmig_error_set(err, BMIG_REFUSED, EFBIG,
                              "'%s': %llu bytes are more than the server takes for a file (%llu)",
                              place.text, (unsigned long long)size_bytes,
                              (unsigned long long)info.maxfilesize);
    }
    if (result == 0)
        result = bmig_nfs_call_create(&place.link, &place.directory, place.name, 0600, &place.file);
    if (result == 0) {
        /* Both are stable once answered (RFC 1813, 4.8), so there is nothing to commit. */
        result = bmig_nfs_call_set_size(&place.link, &place.file, size_bytes);
        if (result == 0)
            result = bmig_nfs_call_getattr(&place.link, &place.file, &place.attributes);
        if (result == 0 && place.attributes.size != size_bytes)
            result = -EIO;
        if (result == 0 &&
            bmig_nfs_call_set_mtime(&place.link, &place.file, BMIG_NFS_FRESH_MTIME_S) != 0 &&
            !place.link.rpc)
            result =
                -ETIMEDOUT; /* a server that can't set times is fine, one that is gone is not */
        if (result != 0 && place.link.rpc)
            bmig_nfs_call_remove(&place.link, &place.directory, place.name);
    }
    if (result == -EEXIST)
        bmig_error_set(err, BMIG_DENIED, EEXIST, "'%s' exists already", place.text);
    else if (result != 0)
        bmig_nfs_place_error(&place, result, "create", err);
    bmig_nfs_place_fini(&place);
    return result;
}

int bmig_nfs_remove(const struct bmig_uri *uri, const struct bmig_open_options *options,
                    struct bmig_error *err)
{
    struct bmig_nfs_place place;
    int result = bmig_nfs_place_find(&place, uri, options, err);
    if (result != 0)
        return result;
    result =
        place.exists ? bmig_nfs_call_remove(&place.link, &place.directory, place.name) : -ENOENT;
    if (result == -ENOENT)
        bmig_error_set(err, BMIG_NOT_FOUND, ENOENT, "'%s' does not exist", place.text);
    else if (result != 0)
        bmig_nfs_place_error(&place, result, "remove", err);
    bmig_nfs_place_fini(&place);
    return result;
}

int bmig_nfs_stat(const struct bmig_uri *uri, const struct bmig_open_options *options,
                  struct bmig_place_stat *stat, struct bmig_error *err)
{
    struct bmig_nfs_place place;
    struct FSSTAT3resok info;
    int result = bmig_nfs_place_find(&place, uri, options, err);
    if (result != 0)
        return result;
    memset(stat, 0, sizeof(*stat));
    stat->exists = place.exists;
    stat->allocated_bytes = stat->free_bytes = stat->total_bytes = UINT64_MAX;
    if (place.exists) {
        stat->size_bytes = place.attributes.size;
        stat->allocated_bytes = place.attributes.used;
        /* Without the port: two servers of one host on one file system are found to be the same. */
        snprintf(stat->identity, sizeof(stat->identity), "nfs:%s:%llx:%llx", place.address,
                 (unsigned long long)place.attributes.fsid,
                 (unsigned long long)place.attributes.fileid);
    }
    result = bmig_nfs_call_fsstat(&place.link, &place.directory, &info);
    if (result == 0) {
        stat->free_bytes = info.abytes;
        stat->total_bytes = info.tbytes;
    } else if (!place.link.rpc) {
        result = bmig_nfs_place_error(&place, result, "look at", err);
    } else {
        result = 0; /* a server that will not tell: unknown */
    }
    bmig_nfs_place_fini(&place);
    return result;
}
