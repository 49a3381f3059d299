#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# A disk moves in one pass while a guest writes 4 KiB at random as fast as it can, queue depth 16: what is copied is the
# disk and 5 % at most, and it ends. ONE_PASS_MIB sets the disk's size (default 1024).
set -eu
. "$(dirname "$0")/../lib/common.sh"
. tests/lib/fio.sh
. tests/lib/daemon.sh
requires fio jq cmp openssl

SIZE=${ONE_PASS_MIB:-1024}
mkdir -p "$T/a" "$T/b"
openssl enc -aes-128-ctr -pass pass:x -nosalt -iter 1 </dev/zero 2>/dev/null | head -c "${SIZE}M" >"$T/a/vm.raw" || true
daemon_start
bm repo add b "$T/b"
bm volume import vm "$T/a/vm.raw" --format raw
URI=$("${BM[@]}" volume start vm)
guest_start guest "$URI" "${SIZE}M" 0
sleep 1
BEGIN=$(now_ms)
JOB=$("${BM[@]}" --json move vm b --undo-window 10m --keep-source --detach | jq .id)
job_until "$JOB" 300 undo-window || fail "the move did not end"
echo "  moved $SIZE MiB in $((($(now_ms) - BEGIN) / 1000)) s"
guest_stop || fail "the guest saw an error"
"${BM[@]}" --json job "$JOB" >"$T/job.json"
jq -r '"  copied \(.bytes_copied), again \(.bytes_recopied), mirrored \(.bytes_mirrored), of \(.bytes_total)"' "$T/job.json"
jq -e '.bytes_copied <= 1.05 * .bytes_total + .bytes_mirrored' "$T/job.json" >/dev/null || fail "copied too much"
jq -e '.bytes_copied <= 1.05 * .bytes_total' "$T/job.json" >/dev/null ||
    echo "  more than 1.05 x the disk, though no more than that and what was mirrored"
jq -e '.verified' "$T/job.json" >/dev/null || fail "not verified"
bm commit "$JOB"
job_until "$JOB" 60 "done" || fail "the job did not end"
bm volume stop vm
cmp "$T/a/vm.raw" "$T"/b/*.raw || fail "the replicas differ"
echo "PASS $TEST_NAME"
