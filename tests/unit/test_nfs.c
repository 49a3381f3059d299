/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The NFS backend against a server that misbehaves on request (fake_nfs.h).
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backends/backends.h"
#include "tests/unit/disk_helper.h"
#include "tests/unit/fake_nfs.h"

#include <nfsc/libnfs.h>

#include <nfsc/libnfs-raw-nfs.h>

enum { IMAGE_BYTES = 8 << 20, SHORT_MS = 600, LONG_MS = 20000 };

static struct bmig_loop *loop;
static struct bmig_disk *disk;
static uint8_t *image, *buffer;

static void open_image(uint32_t sessions, uint64_t timeout_ms)
{
    struct bmig_open_options options = {
        .writable = true, .sessions = sessions, .timeout_ns = timeout_ms * 1000000};
    disk = test_open(loop, fake_nfs_uri("disk.img"), NULL, &options);
}

static void setup(void)
{
    fake_nfs_start();
    fake_nfs_put("disk.img", NULL, IMAGE_BYTES);
    ck_assert_int_eq(bmig_loop_new(&loop, BMIG_LOOP_AUTO, NULL), 0);
    image = calloc(1, IMAGE_BYTES);
    buffer = calloc(1, IMAGE_BYTES);
    disk = NULL;
}

static void teardown(void)
{
    if (disk)
        test_close(disk);
    while (bmig_loop_step(loop, 0)) {
    }
    bmig_loop_free(loop);
    fake_nfs_stop();
    free(image);
    free(buffer);
}

static void fill(uint8_t *data, size_t length, uint64_t seed)
{
    for (size_t i = 0; i < length; i++)
        data[i] = (uint8_t)(test_random(&seed) >> 13);
}

/* Writes random bytes and keeps them in image. */
static int write_random(uint64_t offset, uint64_t length, uint64_t seed, uint32_t flags)
{
    fill(image + offset, length, seed);
    return test_run(disk, BMIG_WRITE, offset, length, image + offset, flags);
}

static void expect_read(uint64_t offset, uint64_t length)
{
    memset(buffer, 0xAA, length);
    ck_assert_int_eq(test_run(disk, BMIG_READ, offset, length, buffer, 0), 0);
    ck_assert_mem_eq(buffer, image + offset, length);
}

static void expect_stable(uint64_t offset, uint64_t length)
{
    fake_nfs_stable("disk.img", offset, length, buffer);
    ck_assert_mem_eq(buffer, image + offset, length);
}

static int flush(void)
{
    return test_run(disk, BMIG_FLUSH, 0, 0, NULL, 0);
}

/* ---- data ---- */

START_TEST(short_reads_and_writes_are_continued)
{
    open_image(2, LONG_MS);
    fake_nfs_set((struct fake_nfs_faults){.most_bytes = 1000});
    ck_assert_int_eq(write_random(511, 100001, 1, 0), 0);
    expect_read(0, 200000);
    ck_assert_int_eq(flush(), 0);
    expect_stable(0, 200000);
    ck_assert_uint_ge(fake_nfs_count(FAKE_WRITE), 101);
}
END_TEST

START_TEST(request_larger_than_the_server_takes_is_done_whole)
{
    open_image(4, LONG_MS);
    ck_assert_int_eq(write_random(12345, 5 << 20, 2, 0), 0);
    expect_read(0, IMAGE_BYTES);
}
END_TEST

START_TEST(jukebox_answers_are_tried_again)
{
    open_image(1, LONG_MS);
    fake_nfs_set((struct fake_nfs_faults){.jukebox = 3});
    ck_assert_int_eq(write_random(0, 4096, 3, 0), 0);
    fake_nfs_set((struct fake_nfs_faults){.jukebox = 1});
    expect_read(0, 8192);
    fake_nfs_set((struct fake_nfs_faults){.jukebox = 1});
    ck_assert_int_eq(flush(), 0);
    expect_stable(0, 4096);
}
END_TEST

START_TEST(jukebox_for_ever_ends_with_a_time_out)
{
    open_image(1, SHORT_MS);
    fake_nfs_set((struct fake_nfs_faults){.jukebox = UINT32_MAX});
    ck_assert_int_eq(write_random(0, 4096, 3, 0), -ETIMEDOUT);
}
END_TEST

START_TEST(file_that_became_shorter_is_an_error_and_not_zeroes)
{
    open_image(1, LONG_MS);
    fake_nfs_truncate("disk.img", 5000);
    expect_read(0, 5000);
    ck_assert_int_eq(test_run(disk, BMIG_READ, 4096, 4096, buffer, 0), -EIO);
    ck_assert_int_eq(test_run(disk, BMIG_READ, 8192, 4096, buffer, 0), -EIO);
}
END_TEST

START_TEST(answer_longer_than_asked_is_an_error)
{
    open_image(1, LONG_MS);
    memset(buffer, 0x55, 8192);
    fake_nfs_set((struct fake_nfs_faults){.long_reads = true});
    ck_assert_int_eq(test_run(disk, BMIG_READ, 0, 4096, buffer, 0), -EIO);
    ck_assert_uint_eq(buffer[4096], 0x55);
}
END_TEST

START_TEST(nfs_errors_become_errnos)
{
    static const struct {
        uint32_t status;
        int result;
    } cases[] = {{NFS3ERR_NOSPC, -ENOSPC}, {NFS3ERR_DQUOT, -EDQUOT},   {NFS3ERR_STALE, -ESTALE},
                 {NFS3ERR_ROFS, -EROFS},   {NFS3ERR_ACCES, -EACCES},   {NFS3ERR_IO, -EIO},
                 {NFS3ERR_FBIG, -EFBIG},   {NFS3ERR_SERVERFAULT, -EIO}};
    open_image(2, LONG_MS);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fake_nfs_set((struct fake_nfs_faults){.fail_status = cases[i].status,
                                              .fail_reads = cases[i].status});
        ck_assert_int_eq(test_run(disk, BMIG_WRITE, 0, 512, buffer, 0), cases[i].result);
        ck_assert_int_eq(test_run(disk, BMIG_READ, 0, 512, buffer, 0), cases[i].result);
    }
    fake_nfs_set((struct fake_nfs_faults){0});
    ck_assert_int_eq(write_random(0, 512, 5, 0), 0);
}
END_TEST

/* ---- stable storage ---- */

START_TEST(flush_and_fua_survive_a_crash)
{
    open_image(2, LONG_MS);
    ck_assert_int_eq(write_random(0, 65536, 6, 0), 0);
    ck_assert_int_eq(flush(), 0);
    ck_assert_int_eq(write_random(65536, 4096, 7, BMIG_FUA), 0);
    ck_assert_uint_eq(fake_nfs_count(FAKE_WRITE_SYNC), 1);
    expect_stable(0, 65536 + 4096);
}
END_TEST

START_TEST(crash_between_write_and_flush_loses_nothing)
{
    open_image(4, LONG_MS);
    ck_assert_int_eq(write_random(0, 1 << 20, 8, 0), 0);
    ck_assert_int_eq(write_random(3 << 20, 100000, 9, 0), 0);
    fake_nfs_restart();
    fake_nfs_stable("disk.img", 0, 1 << 20, buffer);
    ck_assert_mem_ne(buffer, image, 1 << 20); /* it was lost indeed */
    ck_assert_int_eq(flush(), 0);
    expect_stable(0, IMAGE_BYTES);
    ck_assert_uint_eq(fake_nfs_count(FAKE_WRITE_SYNC), 2);
}
END_TEST

START_TEST(read_after_a_crash_finds_what_was_acknowledged)
{
    open_image(4, LONG_MS);
    ck_assert_int_eq(write_random(4096, 65536, 10, 0), 0);
    fake_nfs_restart();
    expect_read(0, 100000);
}
END_TEST

START_TEST(verifier_that_changes_on_a_standing_connection_is_noticed)
{
    open_image(1, LONG_MS);
    ck_assert_int_eq(write_random(0, 65536, 11, 0), 0);
    fake_nfs_forget();
    ck_assert_int_eq(flush(), 0);
    expect_stable(0, IMAGE_BYTES);
    ck_assert_uint_eq(fake_nfs_count(FAKE_CONNECTION), 3); /* two to find the place, one to stay */
}
END_TEST

START_TEST(newer_writes_are_not_undone_by_what_is_written_again)
{
    open_image(1, LONG_MS);
    ck_assert_int_eq(write_random(0, 65536, 12, 0), 0);
    fake_nfs_forget();
    ck_assert_int_eq(write_random(1000, 5000, 13, 0), 0);         /* kept, with the new verifier */
    ck_assert_int_eq(write_random(10000, 5000, 14, BMIG_FUA), 0); /* stable at once */
    ck_assert_int_eq(write_random(20000, 5000, 15, BMIG_REPLAYABLE), 0);
    ck_assert_int_eq(write_random(60000, 9000, 16, 0), 0);
    ck_assert_int_eq(flush(), 0);
    expect_stable(0, IMAGE_BYTES);
    expect_read(0, IMAGE_BYTES);
}
END_TEST

START_TEST(write_under_way_is_not_undone_by_what_is_written_again)
{
    struct test_request flushing, writing;
    open_image(1, LONG_MS);
    ck_assert_int_eq(write_random(0, 65536, 30, 0), 0);
    fake_nfs_forget();
    fill(image + 4096, 8192, 31);
    test_submit(disk, &flushing, BMIG_FLUSH, 0, 0, NULL, 0);
    test_submit(disk, &writing, BMIG_WRITE, 4096, 8192, image + 4096, 0);
    test_until(loop, &flushing.ended);
    test_until(loop, &writing.ended);
    ck_assert_int_eq(flushing.status, 0);
    ck_assert_int_eq(writing.status, 0);
    ck_assert_int_eq(flush(), 0);
    expect_stable(0, 65536);
}
END_TEST

START_TEST(commit_does_not_cover_what_came_behind_it)
{
    struct test_request flushing;
    open_image(1, LONG_MS);
    ck_assert_int_eq(write_random(0, 65536, 32, 0), 0);
    fake_nfs_set((struct fake_nfs_faults){.late_commit = true});
    test_submit(disk, &flushing, BMIG_FLUSH, 0, 0, NULL, 0);
    while (fake_nfs_count(FAKE_COMMIT) == 0)
        bmig_loop_step(loop, 1000000);
    ck_assert_int_eq(write_random(1 << 20, 65536, 33, 0), 0);
    test_until(loop, &flushing.ended);
    ck_assert_int_eq(flushing.status, 0);
    fake_nfs_restart();
    ck_assert_int_eq(flush(), 0);
    expect_stable(0, IMAGE_BYTES);
}
END_TEST

START_TEST(lost_replayable_writes_fail_one_flush)
{
    open_image(2, LONG_MS);
    ck_assert_int_eq(write_random(0, 65536, 17, BMIG_REPLAYABLE), 0);
    ck_assert_int_eq(write_random(1 << 20, 4096, 18, 0), 0);
    fake_nfs_restart();
    ck_assert_int_eq(flush(), -EIO);
    expect_stable(1 << 20, 4096);
    ck_assert_int_eq(test_run(disk, BMIG_WRITE, 0, 65536, image, BMIG_REPLAYABLE), 0);
    ck_assert_int_eq(flush(), 0);
    expect_stable(0, IMAGE_BYTES);
}
END_TEST

START_TEST(failed_commit_fails_the_flush_and_is_made_up_for)
{
    open_image(1, LONG_MS);
    ck_assert_int_eq(write_random(0, 65536, 19, 0), 0);
    fake_nfs_set((struct fake_nfs_faults){.fail_commits = 1});
    ck_assert_int_eq(flush(), -EIO);
    fake_nfs_restart(); /* and with it goes what the server still had in memory */
    ck_assert_int_eq(flush(), 0);
    expect_stable(0, IMAGE_BYTES);
}
END_TEST

START_TEST(full_server_is_told_as_such_while_copies_are_kept)
{
    open_image(1, LONG_MS);
    ck_assert_int_eq(write_random(0, 65536, 20, 0), 0);
    fake_nfs_forget();
    fake_nfs_set((struct fake_nfs_faults){.fail_status = NFS3ERR_NOSPC});
    ck_assert_int_eq(flush(), -ENOSPC);
    fake_nfs_set((struct fake_nfs_faults){0});
    ck_assert_int_eq(flush(), 0);
    expect_stable(0, IMAGE_BYTES);
}
END_TEST

START_TEST(copies_are_bounded_by_commits_of_our_own)
{
    open_image(4, LONG_MS);
    for (int i = 0; i < 12; i++)
        ck_assert_int_eq(write_random(0, IMAGE_BYTES, 21 + (uint64_t)i, 0), 0);
    ck_assert_uint_ge(fake_nfs_count(FAKE_COMMIT), 2);
    fake_nfs_restart();
    expect_read(0, IMAGE_BYTES);
}
END_TEST

/* Random writes of every kind, with restarts of every kind in between, at random points of the
 * calls: what was acknowledged reads back always, and is stable after each flush. */
START_TEST(random_restarts_lose_nothing)
{
    uint64_t state = 0x1234567 + (uint64_t)_i * 7919;
    enum { REQUESTS = 8, SPAN = 1 << 18 };
    struct test_request requests[REQUESTS];
    open_image(1 + (uint32_t)(_i % 4), LONG_MS);
    for (int round = 0; round < 60; round++) {
        struct fake_nfs_faults faults = {0};
        uint64_t dice = test_random(&state) % 8;
        if (dice == 0)
            faults.restart_at = 1 + test_random(&state) % 12;
        else if (dice == 1)
            faults.forget_at = 1 + test_random(&state) % 12;
        else if (dice == 2)
            faults.cut_after = 1 + test_random(&state) % 12;
        else if (dice == 3)
            faults.most_bytes = 1 + test_random(&state) % 8000;
        fake_nfs_set(faults);
        for (int i = 0; i < REQUESTS; i++) { /* each within its own span: they never overlap */
            uint64_t offset = (uint64_t)i * SPAN + test_random(&state) % (SPAN / 2);
            uint64_t length = 1 + test_random(&state) % (SPAN / 2);
            fill(image + offset, length, test_random(&state) | 1);
            test_submit(disk, &requests[i], BMIG_WRITE, offset, length, image + offset,
                        test_random(&state) % 4 ? 0 : BMIG_FUA);
        }
        for (int i = 0; i < REQUESTS; i++) {
            test_until(loop, &requests[i].ended);
            ck_assert_int_eq(requests[i].status, 0);
        }
        /* A silent change of server can be noticed by writes and commits only, so it ends before
         * reads. */
        fake_nfs_set((struct fake_nfs_faults){0});
        if (dice == 4)
            fake_nfs_restart();
        if (dice == 1 || test_random(&state) % 3 == 0) {
            ck_assert_int_eq(flush(), 0);
            expect_stable(0, REQUESTS * SPAN);
        }
        expect_read(0, REQUESTS * SPAN);
    }
}
END_TEST

/* ---- connections and time ---- */

START_TEST(cut_connection_is_made_again_and_nothing_fails)
{
    open_image(2, LONG_MS);
    for (uint64_t i = 0; i < 20; i++) {
        fake_nfs_set((struct fake_nfs_faults){.cut_after = 1});
        ck_assert_int_eq(write_random(i * 10000, 10000, 40 + i, 0), 0);
    }
    fake_nfs_set((struct fake_nfs_faults){.cut_after = 1});
    expect_read(0, 200000);
    fake_nfs_set((struct fake_nfs_faults){.cut_after = 1});
    ck_assert_int_eq(flush(), 0);
    expect_stable(0, IMAGE_BYTES);
}
END_TEST

static void expect_time_outs(void)
{
    struct test_request requests[6];
    for (uint64_t i = 0; i < 6; i++)
        test_submit(disk, &requests[i],
                    i == 5  ? BMIG_FLUSH
                    : i % 2 ? BMIG_READ
                            : BMIG_WRITE,
                    i == 5 ? 0 : i * 65536, i == 5 ? 0 : 65536, i == 5 ? NULL : buffer + i * 65536,
                    0);
    for (int i = 0; i < 6; i++) {
        test_until(loop, &requests[i].ended);
        ck_assert_int_eq(requests[i].status, -ETIMEDOUT);
    }
}

START_TEST(silent_server_ends_everything_with_a_time_out_and_may_come_back)
{
    open_image(2, SHORT_MS);
    ck_assert_int_eq(write_random(6 << 20, 4096, 60, 0), 0);
    fake_nfs_set((struct fake_nfs_faults){.frozen = true});
    expect_time_outs();
    fake_nfs_set((struct fake_nfs_faults){0});
    ck_assert_int_eq(write_random(0, 1 << 20, 61, 0), 0);
    ck_assert_int_eq(flush(), 0);
    expect_stable(0, 1 << 20);
    expect_stable(6 << 20, 4096);
}
END_TEST

START_TEST(server_that_answers_pings_but_no_data_is_given_up)
{
    open_image(2, SHORT_MS);
    fake_nfs_set((struct fake_nfs_faults){.hung = true});
    expect_time_outs();
}
END_TEST

START_TEST(short_silence_is_waited_out)
{
    struct test_request request;
    open_image(1, LONG_MS);
    fake_nfs_set((struct fake_nfs_faults){.frozen = true});
    fill(image, 4096, 62);
    test_submit(disk, &request, BMIG_WRITE, 0, 4096, image, 0);
    for (int i = 0; i < 20; i++)
        bmig_loop_step(loop, 5000000);
    ck_assert(!request.ended);
    fake_nfs_set((struct fake_nfs_faults){0});
    test_until(loop, &request.ended);
    ck_assert_int_eq(request.status, 0);
    expect_read(0, 4096);
}
END_TEST

START_TEST(silence_of_one_connection_is_healed_by_another)
{
    open_image(1, 3000);
    fake_nfs_set((struct fake_nfs_faults){.hung = true});
    struct test_request request;
    fill(image, 4096, 63);
    test_submit(disk, &request, BMIG_WRITE, 0, 4096, image, 0);
    while (fake_nfs_count(FAKE_WRITE) < 2) /* the second is on a new connection */
        bmig_loop_step(loop, 10000000);
    ck_assert_uint_ge(fake_nfs_count(FAKE_CONNECTION), 4);
    fake_nfs_set((struct fake_nfs_faults){0});
    test_until(loop, &request.ended);
    ck_assert_int_eq(request.status, 0);
    expect_read(0, 4096);
}
END_TEST

START_TEST(fence_ends_all_and_closes_the_connections)
{
    struct test_request requests[8];
    open_image(4, LONG_MS);
    ck_assert_int_eq(write_random(0, 4096, 64, 0), 0);
    ck_assert_uint_eq(fake_nfs_open_connections(), 4);
    fake_nfs_set((struct fake_nfs_faults){.hung = true});
    for (uint64_t i = 0; i < 8; i++)
        test_submit(disk, &requests[i], i == 7 ? BMIG_FLUSH : BMIG_WRITE, i == 7 ? 0 : i * 4096,
                    i == 7 ? 0 : 4096, i == 7 ? NULL : buffer, 0);
    test_fence(disk);
    for (int i = 0; i < 8; i++) {
        ck_assert(requests[i].ended);
        ck_assert_int_eq(requests[i].status, -ECANCELED);
    }
    fake_nfs_set((struct fake_nfs_faults){0});
    ck_assert_int_eq(test_run(disk, BMIG_READ, 0, 512, buffer, 0), -ESHUTDOWN);
    while (fake_nfs_open_connections() > 0)
        usleep(1000);
}
END_TEST

START_TEST(disk_may_be_detached_and_attached_again)
{
    struct bmig_error err = {0};
    open_image(2, LONG_MS);
    ck_assert_int_eq(write_random(0, 65536, 65, 0), 0);
    while (bmig_loop_step(loop, 0)) {
    }
    bmig_disk_detach(disk);
    fake_nfs_restart();
    ck_assert_int_eq(bmig_disk_attach(disk, loop, &err), 0);
    expect_read(0, 65536);
    ck_assert_int_eq(flush(), 0);
    expect_stable(0, 65536);
}
END_TEST

/* ---- places ---- */

static struct bmig_error error;

static int with_uri(const char *text, const char *what, uint64_t size_bytes,
                    struct bmig_place_stat *stat)
{
    struct bmig_uri uri;
    struct bmig_open_options options = {.timeout_ns = UINT64_C(2000000000)};
    memset(&error, 0, sizeof(error));
    int result = bmig_uri_parse(&uri, text, &error);
    if (result != 0)
        return result;
    if (strcmp(what, "create") == 0)
        result = bmig_nfs_driver.create(&uri, size_bytes, &options, &error);
    else if (strcmp(what, "remove") == 0)
        result = bmig_nfs_driver.remove(&uri, &options, &error);
    else
        result = bmig_nfs_driver.stat(&uri, &options, stat, &error);
    bmig_uri_fini(&uri);
    return result;
}

START_TEST(image_is_created_once_seen_and_removed)
{
    struct bmig_place_stat stat;
    const char *uri = fake_nfs_uri("new.img");
    ck_assert_int_eq(with_uri(uri, "stat", 0, &stat), 0);
    ck_assert(!stat.exists);
    ck_assert_uint_eq(stat.free_bytes, UINT64_C(2) << 30);
    ck_assert_int_eq(with_uri(uri, "create", 12345, NULL), 0);
    ck_assert_int_eq(with_uri(uri, "create", 99, NULL), -EEXIST);
    ck_assert_int_eq(error.kind, BMIG_DENIED);
    ck_assert_int_eq(with_uri(uri, "stat", 0, &stat), 0);
    ck_assert(stat.exists);
    ck_assert_uint_eq(stat.size_bytes, 12345);
    ck_assert_uint_eq(stat.total_bytes, UINT64_C(1) << 40);
    ck_assert(strncmp(stat.identity, "nfs:127.0.0.1:7:", 16) == 0);
    ck_assert_int_eq(with_uri(uri, "remove", 0, NULL), 0);
    ck_assert(!fake_nfs_has("new.img"));
    ck_assert_int_eq(with_uri(uri, "remove", 0, NULL), -ENOENT);
    ck_assert_int_eq(error.kind, BMIG_NOT_FOUND);
}
END_TEST

START_TEST(new_image_is_known_to_be_zero_until_it_is_written)
{
    struct bmig_open_options options = {.writable = true, .exclusive = true};
    char uri[512];
    snprintf(uri, sizeof(uri), "%s", fake_nfs_uri("new.img"));
    ck_assert_int_eq(with_uri(uri, "create", 1 << 20, NULL), 0);
    disk = test_open(loop, uri, NULL, &options);
    ck_assert(disk->known_zero);
    ck_assert_int_eq(test_run(disk, BMIG_WRITE, 0, 512, buffer, 0), 0);
    test_close(disk);
    disk = test_open(loop, uri, NULL, &options);
    ck_assert(!disk->known_zero);
}
END_TEST

START_TEST(words_that_are_wrong_are_refused_with_their_reason)
{
    char text[600];
    static const struct {
        const char *uri, *says;
        enum bmig_error_kind kind;
    } cases[] = {
        {"nfs://127.0.0.1/export/a?version=4", "only NFS version 3", BMIG_USAGE},
        {"nfs://127.0.0.1/export/a?colour=red", "colour", BMIG_USAGE},
        {"nfs://127.0.0.1/export/a?uid=x", "uid", BMIG_USAGE},
        {"nfs://127.0.0.1/export/a?nfsport=0", "nfsport", BMIG_USAGE},
        {"nfs://127.0.0.1:2049/export/a?nfsport=2050", "twice", BMIG_USAGE},
        {"nfs:///export/a", "host", BMIG_USAGE},
        {"nfs://127.0.0.1/", "file is needed", BMIG_USAGE},
        {"nfs://127.0.0.1/export/a/", "file is needed", BMIG_USAGE},
        {"nfs://127.0.0.1/export/../etc/shadow", "'..'", BMIG_USAGE},
        {"nfs://me@127.0.0.1/export/a", "user names", BMIG_USAGE},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct bmig_place_stat stat;
        ck_assert_msg(with_uri(cases[i].uri, "stat", 0, &stat) < 0, "%s", cases[i].uri);
        ck_assert_int_eq(error.kind, cases[i].kind);
        ck_assert_msg(strstr(error.message, cases[i].says) != NULL, "%s", error.message);
    }
    snprintf(text, sizeof(text), "nfs://127.0.0.1/export/%0300d", 1);
    ck_assert_int_eq(with_uri(text, "stat", 0, NULL), -ENAMETOOLONG);
}
END_TEST

static void expect_place(const char *path, enum bmig_error_kind kind, const char *says)
{
    char uri[512];
    struct bmig_place_stat stat;
    snprintf(uri, sizeof(uri), "nfs://127.0.0.1%s?nfsport=%u&mountport=%u", path, fake_nfs_port(),
             fake_nfs_port());
    ck_assert_int_lt(with_uri(uri, "stat", 0, &stat), 0);
    ck_assert_msg((int)error.kind == (int)kind && strstr(error.message, says), "%s", error.message);
}

START_TEST(places_that_cannot_be_had_say_why)
{
    expect_place("/nowhere/disk.img", BMIG_NOT_FOUND, "exports neither");
    expect_place("/secret/disk.img", BMIG_DENIED, "export it to this host");
    expect_place("/kerberos/disk.img", BMIG_DENIED, "AUTH_SYS");
    expect_place("/export/folder/disk.img", BMIG_NOT_FOUND, "no folder 'folder'");
    expect_place("/export/disk.img/disk.img", BMIG_REFUSED, "not a folder");
    fake_nfs_set((struct fake_nfs_faults){.bad_handles = true});
    expect_place("/export/disk.img", BMIG_FAILED, "look up");
    fake_nfs_set((struct fake_nfs_faults){.frozen = true});
    expect_place("/export/disk.img", BMIG_FAILED, "does not answer");
    fake_nfs_set((struct fake_nfs_faults){0});
}
END_TEST

static int open_fails(const char *name, bool exclusive)
{
    struct bmig_uri uri;
    struct bmig_disk *opened = NULL;
    struct bmig_open_options options = {.writable = true, .exclusive = exclusive};
    memset(&error, 0, sizeof(error));
    ck_assert_int_eq(bmig_uri_parse(&uri, fake_nfs_uri(name), NULL), 0);
    int result = bmig_disk_open(&opened, &bmig_nfs_driver, NULL, &uri, &options, &error);
    bmig_uri_fini(&uri);
    if (result == 0)
        bmig_disk_close(opened);
    return result;
}

START_TEST(image_that_may_not_be_written_is_denied)
{
    fake_nfs_set((struct fake_nfs_faults){.deny_access = ACCESS3_MODIFY});
    ck_assert_int_eq(open_fails("disk.img", false), -EACCES);
    ck_assert_int_eq(error.kind, BMIG_DENIED);
    ck_assert_ptr_nonnull(strstr(error.message, "?uid="));
    ck_assert_int_eq(open_fails("absent.img", false), -ENOENT);
    ck_assert_int_eq(error.kind, BMIG_NOT_FOUND);
    fake_nfs_set((struct fake_nfs_faults){0});
}
END_TEST

/* ---- the lock ---- */

static void put_lock(const char *machine, const char *boot, long pid)
{
    char text[512], host[65] = "", own_machine[64] = "", own_boot[64] = "", pidns[64] = "";
    FILE *file = fopen("/etc/machine-id", "re");
    gethostname(host, sizeof(host) - 1);
    if (file && fscanf(file, "%63s", own_machine) == 1)
        fclose(file);
    file = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (file && fscanf(file, "%63s", own_boot) == 1)
        fclose(file);
    ck_assert(readlink("/proc/self/ns/pid", pidns, sizeof(pidns) - 1) > 0);
    snprintf(text, sizeof(text),
             "blockmig-lock 1\nhost %s\npid %ld\ntime 2026-01-01T00:00:00Z\nmachine %s\nboot %s\n"
             "pidns %s\nstart 5\nnonce 1\n",
             host, pid, machine ? machine : own_machine, boot ? boot : own_boot, pidns);
    fake_nfs_put("disk.img.blockmig-lock", text, 0);
}

START_TEST(second_writer_is_denied_and_the_holder_named)
{
    char pid[32];
    struct bmig_open_options options = {.writable = true, .exclusive = true};
    fake_nfs_set((struct fake_nfs_faults){.no_hard_links = _i == 1});
    disk = test_open(loop, fake_nfs_uri("disk.img"), NULL, &options);
    ck_assert(fake_nfs_has("disk.img.blockmig-lock"));
    ck_assert_int_eq(open_fails("disk.img", true), -EBUSY);
    ck_assert_int_eq(error.kind, BMIG_DENIED);
    snprintf(pid, sizeof(pid), "pid %ld", (long)getpid());
    ck_assert_msg(strstr(error.message, pid) != NULL, "%s", error.message);
    test_close(disk);
    disk = NULL;
    ck_assert(!fake_nfs_has("disk.img.blockmig-lock"));
    ck_assert_int_eq(open_fails("disk.img", true), 0);
}
END_TEST

START_TEST(lock_of_a_process_that_is_gone_is_taken_over)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    put_lock(NULL, NULL, pid);
    ck_assert_int_eq(open_fails("disk.img", true), 0);
    put_lock(NULL, NULL, getpid()); /* a pid that came again: began at another time */
    ck_assert_int_eq(open_fails("disk.img", true), 0);
    put_lock(NULL, "another-boot", getpid());
    ck_assert_int_eq(open_fails("disk.img", true), 0);
    ck_assert(!fake_nfs_has("disk.img.blockmig-lock"));
}
END_TEST

START_TEST(lock_of_another_host_is_never_taken_over)
{
    put_lock("another-machine", "another-boot", 1);
    ck_assert_int_eq(open_fails("disk.img", true), -EBUSY);
    ck_assert(fake_nfs_has("disk.img.blockmig-lock"));
    fake_nfs_put("disk.img.blockmig-lock", "garbage", 0);
    ck_assert_int_eq(open_fails("disk.img", true), -EBUSY);
    fake_nfs_put("disk.img.blockmig-lock", "", 0);
    ck_assert_int_eq(open_fails("disk.img", true), -EBUSY);
    ck_assert_ptr_nonnull(strstr(error.message, "unknown"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("nfs");
    TCase *tcase = tcase_create("nfs");
    tcase_set_timeout(tcase, 120);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, short_reads_and_writes_are_continued);
    tcase_add_test(tcase, request_larger_than_the_server_takes_is_done_whole);
    tcase_add_test(tcase, jukebox_answers_are_tried_again);
    tcase_add_test(tcase, jukebox_for_ever_ends_with_a_time_out);
    tcase_add_test(tcase, file_that_became_shorter_is_an_error_and_not_zeroes);
    tcase_add_test(tcase, answer_longer_than_asked_is_an_error);
    tcase_add_test(tcase, nfs_errors_become_errnos);
    tcase_add_test(tcase, flush_and_fua_survive_a_crash);
    tcase_add_test(tcase, crash_between_write_and_flush_loses_nothing);
    tcase_add_test(tcase, read_after_a_crash_finds_what_was_acknowledged);
    tcase_add_test(tcase, verifier_that_changes_on_a_standing_connection_is_noticed);
    tcase_add_test(tcase, newer_writes_are_not_undone_by_what_is_written_again);
    tcase_add_test(tcase, write_under_way_is_not_undone_by_what_is_written_again);
    tcase_add_test(tcase, commit_does_not_cover_what_came_behind_it);
    tcase_add_test(tcase, lost_replayable_writes_fail_one_flush);
    tcase_add_test(tcase, failed_commit_fails_the_flush_and_is_made_up_for);
    tcase_add_test(tcase, full_server_is_told_as_such_while_copies_are_kept);
    tcase_add_test(tcase, copies_are_bounded_by_commits_of_our_own);
    tcase_add_loop_test(tcase, random_restarts_lose_nothing, 0, 5);
    tcase_add_test(tcase, cut_connection_is_made_again_and_nothing_fails);
    tcase_add_test(tcase, silent_server_ends_everything_with_a_time_out_and_may_come_back);
    tcase_add_test(tcase, server_that_answers_pings_but_no_data_is_given_up);
    tcase_add_test(tcase, short_silence_is_waited_out);
    tcase_add_test(tcase, silence_of_one_connection_is_healed_by_another);
    tcase_add_test(tcase, fence_ends_all_and_closes_the_connections);
    tcase_add_test(tcase, disk_may_be_detached_and_attached_again);
    tcase_add_test(tcase, image_is_created_once_seen_and_removed);
    tcase_add_test(tcase, new_image_is_known_to_be_zero_until_it_is_written);
    tcase_add_test(tcase, words_that_are_wrong_are_refused_with_their_reason);
    tcase_add_test(tcase, places_that_cannot_be_had_say_why);
    tcase_add_test(tcase, image_that_may_not_be_written_is_denied);
    tcase_add_loop_test(tcase, second_writer_is_denied_and_the_holder_named, 0, 2);
    tcase_add_test(tcase, lock_of_a_process_that_is_gone_is_taken_over);
    tcase_add_test(tcase, lock_of_another_host_is_never_taken_over);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
