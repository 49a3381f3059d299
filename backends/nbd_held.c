/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The writes that a server has acknowledged and may still lose.
 *
 * A server that is killed and started again may have lost what it answered and had not flushed, and
 * nothing in the protocol tells such a restart from a cut cable. So a copy of each such write is
 * kept until a flush has covered it, and written again after a reconnect, before anything else.
 * Writes whose caller can repeat them (BMIG_REPLAYABLE), and what would not fit, are only counted:
 * after a loss the next flush fails for them, which is how their caller learns of it.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "backends/nbd_internal.h"

enum {
    FLUSH_BYTES = 2 << 20, /* held bytes from which on the driver flushes by itself */
    LIMIT_BYTES = 8 << 20, /* held bytes that are never exceeded */
};

void bmig_nbdc_held_init(struct nbdc_held *held)
{
    memset(held, 0, sizeof(*held));
    held->tail = &held->head;
}

void bmig_nbdc_held_fini(struct nbdc_held *held)
{
    bmig_nbdc_held_flushed(held, UINT64_MAX);
}

static struct nbdc_held_write *copy_write(const struct nbdc_held *held,
                                          const struct bmig_request *request)
{
    bool is_zero = request->op == BMIG_ZERO;
    uint64_t bytes = is_zero ? 0 : request->length;
    if ((request->flags & BMIG_REPLAYABLE) || held->bytes + bytes > LIMIT_BYTES)
        return NULL;
    struct nbdc_held_write *write = malloc(sizeof(*write) + bytes);
    if (!write)
        return NULL;
    *write = (struct nbdc_held_write){
        .offset = request->offset, .length = request->length, .is_zero = is_zero};
    if (!is_zero)
        memcpy(write->data, request->data, bytes);
    return write;
}

static uint64_t cost(const struct nbdc_held_write *write)
{
    return sizeof(*write) + (write->is_zero ? 0 : write->length);
}

void bmig_nbdc_held_add(struct nbdc_held *held, const struct bmig_request *request)
{
    held->sequence++;
    struct nbdc_held_write *write = copy_write(held, request);
    if (!write) {
        held->unheld_sequence = held->sequence;
        return;
    }
    write->sequence = held->sequence;
    held->bytes += cost(write);
    *held->tail = write;
    held->tail = &write->next;
}

void bmig_nbdc_held_flushed(struct nbdc_held *held, uint64_t sequence)
{
    while (held->head && held->head->sequence <= sequence) {
        struct nbdc_held_write *write = held->head;
        held->head = write->next;
        held->bytes -= cost(write);
        free(write);
    }
    if (!held->head)
        held->tail = &held->head;
    if (held->unheld_sequence <= sequence)
        held->unheld_sequence = 0;
}

bool bmig_nbdc_held_wants_flush(const struct nbdc_held *held)
{
    return held->bytes >= FLUSH_BYTES;
}

static int note_status(void *user, int *error)
{
    *(int *)user = -*error;
    return 1;
}

static int replay_one(const struct nbdc_held_write *write, struct nbd_handle *handle,
                      uint64_t deadline_ns, const atomic_bool *stop)
{
    int status = INT_MAX;
    nbd_completion_callback done = {.callback = note_status, .user_data = &status};
    int64_t cookie;
    if (!write)
        cookie = nbd_aio_flush(handle, done, 0);
    else if (write->is_zero)
        cookie = nbd_aio_zero(handle, write->length, write->offset, done, 0);
    else
        cookie = nbd_aio_pwrite(handle, write->data, write->length, write->offset, done, 0);
    if (cookie < 0)
        return nbd_get_errno() ? -nbd_get_errno() : -EIO;
    return bmig_nbdc_drive(handle, &status, deadline_ns, stop);
}

int bmig_nbdc_held_replay(const struct nbdc_held *held, struct nbd_handle *handle,
                          uint64_t deadline_ns, const atomic_bool *stop)
{
    /* One at a time: overlapping writes keep the order in which they were acknowledged. */
    for (const struct nbdc_held_write *write = held->head; write; write = write->next) {
        int rc = replay_one(write, handle, deadline_ns, stop);
        if (rc < 0)
            return rc;
    }
    return held->head ? replay_one(NULL, handle, deadline_ns, stop) : 0;
}
