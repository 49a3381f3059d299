/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The worker: its life, and the verbs of its control socket (control.h says what each does).
 *
 * At most one of opening, attaching, detaching and stopping is under way; a verb that would begin a
 * second one is refused with EBUSY, and stop waits for none of them: it is refused too.
 */
#include "blockmig/worker/worker.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "blockmig/core/log.h"
#include "blockmig/worker/worker_internal.h"

#define STOP_GRACE_NS UINT64_C(2000000000)

static void refuse(struct bmig_control_call *call, enum bmig_error_kind kind, int code,
                   const char *message)
{
    struct bmig_error err = {0};
    bmig_error_set(&err, kind, code, "%s", message);
    bmig_control_fail(call, &err);
}

static void usage(struct bmig_control_call *call, const json_error_t *error)
{
    refuse(call, BMIG_USAGE, EINVAL, error->text);
}

static struct bmig_replica_work *replica_work(struct bmig_worker *worker,
                                              struct bmig_control_call *call,
                                              struct bmig_replica *replica,
                                              void (*done)(struct bmig_replica_work *work))
{
    struct bmig_replica_work *work = calloc(1, sizeof(*work));
    if (!work)
        abort(); /* some hundred bytes, off the guest's path: there is nothing sensible left to do
                  */
    work->worker = worker;
    work->call = call;
    work->replica = replica;
    work->done = done;
    return work;
}

/* ---- hello, stat ---- */

static void verb_hello(struct bmig_worker *worker, struct bmig_control_call *call,
                       json_t *arguments)
{
    bmig_control_reply(call,
                       json_pack("{s:i, s:s, s:i, s:s?, s:s}", "protocol", BMIG_CONTROL_PROTOCOL,
                                 "version", BLOCKMIG_VERSION, "pid", (int)getpid(), "volume",
                                 worker->volume ? bmig_volume_name(worker->volume) : NULL, "loop",
                                 bmig_loop_name(worker->loop)));
}

static void verb_stat(struct bmig_worker *worker, struct bmig_control_call *call, json_t *arguments)
{
    bmig_control_reply(call, bmig_worker_stat(worker));
}

/* ---- open ---- */

static void clients_changed(void *user, uint32_t clients)
{
    struct bmig_worker *worker = user;
    bmig_control_event(worker->control,
                       json_pack("{s:s, s:i}", "event", "clients", "clients", (int)clients));
}

static int start_serving(struct bmig_worker *worker, const char *name, json_int_t epoch,
                         json_t *listen, struct bmig_error *err)
{
    struct bmig_nbd_server_options options = {.clients_changed = clients_changed, .user = worker};
    int status = bmig_volume_new(&worker->volume, worker->loop, worker->pool, worker->primary->disk,
                                 name, (uint64_t)epoch, err);
    if (status == 0)
        status = bmig_nbd_server_new(&worker->server, worker->loop, worker->pool, worker->volume,
                                     &options, err);
    size_t index;
    json_t *uri;
    json_array_foreach(listen, index, uri)
    {
        if (status == 0 && worker->listen_count == BMIG_WORKER_MAX_LISTEN)
            status = bmig_error_set(err, BMIG_USAGE, E2BIG, "more places to listen than %d",
                                    BMIG_WORKER_MAX_LISTEN);
        if (status == 0)
            status = bmig_nbd_server_listen(worker->server, json_string_value(uri),
                                            &worker->listen[worker->listen_count], err);
        if (status == 0)
            worker->listen_count++;
    }
    return status;
}

/* What was begun by an open that failed is left to the end of the process: a worker opens once. */
static void open_failed(struct bmig_replica_work *work)
{
    bmig_control_fail(work->call, &work->error);
    bmig_log(BMIG_LOG_ERROR, "%s", work->error.message);
    json_decref(work->arguments);
    free(work);
}

/* A volume that was moved onto a larger place keeps its size, whichever worker serves it; but for
 * one whose end would fall into a block of the place, for then the door could not write its last
 * bytes. */
static int clip(struct bmig_disk *disk, const json_t *size, struct bmig_error *err)
{
    uint64_t size_bytes = (uint64_t)json_integer_value(size);
    if (!size)
        return 0;
    if (disk->size_bytes < size_bytes)
        return bmig_error_set(
            err, BMIG_REFUSED, EINVAL,
            "'%s' has %llu bytes and the volume %llu: it was cut outside of blockmig", disk->name,
            (unsigned long long)disk->size_bytes, (unsigned long long)size_bytes);
    if (size_bytes % disk->limits.block_bytes == 0)
        disk->size_bytes = size_bytes;
    return 0;
}

static void open_done(struct bmig_replica_work *work)
{
    struct bmig_worker *worker = work->worker;
    const char *name = json_string_value(json_object_get(work->arguments, "volume"));
    json_int_t epoch = json_integer_value(json_object_get(work->arguments, "epoch"));
    json_t *listen = json_object_get(work->arguments, "listen");
    worker->opening = false;
    if (work->status == 0)
        work->status = clip(worker->primary->disk, json_object_get(work->arguments, "size_bytes"),
                            &work->error);
    if (work->status == 0)
        work->status = start_serving(worker, name, epoch, listen, &work->error);
    if (work->status != 0) {
        open_failed(work);
        return;
    }
    bmig_log(BMIG_LOG_NOTICE, "serves %s", worker->primary->uri);
    json_t *stat = bmig_worker_stat(worker);
    bmig_control_reply(work->call,
                       json_pack("{s:O, s:O}", "size_bytes", json_object_get(stat, "size_bytes"),
                                 "listen", json_object_get(stat, "listen")));
    json_decref(stat);
    json_decref(work->arguments);
    free(work);
}

static void verb_open(struct bmig_worker *worker, struct bmig_control_call *call, json_t *arguments)
{
    const char *name;
    json_int_t epoch, size_bytes = 1;
    json_t *image, *listen;
    json_error_t error;
    struct bmig_error err = {0};
    if (json_unpack_ex(arguments, &error, JSON_STRICT, "{s:s, s:I, s:o, s:o, s?I}", "volume", &name,
                       "epoch", &epoch, "primary", &image, "listen", &listen, "size_bytes",
                       &size_bytes) != 0) {
        usage(call, &error);
        return;
    }
    if (size_bytes <= 0) {
        refuse(call, BMIG_USAGE, EINVAL, "'size_bytes' must be more than 0");
        return;
    }
    size_t index;
    json_t *uri;
    json_array_foreach(listen, index, uri)
    {
        if (json_is_string(uri))
            continue;
        refuse(call, BMIG_USAGE, EINVAL, "listen is an array of URIs");
        return;
    }
    if (worker->primary || worker->opening || worker->stopping) {
        refuse(call, BMIG_REFUSED, EBUSY, "this worker has opened its volume already");
        return;
    }
    worker->primary = bmig_replica_new(image, &err);
    if (!worker->primary) {
        bmig_control_fail(call, &err);
        return;
    }
    bmig_log_set_name(name);
    struct bmig_replica_work *work = replica_work(worker, call, worker->primary, open_done);
    work->arguments = json_incref(arguments);
    worker->opening = true;
    bmig_replica_open(work);
}

/* ---- mirror ---- */

static void mirror_event(void *user, enum bmig_mirror_state state)
{
    struct bmig_worker *worker = user;
    struct bmig_mirror_stats stats;
    bmig_mirror_stats(worker->volume, &stats);
    bmig_log(BMIG_LOG_NOTICE, "mirror: %s%s%s", bmig_mirror_state_name(state),
             stats.error ? ": " : "", stats.error ? stats.error_text : "");
    bmig_control_event(worker->control, json_pack("{s:s, s:s, s:i, s:s}", "event", "mirror",
                                                  "state", bmig_mirror_state_name(state), "error",
                                                  -stats.error, "message", stats.error_text));
}

static int mirror_options(json_t *arguments, json_t **image, struct bmig_mirror_options *options,
                          json_error_t *error)
{
    json_int_t bandwidth = 0, max_latency_us = 0, leg_timeout_ms = 0;
    int verify = 1, paused = 0;
    int status = json_unpack_ex(arguments, error, JSON_STRICT, "{s:o, s?I, s?I, s?I, s?b, s?b}",
                                "target", image, "bandwidth_bytes_per_s", &bandwidth,
                                "max_latency_us", &max_latency_us, "leg_timeout_ms",
                                &leg_timeout_ms, "verify", &verify, "paused", &paused);
    *options = (struct bmig_mirror_options){
        .bandwidth_bytes_per_s = (uint64_t)bandwidth,
        .max_latency_ns = (uint64_t)max_latency_us * 1000,
        .leg_timeout_ns = (uint64_t)leg_timeout_ms * 1000000,
        .verify = verify,
        .paused = paused,
    };
    return status;
}

static void discard_done(struct bmig_replica_work *work)
{
    bmig_control_fail(work->call, &work->error);
    work->worker->attaching = false;
    work->worker->secondary = NULL;
    bmig_replica_free(work->replica);
    json_decref(work->arguments);
    free(work);
}

static void target_opened(struct bmig_replica_work *work)
{
    struct bmig_worker *worker = work->worker;
    struct bmig_mirror_options options;
    json_t *image;
    json_error_t error;
    if (work->status != 0) {
        discard_done(work);
        return;
    }
    mirror_options(work->arguments, &image, &options, &error); /* it was well when the verb came */
    work->status = bmig_mirror_start(worker->volume, work->replica->disk, &options, mirror_event,
                                     worker, &work->error);
    if (work->status != 0) {
        work->done = discard_done;
        bmig_replica_close(work);
        return;
    }
    worker->attaching = false;
    bmig_log(BMIG_LOG_NOTICE, "mirrors to %s", work->replica->uri);
    bmig_control_reply(work->call, NULL);
    json_decref(work->arguments);
    free(work);
}

static void verb_mirror_start(struct bmig_worker *worker, struct bmig_control_call *call,
                              json_t *arguments)
{
    struct bmig_mirror_options options;
    json_t *image;
    json_error_t error;
    struct bmig_error err = {0};
    if (mirror_options(arguments, &image, &options, &error) != 0) {
        usage(call, &error);
        return;
    }
    if (worker->secondary || worker->attaching || worker->detaching || worker->stopping) {
        refuse(call, BMIG_REFUSED, EBUSY,
               "the volume has a second replica, or is getting or losing one");
        return;
    }
    worker->secondary = bmig_replica_new(image, &err);
    if (!worker->secondary) {
        bmig_control_fail(call, &err);
        return;
    }
    worker->attaching = true;
    struct bmig_replica_work *work = replica_work(worker, call, worker->secondary, target_opened);
    work->arguments = json_incref(arguments);
    bmig_replica_open(work);
}

static void verb_mirror_set(struct bmig_worker *worker, struct bmig_control_call *call,
                            json_t *arguments)
{
    json_int_t bandwidth, max_latency_us;
    json_error_t error;
    if (json_unpack_ex(arguments, &error, JSON_STRICT, "{s:I, s:I}", "bandwidth_bytes_per_s",
                       &bandwidth, "max_latency_us", &max_latency_us) != 0) {
        usage(call, &error);
        return;
    }
    bmig_mirror_set(worker->volume, (uint64_t)bandwidth, (uint64_t)max_latency_us * 1000);
    bmig_control_reply(call, NULL);
}

static void verb_mirror_pause(struct bmig_worker *worker, struct bmig_control_call *call,
                              json_t *arguments)
{
    int paused;
    json_error_t error;
    if (json_unpack_ex(arguments, &error, JSON_STRICT, "{s:b}", "paused", &paused) != 0) {
        usage(call, &error);
        return;
    }
    bmig_mirror_pause(worker->volume, paused);
    bmig_control_reply(call, NULL);
}

static void detached(struct bmig_replica_work *work)
{
    struct bmig_worker *worker = work->worker;
    worker->detaching = false;
    bmig_replica_free(work->replica);
    if (work->call)
        bmig_control_reply(work->call, NULL);
    free(work);
}

static void mirror_stopped(void *user)
{
    struct bmig_worker *worker = user;
    struct bmig_replica *replica = worker->secondary;
    bmig_log(BMIG_LOG_NOTICE, "let go of %s", replica->uri);
    worker->secondary = NULL;
    bmig_replica_close(replica_work(worker, worker->waiting_call, replica, detached));
    worker->waiting_call = NULL;
}

static void verb_mirror_stop(struct bmig_worker *worker, struct bmig_control_call *call,
                             json_t *arguments)
{
    if (!worker->secondary && !worker->detaching) {
        bmig_control_reply(call, NULL); /* asked twice: it is as asked */
        return;
    }
    if (worker->attaching || worker->detaching || worker->waiting_call ||
        bmig_mirror_stop(worker->volume, mirror_stopped, worker) != 0) {
        refuse(call, BMIG_REFUSED, EBUSY,
               "the second replica is being attached, switched or dropped");
        return;
    }
    worker->detaching = true;
    worker->waiting_call = call;
}

/* ---- switch ---- */

static void prepared(void *user, int status)
{
    struct bmig_worker *worker = user;
    struct bmig_control_call *call = worker->waiting_call;
    worker->waiting_call = NULL;
    if (status == 0) {
        bmig_control_reply(call, NULL);
        return;
    }
    struct bmig_error err = {0};
    bmig_error_set(&err, BMIG_FAILED, -status, "the target could not be flushed for the switch: %s",
                   bmig_strerror(-status));
    bmig_control_fail(call, &err);
}

static enum bmig_mirror_state state_of(struct bmig_worker *worker)
{
    struct bmig_mirror_stats stats;
    bmig_mirror_stats(worker->volume, &stats);
    return stats.state;
}

static void verb_switch_prepare(struct bmig_worker *worker, struct bmig_control_call *call,
                                json_t *arguments)
{
    if (worker->waiting_call || bmig_mirror_switch_prepare(worker->volume, prepared, worker) != 0) {
        refuse(call, BMIG_REFUSED, EBUSY,
               "a switch needs both replicas in sync and no other under way");
        return;
    }
    worker->waiting_call = call;
}

static void verb_switch_commit(struct bmig_worker *worker, struct bmig_control_call *call,
                               json_t *arguments)
{
    json_int_t epoch;
    json_error_t error;
    if (json_unpack_ex(arguments, &error, JSON_STRICT, "{s:I}", "epoch", &epoch) != 0) {
        usage(call, &error);
        return;
    }
    if (state_of(worker) != BMIG_MIRROR_SWITCHING || worker->waiting_call) {
        refuse(call, BMIG_REFUSED, EBUSY, "no switch is prepared");
        return;
    }
    bmig_mirror_switch_commit(worker->volume, (uint64_t)epoch);
    struct bmig_replica *old = worker->primary;
    worker->primary = worker->secondary;
    worker->secondary = old;
    bmig_log(BMIG_LOG_NOTICE, "switched to %s, epoch %lld", worker->primary->uri, (long long)epoch);
    bmig_control_reply(call, NULL);
}

static void verb_switch_abort(struct bmig_worker *worker, struct bmig_control_call *call,
                              json_t *arguments)
{
    if (worker->waiting_call) {
        refuse(call, BMIG_REFUSED, EBUSY, "the switch is still being prepared");
        return;
    }
    if (state_of(worker) == BMIG_MIRROR_SWITCHING)
        bmig_mirror_switch_abort(worker->volume);
    bmig_control_reply(call, NULL);
}

/* ---- stop ---- */

static void stop_ends(struct bmig_worker *worker)
{
    if (worker->stop_call)
        bmig_control_reply(worker->stop_call, NULL);
    worker->stop_call = NULL;
    bmig_control_event(worker->control,
                       json_pack("{s:s, s:s}", "event", "exit", "message", "stopped"));
    bmig_loop_stop(worker->loop);
}

static void primary_closed(struct bmig_replica_work *work)
{
    struct bmig_worker *worker = work->worker;
    bmig_replica_free(work->replica);
    free(work);
    stop_ends(worker);
}

static void last_flush_done(struct bmig_request *request, int status)
{
    struct bmig_worker *worker = request->user;
    struct bmig_replica *replica = worker->primary;
    free(request);
    if (status != 0)
        bmig_log(BMIG_LOG_ERROR, "the last flush of %s failed: %s", replica->uri,
                 bmig_strerror(-status));
    bmig_volume_free(worker->volume);
    worker->volume = NULL;
    worker->primary = NULL;
    bmig_replica_close(replica_work(worker, NULL, replica, primary_closed));
}

static void flush_and_close(struct bmig_worker *worker)
{
    struct bmig_request *flush = aligned_alloc(16, sizeof(*flush));
    if (!flush)
        abort();
    *flush = (struct bmig_request){.op = BMIG_FLUSH, .done = last_flush_done, .user = worker};
    bmig_disk_submit(worker->primary->disk, flush);
}

static void stop_detached(struct bmig_replica_work *work)
{
    struct bmig_worker *worker = work->worker;
    detached(work);
    flush_and_close(worker);
}

static void stop_mirror_stopped(void *user)
{
    struct bmig_worker *worker = user;
    struct bmig_replica *replica = worker->secondary;
    worker->secondary = NULL;
    bmig_replica_close(replica_work(worker, NULL, replica, stop_detached));
}

static void server_stopped(void *user)
{
    struct bmig_worker *worker = user;
    bmig_nbd_server_free(worker->server);
    worker->server = NULL;
    if (!worker->secondary) {
        flush_and_close(worker);
        return;
    }
    if (bmig_mirror_stop(worker->volume, stop_mirror_stopped, worker) != 0)
        bmig_loop_stop(worker->loop);
}

static void begin_stop(struct bmig_worker *worker, struct bmig_control_call *call)
{
    worker->stopping = true;
    worker->stop_call = call;
    /* Writes may wait for the record, which only its writer knows, so there is no orderly end: as
     * after a kill the record decides, and nothing was answered that either replica lacks. */
    if (worker->volume && state_of(worker) == BMIG_MIRROR_SWITCHING)
        stop_ends(worker);
    else if (worker->server)
        bmig_nbd_server_stop(worker->server, STOP_GRACE_NS, server_stopped, worker);
    else
        stop_ends(worker);
}

static void verb_stop(struct bmig_worker *worker, struct bmig_control_call *call, json_t *arguments)
{
    int force = 0;
    json_error_t error;
    if (json_unpack_ex(arguments, &error, JSON_STRICT, "{s?b}", "force", &force) != 0) {
        usage(call, &error);
        return;
    }
    if (worker->opening || worker->attaching || worker->detaching || worker->stopping) {
        refuse(call, BMIG_REFUSED, EBUSY, "something is under way; try again");
        return;
    }
    if (!force && worker->server && bmig_nbd_server_clients(worker->server) > 0) {
        refuse(call, BMIG_DENIED, EBUSY, "a client is connected: disconnect it, or force the stop");
        return;
    }
    begin_stop(worker, call);
}

/* ---- the table ---- */

static const struct {
    const char *name;
    bool needs_volume;
    void (*run)(struct bmig_worker *worker, struct bmig_control_call *call, json_t *arguments);
} verbs[] = {
    {"hello", false, verb_hello},
    {"open", false, verb_open},
    {"stat", false, verb_stat},
    {"mirror-start", true, verb_mirror_start},
    {"mirror-set", true, verb_mirror_set},
    {"mirror-pause", true, verb_mirror_pause},
    {"mirror-stop", true, verb_mirror_stop},
    {"switch-prepare", true, verb_switch_prepare},
    {"switch-commit", true, verb_switch_commit},
    {"switch-abort", true, verb_switch_abort},
    {"stop", false, verb_stop},
};

static void on_verb(void *user, struct bmig_control_call *call, const char *verb, json_t *arguments)
{
    struct bmig_worker *worker = user;
    for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
        if (strcmp(verbs[i].name, verb) != 0)
            continue;
        if (verbs[i].needs_volume && (!worker->volume || worker->stopping))
            refuse(call, BMIG_REFUSED, EINVAL,
                   worker->stopping ? "the worker is stopping" : "no volume is open: `open` first");
        else
            verbs[i].run(worker, call, arguments);
        return;
    }
    refuse(call, BMIG_USAGE, EINVAL, "there is no such verb");
}

int bmig_worker_new(struct bmig_worker **out, struct bmig_loop *loop, const char *control_path,
                    struct bmig_error *err)
{
    struct bmig_worker *worker = calloc(1, sizeof(*worker));
    if (!worker || bmig_pool_new(&worker->pool, loop, BMIG_WORKER_POOL_BYTES) != 0) {
        free(worker);
        return bmig_error_set(err, BMIG_FAILED, ENOMEM, "out of memory");
    }
    void *area;
    size_t length;
    bmig_pool_area(worker->pool, &area, &length);
    bmig_loop_set_buffers(loop, area, length);
    worker->loop = loop;
    int status = bmig_control_new(&worker->control, loop, control_path, on_verb, worker, err);
    if (status != 0) {
        bmig_pool_free(worker->pool);
        free(worker);
        return status;
    }
    *out = worker;
    return 0;
}

void bmig_worker_stop(struct bmig_worker *worker)
{
    if (worker->stopping)
        return;
    if (worker->opening || worker->attaching || worker->detaching)
        bmig_loop_stop(worker->loop);
    else
        begin_stop(worker, NULL);
}

void bmig_worker_free(struct bmig_worker *worker)
{
    bmig_control_free(worker->control);
    for (unsigned i = 0; i < worker->listen_count; i++)
        free(worker->listen[i]);
    if (!worker->volume && !worker->primary)
        bmig_pool_free(worker->pool);
    free(worker);
}
