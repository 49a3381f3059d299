# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# A blockmigd of a test's own. Source after common.sh.
#
#   daemon_start [ENV=VALUE...]   starts it on $T/root and waits until it answers; sets DAEMON
#   daemon_kill                   SIGKILL, and waits until it is gone
#   daemon_end                    SIGTERM, and waits; fails if it does not exit with 0
#   api METHOD PATH [JSON]        prints the reply's body; the status is in STATUS
#   want STATUS METHOD PATH [JSON]   the same, and fails unless the status is that
#   field FILTER                  jq -r FILTER on the last reply
#   job_is N STATE...             true if job N is in one of the states
#   wait_job N STATE [SECONDS]    waits until job N is in that state; fails on another final one
#   journal SQL                   prints what the journal says (read-only)
#
# Workers outlive their daemon, so they are ended at exit by the pids that their control sockets' owners have.

ROOT=$T/root
SOCKET=$ROOT/run/blockmigd.sock

end_workers() {
    local pid
    # Only processes whose arguments name a control socket in our own folder.
    for pid in /proc/[0-9]*; do
        if { tr '\0' ' ' <"$pid/cmdline"; } 2>/dev/null | grep -qF -- "--control $ROOT/run/"; then
            kill -9 "${pid#/proc/}" 2>/dev/null || true
        fi
    done
}
at_exit end_workers

worker_pid() {
    local pid
    for pid in /proc/[0-9]*; do
        if { tr '\0' ' ' <"$pid/cmdline"; } 2>/dev/null | grep -qF -- "--control $ROOT/run/volume-$1.control"; then
            echo "${pid#/proc/}"
            return 0
        fi
    done
    return 1
}

daemon_start() {
    env "$@" "$BIN/blockmigd" --root "$ROOT" --foreground >>"$T/blockmigd.log" 2>&1 </dev/null &
    DAEMON=$!
    at_exit stop "$DAEMON"
    wait_until 30 curl -sf --unix-socket "$SOCKET" http://x/v1/status ||
        fail "blockmigd does not answer: $(cat "$T/blockmigd.log")"
}

daemon_kill() {
    kill -9 "$DAEMON"
    wait "$DAEMON" 2>/dev/null || true
}

daemon_end() {
    local status=0
    kill -TERM "$DAEMON"
    wait "$DAEMON" || status=$?
    [ "$status" = 0 ] || fail "blockmigd ended with $status: $(tail -5 "$T/blockmigd.log")"
}

api() {
    local method=$1 path=$2
    shift 2
    STATUS=$(curl -s --max-time 200 --unix-socket "$SOCKET" -o "$T/reply" -w '%{http_code}' -X "$method" \
        ${1+-H 'Content-Type: application/json' --data-binary "$1"} "http://x$path") || STATUS=000
}

want() {
    local status=$1
    shift
    api "$@"
    [ "$STATUS" = "$status" ] || fail "$*: status $STATUS, not $status: $(cat "$T/reply")"
}

field() {
    jq -r "$1" "$T/reply"
}

# The last reply must have this in it.
expect() {
    jq -e "$1" "$T/reply" >/dev/null || fail "not so: $1: $(cat "$T/reply")"
}

job_is() {
    local id=$1 state
    shift
    api GET "/v1/jobs/$id"
    [ "$STATUS" = 200 ] || return 1
    for state; do
        [ "$(field .state)" != "$state" ] || return 0
    done
    return 1
}

wait_job() {
    local id=$1 state=$2 seconds=${3:-60}
    wait_until "$seconds" job_is "$id" "$state" "done" failed cancelled || true
    job_is "$id" "$state" || fail "job $id is not $state: $(cat "$T/reply") $(tail -20 "$T/blockmigd.log")"
}

journal() {
    sqlite3 -readonly -cmd '.timeout 10000' "$ROOT/state/journal.db" "$1"
}
