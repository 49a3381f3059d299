/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The local backend on the real file system: bytes against a model, holes, locks, refusals, a full
 * disk.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backends/backends.h"
#include "blockmig/core/buffer.h"
#include "blockmig/stack/image.h"
#include "tests/unit/disk_helper.h"
#include "tests/unit/model_helper.h"

enum { MiB = 1 << 20 };

static struct bmig_loop *loop;
static char folder[128];
static char image[192];
static uint8_t *buffer;

static const struct bmig_open_options reading;
static const struct bmig_open_options writing = {.writable = true};
static const struct bmig_open_options direct = {.writable = true, .direct = true};
static const struct bmig_open_options owning = {.writable = true, .exclusive = true};
static const struct bmig_open_options watching = {.exclusive = true};

static void setup(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof(folder), "%s/blockmig-local.XXXXXX",
             tmp && strlen(tmp) < 64 ? tmp : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(image, sizeof(image), "%s/disk:1?%%.img", folder);
    ck_assert_int_eq(bmig_loop_new(&loop, BMIG_LOOP_AUTO, NULL), 0);
    buffer = aligned_alloc(4096, 4 * MiB);
}

static void teardown(void)
{
    char command[256];
    bmig_loop_free(loop);
    free(buffer);
    snprintf(command, sizeof(command), "rm -rf '%s'", folder);
    ck_assert_int_eq(system(command), 0);
}

static int create(const char *path, uint64_t size_bytes, struct bmig_error *err)
{
    struct bmig_image_spec spec = {.uri = path, .format = "raw"};
    return bmig_image_create(&spec, size_bytes, &writing, err);
}

static void make(uint64_t size_bytes)
{
    struct bmig_error err = {0};
    ck_assert_msg(create(image, size_bytes, &err) == 0, "%s", err.message);
}

static struct bmig_place_stat look(const char *path)
{
    struct bmig_place_stat stat;
    struct bmig_error err = {0};
    struct bmig_image_spec spec = {.uri = path, .format = "raw"};
    ck_assert_msg(bmig_image_stat(&spec, &reading, &stat, &err) == 0, "%s", err.message);
    return stat;
}

/* Opening path must fail so. */
static void refused(const char *path, const struct bmig_open_options *options,
                    enum bmig_error_kind kind, const char *why)
{
    struct bmig_disk *disk = NULL;
    struct bmig_error err = {0};
    struct bmig_image_spec spec = {.uri = path, .format = "raw"};
    ck_assert_msg(bmig_image_open(&disk, &spec, options, &err) < 0, "%s was opened", path);
    ck_assert_msg(err.kind == kind && strstr(err.message, why), "%d: %s (wanted: %s)", err.kind,
                  err.message, why);
}

/* ---- bytes ---- */

static void random_against_model(const struct bmig_open_options *options, uint64_t size_bytes,
                                 uint64_t seed)
{
    make(size_bytes);
    test_against_model(loop, image, options, seed);
}

START_TEST(random_requests_match_a_model_through_the_page_cache)
{
    random_against_model(&writing, 8 * MiB, 1);
}
END_TEST

START_TEST(random_requests_match_a_model_with_direct_io)
{
    random_against_model(&direct, 8 * MiB, 2);
}
END_TEST

START_TEST(random_requests_match_a_model_where_the_size_is_odd)
{
    random_against_model(&direct, 5 * MiB + 77, 3);
    struct stat st;
    ck_assert_int_eq(stat(image, &st), 0);
    ck_assert_int_le(st.st_size, 5 * MiB + 512);
}
END_TEST

START_TEST(request_larger_than_the_limit_is_done_whole)
{
    uint8_t *data = aligned_alloc(4096, 20 * MiB);
    for (size_t i = 0; i < 20 * MiB; i++)
        data[i] = (uint8_t)(i * 7 + i / 4096);
    make(24 * MiB);
    struct bmig_disk *disk = test_open(loop, image, NULL, &direct);
    ck_assert_int_eq(test_run(disk, BMIG_WRITE, 1 * MiB, 20 * MiB, data, 0), 0);
    for (size_t at = 0; at < 20 * MiB; at += 4 * MiB) {
        ck_assert_int_eq(test_run(disk, BMIG_READ, 1 * MiB + at, 4 * MiB, buffer, 0), 0);
        ck_assert(memcmp(buffer, data + at, 4 * MiB) == 0);
    }
    test_close(disk);
    free(data);
}
END_TEST

/* ---- sizes ---- */

START_TEST(odd_size_is_rounded_up_and_its_tail_reads_as_zeroes)
{
    FILE *file = fopen(image, "w");
    for (int i = 0; i < 1000; i++)
        fputc('x', file);
    fclose(file);
    ck_assert_uint_eq(look(image).size_bytes, 1024);
    for (int pass = 0; pass < 2; pass++) {
        struct bmig_open_options options = {.direct = pass};
        struct bmig_disk *disk = test_open(loop, image, NULL, &options);
        ck_assert_uint_eq(disk->size_bytes, 1024);
        memset(buffer, 0xee, 2048);
        ck_assert_int_eq(test_run(disk, BMIG_READ, 0, 1024, buffer, 0), 0);
        for (int i = 0; i < 1024; i++)
            ck_assert_uint_eq(buffer[i], i < 1000 ? 'x' : 0);
        ck_assert_int_eq(test_run(disk, BMIG_READ, 1010, 10, buffer, 0), 0);
        ck_assert(bmig_is_zero(buffer, 10));
        ck_assert_int_eq(test_run(disk, BMIG_READ, 1024, 1, buffer, 0), -EINVAL);
        test_close(disk);
    }
    struct stat st;
    ck_assert_int_eq(stat(image, &st), 0);
    ck_assert_int_eq(st.st_size, 1000);

    struct bmig_disk *disk = test_open(loop, image, NULL, &writing);
    memset(buffer, 'y', 512);
    ck_assert_int_eq(test_run(disk, BMIG_WRITE, 512, 512, buffer, 0), 0);
    ck_assert_int_eq(test_run(disk, BMIG_READ, 0, 1024, buffer, 0), 0);
    ck_assert(buffer[511] == 'x' && buffer[512] == 'y' && buffer[1023] == 'y');
    test_close(disk);
    ck_assert_int_eq(stat(image, &st), 0);
    ck_assert_int_eq(st.st_size, 1024);
}
END_TEST

START_TEST(file_that_became_shorter_is_an_error_and_not_zeroes)
{
    make(1 * MiB);
    struct bmig_disk *disk = test_open(loop, image, NULL, &reading);
    ck_assert_int_eq(truncate(image, 4096), 0);
    ck_assert_int_eq(test_run(disk, BMIG_READ, 0, 4096, buffer, 0), 0);
    ck_assert_int_eq(test_run(disk, BMIG_READ, 0, 8192, buffer, 0), -EIO);
    ck_assert_int_eq(test_run(disk, BMIG_READ, 65536, 4096, buffer, 0), -EIO);
    test_close(disk);
}
END_TEST

START_TEST(writing_to_an_image_opened_for_reading_is_refused)
{
    make(1 * MiB);
    struct bmig_disk *disk = test_open(loop, image, NULL, &reading);
    ck_assert_int_eq(test_run(disk, BMIG_WRITE, 0, 512, buffer, 0), -EROFS);
    ck_assert_int_eq(test_run(disk, BMIG_ZERO, 0, 512, NULL, 0), -EROFS);
    test_close(disk);
}
END_TEST

/* ---- holes ---- */

START_TEST(new_image_takes_no_room_and_is_known_to_be_zero)
{
    make(UINT64_C(1) << 40);
    struct bmig_place_stat stat = look(image);
    ck_assert(stat.exists && !stat.fixed);
    ck_assert_uint_eq(stat.size_bytes, UINT64_C(1) << 40);
    ck_assert_uint_lt(stat.allocated_bytes, 65536);
    ck_assert_uint_gt(stat.free_bytes, 0);
    ck_assert_uint_ge(stat.total_bytes, stat.free_bytes);
    struct bmig_disk *disk = test_open(loop, image, NULL, &owning);
    ck_assert(disk->known_zero);
    struct bmig_extent list[4];
    struct bmig_extents extents = {list, 0, 4};
    struct bmig_request request = {
        .op = BMIG_EXTENTS, .offset = 4096, .length = disk->size_bytes - 4096, .extents = &extents};
    ck_assert_int_eq(bmig_disk_run(disk, &request), 0);
    ck_assert_uint_eq(extents.count, 1);
    ck_assert_uint_eq(list[0].length_bytes, disk->size_bytes - 4096);
    ck_assert_uint_eq(list[0].flags, BMIG_EXTENT_HOLE | BMIG_EXTENT_ZERO);
    memset(buffer, 1, 512);
    ck_assert_int_eq(test_run(disk, BMIG_WRITE, UINT64_C(1) << 39, 512, buffer, 0), 0);
    test_close(disk);
    disk = test_open(loop, image, NULL, &owning);
    ck_assert(!disk->known_zero);
    test_close(disk);
    disk = test_open(loop, image, NULL, &writing);
    ck_assert(!disk->known_zero);
    test_close(disk);
}
END_TEST

START_TEST(zero_frees_room_only_where_it_may)
{
    make(8 * MiB);
    struct bmig_disk *disk = test_open(loop, image, NULL, &direct);
    memset(buffer, 0xaa, 4 * MiB);
    ck_assert_int_eq(test_run(disk, BMIG_WRITE, 0, 4 * MiB, buffer, 0), 0);
    ck_assert_int_eq(test_run(disk, BMIG_WRITE, 4 * MiB, 4 * MiB, buffer, BMIG_FUA), 0);
    ck_assert_uint_ge(look(image).allocated_bytes, 8 * MiB);
    ck_assert_int_eq(test_run(disk, BMIG_ZERO, 0, 2 * MiB, NULL, 0), 0);
    ck_assert_uint_ge(look(image).allocated_bytes, 8 * MiB);
    ck_assert_int_eq(test_run(disk, BMIG_ZERO, 2 * MiB, 2 * MiB, NULL, BMIG_MAY_UNMAP), 0);
    ck_assert_uint_lt(look(image).allocated_bytes, 7 * MiB);
    ck_assert_int_eq(test_run(disk, BMIG_DISCARD, 4 * MiB, 4 * MiB, NULL, 0), 0);
    ck_assert_uint_lt(look(image).allocated_bytes, 3 * MiB);
    ck_assert_int_eq(test_run(disk, BMIG_READ, 0, 4 * MiB, buffer, 0), 0);
    ck_assert(bmig_is_zero(buffer, 4 * MiB));
    struct stat st;
    ck_assert_int_eq(stat(image, &st), 0);
    ck_assert_int_eq(st.st_size, 8 * MiB);
    test_close(disk);
}
END_TEST

START_TEST(extents_show_data_and_holes_where_they_are)
{
    make(8 * MiB);
    struct bmig_disk *disk = test_open(loop, image, NULL, &direct);
    memset(buffer, 0xaa, 1 * MiB);
    ck_assert_int_eq(test_run(disk, BMIG_WRITE, 1 * MiB, 1 * MiB, buffer, 0), 0);
    ck_assert_int_eq(test_run(disk, BMIG_WRITE, 5 * MiB, 1 * MiB, buffer, 0), 0);
    static const struct bmig_extent want[] = {
        {1 * MiB, BMIG_EXTENT_HOLE | BMIG_EXTENT_ZERO}, {1 * MiB, BMIG_EXTENT_DATA},
        {3 * MiB, BMIG_EXTENT_HOLE | BMIG_EXTENT_ZERO}, {1 * MiB, BMIG_EXTENT_DATA},
        {2 * MiB, BMIG_EXTENT_HOLE | BMIG_EXTENT_ZERO},
    };
    struct bmig_extent list[5];
    for (uint32_t capacity = 1; capacity <= 5; capacity++) {
        struct bmig_extents extents = {list, 0, capacity};
        struct bmig_request request = {
            .op = BMIG_EXTENTS, .offset = 0, .length = 8 * MiB, .extents = &extents};
        ck_assert_int_eq(bmig_disk_run(disk, &request), 0);
        ck_assert_uint_eq(extents.count, capacity);
        for (uint32_t i = 0; i < capacity; i++) {
            ck_assert_uint_eq(list[i].length_bytes, want[i].length_bytes);
            ck_assert_uint_eq(list[i].flags, want[i].flags);
        }
    }
    struct bmig_extents extents = {list, 0, 5};
    struct bmig_request request = {
        .op = BMIG_EXTENTS, .offset = 1 * MiB + 512, .length = 512, .extents = &extents};
    ck_assert_int_eq(bmig_disk_run(disk, &request), 0);
    ck_assert(extents.count == 1 && list[0].length_bytes == 512 && list[0].flags == 0);
    test_close(disk);
}
END_TEST

/* ---- one writer ---- */

START_TEST(second_writer_is_denied_and_the_holder_named)
{
    char holder[64];
    make(1 * MiB);
    struct bmig_disk *disk = test_open(loop, image, NULL, &owning);
    snprintf(holder, sizeof(holder), "process %d (", (int)getpid());
    refused(image, &owning, BMIG_DENIED, holder);
    refused(image, &watching, BMIG_DENIED, "writes it");
    struct bmig_error err = {0};
    struct bmig_image_spec spec = {.uri = image, .format = "raw"};
    ck_assert_int_lt(bmig_image_remove(&spec, &writing, &err), 0);
    ck_assert_int_eq(err.kind, BMIG_DENIED);
    test_close(disk);
    disk = test_open(loop, image, NULL, &owning);
    test_close(disk);
}
END_TEST

START_TEST(readers_share_and_keep_writers_out)
{
    make(1 * MiB);
    struct bmig_disk *one = test_open(loop, image, NULL, &watching);
    struct bmig_disk *two = test_open(loop, image, NULL, &watching);
    refused(image, &owning, BMIG_DENIED, "lets nobody else write it");
    test_close(one);
    refused(image, &owning, BMIG_DENIED, "in use");
    test_close(two);
    one = test_open(loop, image, NULL, &owning);
    test_close(one);
}
END_TEST

START_TEST(lock_of_another_process_is_seen_and_goes_with_it)
{
    int pipes[2][2];
    char byte, want[64];
    make(1 * MiB);
    ck_assert_int_eq(pipe(pipes[0]), 0);
    ck_assert_int_eq(pipe(pipes[1]), 0);
    pid_t child = fork();
    if (child == 0) {
        struct bmig_disk *disk = NULL;
        struct bmig_image_spec spec = {.uri = image, .format = "raw"};
        if (bmig_image_open(&disk, &spec, &owning, NULL) < 0 || write(pipes[0][1], "x", 1) != 1)
            _exit(1);
        close(pipes[1][1]);
        _exit(read(pipes[1][0], &byte, 1) < 0);
    }
    close(pipes[1][0]);
    ck_assert_int_eq(read(pipes[0][0], &byte, 1), 1);
    snprintf(want, sizeof(want), "process %d (test_local) writes it", (int)child);
    refused(image, &owning, BMIG_DENIED, want);
    close(pipes[1][1]);
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    struct bmig_disk *disk = test_open(loop, image, NULL, &owning);
    test_close(disk);
    close(pipes[0][0]);
    close(pipes[0][1]);
}
END_TEST

/* Leaves a lock of a writer on the image with no process that has the file open: the descriptor is
 * under way in a socket, until `ends` is closed. */
static void leave_ghost(int ends[2])
{
    char space[CMSG_SPACE(sizeof(int))] = {0}, byte = 'x';
    struct iovec vector = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &vector, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof(space)};
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 101, .l_len = 1};
    int fd = open(image, O_RDWR | O_CLOEXEC);
    ck_assert_int_eq(fcntl(fd, F_OFD_SETLK, &lock), 0);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &fd, sizeof(fd));
    ck_assert_int_eq(sendmsg(ends[0], &message, 0), 1);
    close(fd);
}

static void *end_ghost(void *argument)
{
    int *ends = argument;
    poll(NULL, 0, 100);
    close(ends[0]);
    close(ends[1]);
    return NULL;
}

START_TEST(lock_that_nobody_holds_any_more_is_waited_for)
{
    int ends[2];
    pthread_t thread;
    make(1 * MiB);
    leave_ghost(ends);
    ck_assert_int_eq(pthread_create(&thread, NULL, end_ghost, ends), 0);
    struct bmig_disk *disk = test_open(loop, image, NULL, &owning);
    test_close(disk);
    pthread_join(thread, NULL);
    leave_ghost(ends);
    refused(image, &owning, BMIG_DENIED, "another program writes it");
    close(ends[0]);
    close(ends[1]);
}
END_TEST

/* ---- names and kinds ---- */

START_TEST(what_is_no_image_is_refused_with_its_reason)
{
    char path[PATH_MAX + 100], link_path[256];
    refused(folder, &writing, BMIG_REFUSED, "is a directory");
    snprintf(path, sizeof(path), "%s/fifo", folder);
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    refused(path, &reading, BMIG_REFUSED, "is a FIFO");
    refused("/dev/null", &reading, BMIG_REFUSED, "is a character device");
    snprintf(path, sizeof(path), "%s/none", folder);
    refused(path, &reading, BMIG_NOT_FOUND, "does not exist");
    snprintf(link_path, sizeof(link_path), "%s/link", folder);
    ck_assert_int_eq(symlink(path, link_path), 0);
    refused(link_path, &reading, BMIG_NOT_FOUND, "symbolic link to");
    snprintf(path, sizeof(path), "%s/no/such/folder", folder);
    refused(path, &reading, BMIG_NOT_FOUND, "its folder");
    snprintf(path, sizeof(path), "%s/self", folder);
    ck_assert_int_eq(symlink(path, path), 0);
    refused(path, &reading, BMIG_FAILED, "can't be opened");
    snprintf(path, sizeof(path), "file://%s/x?colour=red", folder);
    refused(path, &reading, BMIG_USAGE, "knows no parameter 'colour'");
    size_t length = (size_t)snprintf(path, sizeof(path), "%s/", folder);
    memset(path + length, 'n', 300);
    path[length + 300] = '\0';
    refused(path, &reading, BMIG_FAILED, "can't be opened: File name too long");
    for (; length < sizeof(path) - 2; length += 2)
        memcpy(path + length, "a/", 3);
    refused(path, &reading, BMIG_FAILED, "can't be opened: File name too long");
}
END_TEST

START_TEST(names_of_every_kind_are_created_opened_and_removed)
{
    static const char *const names[] = {"new\nline\n", "-rf",      " blank ", "100%",  "a?b=c&d",
                                        "nfs:x",       "\xff\xfe", "'",       "\"q\"", "..."};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char path[256];
        struct bmig_error err = {0};
        snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
        ck_assert_msg(create(path, 4096, &err) == 0, "%s", err.message);
        struct bmig_disk *disk = test_open(loop, path, NULL, &owning);
        ck_assert_uint_eq(disk->size_bytes, 4096);
        test_close(disk);
        struct bmig_image_spec spec = {.uri = path, .format = "raw"};
        ck_assert_msg(bmig_image_remove(&spec, &writing, &err) == 0, "%s", err.message);
        ck_assert_int_eq(access(path, F_OK), -1);
    }
}
END_TEST

START_TEST(create_leaves_alone_what_is_there)
{
    struct bmig_error err = {0};
    char path[256];
    make(1 * MiB);
    struct stat st;
    ck_assert_int_eq(stat(image, &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0600);
    ck_assert_int_eq(create(image, 2 * MiB, &err), -EEXIST);
    ck_assert_int_eq(err.kind, BMIG_DENIED);
    ck_assert_int_eq(stat(image, &st), 0);
    ck_assert_int_eq(st.st_size, 1 * MiB);
    snprintf(path, sizeof(path), "%s/link", folder);
    ck_assert_int_eq(symlink("none", path), 0);
    err = (struct bmig_error){0};
    ck_assert_int_eq(create(path, 4096, &err), -EEXIST);
    snprintf(path, sizeof(path), "%s/none", folder);
    ck_assert_int_eq(access(path, F_OK), -1);
    err = (struct bmig_error){0};
    ck_assert_int_eq(create(path, (uint64_t)INT64_MAX, &err), -EFBIG);
    ck_assert_int_eq(access(path, F_OK), -1);
    err = (struct bmig_error){0};
    ck_assert_int_eq(create(path, 0, &err), -EINVAL);
    ck_assert_int_eq(err.kind, BMIG_USAGE);
    err = (struct bmig_error){0};
    snprintf(path, sizeof(path), "%s/no/such", folder);
    ck_assert_int_eq(create(path, 4096, &err), -ENOENT);
    ck_assert_int_eq(err.kind, BMIG_NOT_FOUND);
}
END_TEST

START_TEST(remove_takes_files_only)
{
    struct bmig_error err = {0};
    char path[256];
    make(4096);
    snprintf(path, sizeof(path), "%s/link", folder);
    ck_assert_int_eq(symlink(image, path), 0);
    struct bmig_image_spec spec = {.uri = path, .format = "raw"};
    ck_assert_int_lt(bmig_image_remove(&spec, &writing, &err), 0);
    ck_assert_int_eq(err.kind, BMIG_REFUSED);
    spec.uri = folder;
    err = (struct bmig_error){0};
    ck_assert_int_lt(bmig_image_remove(&spec, &writing, &err), 0);
    ck_assert_int_eq(err.kind, BMIG_REFUSED);
    snprintf(path, sizeof(path), "%s/none", folder);
    spec.uri = path;
    err = (struct bmig_error){0};
    ck_assert_int_lt(bmig_image_remove(&spec, &writing, &err), 0);
    ck_assert_int_eq(err.kind, BMIG_NOT_FOUND);
    ck_assert_int_eq(access(image, F_OK), 0);
}
END_TEST

START_TEST(two_names_of_one_image_have_one_identity)
{
    char hard[256], soft[256], other[256];
    struct bmig_error err = {0};
    make(4096);
    snprintf(hard, sizeof(hard), "%s/hard", folder);
    snprintf(soft, sizeof(soft), "%s/soft", folder);
    snprintf(other, sizeof(other), "%s/other", folder);
    ck_assert_int_eq(link(image, hard), 0);
    ck_assert_int_eq(symlink(image, soft), 0);
    ck_assert_int_eq(create(other, 4096, &err), 0);
    struct bmig_place_stat stat = look(image);
    ck_assert_str_eq(look(hard).identity, stat.identity);
    ck_assert_str_eq(look(soft).identity, stat.identity);
    ck_assert_str_ne(look(other).identity, stat.identity);
    snprintf(other, sizeof(other), "%s/none", folder);
    stat = look(other);
    ck_assert(!stat.exists && stat.free_bytes != UINT64_MAX && stat.identity[0] == '\0');
    snprintf(other, sizeof(other), "%s/no/none", folder);
    ck_assert(!look(other).exists);
}
END_TEST

START_TEST(unreadable_image_is_denied)
{
    make(4096);
    ck_assert_int_eq(chmod(image, 0), 0);
    ck_assert_int_eq(chmod(folder, 0755), 0);
    if (geteuid() != 0) {
        refused(image, &reading, BMIG_DENIED, "permission denied");
        return;
    }
    pid_t child = fork();
    if (child == 0) {
        struct bmig_disk *disk = NULL;
        struct bmig_error err = {0};
        struct bmig_image_spec spec = {.uri = image, .format = "raw"};
        if (setgid(65534) < 0 || setuid(65534) < 0)
            _exit(2);
        int status = bmig_image_open(&disk, &spec, &reading, &err);
        _exit(status == -EACCES && err.kind == BMIG_DENIED &&
                      strstr(err.message, "permission denied to user 65534")
                  ? 0
                  : 1);
    }
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
}
END_TEST

START_TEST(immutable_image_is_denied_for_writing_and_kept)
{
    char command[256];
    make(4096);
    snprintf(command, sizeof(command), "chattr +i '%s' 2>/dev/null", image);
    if (system(command) != 0) {
        fprintf(stderr, "test_local: no immutable files here: not tried\n");
        return;
    }
    struct bmig_error err = {0};
    struct bmig_image_spec spec = {.uri = image, .format = "raw"};
    refused(image, &writing, BMIG_DENIED, "immutable");
    ck_assert_int_lt(bmig_image_remove(&spec, &writing, &err), 0);
    ck_assert_int_eq(err.kind, BMIG_DENIED);
    struct bmig_disk *disk = test_open(loop, image, NULL, &watching);
    test_close(disk);
    snprintf(command, sizeof(command), "chattr -i '%s'", image);
    ck_assert_int_eq(system(command), 0);
    ck_assert_int_eq(access(image, F_OK), 0);
}
END_TEST

/* ---- a file system of its own: full, read-only, without ZERO_RANGE ---- */

static bool mount_small(void)
{
    return mount("tmpfs", folder, "tmpfs", 0, "size=4m") == 0;
}

START_TEST(full_file_system_is_enospc_and_room_helps)
{
    if (!mount_small()) {
        fprintf(stderr, "test_local: can't mount a tmpfs: full file system not tried\n");
        return;
    }
    make(16 * MiB);
    struct bmig_disk *disk = test_open(loop, image, NULL, &direct);
    memset(buffer, 0x5a, 4 * MiB);
    int status = 0;
    for (uint64_t at = 0; at < 16 * MiB && status == 0; at += 1 * MiB)
        status = test_run(disk, BMIG_WRITE, at, 1 * MiB, buffer, 0);
    ck_assert_int_eq(status, -ENOSPC);
    ck_assert_int_eq(test_run(disk, BMIG_ZERO, 0, 2 * MiB, NULL, BMIG_MAY_UNMAP), 0);
    ck_assert_int_eq(test_run(disk, BMIG_WRITE, 10 * MiB, 1 * MiB, buffer, 0), 0);
    ck_assert_int_eq(test_run(disk, BMIG_FLUSH, 0, 0, NULL, 0), 0);
    test_close(disk);
    ck_assert_int_eq(umount(folder), 0);
}
END_TEST

START_TEST(file_system_without_zero_range_serves_all_the_same)
{
    if (!mount_small())
        return;
    random_against_model(&direct, 3 * MiB, 4);
    struct bmig_disk *disk = test_open(loop, image, NULL, &direct);
    memset(buffer, 0x5a, 1 * MiB);
    ck_assert_int_eq(test_run(disk, BMIG_WRITE, 0, 1 * MiB, buffer, 0), 0);
    uint64_t before = look(image).allocated_bytes;
    ck_assert_int_eq(test_run(disk, BMIG_ZERO, 0, 1 * MiB, NULL, 0), 0);
    ck_assert_uint_eq(look(image).allocated_bytes, before);
    ck_assert_int_eq(test_run(disk, BMIG_ZERO, 0, 1 * MiB, NULL, BMIG_MAY_UNMAP), 0);
    ck_assert_uint_eq(look(image).allocated_bytes, before - 1 * MiB);
    test_close(disk);
    ck_assert_int_eq(umount(folder), 0);
}
END_TEST

START_TEST(read_only_file_system_is_denied_for_writing)
{
    if (!mount_small())
        return;
    char path[256];
    struct bmig_error err = {0};
    make(4096);
    ck_assert_int_eq(mount("tmpfs", folder, "tmpfs", MS_REMOUNT | MS_RDONLY, "size=4m"), 0);
    refused(image, &writing, BMIG_DENIED, "mounted read-only");
    snprintf(path, sizeof(path), "%s/new", folder);
    ck_assert_int_eq(create(path, 4096, &err), -EROFS);
    ck_assert_int_eq(err.kind, BMIG_DENIED);
    struct bmig_disk *disk = test_open(loop, image, NULL, &watching);
    test_close(disk);
    ck_assert_int_eq(umount(folder), 0);
}
END_TEST

START_TEST(fence_waits_for_what_the_kernel_has)
{
    enum { COUNT = 64 };
    static struct test_request tests[COUNT];
    make(64 * MiB);
    struct bmig_disk *disk = test_open(loop, image, NULL, &direct);
    memset(buffer, 0x33, 1 * MiB);
    for (uint64_t i = 0; i < COUNT; i++)
        test_submit(disk, &tests[i], BMIG_WRITE, i * MiB, 1 * MiB, buffer, 0);
    test_fence(disk);
    for (unsigned i = 0; i < COUNT; i++)
        ck_assert(tests[i].ended && (tests[i].status == 0 || tests[i].status == -ESHUTDOWN));
    ck_assert_int_eq(test_run(disk, BMIG_WRITE, 0, 512, buffer, 0), -ESHUTDOWN);
    test_close(disk);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("local");
    TCase *tcase = tcase_create("local");
    tcase_set_timeout(tcase, 120);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, random_requests_match_a_model_through_the_page_cache);
    tcase_add_test(tcase, random_requests_match_a_model_with_direct_io);
    tcase_add_test(tcase, random_requests_match_a_model_where_the_size_is_odd);
    tcase_add_test(tcase, request_larger_than_the_limit_is_done_whole);
    tcase_add_test(tcase, odd_size_is_rounded_up_and_its_tail_reads_as_zeroes);
    tcase_add_test(tcase, file_that_became_shorter_is_an_error_and_not_zeroes);
    tcase_add_test(tcase, writing_to_an_image_opened_for_reading_is_refused);
    tcase_add_test(tcase, new_image_takes_no_room_and_is_known_to_be_zero);
    tcase_add_test(tcase, zero_frees_room_only_where_it_may);
    tcase_add_test(tcase, extents_show_data_and_holes_where_they_are);
    tcase_add_test(tcase, second_writer_is_denied_and_the_holder_named);
    tcase_add_test(tcase, readers_share_and_keep_writers_out);
    tcase_add_test(tcase, lock_of_another_process_is_seen_and_goes_with_it);
    tcase_add_test(tcase, lock_that_nobody_holds_any_more_is_waited_for);
    tcase_add_test(tcase, what_is_no_image_is_refused_with_its_reason);
    tcase_add_test(tcase, names_of_every_kind_are_created_opened_and_removed);
    tcase_add_test(tcase, create_leaves_alone_what_is_there);
    tcase_add_test(tcase, remove_takes_files_only);
    tcase_add_test(tcase, two_names_of_one_image_have_one_identity);
    tcase_add_test(tcase, unreadable_image_is_denied);
    tcase_add_test(tcase, immutable_image_is_denied_for_writing_and_kept);
    tcase_add_test(tcase, full_file_system_is_enospc_and_room_helps);
    tcase_add_test(tcase, file_system_without_zero_range_serves_all_the_same);
    tcase_add_test(tcase, read_only_file_system_is_denied_for_writing);
    tcase_add_test(tcase, fence_waits_for_what_the_kernel_has);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
