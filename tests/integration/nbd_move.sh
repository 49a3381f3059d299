#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Live moves to an NBD server: one that is killed and comes back while the copy runs, and one that falls silent.
# In both the guest sees no error, and no request of its takes longer than a leg may.
set -eu
. "$(dirname "$0")/../lib/common.sh"
. tests/lib/fio.sh
. tests/lib/daemon.sh
requires qemu-nbd fio jq cmp

SIZE=192
SOCKET=$T/target.sock
TARGET="nbd+unix:///?socket=$SOCKET"

serve() {
    rm -f "$SOCKET"
    start target qemu-nbd -k "$SOCKET" -f raw -e 8 -t --discard=unmap "$T/target.raw"
    TARGET_PID=$PID
    wait_for "$SOCKET"
}

mkdir -p "$T/local"
head -c ${SIZE}M /dev/urandom >"$T/local/vm.raw"
truncate -s ${SIZE}M "$T/target.raw"
daemon_start
bm volume import vm "$T/local/vm.raw" --format raw
URI=$("${BM[@]}" volume start vm)

echo "- a target that is killed in the copy, and comes back"
serve
guest_start guest "$URI" ${SIZE}M 300
JOB=$("${BM[@]}" --json move vm "$TARGET" --bandwidth 40MiB/s --undo-window 10m --keep-source --detach | jq .id)
sleep 1.5
stop "$TARGET_PID" KILL
sleep 0.3
serve
job_until "$JOB" 90 undo-window || fail "the move did not get over it"
sleep 1
guest_stop || fail "the guest saw an error"
bm commit "$JOB"
job_until "$JOB" 30 "done" || fail "the job did not end"
[ "$(job_field "$JOB" verified)" = true ] || fail "not verified"
bm volume stop vm
stop "$TARGET_PID"
cmp "$T/local/vm.raw" "$T/target.raw" || fail "the replicas differ"

echo "- a target that falls silent"
bm volume delete vm
bm volume import again "$T/local/vm.raw" --format raw
URI=$("${BM[@]}" volume start again)
truncate -s 0 "$T/target.raw"
truncate -s ${SIZE}M "$T/target.raw"
serve
guest_start guest "$URI" ${SIZE}M 300
JOB=$("${BM[@]}" --json move again "$TARGET" --bandwidth 20MiB/s --detach | jq .id)
sleep 2
kill -STOP "$TARGET_PID"
FROZEN=$(now_ms)
if job_until "$JOB" 90 degraded paused failed; then :; else [ "$STATE" = failed ] || fail "the job is $STATE"; fi
echo "  the job is $STATE after $((($(now_ms) - FROZEN) / 1000)) s: $(job_field "$JOB" error)"
sleep 2
guest_stop || fail "the guest saw an error"
kill -CONT "$TARGET_PID"
"${BM[@]}" cancel "$JOB" >/dev/null 2>&1 || true
wait_until 60 sh -c "'$BIN/blockmig' --root '$T/root' --json job $JOB | grep -Eq '\"state\": \"(cancelled|failed)\"'" ||
    fail "the job does not end: $("${BM[@]}" --json job "$JOB")"
STALL=$(stall_us "$FROZEN" $((FROZEN + 600000)))
echo "  the guest's longest request: $((STALL / 1000)) ms"
[ "$STALL" -lt 12000000 ] || fail "a guest's request took $((STALL / 1000)) ms"
"${BM[@]}" --json volume show again | jq -e --arg uri "file://$T/local/vm.raw" '.uri == $uri and .epoch == 1' >/dev/null ||
    fail "the volume is not where it was: $("${BM[@]}" --json volume show again)"
bm volume stop again
echo "PASS $TEST_NAME"
