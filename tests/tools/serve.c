/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * serve [OPTION...] IMAGE-URI LISTEN-URI...: an image as a volume over NBD, without daemon, worker
 * or journal.
 *
 * Prints the URIs that clients use, one a line, once it listens; ends at SIGTERM or SIGINT, in
 * order, with 0.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/stack/image.h"
#include "blockmig/worker/nbd_server.h"

struct settings {
    const char *name;
    struct bmig_image_spec image;
    struct bmig_open_options open;
    struct bmig_nbd_server_options server;
    uint64_t pool_bytes;
    uint64_t create_bytes;
};

static struct bmig_loop *loop;

static void on_signal(int number)
{
    bmig_loop_stop(loop);
}

static int fail(const struct bmig_error *err)
{
    fprintf(stderr, "serve: %s\n", err->message);
    return (int)err->kind;
}

static void stopped(void *user)
{
    *(bool *)user = true;
}

static int listen_all(struct bmig_nbd_server *server, char **uris, struct bmig_error *err)
{
    for (; *uris; uris++) {
        char *bound;
        int rc = bmig_nbd_server_listen(server, *uris, &bound, err);

        if (rc)
            return rc;
        puts(bound);
        free(bound);
    }
    fflush(stdout);
    return 0;
}

static int serve(const struct settings *set, struct bmig_pool *pool, struct bmig_volume *volume,
                 char **uris, struct bmig_error *err)
{
    struct bmig_nbd_server *server;
    bool over = false;
    int rc = bmig_nbd_server_new(&server, loop, pool, volume, &set->server, err);

    if (rc)
        return rc;
    rc = listen_all(server, uris, err);
    if (rc == 0)
        bmig_loop_run(loop);
    bmig_nbd_server_stop(server, UINT64_C(2000000000), stopped, &over);
    while (!over)
        bmig_loop_step(loop, UINT64_MAX);
    bmig_nbd_server_free(server);
    return rc;
}

static int run(const struct settings *set, char **uris, struct bmig_error *err)
{
    struct bmig_volume *volume;
    struct bmig_pool *pool;
    struct bmig_disk *disk;
    size_t area_bytes;
    void *area;
    int rc =
        set->create_bytes ? bmig_image_create(&set->image, set->create_bytes, &set->open, err) : 0;

    if (rc == 0)
        rc = bmig_image_open(&disk, &set->image, &set->open, err);
    if (rc)
        return rc;
    rc = bmig_pool_new(&pool, loop, set->pool_bytes);
    if (rc)
        return bmig_error_set(err, BMIG_FAILED, -rc, "pool: %s", bmig_strerror(-rc));
    bmig_pool_area(pool, &area, &area_bytes);
    bmig_loop_set_buffers(loop, area, area_bytes);
    rc = bmig_disk_attach(disk, loop, err);
    if (rc)
        return rc;
    rc = bmig_volume_new(&volume, loop, pool, disk, set->name, 1, err);
    if (rc == 0) {
        rc = serve(set, pool, volume, uris, err);
        while (!bmig_volume_idle(volume) || !bmig_disk_idle(disk))
            bmig_loop_step(loop, UINT64_MAX);
        bmig_volume_free(volume);
    }
    bmig_disk_detach(disk);
    bmig_disk_close(disk);
    bmig_loop_set_buffers(loop, NULL, 0);
    bmig_pool_free(pool);
    return rc;
}

static void parse(struct settings *set, int argc, char **argv)
{
    static const struct option options[] = {
        {"name", required_argument, NULL, 'n'},
        {"format", required_argument, NULL, 'f'},
        {"filters", required_argument, NULL, 'F'},
        {"read-only", no_argument, NULL, 'r'},
        {"direct", no_argument, NULL, 'd'},
        {"pool", required_argument, NULL, 'p'},
        {"create", required_argument, NULL, 'c'},
        {"max-clients", required_argument, NULL, 'm'},
        {"max-requests", required_argument, NULL, 'q'},
        {NULL, 0, NULL, 0},
    };
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'n':
            set->name = optarg;
            break;
        case 'f':
            set->image.format = optarg;
            break;
        case 'F':
            set->image.filters = optarg;
            break;
        case 'r':
            set->server.read_only = true;
            set->open.writable = false;
            break;
        case 'd':
            set->open.direct = true;
            break;
        case 'p':
            set->pool_bytes = strtoull(optarg, NULL, 0) << 20;
            break;
        case 'c':
            set->create_bytes = strtoull(optarg, NULL, 0);
            break;
        case 'm':
            set->server.max_clients = (uint32_t)strtoul(optarg, NULL, 0);
            break;
        case 'q':
            set->server.max_in_flight_requests = (uint32_t)strtoul(optarg, NULL, 0);
            break;
        default:
            exit(BMIG_USAGE);
        }
    }
}

int main(int argc, char **argv)
{
    struct settings set = {
        .name = "disk", .open.writable = true, .open.exclusive = true, .pool_bytes = 32 << 20};
    struct bmig_error err = {0};
    int rc;

    parse(&set, argc, argv);
    if (argc - optind < 2) {
        fputs("usage: serve [--name N] [--read-only] [--direct] [--pool MIB] [--create BYTES] "
              "[--filters F] "
              "[--format F] [--max-clients N] [--max-requests N] IMAGE LISTEN-URI...\n",
              stderr);
        return BMIG_USAGE;
    }
    set.image.uri = argv[optind];
    if (bmig_loop_new(&loop, BMIG_LOOP_AUTO, &err))
        return fail(&err);
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    rc = run(&set, argv + optind + 1, &err);
    bmig_loop_free(loop);
    return rc ? fail(&err) : 0;
}
