# SPDX-License-Identifier: LGPL-2.1-or-later
#
# A blockmigd of a test's own, with its root in $T/root. Needs common.sh and jq.
#
#   daemon_start         starts it and waits until it answers; sets BM (the CLI with its root), DAEMON_PID.
#                        It and its workers are ended at exit
#   bm WORDS             the CLI, silent unless it fails; then the test fails
#   daemon_end           ends it and its workers now
#   job_field JOB FIELD  prints a field of a job, nothing where it is null
#   job_until JOB SECONDS STATE...   until the job is in one of the states; sets STATE. Fails where it ends
#                        otherwise or the time runs out

BM=("$BIN/blockmig" --root "$T/root")
DAEMON_PID=

daemon_start() {
    mkdir -p "$T/root"
    at_exit daemon_end
    "$BIN/blockmigd" --root "$T/root" --foreground >>"$T/blockmigd.log" 2>&1 </dev/null &
    DAEMON_PID=$!
    wait_until 20 "${BM[@]}" repo list || fail "blockmigd does not answer: $(cat "$T/blockmigd.log")"
}

# Workers outlive their daemon, which would start a killed one again: so it goes first.
daemon_end() {
    local workers pid
    [ -n "$DAEMON_PID" ] || return 0
    workers=$("${BM[@]}" --json volume list 2>/dev/null | jq -r '.[].worker_pid // empty' 2>/dev/null) || true
    stop "$DAEMON_PID"
    DAEMON_PID=
    for pid in $workers; do
        stop "$pid"
    done
}

job_field() {
    "${BM[@]}" --json job "$1" | jq -r ".$2 // empty"
}

job_until() {
    local job=$1 tries=$(($2 * 10)) want
    shift 2
    while [ "$tries" -gt 0 ]; do
        tries=$((tries - 1))
        STATE=$(job_field "$job" state)
        for want in "$@"; do
            [ "$STATE" != "$want" ] || return 0
        done
        case $STATE in
        done | failed | cancelled) break ;;
        esac
        sleep 0.1
    done
    echo "job $job is '$STATE', not '$*': $(job_field "$job" error)" >&2
    return 1
}

# The CLI, silent unless it fails.
bm() {
    "${BM[@]}" "$@" >"$T/bm.out" 2>&1 || fail "blockmig $*: $(cat "$T/bm.out")"
}
