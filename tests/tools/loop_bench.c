/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * loop_bench FILE KIND read|write DEPTH SECONDS [fixed]: random 4 KiB O_DIRECT requests through the
 * loop, and how many a second there were. The counterpart of fio's io_uring engine.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "blockmig/core/loop.h"

enum { BLOCK = 4096, DEPTH_MAX = 1024 };

struct bench {
    struct bmig_loop *loop;
    struct bmig_timer end;
    struct bmig_io ios[DEPTH_MAX];
    uint64_t blocks, random, completed;
    int depth, flying;
    bool over, failed;
};

static struct bench bench;

static void start_next(struct bmig_io *io)
{
    bench.random = bench.random * 6364136223846793005u + 1442695040888963407u;
    io->offset = (bench.random >> 20) % bench.blocks * BLOCK;
    bmig_loop_io(bench.loop, io);
}

static void done(struct bmig_io *io, int result)
{
    bench.completed++;
    if (result != BLOCK) {
        fprintf(stderr, "result %d at %llu\n", result, (unsigned long long)io->offset);
        bench.failed = bench.over = true;
    }
    if (bench.over)
        bench.flying--;
    else
        start_next(io);
}

static void end(struct bmig_timer *timer)
{
    bench.over = true;
}

static void run(double seconds)
{
    uint64_t start_ns = bmig_loop_now_ns(bench.loop);
    bench.end.fire = end;
    bmig_timer_start(bench.loop, &bench.end, (uint64_t)(seconds * 1e9));
    bench.flying = bench.depth;
    for (int i = 0; i < bench.depth; i++)
        start_next(&bench.ios[i]);
    while (bench.flying > 0)
        bmig_loop_step(bench.loop, UINT64_MAX);
    bmig_timer_stop(&bench.end);
    double elapsed = (double)(bmig_loop_now_ns(bench.loop) - start_ns) / 1e9;
    printf("%s depth %d: %.0f/s\n", bmig_loop_name(bench.loop), bench.depth,
           (double)bench.completed / elapsed);
}

int main(int argc, char **argv)
{
    if (argc < 6) {
        fprintf(stderr, "usage: loop_bench FILE uring|epoll read|write DEPTH SECONDS [fixed]\n");
        return 2;
    }
    struct bmig_error err = {0};
    enum bmig_loop_kind kind = strcmp(argv[2], "epoll") == 0 ? BMIG_LOOP_EPOLL : BMIG_LOOP_URING;
    if (bmig_loop_new(&bench.loop, kind, &err) < 0) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    int fd = open(argv[1], O_RDWR | O_DIRECT | O_CLOEXEC);
    struct stat info;
    bench.depth = atoi(argv[4]);
    if (fd < 0 || fstat(fd, &info) < 0 || bench.depth < 1 || bench.depth > DEPTH_MAX) {
        perror(argv[1]);
        return 1;
    }
    bench.blocks = (uint64_t)info.st_size / BLOCK;
    bench.random = (uint64_t)getpid();
    size_t area = (size_t)bench.depth * BLOCK;
    char *data = aligned_alloc(BLOCK, area);
    if (!data)
        return 1;
    memset(data, 0x5a, area);
    if (argc > 6)
        bmig_loop_set_buffers(bench.loop, data, area);
    for (int i = 0; i < bench.depth; i++)
        bench.ios[i] = (struct bmig_io){.op = argv[3][0] == 'w' ? BMIG_IO_WRITE : BMIG_IO_READ,
                                        .fd = fd,
                                        .data = data + (size_t)i * BLOCK,
                                        .length = BLOCK,
                                        .done = done};
    run(atof(argv[5]));
    bmig_loop_free(bench.loop);
    free(data);
    close(fd);
    return bench.failed;
}
