#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Many volumes of one daemon move at the same time while each has a guest that writes: never more than the budget
# run, all end, every image holds what its guest wrote, and nothing is left running.
set -eu
. "$(dirname "$0")/../lib/common.sh"
. tests/lib/blockmigd.sh
requires curl jq fio

COUNT=${MANY_VOLUMES:-32} SIZE=64 BUDGET=4

mkdir -p "$T/a" "$T/b" "$ROOT/etc"
echo "{\"max_jobs\": $BUDGET}" >"$ROOT/etc/blockmigd.json"
daemon_start
want 200 GET /v1/status
expect ".max_jobs == $BUDGET"
want 201 POST /v1/repos "{\"name\": \"a\", \"uri\": \"$T/a\"}"
want 201 POST /v1/repos "{\"name\": \"b\", \"uri\": \"$T/b\"}"

echo "- $COUNT volumes, each with a guest"
head -c $((SIZE / 2))M /dev/urandom >"$T/fill"
{
    echo "[global]"
    echo "ioengine=nbd"
    echo "rw=randwrite"
    echo "bs=4k"
    echo "iodepth=4"
    echo "size=$((SIZE / 2))M" # the upper half stays as it was filled
    echo "rate_iops=,50"
    echo "time_based"
    echo "runtime=600"
    echo "verify=crc32c"
    echo "verify_backlog=64"
    echo "verify_fatal=1"
    echo "verify_state_save=0"
    echo "thread"
} >"$T/guests.fio"
for ((i = 0; i < COUNT; i++)); do
    name=v$i
    want 201 POST /v1/volumes "{\"name\": \"$name\", \"repo\": \"a\", \"size_bytes\": $((SIZE * 1048576))}"
    dd if="$T/fill" of="$T/a/$name.raw" bs=1M seek=$((SIZE / 2)) conv=notrunc status=none
    printf '%s' "$name" | dd of="$T/a/$name.raw" bs=1M seek=$((SIZE / 2)) conv=notrunc status=none
    want 200 POST "/v1/volumes/$name/start" '{}'
    printf '[%s]\nuri=%s\n' "$name" "$(field .uri)" >>"$T/guests.fio"
done
fio --output="$T/guests.json" --output-format=json --eta=never "$T/guests.fio" >"$T/guests.out" 2>&1 </dev/null &
GUESTS=$!
at_exit stop "$GUESTS" INT
# The list says nothing of what workers know: each is asked.
each_volume() { # FILTER
    local i
    for ((i = 0; i < COUNT; i++)); do
        want 200 GET "/v1/volumes/v$i"
        jq -e "$1" "$T/reply" >/dev/null || return 1
    done
}
all_connected() {
    each_volume '.clients >= 1'
}
wait_until 60 all_connected || fail "the guests do not connect: $(cat "$T/guests.out") $(head -c 2000 "$T/reply")"

echo "- all move"
BEGIN=$SECONDS
for ((i = 0; i < COUNT; i++)); do
    want 201 POST /v1/moves "{\"volumes\": [\"v$i\"], \"destination\": \"b\", \"undo_window_ms\": 500}"
done
MOST=0 ENDED=0
while [ "$ENDED" -lt "$COUNT" ]; do
    [ $((SECONDS - BEGIN)) -lt 240 ] || fail "only $ENDED of $COUNT ended: $(jq -c '[.[] | {id, state, phase, error}]' "$T/reply")"
    kill -0 "$GUESTS" 2>/dev/null || fail "a guest ended: $(cat "$T/guests.out")"
    want 200 GET /v1/jobs
    # One that is in sync, or behind its switch, has made room for the next: it only mirrors.
    running=$(field '[.[] | select(.state | IN("running", "paused", "degraded"))] | length')
    [ "$running" -le "$MOST" ] || MOST=$running
    ENDED=$(field '[.[] | select(.state | IN("done", "failed", "cancelled"))] | length')
    [ "$running" -le "$BUDGET" ] || fail "$running run at once: $(jq -c '[.[] | {id, state, phase}]' "$T/reply")"
    sleep 0.1
done
echo "  in $((SECONDS - BEGIN)) s, at most $MOST at once"
[ "$MOST" -ge 2 ] || fail "they went one after the other"
want 200 GET /v1/jobs
[ "$(field length)" = "$COUNT" ] || fail "$(field length) jobs"
expect 'all(.state == "done" and .verified and .bytes_different == 0 and .error == null)'
expect '[.[].volume] | unique | length == '"$COUNT"
want 200 GET /v1/volumes
expect 'all(.repo == "b" and .epoch == 2 and .state == "started" and .job == null)'

echo "- what the guests wrote is there"
sleep 1 # they go on behind the move, too
kill -INT "$GUESTS"
wait "$GUESTS" || true
sed -n '/^{/,$p' "$T/guests.json" >"$T/guests.clean.json"
jq -e --argjson count "$COUNT" '(.jobs | length) == $count and all(.jobs[]; .error == 0 and (.total_err // 0) == 0 and .write.total_ios > 50)' \
    "$T/guests.clean.json" >/dev/null || fail "fio: $(cat "$T/guests.out") $(jq -c '[.jobs[] | {jobname, error, n: .write.total_ios}]' "$T/guests.clean.json")"
each_volume '.guest.errors == 0 and .guest.writes > 50' || fail "a guest saw errors: $(cat "$T/reply")"
for ((i = 0; i < COUNT; i++)); do
    want 200 POST "/v1/volumes/v$i/stop" '{}'
    [ ! -e "$T/a/v$i.raw" ] || fail "the source of v$i was not removed: $(api GET "/v1/jobs/$((i + 1))"; field .result)"
    [ "$(stat -c %s "$T/b/v$i.raw")" = $((SIZE * 1048576)) ] || fail "v$i has another size"
    dd if="$T/b/v$i.raw" bs=1M skip=$((SIZE / 2)) status=none | cmp -s -i 16 - "$T/fill" || fail "v$i lost what it was filled with"
    [ "$(dd if="$T/b/v$i.raw" bs=1M skip=$((SIZE / 2)) count=1 status=none | head -c "$((1 + ${#i}))")" = "v$i" ] ||
        fail "v$i is another volume's image"
done
[ "$(find "$T/a" "$T/b" -type f | wc -l)" = "$COUNT" ] || fail "files are left: $(ls "$T/a" "$T/b")"

echo "- nothing is left running"
no_worker() {
    local i
    for ((i = 0; i < COUNT; i++)); do
        ! worker_pid "v$i" || return 1
    done
}
wait_until 20 no_worker || fail "a worker still runs"
left=$(find "$ROOT/run" -name 'volume-*' ! -name '*.log' ! -name '*.lock')
[ -z "$left" ] || fail "left: $left"
[ "$(find "/proc/$DAEMON/fd" -type l | wc -l)" -lt 60 ] || fail "the daemon holds descriptors: $(ls -l "/proc/$DAEMON/fd")"
daemon_end
echo "PASS $TEST_NAME"
