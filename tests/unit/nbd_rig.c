/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The rig for tests of the NBD server.
 */
#include "nbd_rig.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "backends/backends.h"

enum { PATIENCE_STEPS = 4000, STEP_NS = 5000000 };

struct gate gate;
uint32_t gate_lacks;
static struct bmig_request *held_requests;

uint64_t rig_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

/* ---- the gate ---- */

static int gate_open_disk(struct bmig_disk *disk, const struct bmig_uri *uri,
                          const struct bmig_open_options *options, struct bmig_error *err)
{
    bmig_disk_inherit(disk, disk->next);
    disk->caps &= ~gate_lacks;
    return 0;
}

static void gate_close(struct bmig_disk *disk)
{
}

static void pass(struct bmig_disk *disk, struct bmig_request *request)
{
    bool hit = (int)request->op == gate.fail_op && request->offset <= gate.fail_offset &&
               gate.fail_offset - request->offset < (request->length ? request->length : 1);

    if (hit)
        bmig_disk_complete(request, gate.fail_status);
    else
        bmig_disk_forward(disk, request, request->offset);
}

static void gate_submit(struct bmig_disk *disk, struct bmig_request *request)
{
    gate.seen[request->op]++;
    gate.last_flags = request->flags;
    gate.last_offset = request->offset;
    gate.last_length = request->length;
    if (request->data && request->length > gate.most_bytes)
        gate.most_bytes = request->length;
    if (!gate.hold) {
        pass(disk, request);
        return;
    }
    memcpy(request->driver, &held_requests, sizeof(held_requests));
    held_requests = request;
    gate.held++;
}

static const struct bmig_driver gate_driver = {
    .name = "gate", .open = gate_open_disk, .close = gate_close, .submit = gate_submit};

void gate_open(struct rig *rig)
{
    gate.hold = false;
    while (held_requests) {
        struct bmig_request *request = held_requests;

        memcpy(&held_requests, request->driver, sizeof(held_requests));
        gate.held--;
        pass(rig->disk, request);
    }
}

/* ---- the rig ---- */

static int count_descriptors(void)
{
    DIR *folder = opendir("/proc/self/fd");
    int count = 0;

    ck_assert_ptr_nonnull(folder);
    while (readdir(folder))
        count++;
    closedir(folder);
    return count;
}

void rig_step(struct rig *rig)
{
    bmig_loop_step(rig->loop, STEP_NS);
}

void rig_settle(struct rig *rig)
{
    int idle = 0;

    while (idle < 3)
        idle = bmig_loop_step(rig->loop, STEP_NS) ? 0 : idle + 1;
}

void rig_start(struct rig *rig, uint64_t size_bytes, const struct bmig_nbd_server_options *options,
               unsigned pool_mib)
{
    const struct bmig_open_options open_options = {.writable = true};
    struct bmig_disk *mem;
    struct bmig_uri uri;
    char text[64];

    gate = (struct gate){.fail_op = -1};
    *rig = (struct rig){.descriptors = count_descriptors()};
    snprintf(text, sizeof(text), "mem:?size=%llu", (unsigned long long)size_bytes);
    ck_assert_int_eq(bmig_uri_parse(&uri, text, NULL), 0);
    ck_assert_int_eq(bmig_loop_new(&rig->loop, BMIG_LOOP_AUTO, NULL), 0);
    ck_assert_int_eq(bmig_pool_new(&rig->pool, rig->loop, (size_t)(pool_mib ? pool_mib : 32) << 20),
                     0);
    ck_assert_int_eq(bmig_disk_open(&mem, &bmig_mem_driver, NULL, &uri, &open_options, NULL), 0);
    ck_assert_int_eq(bmig_disk_open(&rig->disk, &gate_driver, mem, NULL, &open_options, NULL), 0);
    bmig_uri_fini(&uri);
    ck_assert_int_eq(bmig_disk_attach(rig->disk, rig->loop, NULL), 0);
    ck_assert_int_eq(
        bmig_volume_new(&rig->volume, rig->loop, rig->pool, rig->disk, "disk", 1, NULL), 0);
    ck_assert_int_eq(
        bmig_nbd_server_new(&rig->server, rig->loop, rig->pool, rig->volume, options, NULL), 0);
    snprintf(rig->folder, sizeof(rig->folder), "%s/nbd-XXXXXX",
             getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(rig->folder));
    snprintf(rig->path, sizeof(rig->path), "%s/s", rig->folder);
    snprintf(rig->uri, sizeof(rig->uri), "nbd+unix:///?socket=%s", rig->path);
    ck_assert_int_eq(bmig_nbd_server_listen(rig->server, rig->uri, NULL, NULL), 0);
}

static void stopped(void *user)
{
    *(bool *)user = true;
}

void nbd_rig_stop(struct rig *rig)
{
    bool over = false;

    bmig_nbd_server_stop(rig->server, UINT64_C(10000000000), stopped, &over);
    ck_assert(!over);
    for (int i = 0; i < PATIENCE_STEPS && !over; i++)
        rig_step(rig);
    ck_assert(over);
    ck_assert_uint_eq(bmig_nbd_server_clients(rig->server), 0);
    bmig_nbd_server_free(rig->server);
    ck_assert_int_ne(access(rig->path, F_OK), 0);
    rmdir(rig->folder);
    rig_settle(rig);
    ck_assert(bmig_volume_idle(rig->volume));
    bmig_volume_free(rig->volume);
    ck_assert(bmig_disk_idle(rig->disk));
    bmig_disk_detach(rig->disk);
    bmig_disk_close(rig->disk);
    ck_assert_uint_eq(bmig_pool_used_bytes(rig->pool), 0);
    bmig_pool_free(rig->pool);
    rig_settle(rig);
    bmig_loop_free(rig->loop);
    ck_assert_int_eq(count_descriptors(), rig->descriptors);
}

/* ---- raw clients ---- */

int rig_connect(struct rig *rig)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    ck_assert_int_ge(fd, 0);
    memcpy(address.sun_path, rig->path, strlen(rig->path));
    for (int i = 0; connect(fd, (struct sockaddr *)&address, sizeof(address)); i++) {
        ck_assert_int_eq(errno, EAGAIN); /* the backlog is full */
        ck_assert_int_lt(i, PATIENCE_STEPS);
        rig_step(rig);
    }
    return fd;
}

void rig_send(struct rig *rig, int fd, const void *data, size_t length)
{
    const uint8_t *at = data;

    for (int idle = 0; length;) {
        ssize_t sent = send(fd, at, length, MSG_NOSIGNAL);

        if (sent < 0) {
            ck_assert_int_eq(errno, EAGAIN);
            ck_assert_int_lt(idle++, PATIENCE_STEPS);
            rig_step(rig);
            continue;
        }
        idle = 0;
        at += sent;
        length -= (size_t)sent;
    }
}

void rig_receive(struct rig *rig, int fd, void *data, size_t length)
{
    uint8_t *at = data;

    for (int idle = 0; length;) {
        ssize_t got = recv(fd, at, length, 0);

        if (got < 0) {
            ck_assert_int_eq(errno, EAGAIN);
            ck_assert_int_lt(idle++, PATIENCE_STEPS);
            rig_step(rig);
            continue;
        }
        ck_assert_int_ne(got, 0);
        idle = 0;
        at += got;
        length -= (size_t)got;
    }
}

void rig_expect_end(struct rig *rig, int fd)
{
    char byte;

    for (int i = 0; i < PATIENCE_STEPS; i++) {
        ssize_t got = recv(fd, &byte, 1, 0);

        if (got == 0 || (got < 0 && errno == ECONNRESET))
            return;
        ck_assert_int_lt(got, 0);
        rig_step(rig);
    }
    ck_abort_msg("the server did not hang up");
}

void rig_expect_silence(struct rig *rig, int fd)
{
    char byte;

    rig_settle(rig);
    ck_assert_int_eq(recv(fd, &byte, 1, 0), -1);
    ck_assert_int_eq(errno, EAGAIN);
}

void rig_wait_clients(struct rig *rig, uint32_t clients)
{
    for (int i = 0; i < PATIENCE_STEPS && bmig_nbd_server_clients(rig->server) != clients; i++)
        rig_step(rig);
    ck_assert_uint_eq(bmig_nbd_server_clients(rig->server), clients);
}

static void send_option(struct rig *rig, int fd, uint32_t option, const void *data, uint32_t length)
{
    uint8_t header[NBD_OPTION_HEADER_BYTES];

    nbd_put_u32(nbd_put_u32(nbd_put_u64(header, NBD_OPTION_MAGIC), option), length);
    rig_send(rig, fd, header, sizeof(header));
    rig_send(rig, fd, data, length);
}

/* Replies to an option up to its ACK. */
static void expect_ack(struct rig *rig, int fd)
{
    uint8_t reply[NBD_OPTION_REPLY_HEADER_BYTES], data[256];
    uint32_t type;

    do {
        rig_receive(rig, fd, reply, sizeof(reply));
        type = nbd_get_u32(reply + 12);
        ck_assert_uint_lt(type, 1u << 31);
        rig_receive(rig, fd, data, nbd_get_u32(reply + 16));
    } while (type != NBD_REP_ACK);
}

int rig_client(struct rig *rig, bool structured)
{
    static const char context[] = "\0\0\0\0\0\0\0\1\0\0\0\017base:allocation";
    uint8_t answer[18];
    int fd = rig_connect(rig);

    rig_receive(rig, fd, answer, 18);
    rig_send(rig, fd, "\0\0\0\3", 4);
    if (!structured) {
        send_option(rig, fd, NBD_OPT_EXPORT_NAME, "disk", 4);
        rig_receive(rig, fd, answer, 10);
        ck_assert_uint_eq(nbd_get_u64(answer), bmig_volume_size_bytes(rig->volume));
        return fd;
    }
    send_option(rig, fd, NBD_OPT_STRUCTURED_REPLY, "", 0);
    expect_ack(rig, fd);
    send_option(rig, fd, NBD_OPT_SET_META_CONTEXT, context, sizeof(context) - 1);
    expect_ack(rig, fd);
    send_option(rig, fd, NBD_OPT_GO, "\0\0\0\0\0\0", 6);
    expect_ack(rig, fd);
    return fd;
}

/* ---- requests and replies ---- */

void rig_request(uint8_t *at, unsigned type, unsigned flags, uint64_t cookie, uint64_t offset,
                 uint32_t length)
{
    at = nbd_put_u16(nbd_put_u32(at, NBD_REQUEST_MAGIC), (uint16_t)flags);
    at = nbd_put_u64(nbd_put_u16(at, (uint16_t)type), cookie);
    nbd_put_u32(nbd_put_u64(at, offset), length);
}

void rig_send_request(struct rig *rig, int fd, unsigned type, unsigned flags, uint64_t cookie,
                      uint64_t offset, uint32_t length)
{
    uint8_t bytes[NBD_REQUEST_BYTES];

    rig_request(bytes, type, flags, cookie, offset, length);
    rig_send(rig, fd, bytes, sizeof(bytes));
}

struct rig_reply rig_reply(struct rig *rig, int fd)
{
    uint8_t bytes[NBD_CHUNK_HEADER_BYTES];
    struct rig_reply reply = {0};

    rig_receive(rig, fd, bytes, NBD_SIMPLE_REPLY_BYTES);
    reply.structured = nbd_get_u32(bytes) == NBD_STRUCTURED_REPLY_MAGIC;
    reply.cookie = nbd_get_u64(bytes + 8);
    if (reply.structured) {
        rig_receive(rig, fd, bytes + NBD_SIMPLE_REPLY_BYTES, 4);
        reply.flags = nbd_get_u16(bytes + 4);
        reply.type = nbd_get_u16(bytes + 6);
        reply.length = nbd_get_u32(bytes + 16);
    } else {
        ck_assert_uint_eq(nbd_get_u32(bytes), NBD_SIMPLE_REPLY_MAGIC);
        reply.error = nbd_get_u32(bytes + 4);
    }
    return reply;
}

void rig_expect(struct rig *rig, int fd, uint64_t cookie, uint32_t error)
{
    struct rig_reply reply = rig_reply(rig, fd);

    ck_assert(!reply.structured);
    ck_assert_uint_eq(reply.cookie, cookie);
    ck_assert_uint_eq(reply.error, error);
}

static uint32_t receive_error(struct rig *rig, int fd, const struct rig_reply *reply)
{
    uint8_t bytes[256];

    ck_assert_uint_eq(reply->type, NBD_REPLY_TYPE_ERROR);
    ck_assert_uint_eq(reply->flags, NBD_REPLY_FLAG_DONE);
    ck_assert_uint_ge(reply->length, 6);
    ck_assert_uint_le(reply->length, sizeof(bytes));
    rig_receive(rig, fd, bytes, reply->length);
    ck_assert_uint_eq(nbd_get_u16(bytes + 4), reply->length - 6);
    ck_assert_uint_ne(nbd_get_u32(bytes), 0);
    return nbd_get_u32(bytes);
}

void rig_expect_error_chunk(struct rig *rig, int fd, uint64_t cookie, uint32_t error)
{
    struct rig_reply reply = rig_reply(rig, fd);

    ck_assert(reply.structured);
    ck_assert_uint_eq(reply.cookie, cookie);
    ck_assert_uint_eq(receive_error(rig, fd, &reply), error);
}

uint32_t rig_read_chunks(struct rig *rig, int fd, uint64_t cookie, uint64_t offset, uint32_t length,
                         uint8_t *data, unsigned *chunks)
{
    uint64_t covered = 0;
    struct rig_reply reply;

    if (chunks)
        *chunks = 0;
    do {
        uint8_t at[8];
        uint64_t from;

        reply = rig_reply(rig, fd);
        ck_assert(reply.structured);
        ck_assert_uint_eq(reply.cookie, cookie);
        if (reply.type == NBD_REPLY_TYPE_ERROR)
            return receive_error(rig, fd, &reply);
        if (reply.type == NBD_REPLY_TYPE_NONE)
            break;
        ck_assert_uint_eq(reply.type, NBD_REPLY_TYPE_OFFSET_DATA);
        ck_assert_uint_ge(reply.length, 9);
        rig_receive(rig, fd, at, 8);
        from = nbd_get_u64(at);
        reply.length -= 8;
        ck_assert(from >= offset && from - offset + reply.length <= length);
        rig_receive(rig, fd, data + (from - offset), reply.length);
        covered += reply.length;
        if (chunks)
            (*chunks)++;
    } while (!(reply.flags & NBD_REPLY_FLAG_DONE));
    ck_assert_uint_eq(covered, length);
    return 0;
}

uint32_t rig_read(struct rig *rig, int fd, bool structured, uint64_t offset, uint32_t length,
                  uint8_t *data)
{
    struct rig_reply reply;

    rig_send_request(rig, fd, NBD_CMD_READ, 0, offset ^ 0xabcdef, offset, length);
    if (structured)
        return rig_read_chunks(rig, fd, offset ^ 0xabcdef, offset, length, data, NULL);
    reply = rig_reply(rig, fd);
    ck_assert_uint_eq(reply.cookie, offset ^ 0xabcdef);
    if (!reply.error)
        rig_receive(rig, fd, data, length);
    return reply.error;
}

uint32_t rig_write(struct rig *rig, int fd, uint64_t offset, uint32_t length, const uint8_t *data)
{
    struct rig_reply reply;

    rig_send_request(rig, fd, NBD_CMD_WRITE, 0, offset, offset, length);
    rig_send(rig, fd, data, length);
    reply = rig_reply(rig, fd);
    ck_assert_uint_eq(reply.cookie, offset);
    return reply.structured ? receive_error(rig, fd, &reply) : reply.error;
}
