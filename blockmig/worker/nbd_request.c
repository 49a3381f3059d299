/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A request's way in: from the bytes of a client's stream to volume requests.
 *
 * Invariants: only client->current is not wholly issued; what stands behind it in the stream waits.
 * A slot is used from its header until its last message is sent; a piece from taking to release.
 */
#include <assert.h>
#include <errno.h>

#include "blockmig/worker/nbd_internal.h"

static struct nbds_request *take_slot(struct nbds_client *client)
{
    struct nbds_request *request = client->unused_requests;

    if (request) {
        client->unused_requests = request->next;
    } else if (client->fresh_requests < client->server->options.max_in_flight_requests) {
        request = &client->requests[client->fresh_requests++];
        request->client = client;
        request->live = 0;
        request->piece_used = false;
        request->piece.request = request;
        request->piece.buffer = NULL;
    } else {
        return NULL;
    }
    assert(!request->live && !request->piece_used);
    request->error = 0;
    request->issued_bytes = 0;
    request->streamed_bytes = 0;
    request->pending = 0;
    request->ready = NULL;
    client->requests_used++;
    return request;
}

static void drop_slot(struct nbds_request *request)
{
    struct nbds_client *client = request->client;

    request->next = client->unused_requests;
    client->unused_requests = request;
    client->requests_used--;
}

static struct nbds_piece *take_piece(struct nbds_request *request)
{
    struct nbds_client *client = request->client;
    struct nbds_piece *piece = &request->piece;

    if (!request->piece_used) {
        request->piece_used = true;
    } else {
        piece = client->unused_pieces;
        if (!piece)
            return NULL;
        client->unused_pieces = piece->next;
        piece->request = request;
    }
    request->live++;
    piece->buffer = NULL;
    piece->header_bytes = 0;
    piece->payload_bytes = 0;
    piece->filled_bytes = 0;
    return piece;
}

static void guest_done(struct bmig_volume_request *guest, int status)
{
    nbds_reply_piece(guest->user, status);
}

static void submit(struct nbds_piece *piece, enum bmig_op op, uint32_t flags)
{
    struct bmig_volume_request *guest = &piece->guest;

    guest->op = op;
    guest->flags = flags;
    guest->buffer = piece->buffer;
    guest->done = guest_done;
    guest->user = piece;
    piece->request->pending++;
    bmig_volume_submit(piece->request->client->server->volume, guest);
}

static void submit_read(struct nbds_piece *piece)
{
    struct nbds_request *request = piece->request;
    uint32_t rest = request->command.length - request->issued_bytes;

    piece->guest.offset = request->command.offset + request->issued_bytes;
    piece->guest.length = rest < piece->buffer->size_bytes ? rest : piece->buffer->size_bytes;
    piece->guest.data = piece->buffer->data;
    piece->payload_bytes = (uint32_t)piece->guest.length;
    piece->header_bytes = 0;
    request->issued_bytes += (uint32_t)piece->guest.length;
    if (request->issued_bytes == request->command.length)
        request->client->current = NULL;
    submit(piece, BMIG_READ, 0);
}

void nbds_piece_release(struct nbds_piece *piece)
{
    struct nbds_request *request = piece->request;
    struct nbds_client *client = request->client;

    /* A long READ by simple reply that has begun is in everyone's way, so it keeps its memory to
     * its end: if it had to ask again, it could wait for those that wait for it. */
    if (client->current == request && client->streaming == request && piece->buffer &&
        client->state != NBDS_CUT) {
        submit_read(piece);
        return;
    }
    if (piece->buffer)
        nbds_budget_put(client, piece->buffer);
    piece->buffer = NULL;
    if (piece == &request->piece) {
        request->piece_used = false;
    } else {
        piece->next = client->unused_pieces;
        client->unused_pieces = piece;
    }
    request->live--;
    if (request->live == 0 && client->current != request)
        drop_slot(request);
}

/* A piece of the current request with a buffer for want bytes, or for fewer. */
static struct nbds_piece *take_buffered(struct nbds_request *request, uint32_t want)
{
    struct nbds_client *client = request->client;
    struct nbds_piece *piece = take_piece(request);
    uint32_t size = want < BMIG_VOLUME_MAX_BYTES ? want : BMIG_VOLUME_MAX_BYTES;

    if (piece) {
        piece->buffer = nbds_budget_get(client, size);
        if (piece->buffer)
            return piece;
        nbds_piece_release(piece);
    }
    client->stalled = true;
    return NULL;
}

static bool continue_read(struct nbds_client *client, struct nbds_request *request)
{
    bool whole = request->command.flags & NBD_CMD_FLAG_DF;

    while (client->current == request) {
        uint32_t rest = request->command.length - request->issued_bytes;
        struct nbds_piece *piece = take_buffered(request, rest);

        if (!piece)
            return false;
        if (whole && piece->buffer->size_bytes < rest) {
            client->current = NULL;
            request->error = -EOVERFLOW;
            nbds_reply_request(piece, "too long for one chunk now");
            return true;
        }
        submit_read(piece);
    }
    return true;
}

static bool continue_status(struct nbds_client *client, struct nbds_request *request)
{
    struct nbds_piece *piece = take_buffered(request, BMIG_BUFFER_MIN_BYTES);

    if (!piece)
        return false;
    client->current = NULL;
    piece->extents.list = (struct bmig_extent *)piece->buffer->data;
    piece->extents.count = 0;
    piece->extents.capacity = request->command.flags & NBD_CMD_FLAG_REQ_ONE
                                  ? 1
                                  : piece->buffer->size_bytes / sizeof(struct bmig_extent);
    piece->guest.offset = request->command.offset;
    piece->guest.length = request->command.length;
    piece->guest.data = piece->buffer->data;
    piece->guest.extents = &piece->extents;
    submit(piece, BMIG_EXTENTS, 0);
    return true;
}

/* The first error of a WRITE ends the writing; the rest of its payload is only taken off the
 * stream. */
static void refuse_rest(struct nbds_client *client, struct nbds_request *request)
{
    struct nbds_piece *filling = client->filling;

    client->drain_bytes = request->command.length - request->issued_bytes;
    client->filling = NULL;
    client->current = NULL;
    if (request->pending == 0)
        nbds_reply_request(filling ? filling : take_piece(request), NULL);
    else if (filling)
        nbds_piece_release(filling);
}

static void piece_filled(struct nbds_client *client, uint32_t bytes)
{
    struct nbds_piece *piece = client->filling;
    struct nbds_request *request = client->current;

    piece->filled_bytes += bytes;
    request->issued_bytes += bytes;
    if (piece->filled_bytes < piece->guest.length)
        return;
    client->filling = NULL;
    if (request->issued_bytes == request->command.length)
        client->current = NULL;
    submit(piece, BMIG_WRITE, request->command.flags & NBD_CMD_FLAG_FUA ? BMIG_FUA : 0);
}

static bool continue_write(struct nbds_client *client, struct nbds_request *request)
{
    while (client->current == request) {
        uint32_t rest = request->command.length - request->issued_bytes;
        uint32_t have = client->rx_tail - client->rx_head;
        struct nbds_piece *piece = client->filling;
        uint32_t room;

        if (request->error) {
            refuse_rest(client, request);
            return true;
        }
        if (!piece) {
            piece = take_buffered(request, rest);
            if (!piece)
                return false;
            piece->guest.offset = request->command.offset + request->issued_bytes;
            piece->guest.length =
                rest < piece->buffer->size_bytes ? rest : piece->buffer->size_bytes;
            piece->guest.data = piece->buffer->data;
            client->filling = piece;
        }
        if (have == 0)
            return false;
        room = (uint32_t)piece->guest.length - piece->filled_bytes;
        if (have > room)
            have = room;
        memcpy(piece->guest.data + piece->filled_bytes, client->rx_buffer + client->rx_head, have);
        client->rx_head += have;
        piece_filled(client, have);
    }
    return true;
}

bool nbds_request_continue(struct nbds_client *client)
{
    struct nbds_request *request = client->current;

    switch (request->command.type) {
    case NBD_CMD_READ:
        return continue_read(client, request);
    case NBD_CMD_WRITE:
        return continue_write(client, request);
    default:
        return continue_status(client, request);
    }
}

void nbds_request_filled(struct nbds_client *client, uint32_t bytes)
{
    piece_filled(client, bytes);
}

void nbds_request_abandon(struct nbds_client *client)
{
    struct nbds_request *request = client->current;
    struct nbds_piece *filling = client->filling;

    client->drain_bytes = 0;
    if (!request)
        return;
    if (!request->error)
        request->error = -ESHUTDOWN; /* it must not be answered as if all of it had come */
    client->current = NULL;
    client->filling = NULL;
    if (filling)
        nbds_piece_release(filling);
    else if (request->live == 0)
        drop_slot(request);
}

static uint32_t zero_flags(unsigned flags)
{
    return (flags & NBD_CMD_FLAG_FUA ? BMIG_FUA : 0) |
           (flags & NBD_CMD_FLAG_NO_HOLE ? 0 : BMIG_MAY_UNMAP) |
           (flags & NBD_CMD_FLAG_FAST_ZERO ? BMIG_FAST_ONLY : 0);
}

/* A valid request that is not empty. */
static bool begin(struct nbds_client *client, struct nbds_request *request)
{
    const struct bmig_nbds_command *command = &request->command;
    struct nbds_piece *piece;

    if (command->type == NBD_CMD_READ || command->type == NBD_CMD_WRITE ||
        command->type == NBD_CMD_BLOCK_STATUS) {
        client->current = request;
        return nbds_request_continue(client);
    }
    piece = take_piece(request);
    piece->guest.offset = command->offset;
    piece->guest.length = command->length;
    if (command->type == NBD_CMD_FLUSH)
        submit(piece, BMIG_FLUSH, 0);
    else if (command->type == NBD_CMD_TRIM)
        submit(piece, BMIG_DISCARD, command->flags & NBD_CMD_FLAG_FUA ? BMIG_FUA : 0);
    else
        submit(piece, BMIG_ZERO, zero_flags(command->flags));
    return true;
}

bool nbds_request_next(struct nbds_client *client)
{
    struct bmig_nbds_command command;
    struct nbds_request *request;
    const char *why = NULL;

    if (client->rx_tail - client->rx_head < NBD_REQUEST_BYTES)
        return false;
    if (!bmig_nbds_command_parse(&command, client->rx_buffer + client->rx_head)) {
        nbds_client_cut(client);
        return false;
    }
    if (command.type == NBD_CMD_DISC) {
        nbds_client_end(client, 0);
        return false;
    }
    request = take_slot(client);
    if (!request) {
        client->stalled = true;
        return false;
    }
    client->rx_head += NBD_REQUEST_BYTES;
    request->command = command;
    request->error = bmig_nbds_command_check(&command, &client->session, &why);
    if (request->error == 0 && (command.length || command.type == NBD_CMD_FLUSH))
        return begin(client, request);
    if (command.type == NBD_CMD_WRITE)
        client->drain_bytes = command.length;
    nbds_reply_request(take_piece(request), why);
    return true;
}
