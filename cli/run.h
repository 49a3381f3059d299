/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What the verbs' functions share: calls to the daemon, signals.
 */
#ifndef CLI_RUN_H
#define CLI_RUN_H

#include <signal.h>

#include "cli/api.h"
#include "cli/cli.h"

/* Makes cli->api. */
int bmig_cli_api(struct bmig_cli *cli, struct bmig_error *err);

/* bmig_api_call on before + name (percent-encoded) + after. Takes over body. */
int bmig_cli_call(struct bmig_cli *cli, const char *method, const char *before, const char *name,
                  const char *after, json_t *body, json_t **answer, struct bmig_error *err);

/* BMIG_USAGE where text can't be sent as JSON. */
int bmig_cli_check_utf8(const char *text, const char *what, struct bmig_error *err);

/* From here on SIGINT, SIGTERM and SIGHUP set the number returned instead of ending the process;
 * each works as ever the second time. */
const volatile sig_atomic_t *bmig_cli_catch_stop(void);

#endif
