/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The mem backend: an image in memory, thin, for tests and for measuring what is not the medium.
 *
 * mem:?size=1G is an image of its own; mem:NAME?size=1G is found again by its name in this process
 * for as long as it is open somewhere, or until it is removed if it was created. One mapping that
 * the kernel fills as it is touched; a bit a chunk says what was written.
 */
#include "backends/mem.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "backends/backends.h"
#include "blockmig/core/units.h"

enum { CHUNK_BYTES = 64 * 1024, LARGE_BYTES = 64 << 20 };

struct mem_image {
    char *name; /* NULL: nobody can find it */
    uint64_t size_bytes;
    uint8_t *bytes;
    uint64_t *written; /* bit per chunk */
    uint64_t allocated_chunks;
    uint32_t refs;
    bool fresh; /* nothing was ever written */
    struct mem_image *next;
};

/* Opening happens on any thread; what is open belongs to one loop (its user's duty, as with any
 * image). */
static pthread_mutex_t images_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct mem_image *images;

static struct mem_image *find(const char *name)
{
    struct mem_image *image = images;
    while (image && (!image->name || strcmp(image->name, name) != 0))
        image = image->next;
    return image;
}

static void unref(struct mem_image *image)
{
    if (--image->refs)
        return;
    struct mem_image **link = &images;
    while (*link && *link != image)
        link = &(*link)->next;
    if (*link)
        *link = image->next;
    if (image->bytes)
        munmap(image->bytes, image->size_bytes);
    free(image->written);
    free(image->name);
    free(image);
}

static int make(struct mem_image **out, const char *name, uint64_t size_bytes,
                struct bmig_error *err)
{
    uint64_t chunks = (size_bytes + CHUNK_BYTES - 1) / CHUNK_BYTES;
    struct mem_image *image = calloc(1, sizeof(*image));
    if (!image)
        return bmig_error_set(err, BMIG_FAILED, ENOMEM, "mem image: out of memory");
    image->size_bytes = size_bytes;
    image->fresh = true;
    image->name = *name ? strdup(name) : NULL;
    image->written = calloc((chunks + 63) / 64, sizeof(uint64_t));
    void *bytes = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    image->bytes = bytes == MAP_FAILED ? NULL : bytes;
    image->refs = 1;
    if (!image->written || !image->bytes || (*name && !image->name)) {
        unref(image);
        return bmig_error_set(err, BMIG_FAILED, ENOMEM, "mem image: out of memory");
    }
    if (size_bytes >= LARGE_BYTES) /* or a measurement would be one of page faults */
        madvise(image->bytes, size_bytes, MADV_HUGEPAGE);
    image->refs = 0;
    image->next = images;
    images = image;
    *out = image;
    return 0;
}

static const char *const known_params[] = {"size", NULL};

static int size_of(const struct bmig_uri *uri, uint64_t *size_bytes, struct bmig_error *err)
{
    const char *text = bmig_uri_param(uri, "size");
    int status = bmig_uri_check_params(uri, known_params, err);
    if (status != 0)
        return status;
    *size_bytes = 0;
    return text ? bmig_parse_size(text, "size of a mem image", size_bytes, err) : 0;
}

static int mem_open(struct bmig_disk *disk, const struct bmig_uri *uri,
                    const struct bmig_open_options *options, struct bmig_error *err)
{
    uint64_t size_bytes;
    int status = size_of(uri, &size_bytes, err);
    if (status != 0)
        return status;
    pthread_mutex_lock(&images_mutex);
    struct mem_image *image = *uri->path ? find(uri->path) : NULL;
    if (!image && size_bytes == 0)
        status =
            bmig_error_set(err, BMIG_NOT_FOUND, ENOENT,
                           "%s: there is no such image in this process; give a size", uri->text);
    else if (!image)
        status = make(&image, uri->path, size_bytes, err);
    if (status == 0)
        image->refs++;
    pthread_mutex_unlock(&images_mutex);
    if (status != 0)
        return status;
    disk->state = image;
    disk->size_bytes = image->size_bytes;
    disk->known_zero = image->fresh;
    disk->caps = BMIG_CAP_ZERO | BMIG_CAP_FAST_ZERO | BMIG_CAP_UNMAP | BMIG_CAP_DISCARD |
                 BMIG_CAP_EXTENTS | BMIG_CAP_FUA | BMIG_CAP_FLUSH | BMIG_CAP_MULTI_CONN;
    if (options->writable)
        disk->caps |= BMIG_CAP_WRITE;
    disk->limits = (struct bmig_limits){.block_bytes = 1,
                                        .memory_align = 1,
                                        .max_io_bytes = 32 << 20,
                                        .max_zero_bytes = UINT64_C(1) << 40,
                                        .zero_align = 1,
                                        .preferred_bytes = 256 << 10};
    return 0;
}

static void mem_close(struct bmig_disk *disk)
{
    pthread_mutex_lock(&images_mutex);
    unref(disk->state);
    pthread_mutex_unlock(&images_mutex);
}

static bool is_written(const struct mem_image *image, uint64_t chunk)
{
    return image->written[chunk / 64] >> (chunk % 64) & 1;
}

static void set_written(struct mem_image *image, uint64_t chunk, bool written)
{
    if (is_written(image, chunk) == written)
        return;
    image->written[chunk / 64] ^= UINT64_C(1) << (chunk % 64);
    image->allocated_chunks += written ? 1 : (uint64_t)-1;
}

/* The bytes from `at` to its chunk's end, or fewer. */
static uint64_t within_chunk(uint64_t at, uint64_t end)
{
    uint64_t length = CHUNK_BYTES - at % CHUNK_BYTES;
    return length < end - at ? length : end - at;
}

static void write_bytes(struct mem_image *image, const struct bmig_request *request)
{
    uint64_t last = (request->offset + request->length - 1) / CHUNK_BYTES;
    for (uint64_t chunk = request->offset / CHUNK_BYTES; chunk <= last; chunk++)
        set_written(image, chunk, true);
    memcpy(image->bytes + request->offset, request->data, request->length);
}

/* Chunks never written are not touched, or reading would fill memory. */
static void read_bytes(const struct mem_image *image, struct bmig_request *request)
{
    for (uint64_t at = request->offset, end = at + request->length; at < end;) {
        uint64_t length = within_chunk(at, end);
        uint8_t *data = request->data + (at - request->offset);
        if (is_written(image, at / CHUNK_BYTES))
            memcpy(data, image->bytes + at, length);
        else
            memset(data, 0, length);
        at += length;
    }
}

static void clear(struct mem_image *image, const struct bmig_request *request)
{
    bool unmap = request->op == BMIG_DISCARD || request->flags & BMIG_MAY_UNMAP;
    for (uint64_t at = request->offset, end = at + request->length; at < end;) {
        uint64_t length = within_chunk(at, end);
        if (!is_written(image, at / CHUNK_BYTES)) {
            at += length;
            continue;
        }
        if (unmap && length == CHUNK_BYTES &&
            madvise(image->bytes + at, length, MADV_DONTNEED) == 0)
            set_written(image, at / CHUNK_BYTES, false);
        else
            memset(image->bytes + at, 0, length);
        at += length;
    }
}

static void extents(const struct mem_image *image, struct bmig_request *request)
{
    for (uint64_t at = request->offset, end = at + request->length; at < end;) {
        uint64_t length = within_chunk(at, end);
        bool data = is_written(image, at / CHUNK_BYTES);
        if (bmig_extents_add(request->extents, length,
                             data ? BMIG_EXTENT_DATA : BMIG_EXTENT_HOLE | BMIG_EXTENT_ZERO))
            return;
        at += length;
    }
}

static void mem_submit(struct bmig_disk *disk, struct bmig_request *request)
{
    struct mem_image *image = disk->state;
    switch (request->op) {
    case BMIG_WRITE:
        image->fresh = false;
        write_bytes(image, request);
        break;
    case BMIG_READ:
        read_bytes(image, request);
        break;
    case BMIG_ZERO:
    case BMIG_DISCARD:
        clear(image, request);
        break;
    case BMIG_EXTENTS:
        extents(image, request);
        break;
    case BMIG_FLUSH:
    case BMIG_OP_COUNT:
        break;
    }
    bmig_disk_complete(request, 0);
}

static int mem_create(const struct bmig_uri *uri, uint64_t size_bytes,
                      const struct bmig_open_options *options, struct bmig_error *err)
{
    struct mem_image *image;
    int status = bmig_uri_check_params(uri, known_params, err);
    if (status != 0)
        return status;
    if (!*uri->path)
        return bmig_error_set(err, BMIG_USAGE, EINVAL, "%s: a mem image to be created needs a name",
                              uri->text);
    pthread_mutex_lock(&images_mutex);
    if (find(uri->path))
        status = bmig_error_set(err, BMIG_DENIED, EEXIST, "%s: exists", uri->text);
    else
        status = make(&image, uri->path, size_bytes, err);
    if (status == 0)
        image->refs++; /* the creator's, given back by remove */
    pthread_mutex_unlock(&images_mutex);
    return status;
}

static int mem_remove(const struct bmig_uri *uri, const struct bmig_open_options *options,
                      struct bmig_error *err)
{
    int status = 0;
    pthread_mutex_lock(&images_mutex);
    struct mem_image *image = find(uri->path);
    if (image) {
        free(image->name);
        image->name = NULL;
        unref(image);
    } else {
        status = bmig_error_set(err, BMIG_NOT_FOUND, ENOENT, "%s: does not exist", uri->text);
    }
    pthread_mutex_unlock(&images_mutex);
    return status;
}

static int mem_stat(const struct bmig_uri *uri, const struct bmig_open_options *options,
                    struct bmig_place_stat *stat, struct bmig_error *err)
{
    *stat = (struct bmig_place_stat){.free_bytes = UINT64_MAX, .total_bytes = UINT64_MAX};
    pthread_mutex_lock(&images_mutex);
    struct mem_image *image = find(uri->path);
    if (image) {
        stat->exists = true;
        stat->size_bytes = image->size_bytes;
        stat->allocated_bytes = image->allocated_chunks * CHUNK_BYTES;
        stat->known_zero = image->fresh;
        snprintf(stat->identity, sizeof(stat->identity), "mem:%s", image->name);
    }
    pthread_mutex_unlock(&images_mutex);
    return 0;
}

uint64_t bmig_mem_allocated_bytes(const struct bmig_disk *disk)
{
    const struct mem_image *image = disk->state;
    return image->allocated_chunks * CHUNK_BYTES;
}

const struct bmig_driver bmig_mem_driver = {
    .name = "mem",
    .open = mem_open,
    .close = mem_close,
    .submit = mem_submit,
    .create = mem_create,
    .remove = mem_remove,
    .stat = mem_stat,
};
