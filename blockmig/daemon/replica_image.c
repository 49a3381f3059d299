/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Replicas as images: stat, create, remove, and what a worker is told to open them. Everything here
 * blocks and runs without the manager's mutex. Secrets are read from their files at the moment of
 * use and wiped behind it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "blockmig/core/uri.h"
#include "blockmig/daemon/repo.h"
#include "blockmig/daemon/text.h"

enum { SECRET_MAX_BYTES = 4096 };

int bmig_repo_secret_read(const char *file, char **secret, struct bmig_error *err)
{
    *secret = NULL;
    if (!file)
        return 0;
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    struct stat st;
    if (fd < 0 || fstat(fd, &st)) {
        int code = errno;
        if (fd >= 0)
            close(fd);
        return bmig_error_set(err, bmig_error_kind_of(code), code, "secret file '%.300s': %s", file,
                              bmig_strerror(code));
    }
    char *text = bmig_zalloc(SECRET_MAX_BYTES + 1);
    ssize_t n = S_ISREG(st.st_mode) ? read(fd, text, SECRET_MAX_BYTES + 1) : -1;
    close(fd);
    size_t length = n > 0 ? strcspn(text, "\r\n") : 0;
    if (n <= 0 || n > SECRET_MAX_BYTES || length == 0) {
        bmig_repo_secret_free(text);
        return bmig_error_set(
            err, BMIG_FAILED, EINVAL,
            "secret file '%.300s' must be a file with one line of at most %d bytes", file,
            SECRET_MAX_BYTES);
    }
    explicit_bzero(text + length, (size_t)SECRET_MAX_BYTES + 1 - length);
    *secret = text;
    return 0;
}

void bmig_repo_secret_free(char *secret)
{
    if (!secret)
        return;
    explicit_bzero(secret, strlen(secret));
    free(secret);
}

int bmig_repo_secret(struct bmig_manager *manager, const struct bmig_replica *replica,
                     char **secret, struct bmig_error *err)
{
    char *file = NULL;
    *secret = NULL;
    if (!replica->repo)
        return 0;
    bmig_manager_lock(manager);
    struct bmig_repo *repo = bmig_repo_find_locked(manager, replica->repo, NULL);
    if (repo)
        file = bmig_text_copy(repo->secret_file);
    bmig_manager_unlock(manager);
    int rc = bmig_repo_secret_read(file, secret, err);
    free(file);
    return rc;
}

enum action { STAT, CREATE, REMOVE };

static int act(struct bmig_manager *manager, enum action action, const struct bmig_replica *replica,
               uint64_t size_bytes, struct bmig_place_stat *stat, struct bmig_error *err)
{
    char *secret;
    int rc = bmig_repo_secret(manager, replica, &secret, err);
    if (rc)
        return rc;
    struct bmig_open_options options = {.writable = action != STAT, .secret = secret};
    struct bmig_image_spec spec = {.uri = replica->uri, .format = replica->format};
    if (action == STAT)
        rc = bmig_image_stat(&spec, &options, stat, err);
    else if (action == CREATE)
        rc = bmig_image_create(&spec, size_bytes, &options, err);
    else
        rc = bmig_image_remove(&spec, &options, err);
    bmig_repo_secret_free(secret);
    return rc;
}

int bmig_replica_stat(struct bmig_manager *manager, const struct bmig_replica *replica,
                      struct bmig_place_stat *stat, struct bmig_error *err)
{
    *stat = (struct bmig_place_stat){.allocated_bytes = UINT64_MAX, .free_bytes = UINT64_MAX};
    return act(manager, STAT, replica, 0, stat, err);
}

static int check_folder(const char *path, struct bmig_error *err)
{
    struct stat st;
    if (stat(path, &st))
        return bmig_error_set(err, bmig_error_kind_of(errno), errno, "folder '%.300s': %s", path,
                              bmig_strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return bmig_error_set(err, BMIG_REFUSED, ENOTDIR, "'%.300s' is not a folder", path);
    if (access(path, W_OK | X_OK))
        return bmig_error_set(err, BMIG_DENIED, errno, "nothing can be made in folder '%.300s': %s",
                              path, bmig_strerror(errno));
    return 0;
}

int bmig_replica_check_folder(const char *text, struct bmig_error *err)
{
    struct bmig_uri uri;
    int rc = bmig_uri_parse(&uri, text, err);
    if (rc)
        return rc;
    char *slash = strrchr(uri.path, '/');
    if (strcmp(uri.scheme, "file") == 0 && slash) {
        slash[slash == uri.path] = '\0'; /* the root keeps its own */
        rc = check_folder(uri.path, err);
    }
    bmig_uri_fini(&uri);
    return rc;
}

int bmig_replica_create(struct bmig_manager *manager, const struct bmig_replica *replica,
                        uint64_t size_bytes, struct bmig_error *err)
{
    return act(manager, CREATE, replica, size_bytes, NULL, err);
}

/* The last gate in front of a removal: whatever went wrong above, no volume loses the image it runs
 * on. */
static int check_not_primary(struct bmig_manager *manager, const struct bmig_replica *replica,
                             const char *owner, struct bmig_error *err)
{
    int rc = 0;
    bmig_manager_lock(manager);
    for (struct bmig_daemon_volume *v = manager->volumes; v && rc == 0; v = v->next)
        if (bmig_replica_same(&v->primary, replica) && !(owner && strcmp(owner, v->name) == 0))
            rc = bmig_error_set(err, BMIG_REFUSED, EBUSY,
                                "'%.200s' is not removed: volume '%s' runs on it", replica->uri,
                                v->name);
    bmig_manager_unlock(manager);
    return rc;
}

int bmig_replica_remove(struct bmig_manager *manager, const struct bmig_replica *replica,
                        const char *owner, struct bmig_error *err)
{
    struct bmig_place_stat stat;
    struct bmig_replica now = {0};
    int rc = bmig_replica_stat(manager, replica, &stat, err);
    if (rc || !stat.exists)
        return rc;
    bmig_replica_copy(&now, replica);
    bmig_text_set(&now.identity, stat.identity);
    rc = check_not_primary(manager, &now, owner, err);
    bmig_replica_fini(&now);
    return rc ? rc : act(manager, REMOVE, replica, 0, NULL, err);
}

json_t *bmig_replica_image_json(struct bmig_manager *manager, const struct bmig_replica *replica,
                                bool known_zero, struct bmig_error *err)
{
    char *secret;
    if (bmig_repo_secret(manager, replica, &secret, err))
        return NULL;
    json_t *image = json_pack("{s:s, s:s}", "uri", replica->uri, "format", replica->format);
    if (secret)
        json_object_set_new(image, "secret", json_string(secret));
    if (known_zero)
        json_object_set_new(image, "known_zero", json_true());
    bmig_repo_secret_free(secret);
    return image;
}
