/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Starting a worker: a process that outlives the daemon, so it gets a session of its own and
 * nothing of the daemon's: no descriptors (libraries open some without close-on-exec), no signal
 * mask, no terminal.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "blockmig/daemon/text.h"
#include "blockmig/daemon/worker_client.h"

#ifndef BLOCKMIG_LIBEXECDIR
#define BLOCKMIG_LIBEXECDIR "/usr/local/libexec/blockmig"
#endif

enum { LOG_MAX_BYTES = 4 << 20 };

extern char **environ;

char *bmig_worker_program(void)
{
    const char *named = getenv("BLOCKMIG_WORKER");
    if (named && *named)
        return bmig_text("%s", named);
    char own[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", own, sizeof own - 1);
    if (length > 0) {
        own[length] = '\0';
        char *slash = strrchr(own, '/');
        char *beside = bmig_text("%.*s/blockmig-worker", (int)(slash - own), own);
        if (access(beside, X_OK) == 0)
            return beside;
        free(beside);
    }
    return bmig_text("%s/blockmig-worker", BLOCKMIG_LIBEXECDIR);
}

/* One older log is kept, so that a worker that dies over and over can't fill the disk. */
static void rotate(const char *log)
{
    struct stat st;
    if (stat(log, &st) || st.st_size < LOG_MAX_BYTES)
        return;
    char *older = bmig_text("%s.1", log);
    rename(log, older);
    free(older);
}

int bmig_worker_spawn(const char *program, const char *control, const char *name, const char *log,
                      pid_t *pid, struct bmig_error *err)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    rotate(log);
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDWR, 0);
    posix_spawn_file_actions_adddup2(&files, 0, 1);
    posix_spawn_file_actions_addopen(&files, 2, log, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW,
                                     0600);
    posix_spawn_file_actions_addclosefrom_np(&files, 3);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes,
                             POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    char *argv[] = {(char *)program, "--control", (char *)control, "--name", (char *)name, NULL};
    int rc = posix_spawn(pid, program, &files, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&files);
    if (rc)
        return bmig_error_set(err, BMIG_FAILED, rc, "can't start '%s' (log '%s'): %s", program, log,
                              bmig_strerror(rc));
    return 0;
}
