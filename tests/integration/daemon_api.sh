#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The daemon's API from end to end, with real workers: repositories, volumes, moves and every refusal.
set -eu
. "$(dirname "$0")/../lib/common.sh"
. "$(dirname "$0")/../lib/blockmigd.sh"
requires curl jq sqlite3 qemu-io

mkdir "$T/a" "$T/b"
daemon_start

echo "== status and repositories"
want 200 GET /v1/status
expect '.volumes == 0 and .jobs_running == 0 and .jobs_queued == 0 and (.version | length > 0)'
expect ".pid == $DAEMON and .root == \"$ROOT\""
want 201 POST /v1/repos "{\"name\": \"a\", \"uri\": \"$T/a\"}"
expect ".uri == \"file://$T/a\" and .free_bytes > 0 and .total_bytes > 0 and .volumes == []"
want 404 POST /v1/repos "{\"name\": \"n\", \"uri\": \"$T/none\"}"
want 201 POST /v1/repos "{\"name\": \"b\", \"uri\": \"file://$T/b\"}"
want 412 POST /v1/repos "{\"name\": \"a\", \"uri\": \"$T/a\"}"
want 200 GET /v1/repos
expect 'map(.name) == ["a", "b"]'
want 404 GET /v1/repos/none
want 400 POST /v1/repos "{\"name\": \"../x\", \"uri\": \"$T/a\"}"
want 400 POST /v1/repos "{\"name\": \"-x\", \"uri\": \"$T/a\"}"
want 400 POST /v1/repos '{"name": "c", "uri": "relative/path"}'
want 400 POST /v1/repos '{"name": "c", "uri": "gopher://x/y"}'
want 400 POST /v1/repos '{"name": "c"}'
want 400 POST /v1/repos "{\"name\": \"nfs\", \"uri\": \"$T/a\"}"

echo "== volumes"
want 201 POST /v1/volumes '{"name": "v", "repo": "a", "size_bytes": 67108864}'
expect '.state == "stopped" and .epoch == 1 and .image == "v.raw" and .format == "raw" and .job == null'
[ "$(stat -c %s "$T/a/v.raw")" = 67108864 ] || fail "the image has another size"
want 412 POST /v1/volumes '{"name": "v", "repo": "a", "size_bytes": 67108864}'
want 404 POST /v1/volumes '{"name": "w", "repo": "none", "size_bytes": 67108864}'
want 400 POST /v1/volumes '{"name": "w", "repo": "a", "size_bytes": 1000}'
want 400 POST /v1/volumes '{"name": "w", "repo": "a", "size_bytes": 0}'
want 400 POST /v1/volumes '{"name": "w", "repo": "a", "size_bytes": -512}'
want 400 POST /v1/volumes '{"name": "w", "repo": "a", "size_bytes": 512, "format": "frob"}'
want 400 POST /v1/volumes '{"name": "w w", "repo": "a", "size_bytes": 512}'
want 412 DELETE /v1/repos/a
want 400 POST /v1/volumes '{"name": "w", "repo": "a", "size_bytes": 512, "colour": "red"}'
expect '.error.kind == "usage" and (.error.message | contains("colour"))'
want 404 POST /v1/volumes/import "{\"name\": \"i\", \"uri\": \"$T/none.raw\"}"
want 403 POST /v1/volumes/import "{\"name\": \"i\", \"uri\": \"a:v.raw\"}"
ln "$T/a/v.raw" "$T/b/hard.raw"
want 403 POST /v1/volumes/import "{\"name\": \"i\", \"uri\": \"$T/b/hard.raw\"}"
want 412 POST /v1/moves '{"volumes": ["v"], "destination": "b:hard.raw"}'
expect '.error.message | contains("one image")'
rm "$T/b/hard.raw"
want 200 POST /v1/volumes/v/start '{}'
URI=$(field .uri)
want 200 POST /v1/volumes/v/start '{}'
[ "$(field .uri)" = "$URI" ] || fail "a second start gave another URI"
want 403 DELETE /v1/volumes/v
qemu-io -f raw -c 'write -P 0xa5 1M 8M' -c flush "$URI" >"$T/qemu.log"
want 200 GET /v1/volumes/v
expect '.state == "started" and .clients == 0 and .memory_bytes > 0 and .guest.writes > 0'

echo "== dry run, and a move"
want 200 POST /v1/moves '{"volumes": ["v"], "destination": "b", "dry_run": true}'
expect '.ok and .target == "b:v.raw" and .problems == [] and .size_bytes == 67108864'
want 200 GET /v1/jobs
expect '. == []'
[ -z "$(ls "$T/b")" ] || fail "a dry run left something"
want 201 POST /v1/moves '{"volumes": ["v"], "destination": "b", "bandwidth_bytes_per_s": 8388608}'
ID=$(field .id)
[ "$ID" = 1 ] || fail "what was refused took a number"
timeout 60 curl -sN --unix-socket "$SOCKET" "http://x/v1/events?job=$ID" >"$T/stream"
jq -es '.[0].event == "snapshot" and .[-1].job.state == "done"' "$T/stream" >/dev/null || fail "stream: $(cat "$T/stream")"
jq -es '[.[] | select(.event == "job") | .job.percent] | . == sort' "$T/stream" >/dev/null || fail "percent fell"
want 200 GET "/v1/jobs/$ID"
expect '.state == "done" and .percent == 100 and .verified and .error == null and .source == "a:v.raw"'
for key in id kind state phase source target percent bytes_total bytes_copied bytes_mirrored bytes_recopied \
    rate_bytes_per_s eta_s stale_bytes guest_p99_us_before guest_p99_us guest_max_us switch_hold_us verified \
    error volume options created started finished bytes_skipped bytes_verified bytes_different \
    guest_p50_us_before guest_p999_us_before guest_max_us_before guest_p50_us guest_p999_us source_kept; do
    expect "has(\"$key\")"
done
want 200 GET /v1/volumes/v
expect '.repo == "b" and .epoch == 2 and .job == null'
[ ! -e "$T/a/v.raw" ] || fail "the source was not removed"
qemu-io -r -f raw -c 'read -P 0xa5 1M 8M' "$URI" >"$T/qemu.log"
! grep -q 'verification failed' "$T/qemu.log" || fail "other bytes behind the move"

echo "== hold, switch, rollback"
want 201 POST /v1/moves '{"volumes": ["v"], "destination": "a", "hold": true, "undo_window_ms": 600000}'
ID=$(field .id)
want 412 POST /v1/moves '{"volumes": ["v"], "destination": "a"}'
wait_job "$ID" synced
want 403 POST "/v1/jobs/$ID/rollback"
want 403 POST "/v1/jobs/$ID/commit"
want 403 POST /v1/volumes/v/stop
want 200 POST "/v1/jobs/$ID/switch"
wait_job "$ID" undo-window
want 403 POST "/v1/jobs/$ID/cancel"
expect '.error.message | contains("rollback")'
want 403 POST "/v1/jobs/$ID/switch"
qemu-io -f raw -c 'write -P 0x5a 4M 1M' -c flush "$URI" >"$T/qemu.log"
want 200 POST "/v1/jobs/$ID/rollback"
wait_job "$ID" cancelled
expect '.phase == "rolled-back" and .error.kind == "cancelled"'
want 200 GET /v1/volumes/v
expect '.repo == "b" and .epoch == 4'
[ ! -e "$T/a/v.raw" ] || fail "the target was not removed"
qemu-io -r -f raw -c 'read -P 0x5a 4M 1M' -c 'read -P 0xa5 1M 3M' "$URI" >"$T/qemu.log"
! grep -q 'verification failed' "$T/qemu.log" || fail "a write was lost by the rollback"

echo "== undo window and commit, keep the source"
want 201 POST /v1/moves \
    '{"volumes": ["v"], "destination": "a", "undo_window_ms": 600000, "keep_source": true, "verify": false}'
ID=$(field .id)
wait_job "$ID" undo-window
want 200 POST "/v1/jobs/$ID/commit"
wait_job "$ID" "done"
expect '.source_kept and (.result | contains("kept")) and (.verified | not)'
[ -e "$T/b/v.raw" ] || fail "the source was to be kept"

echo "== the name is taken; cancel, pause, limits"
want 201 POST /v1/moves '{"volumes": ["v"], "destination": "b", "bandwidth_bytes_per_s": 65536, "hold": true}'
ID=$(field .id)
expect ".target == \"b:v-$ID.raw\""
wait_job "$ID" running
want 403 POST "/v1/jobs/$ID/switch"
want 200 POST "/v1/jobs/$ID/pause"
wait_job "$ID" paused
want 200 PATCH "/v1/jobs/$ID" '{"bandwidth_bytes_per_s": 131072, "max_latency_us": 5000}'
expect '.options.bandwidth_bytes_per_s == 131072 and .options.max_latency_us == 5000'
want 400 PATCH "/v1/jobs/$ID" '{"bandwidth_bytes_per_s": "fast"}'
want 200 POST "/v1/jobs/$ID/resume"
wait_job "$ID" running
want 200 POST "/v1/jobs/$ID/cancel"
wait_job "$ID" cancelled
want 200 POST "/v1/jobs/$ID/cancel"
want 403 POST "/v1/jobs/$ID/resume"
[ ! -e "$T/b/v-$ID.raw" ] || fail "a cancelled job left its target"
want 200 GET /v1/volumes/v
expect '.repo == "a" and .state == "started" and .job == null'

echo "== what is refused"
want 412 POST /v1/moves '{"volumes": ["v"], "destination": "b:v.raw"}'
expect '.error.message | contains("exists already")'
want 412 POST /v1/moves '{"volumes": ["v"], "destination": "a:v.raw"}'
want 404 POST /v1/moves '{"volumes": ["v"], "destination": "nowhere"}'
want 404 POST /v1/moves '{"volumes": ["none"], "destination": "b"}'
want 400 POST /v1/moves '{"volumes": [], "destination": "b"}'
want 412 POST /v1/moves '{"volumes": ["v", "w"], "destination": "b"}'
want 400 POST /v1/moves '{"volumes": ["v"], "destination": "b:../x"}'
want 400 POST /v1/moves '{"volumes": ["v"], "destination": "./x"}'
want 400 POST /v1/moves '{"volumes": ["v"], "destination": "b", "verify": 1}'
want 400 POST /v1/moves '{"volumes": "v", "destination": "b"}'
want 412 POST /v1/moves "{\"volumes\": [\"v\"], \"destination\": \"$T/no/such/folder/x.raw\"}"
want 404 GET /v1/jobs/99
want 400 GET /v1/jobs/x
want 400 GET /v1/jobs/-1
want 404 POST /v1/jobs/1/frobnicate
want 404 GET /v1/nothing
want 404 GET /
want 405 PUT /v1/repos '{}'
want 405 DELETE /v1/status
want 400 POST /v1/repos '{"name": '
expect '.error.message | contains("not JSON")'
want 400 POST /v1/repos '[1]'
want 400 POST /v1/repos '{"name": "x", "name": "y", "uri": "/tmp"}'
want 400 POST /v1/repos '{"name": "x\u0000y", "uri": "/tmp"}'
want 400 GET '/v1/events?jobs=1'
want 404 GET '/v1/events?job=99'
head -c 100000 /dev/zero | tr '\0' ' ' >"$T/large"
want 413 POST /v1/repos "@$T/large"
want 200 GET '/v1/resolve?image=a:v.raw'
expect ".uri == \"file://$T/a/v.raw\" and .format == \"raw\""
want 400 GET '/v1/resolve?image=a:../../etc/passwd'
want 404 GET '/v1/resolve?image=zzz:x'
want 400 GET /v1/resolve

echo "== import: the owner's image is kept"
truncate -s 8M "$T/own.img"
want 201 POST /v1/volumes/import "{\"name\": \"i\", \"uri\": \"$T/own.img\", \"format\": \"raw\"}"
expect '.repo == null and .size_bytes == 8388608 and (.image_made_here | not)'
want 201 POST /v1/moves '{"volumes": ["i"], "destination": "b"}'
ID=$(field .id)
wait_job "$ID" "done"
expect '.source_kept and (.result | contains("not made by blockmig"))'
[ -e "$T/own.img" ] || fail "an imported image was removed"
want 200 GET /v1/volumes/i
expect '.state == "stopped"' # as before the move
want 200 DELETE /v1/volumes/i
[ ! -e "$T/b/i.raw" ] || fail "delete left the image that blockmig made"

echo "== a queue of six with a budget of two"
want 201 POST /v1/repos "{\"name\": \"c\", \"uri\": \"$T/a\", \"max_jobs\": 2}"
for i in 1 2 3 4 5 6; do
    want 201 POST /v1/volumes "{\"name\": \"q$i\", \"repo\": \"b\", \"size_bytes\": 4194304}"
    head -c 4194304 /dev/urandom >"$T/b/q$i.raw"
done
FIRST=
for i in 1 2 3 4 5 6; do
    want 201 POST /v1/moves "{\"volumes\": [\"q$i\"], \"destination\": \"c\", \"bandwidth_bytes_per_s\": 8388608}"
    FIRST=${FIRST:-$(field .id)}
done
LAST=$(field .id)
MOST=0
while :; do
    want 200 GET /v1/jobs
    RUNNING=$(field "[.[] | select(.id >= $FIRST and (.state == \"running\" or .state == \"switching\"))] | length")
    [ "$RUNNING" -le "$MOST" ] || MOST=$RUNNING
    [ "$RUNNING" -le 2 ] || fail "$RUNNING jobs ran at a time: $(cat "$T/reply")"
    [ "$(field "[.[] | select(.id >= $FIRST and .state != \"done\")] | length")" != 0 ] || break
    [ "$(field "[.[] | select(.state == \"failed\")] | length")" = 0 ] || fail "a job failed: $(cat "$T/reply")"
    sleep 0.05
done
[ "$MOST" = 2 ] || fail "never two at a time, but $MOST"
want 200 GET "/v1/jobs/$LAST"
expect '.state == "done"'

echo "== metrics"
want 200 GET /metrics
contains "$T/reply" '^blockmig_jobs\{state="done"\} [0-9]+$'
contains "$T/reply" '^blockmig_volume_up\{volume="v"\} 1$'
want 200 POST /v1/recover
expect '.actions == []'
want 200 POST /v1/cleanup

echo "== a second daemon is refused, and says who is there"
expect_fail 7 "$BIN/blockmigd" --root "$ROOT" --foreground
contains "$T/err" "pid $DAEMON"
expect_fail 7 "$BIN/blockmigd" --root "$ROOT"
contains "$T/err" "pid $DAEMON"

echo "== the daemon ends, the volume does not"
daemon_end
[ ! -e "$SOCKET" ] || fail "the socket was left"
qemu-io -r -f raw -c 'read -P 0x5a 4M 1M' "$URI" >"$T/qemu.log" || fail "the volume ended with its daemon"
PID_BEFORE=$(worker_pid v)
daemon_start
[ "$(worker_pid v)" = "$PID_BEFORE" ] || fail "the worker was not found again"
want 200 GET /v1/volumes/v
expect ".state == \"started\" and .worker_pid == $PID_BEFORE"
want 200 GET /v1/jobs
expect "length > 9 and all(.[]; .state == \"done\" or .state == \"cancelled\")"

echo "== a worker that is killed is started again"
kill -9 "$PID_BEFORE"
wait_until 20 qemu-io -r -f raw -c 'read -P 0x5a 4M 1M' "$URI" || fail "the worker did not come back"
want 200 POST /v1/volumes/v/stop
expect '.state == "stopped"'
! worker_pid v || fail "a stopped volume has a worker"
want 200 DELETE /v1/volumes/v

echo "== a larger place does not make the volume larger; one that was cut is refused"
truncate -s 8M "$T/a/q1.raw"
want 200 POST /v1/volumes/q1/start '{}'
[ "$(qemu-img info --output=json -f raw "$(field .uri)" | jq '."virtual-size"')" = 4194304 ] || fail "q1 has another size"
want 200 POST /v1/volumes/q1/stop '{}'
truncate -s 1M "$T/a/q1.raw"
api POST /v1/volumes/q1/start '{}'
[ "$STATUS" != 200 ] || fail "a volume whose image was cut was started"
expect '.error.message | contains("cut outside")'
want 200 GET /v1/volumes/q1
expect '.state == "stopped"'

echo "== words on the command line, and places that can't be"
daemon_end
expect_fail 2 "$BIN/blockmigd" --frob
expect_fail 2 "$BIN/blockmigd" too much
expect_fail 2 "$BIN/blockmigd" --root "/tmp/$(printf 'x%.0s' $(seq 200))" --foreground
contains "$T/err" 'too long'
expect_fail 2 "$BIN/blockmigd" --root "" --foreground
echo "ok"
