#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Every verb against a real daemon and real workers, for people and as JSON, with its exit codes.
set -eu
. "$(dirname "$0")/../lib/common.sh"
requires jq qemu-io timeout

B=$BIN/blockmig
export BLOCKMIG_ROOT=$T/r
mkdir "$T/a" "$T/b"

run() { # run EXIT WORDS...
    local want=$1 status=0
    shift
    timeout 120 "$B" "$@" >"$T/out" 2>"$T/err" </dev/null || status=$?
    [ "$status" = "$want" ] || fail "'$*' exited with $status, not $want: $(cat "$T/out" "$T/err")"
}

# refused WORDS...: not possible now, by preflight (3) or by the job's state (7)
refused() {
    local status=0
    "$B" "$@" >"$T/out" 2>"$T/err" || status=$?
    [ "$status" = 3 ] || [ "$status" = 7 ] || fail "'$*' exited with $status: $(cat "$T/out" "$T/err")"
}

is_json() {
    jq -es "length == 1 and (.[0] | $1)" "$T/out" >/dev/null || fail "not '$1': $(cat "$T/out")"
}

state_is() { # state_is JOB STATE
    [ "$("$B" job "$1" --json | jq -r .state)" = "$2" ]
}

await() { # await JOB STATE
    wait_until 60 state_is "$1" "$2" || fail "job $1 is not $2 but: $("$B" job "$1" --json)"
}

wait_answers() { "$B" repo list --json; }

daemon() {
    start blockmigd "$BIN/blockmigd" --root "$T/r" --foreground
    DAEMON=$PID
    wait_until 20 wait_answers || fail "no daemon: $(cat "$T/blockmigd.log")"
}

# Workers outlive the daemon: they are ended by it, or else by their numbers.
stop_volumes() {
    local pids pid name
    pids=$("$B" volume list --json 2>/dev/null | jq -r '.[].worker_pid // empty')
    for name in $("$B" volume list --json 2>/dev/null | jq -r '.[].name'); do
        timeout 10 "$B" volume stop "$name" --force >/dev/null 2>&1 || true
    done
    for pid in $pids; do
        kill "$pid" 2>/dev/null || true
    done
}

daemon
at_exit stop_volumes

# ---- repositories
run 0 repo add ra "$T/a"
(cd "$T" && "$B" repo add rb b) || fail "a relative folder"
run 0 repo list --json
is_json 'map(.name) | sort == ["ra", "rb"]'
run 0 repo list
contains "$T/out" "^rb +file://$T/b"
run 0 repo show ra --json
is_json '.name == "ra" and .reachable'
run 0 repo show ra
contains "$T/out" "^name +ra$"
run 6 repo show nobody
run 2 repo add 'a/b' "$T/a"
run 2 repo add -- -x "$T/a"
run 2 repo add rc 'nosuch://host/x'
run 2 repo add rc "file://$T/a%00b"

# ---- volumes
run 0 volume create v --repo ra --size 96M --json
is_json '.name == "v" and .state == "stopped" and .size_bytes == 100663296'
refused volume create v --repo ra --size 96M
run 6 volume create w --repo nobody --size 1M
head -c 1048576 /dev/urandom >"$T/a/old.raw"
run 0 volume import old "$T/a/old.raw" --format raw
run 6 volume import new "$T/a/nothere.raw" --format raw
run 0 volume list
contains "$T/out" '^v +stopped +96.0 MiB +ra +v.raw +raw +-$'
run 0 volume show old --json
is_json '.size_bytes == 1048576'
run 0 volume start v
uri=$(cat "$T/out")
case $uri in nbd+unix:///v?socket=*) ;; *) fail "no NBD URI: $uri" ;; esac
qemu-io -f raw "$uri" -c 'write -P 0x5a 0 48M' -c flush >/dev/null
run 0 volume start v --print xml
contains "$T/out" "<host transport='unix' socket='$T/r/run/"
run 0 volume start v --json
is_json '.uri and (.listen | length >= 1)'
run 0 volume show v
contains "$T/out" '^state +started$'
contains "$T/out" '^guest.writes +[1-9]'
run 7 volume delete v
run 6 volume start nobody

# ---- a move, watched to its end
run 0 move v rb --dry-run
contains "$T/out" '^target +rb:v.raw$'
[ ! -e "$T/b/v.raw" ] || fail "a dry run made the target"
run 0 move v rb
contains "$T/out" '^job 1 done in .* s: ra:v.raw -> rb:v.raw$'
contains "$T/out" 'verified +both replicas equal'
[ ! -e "$T/a/v.raw" ] || fail "the source is still there"
qemu-io -f raw "$uri" -c 'read -P 0x5a 0 48M' >"$T/read" || fail "$(cat "$T/read")"
grep -q 'verification failed' "$T/read" && fail "the guest reads something else"
run 6 move nobody ra
run 6 move v nowhere
run 0 job 1 --json
is_json '[.id, .kind, .state, .phase, .source, .target, .percent, .bytes_total, .bytes_copied, .bytes_mirrored,
    .bytes_recopied, .rate_bytes_per_s, .stale_bytes, .guest_p99_us_before, .guest_p99_us, .guest_max_us,
    .switch_hold_us, .verified] | all(. != null)'
is_json 'has("eta_s") and has("error") and .state == "done" and .percent == 100 and .verified'
run 0 jobs --json
is_json 'length == 1'
run 0 watch 1 --json
is_json '.state == "done"'
run 0 wait 1

# ---- a slow move: pause, resume, set, wait in vain, detach, cancel
run 0 move v ra --bandwidth 1MiB/s --detach
job=$(cat "$T/out")
[[ $job =~ ^[1-9][0-9]*$ ]] || fail "no bare number: $job"
run 8 wait "$job" --timeout 300ms
contains "$T/err" "job $job goes on"
refused move v ra
run 0 set "$job" --bandwidth 2MiB/s --json
is_json ".id == $job"
run 0 pause "$job"
await "$job" paused
run 0 set "$job" --max-latency 100ms
run 0 resume "$job"
await "$job" running
"$B" watch "$job" >"$T/out" 2>"$T/err" &
pid=$!
wait_until 20 grep -q "job $job: copy" "$T/err"
kill -INT $pid
status=0
wait $pid || status=$?
[ $status = 8 ] || fail "detached with $status: $(cat "$T/err")"
contains "$T/err" "blockmig watch $job"
state_is "$job" running || fail "Ctrl-C on watch touched the job"
refused switch "$job"
refused commit "$job"
run 0 cancel "$job"
run 4 wait "$job"
run 4 watch "$job" --json
tail -n 1 "$T/out" | jq -e '.state == "cancelled"' >/dev/null || fail "$(cat "$T/out")"
[ ! -e "$T/a/v.raw" ] || fail "a cancelled move left its target"
run 0 cancel "$job" # twice is once
run 6 cancel 99
run 6 wait 99
run 6 watch 99

# ---- held, switched, rolled back; held, switched, committed
run 0 move v ra --hold --undo-window 10m --detach --json
job=$(jq .id "$T/out")
await "$job" synced
run 0 switch "$job"
await "$job" undo-window
run 0 rollback "$job"
run 4 watch "$job"
contains "$T/err" "cancelled: rolled back"
run 0 volume show v --json
is_json '.repo == "rb"'
run 0 move v ra:moved.raw --undo-window 10m --keep-source --detach
job=$(cat "$T/out")
await "$job" undo-window
run 0 commit "$job"
run 0 wait "$job"
run 0 volume show v --json
is_json '.repo == "ra" and .image == "moved.raw"'
[ -e "$T/b/v.raw" ] || fail "--keep-source did not keep it"

# ---- REPO:IMAGE in verbs that need no daemon but to find it
run 0 verify ra:moved.raw rb:v.raw
run 7 copy ra:moved.raw rb:copy.raw
contains "$T/err" "in use"
run 0 volume stop v
run 0 copy ra:moved.raw rb:copy.raw --verify
cmp "$T/a/moved.raw" "$T/b/copy.raw"
run 0 info rb:copy.raw --json
is_json '.size_bytes == 100663296 and .format == "raw"'
run 0 check rb:copy.raw
run 6 info nobody:copy.raw
run 2 info 'ra:../b/copy.raw'

# ---- upkeep
run 0 recover --json
is_json '.actions | type == "array"'
run 0 recover
run 0 cleanup
run 0 cleanup --json
is_json '.actions | type == "array"'

# ---- a daemon that is restarted does not end a wait
run 0 volume start v
run 0 move v rb:again.raw --bandwidth 8MiB/s --detach
job=$(cat "$T/out")
"$B" wait "$job" >"$T/wait.out" 2>"$T/wait.err" &
pid=$!
await "$job" running
stop "$DAEMON"
daemon
status=0
wait $pid || status=$?
[ $status = 0 ] || fail "wait over a restart ended with $status: $(cat "$T/wait.err" "$T/blockmigd.log")"

# ---- the end
run 0 volume stop v --json
run 0 volume delete v
run 0 volume delete old --json
run 6 repo remove nobody
run 0 repo remove ra
run 0 repo remove rb --json
stop "$DAEMON"
run 5 jobs
contains "$T/err" "no blockmigd answers at $T/r/run/blockmigd.sock"

echo "all verbs do what they say"
