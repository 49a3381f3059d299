/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A request's way out: from finished volume requests to messages on the client's stream, data by
 * reference.
 *
 * Invariants: a message is wholly in client->out before the next begins; a simple reply whose data
 * comes in pieces (client->streaming) has nothing between them: other messages are held until it is
 * whole. Chunks of structured replies go out as their pieces finish, in any order ("Structured
 * reply chunk message").
 */
#include <assert.h>
#include <errno.h>

#include "blockmig/worker/nbd_internal.h"

static void append(struct nbds_list *list, struct nbds_piece *piece)
{
    piece->next = NULL;
    if (list->head)
        list->tail->next = piece;
    else
        list->head = piece;
    list->tail = piece;
}

static struct nbds_piece *pop(struct nbds_list *list)
{
    struct nbds_piece *piece = list->head;

    if (piece)
        list->head = piece->next;
    return piece;
}

/* Queues a whole message. */
static void queue(struct nbds_client *client, struct nbds_piece *piece)
{
    append(client->streaming ? &client->held : &client->out, piece);
}

static void put_simple(struct nbds_piece *piece, int error)
{
    uint8_t *at = nbd_put_u32(piece->header, NBD_SIMPLE_REPLY_MAGIC);

    at = nbd_put_u32(at, error ? bmig_nbds_error_number(error) : 0);
    at = nbd_put_u64(at, piece->request->command.cookie);
    piece->header_bytes = (uint32_t)(at - piece->header);
}

static uint8_t *put_chunk(struct nbds_piece *piece, bool last, enum nbd_reply_type type,
                          size_t length)
{
    uint8_t *at = nbd_put_u32(piece->header, NBD_STRUCTURED_REPLY_MAGIC);

    at = nbd_put_u16(at, last ? NBD_REPLY_FLAG_DONE : 0);
    at = nbd_put_u16(at, (uint16_t)type);
    at = nbd_put_u64(at, piece->request->command.cookie);
    at = nbd_put_u32(at, (uint32_t)length);
    piece->header_bytes = (uint32_t)(at - piece->header);
    return at;
}

static void put_error_chunk(struct nbds_piece *piece, int error, const char *why)
{
    const char *words = why ? why : bmig_strerror(error < 0 ? -error : error);
    size_t room = sizeof(piece->header) - NBD_CHUNK_HEADER_BYTES - 6;
    size_t length = strlen(words) < room ? strlen(words) : room;
    uint8_t *at = put_chunk(piece, true, NBD_REPLY_TYPE_ERROR, 6 + length);

    at = nbd_put_u32(at, bmig_nbds_error_number(error));
    at = nbd_put_u16(at, (uint16_t)length);
    memcpy(at, words, length);
    piece->header_bytes += (uint32_t)(6 + length);
}

static void drop_buffer(struct nbds_piece *piece)
{
    if (piece->buffer)
        nbds_budget_put(piece->request->client, piece->buffer);
    piece->buffer = NULL;
    piece->payload_bytes = 0;
}

void nbds_reply_request(struct nbds_piece *piece, const char *why)
{
    struct nbds_request *request = piece->request;
    struct nbds_client *client = request->client;

    drop_buffer(piece);
    if (client->session.structured && request->error)
        put_error_chunk(piece, request->error, why);
    else if (client->session.structured && request->command.type == NBD_CMD_READ)
        put_chunk(piece, true, NBD_REPLY_TYPE_NONE, 0);
    else
        put_simple(piece, request->error);
    queue(client, piece);
    nbds_client_kick(client);
}

/* The piece that ends a failed READ carries the error; those before it carry nothing any more. */
static void read_failed(struct nbds_piece *piece)
{
    struct nbds_request *request = piece->request;
    struct nbds_client *client = request->client;

    if (client->current == request)
        client->current = NULL;
    while (request->ready) {
        struct nbds_piece *ready = request->ready;

        request->ready = ready->next;
        nbds_piece_release(ready);
    }
    if (request->pending == 0)
        nbds_reply_request(piece, NULL);
    else
        nbds_piece_release(piece);
}

static void read_chunk(struct nbds_piece *piece)
{
    struct nbds_request *request = piece->request;
    struct nbds_client *client = request->client;
    bool last = request->pending == 0 && client->current != request;
    uint8_t *at =
        put_chunk(piece, last, NBD_REPLY_TYPE_OFFSET_DATA, 8 + (size_t)piece->payload_bytes);

    nbd_put_u64(at, piece->guest.offset);
    piece->header_bytes += 8;
    queue(client, piece);
}

static struct nbds_piece *take_ready(struct nbds_request *request)
{
    uint64_t offset = request->command.offset + request->streamed_bytes;

    for (struct nbds_piece **link = &request->ready; *link; link = &(*link)->next) {
        struct nbds_piece *piece = *link;

        if (piece->guest.offset == offset) {
            *link = piece->next;
            return piece;
        }
    }
    return NULL;
}

static void release_held(struct nbds_client *client);

/* Sends what a READ by simple reply has ready, from where it stands. */
static void stream(struct nbds_request *request)
{
    struct nbds_client *client = request->client;
    struct nbds_piece *piece;

    while ((piece = take_ready(request))) {
        if (client->streaming && client->streaming != request) {
            append(&client->held,
                   piece); /* as a data message without a header: release_held knows it */
            return;
        }
        if (request->streamed_bytes == 0)
            put_simple(piece, 0);
        append(&client->out, piece);
        request->streamed_bytes += piece->payload_bytes;
        if (request->streamed_bytes == request->command.length) {
            if (client->streaming) {
                client->streaming = NULL;
                release_held(client);
            }
            return;
        }
        client->streaming = request;
    }
}

static void release_held(struct nbds_client *client)
{
    struct nbds_list held = client->held;
    struct nbds_piece *piece;

    client->held = (struct nbds_list){NULL, NULL};
    while ((piece = pop(&held))) {
        struct nbds_request *request = piece->request;

        if (piece->header_bytes) {
            queue(client, piece);
        } else if (request->error) {
            nbds_piece_release(piece);
        } else {
            piece->next = request->ready;
            request->ready = piece;
            stream(request);
        }
    }
}

static void read_simple(struct nbds_piece *piece)
{
    struct nbds_request *request = piece->request;

    piece->next = request->ready;
    request->ready = piece;
    stream(request);
}

static void read_done(struct nbds_piece *piece)
{
    struct nbds_request *request = piece->request;
    struct nbds_client *client = request->client;

    if (request->error && request->streamed_bytes) {
        /* "NBD_CMD_READ", simple replies: an error after the header can only be said by hanging up.
         */
        nbds_client_cut(client);
        nbds_piece_release(piece);
    } else if (request->error) {
        read_failed(piece);
    } else if (client->session.structured) {
        read_chunk(piece);
    } else {
        read_simple(piece);
    }
}

/* The extents become descriptors in place: 16 bytes each are read before the 8 that take their room
 * are written. */
static void status_done(struct nbds_piece *piece)
{
    uint8_t *at = piece->guest.data;
    uint32_t count = piece->extents.count;

    if (piece->request->error) {
        nbds_reply_request(piece, NULL);
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        struct bmig_extent extent = piece->extents.list[i];
        uint32_t state = (extent.flags & BMIG_EXTENT_HOLE ? NBD_STATE_HOLE : 0) |
                         (extent.flags & BMIG_EXTENT_ZERO ? NBD_STATE_ZERO : 0);

        at = nbd_put_u32(at, (uint32_t)extent.length_bytes);
        at = nbd_put_u32(at, state);
    }
    piece->payload_bytes = 8 * count;
    nbd_put_u32(put_chunk(piece, true, NBD_REPLY_TYPE_BLOCK_STATUS, 4 + 8 * (size_t)count),
                BMIG_NBDS_CONTEXT_ID);
    piece->header_bytes += 4;
    queue(piece->request->client, piece);
}

void nbds_reply_piece(struct nbds_piece *piece, int status)
{
    struct nbds_request *request = piece->request;
    struct nbds_client *client = request->client;

    request->pending--;
    if (status < 0 && !request->error)
        request->error = status;
    if (client->state == NBDS_CUT) {
        nbds_piece_release(piece);
    } else if (request->command.type == NBD_CMD_READ) {
        read_done(piece);
    } else if (request->command.type == NBD_CMD_BLOCK_STATUS) {
        status_done(piece);
    } else if (request->pending == 0 && client->current != request) {
        nbds_reply_request(piece, NULL);
    } else {
        nbds_piece_release(piece);
    }
    nbds_client_kick(client);
}

int nbds_reply_gather(struct nbds_client *client)
{
    uint32_t skip = client->out_sent_bytes;
    int count = 0;

    for (struct nbds_piece *piece = client->out.head; piece && count + 2 <= NBDS_IOVECS;
         piece = piece->next) {
        uint32_t header = piece->header_bytes;

        if (skip < header)
            client->tx_iov[count++] = (struct iovec){piece->header + skip, header - skip};
        skip = skip < header ? 0 : skip - header;
        if (piece->payload_bytes)
            client->tx_iov[count++] =
                (struct iovec){piece->guest.data + skip, piece->payload_bytes - skip};
        skip = 0;
    }
    return count;
}

void nbds_reply_sent(struct nbds_client *client, size_t bytes)
{
    bytes += client->out_sent_bytes;
    while (client->out.head) {
        struct nbds_piece *piece = client->out.head;
        size_t whole = (size_t)piece->header_bytes + piece->payload_bytes;

        if (bytes < whole)
            break;
        bytes -= whole;
        pop(&client->out);
        nbds_piece_release(piece);
    }
    client->out_sent_bytes = (uint32_t)bytes;
}

static void drop_list(struct nbds_list *list)
{
    struct nbds_piece *piece;

    while ((piece = pop(list)))
        nbds_piece_release(piece);
}

void nbds_reply_drop(struct nbds_client *client)
{
    assert(!client->tx_busy && client->state == NBDS_CUT);
    client->streaming = NULL;
    client->out_sent_bytes = 0;
    drop_list(&client->out);
    drop_list(&client->held);
    for (uint32_t i = 0; i < client->fresh_requests; i++) {
        struct nbds_piece *piece = client->requests[i].ready;

        client->requests[i].ready = NULL;
        while (piece) {
            struct nbds_piece *next = piece->next;

            nbds_piece_release(piece);
            piece = next;
        }
    }
}
