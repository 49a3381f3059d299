/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The lock beside an image: IMAGE.blockmig-lock, a file that says who writes to the image.
 *
 * NFSv3 itself has no locks, and its side protocol (NLM) is off on many servers. So the lock is a
 * file, made under another name with its whole text in it and then linked to its own, which the
 * server does for one of several only. It keeps blockmig out, not others. Whoever finds a lock
 * whose holder was a process of this very host (machine id and host name), of a boot that is over
 * or a process that is gone, takes it over: renames it away, and looks whether what it took is what
 * it had read. A lock of another host is never taken over, for nothing here can tell whether that
 * host lives.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "backends/nfs_image.h"

enum { UNLOCK_TIMEOUT_S = 5, MAX_TAKEOVERS = 3 };

struct holder {
    char host[65], machine[40], boot[40], namespace[24], time[24];
    long pid;
    unsigned long long start; /* clock ticks since boot when the process began: pids come again */
};

static void read_line(const char *path, char *text, size_t capacity)
{
    FILE *file = fopen(path, "re");
    text[0] = 0;
    if (!file)
        return;
    if (fgets(text, (int)capacity, file))
        text[strcspn(text, "\n")] = 0;
    fclose(file);
}

/* Field 22 of /proc/PID/stat, behind the name, which may hold anything but ends at the last ')'. */
static unsigned long long start_of(long pid)
{
    char path[40], line[512];
    unsigned long long start = 0;
    snprintf(path, sizeof(path), "/proc/%ld/stat", pid);
    read_line(path, line, sizeof(line));
    char *at = strrchr(line, ')');
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    if (at)
        start = strtoull(at, NULL, 10);
    return start;
}

static void describe_self(struct holder *self)
{
    time_t now = time(NULL);
    struct tm tm;
    memset(self, 0, sizeof(*self));
    if (gethostname(self->host, sizeof(self->host) - 1) != 0 || !self->host[0])
        strcpy(self->host, "unknown");
    read_line("/etc/machine-id", self->machine, sizeof(self->machine));
    read_line("/proc/sys/kernel/random/boot_id", self->boot, sizeof(self->boot));
    ssize_t length = readlink("/proc/self/ns/pid", self->namespace, sizeof(self->namespace) - 1);
    self->namespace[length > 0 ? length : 0] = 0;
    self->pid = getpid();
    self->start = start_of(self->pid);
    gmtime_r(&now, &tm);
    strftime(self->time, sizeof(self->time), "%Y-%m-%dT%H:%M:%SZ", &tm);
}

static void write_text(const struct holder *self, char *text, size_t capacity)
{
    unsigned nonce = 0;
    if (getrandom(&nonce, sizeof(nonce), 0) < 0)
        nonce = (unsigned)time(NULL);
    snprintf(text, capacity,
             "blockmig-lock 1\nhost %s\npid %ld\ntime %s\nmachine %s\nboot %s\npidns %s\n"
             "start %llu\nnonce %08x\n",
             self->host, self->pid, self->time, self->machine, self->boot, self->namespace,
             self->start, nonce);
}

/* The value of a key at a line's begin. */
static void value_of(const char *text, const char *key, char *value, size_t capacity)
{
    size_t key_length = strlen(key);
    value[0] = 0;
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, key_length) == 0 && line[key_length] == ' ') {
            size_t length = strcspn(line + key_length + 1, "\n");
            snprintf(value, capacity, "%.*s", (int)length, line + key_length + 1);
            return;
        }
    }
}

static void parse_text(const char *text, struct holder *holder)
{
    char number[24];
    value_of(text, "host", holder->host, sizeof(holder->host));
    value_of(text, "time", holder->time, sizeof(holder->time));
    value_of(text, "machine", holder->machine, sizeof(holder->machine));
    value_of(text, "boot", holder->boot, sizeof(holder->boot));
    value_of(text, "pidns", holder->namespace, sizeof(holder->namespace));
    value_of(text, "pid", number, sizeof(number));
    holder->pid = strtol(number, NULL, 10);
    value_of(text, "start", number, sizeof(number));
    holder->start = strtoull(number, NULL, 10);
}

static bool is_gone(const struct holder *holder, const struct holder *self)
{
    if (!holder->machine[0] || strcmp(holder->machine, self->machine) != 0 ||
        strcmp(holder->host, self->host) != 0 || !holder->boot[0] || holder->pid <= 0)
        return false;
    if (strcmp(holder->boot, self->boot) != 0)
        return true;
    if (strcmp(holder->namespace, self->namespace) != 0)
        return false; /* another container: its processes can't be seen */
    if (kill((pid_t)holder->pid, 0) != 0 && errno == ESRCH)
        return true;
    return start_of(holder->pid) != holder->start;
}

static int read_text(struct bmig_nfs_link *link, const struct bmig_nfs_fh *directory,
                     const char *name, char *text, uint32_t capacity)
{
    struct bmig_nfs_fh fh;
    int result = bmig_nfs_call_lookup(link, directory, name, &fh);
    if (result == 0)
        result = bmig_nfs_call_read_text(link, &fh, text, capacity);
    return result;
}

/* Makes the lock file with its text, all at once. -EEXIST where it is there. */
static int make(struct bmig_nfs_image *image, const char *name, const char *draft)
{
    struct bmig_nfs_link *link = &image->place.link;
    const struct bmig_nfs_fh *directory = &image->place.directory;
    struct bmig_nfs_fh fh;
    int result = bmig_nfs_call_create(link, directory, draft, 0644, &fh);
    if (result != 0)
        return result;
    result = bmig_nfs_call_write_text(link, &fh, image->lock_text);
    if (result == 0)
        result = bmig_nfs_call_link(link, &fh, directory, name);
    bmig_nfs_call_remove(link, directory, draft);
    if (result != -ENOTSUP)
        return result;
    /* No hard links there: in two steps, and one who reads in between takes it for held. */
    result = bmig_nfs_call_create(link, directory, name, 0644, &fh);
    if (result == 0)
        result = bmig_nfs_call_write_text(link, &fh, image->lock_text);
    return result;
}

/* Moves a stale lock out of the way. */
static int take_over(struct bmig_nfs_image *image, const char *name, const char *draft,
                     const char *stale)
{
    struct bmig_nfs_link *link = &image->place.link;
    const struct bmig_nfs_fh *directory = &image->place.directory;
    struct bmig_nfs_fh fh;
    char text[sizeof(image->lock_text)];
    int result = bmig_nfs_call_rename(link, directory, name, draft);
    if (result != 0)
        return result == -ENOENT ? 0 : result;
    result = read_text(link, directory, draft, text, sizeof(text));
    if (result >= 0 && strcmp(text, stale) != 0) {
        /* Another was faster and this is its lock: put it back. */
        if (bmig_nfs_call_lookup(link, directory, draft, &fh) == 0)
            bmig_nfs_call_link(link, &fh, directory, name);
        result = -EEXIST;
    }
    bmig_nfs_call_remove(link, directory, draft);
    return result < 0 ? result : 0;
}

static int denied(const struct bmig_nfs_image *image, const char *name, const struct holder *holder,
                  struct bmig_error *err)
{
    return bmig_error_set(
        err, BMIG_DENIED, EBUSY,
        "'%s' is locked by blockmig on host %s, pid %ld, since %s; stop that, or if "
        "it is gone for good remove '%s' beside the image",
        image->place.text, holder->host[0] ? holder->host : "(unknown)", holder->pid,
        holder->time[0] ? holder->time : "(unknown)", name);
}

int bmig_nfs_lock(struct bmig_nfs_image *image, struct bmig_error *err)
{
    struct bmig_nfs_place *place = &image->place;
    struct holder self, holder = {0};
    char name[256], draft[256], found[sizeof(image->lock_text)];
    int length = snprintf(name, sizeof(name), "%s.blockmig-lock", place->name);
    if (length + 12 >= (int)sizeof(name))
        return bmig_error_set(err, BMIG_REFUSED, ENAMETOOLONG,
                              "'%s': the name is too long for a lock beside it", place->text);
    describe_self(&self);
    write_text(&self, image->lock_text, sizeof(image->lock_text));
    memcpy(draft, name, (size_t)length);
    snprintf(draft + length, sizeof(draft) - (size_t)length, ".%.8s",
             strstr(image->lock_text, "nonce ") + 6);
    for (int tries = 0; tries < MAX_TAKEOVERS; tries++) {
        int result = make(image, name, draft);
        if (result == 0) {
            snprintf(image->lock_name, sizeof(image->lock_name), "%s", name);
            return 0;
        }
        if (result != -EEXIST)
            return bmig_nfs_place_error(place, result, "lock", err);
        result = read_text(&place->link, &place->directory, name, found, sizeof(found));
        if (result == -ENOENT)
            continue;
        if (result < 0)
            return bmig_nfs_place_error(place, result, "read the lock of", err);
        parse_text(found, &holder);
        if (!is_gone(&holder, &self))
            break;
        result = take_over(image, name, draft, found);
        if (result != 0 && result != -EEXIST)
            return bmig_nfs_place_error(place, result, "take over the lock of", err);
    }
    return denied(image, name, &holder, err);
}

void bmig_nfs_unlock(struct bmig_nfs_image *image)
{
    const struct bmig_nfs_place *place = &image->place;
    struct bmig_nfs_link link;
    char text[sizeof(image->lock_text)];
    uint64_t timeout_ns = UNLOCK_TIMEOUT_S * UINT64_C(1000000000);
    if (!image->lock_name[0])
        return;
    if (timeout_ns > place->timeout_ns)
        timeout_ns = place->timeout_ns;
    /* Where the server is gone the lock stays, and this host takes it over the next time. */
    if (bmig_nfs_link_open(&link, place->address, place->nfs_port, place->uid, place->gid,
                           timeout_ns) == 0 &&
        read_text(&link, &place->directory, image->lock_name, text, sizeof(text)) >= 0 &&
        strcmp(text, image->lock_text) == 0)
        bmig_nfs_call_remove(&link, &place->directory, image->lock_name);
    bmig_nfs_link_close(&link);
    image->lock_name[0] = 0;
}
