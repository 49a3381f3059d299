/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A witness inside a guest: numbered, checksummed records, each made durable before it is claimed.
 *
 *   records write DIR [PAUSE_US]   appends record n to DIR/log and overwrites slot n % SLOTS of
 * DIR/slots with it, fsyncs both, and only then prints "DONE n"; until a line comes in on stdin
 *   records check LOG SLOTS LAST   both files hold all that was claimed up to record LAST, each
 * record whole
 *
 * The log finds writes that were lost, the slots finds old data that came back. Stands alone: it is
 * linked statically into a guest's initrd.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RECORD_BYTES = 4096, SLOTS = 1024, PAYLOAD_WORDS = RECORD_BYTES / 8 - 3 };

static const uint64_t MAGIC = UINT64_C(0x424d494752454331);
static const uint64_t MAX_RECORDS = 120000; /* what the demo's disk holds */

struct record {
    uint64_t magic, number, payload[PAYLOAD_WORDS], checksum;
};

_Static_assert(sizeof(struct record) == RECORD_BYTES, "a record is a block");

static uint64_t checksum(const struct record *record)
{
    const unsigned char *bytes = (const unsigned char *)record;
    uint64_t hash = UINT64_C(14695981039346656037);
    for (size_t i = 0; i < RECORD_BYTES - 8; i++)
        hash = (hash ^ bytes[i]) * UINT64_C(1099511628211);
    return hash;
}

static void make(struct record *record, uint64_t number)
{
    uint64_t value = number * UINT64_C(0x9E3779B97F4A7C15) + 1;
    record->magic = MAGIC;
    record->number = number;
    for (size_t i = 0; i < PAYLOAD_WORDS; i++) {
        value ^= value << 13;
        value ^= value >> 7;
        value ^= value << 17;
        record->payload[i] = value;
    }
    record->checksum = checksum(record);
}

static int is_whole(const struct record *record, uint64_t number)
{
    struct record expected;
    make(&expected, number);
    return memcmp(record, &expected, sizeof(expected)) == 0;
}

static int open_in(const char *folder, const char *name)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    int fd = open(path, O_RDWR | O_CREAT, 0644);
    if (fd < 0)
        printf("FAILED to open %s: %s\n", path, strerror(errno));
    return fd;
}

static int put(int fd, const struct record *record, uint64_t place)
{
    ssize_t wrote = pwrite(fd, record, sizeof(*record), (off_t)(place * RECORD_BYTES));
    if (wrote == (ssize_t)sizeof(*record))
        return 0;
    return wrote < 0 ? errno : EIO;
}

static int run_writer(const char *folder, unsigned pause_us)
{
    static struct record record;
    struct pollfd input = {.fd = 0, .events = POLLIN};
    int log = open_in(folder, "log"), slots = open_in(folder, "slots");
    if (log < 0 || slots < 0)
        return 1;
    for (uint64_t number = 1; number <= MAX_RECORDS; number++) {
        make(&record, number);
        int error = put(log, &record, number - 1);
        if (!error)
            error = put(slots, &record, number % SLOTS);
        if (!error && (fsync(log) != 0 || fsync(slots) != 0))
            error = errno;
        if (error) {
            printf("FAILED at %" PRIu64 ": %s\n", number, strerror(error));
            return 1;
        }
        printf("DONE %" PRIu64 "\n", number);
        fflush(stdout);
        if (poll(&input, 1, 0) > 0)
            return 0;
        usleep(pause_us);
    }
    return 0;
}

static int check_file(const char *path, uint64_t last, int slots)
{
    static struct record record;
    int fd = open(path, O_RDONLY), bad = 0;
    uint64_t first = slots && last >= SLOTS ? last - SLOTS + 1 : 1;
    if (fd < 0) {
        printf("%s: %s\n", path, strerror(errno));
        return 1;
    }
    for (uint64_t number = first; number <= last && bad < 10; number++) {
        uint64_t place = slots ? number % SLOTS : number - 1;
        ssize_t got = pread(fd, &record, sizeof(record), (off_t)(place * RECORD_BYTES));
        /* A slot may hold the one record that was on its way when the guest was stopped. */
        int next = slots && got == (ssize_t)sizeof(record) && is_whole(&record, number + SLOTS) &&
                   number + SLOTS == last + 1;
        if (next || (got == (ssize_t)sizeof(record) && is_whole(&record, number)))
            continue;
        printf("%s: record %" PRIu64 " is %s (found number %" PRIu64 ")\n", path, number,
               got == (ssize_t)sizeof(record) ? "wrong" : "missing", record.number);
        bad++;
    }
    close(fd);
    return bad != 0;
}

int main(int argc, char **argv)
{
    if (argc >= 3 && strcmp(argv[1], "write") == 0)
        return run_writer(argv[2], argc > 3 ? (unsigned)atoi(argv[3]) : 1000);
    if (argc == 5 && strcmp(argv[1], "check") == 0) {
        uint64_t last = strtoull(argv[4], NULL, 10);
        if (last == 0) {
            printf("no record was claimed\n");
            return 1;
        }
        return check_file(argv[2], last, 0) | check_file(argv[3], last, 1);
    }
    fprintf(stderr, "usage: records write DIR [PAUSE_US] | check LOG SLOTS LAST\n");
    return 2;
}
