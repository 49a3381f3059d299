/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Replicas: images opened and closed on a helper thread, so that a slow server never stops the
 * guest's loop.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/stack/image.h"
#include "blockmig/worker/worker_internal.h"

static char *copy(const char *text)
{
    return text ? strdup(text) : NULL;
}

struct bmig_replica *bmig_replica_new(json_t *image, struct bmig_error *err)
{
    const char *uri = NULL, *format = NULL, *filters = NULL, *secret = NULL;
    int known_zero = 0;
    json_error_t error;
    if (json_unpack_ex(image, &error, JSON_STRICT, "{s:s, s?s, s?s, s?s, s?b}", "uri", &uri,
                       "format", &format, "filters", &filters, "secret", &secret, "known_zero",
                       &known_zero) != 0) {
        bmig_error_set(err, BMIG_USAGE, EINVAL, "an image is {uri, format, ...}: %s", error.text);
        return NULL;
    }
    struct bmig_replica *replica = calloc(1, sizeof(*replica));
    if (!replica) {
        bmig_error_set(err, BMIG_FAILED, ENOMEM, "out of memory");
        return NULL;
    }
    replica->uri = copy(uri);
    replica->format = copy(format);
    replica->filters = copy(filters);
    replica->secret = copy(secret);
    replica->known_zero = known_zero;
    return replica;
}

void bmig_replica_free(struct bmig_replica *replica)
{
    if (!replica)
        return;
    free(replica->uri);
    free(replica->format);
    free(replica->filters);
    if (replica->secret)
        explicit_bzero(replica->secret, strlen(replica->secret));
    free(replica->secret);
    free(replica);
}

static struct bmig_replica_work *work_of(struct bmig_work *work)
{
    return (struct bmig_replica_work *)((char *)work - offsetof(struct bmig_replica_work, work));
}

static void open_run(struct bmig_work *inner)
{
    struct bmig_replica_work *work = work_of(inner);
    struct bmig_replica *replica = work->replica;
    struct bmig_image_spec spec = {
        .uri = replica->uri, .format = replica->format, .filters = replica->filters};
    struct bmig_open_options options = {
        .writable = true, .exclusive = true, .direct = true, .secret = replica->secret};
    work->status = bmig_image_open(&replica->disk, &spec, &options, &work->error);
}

static void open_done(struct bmig_work *inner)
{
    struct bmig_replica_work *work = work_of(inner);
    struct bmig_replica *replica = work->replica;
    if (work->status == 0) {
        if (replica->known_zero)
            replica->disk->known_zero = true;
        work->status = bmig_disk_attach(replica->disk, work->worker->loop, &work->error);
        if (work->status != 0) {
            bmig_disk_close(replica->disk); /* rare, and better late than never */
            replica->disk = NULL;
        }
    }
    work->done(work);
}

void bmig_replica_open(struct bmig_replica_work *work)
{
    work->work = (struct bmig_work){.run = open_run, .done = open_done};
    bmig_loop_work(work->worker->loop, &work->work);
}

static void close_run(struct bmig_work *inner)
{
    bmig_disk_close(work_of(inner)->closing);
}

static void close_done(struct bmig_work *inner)
{
    struct bmig_replica_work *work = work_of(inner);
    work->done(work);
}

void bmig_replica_close(struct bmig_replica_work *work)
{
    work->closing = work->replica->disk;
    work->replica->disk = NULL;
    work->status = 0;
    bmig_disk_detach(work->closing);
    work->work = (struct bmig_work){.run = close_run, .done = close_done};
    bmig_loop_work(work->worker->loop, &work->work);
}
