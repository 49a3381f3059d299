/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Where a daemon keeps its things. A unix address holds 107 bytes and a path that is longer would
 * be cut off in silence by careless code, so lengths are checked here, before anything is made.
 */
#include "blockmig/daemon/paths.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "blockmig/daemon/text.h"

enum { SOCKET_PATH_MAX = sizeof(((struct sockaddr_un *)0)->sun_path) - 1 };

static char *absolute(const char *path)
{
    char folder[PATH_MAX];
    if (path[0] == '/')
        return bmig_text("%s", path);
    if (!getcwd(folder, sizeof folder))
        return NULL;
    return bmig_text("%s/%s", folder, path);
}

static void strip_slashes(char *path)
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        path[--length] = '\0';
}

int bmig_paths_init(struct bmig_paths *paths, const char *root, struct bmig_error *err)
{
    *paths = (struct bmig_paths){0};
    if (root) {
        if (!*root)
            return bmig_error_set(err, BMIG_USAGE, EINVAL, "--root is empty: name a folder");
        paths->root = absolute(root);
        if (!paths->root)
            return bmig_error_set(err, BMIG_FAILED, errno, "--root '%s': %s", root,
                                  bmig_strerror(errno));
        strip_slashes(paths->root);
        paths->etc = bmig_text("%s/etc", paths->root);
        paths->run = bmig_text("%s/run", paths->root);
        paths->state = bmig_text("%s/state", paths->root);
    } else {
        paths->etc = bmig_text("/etc/blockmig");
        paths->run = bmig_text("/run/blockmig");
        paths->state = bmig_text("/var/lib/blockmig");
    }
    paths->log = bmig_text("%s/log", paths->state);
    paths->socket = bmig_text("%s/blockmigd.sock", paths->run);
    paths->journal = bmig_text("%s/journal.db", paths->state);
    paths->lock = bmig_text("%s/lock", paths->state);
    paths->config = bmig_text("%s/blockmigd.json", paths->etc);
    if (strlen(paths->socket) > SOCKET_PATH_MAX) {
        int rc = bmig_error_set(
            err, BMIG_USAGE, ENAMETOOLONG,
            "--root '%.300s' is too long: a unix socket's path has at most %d bytes and "
            "its would have %zu; use a shorter one",
            root, SOCKET_PATH_MAX, strlen(paths->socket));
        bmig_paths_fini(paths);
        return rc;
    }
    return 0;
}

void bmig_paths_fini(struct bmig_paths *paths)
{
    free(paths->root);
    free(paths->etc);
    free(paths->run);
    free(paths->state);
    free(paths->log);
    free(paths->socket);
    free(paths->journal);
    free(paths->lock);
    free(paths->config);
    *paths = (struct bmig_paths){0};
}

static int make_folder(const char *path, mode_t mode, struct bmig_error *err)
{
    char *copy = bmig_text("%s", path);
    for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(copy, 0755); /* what fails here shows below */
        *slash = '/';
    }
    int rc = 0;
    struct stat st;
    if (mkdir(copy, mode) && errno != EEXIST)
        rc = bmig_error_set(err, bmig_error_kind_of(errno), errno, "can't make folder '%s': %s",
                            path, bmig_strerror(errno));
    else if (stat(copy, &st) || !S_ISDIR(st.st_mode))
        rc = bmig_error_set(err, BMIG_FAILED, ENOTDIR, "'%s' is not a folder", path);
    free(copy);
    return rc;
}

int bmig_paths_make(const struct bmig_paths *paths, struct bmig_error *err)
{
    int rc = make_folder(paths->state, 0700, err);
    if (rc == 0)
        rc = make_folder(paths->log, 0700, err);
    if (rc == 0)
        rc = make_folder(paths->run, 0700, err);
    /* Nothing is ever written to etc, and it may well be read-only. */
    if (rc == 0)
        make_folder(paths->etc, 0755, NULL);
    return rc;
}

static int locked_by_other(const struct bmig_paths *paths, int fd, struct bmig_error *err)
{
    char text[32] = "";
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    long pid = n > 0 ? strtol(text, NULL, 10) : 0;
    if (pid > 0)
        return bmig_error_set(
            err, BMIG_DENIED, EBUSY,
            "another blockmigd, pid %ld, uses '%s': end it first, or use another --root", pid,
            paths->state);
    return bmig_error_set(err, BMIG_DENIED, EBUSY,
                          "another blockmigd uses '%s': end it first, or use another --root",
                          paths->state);
}

int bmig_paths_lock(const struct bmig_paths *paths, int *fd, struct bmig_error *err)
{
    int lock = open(paths->lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (lock < 0)
        return bmig_error_set(err, bmig_error_kind_of(errno), errno, "can't open '%s': %s",
                              paths->lock, bmig_strerror(errno));
    if (flock(lock, LOCK_EX | LOCK_NB)) {
        int rc = errno == EWOULDBLOCK
                     ? locked_by_other(paths, lock, err)
                     : bmig_error_set(err, BMIG_FAILED, errno, "can't lock '%s': %s", paths->lock,
                                      bmig_strerror(errno));
        close(lock);
        return rc;
    }
    char text[32];
    int length = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    if (ftruncate(lock, 0) || pwrite(lock, text, (size_t)length, 0) != length) {
        int code = errno ? errno : EIO;
        close(lock);
        return bmig_error_set(err, BMIG_FAILED, code, "can't write '%s': %s", paths->lock,
                              bmig_strerror(code));
    }
    *fd = lock;
    return 0;
}

char *bmig_paths_control(const struct bmig_paths *paths, const char *volume)
{
    return bmig_text("%s/volume-%s.control", paths->run, volume);
}

char *bmig_paths_nbd(const struct bmig_paths *paths, const char *volume)
{
    return bmig_text("%s/volume-%s.nbd", paths->run, volume);
}

char *bmig_paths_volume_log(const struct bmig_paths *paths, const char *volume)
{
    return bmig_text("%s/volume-%s.log", paths->log, volume);
}

int bmig_paths_check_volume(const struct bmig_paths *paths, const char *volume,
                            struct bmig_error *err)
{
    size_t rest = strlen(paths->run) + strlen("/volume-") + strlen(".control");
    if (rest + strlen(volume) <= SOCKET_PATH_MAX)
        return 0;
    int room = (int)SOCKET_PATH_MAX - (int)rest;
    return bmig_error_set(
        err, BMIG_USAGE, ENAMETOOLONG,
        "volume name '%s' is too long here: under '%s' a name has at most %d bytes, for a "
        "unix socket's path must hold it",
        volume, paths->run, room > 0 ? room : 0);
}
