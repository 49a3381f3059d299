/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * NFSv3 calls one at a time, blocking and bounded, by driving libnfs's raw calls with poll.
 *
 * A call lives on its caller's stack and libnfs holds a pointer to it until it has answered. So a
 * call that is given up takes its context with it: rpc_destroy_context answers whatever is under
 * way, while the call still exists.
 */
#include "backends/nfs_sync.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include <nfsc/libnfs-raw-portmap.h>

#include "blockmig/core/error.h"

struct call {
    bool done;
    int rpc_status;
    uint32_t status; /* the procedure's own: nfsstat3, mountstat3 */
    void (*take)(struct call *call, const void *reply);
    void *into;
    char words[128];
};

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

int bmig_nfs_errno(uint32_t status)
{
    switch (status) {
    case NFS3_OK:
        return 0;
    case NFS3ERR_NAMETOOLONG:
        return ENAMETOOLONG;
    case NFS3ERR_NOTEMPTY:
        return ENOTEMPTY;
    case NFS3ERR_DQUOT:
        return EDQUOT;
    case NFS3ERR_STALE:
    case NFS3ERR_BADHANDLE:
        return ESTALE;
    case NFS3ERR_NOTSUPP:
        return ENOTSUP;
    case NFS3ERR_JUKEBOX:
        return EAGAIN;
    case NFS3ERR_PERM:
    case NFS3ERR_NOENT:
    case NFS3ERR_NXIO:
    case NFS3ERR_ACCES:
    case NFS3ERR_EXIST:
    case NFS3ERR_XDEV:
    case NFS3ERR_NODEV:
    case NFS3ERR_NOTDIR:
    case NFS3ERR_ISDIR:
    case NFS3ERR_INVAL:
    case NFS3ERR_FBIG:
    case NFS3ERR_NOSPC:
    case NFS3ERR_ROFS:
    case NFS3ERR_MLINK:
        return (int)status; /* RFC 1813, 2.6: these are Unix's numbers, and Linux's */
    default:
        return EIO;
    }
}

/* ---- the connection ---- */

struct rpc_context *bmig_nfs_context_new(uint32_t uid, uint32_t gid)
{
    struct rpc_context *rpc = rpc_init_context();
    if (!rpc)
        return NULL;
    struct AUTH *auth = libnfs_authunix_create("blockmig", uid, gid, 0, NULL);
    if (!auth) {
        rpc_destroy_context(rpc);
        return NULL;
    }
    rpc_set_auth(rpc, auth);
    return rpc;
}

static void on_reply(struct rpc_context *rpc, int status, void *data, void *user)
{
    struct call *call = user;
    call->done = true;
    call->rpc_status = status;
    if (status != RPC_STATUS_SUCCESS) {
        const char *words = status == RPC_STATUS_ERROR && data ? data : rpc_get_error(rpc);
        snprintf(call->words, sizeof(call->words), "%s", words ? words : "no reply");
    } else if (call->take) {
        call->take(call, data);
    }
}

static int give_up(struct bmig_nfs_link *link, int status, const char *words)
{
    snprintf(link->reason, sizeof(link->reason), "%s", words);
    bmig_nfs_link_close(link);
    return status;
}

/* Asked before libnfs asks, which tells only that there was something. */
static int broken(struct bmig_nfs_link *link, int fd)
{
    int code = 0;
    socklen_t length = sizeof(code);
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &length) != 0 || code == 0)
        return give_up(link, -ECONNRESET, "the server closed the connection");
    return give_up(link, -code, bmig_strerror(code));
}

static int wait_for(struct bmig_nfs_link *link, struct call *call, uint64_t deadline_ns)
{
    while (!call->done) {
        uint64_t now = now_ns();
        if (now >= deadline_ns)
            return give_up(link, -ETIMEDOUT, "the server does not answer");
        struct pollfd pollfd = {.fd = rpc_get_fd(link->rpc),
                                .events = (short)rpc_which_events(link->rpc)};
        int ready = poll(&pollfd, 1, (int)((deadline_ns - now) / 1000000 + 1));
        if (ready < 0 && errno != EINTR)
            return give_up(link, -errno, bmig_strerror(errno));
        if (ready > 0 && pollfd.revents & (POLLERR | POLLHUP))
            return broken(link, pollfd.fd);
        if (ready > 0 && rpc_service(link->rpc, pollfd.revents) < 0 && !call->done)
            return give_up(link, -ECONNRESET, "the server closed the connection");
    }
    if (call->rpc_status != RPC_STATUS_SUCCESS)
        return give_up(link, -EIO,
                       call->words); /* refused by the RPC layer: credentials, version */
    return 0;
}

int bmig_nfs_link_open(struct bmig_nfs_link *link, const char *address, uint16_t port, uint32_t uid,
                       uint32_t gid, uint64_t timeout_ns)
{
    struct call call = {0};
    *link = (struct bmig_nfs_link){.timeout_ns = timeout_ns, .rpc = bmig_nfs_context_new(uid, gid)};
    if (!link->rpc)
        return -ENOMEM;
    if (rpc_connect_async(link->rpc, address, port, on_reply, &call) != 0) {
        const char *words = rpc_get_error(link->rpc);
        return give_up(link, -EHOSTUNREACH, words ? words : "connect failed");
    }
    return wait_for(link, &call, now_ns() + timeout_ns);
}

void bmig_nfs_link_close(struct bmig_nfs_link *link)
{
    if (link->rpc)
        rpc_destroy_context(link->rpc);
    link->rpc = NULL;
}

/* ---- the calls ---- */

typedef int (*start_fn)(struct rpc_context *rpc, rpc_cb done, void *arguments, void *user);

static int run(struct bmig_nfs_link *link, start_fn start, void *arguments,
               void (*take)(struct call *call, const void *reply), void *into)
{
    uint64_t deadline_ns = now_ns() + link->timeout_ns;
    for (;;) {
        struct call call = {.take = take, .into = into};
        if (!link->rpc)
            return -ENOTCONN;
        if (start(link->rpc, on_reply, arguments, &call) != 0)
            return give_up(link, -ENOMEM, "out of memory");
        int result = wait_for(link, &call, deadline_ns);
        if (result != 0)
            return result;
        result = -bmig_nfs_errno(call.status);
        snprintf(link->reason, sizeof(link->reason), "%s", bmig_strerror(-result));
        if (call.status != NFS3ERR_JUKEBOX || now_ns() > deadline_ns)
            return result;
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    }
}

/* Every NFSv3 result begins with its status. */
static void take_status(struct call *call, const void *reply)
{
    call->status = *(const nfsstat3 *)reply;
}

static bool take_fh(struct bmig_nfs_fh *into, u_int length, const char *data)
{
    if (length == 0 || length > NFS3_FHSIZE) /* libnfs does not check what the server says */
        return false;
    into->length_bytes = length;
    memcpy(into->data, data, length);
    return true;
}

static nfs_fh3 give_fh(const struct bmig_nfs_fh *fh)
{
    return (nfs_fh3){.data = {.data_len = fh->length_bytes, .data_val = (char *)fh->data}};
}

#define STARTER(procedure)                                                                         \
    static int start_##procedure(struct rpc_context *rpc, rpc_cb done, void *arguments,            \
                                 void *user)                                                       \
    {                                                                                              \
        return rpc_nfs3_##procedure##_async(rpc, done, arguments, user);                           \
    }
STARTER(getattr)
STARTER(lookup)
STARTER(access)
STARTER(fsinfo)
STARTER(fsstat)
STARTER(create)
STARTER(setattr)
STARTER(remove)
STARTER(rename)
STARTER(link)
STARTER(read)
STARTER(write)

static int start_null(struct rpc_context *rpc, rpc_cb done, void *arguments, void *user)
{
    return rpc_nfs3_null_async(rpc, done, user);
}

int bmig_nfs_call_null(struct bmig_nfs_link *link)
{
    return run(link, start_null, NULL, NULL, NULL);
}

static void take_getattr(struct call *call, const void *reply)
{
    const GETATTR3res *result = reply;
    call->status = result->status;
    if (result->status == NFS3_OK)
        *(struct fattr3 *)call->into = result->GETATTR3res_u.resok.obj_attributes;
}

int bmig_nfs_call_getattr(struct bmig_nfs_link *link, const struct bmig_nfs_fh *fh,
                          struct fattr3 *attributes)
{
    GETATTR3args args = {.object = give_fh(fh)};
    return run(link, start_getattr, &args, take_getattr, attributes);
}

static void take_lookup(struct call *call, const void *reply)
{
    const LOOKUP3res *result = reply;
    const nfs_fh3 *fh = &result->LOOKUP3res_u.resok.object;
    call->status = result->status;
    if (result->status == NFS3_OK && !take_fh(call->into, fh->data.data_len, fh->data.data_val))
        call->status = NFS3ERR_SERVERFAULT;
}

int bmig_nfs_call_lookup(struct bmig_nfs_link *link, const struct bmig_nfs_fh *directory,
                         const char *name, struct bmig_nfs_fh *fh)
{
    LOOKUP3args args = {.what = {.dir = give_fh(directory), .name = (char *)name}};
    return run(link, start_lookup, &args, take_lookup, fh);
}

static void take_access(struct call *call, const void *reply)
{
    const ACCESS3res *result = reply;
    call->status = result->status;
    if (result->status == NFS3_OK)
        *(uint32_t *)call->into = result->ACCESS3res_u.resok.access;
}

int bmig_nfs_call_access(struct bmig_nfs_link *link, const struct bmig_nfs_fh *fh, uint32_t wanted,
                         uint32_t *granted)
{
    ACCESS3args args = {.object = give_fh(fh), .access = wanted};
    return run(link, start_access, &args, take_access, granted);
}

static void take_fsinfo(struct call *call, const void *reply)
{
    const FSINFO3res *result = reply;
    call->status = result->status;
    if (result->status == NFS3_OK)
        *(FSINFO3resok *)call->into = result->FSINFO3res_u.resok;
}

int bmig_nfs_call_fsinfo(struct bmig_nfs_link *link, const struct bmig_nfs_fh *fh,
                         struct FSINFO3resok *info)
{
    FSINFO3args args = {.fsroot = give_fh(fh)};
    return run(link, start_fsinfo, &args, take_fsinfo, info);
}

static void take_fsstat(struct call *call, const void *reply)
{
    const FSSTAT3res *result = reply;
    call->status = result->status;
    if (result->status == NFS3_OK)
        *(FSSTAT3resok *)call->into = result->FSSTAT3res_u.resok;
}

int bmig_nfs_call_fsstat(struct bmig_nfs_link *link, const struct bmig_nfs_fh *fh,
                         struct FSSTAT3resok *info)
{
    FSSTAT3args args = {.fsroot = give_fh(fh)};
    return run(link, start_fsstat, &args, take_fsstat, info);
}

static void take_create(struct call *call, const void *reply)
{
    const CREATE3res *result = reply;
    const post_op_fh3 *fh = &result->CREATE3res_u.resok.obj;
    struct bmig_nfs_fh *into = call->into;
    call->status = result->status;
    into->length_bytes = 0;
    if (result->status == NFS3_OK && fh->handle_follows)
        take_fh(into, fh->post_op_fh3_u.handle.data.data_len,
                fh->post_op_fh3_u.handle.data.data_val);
}

int bmig_nfs_call_create(struct bmig_nfs_link *link, const struct bmig_nfs_fh *directory,
                         const char *name, uint32_t mode, struct bmig_nfs_fh *fh)
{
    CREATE3args args = {.where = {.dir = give_fh(directory), .name = (char *)name}};
    args.how.mode = GUARDED;
    args.how.createhow3_u.g_obj_attributes.mode.set_it = 1;
    args.how.createhow3_u.g_obj_attributes.mode.set_mode3_u.mode = mode;
    int result = run(link, start_create, &args, take_create, fh);
    if (result == 0 && fh->length_bytes == 0)
        result = bmig_nfs_call_lookup(link, directory, name, fh);
    return result;
}

int bmig_nfs_call_set_size(struct bmig_nfs_link *link, const struct bmig_nfs_fh *fh,
                           uint64_t size_bytes)
{
    SETATTR3args args = {.object = give_fh(fh)};
    args.new_attributes.size.set_it = 1;
    args.new_attributes.size.set_size3_u.size = size_bytes;
    return run(link, start_setattr, &args, take_status, NULL);
}

int bmig_nfs_call_set_mtime(struct bmig_nfs_link *link, const struct bmig_nfs_fh *fh,
                            uint32_t seconds)
{
    SETATTR3args args = {.object = give_fh(fh)};
    args.new_attributes.mtime.set_it = SET_TO_CLIENT_TIME;
    args.new_attributes.mtime.set_mtime_u.mtime.seconds = seconds;
    return run(link, start_setattr, &args, take_status, NULL);
}

int bmig_nfs_call_remove(struct bmig_nfs_link *link, const struct bmig_nfs_fh *directory,
                         const char *name)
{
    REMOVE3args args = {.object = {.dir = give_fh(directory), .name = (char *)name}};
    return run(link, start_remove, &args, take_status, NULL);
}

int bmig_nfs_call_rename(struct bmig_nfs_link *link, const struct bmig_nfs_fh *directory,
                         const char *from, const char *to)
{
    RENAME3args args = {.from = {.dir = give_fh(directory), .name = (char *)from},
                        .to = {.dir = give_fh(directory), .name = (char *)to}};
    return run(link, start_rename, &args, take_status, NULL);
}

int bmig_nfs_call_link(struct bmig_nfs_link *link, const struct bmig_nfs_fh *file,
                       const struct bmig_nfs_fh *directory, const char *name)
{
    LINK3args args = {.file = give_fh(file),
                      .link = {.dir = give_fh(directory), .name = (char *)name}};
    return run(link, start_link, &args, take_status, NULL);
}

struct text {
    char *data;
    uint32_t capacity, length;
};

static void take_read(struct call *call, const void *reply)
{
    const READ3res *result = reply;
    struct text *text = call->into;
    call->status = result->status;
    if (result->status != NFS3_OK)
        return;
    text->length = result->READ3res_u.resok.data.data_len;
    if (text->length > text->capacity)
        call->status = NFS3ERR_SERVERFAULT;
    else
        memcpy(text->data, result->READ3res_u.resok.data.data_val, text->length);
}

int bmig_nfs_call_read_text(struct bmig_nfs_link *link, const struct bmig_nfs_fh *fh, char *text,
                            uint32_t capacity)
{
    READ3args args = {.file = give_fh(fh), .count = capacity - 1};
    struct text into = {.data = text, .capacity = capacity - 1};
    int result = run(link, start_read, &args, take_read, &into);
    if (result == 0)
        text[into.length] = 0;
    return result == 0 ? (int)into.length : result;
}

static void take_write(struct call *call, const void *reply)
{
    const WRITE3res *result = reply;
    call->status = result->status;
    if (result->status == NFS3_OK && result->WRITE3res_u.resok.count != *(uint32_t *)call->into)
        call->status = NFS3ERR_NOSPC; /* a file of one line: short means no room */
}

int bmig_nfs_call_write_text(struct bmig_nfs_link *link, const struct bmig_nfs_fh *fh,
                             const char *text)
{
    uint32_t length = (uint32_t)strlen(text);
    WRITE3args args = {.file = give_fh(fh), .count = length, .stable = FILE_SYNC};
    args.data.data_len = length;
    args.data.data_val = (char *)text;
    return run(link, start_write, &args, take_write, &length);
}

/* ---- the other programs ---- */

struct port_query {
    uint32_t program, version;
};

static int start_getport(struct rpc_context *rpc, rpc_cb done, void *arguments, void *user)
{
    const struct port_query *query = arguments;
    return rpc_pmap2_getport_async(rpc, (int)query->program, (int)query->version, IPPROTO_TCP, done,
                                   user);
}

static void take_getport(struct call *call, const void *reply)
{
    *(uint32_t *)call->into = *(const uint32_t *)reply;
}

int bmig_nfs_call_getport(struct bmig_nfs_link *link, uint32_t program, uint32_t version,
                          uint16_t *port)
{
    struct port_query query = {program, version};
    uint32_t found = 0;
    int result = run(link, start_getport, &query, take_getport, &found);
    if (result == 0 && (found == 0 || found > UINT16_MAX))
        return -ENOENT;
    *port = (uint16_t)found;
    return result;
}

struct mounted {
    struct bmig_nfs_fh *fh;
    bool *auth_sys;
};

static void take_mount(struct call *call, const void *reply)
{
    const mountres3 *result = reply;
    const mountres3_ok *info = &result->mountres3_u.mountinfo;
    struct mounted *mounted = call->into;
    call->status = (uint32_t)result->fhs_status; /* the same numbers as nfsstat3's */
    if (result->fhs_status != MNT3_OK)
        return;
    if (!take_fh(mounted->fh, info->fhandle.fhandle3_len, info->fhandle.fhandle3_val))
        call->status = NFS3ERR_SERVERFAULT;
    *mounted->auth_sys = info->auth_flavors.auth_flavors_len == 0;
    for (u_int i = 0; i < info->auth_flavors.auth_flavors_len; i++)
        *mounted->auth_sys |= info->auth_flavors.auth_flavors_val[i] == AUTH_UNIX;
}

static int start_mount(struct rpc_context *rpc, rpc_cb done, void *arguments, void *user)
{
    return rpc_mount3_mnt_async(rpc, done, arguments, user);
}

int bmig_nfs_call_mount(struct bmig_nfs_link *link, const char *directory, struct bmig_nfs_fh *fh,
                        bool *auth_sys)
{
    struct mounted mounted = {fh, auth_sys};
    return run(link, start_mount, (char *)directory, take_mount, &mounted);
}
