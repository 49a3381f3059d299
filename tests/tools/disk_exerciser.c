/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Runs seeded random requests against any image at a queue depth, next to a model of its bytes,
 * then reads everything again through a fresh open: the two must agree.
 *
 *   disk_exerciser IMAGE [options]          prints one line, exits 0 where all agreed, else 1
 *     --format F --filters "..."  as for the product     --seed N      (1)
 *     --ops N         random requests (2000)              --depth N     (16)
 *     --sessions N    connections (the driver's choice)   --max-io SIZE of one request (256K)
 *     --size SIZE     use only the first SIZE bytes       --align SIZE  of offsets and lengths
 * (512)
 *     --timeout-ms N  of the open options (30000)         --fill        write all of it first
 *     --replayable    mark writes REPLAYABLE, and on a failed FLUSH write everything since the last
 * good one again
 *     --no-discard    DISCARD leaves bytes undefined, so a caller that compares files leaves it out
 *     --pace-us N     at least so long between two submissions: room for a test to kill a server in
 *     --exclusive     take the lock
 *     --dump FILE     write the model there at the end
 *     --describe      print what the disk says of itself before it is closed the first time
 *     --create SIZE   make the image first                --remove      remove it at the end
 *     --bench OP      instead: sequential read|write of --size bytes in --max-io requests; prints
 * MB/s
 *
 * Requests that are in flight together never overlap, as the contract of the disk asks of its
 * callers.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "blockmig/core/disk.h"
#include "blockmig/core/units.h"
#include "blockmig/stack/image.h"

enum { MAX_DEPTH = 256 };

struct slot {
    struct bmig_request request;
    uint8_t *buffer;
    bool busy;
};

static struct {
    const char *uri, *format, *filters, *dump, *bench;
    uint64_t seed, ops, depth, sessions, size, max_io, align, timeout_ms, pace_us, create;
    bool describe, remove, fill, replayable, discard, exclusive;
} options = {.seed = 1,
             .ops = 2000,
             .depth = 16,
             .max_io = 256 << 10,
             .align = 512,
             .discard = true,
             .timeout_ms = 30000};

static struct bmig_loop *loop;
static struct bmig_disk *disk;
static uint64_t size_bytes;
static uint8_t *model;   /* what the bytes are */
static uint8_t *unknown; /* 1: a DISCARD made them undefined */
/* 1: written since the last good FLUSH; only with --replayable, and then it may be lost until
 * written again. */
static uint8_t *pending;
static struct slot slots[MAX_DEPTH];
static uint64_t busy, failed_flushes, counts[BMIG_OP_COUNT];
static bool flush_failed, failed;

static void fail(const char *what, uint64_t offset, int status)
{
    if (!failed)
        printf("FAIL %s at %" PRIu64 ": %s\n", what, offset,
               status ? strerror(-status) : "wrong bytes");
    failed = true;
}

static uint64_t random_u64(void)
{
    static uint64_t state;
    if (!state)
        state = options.seed * 0x9E3779B97F4A7C15u + 1;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state * 0x2545F4914F6CDD1Du;
}

static void check_bytes(uint64_t offset, uint64_t length, const uint8_t *data)
{
    if (memcmp(data, model + offset, length) == 0)
        return;
    for (uint64_t i = 0; i < length; i++) {
        if (data[i] != model[offset + i] && !unknown[offset + i] && !pending[offset + i]) {
            fail("READ", offset + i, 0);
            return;
        }
    }
}

static void slot_done(struct bmig_request *request, int status)
{
    struct slot *slot = request->user;
    slot->busy = false;
    busy--;
    if (request->op == BMIG_FLUSH && status != 0 && options.replayable) {
        flush_failed = true;
        failed_flushes++;
    } else if (status != 0) {
        fail(request->op == BMIG_FLUSH  ? "FLUSH"
             : request->op == BMIG_READ ? "READ"
                                        : "WRITE",
             request->offset, status);
    } else if (request->op == BMIG_READ && !options.bench) {
        check_bytes(request->offset, request->length, slot->buffer);
    }
}

static void wait_until(uint64_t limit)
{
    while (busy > limit)
        bmig_loop_step(loop, UINT64_MAX);
}

static bool overlaps(uint64_t offset, uint64_t length)
{
    for (uint64_t i = 0; i < options.depth; i++) {
        const struct bmig_request *other = &slots[i].request;
        if (slots[i].busy && offset < other->offset + other->length &&
            other->offset < offset + length)
            return true;
    }
    return false;
}

static struct slot *free_slot(void)
{
    wait_until(options.depth - 1);
    for (uint64_t i = 0;; i++)
        if (!slots[i].busy)
            return &slots[i];
}

static void submit(struct slot *slot, enum bmig_op op, uint64_t offset, uint64_t length,
                   uint32_t flags)
{
    slot->request =
        (struct bmig_request){.op = op, .flags = flags, .offset = offset, .length = length};
    slot->request.data = op == BMIG_READ || op == BMIG_WRITE ? slot->buffer : NULL;
    slot->request.done = slot_done;
    slot->request.user = slot;
    slot->busy = true;
    busy++;
    counts[op]++;
    bmig_disk_submit(disk, &slot->request);
}

static void write_model(struct slot *slot, uint64_t offset, uint64_t length, uint32_t flags)
{
    memcpy(slot->buffer, model + offset, length);
    memset(unknown + offset, 0, length);
    if (options.replayable)
        memset(pending + offset, 1, length);
    submit(slot, BMIG_WRITE, offset, length, flags | (options.replayable ? BMIG_REPLAYABLE : 0));
}

static void fill_random(uint64_t offset, uint64_t length)
{
    uint64_t value = random_u64();
    for (uint64_t i = 0; i < length; i++)
        model[offset + i] = (uint8_t)(value >> (i % 8 * 8)) ^ (uint8_t)(i >> 3);
}

static void pace(void)
{
    struct timespec now;
    if (!options.pace_us)
        return;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t until = (uint64_t)now.tv_sec * 1000000000 + now.tv_nsec + options.pace_us * 1000;
    for (;;) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        uint64_t at = (uint64_t)now.tv_sec * 1000000000 + now.tv_nsec;
        if (at >= until)
            return;
        bmig_loop_step(loop, until - at);
    }
}

/* What a caller of REPLAYABLE writes owes: all since the last good FLUSH again, until a FLUSH is
 * good. */
static void replay(void)
{
    for (int tries = 0; tries < 20; tries++) {
        wait_until(0);
        flush_failed = false;
        for (uint64_t at = 0; at < size_bytes;) {
            uint64_t end = at;
            while (end < size_bytes && pending[end] && end - at < options.max_io)
                end++;
            if (end > at) {
                write_model(free_slot(), at, end - at, 0);
                at = end;
            } else {
                at++;
            }
        }
        wait_until(0);
        submit(free_slot(), BMIG_FLUSH, 0, 0, 0);
        wait_until(0);
        if (!flush_failed) {
            memset(pending, 0, size_bytes);
            return;
        }
    }
    fail("FLUSH after writing again", 0, -EIO);
}

static void flush_all(void)
{
    wait_until(0);
    submit(free_slot(), BMIG_FLUSH, 0, 0, 0);
    wait_until(0);
    if (flush_failed)
        replay();
    else if (options.replayable)
        memset(pending, 0, size_bytes);
}

static void random_request(void)
{
    uint64_t units = size_bytes / options.align;
    uint64_t most = options.max_io / options.align;
    uint64_t offset, length, tries = 0;
    uint64_t dice = random_u64() % 100;
    struct slot *slot = free_slot();
    if (dice >= 98) {
        if (options.replayable)
            flush_all(); /* which writes are covered must be known */
        else
            submit(slot, BMIG_FLUSH, 0, 0, 0);
        return;
    }
    do {
        uint64_t want =
            random_u64() % 4 ? 1 + random_u64() % (most < 32 ? most : 32) : 1 + random_u64() % most;
        offset = random_u64() % units * options.align;
        length = want * options.align;
        if (length > size_bytes - offset)
            length = size_bytes - offset;
        if (random_u64() % 16 == 0)
            length = size_bytes - offset < options.max_io ? size_bytes - offset
                                                          : length; /* the tail, whole */
        if (++tries > 50)
            wait_until(0);
    } while (overlaps(offset, length));
    if (dice < 40) {
        submit(slot, BMIG_READ, offset, length, 0);
    } else if (dice < 85 || (dice >= 95 && !options.discard)) {
        fill_random(offset, length);
        write_model(slot, offset, length, random_u64() % 32 == 0 ? BMIG_FUA : 0);
    } else if (dice < 95) {
        memset(model + offset, 0, length);
        memset(unknown + offset, 0, length);
        if (options.replayable)
            memset(pending + offset, 1, length);
        submit(slot, BMIG_ZERO, offset, length,
               (random_u64() % 2 ? BMIG_MAY_UNMAP : 0) |
                   (options.replayable ? BMIG_REPLAYABLE : 0));
    } else {
        memset(unknown + offset, 1, length);
        if (options.replayable)
            memset(pending + offset, 0, length);
        submit(slot, BMIG_DISCARD, offset, length, 0);
    }
}

static void read_all(void)
{
    for (uint64_t at = 0; at < size_bytes && !failed; at += options.max_io) {
        uint64_t length = size_bytes - at < options.max_io ? size_bytes - at : options.max_io;
        submit(free_slot(), BMIG_READ, at, length, 0);
    }
    wait_until(0);
}

static void open_disk(bool writable)
{
    struct bmig_error err = {0};
    struct bmig_image_spec spec = {
        .uri = options.uri, .format = options.format, .filters = options.filters};
    struct bmig_open_options open = {.writable = writable,
                                     .exclusive = options.exclusive && writable,
                                     .sessions = (uint32_t)options.sessions,
                                     .timeout_ns = options.timeout_ms * 1000000};
    if (bmig_image_open(&disk, &spec, &open, &err) != 0 ||
        bmig_disk_attach(disk, loop, &err) != 0) {
        printf("FAIL open: %s\n", err.message);
        exit((int)err.kind);
    }
}

static void close_disk(void)
{
    while (!bmig_disk_idle(disk))
        bmig_loop_step(loop, UINT64_MAX);
    bmig_disk_detach(disk);
    bmig_disk_close(disk);
}

static void bench(void)
{
    struct timespec begin, end;
    enum bmig_op op = strcmp(options.bench, "read") == 0 ? BMIG_READ : BMIG_WRITE;
    for (uint64_t i = 0; i < options.depth; i++)
        memset(slots[i].buffer, (int)i + 1, options.max_io);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (uint64_t at = 0; at < size_bytes && !failed; at += options.max_io) {
        uint64_t length = size_bytes - at < options.max_io ? size_bytes - at : options.max_io;
        submit(free_slot(), op, at, length, options.replayable ? BMIG_REPLAYABLE : 0);
    }
    wait_until(0);
    clock_gettime(CLOCK_MONOTONIC, &end);
    double seconds =
        (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9;
    printf("%s %" PRIu64 " bytes in %.3f s: %.0f MB/s\n", options.bench, size_bytes, seconds,
           (double)size_bytes / seconds / 1e6);
}

static void print_fact(void *user, const char *key, const char *value)
{
    printf("%s: %s\n", key, value);
}

static void exercise(void)
{
    if (options.fill) {
        fill_random(0, size_bytes);
        for (uint64_t at = 0; at < size_bytes; at += options.max_io)
            write_model(free_slot(), at,
                        size_bytes - at < options.max_io ? size_bytes - at : options.max_io, 0);
        wait_until(0);
    } else {
        /* The image is whatever it is: learn it, so that every byte is checked from now on. */
        memset(unknown, 1, size_bytes);
        for (uint64_t at = 0; at < size_bytes && !failed; at += options.max_io) {
            uint64_t length = size_bytes - at < options.max_io ? size_bytes - at : options.max_io;
            struct slot *slot = free_slot();
            submit(slot, BMIG_READ, at, length, 0);
            wait_until(0);
            memcpy(model + at, slot->buffer, length);
        }
        memset(unknown, 0, size_bytes);
    }
    for (uint64_t i = 0; i < options.ops && !failed; i++) {
        random_request();
        if (flush_failed)
            replay();
        pace();
    }
    flush_all();
    read_all();
    if (options.describe)
        bmig_disk_describe(disk, print_fact, NULL);
    close_disk();
    open_disk(false);
    read_all();
}

static uint64_t number(const char *text, const char *what)
{
    struct bmig_error err = {0};
    uint64_t value;
    if (bmig_parse_size(text, what, &value, &err) != 0) {
        fprintf(stderr, "%s\n", err.message);
        exit(2);
    }
    return value;
}

static void parse(int argc, char **argv)
{
    static const struct option words[] = {
        {"format", 1, 0, 'f'},     {"filters", 1, 0, 'F'},   {"seed", 1, 0, 's'},
        {"ops", 1, 0, 'n'},        {"depth", 1, 0, 'd'},     {"sessions", 1, 0, 'c'},
        {"max-io", 1, 0, 'm'},     {"size", 1, 0, 'z'},      {"align", 1, 0, 'a'},
        {"timeout-ms", 1, 0, 't'}, {"pace-us", 1, 0, 'p'},   {"dump", 1, 0, 'o'},
        {"bench", 1, 0, 'b'},      {"fill", 0, 0, 'i'},      {"replayable", 0, 0, 'r'},
        {"no-discard", 0, 0, 'D'}, {"exclusive", 0, 0, 'x'}, {"create", 1, 0, 'C'},
        {"remove", 0, 0, 'R'},     {"describe", 0, 0, 'S'},  {0}};
    int c;
    while ((c = getopt_long(argc, argv, "", words, NULL)) != -1) {
        switch (c) {
        case 'f':
            options.format = optarg;
            break;
        case 'F':
            options.filters = optarg;
            break;
        case 's':
            options.seed = number(optarg, "--seed");
            break;
        case 'n':
            options.ops = number(optarg, "--ops");
            break;
        case 'd':
            options.depth = number(optarg, "--depth");
            break;
        case 'c':
            options.sessions = number(optarg, "--sessions");
            break;
        case 'm':
            options.max_io = number(optarg, "--max-io");
            break;
        case 'z':
            options.size = number(optarg, "--size");
            break;
        case 'a':
            options.align = number(optarg, "--align");
            break;
        case 't':
            options.timeout_ms = number(optarg, "--timeout-ms");
            break;
        case 'p':
            options.pace_us = number(optarg, "--pace-us");
            break;
        case 'o':
            options.dump = optarg;
            break;
        case 'b':
            options.bench = optarg;
            break;
        case 'i':
            options.fill = true;
            break;
        case 'r':
            options.replayable = true;
            break;
        case 'D':
            options.discard = false;
            break;
        case 'x':
            options.exclusive = true;
            break;
        case 'C':
            options.create = number(optarg, "--create");
            break;
        case 'S':
            options.describe = true;
            break;
        case 'R':
            options.remove = true;
            break;
        default:
            exit(2);
        }
    }
    if (optind != argc - 1 || options.depth == 0 || options.depth > MAX_DEPTH ||
        options.align == 0 || options.max_io < options.align) {
        fprintf(stderr, "usage: disk_exerciser IMAGE [options], see the head of its source\n");
        exit(2);
    }
    options.uri = argv[optind];
}

static void dump(void)
{
    FILE *file = fopen(options.dump, "we");
    if (!file || fwrite(model, 1, size_bytes, file) != size_bytes || fclose(file) != 0) {
        perror(options.dump);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    struct bmig_error err = {0};
    setvbuf(stdout, NULL, _IOLBF, 0);
    parse(argc, argv);
    if (bmig_loop_new(&loop, BMIG_LOOP_AUTO, &err) != 0) {
        printf("FAIL loop: %s\n", err.message);
        return 1;
    }
    struct bmig_image_spec spec = {.uri = options.uri, .format = options.format};
    struct bmig_open_options open = {.timeout_ns = options.timeout_ms * 1000000};
    if (options.create && bmig_image_create(&spec, options.create, &open, &err) != 0) {
        printf("FAIL create: %s\n", err.message);
        return (int)err.kind;
    }
    open_disk(!options.bench || strcmp(options.bench, "read") != 0);
    size_bytes = options.size && options.size < disk->size_bytes ? options.size : disk->size_bytes;
    model = calloc(1, size_bytes + 1);
    unknown = calloc(1, size_bytes + 1);
    pending = calloc(1, size_bytes + 1);
    for (uint64_t i = 0; i < options.depth; i++)
        slots[i].buffer = aligned_alloc(4096, (options.max_io + 4095) / 4096 * 4096);
    if (options.bench)
        bench();
    else
        exercise();
    close_disk();
    if (options.dump && !failed)
        dump();
    if (options.remove && bmig_image_remove(&spec, &open, &err) != 0) {
        printf("FAIL remove: %s\n", err.message);
        failed = true;
    }
    if (!failed && !options.bench)
        printf("ok size=%" PRIu64 " seed=%" PRIu64 " read=%" PRIu64 " write=%" PRIu64
               " zero=%" PRIu64 " discard=%" PRIu64 " flush=%" PRIu64 " failed_flushes=%" PRIu64
               "\n",
               size_bytes, options.seed, counts[BMIG_READ], counts[BMIG_WRITE], counts[BMIG_ZERO],
               counts[BMIG_DISCARD], counts[BMIG_FLUSH], failed_flushes);
    for (uint64_t i = 0; i < options.depth; i++)
        free(slots[i].buffer);
    free(model);
    free(unknown);
    free(pending);
    bmig_loop_free(loop);
    return failed;
}
