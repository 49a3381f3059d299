/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Who may hold how much memory: every client has a small reserve that nobody can take from it, and
 * the rest is shared evenly among those that are active.
 *
 * Invariants: shared_used_bytes is the sum, over clients, of what each holds beyond its reserve,
 * and never exceeds shared_bytes. A client that is refused waits in a queue; while there is a
 * queue, the shared part goes to those in it, in turn. So a client that floods, or that never reads
 * its answers, leaves every other at least its reserve, with which any request can be carried out
 * piece by piece.
 */
#include <assert.h>

#include "blockmig/worker/nbd_internal.h"

/* A READ of this length must be possible in one chunk (NBD_CMD_FLAG_DF). */
enum { RESERVE_BYTES = 65536 };

static uint64_t beyond_reserve(const struct nbds_client *client, uint64_t used)
{
    uint32_t reserve = client->server->reserve_bytes;

    return used > reserve ? used - reserve : 0;
}

static uint32_t size_class(uint32_t bytes)
{
    uint32_t size = BMIG_BUFFER_MIN_BYTES;

    while (size < bytes)
        size *= 2;
    return size;
}

static void set_active(struct nbds_client *client)
{
    bool active = client->used_bytes || client->waits_budget;

    if (active == client->active)
        return;
    client->active = active;
    if (active)
        client->server->active_clients++;
    else
        client->server->active_clients--;
}

static bool may_take(const struct nbds_client *client, uint32_t size)
{
    const struct bmig_nbd_server *server = client->server;
    uint64_t now = beyond_reserve(client, client->used_bytes);
    uint64_t then = beyond_reserve(client, (uint64_t)client->used_bytes + size);
    uint32_t sharers = server->active_clients + (client->active ? 0 : 1);

    if (then == 0)
        return true;
    if (server->wait_head && server->granting != client)
        return false;
    return then <= server->shared_bytes / sharers &&
           server->shared_used_bytes + then - now <= server->shared_bytes;
}

static void charge(struct nbds_client *client, uint32_t size)
{
    uint64_t before = beyond_reserve(client, client->used_bytes);

    client->used_bytes += size;
    client->server->shared_used_bytes += beyond_reserve(client, client->used_bytes) - before;
    set_active(client);
}

static void wait_for_budget(struct nbds_client *client)
{
    struct bmig_nbd_server *server = client->server;

    if (client->waits_budget)
        return;
    client->waits_budget = true;
    client->wait_next = NULL;
    if (server->wait_head)
        server->wait_tail->wait_next = client;
    else
        server->wait_head = client;
    server->wait_tail = client;
    set_active(client);
}

static void defer_wake(struct bmig_nbd_server *server)
{
    if (!server->wait_head)
        return;
    server->waking = true;
    bmig_loop_defer(server->loop, &server->wake);
}

/* One round: each that waits has one turn, and goes to the end of the queue if it was not enough.
 */
static void wake(struct bmig_task *task)
{
    struct bmig_nbd_server *server =
        (struct bmig_nbd_server *)((char *)task - offsetof(struct bmig_nbd_server, wake));
    struct nbds_client *last = server->wait_tail, *client = NULL;

    server->waking = false;
    while (server->wait_head && client != last) {
        client = server->wait_head;
        server->wait_head = client->wait_next;
        client->waits_budget = false;
        set_active(client);
        server->granting = client;
        nbds_client_run(client);
        server->granting = NULL;
    }
}

static void pool_ready(struct bmig_buffer_wait *wait)
{
    struct nbds_client *client =
        (struct nbds_client *)((char *)wait - offsetof(struct nbds_client, pool_wait));

    client->waits_pool = false;
    nbds_client_run(client);
}

void nbds_budget_init(struct bmig_nbd_server *server)
{
    uint64_t total = server->options.max_in_flight_bytes;
    uint64_t reserved = (uint64_t)RESERVE_BYTES * server->options.max_clients;

    server->reserve_bytes = RESERVE_BYTES;
    server->shared_bytes = total > reserved ? total - reserved : 0;
    server->wake.run = wake;
}

struct bmig_buffer *nbds_budget_get(struct nbds_client *client, uint32_t want)
{
    struct bmig_nbd_server *server = client->server;
    uint32_t smallest = size_class(want < server->reserve_bytes ? want : server->reserve_bytes);
    bool granted = false;

    if (client->waits_budget || client->waits_pool)
        return NULL;
    for (uint32_t size = size_class(want); size >= smallest; size /= 2) {
        struct bmig_buffer *buffer;

        if (!may_take(client, size))
            continue;
        granted = true;
        buffer = bmig_buffer_get(server->pool, size);
        if (buffer) {
            charge(client, buffer->size_bytes);
            return buffer;
        }
    }
    if (granted) {
        client->waits_pool = true;
        client->pool_wait.ready = pool_ready;
        bmig_pool_wait(server->pool, &client->pool_wait);
    } else {
        wait_for_budget(client);
    }
    return NULL;
}

void nbds_budget_put(struct nbds_client *client, struct bmig_buffer *buffer)
{
    struct bmig_nbd_server *server = client->server;
    uint64_t before = beyond_reserve(client, client->used_bytes);

    assert(client->used_bytes >= buffer->size_bytes);
    client->used_bytes -= buffer->size_bytes;
    server->shared_used_bytes -= before - beyond_reserve(client, client->used_bytes);
    bmig_buffer_unref(buffer);
    set_active(client);
    defer_wake(server);
}

void nbds_budget_forget(struct nbds_client *client)
{
    struct bmig_nbd_server *server = client->server;
    struct nbds_client *before = NULL;

    if (client->waits_pool)
        bmig_pool_cancel(server->pool, &client->pool_wait);
    client->waits_pool = false;
    if (!client->waits_budget)
        return;
    for (struct nbds_client *at = server->wait_head; at != client; at = at->wait_next)
        before = at;
    if (before)
        before->wait_next = client->wait_next;
    else
        server->wait_head = client->wait_next;
    if (server->wait_tail == client)
        server->wait_tail = before;
    client->waits_budget = false;
    set_active(client);
    /* Its turn at the head may have been what the next one waited for. */
    defer_wake(server);
}
