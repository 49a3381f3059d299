/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The local backend on block devices: loop devices over files of our own. Needs root; says so and
 * passes where there is no loop device to be had.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "blockmig/core/buffer.h"
#include "blockmig/stack/image.h"
#include "tests/unit/disk_helper.h"
#include "tests/unit/model_helper.h"

enum { MiB = 1 << 20, DEVICE_BYTES = 8 * MiB };

static struct bmig_loop *loop;
static char folder[64], backing[96], device[32];
static int device_fd;
static uint8_t *buffer;

static const struct bmig_open_options owning = {
    .writable = true, .exclusive = true, .direct = true};
static const struct bmig_open_options cached = {.writable = true};
static const struct bmig_open_options reading;

static bool attach(int control, int file, uint32_t sector_bytes)
{
    struct loop_config config = {
        .fd = (uint32_t)file, .block_size = sector_bytes, .info.lo_flags = LO_FLAGS_AUTOCLEAR};
    /* Somebody else may take the free one first. */
    for (int tries = 0; tries < 20; tries++) {
        int number = ioctl(control, LOOP_CTL_GET_FREE);
        snprintf(device, sizeof(device), "/dev/loop%d", number);
        device_fd = number < 0 ? -1 : open(device, O_RDWR | O_CLOEXEC);
        if (device_fd < 0)
            return false;
        int off = 0; /* a device stays read-only beyond its use */
        if (ioctl(device_fd, LOOP_CONFIGURE, &config) == 0)
            return ioctl(device_fd, BLKROSET, &off) == 0;
        close(device_fd);
    }
    return false;
}

static bool make_device(uint32_t sector_bytes)
{
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int file = open(backing, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    bool made =
        control >= 0 && ftruncate(file, DEVICE_BYTES) == 0 && attach(control, file, sector_bytes);
    if (control >= 0)
        close(control);
    close(file);
    if (!made) {
        device[0] = '\0';
        fprintf(stderr, "test_local_device: no loop device to be had: not tried\n");
    }
    return made;
}

static void setup(void)
{
    snprintf(folder, sizeof(folder), "/tmp/blockmig-device.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(backing, sizeof(backing), "%s/backing", folder);
    device[0] = '\0';
    ck_assert_int_eq(bmig_loop_new(&loop, BMIG_LOOP_AUTO, NULL), 0);
    buffer = aligned_alloc(4096, 4 * MiB);
}

static void teardown(void)
{
    if (device[0])
        close(device_fd); /* clears itself */
    unlink(backing);
    rmdir(folder);
    bmig_loop_free(loop);
    free(buffer);
}

START_TEST(device_matches_a_model_in_sectors_of_512_bytes)
{
    if (!make_device(512))
        return;
    test_against_model(loop, device, &owning, 11);
}
END_TEST

START_TEST(device_matches_a_model_in_sectors_of_4096_bytes)
{
    if (!make_device(4096))
        return;
    struct bmig_disk *disk = test_open(loop, device, NULL, &owning);
    ck_assert_uint_eq(disk->limits.block_bytes, 4096);
    ck_assert_uint_eq(disk->size_bytes, DEVICE_BYTES);
    test_close(disk);
    test_against_model(loop, device, &owning, 12);
}
END_TEST

START_TEST(device_matches_a_model_through_the_page_cache)
{
    if (!make_device(4096))
        return;
    test_against_model(loop, device, &cached, 13);
}
END_TEST

START_TEST(zero_and_discard_reach_the_device)
{
    if (!make_device(512))
        return;
    struct stat st;
    struct bmig_disk *disk = test_open(loop, device, NULL, &owning);
    ck_assert(disk->caps & BMIG_CAP_DISCARD && disk->caps & BMIG_CAP_UNMAP);
    ck_assert(!disk->known_zero);
    memset(buffer, 0xaa, 4 * MiB);
    ck_assert_int_eq(test_run(disk, BMIG_WRITE, 0, 4 * MiB, buffer, 0), 0);
    ck_assert_int_eq(test_run(disk, BMIG_WRITE, 4 * MiB, 4 * MiB, buffer, BMIG_FUA), 0);
    ck_assert_int_eq(stat(backing, &st), 0);
    ck_assert_int_ge(st.st_blocks * 512, 8 * MiB);
    ck_assert_int_eq(test_run(disk, BMIG_ZERO, 0, 4 * MiB, NULL, BMIG_MAY_UNMAP), 0);
    ck_assert_int_eq(test_run(disk, BMIG_DISCARD, 4 * MiB, 4 * MiB, NULL, 0), 0);
    ck_assert_int_eq(test_run(disk, BMIG_FLUSH, 0, 0, NULL, 0), 0);
    ck_assert_int_eq(stat(backing, &st), 0);
    ck_assert_int_lt(st.st_blocks * 512, 1 * MiB);
    ck_assert_int_eq(test_run(disk, BMIG_READ, 0, 4 * MiB, buffer, 0), 0);
    ck_assert(bmig_is_zero(buffer, 4 * MiB));
    test_close(disk);
}
END_TEST

START_TEST(device_is_fixed_and_known_by_its_number)
{
    if (!make_device(512))
        return;
    char node[96];
    struct stat st;
    struct bmig_place_stat first, second;
    struct bmig_error err = {0};
    struct bmig_image_spec spec = {.uri = device, .format = "raw"};
    ck_assert_int_eq(bmig_image_stat(&spec, &reading, &first, &err), 0);
    ck_assert(first.exists && first.fixed && !first.known_zero);
    ck_assert_uint_eq(first.size_bytes, DEVICE_BYTES);
    ck_assert_int_eq(bmig_image_create(&spec, 4096, &owning, &err), -EEXIST);
    ck_assert_ptr_nonnull(strstr(err.message, "is a block device"));
    err = (struct bmig_error){0};
    ck_assert_int_lt(bmig_image_remove(&spec, &owning, &err), 0);
    ck_assert_int_eq(err.kind, BMIG_REFUSED);
    ck_assert_int_eq(stat(device, &st), 0);
    snprintf(node, sizeof(node), "%s/node", folder);
    if (mknod(node, S_IFBLK | 0600, st.st_rdev) == 0) {
        spec.uri = node;
        ck_assert_int_eq(bmig_image_stat(&spec, &reading, &second, &err), 0);
        ck_assert_str_eq(first.identity, second.identity);
        unlink(node);
    }
}
END_TEST

START_TEST(read_only_device_is_denied_for_writing)
{
    if (!make_device(512))
        return;
    struct bmig_disk *disk = NULL;
    struct bmig_error err = {0};
    struct bmig_image_spec spec = {.uri = device, .format = "raw"};
    int on = 1, off = 0;
    ck_assert_int_eq(ioctl(device_fd, BLKROSET, &on), 0);
    ck_assert_int_eq(bmig_image_open(&disk, &spec, &owning, &err), -EROFS);
    ck_assert_int_eq(err.kind, BMIG_DENIED);
    ck_assert_ptr_nonnull(strstr(err.message, "the device is read-only"));
    disk = test_open(loop, device, NULL, &reading);
    ck_assert_int_eq(test_run(disk, BMIG_READ, 0, 4096, buffer, 0), 0);
    test_close(disk);
    ck_assert_int_eq(ioctl(device_fd, BLKROSET, &off), 0);
}
END_TEST

START_TEST(device_in_use_is_denied_and_its_user_named)
{
    if (!make_device(512))
        return;
    struct bmig_disk *disk = test_open(loop, device, NULL, &owning), *none = NULL;
    struct bmig_error err = {0};
    struct bmig_image_spec spec = {.uri = device, .format = "raw"};
    ck_assert_int_lt(bmig_image_open(&none, &spec, &owning, &err), 0);
    ck_assert_int_eq(err.kind, BMIG_DENIED);
    test_close(disk);

    char command[256], mount_point[96];
    snprintf(command, sizeof(command), "mkfs.ext4 -q %s >/dev/null 2>&1", device);
    snprintf(mount_point, sizeof(mount_point), "%s/mnt", folder);
    if (system(command) != 0 || mkdir(mount_point, 0700) != 0)
        return;
    if (mount(device, mount_point, "ext4", 0, NULL) == 0) {
        err = (struct bmig_error){0};
        ck_assert_int_lt(bmig_image_open(&none, &spec, &owning, &err), 0);
        ck_assert_int_eq(err.kind, BMIG_DENIED);
        ck_assert_msg(strstr(err.message, "mounted at") && strstr(err.message, mount_point), "%s",
                      err.message);
        ck_assert_int_eq(umount(mount_point), 0);
    }
    rmdir(mount_point);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("local_device");
    TCase *tcase = tcase_create("local_device");
    tcase_set_timeout(tcase, 120);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, device_matches_a_model_in_sectors_of_512_bytes);
    tcase_add_test(tcase, device_matches_a_model_in_sectors_of_4096_bytes);
    tcase_add_test(tcase, device_matches_a_model_through_the_page_cache);
    tcase_add_test(tcase, zero_and_discard_reach_the_device);
    tcase_add_test(tcase, device_is_fixed_and_known_by_its_number);
    tcase_add_test(tcase, read_only_device_is_denied_for_writing);
    tcase_add_test(tcase, device_in_use_is_denied_and_its_user_named);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
