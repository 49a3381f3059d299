/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Does to one image what it is told, line by line, so that a shell test can break the server in
 * between.
 *
 *   disk_probe [--timeout-ms N] [--sessions N] [--read-only] stat URI      what the place says
 *   disk_probe [...] run URI                                               commands from stdin
 *
 * Commands: write|read OFFSET LENGTH BYTE (read compares), zero|unmap|discard OFFSET LENGTH, flush,
 * extents OFFSET LENGTH, describe, caps, fence. A write with "!" before its name is REPLAYABLE.
 * Each prints "NAME RESULT MILLISECONDS": "ok" or an errno's name; extents prints one line for each
 * before that. While it waits for a command the loop runs. The secret is taken from
 * BLOCKMIG_SECRET. A failed open prints "error KIND: MESSAGE" and exits 1.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "backends/backends.h"
#include "blockmig/core/disk.h"

static struct bmig_loop *loop;
static struct bmig_disk *disk;

static uint64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static int failed(const struct bmig_error *err)
{
    printf("error %s: %s\n", bmig_error_kind_name(err->kind), err->message);
    return 1;
}

static void put(void *user, const char *key, const char *value)
{
    printf("%s: %s\n", key, value);
}

static void answer(const char *name, int status, uint64_t since_ms)
{
    printf("%s %s %" PRIu64 "\n", name, status ? strerrorname_np(-status) : "ok",
           now_ms() - since_ms);
    fflush(stdout);
}

static int run_extents(uint64_t offset, uint64_t length)
{
    uint64_t end = offset + length;
    while (offset < end) {
        struct bmig_extent list[64];
        struct bmig_extents extents = {.list = list, .capacity = 64};
        struct bmig_request request = {
            .op = BMIG_EXTENTS, .offset = offset, .length = end - offset, .extents = &extents};
        int status = bmig_disk_run(disk, &request);
        if (status)
            return status;
        for (uint32_t i = 0; i < extents.count; i++) {
            printf("%" PRIu64 " %" PRIu64 "%s%s\n", offset, list[i].length_bytes,
                   list[i].flags & BMIG_EXTENT_HOLE ? " hole" : "",
                   list[i].flags & BMIG_EXTENT_ZERO ? " zero" : "");
            offset += list[i].length_bytes;
        }
    }
    return 0;
}

static int run_data(enum bmig_op op, uint32_t flags, uint64_t offset, uint64_t length, int byte)
{
    uint8_t *data = malloc(length);
    if (!data)
        return -ENOMEM;
    memset(data, op == BMIG_WRITE ? byte : ~byte, length);
    struct bmig_request request = {
        .op = op, .flags = flags, .offset = offset, .length = length, .data = data};
    int status = bmig_disk_run(disk, &request);
    for (uint64_t i = 0; status == 0 && i < length; i++)
        if (data[i] != (uint8_t)byte)
            status = -EILSEQ; /* not what was expected */
    free(data);
    return status;
}

static void fenced(struct bmig_disk *which, void *user)
{
    *(bool *)user = true;
}

static int run_fence(void)
{
    bool done = false;
    bmig_disk_fence(disk, fenced, &done);
    while (!done)
        bmig_loop_step(loop, UINT64_MAX);
    return 0;
}

static int run_other(enum bmig_op op, uint32_t flags, uint64_t offset, uint64_t length)
{
    struct bmig_request request = {.op = op, .flags = flags, .offset = offset, .length = length};
    return bmig_disk_run(disk, &request);
}

static void command(char *line)
{
    char name[32] = "";
    uint64_t offset = 0, length = 0, since = now_ms();
    int byte = 0;
    uint32_t flags = line[0] == '!' ? BMIG_REPLAYABLE : 0;
    sscanf(line + (line[0] == '!'), "%31s %" SCNu64 " %" SCNu64 " %i", name, &offset, &length,
           &byte);
    if (strcmp(name, "write") == 0)
        answer(name, run_data(BMIG_WRITE, flags, offset, length, byte), since);
    else if (strcmp(name, "read") == 0)
        answer(name, run_data(BMIG_READ, 0, offset, length, byte), since);
    else if (strcmp(name, "zero") == 0)
        answer(name, run_other(BMIG_ZERO, 0, offset, length), since);
    else if (strcmp(name, "unmap") == 0)
        answer(name, run_other(BMIG_ZERO, BMIG_MAY_UNMAP, offset, length), since);
    else if (strcmp(name, "discard") == 0)
        answer(name, run_other(BMIG_DISCARD, 0, offset, length), since);
    else if (strcmp(name, "flush") == 0)
        answer(name, run_other(BMIG_FLUSH, 0, 0, 0), since);
    else if (strcmp(name, "extents") == 0)
        answer(name, run_extents(offset, length), since);
    else if (strcmp(name, "fence") == 0)
        answer(name, run_fence(), since);
    else if (strcmp(name, "describe") == 0)
        bmig_disk_describe(disk, put, NULL), answer(name, 0, since);
    else if (strcmp(name, "caps") == 0)
        printf("caps 0x%x size %" PRIu64 " known_zero %d\n", disk->caps, disk->size_bytes,
               disk->known_zero),
            answer(name, 0, since);
    else
        answer(name, -EINVAL, since);
}

/* Bytes are read one by one: what is buffered by stdio can't be polled for. */
static bool next_line(char *line, size_t capacity)
{
    size_t used = 0;
    for (;;) {
        struct pollfd fd = {.fd = STDIN_FILENO, .events = POLLIN};
        if (poll(&fd, 1, 0) == 0) {
            bmig_loop_step(loop, 20 * 1000000);
            continue;
        }
        char c;
        if (read(STDIN_FILENO, &c, 1) <= 0)
            return false;
        if (c == '\n')
            break;
        if (used + 1 < capacity)
            line[used++] = c;
    }
    line[used] = 0;
    return true;
}

static int run(const struct bmig_driver *driver, const struct bmig_uri *uri,
               const struct bmig_open_options *options, struct bmig_error *err)
{
    if (bmig_disk_open(&disk, driver, NULL, uri, options, err) != 0)
        return failed(err);
    if (bmig_loop_new(&loop, BMIG_LOOP_AUTO, err) != 0 || bmig_disk_attach(disk, loop, err) != 0)
        return failed(err);
    printf("ready\n");
    fflush(stdout);
    char line[256];
    while (next_line(line, sizeof line))
        command(line);
    while (!bmig_disk_idle(disk))
        bmig_loop_step(loop, UINT64_MAX);
    bmig_disk_detach(disk);
    while (bmig_loop_outstanding(loop))
        bmig_loop_step(loop, UINT64_MAX);
    bmig_disk_close(disk);
    bmig_loop_free(loop);
    return 0;
}

static int look(const struct bmig_driver *driver, const struct bmig_uri *uri,
                const struct bmig_open_options *options, struct bmig_error *err)
{
    struct bmig_place_stat stat;
    if (driver->stat(uri, options, &stat, err) != 0)
        return failed(err);
    printf("exists %d size %" PRIu64 " fixed %d known_zero %d identity %s\n", stat.exists,
           stat.size_bytes, stat.fixed, stat.known_zero, stat.identity);
    return 0;
}

int main(int argc, char **argv)
{
    struct bmig_open_options options = {.writable = true, .secret = getenv("BLOCKMIG_SECRET")};
    struct bmig_error err = {0};
    struct bmig_uri uri;
    int i = 1;
    for (; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
        if (strcmp(argv[i], "--read-only") == 0)
            options.writable = false;
        else if (strcmp(argv[i], "--timeout-ms") == 0 && i + 1 < argc)
            options.timeout_ns = strtoull(argv[++i], NULL, 10) * 1000000;
        else if (strcmp(argv[i], "--sessions") == 0 && i + 1 < argc)
            options.sessions = (uint32_t)strtoul(argv[++i], NULL, 10);
        else
            return 2;
    }
    if (argc - i != 2)
        return 2;
    if (bmig_uri_parse(&uri, argv[i + 1], &err) != 0)
        return failed(&err);
    const struct bmig_driver *driver = bmig_backend_find(uri.scheme);
    if (!driver || !driver->stat)
        return 2;
    int rc = strcmp(argv[i], "stat") == 0  ? look(driver, &uri, &options, &err)
             : strcmp(argv[i], "run") == 0 ? run(driver, &uri, &options, &err)
                                           : 2;
    bmig_uri_fini(&uri);
    return rc;
}
