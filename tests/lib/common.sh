# SPDX-License-Identifier: LGPL-2.1-or-later
#
# What every integration test needs: a private folder, clean-up registered where a resource is made, skipping
# with a reason, waiting for a fact instead of for time. Source it first, after `set -eu`.
#
#   BUILD, BIN               the build folder (default build, absolute) and its bin
#   T                        a private folder, gone at exit (BLOCKMIG_KEEP=1 keeps it and says where)
#   at_exit COMMAND ARGS     runs at exit, last registered first, with its arguments as they are now
#   requires COMMAND...      skips where one is missing
#   requires_root            skips where we are not root
#   skip REASON              exit 77
#   fail REASON              exit 1
#   free_port                prints a loopback TCP port that nobody listens on now
#   start NAME COMMAND ARGS  in the background, output to $T/NAME.log; sets PID; ended at exit
#   stop PID [SIGNAL]        ends a process of ours and waits until it is gone
#   wait_for WHAT [SECONDS]  a path (file or socket) that exists, a PORT (digits) that listens; default 20 s
#   wait_until SECONDS COMMAND ARGS   until the command succeeds
#   expect_fail STATUS COMMAND ARGS   the command must exit with STATUS (any: "!"); output to $T/out, $T/err
#   contains FILE PATTERN    fails, showing FILE, unless a line matches the extended pattern

cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
BUILD=$(realpath "${BUILD:-build}")
BIN=$BUILD/bin
TEST_NAME=$(basename "$0" .sh)
AT_EXIT=()

at_exit() {
    local quoted
    printf -v quoted '%q ' "$@"
    AT_EXIT+=("$quoted")
}

run_at_exit() {
    local status=$? i
    trap - EXIT INT TERM HUP
    set +e
    for ((i = ${#AT_EXIT[@]} - 1; i >= 0; i--)); do
        eval "${AT_EXIT[i]}"
    done
    exit "$status"
}
trap run_at_exit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

T=$(mktemp -d "${TMPDIR:-/tmp}/blockmig-$TEST_NAME.XXXXXX")
remove_folder() {
    if [ -n "${BLOCKMIG_KEEP:-}" ]; then
        echo "kept: $T" >&2
    else
        rm -rf "$T"
    fi
}
at_exit remove_folder

skip() {
    echo "SKIP $TEST_NAME: $*"
    exit 77
}

fail() {
    echo "FAIL $TEST_NAME: $*" >&2
    exit 1
}

requires() {
    local command
    for command in "$@"; do
        command -v "$command" >/dev/null 2>&1 || skip "needs $command"
    done
}

requires_root() {
    [ "$(id -u)" = 0 ] || skip "needs root"
}

# The connect is refused where nobody listens; two tests that draw the same port at the same moment are told
# apart by the server that can't bind.
free_port() {
    local port i
    for i in $(seq 100); do
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return 0
        fi
    done
    fail "no free port"
}

start() {
    local name=$1
    shift
    "$@" >"$T/$name.log" 2>&1 </dev/null &
    PID=$!
    at_exit stop "$PID"
}

# A process that ignores SIGTERM is killed after ten seconds.
stop() {
    local pid=$1 signal=${2:-TERM} i
    kill -"$signal" "$pid" 2>/dev/null || { wait "$pid" 2>/dev/null || true; return 0; }
    for i in $(seq 200); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.05
    done
    kill -9 "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}

wait_until() {
    local tries=$(($1 * 20))
    shift
    while ! "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 0.05
    done
}

port_listens() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

wait_for() {
    local what=$1 seconds=${2:-20}
    case $what in
    *[!0-9]*) wait_until "$seconds" test -e "$what" || fail "no $what after $seconds s" ;;
    *) wait_until "$seconds" port_listens "$what" || fail "nobody listens on $what after $seconds s" ;;
    esac
}

expect_fail() {
    local want=$1 status=0
    shift
    "$@" >"$T/out" 2>"$T/err" || status=$?
    if [ "$want" = "!" ] && [ "$status" != 0 ] && [ "$status" -lt 126 ]; then
        return 0
    fi
    [ "$status" = "$want" ] || fail "'$*' exited with $status, not $want: $(cat "$T/out" "$T/err")"
}

contains() {
    grep -Eq -- "$2" "$1" || fail "no '$2' in $1: $(cat "$1")"
}
