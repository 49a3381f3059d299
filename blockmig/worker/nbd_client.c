/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A client: its socket both ways, its handshake, its end.
 *
 * Invariants: at most one RECV and one SENDMSG are under way. It receives only what it can take in
 * at once: not while its current request waits. It is freed by its own task only, once its socket
 * is quiet and the volume has given back every request.
 */
#include <assert.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <unistd.h>

#include "blockmig/worker/nbd_internal.h"

static const uint64_t LINGER_NS = UINT64_C(30000000000); /* for answers that nobody fetches */

static void rx_done(struct bmig_io *io, int result);
static void tx_done(struct bmig_io *io, int result);

void nbds_client_kick(struct nbds_client *client)
{
    bmig_loop_defer(client->server->loop, &client->task);
}

/* ---- out ---- */

static void send_iovecs(struct nbds_client *client, int count)
{
    client->tx_msg = (struct msghdr){.msg_iov = client->tx_iov, .msg_iovlen = (size_t)count};
    client->tx = (struct bmig_io){.op = BMIG_IO_SENDMSG,
                                  .fd = client->fd,
                                  .msg = &client->tx_msg,
                                  .done = tx_done,
                                  .user = client};
    client->tx_busy = true;
    bmig_loop_io(client->server->loop, &client->tx);
}

/* Tries the socket itself first: it mostly has room, and then the answer is out, and its memory
 * back, without a round through the loop. Returns false where the loop has to wait for room. */
static bool send_now(struct nbds_client *client, int count)
{
    struct msghdr message = {.msg_iov = client->tx_iov, .msg_iovlen = (size_t)count};
    ssize_t sent = sendmsg(client->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);

    if (sent > 0)
        nbds_reply_sent(client, (size_t)sent);
    return sent > 0;
}

static void flush(struct nbds_client *client)
{
    int count;

    if (client->tx_busy || client->state == NBDS_CUT || client->handshake)
        return;
    while ((count = nbds_reply_gather(client))) {
        if (!send_now(client, count)) {
            send_iovecs(client, count);
            return;
        }
    }
}

static void send_handshake(struct nbds_client *client)
{
    struct bmig_nbds_handshake *hs = client->handshake;

    client->tx_iov[0] =
        (struct iovec){hs->out + client->out_sent_bytes, hs->out_bytes - client->out_sent_bytes};
    send_iovecs(client, 1);
}

static void enter_transmission(struct nbds_client *client)
{
    const struct bmig_nbds_handshake *hs = client->handshake;

    client->session = (struct bmig_nbds_session){
        .size_bytes = hs->export->size_bytes,
        .max_data_bytes = NBDS_MAX_DATA_BYTES,
        .read_only = hs->export->flags & NBD_FLAG_READ_ONLY,
        .structured = hs->structured,
        .allocation = hs->allocation,
    };
    bmig_timer_stop(&client->timer);
    free(client->handshake);
    client->handshake = NULL;
    client->state = NBDS_TRANSMISSION;
    nbds_client_run(client);
}

static void handshake_sent(struct nbds_client *client, int bytes)
{
    struct bmig_nbds_handshake *hs = client->handshake;

    client->out_sent_bytes += (uint32_t)bytes;
    if (client->out_sent_bytes < hs->out_bytes) {
        send_handshake(client);
        return;
    }
    client->out_sent_bytes = 0;
    hs->out_bytes = 0;
    if (hs->phase == BMIG_NBDS_READY)
        enter_transmission(client);
    else if (hs->phase == BMIG_NBDS_GOODBYE)
        nbds_client_cut(client);
    else
        nbds_client_run(client);
}

static void tx_done(struct bmig_io *io, int result)
{
    struct nbds_client *client = io->user;

    client->tx_busy = false;
    if (client->state == NBDS_CUT) {
        nbds_reply_drop(client);
    } else if (result < 0) {
        nbds_client_cut(client);
    } else if (client->handshake) {
        handshake_sent(client, result);
    } else {
        nbds_reply_sent(client, (size_t)result);
        if (client->stalled)
            nbds_client_run(client);
        flush(client);
    }
    if (client->state >= NBDS_ENDING)
        nbds_client_kick(client);
}

/* ---- in ---- */

static void receive(struct nbds_client *client)
{
    const struct nbds_piece *filling = client->filling;
    uint32_t room = filling ? (uint32_t)filling->guest.length - filling->filled_bytes : 0;
    uint32_t left = client->rx_tail - client->rx_head;

    client->rx_direct = room >= NBDS_DIRECT_BYTES && left == 0;
    if (client->rx_head) {
        memmove(client->rx_buffer, client->rx_buffer + client->rx_head, left);
        client->rx_head = 0;
        client->rx_tail = left;
    }
    client->rx = (struct bmig_io){
        .op = BMIG_IO_RECV,
        .fd = client->fd,
        .data = client->rx_direct ? filling->guest.data + filling->filled_bytes
                                  : client->rx_buffer + left,
        .length = client->rx_direct ? room : NBDS_RX_BYTES - left,
        .done = rx_done,
        .user = client,
    };
    client->rx_busy = true;
    bmig_loop_io(client->server->loop, &client->rx);
}

static void run_handshake(struct nbds_client *client)
{
    struct bmig_nbds_handshake *hs = client->handshake;
    size_t used = 1;

    while (used && !client->tx_busy) {
        used = bmig_nbds_handshake_input(hs, client->rx_buffer + client->rx_head,
                                         client->rx_tail - client->rx_head);
        client->rx_head += (uint32_t)used;
        if (hs->out_bytes)
            send_handshake(client);
        else if (hs->phase == BMIG_NBDS_GOODBYE)
            break;
    }
    if (hs->phase == BMIG_NBDS_GOODBYE && !client->tx_busy)
        nbds_client_cut(client);
    else if (!client->tx_busy)
        receive(client);
}

/* One step on what was received. False where nothing more can be done now. */
static bool advance(struct nbds_client *client)
{
    uint32_t have = client->rx_tail - client->rx_head;

    if (client->drain_bytes) {
        uint32_t now = have < client->drain_bytes ? have : client->drain_bytes;

        client->rx_head += now;
        client->drain_bytes -= now;
        return client->drain_bytes == 0;
    }
    if (client->current)
        return nbds_request_continue(client);
    return client->state == NBDS_TRANSMISSION && nbds_request_next(client);
}

void nbds_client_run(struct nbds_client *client)
{
    if (client->rx_busy || client->state == NBDS_CUT)
        return;
    if (client->handshake) {
        if (!client->tx_busy)
            run_handshake(client);
        return;
    }
    client->stalled = false;
    while (advance(client))
        continue;
    if (!client->stalled)
        nbds_client_kick(client); /* to receive */
}

static void rx_done(struct bmig_io *io, int result)
{
    struct nbds_client *client = io->user;

    client->rx_busy = false;
    if (client->state >= NBDS_ENDING) {
        if (client->state == NBDS_ENDING && client->current)
            nbds_client_run(client);
        nbds_client_kick(client);
    } else if (result <= 0) {
        /* What it has asked for is carried out whether or not it waits for the answers. */
        if (client->handshake || result < 0)
            nbds_client_cut(client);
        else
            nbds_client_end(client, 0);
    } else {
        if (client->rx_direct)
            nbds_request_filled(client, (uint32_t)result);
        else
            client->rx_tail += (uint32_t)result;
        nbds_client_run(client);
    }
}

/* ---- beginning and end ---- */

static void client_free(struct nbds_client *client)
{
    struct bmig_nbd_server *server = client->server;

    assert(client->used_bytes == 0 && !client->active);
    bmig_timer_stop(&client->timer);
    close(client->fd);
    *client->link = client->next;
    if (client->next)
        client->next->link = client->link;
    free(client->requests);
    free(client->rx_buffer);
    free(client);
    server->client_count--;
    if (server->stopping)
        bmig_loop_defer(server->loop, &server->stop_task);
    if (server->options.clients_changed)
        server->options.clients_changed(server->options.user, server->client_count);
}

static void turn(struct bmig_task *task)
{
    struct nbds_client *client =
        (struct nbds_client *)((char *)task - offsetof(struct nbds_client, task));

    /* What is sent gives back what a stalled request waits for; what that leads to is answered now
     * or, since every answer kicks, in another turn. */
    flush(client);
    if (client->stalled) {
        nbds_client_run(client);
        flush(client);
    }
    /* Last: the kernel takes the loop's operations in order, and others wait for the answers. */
    if (client->state == NBDS_TRANSMISSION && !client->stalled && !client->rx_busy)
        receive(client);
    if (client->state >= NBDS_ENDING && !client->rx_busy && !client->tx_busy && !client->out.head &&
        client->requests_used == 0)
        client_free(client);
}

static void timer_fired(struct bmig_timer *timer)
{
    nbds_client_cut((struct nbds_client *)((char *)timer - offsetof(struct nbds_client, timer)));
}

void nbds_client_end(struct nbds_client *client, uint64_t bound_ns)
{
    if (client->handshake) {
        nbds_client_cut(client);
        return;
    }
    if (client->state < NBDS_ENDING) {
        client->state = NBDS_ENDING;
        if (client->current && client->current->command.type == NBD_CMD_WRITE)
            nbds_request_abandon(client);
        client->drain_bytes = 0;
        if (client->rx_busy)
            bmig_loop_io_cancel(client->server->loop, &client->rx);
    }
    if (client->state == NBDS_ENDING)
        bmig_timer_start(client->server->loop, &client->timer, bound_ns ? bound_ns : LINGER_NS);
    nbds_client_kick(client);
}

void nbds_client_cut(struct nbds_client *client)
{
    if (client->state == NBDS_CUT)
        return;
    client->state = NBDS_CUT;
    client->stalled = false;
    bmig_timer_stop(&client->timer);
    nbds_budget_forget(client);
    free(client->handshake);
    client->handshake = NULL;
    nbds_request_abandon(client);
    shutdown(client->fd, SHUT_RDWR);
    if (client->rx_busy)
        bmig_loop_io_cancel(client->server->loop, &client->rx);
    if (client->tx_busy)
        bmig_loop_io_cancel(client->server->loop, &client->tx);
    else
        nbds_reply_drop(client);
    nbds_client_kick(client);
}

/* The socket's own buffer holds a whole long answer, so that it goes out without a round of
 * waiting. TCP sizes its own. */
static void set_socket_options(int fd)
{
    struct sockaddr_storage address = {.ss_family = AF_UNSPEC};
    socklen_t length = sizeof(address);
    int one = 1, bytes = 1 << 20;

    if (getsockname(fd, (struct sockaddr *)&address, &length) == 0 && address.ss_family != AF_UNIX)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    else if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)))
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
}

static struct nbds_client *allocate(struct bmig_nbd_server *server)
{
    struct nbds_client *client = calloc(1, sizeof(*client));

    if (!client)
        return NULL;
    client->rx_buffer = malloc(NBDS_RX_BYTES);
    client->requests = malloc(sizeof(*client->requests) * server->options.max_in_flight_requests);
    client->handshake = malloc(sizeof(*client->handshake));
    if (!client->rx_buffer || !client->requests || !client->handshake) {
        free(client->rx_buffer);
        free(client->requests);
        free(client->handshake);
        free(client);
        return NULL;
    }
    return client;
}

void nbds_client_new(struct bmig_nbd_server *server, int fd)
{
    struct nbds_client *client = allocate(server);

    if (!client) {
        close(fd);
        return;
    }
    set_socket_options(fd);
    client->server = server;
    client->fd = fd;
    client->timer.fire = timer_fired;
    client->task.run = turn;
    for (int i = 0; i < NBDS_EXTRA_PIECES; i++) {
        client->extra[i].next = client->unused_pieces;
        client->unused_pieces = &client->extra[i];
    }
    client->next = server->clients;
    client->link = &server->clients;
    if (client->next)
        client->next->link = &client->next;
    server->clients = client;
    server->client_count++;
    bmig_timer_start(server->loop, &client->timer, server->options.handshake_timeout_ns);
    bmig_nbds_handshake_init(client->handshake, &server->export);
    send_handshake(client);
    if (server->options.clients_changed)
        server->options.clients_changed(server->options.user, server->client_count);
}
