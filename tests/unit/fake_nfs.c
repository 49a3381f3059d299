/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The fake NFSv3 server: libnfs's server contexts on one thread, files in memory, faults by
 * request.
 *
 * One mutex covers everything; the thread holds it but while it polls.
 */
#include "tests/unit/fake_nfs.h"

#include <arpa/inet.h>
#include <assert.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <nfsc/libnfs.h>

#include <nfsc/libnfs-raw.h>

#include <nfsc/libnfs-raw-mount.h>
#include <nfsc/libnfs-raw-nfs.h>

enum { MAX_FILES = 32, MAX_CONNECTIONS = 64, MAX_IO = 1 << 20 };

struct file {
    char name[256];
    bool used;
    uint8_t *data, *stable;
    uint64_t size;
    uint32_t mtime;
};

struct connection {
    int fd;
    struct rpc_context *rpc;
    bool cut;
};

static struct {
    pthread_mutex_t lock;
    pthread_t thread;
    int listener, wake[2];
    uint16_t port;
    bool stopping, restart;
    struct fake_nfs_faults faults;
    uint64_t counts[FAKE_CALLS];
    uint64_t verifier;
    struct file files[MAX_FILES];
    struct connection connections[MAX_CONNECTIONS];
    struct connection *current;
    struct rpc_context *late_rpc; /* a COMMIT's, whose answer is held back */
    struct rpc_msg late_call;
    COMMIT3res late_result;
    uint8_t scratch[MAX_IO + 4096];
} fake = {.lock = PTHREAD_MUTEX_INITIALIZER, .listener = -1};

#define PROC(function) ((zdrproc_t)(void (*)(void))(function))

/* ---- files; a handle is "fake" and an index, the root's is MAX_FILES ---- */

static char handle_bytes[MAX_FILES + 1][80];

static nfs_fh3 handle_of(uint32_t index)
{
    memset(handle_bytes[index], 0, sizeof(handle_bytes[index]));
    snprintf(handle_bytes[index], sizeof(handle_bytes[index]), "fake%u", index);
    return (nfs_fh3){.data = {.data_len = 16, .data_val = handle_bytes[index]}};
}

static struct file *file_of(const nfs_fh3 *fh)
{
    char text[17] = "";
    if (fh->data.data_len != 16)
        return NULL;
    memcpy(text, fh->data.data_val, 16);
    unsigned index = (unsigned)strtoul(text + 4, NULL, 10);
    return index < MAX_FILES && fake.files[index].used ? &fake.files[index] : NULL;
}

static struct file *find(const char *name)
{
    for (uint32_t i = 0; i < MAX_FILES; i++)
        if (fake.files[i].used && strcmp(fake.files[i].name, name) == 0)
            return &fake.files[i];
    return NULL;
}

static void resize(struct file *file, uint64_t size)
{
    file->data = realloc(file->data, size + 1);
    file->stable = realloc(file->stable, size + 1);
    if (size > file->size) {
        memset(file->data + file->size, 0, size - file->size);
        memset(file->stable + file->size, 0, size - file->size);
    }
    file->size = size;
}

static struct file *add(const char *name)
{
    for (uint32_t i = 0; i < MAX_FILES; i++) {
        struct file *file = &fake.files[i];
        if (!file->used) {
            memset(file, 0, sizeof(*file));
            file->used = true;
            snprintf(file->name, sizeof(file->name), "%s", name);
            return file;
        }
    }
    abort();
}

static void drop(struct file *file)
{
    free(file->data);
    free(file->stable);
    memset(file, 0, sizeof(*file));
}

static void forget(void)
{
    fake.verifier++;
    for (uint32_t i = 0; i < MAX_FILES; i++)
        if (fake.files[i].used)
            memcpy(fake.files[i].data, fake.files[i].stable, fake.files[i].size);
}

static fattr3 attributes_of(const struct file *file)
{
    fattr3 attributes = {.type = file ? NF3REG : NF3DIR, .mode = 0600, .nlink = 1, .fsid = 7};
    attributes.fileid = file ? 100 + (uint64_t)(file - fake.files) : 2;
    attributes.mtime.seconds = file ? file->mtime : 1;
    attributes.size = file ? file->size : 4096;
    attributes.used = file && file->mtime == 1234567890 ? 0 : attributes.size;
    return attributes;
}

/* ---- faults that READ, WRITE and COMMIT share; true: no answer ---- */

static bool nth(uint32_t *count)
{
    return *count && --*count == 0;
}

static bool misbehave(void)
{
    if (nth(&fake.faults.forget_at))
        forget();
    if (nth(&fake.faults.restart_at)) {
        fake.restart = true;
        return true;
    }
    return false;
}

static bool unanswered(void)
{
    if (nth(&fake.faults.cut_after)) {
        fake.current->cut = true;
        return true;
    }
    return fake.faults.hung;
}

static bool asks_for_time(void)
{
    if (!fake.faults.jukebox)
        return false;
    fake.faults.jukebox--;
    return true;
}

/* ---- procedures ---- */

/* libnfs decodes them to wherever its buffer happens to be: not aligned. */
#define ARGUMENTS(type)                                                                            \
    type copy, *args = &copy;                                                                      \
    memcpy(args, call->body.cbody.args, sizeof(copy))

static int do_null(struct rpc_context *rpc, struct rpc_msg *call)
{
    return rpc_send_reply(rpc, call, NULL, PROC(libnfs_zdr_void), 0);
}

static int do_mount(struct rpc_context *rpc, struct rpc_msg *call)
{
    static int flavors[] = {AUTH_UNIX};
    char *path;
    memcpy(&path, call->body.cbody.args, sizeof(path));
    mountres3 result = {.fhs_status = MNT3ERR_NOENT};
    if (strcmp(path, "/export") == 0 || strcmp(path, "/kerberos") == 0) {
        nfs_fh3 root = handle_of(MAX_FILES);
        result.fhs_status = MNT3_OK;
        result.mountres3_u.mountinfo.fhandle.fhandle3_len = root.data.data_len;
        result.mountres3_u.mountinfo.fhandle.fhandle3_val = root.data.data_val;
        flavors[0] = path[1] == 'k' ? 390003 : AUTH_UNIX;
        result.mountres3_u.mountinfo.auth_flavors.auth_flavors_len = 1;
        result.mountres3_u.mountinfo.auth_flavors.auth_flavors_val = flavors;
    } else if (strncmp(path, "/secret", 7) == 0) {
        result.fhs_status = MNT3ERR_ACCES;
    }
    return rpc_send_reply(rpc, call, &result, PROC(zdr_mountres3), 1024);
}

static int do_getattr(struct rpc_context *rpc, struct rpc_msg *call)
{
    ARGUMENTS(GETATTR3args);
    GETATTR3res result = {.status = NFS3_OK};
    result.GETATTR3res_u.resok.obj_attributes = attributes_of(file_of(&args->object));
    return rpc_send_reply(rpc, call, &result, PROC(zdr_GETATTR3res), 1024);
}

static int do_setattr(struct rpc_context *rpc, struct rpc_msg *call)
{
    ARGUMENTS(SETATTR3args);
    SETATTR3res result = {.status = NFS3_OK};
    struct file *file = file_of(&args->object);
    if (!file)
        result.status = NFS3ERR_STALE;
    else if (args->new_attributes.size.set_it)
        resize(file, args->new_attributes.size.set_size3_u.size);
    if (file && args->new_attributes.mtime.set_it == SET_TO_CLIENT_TIME)
        file->mtime = args->new_attributes.mtime.set_mtime_u.mtime.seconds;
    return rpc_send_reply(rpc, call, &result, PROC(zdr_SETATTR3res), 1024);
}

static int do_lookup(struct rpc_context *rpc, struct rpc_msg *call)
{
    ARGUMENTS(LOOKUP3args);
    LOOKUP3res result = {.status = NFS3ERR_NOENT};
    struct file *file = find(args->what.name);
    if (file) {
        result.status = NFS3_OK;
        result.LOOKUP3res_u.resok.object = handle_of((uint32_t)(file - fake.files));
        if (fake.faults.bad_handles)
            result.LOOKUP3res_u.resok.object.data.data_len = 72;
    }
    return rpc_send_reply(rpc, call, &result, PROC(zdr_LOOKUP3res), 1024);
}

static int do_access(struct rpc_context *rpc, struct rpc_msg *call)
{
    ARGUMENTS(ACCESS3args);
    ACCESS3res result = {.status = NFS3_OK};
    result.ACCESS3res_u.resok.access = args->access & ~fake.faults.deny_access;
    return rpc_send_reply(rpc, call, &result, PROC(zdr_ACCESS3res), 1024);
}

static int do_read(struct rpc_context *rpc, struct rpc_msg *call)
{
    ARGUMENTS(READ3args);
    READ3res result = {.status = NFS3_OK};
    READ3resok *ok = &result.READ3res_u.resok;
    struct file *file = file_of(&args->file);
    fake.counts[FAKE_READ]++;
    if (misbehave())
        return 0;
    if (!file) {
        result.status = NFS3ERR_STALE;
    } else if (fake.faults.fail_reads) {
        result.status = fake.faults.fail_reads;
    } else if (asks_for_time()) {
        result.status = NFS3ERR_JUKEBOX;
    } else {
        uint64_t left = args->offset < file->size ? file->size - args->offset : 0;
        uint32_t count = args->count < left ? args->count : (uint32_t)left;
        if (fake.faults.most_bytes && count > fake.faults.most_bytes)
            count = fake.faults.most_bytes;
        ok->eof = args->offset + count >= file->size;
        memcpy(fake.scratch, file->data + args->offset, count);
        ok->count = ok->data.data_len = count + (fake.faults.long_reads ? 512 : 0);
        ok->data.data_val = (char *)fake.scratch;
    }
    if (unanswered())
        return 0;
    return rpc_send_reply(rpc, call, &result, PROC(zdr_READ3res), MAX_IO + 4096);
}

static int do_write(struct rpc_context *rpc, struct rpc_msg *call)
{
    ARGUMENTS(WRITE3args);
    WRITE3res result = {.status = NFS3_OK};
    WRITE3resok *ok = &result.WRITE3res_u.resok;
    struct file *file = file_of(&args->file);
    fake.counts[FAKE_WRITE]++;
    fake.counts[FAKE_WRITE_SYNC] += args->stable == FILE_SYNC;
    if (misbehave())
        return 0;
    if (!file) {
        result.status = NFS3ERR_STALE;
    } else if (fake.faults.fail_status) {
        result.status = fake.faults.fail_status;
    } else if (asks_for_time()) {
        result.status = NFS3ERR_JUKEBOX;
    } else {
        uint32_t count = args->data.data_len;
        file->mtime = 1700000000;
        if (fake.faults.most_bytes && count > fake.faults.most_bytes)
            count = fake.faults.most_bytes;
        if (args->offset + count > file->size)
            resize(file, args->offset + count);
        memcpy(file->data + args->offset, args->data.data_val, count);
        if (args->stable != UNSTABLE)
            memcpy(file->stable + args->offset, args->data.data_val, count);
        ok->count = count;
        ok->committed = args->stable;
        memcpy(ok->verf, &fake.verifier, sizeof(ok->verf));
    }
    if (unanswered())
        return 0;
    int status = rpc_send_reply(rpc, call, &result, PROC(zdr_WRITE3res), 1024);
    if (fake.late_rpc == rpc) {
        fake.late_rpc = NULL;
        status |=
            rpc_send_reply(rpc, &fake.late_call, &fake.late_result, PROC(zdr_COMMIT3res), 1024);
    }
    return status;
}

static int do_commit(struct rpc_context *rpc, struct rpc_msg *call)
{
    ARGUMENTS(COMMIT3args);
    COMMIT3res result = {.status = NFS3_OK};
    struct file *file = file_of(&args->file);
    fake.counts[FAKE_COMMIT]++;
    if (misbehave())
        return 0;
    if (!file) {
        result.status = NFS3ERR_STALE;
    } else if (fake.faults.fail_commits) {
        fake.faults.fail_commits--;
        result.status = NFS3ERR_IO;
    } else if (asks_for_time()) {
        result.status = NFS3ERR_JUKEBOX;
    } else {
        memcpy(file->stable, file->data, file->size);
        memcpy(result.COMMIT3res_u.resok.verf, &fake.verifier, sizeof(fake.verifier));
    }
    if (unanswered())
        return 0;
    if (fake.faults.late_commit) {
        fake.faults.late_commit = false;
        fake.late_rpc = rpc;
        fake.late_call = (struct rpc_msg){.xid = call->xid};
        fake.late_result = result;
        return 0;
    }
    return rpc_send_reply(rpc, call, &result, PROC(zdr_COMMIT3res), 1024);
}

static int do_create(struct rpc_context *rpc, struct rpc_msg *call)
{
    ARGUMENTS(CREATE3args);
    CREATE3res result = {.status = NFS3ERR_EXIST};
    if (!find(args->where.name)) {
        struct file *file = add(args->where.name);
        resize(file, 0);
        result.status = NFS3_OK;
        result.CREATE3res_u.resok.obj.handle_follows = 1;
        result.CREATE3res_u.resok.obj.post_op_fh3_u.handle =
            handle_of((uint32_t)(file - fake.files));
    }
    return rpc_send_reply(rpc, call, &result, PROC(zdr_CREATE3res), 1024);
}

static int do_remove(struct rpc_context *rpc, struct rpc_msg *call)
{
    ARGUMENTS(REMOVE3args);
    REMOVE3res result = {.status = NFS3_OK};
    struct file *file = find(args->object.name);
    if (file)
        drop(file);
    else
        result.status = NFS3ERR_NOENT;
    return rpc_send_reply(rpc, call, &result, PROC(zdr_REMOVE3res), 1024);
}

static int do_rename(struct rpc_context *rpc, struct rpc_msg *call)
{
    ARGUMENTS(RENAME3args);
    RENAME3res result = {.status = NFS3_OK};
    struct file *file = find(args->from.name), *over = find(args->to.name);
    if (file && over && over != file)
        drop(over);
    if (file)
        snprintf(file->name, sizeof(file->name), "%s", args->to.name);
    else
        result.status = NFS3ERR_NOENT;
    return rpc_send_reply(rpc, call, &result, PROC(zdr_RENAME3res), 1024);
}

/* A link is a copy here: nobody writes to linked files. */
static int do_link(struct rpc_context *rpc, struct rpc_msg *call)
{
    ARGUMENTS(LINK3args);
    LINK3res result = {.status = NFS3_OK};
    struct file *file = file_of(&args->file);
    if (fake.faults.no_hard_links) {
        result.status = NFS3ERR_NOTSUPP;
    } else if (!file) {
        result.status = NFS3ERR_STALE;
    } else if (find(args->link.name)) {
        result.status = NFS3ERR_EXIST;
    } else {
        struct file *link = add(args->link.name);
        resize(link, file->size);
        memcpy(link->data, file->data, file->size);
        memcpy(link->stable, file->stable, file->size);
    }
    return rpc_send_reply(rpc, call, &result, PROC(zdr_LINK3res), 1024);
}

static int do_fsstat(struct rpc_context *rpc, struct rpc_msg *call)
{
    FSSTAT3res result = {.status = NFS3_OK};
    result.FSSTAT3res_u.resok.tbytes = UINT64_C(1) << 40;
    result.FSSTAT3res_u.resok.fbytes = UINT64_C(3) << 30;
    result.FSSTAT3res_u.resok.abytes = UINT64_C(2) << 30;
    return rpc_send_reply(rpc, call, &result, PROC(zdr_FSSTAT3res), 1024);
}

static int do_fsinfo(struct rpc_context *rpc, struct rpc_msg *call)
{
    FSINFO3res result = {.status = NFS3_OK};
    FSINFO3resok *ok = &result.FSINFO3res_u.resok;
    ok->rtmax = ok->wtmax = ok->rtpref = ok->wtpref = MAX_IO;
    ok->maxfilesize = UINT64_C(1) << 44;
    return rpc_send_reply(rpc, call, &result, PROC(zdr_FSINFO3res), 1024);
}

/* libnfs decodes into memory that it has not cleared, and takes what lies there for pointers. */
#define DECODER(type)                                                                              \
    static uint32_t decode_##type(ZDR *zdrs, type *arguments)                                      \
    {                                                                                              \
        memset(arguments, 0, sizeof(*arguments));                                                  \
        return zdr_##type(zdrs, arguments);                                                        \
    }
DECODER(GETATTR3args)
DECODER(SETATTR3args)
DECODER(LOOKUP3args)
DECODER(ACCESS3args)
DECODER(READ3args)
DECODER(WRITE3args)
DECODER(CREATE3args)
DECODER(REMOVE3args)
DECODER(RENAME3args)
DECODER(LINK3args)
DECODER(FSSTAT3args)
DECODER(FSINFO3args)
DECODER(COMMIT3args)
DECODER(dirpath)

static struct service_proc nfs_procs[] = {
    {0, do_null, PROC(libnfs_zdr_void), 0},
    {NFS3_GETATTR, do_getattr, PROC(decode_GETATTR3args), sizeof(GETATTR3args)},
    {NFS3_SETATTR, do_setattr, PROC(decode_SETATTR3args), sizeof(SETATTR3args)},
    {NFS3_LOOKUP, do_lookup, PROC(decode_LOOKUP3args), sizeof(LOOKUP3args)},
    {NFS3_ACCESS, do_access, PROC(decode_ACCESS3args), sizeof(ACCESS3args)},
    {NFS3_READ, do_read, PROC(decode_READ3args), sizeof(READ3args)},
    {NFS3_WRITE, do_write, PROC(decode_WRITE3args), sizeof(WRITE3args)},
    {NFS3_CREATE, do_create, PROC(decode_CREATE3args), sizeof(CREATE3args)},
    {NFS3_REMOVE, do_remove, PROC(decode_REMOVE3args), sizeof(REMOVE3args)},
    {NFS3_RENAME, do_rename, PROC(decode_RENAME3args), sizeof(RENAME3args)},
    {NFS3_LINK, do_link, PROC(decode_LINK3args), sizeof(LINK3args)},
    {NFS3_FSSTAT, do_fsstat, PROC(decode_FSSTAT3args), sizeof(FSSTAT3args)},
    {NFS3_FSINFO, do_fsinfo, PROC(decode_FSINFO3args), sizeof(FSINFO3args)},
    {NFS3_COMMIT, do_commit, PROC(decode_COMMIT3args), sizeof(COMMIT3args)},
};

static struct service_proc mount_procs[] = {
    {0, do_null, PROC(libnfs_zdr_void), 0},
    {MOUNT3_MNT, do_mount, PROC(decode_dirpath), sizeof(char *)},
};

/* libnfs 4.0.0 never frees what it registers; no fault of what is tested. */
const char *__lsan_default_suppressions(void);
__attribute__((weak)) const char *__lsan_default_suppressions(void)
{
    return "leak:rpc_register_service\n";
}

/* ---- connections ---- */

/* libnfs can't end a server context that has answers to send: they go into a socket that nobody
 * reads. */
static void swallow_answers(struct connection *connection)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) != 0 ||
        dup2(pair[0], connection->fd) < 0) /* which closes the connection */
        abort();
    close(pair[0]);
    while (rpc_queue_length(connection->rpc) > 0) {
        rpc_service(connection->rpc, POLLOUT);
        while (read(pair[1], fake.scratch, sizeof(fake.scratch)) > 0) {
        }
    }
    close(pair[1]);
}

static void close_connection(struct connection *connection)
{
    if (connection->rpc && rpc_queue_length(connection->rpc) > 0)
        swallow_answers(connection);
    if (connection->rpc)
        rpc_destroy_context(connection->rpc); /* closes the descriptor */
    memset(connection, 0, sizeof(*connection));
    connection->fd = -1;
}

static void accept_one(void)
{
    int fd = accept4(fake.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    for (int i = 0; i < MAX_CONNECTIONS; i++) {
        struct connection *connection = &fake.connections[i];
        if (connection->rpc)
            continue;
        connection->fd = fd;
        connection->rpc = rpc_init_server_context(fd);
        rpc_register_service(connection->rpc, NFS_PROGRAM, NFS_V3, nfs_procs,
                             sizeof(nfs_procs) / sizeof(nfs_procs[0]));
        rpc_register_service(connection->rpc, MOUNT_PROGRAM, MOUNT_V3, mount_procs,
                             sizeof(mount_procs) / sizeof(mount_procs[0]));
        fake.counts[FAKE_CONNECTION]++;
        return;
    }
    close(fd);
}

static void restart(void)
{
    for (int i = 0; i < MAX_CONNECTIONS; i++)
        close_connection(&fake.connections[i]);
    forget();
}

static void serve(struct pollfd *polled)
{
    for (int i = 0; i < MAX_CONNECTIONS && !fake.restart; i++) {
        struct connection *connection = &fake.connections[i];
        if (!connection->rpc || polled[i].fd != connection->fd || !polled[i].revents)
            continue;
        fake.current = connection;
        if (rpc_service(connection->rpc, polled[i].revents) < 0 || connection->cut)
            close_connection(connection);
    }
    if (fake.restart)
        restart();
    fake.restart = false;
}

static void *run(void *unused)
{
    struct pollfd polled[MAX_CONNECTIONS + 2];
    char bytes[64];
    pthread_mutex_lock(&fake.lock);
    while (!fake.stopping) {
        for (int i = 0; i < MAX_CONNECTIONS; i++) {
            struct connection *connection = &fake.connections[i];
            polled[i] = (struct pollfd){.fd = -1};
            if (connection->rpc && !fake.faults.frozen)
                polled[i] =
                    (struct pollfd){.fd = connection->fd,
                                    .events = (short)(POLLIN | rpc_which_events(connection->rpc))};
        }
        polled[MAX_CONNECTIONS] =
            (struct pollfd){.fd = fake.faults.frozen ? -1 : fake.listener, .events = POLLIN};
        polled[MAX_CONNECTIONS + 1] = (struct pollfd){.fd = fake.wake[0], .events = POLLIN};
        pthread_mutex_unlock(&fake.lock);
        poll(polled, MAX_CONNECTIONS + 2, -1);
        pthread_mutex_lock(&fake.lock);
        if (polled[MAX_CONNECTIONS + 1].revents && read(fake.wake[0], bytes, sizeof(bytes)) < 0)
            continue;
        if (fake.faults.frozen)
            continue;
        serve(polled);
        if (polled[MAX_CONNECTIONS].revents)
            accept_one();
    }
    pthread_mutex_unlock(&fake.lock);
    return NULL;
}

/* ---- for tests ---- */

static void poke(void)
{
    ssize_t written = write(fake.wake[1], "x", 1);
    (void)written; /* a full pipe wakes as well */
}

void fake_nfs_start(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof(address);
    memset(&fake.faults, 0, sizeof(fake.faults));
    memset(fake.counts, 0, sizeof(fake.counts));
    fake.stopping = false;
    fake.verifier = 1000;
    fake.listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (bind(fake.listener, (struct sockaddr *)&address, sizeof(address)) != 0 ||
        listen(fake.listener, 64) != 0 || pipe2(fake.wake, O_NONBLOCK | O_CLOEXEC) != 0 ||
        getsockname(fake.listener, (struct sockaddr *)&address, &length) != 0)
        abort();
    fake.port = ntohs(address.sin_port);
    pthread_create(&fake.thread, NULL, run, NULL);
}

void fake_nfs_stop(void)
{
    pthread_mutex_lock(&fake.lock);
    fake.stopping = true;
    poke();
    pthread_mutex_unlock(&fake.lock);
    pthread_join(fake.thread, NULL);
    for (int i = 0; i < MAX_CONNECTIONS; i++)
        close_connection(&fake.connections[i]);
    for (int i = 0; i < MAX_FILES; i++)
        if (fake.files[i].used)
            drop(&fake.files[i]);
    close(fake.listener);
    close(fake.wake[0]);
    close(fake.wake[1]);
}

uint16_t fake_nfs_port(void)
{
    return fake.port;
}

const char *fake_nfs_uri(const char *name)
{
    static char uri[512];
    snprintf(uri, sizeof(uri), "nfs://127.0.0.1/export/%s?nfsport=%u&mountport=%u&uid=0&gid=0",
             name, fake.port, fake.port);
    return uri;
}

void fake_nfs_set(struct fake_nfs_faults faults)
{
    pthread_mutex_lock(&fake.lock);
    fake.faults = faults;
    poke();
    pthread_mutex_unlock(&fake.lock);
}

void fake_nfs_restart(void)
{
    pthread_mutex_lock(&fake.lock);
    restart();
    poke();
    pthread_mutex_unlock(&fake.lock);
}

void fake_nfs_forget(void)
{
    pthread_mutex_lock(&fake.lock);
    forget();
    pthread_mutex_unlock(&fake.lock);
}

uint64_t fake_nfs_count(enum fake_nfs_call call)
{
    pthread_mutex_lock(&fake.lock);
    uint64_t count = fake.counts[call];
    pthread_mutex_unlock(&fake.lock);
    return count;
}

uint32_t fake_nfs_open_connections(void)
{
    uint32_t count = 0;
    pthread_mutex_lock(&fake.lock);
    for (int i = 0; i < MAX_CONNECTIONS; i++)
        count += fake.connections[i].rpc != NULL;
    pthread_mutex_unlock(&fake.lock);
    return count;
}

void fake_nfs_put(const char *name, const char *text, uint64_t size_bytes)
{
    pthread_mutex_lock(&fake.lock);
    struct file *file = find(name);
    if (!file)
        file = add(name);
    resize(file, text ? strlen(text) : size_bytes);
    if (text) {
        memcpy(file->data, text, strlen(text));
        memcpy(file->stable, text, strlen(text));
    }
    pthread_mutex_unlock(&fake.lock);
}

bool fake_nfs_has(const char *name)
{
    pthread_mutex_lock(&fake.lock);
    bool has = find(name) != NULL;
    pthread_mutex_unlock(&fake.lock);
    return has;
}

uint64_t fake_nfs_size(const char *name)
{
    pthread_mutex_lock(&fake.lock);
    uint64_t size = find(name)->size;
    pthread_mutex_unlock(&fake.lock);
    return size;
}

void fake_nfs_truncate(const char *name, uint64_t size_bytes)
{
    pthread_mutex_lock(&fake.lock);
    resize(find(name), size_bytes);
    pthread_mutex_unlock(&fake.lock);
}

void fake_nfs_stable(const char *name, uint64_t offset, uint64_t length, void *into)
{
    pthread_mutex_lock(&fake.lock);
    struct file *file = find(name);
    assert(offset + length <= file->size);
    memcpy(into, file->stable + offset, length);
    pthread_mutex_unlock(&fake.lock);
}
