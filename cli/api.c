/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * libcurl on the daemon's unix socket. All transfers run on a multi handle, so that a signal or a
 * deadline ends a stream at once: poll returns on EINTR, and what the handler set is looked at
 * then.
 */
#include "cli/api.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <time.h>

#include <curl/curl.h>

enum { MAX_ANSWER_BYTES = 64 << 20, POLL_MS = 200 };

struct bmig_api {
    CURLM *multi;
    char *socket;
    char *root;
};

/* What one transfer collects. */
struct receipt {
    char *data;
    size_t length;
    bool too_long;
    bool stopped;
    CURL *easy;
    struct bmig_api_stream *stream; /* NULL: a plain call */
};

uint64_t bmig_api_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int bmig_api_open(struct bmig_api **api, const char *root, struct bmig_error *err)
{
    struct bmig_api *made = calloc(1, sizeof(*made));
    if (!made)
        return bmig_error_set(err, BMIG_FAILED, ENOMEM, "no memory");
    int rc = root ? asprintf(&made->socket, "%s/run/blockmigd.sock", root)
                  : asprintf(&made->socket, "/run/blockmig/blockmigd.sock");
    if (rc < 0)
        made->socket = NULL;
    made->root = root ? strdup(root) : NULL;
    made->multi = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK ? curl_multi_init() : NULL;
    if (!made->socket || (root && !made->root) || !made->multi) {
        bmig_api_close(made);
        return bmig_error_set(err, BMIG_FAILED, ENOMEM, "no memory");
    }
    if (strlen(made->socket) >= sizeof(((struct sockaddr_un *)NULL)->sun_path)) {
        bmig_api_close(made);
        return bmig_error_set(
            err, BMIG_USAGE, ENAMETOOLONG,
            "--root '%.100s...': too long a path for a unix socket; choose one below %zu bytes",
            root, sizeof(((struct sockaddr_un *)NULL)->sun_path) - 24);
    }
    *api = made;
    return 0;
}

void bmig_api_close(struct bmig_api *api)
{
    if (!api)
        return;
    if (api->multi)
        curl_multi_cleanup(api->multi);
    free(api->socket);
    free(api->root);
    free(api);
}

const char *bmig_api_socket(const struct bmig_api *api)
{
    return api->socket;
}

char *bmig_api_path(struct bmig_api *api, const char *before, const char *name, const char *after)
{
    char *path = NULL;
    char *escaped = curl_easy_escape(NULL, name, 0);
    if (!escaped || asprintf(&path, "%s%s%s", before, escaped, after) < 0)
        path = NULL;
    curl_free(escaped);
    return path;
}

/* ---- receiving ---- */

/* Hands each whole line of what has come to the stream. */
static bool feed_lines(struct receipt *receipt)
{
    char *start = receipt->data;
    char *newline;
    bool go_on = true;
    while (go_on &&
           (newline = memchr(start, '\n', receipt->length - (size_t)(start - receipt->data)))) {
        json_t *object = json_loadb(start, (size_t)(newline - start), 0, NULL);
        if (json_is_object(object))
            go_on = receipt->stream->line(receipt->stream->user, object);
        json_decref(object);
        start = newline + 1;
    }
    receipt->length -= (size_t)(start - receipt->data);
    memmove(receipt->data, start, receipt->length);
    return go_on;
}

static size_t receive(char *data, size_t size, size_t count, void *user)
{
    struct receipt *receipt = user;
    size_t bytes = size * count;
    long status = 0;
    if (receipt->length + bytes > MAX_ANSWER_BYTES) {
        receipt->too_long = true;
        return 0;
    }
    char *grown = realloc(receipt->data, receipt->length + bytes + 1);
    if (!grown)
        return 0;
    receipt->data = grown;
    memcpy(grown + receipt->length, data, bytes);
    receipt->length += bytes;
    grown[receipt->length] = '\0';
    curl_easy_getinfo(receipt->easy, CURLINFO_RESPONSE_CODE, &status);
    if (receipt->stream && status < 400 && !feed_lines(receipt)) {
        receipt->stopped = true;
        return 0;
    }
    return bytes;
}

/* ---- errors ---- */

static int no_daemon(struct bmig_api *api, struct bmig_error *err)
{
    if (api->root)
        return bmig_error_set(err, BMIG_NO_DAEMON, ECONNREFUSED,
                              "no blockmigd answers at %s: start it with 'blockmigd --root %.150s'",
                              api->socket, api->root);
    return bmig_error_set(
        err, BMIG_NO_DAEMON, ECONNREFUSED,
        "no blockmigd answers at %s: start it with 'systemctl start blockmigd', or name its "
        "folder with --root",
        api->socket);
}

static int transfer_error(struct bmig_api *api, CURL *easy, CURLcode code, struct bmig_error *err)
{
    long os_error = 0;
    curl_easy_getinfo(easy, CURLINFO_OS_ERRNO, &os_error);
    if (code == CURLE_OUT_OF_MEMORY)
        return bmig_error_set(err, BMIG_FAILED, ENOMEM, "no memory");
    if (os_error == EACCES || os_error == EPERM)
        return bmig_error_set(
            err, BMIG_DENIED, (int)os_error,
            "%s: you may not talk to blockmigd: be root, or in the group that owns the socket",
            api->socket);
    return no_daemon(api, err);
}

/* An answer of 400 and above. */
static int answer_error(long status, json_t *answer, struct bmig_error *err)
{
    json_t *error = json_object_get(answer, "error");
    const char *message = json_string_value(json_object_get(error, "message"));
    const char *kind = json_string_value(json_object_get(error, "kind"));
    if (!message)
        return bmig_error_set(
            err, status == 404 ? BMIG_NOT_FOUND : BMIG_FAILED, EPROTO,
            "blockmigd answered %ld without saying why: is it of another version?", status);
    return bmig_error_set(err, kind ? bmig_error_kind_from_name(kind) : BMIG_FAILED,
                          (int)json_integer_value(json_object_get(error, "code")), "%s", message);
}

/* ---- transfers ---- */

static CURL *prepare(struct bmig_api *api, const char *method, const char *path, const char *body,
                     struct receipt *receipt, struct curl_slist *headers)
{
    char *url = NULL;
    CURL *easy = curl_easy_init();
    if (!easy || asprintf(&url, "http://blockmigd%s", path) < 0) {
        curl_easy_cleanup(easy);
        return NULL;
    }
    receipt->easy = easy;
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, api->socket);
    curl_easy_setopt(easy, CURLOPT_PATH_AS_IS,
                     1L); /* a name of ".." goes to the daemon, to be refused */
    curl_easy_setopt(easy, CURLOPT_PROXY, ""); /* whatever http_proxy says */
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT, 10L);
    curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, receive);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, receipt);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
    if (body)
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
    free(url);
    return easy;
}

/* Runs easy to its end, or to the stream's stop or deadline (then *ended is false). */
static CURLcode perform(struct bmig_api *api, CURL *easy, struct bmig_api_stream *stream,
                        bool *ended)
{
    int running = 1;
    CURLcode code = CURLE_OK;
    *ended = false;
    if (curl_multi_add_handle(api->multi, easy) != CURLM_OK)
        return CURLE_OUT_OF_MEMORY;
    while (running) {
        if (curl_multi_perform(api->multi, &running) != CURLM_OK) {
            code = CURLE_FAILED_INIT;
            break;
        }
        if (!running)
            break;
        if (stream && stream->stop && *stream->stop) {
            stream->end = BMIG_API_STREAM_STOPPED;
            break;
        }
        uint64_t now = stream ? bmig_api_now_ns() : 0;
        if (stream && now >= stream->deadline_ns) {
            stream->end = BMIG_API_STREAM_TIMEOUT;
            break;
        }
        curl_multi_poll(api->multi, NULL, 0, POLL_MS, NULL);
    }
    int left;
    CURLMsg *message;
    while ((message = curl_multi_info_read(api->multi, &left))) {
        if (message->msg == CURLMSG_DONE && message->easy_handle == easy) {
            code = message->data.result;
            *ended = true;
        }
    }
    curl_multi_remove_handle(api->multi, easy);
    return code;
}

static int request(struct bmig_api *api, const char *method, const char *path, const char *body,
                   struct bmig_api_stream *stream, json_t **answer, struct bmig_error *err)
{
    struct receipt receipt = {.stream = stream};
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    CURL *easy = headers ? prepare(api, method, path, body, &receipt, headers) : NULL;
    bool ended = false;
    long status = 0;
    json_t *parsed = NULL;
    int rc = 0;
    if (!easy) {
        curl_slist_free_all(headers);
        return bmig_error_set(err, BMIG_FAILED, ENOMEM, "no memory");
    }
    if (stream)
        stream->end = BMIG_API_STREAM_ENDED;
    CURLcode code = perform(api, easy, stream, &ended);
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    if (receipt.stopped || (code == CURLE_OK && !ended)) {
        rc = 0;
    } else if (receipt.too_long) {
        rc = bmig_error_set(err, BMIG_FAILED, EMSGSIZE, "blockmigd's answer is longer than 64 MiB");
    } else if (code != CURLE_OK) {
        rc = transfer_error(api, easy, code, err);
    } else {
        parsed =
            receipt.length ? json_loadb(receipt.data, receipt.length, JSON_DECODE_ANY, NULL) : NULL;
        if (status >= 400)
            rc = answer_error(status, parsed, err);
        else if (!stream && receipt.length && !parsed)
            rc = bmig_error_set(err, BMIG_FAILED, EPROTO, "blockmigd's answer is no JSON");
    }
    if (rc == 0 && answer) {
        *answer = parsed ? parsed : json_object();
        parsed = NULL;
    }
    json_decref(parsed);
    curl_easy_cleanup(easy);
    curl_slist_free_all(headers);
    free(receipt.data);
    return rc;
}

int bmig_api_call(struct bmig_api *api, const char *method, const char *path, json_t *body,
                  json_t **answer, struct bmig_error *err)
{
    char *text = body ? json_dumps(body, JSON_COMPACT) : strdup("{}");
    json_decref(body);
    bool bare = strcmp(method, "GET") == 0 || strcmp(method, "DELETE") == 0;
    int rc = text ? request(api, method, path, bare ? NULL : text, NULL, answer, err)
                  : bmig_error_set(err, BMIG_FAILED, ENOMEM, "no memory");
    free(text);
    return rc;
}

int bmig_api_follow(struct bmig_api *api, const char *path, struct bmig_api_stream *stream,
                    struct bmig_error *err)
{
    return request(api, "GET", path, NULL, stream, NULL, err);
}
