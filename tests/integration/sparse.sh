#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# A disk of 1 TiB with 1 GiB in it costs what 1 GiB costs: a live move to a folder and to NFS, a copy and a
# comparison read and write about the data, and what they leave is as thin as what they found.
set -eu
. "$(dirname "$0")/../lib/common.sh"
. tests/lib/daemon.sh
. tests/lib/ganesha.sh
requires jq ganesha.nfsd qemu-io
requires_root

MIB=1048576
DATA_MIB=${SPARSE_DATA_MIB:-1024}
PIECES=64
SIZE=$((1 << 40))

mkdir -p "$T/source" "$T/local" "$T/export"
truncate -s "$SIZE" "$T/source/vm.raw" 2>/dev/null || skip "no sparse files of 1 TiB in ${T%/*}"
echo "- $DATA_MIB MiB in $PIECES pieces, scattered over 1 TiB"
head -c $((DATA_MIB / PIECES * MIB)) /dev/urandom >"$T/piece"
for ((i = 0; i < PIECES; i++)); do
    # Each at another offset within its 16 GiB, in units of 64 KiB, and each other than the others.
    dd if="$T/piece" of="$T/source/vm.raw" bs=64K seek=$((i * (SIZE / PIECES / 65536) + i * 3701)) conv=notrunc status=none
    printf '%04d' "$i" | dd of="$T/source/vm.raw" bs=64K seek=$((i * (SIZE / PIECES / 65536) + i * 3701)) conv=notrunc status=none
done
rm "$T/piece"
sync "$T/source/vm.raw"

allocated() {
    echo $(($(stat -c %b "$1") * 512))
}
SOURCE=$(allocated "$T/source/vm.raw")
MOST=$((SOURCE + SOURCE / 50))

is_thin() { # FILE
    local got
    [ "$(stat -c %s "$1")" = "$SIZE" ] || fail "$1 has another size"
    got=$(allocated "$1")
    [ "$got" -le "$MOST" ] || fail "$1 takes $got bytes, the source $SOURCE"
}

seconds() { # WHAT SINCE
    awk -v what="$1" -v ms=$(($(date +%s%3N) - $2)) 'BEGIN { printf "  %-40s %6.1f s\n", what, ms / 1000 }'
}

# Compares, and at most about twice the data was read (the page cache's bytes count as well).
compare() { # A B
    local begin read
    begin=$(date +%s%3N)
    "$BIN/blockmig" verify "$1" "$2" --json >"$T/out" 2>"$T/err" || fail "verify $1 $2: $(cat "$T/out" "$T/err")"
    jq -e .equal "$T/out" >/dev/null || fail "$(cat "$T/out")"
    seconds "verify ($3)" "$begin"
    read=$(jq .bytes_read "$T/out")
    [ "$read" -le $((2 * MOST)) ] || fail "verify read $read bytes of $SOURCE on each side"
}

at_exit ganesha_stop_all
ganesha_start "$T/export" || skip "no NFS server here"

echo "- copy"
begin=$(date +%s%3N)
"$BIN/blockmig" copy "$T/source/vm.raw" "$T/copy.raw" --json >"$T/out" 2>"$T/err" || fail "copy: $(cat "$T/out" "$T/err")"
seconds "copy" "$begin"
jq -e --argjson most "$MOST" '.bytes_copied <= $most' "$T/out" >/dev/null || fail "copied more than the data: $(cat "$T/out")"
is_thin "$T/copy.raw"
compare "$T/source/vm.raw" "$T/copy.raw" local

echo "- a difference in what is data on one side only is found"
printf x | dd of="$T/copy.raw" bs=1 seek=$((SIZE - 5)) conv=notrunc status=none
expect_fail 1 "$BIN/blockmig" verify "$T/source/vm.raw" "$T/copy.raw" --json
jq -e --argjson at $((SIZE - 4096)) '.first_difference == $at and .bytes_different == 4096' "$T/out" >/dev/null ||
    fail "$(cat "$T/out")"
rm "$T/copy.raw"

echo "- live moves"
daemon_start
bm repo add folder "$T/local"
bm repo add filer "$GANESHA_URI?$GANESHA_PARAMS"
bm volume import vm "$T/source/vm.raw" --format raw
URI=$("${BM[@]}" volume start vm)
move() { # DESTINATION ARGS
    local begin job
    begin=$(date +%s%3N)
    job=$("${BM[@]}" --json move vm "$@" --detach | jq .id)
    job_until "$job" 240 "done" || fail "the move to $1"
    seconds "move to $1" "$begin"
    "${BM[@]}" --json job "$job" >"$T/job"
    jq -e --argjson most "$MOST" '.verified and .bytes_different == 0 and .bytes_copied <= $most and .bytes_copied >= $most / 2' \
        "$T/job" >/dev/null || fail "$(cat "$T/job")"
}
qemu-io -f raw -c 'write -P 0x5a 100G 1M' -c flush "$URI" >"$T/qemu.log"
move folder --keep-source
is_thin "$T/local/vm.raw"
rm "$T/source/vm.raw"
# NFSv3 has no question for holes: what nothing was sent for is taken to be what it was created as.
move filer --keep-source
is_thin "$T/export/vm.raw"
qemu-io -r -f raw -c 'read -P 0x5a 100G 1M' "$URI" >"$T/qemu.log"
! grep -q 'verification failed' "$T/qemu.log" || fail "other bytes behind the moves"
bm volume stop vm
compare "$T/local/vm.raw" "$T/export/vm.raw" "both by their files"
echo "PASS $TEST_NAME"
