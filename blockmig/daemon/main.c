/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * blockmigd: the control plane. Reads its arguments, goes into the background once it listens, and
 * ends orderly on SIGTERM or SIGINT. No guest's I/O passes through it, so it may end at any moment:
 * its journal has everything.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "blockmig/core/log.h"
#include "blockmig/daemon/api.h"
#include "blockmig/daemon/manager.h"
#include "blockmig/daemon/text.h"

enum { END_S = 12 }; /* from the signal on, whatever storage does */

static const char usage[] = "usage: blockmigd [--root DIR] [--foreground]\n"
                            "\n"
                            "  --root DIR     keep etc/, run/ and state/ under DIR (default: "
                            "$BLOCKMIG_ROOT, or /etc/blockmig,\n"
                            "                 /run/blockmig and /var/lib/blockmig)\n"
                            "  --foreground   stay, and log to stderr\n"
                            "  --version, --help\n";

struct arguments {
    const char *root;
    bool foreground;
};

static void parse_arguments(int argc, char **argv, struct arguments *arguments)
{
    static const struct option options[] = {{"root", required_argument, NULL, 'r'},
                                            {"foreground", no_argument, NULL, 'f'},
                                            {"version", no_argument, NULL, 'V'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
        switch (option) {
        case 'r':
            arguments->root = optarg;
            break;
        case 'f':
            arguments->foreground = true;
            break;
        case 'V':
            puts("blockmigd " BLOCKMIG_VERSION);
            exit(0);
        case 'h':
            fputs(usage, stdout);
            exit(0);
        default:
            fputs(usage, stderr);
            exit(BMIG_USAGE);
        }
    }
    if (optind < argc) {
        fprintf(stderr, "blockmigd: '%s' is too much\n%s", argv[optind], usage);
        exit(BMIG_USAGE);
    }
    if (!arguments->root && getenv("BLOCKMIG_ROOT") && *getenv("BLOCKMIG_ROOT"))
        arguments->root = getenv("BLOCKMIG_ROOT");
}

/* READY=1 to whoever started us (sd_notify(3), without its library). */
static void notify_ready(void)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof address.sun_path)
        return;
    size_t length = strlen(path);
    memcpy(address.sun_path, path, length);
    if (path[0] == '@')
        address.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    char text[64];
    int size = snprintf(text, sizeof text, "READY=1\nMAINPID=%ld", (long)getpid());
    sendto(fd, text, (size_t)size, MSG_NOSIGNAL, (struct sockaddr *)&address,
           (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length));
    close(fd);
    unsetenv("NOTIFY_SOCKET"); /* not the workers' */
}

/* ---- into the background ---- */

/* What the child tells the parent: how its start went. */
struct verdict {
    int status;
    char message[512];
};

/* In the parent: waits for the child's verdict and exits with it. */
static void wait_for_child(int fd)
{
    struct verdict verdict = {.status = BMIG_FAILED};
    ssize_t n;
    do {
        n = read(fd, &verdict, sizeof verdict);
    } while (n < 0 && errno == EINTR);
    if (n != sizeof verdict)
        fprintf(stderr, "blockmigd: it ended before it was ready\n");
    else if (verdict.status)
        fprintf(stderr, "blockmigd: %s\n", verdict.message);
    exit(n == sizeof verdict ? verdict.status : BMIG_FAILED);
}

/* Returns in the child, with the descriptor for its verdict. */
static int go_background(void)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC)) {
        fprintf(stderr, "blockmigd: %s\n", bmig_strerror(errno));
        exit(BMIG_FAILED);
    }
    pid_t pid = fork();
    if (pid < 0) {
        fprintf(stderr, "blockmigd: %s\n", bmig_strerror(errno));
        exit(BMIG_FAILED);
    }
    if (pid > 0) {
        close(fds[1]);
        wait_for_child(fds[0]);
    }
    close(fds[0]);
    setsid();
    return fds[1];
}

static void give_verdict(int fd, const struct bmig_error *err)
{
    struct verdict verdict = {.status = err->kind};
    snprintf(verdict.message, sizeof verdict.message, "%s", err->message);
    if (fd < 0) {
        if (verdict.status)
            fprintf(stderr, "blockmigd: %s\n", verdict.message);
        return;
    }
    ssize_t n = write(fd, &verdict, sizeof verdict);
    (void)n;
    close(fd);
}

/* From here on nobody reads our stdio; the log has a file. */
static void leave_stdio(const struct bmig_manager *manager)
{
    char *path = bmig_text("%s/blockmigd.log", manager->paths.log);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    free(path);
    if (null >= 0) {
        dup2(null, 0);
        dup2(null, 1);
        dup2(log >= 0 ? log : null, 2);
        close(null);
    }
    if (log >= 0)
        close(log);
}

/* ---- the run ---- */

static void block_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, set, NULL); /* inherited by every thread: only sigwait gets them */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_IGN); /* workers vanish without being waited for */
}

static void *end_anyway(void *unused)
{
    sleep(END_S);
    _exit(0); /* a thread hangs in storage; the journal is whole at every moment */
}

static void wait_for_signal(const sigset_t *set)
{
    int number;
    while (sigwait(set, &number) || number == SIGHUP)
        ;
    bmig_log(BMIG_LOG_NOTICE, "ending; volumes are served on");
}

/* The standard descriptors must exist, or a socket or the journal would be taken for stderr. */
static void ensure_stdio(void)
{
    int fd;
    do {
        fd = open("/dev/null", O_RDWR);
    } while (fd >= 0 && fd <= 2);
    if (fd > 2)
        close(fd);
}

int main(int argc, char **argv)
{
    static struct bmig_manager manager;
    struct arguments arguments = {0};
    struct bmig_error err = {0};
    struct bmig_api *api = NULL;
    sigset_t signals;
    ensure_stdio();
    bmig_log_set_name("blockmigd");
    parse_arguments(argc, argv, &arguments);
    int verdict = arguments.foreground ? -1 : go_background();
    umask(077);
    block_signals(&signals);
    int rc = bmig_manager_open(&manager, arguments.root, &err);
    if (rc == 0) {
        if (!arguments.foreground)
            leave_stdio(&manager);
        bmig_manager_run(&manager);
        rc = bmig_api_start(&api, &manager, &err);
    }
    give_verdict(verdict, &err);
    if (rc)
        _exit((int)err.kind); /* workers and their jobs go on */
    notify_ready();
    bmig_log(BMIG_LOG_NOTICE, "version %s listens at '%s'", BLOCKMIG_VERSION, manager.paths.socket);
    wait_for_signal(&signals);
    pthread_t watchdog;
    pthread_create(&watchdog, NULL, end_anyway, NULL);
    bmig_manager_stop(&manager);
    bmig_api_stop(api);
    if (!bmig_manager_close(&manager))
        _exit(0);
    return 0;
}
