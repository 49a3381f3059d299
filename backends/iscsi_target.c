/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Names: iscsi://[user@]host[:port]/target-name/lun, and the ISIDs of our sessions.
 *
 * RFC 7143 6.3.5: a login with the initiator name and ISID of a session that the target still holds
 * reinstates it: the old session's tasks are ended before the new one serves a command. So an ISID
 * is what fences a dead connection, if the same one is used again. Each process has a random ISID
 * stem, and every session onto a target takes the lowest qualifier that no live session of this
 * process has: a disk that is closed, or lost, and opened again finds the ISIDs it had.
 */
#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "backends/iscsi.h"

enum { SLOTS = 256, DEFAULT_PORT = 3260, MAX_LUN = 16383 };

struct slot_table {
    struct slot_table *next;
    char name[BMIG_ISCSI_NAME_BYTES];
    unsigned used_count;
    bool used[SLOTS];
};

static pthread_mutex_t slot_lock = PTHREAD_MUTEX_INITIALIZER;
static struct slot_table *slot_tables;
static uint32_t isid_stem;

static struct slot_table *find_table(const char *name)
{
    struct slot_table *table = slot_tables;
    while (table && strcmp(table->name, name) != 0)
        table = table->next;
    if (table)
        return table;
    table = calloc(1, sizeof *table);
    if (!table)
        return NULL;
    snprintf(table->name, sizeof table->name, "%s", name);
    table->next = slot_tables;
    slot_tables = table;
    return table;
}

static void release_slots(struct bmig_iscsi_target *target)
{
    pthread_mutex_lock(&slot_lock);
    struct slot_table *table = find_table(target->name);
    for (unsigned i = 0; table && i < target->session_count; i++) {
        if (target->slots[i] < 0)
            continue;
        table->used[target->slots[i]] = false;
        table->used_count--;
        target->slots[i] = -1;
    }
    for (struct slot_table **link = &slot_tables; *link;) {
        struct slot_table *each = *link;
        if (each->used_count == 0) {
            *link = each->next;
            free(each);
        } else {
            link = &each->next;
        }
    }
    pthread_mutex_unlock(&slot_lock);
}

static int take_slots(struct bmig_iscsi_target *target)
{
    pthread_mutex_lock(&slot_lock);
    while (isid_stem == 0) {
        if (getrandom(&isid_stem, sizeof isid_stem, 0) != sizeof isid_stem)
            isid_stem = (uint32_t)getpid();
        isid_stem &= 0xffffff;
    }
    target->isid = isid_stem;
    struct slot_table *table = find_table(target->name);
    unsigned taken = 0;
    for (int slot = 0; table && slot < SLOTS && taken < target->session_count; slot++) {
        if (table->used[slot])
            continue;
        table->used[slot] = true;
        table->used_count++;
        target->slots[taken++] = slot;
    }
    pthread_mutex_unlock(&slot_lock);
    return taken == target->session_count ? 0 : table ? -EUSERS : -ENOMEM;
}

/* RFC 7143 4.2.7: what may be in a name. Blanks and control characters would also forge keys of the
 * login. */
static bool good_name(const char *name)
{
    size_t length = strlen(name);
    if (length == 0 || length >= BMIG_ISCSI_NAME_BYTES)
        return false;
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)name[i];
        if (c <= ' ' || c == 0x7f || c == '/')
            return false;
    }
    return true;
}

static void default_initiator(char *name, size_t capacity)
{
    char host[128] = "localhost";
    gethostname(host, sizeof host - 1);
    for (char *c = host; *c; c++)
        *c = isalnum((unsigned char)*c) || *c == '.' || *c == '-' ? (char)tolower((unsigned char)*c)
                                                                  : '-';
    snprintf(name, capacity, "iqn.2026-01.io.blockmig:%s", host);
}

static int parse_path(struct bmig_iscsi_target *target, const struct bmig_uri *uri,
                      struct bmig_error *err)
{
    const char *name = uri->path[0] == '/' ? uri->path + 1 : uri->path;
    const char *slash = strrchr(name, '/');
    if (name[0] == 0)
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "'%s' names no target: iscsi://HOST/TARGET-NAME/LUN is needed",
                              uri->text);
    if (!slash || slash[1] == 0)
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "'%s' has no LUN: iscsi://HOST/TARGET-NAME/LUN is needed", uri->text);
    char *end;
    errno = 0;
    unsigned long lun = strtoul(slash + 1, &end, 10);
    if (!isdigit((unsigned char)slash[1]) || *end || errno || lun > MAX_LUN)
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "'%s': the LUN '%s' is not a number from 0 to %d", uri->text,
                              slash + 1, MAX_LUN);
    /* SAM-5 4.7.7: peripheral addressing below 256, flat space addressing above. */
    target->lun = (uint16_t)(lun < 256 ? lun : lun | 0x4000);
    snprintf(target->name, sizeof target->name, "%.*s", (int)(slash - name), name);
    if ((size_t)(slash - name) >= sizeof target->name || !good_name(target->name))
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "'%s': the target's name is not an iSCSI name", uri->text);
    return 0;
}

static int parse_portal(struct bmig_iscsi_target *target, const struct bmig_uri *uri,
                        struct bmig_error *err)
{
    if (!uri->host || !uri->host[0])
        return bmig_error_set(err, BMIG_USAGE, EINVAL, "'%s' has no host", uri->text);
    if (strlen(uri->host) > 255 || strchr(uri->host, ','))
        return bmig_error_set(err, BMIG_USAGE, EINVAL, "'%s': the host is not a name or address",
                              uri->text);
    bool v6 = strchr(uri->host, ':') != NULL;
    snprintf(target->portal, sizeof target->portal, v6 ? "[%s]:%u" : "%s:%u", uri->host,
             uri->port ? uri->port : DEFAULT_PORT);
    return 0;
}

static int parse_params(struct bmig_iscsi_target *target, const struct bmig_uri *uri,
                        struct bmig_error *err)
{
    static const char *const names[] = {"initiator", "header_digest", NULL};
    int rc = bmig_uri_check_params(uri, names, err);
    if (rc)
        return rc;
    const char *initiator = bmig_uri_param(uri, "initiator");
    if (!initiator)
        default_initiator(target->initiator, sizeof target->initiator);
    else if (!good_name(initiator))
        return bmig_error_set(err, BMIG_USAGE, EINVAL, "'%s': initiator= is not an iSCSI name",
                              uri->text);
    else
        snprintf(target->initiator, sizeof target->initiator, "%s", initiator);
    const char *digest = bmig_uri_param(uri, "header_digest");
    target->header_digest = ISCSI_HEADER_DIGEST_NONE_CRC32C;
    if (digest && strcmp(digest, "crc32c") == 0)
        target->header_digest = ISCSI_HEADER_DIGEST_CRC32C;
    else if (digest && strcmp(digest, "none") == 0)
        target->header_digest = ISCSI_HEADER_DIGEST_NONE;
    else if (digest)
        return bmig_error_set(err, BMIG_USAGE, EINVAL, "'%s': header_digest= takes crc32c or none",
                              uri->text);
    return 0;
}

static int parse_user(struct bmig_iscsi_target *target, const struct bmig_uri *uri,
                      const struct bmig_open_options *options, struct bmig_error *err)
{
    if (!uri->user)
        return 0;
    if (!uri->user[0] || strlen(uri->user) >= sizeof target->user)
        return bmig_error_set(err, BMIG_USAGE, EINVAL, "'%s': the CHAP user is empty or too long",
                              uri->text);
    if (!options->secret || !options->secret[0])
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "'%s' names the CHAP user '%s', and there is no secret for it",
                              uri->text, uri->user);
    if (strlen(options->secret) >= sizeof target->secret)
        return bmig_error_set(err, BMIG_USAGE, EINVAL,
                              "'%s': the CHAP secret is longer than %zu bytes", uri->text,
                              sizeof target->secret - 1);
    strcpy(target->user, uri->user);
    strcpy(target->secret, options->secret);
    return 0;
}

int bmig_iscsi_target_new(struct bmig_iscsi_target **result, const struct bmig_uri *uri,
                          const struct bmig_open_options *options, unsigned session_count,
                          struct bmig_error *err)
{
    struct bmig_iscsi_target *target = calloc(1, sizeof *target);
    if (!target)
        return bmig_error_set(err, BMIG_FAILED, ENOMEM, "'%s': no memory", uri->text);
    atomic_init(&target->refs, 1);
    target->session_count = session_count;
    target->timeout_ns = options->timeout_ns ? options->timeout_ns : 30 * UINT64_C(1000000000);
    for (unsigned i = 0; i < BMIG_ISCSI_MAX_SESSIONS; i++)
        target->slots[i] = -1;
    int rc = parse_portal(target, uri, err);
    if (!rc)
        rc = parse_path(target, uri, err);
    if (!rc)
        rc = parse_params(target, uri, err);
    if (!rc)
        rc = parse_user(target, uri, options, err);
    if (!rc) {
        rc = take_slots(target);
        if (rc)
            bmig_error_set(err, BMIG_FAILED, -rc, "'%s': too many sessions onto this target",
                           uri->text);
    }
    if (rc) {
        bmig_iscsi_target_unref(target);
        return rc;
    }
    *result = target;
    return 0;
}

struct bmig_iscsi_target *bmig_iscsi_target_ref(struct bmig_iscsi_target *target)
{
    atomic_fetch_add(&target->refs, 1);
    return target;
}

void bmig_iscsi_target_unref(struct bmig_iscsi_target *target)
{
    if (!target || atomic_fetch_sub(&target->refs, 1) != 1)
        return;
    release_slots(target);
    explicit_bzero(target, sizeof *target);
    free(target);
}
