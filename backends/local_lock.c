/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * One writer at a time: open-file-description locks, on the bytes that QEMU locks its images by.
 *
 * Who uses an image locks, shared, byte 100 + p for each permission p that it has, and byte 200 + p
 * for each that others must not have; then it looks whether anybody holds the opposite of what it
 * locked. Since all lock before they look, two that start at once can't both miss each other.
 * Permissions (docs: QEMU, block/file-posix.c): 0 consistent read, 1 write, 2 write unchanged, 3
 * resize.
 *
 * A writer of ours holds 100, 101, 201, 203; a reader that wants the image to stand still 100, 201,
 * 203.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "backends/local_internal.h"

enum {
    HAS_BASE = 100,
    UNSHARED_BASE = 200,
    READ_PERMISSION = 0,
    WRITE_PERMISSION = 1,
    RESIZE_PERMISSION = 3,
    RETRY_MS = 20,
    GHOST_MS = 2000,
};

static int lock_byte(int fd, int byte)
{
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    while (fcntl(fd, F_OFD_SETLK, &lock) < 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

/* Whether another open file description has byte locked; the lock found is stored. */
static int test_byte(int fd, int byte, struct flock *lock)
{
    *lock = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    if (fcntl(fd, F_OFD_GETLK, lock) < 0)
        return -errno;
    return lock->l_type != F_UNLCK;
}

/* ---- naming the holder ---- */

/* Whether a line "lock: 1: OFDLCK ADVISORY READ -1 08:01:4711 101 101" is of a lock of ours over
 * byte. */
static bool line_has_byte(const char *line, int byte)
{
    unsigned long long start, end;
    char end_text[32];
    if (sscanf(line, "lock: %*d: %*s %*s %*s %*d %*[0-9a-f:] %llu %31s", &start, end_text) != 2)
        return false;
    end = strcmp(end_text, "EOF") ? strtoull(end_text, NULL, 10) : UINT64_MAX;
    return start <= (unsigned long long)byte && (unsigned long long)byte <= end;
}

static bool descriptor_holds(int pid_fd, const char *descriptor, const struct stat *image, int byte)
{
    char name[64], line[256];
    struct stat st;
    snprintf(name, sizeof(name), "fd/%.20s", descriptor);
    if (fstatat(pid_fd, name, &st, 0) < 0 || st.st_dev != image->st_dev ||
        st.st_ino != image->st_ino)
        return false;
    snprintf(name, sizeof(name), "fdinfo/%.20s", descriptor);
    int fd = openat(pid_fd, name, O_RDONLY | O_CLOEXEC);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "r");
    bool holds = false;
    while (file && !holds && fgets(line, sizeof(line), file))
        holds = line_has_byte(line, byte);
    if (file)
        fclose(file);
    else if (fd >= 0)
        close(fd);
    return holds;
}

static bool process_holds(int pid_fd, const struct stat *image, int byte, int own_fd)
{
    int fd = openat(pid_fd, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    bool holds = false;
    struct dirent *entry;
    while (folder && !holds && (entry = readdir(folder)))
        if (isdigit((unsigned char)entry->d_name[0]) && atoi(entry->d_name) != own_fd)
            holds = descriptor_holds(pid_fd, entry->d_name, image, byte);
    if (folder)
        closedir(folder);
    else if (fd >= 0)
        close(fd);
    return holds;
}

static void read_comm(int pid_fd, char comm[32])
{
    int fd = openat(pid_fd, "comm", O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? 0 : read(fd, comm, 31);
    if (fd >= 0)
        close(fd);
    comm[length > 0 ? length : 0] = '\0';
    comm[strcspn(comm, "\n")] = '\0';
}

/* OFD locks name no process (F_OFD_GETLK says -1), but /proc/PID/fdinfo shows them to whoever may
 * look. */
static bool name_holder(int fd, int byte, char *text, size_t capacity)
{
    struct stat image;
    bool found = false;
    DIR *proc = fstat(fd, &image) < 0 ? NULL : opendir("/proc");
    struct dirent *entry;
    char comm[32];
    snprintf(text, capacity, "another program");
    while (proc && (entry = readdir(proc))) {
        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        int pid_fd = openat(dirfd(proc), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (pid_fd < 0)
            continue;
        bool is_self = atoi(entry->d_name) == getpid();
        bool holds = process_holds(pid_fd, &image, byte, is_self ? fd : -1);
        if (holds)
            read_comm(pid_fd, comm);
        close(pid_fd);
        if (holds) {
            snprintf(text, capacity, "process %.12s (%s)", entry->d_name, comm);
            found = true;
            break;
        }
    }
    if (proc)
        closedir(proc);
    return found;
}

static int denied(const char *holder, int byte, const char *path, struct bmig_error *err)
{
    char shown[BMIG_LOCAL_SHOW_BYTES];
    const char *does = byte == HAS_BASE + WRITE_PERMISSION         ? "writes it"
                       : byte == HAS_BASE + RESIZE_PERMISSION      ? "may resize it"
                       : byte == UNSHARED_BASE + WRITE_PERMISSION  ? "lets nobody else write it"
                       : byte == UNSHARED_BASE + RESIZE_PERMISSION ? "lets nobody else resize it"
                                                                   : "has it to itself";
    return bmig_error_set(err, BMIG_DENIED, EBUSY,
                          "'%s': in use: %s %s; end that first, or move the disk through it",
                          bmig_local_show(shown, path), holder, does);
}

static int no_locks(int code, const char *path, struct bmig_error *err)
{
    char shown[BMIG_LOCAL_SHOW_BYTES];
    return bmig_error_set(
        err, BMIG_DENIED, code,
        "'%s': its file system can't lock it (%s), so a second writer could not be "
        "kept out",
        bmig_local_show(shown, path), bmig_strerror(code));
}

/* Locks bytes and looks for what contradicts them: 0, 1 with the byte that somebody else has, or
 * -errno. */
static int try_lock(int fd, const int *bytes, int *taken)
{
    for (const int *byte = bytes; *byte; byte++) {
        int status = lock_byte(fd, *byte);
        *taken = *byte;
        if (status == -EAGAIN ||
            status == -EACCES) /* exclusively, so it's no QEMU and none of ours */
            return 1;
        if (status < 0)
            return status;
    }
    for (const int *byte = bytes; *byte; byte++) {
        struct flock lock;
        *taken = *byte < UNSHARED_BASE ? *byte + UNSHARED_BASE - HAS_BASE
                                       : *byte - UNSHARED_BASE + HAS_BASE;
        int status = test_byte(fd, *taken, &lock);
        if (status != 0)
            return status;
    }
    return 0;
}

static void unlock_all(int fd)
{
    struct flock lock = {
        .l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = HAS_BASE, .l_len = 200};
    (void)fcntl(fd, F_OFD_SETLK, &lock);
}

int bmig_local_lock(int fd, bool writable, const char *path, struct bmig_error *err)
{
    /* In the order in which what others hold is looked for: the plainest reason first. */
    static const int writer[] = {UNSHARED_BASE + WRITE_PERMISSION,
                                 UNSHARED_BASE + RESIZE_PERMISSION, HAS_BASE + WRITE_PERMISSION,
                                 HAS_BASE + READ_PERMISSION, 0};
    static const int reader[] = {UNSHARED_BASE + WRITE_PERMISSION,
                                 UNSHARED_BASE + RESIZE_PERMISSION, HAS_BASE + READ_PERMISSION, 0};
    const struct timespec pause = {.tv_nsec = RETRY_MS * 1000000};
    for (int waited_ms = 0;; waited_ms += RETRY_MS) {
        char holder[80];
        int taken = 0, status = try_lock(fd, writable ? writer : reader, &taken);
        if (status < 0)
            return no_locks(-status, path, err);
        if (status == 0)
            return 0;
        unlock_all(fd);
        /* A process that was killed may leave its lock to I/O of its that the kernel still has:
         * then nobody is to be found who holds it, and it goes in a moment. */
        if (name_holder(fd, taken, holder, sizeof(holder)) || waited_ms >= GHOST_MS)
            return denied(holder, taken, path, err);
        nanosleep(&pause, NULL);
    }
}

int bmig_local_check_unlocked(int fd, const char *path, struct bmig_error *err)
{
    for (int permission = 0; permission <= RESIZE_PERMISSION; permission++) {
        struct flock lock;
        char holder[80];
        if (test_byte(fd, HAS_BASE + permission, &lock) <= 0)
            continue;
        name_holder(fd, HAS_BASE + permission, holder, sizeof(holder));
        return denied(holder, HAS_BASE + permission, path, err);
    }
    return 0;
}

/* ---- block devices ---- */

/* "is mounted at X" or "is part of Y", as far as the kernel tells. */
static bool kernel_user(dev_t device, char *text, size_t capacity)
{
    char line[4096], want[32], mount_point[256], have[32];
    snprintf(want, sizeof(want), "%u:%u", major(device), minor(device));
    FILE *mounts = fopen("/proc/self/mountinfo", "re");
    bool found = false;
    while (mounts && !found && fgets(line, sizeof(line), mounts))
        if (sscanf(line, "%*d %*d %31s %*s %255s", have, mount_point) == 2 &&
            strcmp(have, want) == 0) {
            snprintf(text, capacity, "it is mounted at %s", mount_point);
            found = true;
        }
    if (mounts)
        fclose(mounts);
    if (found)
        return true;
    snprintf(line, sizeof(line), "/sys/dev/block/%s/holders", want);
    DIR *holders = opendir(line);
    struct dirent *entry;
    while (holders && !found && (entry = readdir(holders)))
        if (entry->d_name[0] != '.') {
            snprintf(text, capacity, "it is part of %.100s", entry->d_name);
            found = true;
        }
    if (holders)
        closedir(holders);
    return found;
}

int bmig_local_open_exclusive(const char *path, int flags, dev_t device)
{
    const struct timespec pause = {.tv_nsec = RETRY_MS * 1000000};
    char user[300];
    for (int waited_ms = 0;; waited_ms += RETRY_MS) {
        int fd = open(path, flags | O_EXCL);
        if (fd >= 0 || errno != EBUSY)
            return fd;
        if (waited_ms >= GHOST_MS || kernel_user(device, user, sizeof(user))) {
            errno = EBUSY;
            return -1;
        }
        nanosleep(&pause, NULL);
    }
}

int bmig_local_explain_busy(struct bmig_error *err, const char *path, dev_t device)
{
    char shown[BMIG_LOCAL_SHOW_BYTES], user[300];
    if (!kernel_user(device, user, sizeof(user)))
        snprintf(user, sizeof(user), "a file system, volume manager or program has it exclusively");
    return bmig_error_set(err, BMIG_DENIED, EBUSY, "'%s': the device is in use: %.250s",
                          bmig_local_show(shown, path), user);
}
