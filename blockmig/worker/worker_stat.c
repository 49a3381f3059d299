/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What a worker says of itself.
 */
#include <stdio.h>
#include <unistd.h>

#include "blockmig/engine/region_map.h"
#include "blockmig/worker/worker_internal.h"

static uint64_t resident_bytes(void)
{
    unsigned long long size, resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (!file)
        return 0;
    if (fscanf(file, "%llu %llu", &size, &resident) != 2)
        resident = 0;
    fclose(file);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static json_t *replica_json(const struct bmig_replica *replica)
{
    if (!replica || !replica->disk)
        return json_null();
    return json_pack("{s:s, s:s?}", "uri", replica->uri, "format", replica->format);
}

static json_int_t us(uint64_t ns)
{
    return (json_int_t)((ns + 500) / 1000);
}

static json_t *guest_json(const struct bmig_volume *volume)
{
    struct bmig_volume_stats stats;
    const struct bmig_histogram *latency = bmig_volume_latency(volume);
    bmig_volume_stats(volume, &stats);
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "reads",
                     (json_int_t)stats.reads, "writes", (json_int_t)stats.writes, "read_bytes",
                     (json_int_t)stats.read_bytes, "write_bytes", (json_int_t)stats.write_bytes,
                     "flushes", (json_int_t)stats.flushes, "errors", (json_int_t)stats.errors,
                     "p50_us", us(bmig_histogram_percentile(latency, 0.5)), "p99_us",
                     us(bmig_histogram_percentile(latency, 0.99)), "p999_us",
                     us(bmig_histogram_percentile(latency, 0.999)), "max_us", us(latency->max_ns));
}

static void put(json_t *object, const char *key, uint64_t value)
{
    json_object_set_new(object, key, json_integer((json_int_t)value));
}

static json_t *mirror_json(struct bmig_volume *volume)
{
    struct bmig_mirror_stats stats;
    bmig_mirror_stats(volume, &stats);
    json_t *object =
        json_pack("{s:s, s:b, s:b, s:i, s:s}", "state", bmig_mirror_state_name(stats.state),
                  "paused", stats.paused, "verified", stats.verified, "error", -stats.error,
                  "error_text", stats.error_text);
    put(object, "bytes_total", stats.bytes_total);
    put(object, "bytes_done", stats.bytes_done);
    put(object, "bytes_copied", stats.bytes_copied);
    put(object, "bytes_recopied", stats.bytes_recopied);
    put(object, "bytes_skipped", stats.bytes_skipped);
    put(object, "bytes_mirrored", stats.bytes_mirrored);
    put(object, "bytes_verified", stats.bytes_verified);
    put(object, "bytes_different", stats.bytes_different);
    put(object, "bytes_stale", stats.bytes_stale);
    put(object, "rate_bytes_per_s", stats.rate_bytes_per_s);
    if (stats.eta_s == UINT64_MAX)
        json_object_set_new(object, "eta_s", json_null());
    else
        put(object, "eta_s", stats.eta_s);
    put(object, "guest_p50_us_before", (uint64_t)us(stats.guest_p50_ns_before));
    put(object, "guest_p99_us_before", (uint64_t)us(stats.guest_p99_ns_before));
    put(object, "guest_p999_us_before", (uint64_t)us(stats.guest_p999_ns_before));
    put(object, "guest_max_us_before", (uint64_t)us(stats.guest_max_ns_before));
    put(object, "guest_p50_us", (uint64_t)us(stats.guest_p50_ns));
    put(object, "guest_p99_us", (uint64_t)us(stats.guest_p99_ns));
    put(object, "guest_p999_us", (uint64_t)us(stats.guest_p999_ns));
    put(object, "guest_max_us", (uint64_t)us(stats.guest_max_ns));
    put(object, "switch_hold_us", (uint64_t)us(stats.switch_hold_ns));
    return object;
}

json_t *bmig_worker_stat(struct bmig_worker *worker)
{
    json_t *listen = json_array();
    for (unsigned i = 0; i < worker->listen_count; i++)
        json_array_append_new(listen, json_string(worker->listen[i]));
    struct bmig_volume *volume = worker->volume;
    uint64_t size_bytes = volume ? bmig_volume_size_bytes(volume) : 0;
    uint32_t shift = size_bytes ? bmig_region_map_shift(size_bytes) : 16;
    json_t *object = json_pack(
        "{s:s?, s:I, s:I, s:o, s:o, s:i, s:I, s:I, s:I, s:s, s:o}", "volume",
        volume ? bmig_volume_name(volume) : NULL, "epoch",
        (json_int_t)(volume ? bmig_volume_epoch(volume) : 0), "size_bytes", (json_int_t)size_bytes,
        "primary", replica_json(worker->primary), "secondary", replica_json(worker->secondary),
        "clients", worker->server ? (int)bmig_nbd_server_clients(worker->server) : 0,
        "memory_bytes", (json_int_t)resident_bytes(), "memory_bound_bytes",
        (json_int_t)((UINT64_C(64) << 20) + 2 * ((size_bytes >> shift) + 1)), "region_bytes",
        (json_int_t)(UINT64_C(1) << shift), "loop", bmig_loop_name(worker->loop), "listen", listen);
    if (volume) {
        json_object_set_new(object, "guest", guest_json(volume));
        json_object_set_new(object, "mirror", mirror_json(volume));
    }
    return object;
}
