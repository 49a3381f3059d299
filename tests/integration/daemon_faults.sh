#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The daemon killed in every phase of a move, workers that die, stay silent or refuse, a journal that can't be
# written: the volume is always on one replica that holds everything, the job ends right, and nothing is left.
# The workers are tests/tools/fake_worker, which stops where it is told to.
set -eu
. "$(dirname "$0")/../lib/common.sh"
. "$(dirname "$0")/../lib/blockmigd.sh"
requires curl jq sqlite3 cmp

export BLOCKMIG_WORKER=$BUILD/tests/tools/fake_worker FAKE_DIR=$T/fake
mkdir "$T/a" "$T/b" "$FAKE_DIR"
SIZE=4194304
PLACE=a # where the volume is now

orders() {
    printf '%s\n' "$@" >"$FAKE_DIR/orders.new"
    mv "$FAKE_DIR/orders.new" "$FAKE_DIR/orders"
}

heard() { # what the workers did since the last orders
    grep -qx "v $1" "$FAKE_DIR/verbs"
}

other() {
    [ "$PLACE" = a ] && echo b || echo a
}

begin() { # [KEY: VALUE...] a move of v to the other place, once the verbs are cleared
    : >"$FAKE_DIR/verbs"
    want 201 POST /v1/moves "{\"volumes\": [\"v\"], \"destination\": \"$(other)\"${1:+, $1}}"
    ID=$(field .id)
}

phase_is() {
    [ "$(journal "SELECT phase FROM jobs WHERE id = $ID")" = "$1" ]
}

wait_phase() {
    wait_until 20 phase_is "$1" || fail "job $ID is not in phase $1 but $(journal "SELECT phase, state, error FROM jobs WHERE id = $ID")"
}

volume_is_on() { # PLACE: everywhere one looks, and nowhere else
    want 200 GET /v1/volumes/v
    expect ".repo == \"$1\" and .job == null"
    cmp "$T/good" "$T/$1/$(field .image)" || fail "the volume's bytes are others"
    [ "$(ls "$T/a" "$T/b" | grep -c raw)" = 1 ] || fail "images are left: $(ls "$T/a" "$T/b")"
    [ "$(journal "SELECT count(*) FROM replicas WHERE volume = 'v'")" = 1 ] || fail "replica rows are left"
    PLACE=$1
}

moved() { # the job ends well and the volume is there
    wait_job "$ID" "done"
    volume_is_on "$(other)"
}

stayed() { # STATE: the job ends so, and everything is as it was
    wait_job "$ID" "$1"
    volume_is_on "$PLACE"
}

worker_is() { # what the worker itself believes
    [ "$(printf '{"id": 1, "do": "stat"}\n' | timeout 5 socat - "UNIX-CONNECT:$ROOT/run/volume-v.control" |
        head -1 | jq -r '"\(.mirror.state) \(.epoch)"')" = "$1" ]
}

orders
daemon_start
want 201 POST /v1/repos "{\"name\": \"a\", \"uri\": \"$T/a\"}"
want 201 POST /v1/repos "{\"name\": \"b\", \"uri\": \"$T/b\"}"
want 201 POST /v1/volumes "{\"name\": \"v\", \"repo\": \"a\", \"size_bytes\": $SIZE}"
head -c "$SIZE" /dev/urandom | tee "$T/good" >"$T/a/v.raw"
want 200 POST /v1/volumes/v/start '{}'

echo "== a move without faults"
begin
moved
heard target-known-zero || fail "a new target was not said to be zero"

echo "== killed while the target is attached"
orders 'ignore mirror-start'
begin
wait_phase attach
wait_until 20 heard mirror-start
daemon_kill
orders
daemon_start
moved
! heard target-known-zero || fail "a target that may hold something was said to be zero"

echo "== killed while copying: the mirror goes on, the new daemon finds it"
orders 'rate 2000000'
begin
wait_phase copy
daemon_kill
orders
daemon_start
moved
[ "$(grep -c 'v mirror-start' "$FAKE_DIR/verbs")" = 1 ] || fail "the copy was begun again"

echo "== killed while held in sync"
begin '"hold": true'
wait_job "$ID" synced
daemon_kill
daemon_start
wait_job "$ID" synced
want 200 POST "/v1/jobs/$ID/switch"
moved

echo "== killed between prepare and the record: the source stays, then it switches"
orders 'mute switch-prepare'
begin
wait_until 20 heard switch-prepare
wait_until 5 worker_is "switching $(journal "SELECT epoch FROM volumes")"
daemon_kill
orders
daemon_start
wait_until 20 heard switch-abort || fail "the worker was not told"
moved

echo "== killed between the record and commit: the record decides"
orders 'ignore switch-commit'
begin '"undo_window_ms": 600000'
wait_phase undo-window
EPOCH=$(journal "SELECT epoch FROM volumes")
worker_is "switching $((EPOCH - 1))" || fail "the worker should not know of the switch"
daemon_kill
orders
daemon_start
worker_is "synced $EPOCH" || fail "the worker was not told of the switch"
wait_job "$ID" undo-window
want 200 POST "/v1/jobs/$ID/commit"
moved

echo "== killed in the undo window, then rolled back"
begin '"undo_window_ms": 600000'
wait_job "$ID" undo-window
daemon_kill
daemon_start
wait_job "$ID" undo-window
want 200 POST "/v1/jobs/$ID/rollback"
stayed cancelled

echo "== killed between the record of a rollback and its commit"
begin '"undo_window_ms": 600000'
wait_job "$ID" undo-window
orders 'ignore switch-commit'
want 200 POST "/v1/jobs/$ID/rollback"
wait_phase rolled-back
daemon_kill
orders
daemon_start
stayed cancelled

echo "== killed while it lets go of the source"
orders 'ignore mirror-stop'
begin
wait_phase release
daemon_kill
orders
daemon_start
moved

echo "== killed while it cancels"
orders 'rate 2000000' 'ignore mirror-stop'
begin
wait_phase copy
want 200 POST "/v1/jobs/$ID/cancel"
wait_until 20 heard mirror-stop
daemon_kill
orders 'rate 2000000'
daemon_start
want 200 POST "/v1/jobs/$ID/cancel"
orders
stayed cancelled

echo "== killed again and again at any moment"
for i in $(seq 8); do
    orders "rate 3000000"
    begin
    for j in 1 2 3; do
        sleep "0.$((RANDOM % 5))$((RANDOM % 10))"
        daemon_kill
        daemon_start
    done
    orders
    wait_job "$ID" "done"
    volume_is_on "$(other)"
done

echo "== the worker dies while copying"
orders 'rate 2000000'
begin
wait_phase copy
kill -9 "$(worker_pid v)"
wait_until 20 worker_is "copying $(journal "SELECT epoch FROM volumes")"
orders
moved

echo "== the worker dies at prepare, and at commit"
orders 'die switch-prepare'
begin
wait_until 20 grep -q 'its worker' "$T/blockmigd.log"
orders
moved
orders 'die switch-commit'
begin
moved
orders

echo "== daemon and worker both die; the record was written"
orders 'ignore switch-commit'
begin '"undo_window_ms": 600000'
wait_phase undo-window
daemon_kill
kill -9 "$(worker_pid v)"
orders
daemon_start
wait_job "$ID" undo-window
wait_until 20 worker_is "synced $(journal "SELECT epoch FROM volumes")" || fail "it was not mirrored back"
want 200 POST "/v1/jobs/$ID/rollback"
stayed cancelled

echo "== a worker that dies over and over is given up, and said so"
orders 'rate 2000000'
begin
wait_phase copy
orders 'die hello' 'rate 2000000'
kill -9 "$(worker_pid v)"
wait_job "$ID" failed
want 200 GET /v1/volumes/v
expect '.state == "failed" and (.error.message | contains("died"))'
orders
want 200 POST /v1/volumes/v/start '{}'
volume_is_on "$PLACE"

echo "== the target fails once: again; it fails for ever: given up, and nothing is left"
orders 'rate 2000000'
begin
wait_phase copy
orders 'degrade 5' 'rate 2000000'
wait_job "$ID" degraded
orders
moved
orders 'rate 2000000' 'degrade 5'
begin
wait_job "$ID" failed 120
expect '.error.code == 5'
orders
stayed failed

echo "== the target is full: paused, resumed"
orders 'rate 2000000'
begin
wait_phase copy
orders 'rate 2000000' 'degrade 28'
wait_job "$ID" paused
expect '.error.code == 28 and (.error.message | contains("no-space"))'
orders
want 200 POST "/v1/jobs/$ID/resume"
moved

echo "== the target can't be attached"
orders 'fail mirror-start 16'
begin
wait_job "$ID" failed
orders
stayed failed

echo "== prepare is refused for ever"
orders 'fail switch-prepare 5'
begin
wait_job "$ID" failed 60
orders
stayed failed

echo "== the journal is locked at the switch: the source stays, the record is tried again"
begin '"hold": true'
wait_job "$ID" synced
sqlite3 "$ROOT/state/journal.db" "BEGIN EXCLUSIVE; SELECT count(*) FROM volumes;" ".shell touch $T/locked" ".shell sleep 7" "ROLLBACK" >"$T/lock.log" 2>&1 &
LOCKER=$!
wait_for "$T/locked"
api POST "/v1/jobs/$ID/switch"
sleep 1
worker_is "switching $(( $(jq -r .epoch <(curl -s --unix-socket "$SOCKET" http://x/v1/volumes/v) ) ))" || true
wait "$LOCKER"
moved

echo "== cleanup finds what a failed undo left"
orders 'rate 2000000'
begin
wait_phase copy
chattr +i "$T/$(other)/v.raw" 2>/dev/null && IMMUTABLE=1 || IMMUTABLE=
orders
if [ -n "$IMMUTABLE" ]; then
    orders 'rate 1000'
    want 200 POST "/v1/jobs/$ID/cancel"
    wait_job "$ID" cancelled
    expect '.result | contains("cleanup")'
    chattr -i "$T/$(other)/v.raw"
    want 200 POST /v1/cleanup
    expect '.actions | any(contains("removed"))'
    want 200 POST /v1/cleanup
    expect '.actions == []'
    orders
    volume_is_on "$PLACE"
else
    moved
fi

echo "== a stop is refused while a client is connected, but for force"
orders 'clients 1'
want 403 POST /v1/volumes/v/stop '{}'
want 200 POST /v1/volumes/v/stop '{"force": true}'

echo "== state folders that can't be used"
daemon_end
echo 'not a database, but long enough to be looked at as one by whoever opens it for its header' >"$T/junk"
mkdir -p "$T/broken/state"
cp "$T/junk" "$T/broken/state/journal.db"
expect_fail 1 "$BIN/blockmigd" --root "$T/broken" --foreground
contains "$T/err" 'journal'
sqlite3 "$ROOT/state/journal.db" 'PRAGMA user_version = 99'
expect_fail 1 "$BIN/blockmigd" --root "$ROOT" --foreground
contains "$T/err" 'newer'
if mkdir "$T/full" && mount -t tmpfs -o size=64k tmpfs "$T/full" 2>/dev/null; then
    at_exit umount "$T/full"
    mkdir -p "$T/full/state" "$T/full/run"
    head -c 1000000 /dev/zero >"$T/full/fill" 2>/dev/null || true
    expect_fail ! "$BIN/blockmigd" --root "$T/full" --foreground
    contains "$T/err" '[Ss]pace|full'
    rm "$T/full/fill"
    mount -o remount,ro "$T/full"
    expect_fail ! "$BIN/blockmigd" --root "$T/full" --foreground
    contains "$T/err" '[Rr]ead-only|readonly'
else
    echo "(no tmpfs here: full and read-only state folders were not tried)"
fi
echo "ok"
