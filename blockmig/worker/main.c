/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * blockmig-worker: the data plane's program, one process a volume. Started by blockmigd, which
 * tells it the rest over the control socket; it outlives the daemon.
 */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blockmig/core/log.h"
#include "blockmig/core/loop.h"
#include "blockmig/worker/worker.h"

static struct bmig_loop *loop;
static volatile sig_atomic_t asked_to_end;

static void on_signal(int number)
{
    asked_to_end = 1;
    bmig_loop_stop(loop);
}

static int usage(int code)
{
    fprintf(code ? stderr : stdout,
            "usage: blockmig-worker --control PATH [--name NAME]\n"
            "Serves one volume and mirrors it; blockmigd starts it and speaks to it over PATH.\n");
    return code;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"control", required_argument, NULL, 'c'},
        {"name", required_argument, NULL, 'n'},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},
        {NULL, 0, NULL, 0},
    };
    const char *control = NULL;
    struct bmig_error err = {0};
    struct bmig_worker *worker;
    int option;

    bmig_log_set_name("worker");
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'c')
            control = optarg;
        else if (option == 'n')
            bmig_log_set_name(optarg);
        else if (option == 'h')
            return usage(0);
        else if (option == 'V')
            return printf("blockmig-worker %s\n", BLOCKMIG_VERSION) < 0;
        else
            return usage(BMIG_USAGE);
    }
    if (!control || optind != argc)
        return usage(BMIG_USAGE);
    if (bmig_loop_new(&loop, BMIG_LOOP_AUTO, &err) != 0 ||
        bmig_worker_new(&worker, loop, control, &err) != 0) {
        bmig_log(BMIG_LOG_ERROR, "%s", err.message);
        return (int)err.kind;
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    bmig_loop_run(loop);
    if (asked_to_end) {
        bmig_worker_stop(worker);
        bmig_loop_run(loop);
    }
    bmig_worker_free(worker);
    bmig_log(BMIG_LOG_NOTICE, "ends");
    return 0;
}
