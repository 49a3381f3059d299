/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * An iSCSI target in threads of the test: one listens, one serves each connection.
 */
#include "tests/unit/iscsi_fake.h"

#include <arpa/inet.h>
#include <assert.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 1024, MAX_RULES = 32, MAX_ISIDS = 256, ANSWER_BYTES = 1 << 20 };

struct fake {
    pthread_mutex_t lock;
    struct fake_options options;
    char serial[32];
    uint64_t size_bytes;
    struct fake_rule rules[MAX_RULES];
    unsigned rule_count;
    unsigned counts[0x200];
    uint64_t isids[MAX_ISIDS];
    unsigned isid_count;
    uint8_t *bytes;
    uint8_t *mapped; /* of each block */
    int listener;
    char uri[64];
    pthread_t thread;
    pthread_t threads[MAX_CONNECTIONS];
    int sockets[MAX_CONNECTIONS];
    unsigned connection_count;
    bool ending;
};

struct connection {
    struct fake *fake;
    unsigned index;
    int fd;
    uint32_t stat_sn, exp_cmd_sn;
    uint32_t cut; /* bytes that may still be sent, UINT32_MAX: all */
    uint8_t header[48];
    uint8_t *data; /* what came with the PDU */
    uint32_t data_bytes;
};

static void put16(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}
static void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v);
}
static void put64(uint8_t *p, uint64_t v)
{
    put32(p, (uint32_t)(v >> 32));
    put32(p + 4, (uint32_t)v);
}
static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}
static uint64_t get64(const uint8_t *p)
{
    return (uint64_t)get32(p) << 32 | get32(p + 4);
}

static bool receive(int fd, void *to, size_t length)
{
    return length == 0 || recv(fd, to, length, MSG_WAITALL) == (ssize_t)length;
}

/* Sends, up to where the connection is to be cut. */
static bool transmit(struct connection *c, const void *from, size_t length)
{
    size_t now = length < c->cut ? length : c->cut;
    const uint8_t *bytes = from;
    if (c->cut != UINT32_MAX)
        c->cut -= (uint32_t)now;
    while (now > 0) {
        ssize_t sent = send(c->fd, bytes, now, MSG_NOSIGNAL);
        if (sent <= 0)
            return false;
        bytes += sent;
        now -= (size_t)sent;
        length -= (size_t)sent;
    }
    return length == 0;
}

static bool send_pdu(struct connection *c, uint8_t *header, const void *data, uint32_t length)
{
    static const uint8_t padding[4];
    uint32_t window = c->fake->options.window ? c->fake->options.window : 32;
    memcpy(header + 16, c->header + 16, 4);
    put32(header + 4, length);
    put32(header + 28, c->exp_cmd_sn);
    put32(header + 32, c->exp_cmd_sn + window - 1);
    return transmit(c, header, 48) && transmit(c, data, length) &&
           transmit(c, padding, -length & 3);
}

static bool receive_pdu(struct connection *c)
{
    if (!receive(c->fd, c->header, 48))
        return false;
    c->data_bytes = get32(c->header + 4) & 0xffffff;
    free(c->data);
    c->data = calloc(1, c->data_bytes + 4);
    return receive(c->fd, c->data, (c->data_bytes + 3) & ~3u);
}

/* The rule that holds for this one, used up by it. */
static bool take_rule(struct fake *fake, int opcode, uint8_t cdb1, struct fake_rule *rule)
{
    pthread_mutex_lock(&fake->lock);
    fake->counts[opcode]++;
    bool found = false;
    for (unsigned i = 0; i < fake->rule_count && !found; i++) {
        struct fake_rule *each = &fake->rules[i];
        if (each->opcode != opcode || (each->cdb1 & cdb1) != each->cdb1 || each->count == 0)
            continue;
        each->count -= each->count > 0;
        *rule = *each;
        found = true;
    }
    pthread_mutex_unlock(&fake->lock);
    return found;
}

static bool log_in(struct connection *c)
{
    static const char security[] = "AuthMethod=None\0TargetPortalGroupTag=1";
    static const char operational[] = "HeaderDigest=None\0DataDigest=None\0InitialR2T="
                                      "Yes\0ImmediateData=Yes\0MaxBurstLength=262144\0"
                                      "FirstBurstLength=65536\0MaxRecvDataSegmentLength="
                                      "262144\0MaxOutstandingR2T=1\0MaxConnections=1";
    uint8_t stage = c->header[1] >> 2 & 3;
    uint8_t header[48] = {0x23, c->header[1]};
    struct fake_rule rule;
    if (take_rule(c->fake, FAKE_LOGIN, 0, &rule))
        c->cut = rule.bytes;
    memcpy(header + 8, c->header + 8, 6);
    put16(header + 14, stage == 1 ? 1 : 0);
    put32(header + 24, c->stat_sn++);
    c->exp_cmd_sn = get32(c->header + 24);
    if (stage == 0)
        return send_pdu(c, header, security, sizeof security);
    pthread_mutex_lock(&c->fake->lock);
    if (c->fake->isid_count < MAX_ISIDS)
        c->fake->isids[c->fake->isid_count++] = get64(c->header + 8) >> 16;
    pthread_mutex_unlock(&c->fake->lock);
    return send_pdu(c, header, operational, sizeof operational);
}

static bool answer_status(struct connection *c, uint8_t status, uint32_t sense, bool is_short)
{
    uint8_t header[48] = {0x21, 0x80, 0, status};
    uint8_t data[20] = {0,
                        18,
                        0x70,
                        0,
                        (uint8_t)(sense >> 16),
                        [9] = 10,
                        [14] = (uint8_t)(sense >> 8),
                        (uint8_t)sense};
    if (is_short) {
        header[1] |= 0x02;
        put32(header + 44, 512);
    }
    put32(header + 24, c->stat_sn++);
    return send_pdu(c, header, data, status == 2 ? sizeof data : 0);
}

static bool answer_data(struct connection *c, const uint8_t *data, uint32_t length, uint32_t wanted)
{
    uint32_t sn = 0, at = 0;
    if (length > wanted)
        length = wanted;
    do {
        uint32_t piece = length - at < 65536 ? length - at : 65536;
        uint8_t header[48] = {0x25};
        put32(header + 20, 0xffffffff);
        put32(header + 36, sn++);
        put32(header + 40, at);
        if (at + piece == length) {
            header[1] = 0x81;
            put32(header + 24, c->stat_sn++);
            if (length < wanted) {
                header[1] |= 0x02;
                put32(header + 44, wanted - length);
            }
        }
        if (!send_pdu(c, header, data + at, piece))
            return false;
        at += piece;
    } while (at < length);
    return true;
}

/* The data of a write: what came with the command and what is asked for. */
static uint8_t *collect(struct connection *c, uint32_t expected)
{
    uint8_t command[48], *data = calloc(1, expected + 1);
    uint32_t have = c->data_bytes;
    memcpy(command, c->header, 48);
    memcpy(data, c->data, have < expected ? have : expected);
    while (have < expected) {
        uint32_t piece = expected - have < 262144 ? expected - have : 262144;
        uint8_t r2t[48] = {0x31, 0x80};
        memcpy(c->header, command, 48);
        put32(r2t + 20, 1);
        put32(r2t + 24, c->stat_sn);
        put32(r2t + 40, have);
        put32(r2t + 44, piece);
        if (!send_pdu(c, r2t, NULL, 0))
            goto fail;
        for (uint32_t end = have + piece; have < end; have += c->data_bytes) {
            if (!receive_pdu(c) || (c->header[0] & 0x3f) != 5 || c->data_bytes > end - have)
                goto fail;
            memcpy(data + have, c->data, c->data_bytes);
        }
    }
    memcpy(c->header, command, 48);
    return data;
fail:
    free(data);
    return NULL;
}

static uint32_t inquire(struct fake *fake, const uint8_t *cdb, uint8_t *answer)
{
    const struct fake_options *o = &fake->options;
    if (!(cdb[1] & 1)) {
        memset(answer, ' ', 36);
        answer[0] = answer[1] = 0;
        return 36;
    }
    answer[1] = cdb[2];
    size_t length = strlen(fake->serial);
    switch (cdb[2]) {
    case 0x80:
        memcpy(answer + 4, fake->serial, length);
        answer[3] = (uint8_t)length;
        return 4 + (uint32_t)length;
    case 0x83:
        put32(answer + 4, 0x01030008);
        memset(answer + 8, 0x60, 8);
        answer[3] = 12;
        return 16;
    case 0xb0:
        answer[3] = 60;
        return 64;
    case 0xb2:
        answer[3] = 4;
        answer[5] = (uint8_t)(o->unmap << 7 | o->ws_unmap << 6);
        return 8;
    default:
        return 0;
    }
}

static void set_blocks(struct fake *fake, uint64_t lba, uint64_t count, bool mapped)
{
    memset(fake->mapped + lba, mapped, count);
    if (!mapped)
        memset(fake->bytes + lba * FAKE_BLOCK, fake->options.zeroes ? 0 : 0xee, count * FAKE_BLOCK);
}

static uint32_t allocation(struct fake *fake, uint64_t lba, uint8_t *answer)
{
    uint64_t end = lba, blocks = fake->size_bytes / FAKE_BLOCK;
    while (end < blocks && fake->mapped[end] == fake->mapped[lba])
        end++;
    put32(answer, 20);
    put64(answer + 8, lba);
    put32(answer + 16, (uint32_t)(end - lba));
    answer[20] = !fake->mapped[lba];
    return 24;
}

/* Carries a command out. The answer's length, or -1: ILLEGAL REQUEST. */
static int64_t carry_out(struct fake *fake, const uint8_t *cdb, const uint8_t *data,
                         uint8_t *answer)
{
    uint64_t lba = get64(cdb + 2);
    uint32_t blocks = get32(cdb + 10);
    switch (cdb[0]) {
    case 0x00:
    case 0x91:
        return 0;
    case 0x12:
        blocks = inquire(fake, cdb, answer);
        return blocks ? (int64_t)blocks : -1;
    case 0x1a:
        answer[0] = 23;
        answer[2] = 0x10;
        answer[4] = 8;
        answer[5] = 18;
        answer[6] = fake->options.no_write_cache ? 0 : 4;
        return 24;
    case 0x9e:
        if ((cdb[1] & 0x1f) == 0x12)
            return fake->options.thin ? (int64_t)allocation(fake, lba, answer) : -1;
        put64(answer, fake->size_bytes / FAKE_BLOCK - 1);
        put32(answer + 8, FAKE_BLOCK);
        answer[14] = (uint8_t)(fake->options.thin << 7 | fake->options.zeroes << 6);
        return 32;
    case 0x88:
        memcpy(answer, fake->bytes + lba * FAKE_BLOCK, (size_t)blocks * FAKE_BLOCK);
        return (int64_t)blocks * FAKE_BLOCK;
    case 0x8a:
        memcpy(fake->bytes + lba * FAKE_BLOCK, data, (size_t)blocks * FAKE_BLOCK);
        set_blocks(fake, lba, blocks, true);
        return 0;
    case 0x93:
        set_blocks(fake, lba, blocks, !(cdb[1] & 8));
        for (uint32_t i = 0; i < blocks; i++)
            memcpy(fake->bytes + (lba + i) * FAKE_BLOCK, data, FAKE_BLOCK);
        return 0;
    case 0x42:
        set_blocks(fake, get64(data + 8), get32(data + 16), false);
        return 0;
    default:
        return -1;
    }
}

static bool serve_command(struct connection *c)
{
    struct fake *fake = c->fake;
    const uint8_t *cdb = c->header + 32;
    uint32_t expected = get32(c->header + 20);
    bool reads = c->header[1] & 0x40, writes = c->header[1] & 0x20;
    struct fake_rule rule = {.action = (enum fake_action) - 1};
    bool ruled = take_rule(fake, cdb[0], cdb[1], &rule);
    c->exp_cmd_sn = get32(c->header + 24) + 1;
    uint8_t *data = writes ? collect(c, expected) : NULL;
    if (writes && !data)
        return false;
    if (ruled && rule.action == FAKE_CUT)
        c->cut = rule.bytes;
    bool good = true;
    uint8_t *answer = calloc(1, ANSWER_BYTES + 1);
    if (ruled && rule.action == FAKE_STATUS) {
        good = answer_status(c, rule.status, rule.sense, false);
    } else if (ruled && rule.action == FAKE_GARBAGE) {
        memset(answer, rule.status, 48);
        good = transmit(c, answer, 48);
    } else {
        pthread_mutex_lock(&fake->lock);
        int64_t length = carry_out(fake, cdb, data, answer);
        pthread_mutex_unlock(&fake->lock);
        if (ruled && rule.action == FAKE_MUTE)
            good = true;
        else if (ruled && rule.action == FAKE_SHORT)
            good = reads ? answer_data(c, answer, (uint32_t)length - 512, expected)
                         : answer_status(c, 0, 0, true);
        else if (length < 0)
            good = answer_status(c, 2, 0x052000, false);
        else if (length > 0)
            good = answer_data(c, answer, (uint32_t)length, expected);
        else
            good = answer_status(c, 0, 0, false);
    }
    free(answer);
    free(data);
    return good && c->cut != 0;
}

static bool serve_pdu(struct connection *c)
{
    struct fake_rule rule;
    uint8_t header[48] = {0};
    switch (c->header[0] & 0x3f) {
    case 0x00:
        if (take_rule(c->fake, FAKE_NOP, 0, &rule))
            return true;
        header[0] = 0x20;
        header[1] = 0x80;
        put32(header + 20, 0xffffffff);
        put32(header + 24, c->stat_sn++);
        return send_pdu(c, header, NULL, 0);
    case 0x01:
        return serve_command(c);
    case 0x03:
        return log_in(c);
    case 0x06:
        header[0] = 0x26;
        header[1] = 0x80;
        put32(header + 24, c->stat_sn++);
        return send_pdu(c, header, NULL, 0);
    default:
        return false;
    }
}

static void *serve(void *user)
{
    struct connection *c = user;
    while (receive_pdu(c) && serve_pdu(c))
        ;
    pthread_mutex_lock(&c->fake->lock);
    c->fake->sockets[c->index] = -1;
    close(c->fd);
    pthread_mutex_unlock(&c->fake->lock);
    free(c->data);
    free(c);
    return NULL;
}

static void *listen_on(void *user)
{
    struct fake *fake = user;
    for (;;) {
        int fd = accept(fake->listener, NULL, NULL);
        pthread_mutex_lock(&fake->lock);
        bool ending = fake->ending || fd < 0;
        if (!ending) {
            int one = 1;
            unsigned index = fake->connection_count++;
            assert(index < MAX_CONNECTIONS);
            struct connection *c = calloc(1, sizeof *c);
            *c = (struct connection){.fake = fake, .index = index, .fd = fd, .cut = UINT32_MAX};
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            fake->sockets[index] = fd;
            pthread_create(&fake->threads[index], NULL, serve, c);
        } else if (fd >= 0) {
            close(fd);
        }
        pthread_mutex_unlock(&fake->lock);
        if (ending)
            return NULL;
    }
}

struct fake *fake_new(const struct fake_options *options)
{
    struct fake *fake = calloc(1, sizeof *fake);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    pthread_mutex_init(&fake->lock, NULL);
    fake->options = *options;
    snprintf(fake->serial, sizeof fake->serial, "%s", options->serial ? options->serial : "fake");
    fake->size_bytes = FAKE_BYTES;
    fake->bytes = calloc(1, FAKE_BYTES);
    fake->mapped = calloc(1, FAKE_BYTES / FAKE_BLOCK + 1);
    fake->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(fake->listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(fake->listener, 64) != 0 ||
        getsockname(fake->listener, (struct sockaddr *)&address, &length) != 0)
        abort();
    snprintf(fake->uri, sizeof fake->uri, "iscsi://127.0.0.1:%u/iqn.fake/0",
             ntohs(address.sin_port));
    pthread_create(&fake->thread, NULL, listen_on, fake);
    return fake;
}

void fake_free(struct fake *fake)
{
    pthread_mutex_lock(&fake->lock);
    fake->ending = true;
    for (unsigned i = 0; i < fake->connection_count; i++)
        if (fake->sockets[i] >= 0)
            shutdown(fake->sockets[i], SHUT_RDWR);
    pthread_mutex_unlock(&fake->lock);
    shutdown(fake->listener, SHUT_RDWR);
    pthread_join(fake->thread, NULL);
    close(fake->listener);
    for (unsigned i = 0; i < fake->connection_count; i++)
        pthread_join(fake->threads[i], NULL);
    free(fake->bytes);
    free(fake->mapped);
    free(fake);
}

const char *fake_uri(struct fake *fake)
{
    return fake->uri;
}

void fake_rule(struct fake *fake, struct fake_rule rule)
{
    pthread_mutex_lock(&fake->lock);
    assert(fake->rule_count < MAX_RULES);
    fake->rules[fake->rule_count++] = rule;
    pthread_mutex_unlock(&fake->lock);
}

void fake_forget(struct fake *fake)
{
    pthread_mutex_lock(&fake->lock);
    fake->rule_count = 0;
    pthread_mutex_unlock(&fake->lock);
}

void fake_resize(struct fake *fake, uint64_t bytes)
{
    pthread_mutex_lock(&fake->lock);
    fake->size_bytes = bytes;
    pthread_mutex_unlock(&fake->lock);
}

void fake_rename(struct fake *fake, const char *serial)
{
    pthread_mutex_lock(&fake->lock);
    snprintf(fake->serial, sizeof fake->serial, "%s", serial);
    pthread_mutex_unlock(&fake->lock);
}

unsigned fake_count(struct fake *fake, int opcode)
{
    pthread_mutex_lock(&fake->lock);
    unsigned count = fake->counts[opcode];
    pthread_mutex_unlock(&fake->lock);
    return count;
}

uint64_t fake_isid(struct fake *fake, unsigned login)
{
    pthread_mutex_lock(&fake->lock);
    uint64_t isid = login < fake->isid_count ? fake->isids[login] : 0;
    pthread_mutex_unlock(&fake->lock);
    return isid;
}

uint8_t *fake_bytes(struct fake *fake)
{
    return fake->bytes;
}
