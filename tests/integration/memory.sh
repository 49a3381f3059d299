#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# What a worker takes of memory while its volume moves under load (64 writes of 1 MiB and 64 of 4 KiB in flight):
# never more than 64 MiB and two bytes a region, whatever the volume's size and wherever it goes.
#
#   MEMORY_SECONDS=6   how long each is watched (a volume of 1 GiB: until it has moved, too)
set -eu
. "$(dirname "$0")/../lib/common.sh"
. tests/lib/daemon.sh
. tests/lib/ganesha.sh
. tests/lib/tgt.sh
requires jq fio ganesha.nfsd tgtd
requires_root

GIB=1073741824 SECONDS_EACH=${MEMORY_SECONDS:-5}
SIZES=("$GIB" $((1024 * GIB)) $((16384 * GIB - 4096)))

mkdir -p "$T/source" "$T/local" "$T/export" "$T/luns"
at_exit ganesha_stop_all
ganesha_start "$T/export" || skip "no NFS server here"
at_exit tgt_stop
tgt_start || skip "no iSCSI target here"
daemon_start
bm repo add folder "$T/local"
bm repo add filer "$GANESHA_URI?$GANESHA_PARAMS"

head -c 1M /dev/urandom >"$T/mib"

# A disk of SIZE bytes, the first GiB of it data.
make_source() {
    local i
    truncate -s "$2" "$1" || return 1
    for ((i = 0; i < 1024; i++)); do cat "$T/mib"; done | dd of="$1" bs=1M iflag=fullblock conv=notrunc status=none
}

status_kib() { # PID FIELD
    awk -v field="$2:" '$1 == field { print $2 }' "/proc/$1/status" 2>/dev/null
}

# Writes until it is ended, two kinds at once.
load() {
    fio --output="$T/fio.json" --output-format=json --eta=never --ioengine=nbd --uri="$1" --time_based --runtime=600 \
        --rw=randwrite --iodepth=64 --thread --refill_buffers=0 --randrepeat=0 --norandommap \
        --name=large --bs=1M --size=512M --name=small --bs=4k --offset=512M --size=512M \
        >"$T/fio.out" 2>&1 </dev/null &
    FIO=$!
    at_exit stop "$FIO" INT
}

FAILED=
watch_move() { # TITLE SIZE DESTINATION
    local title=$1 size=$2 destination=$3 uri pid job bound stat worst=0 begin state hwm
    rm -f "$T/source/vm.raw" "$T/local/"* "$T/export/"*
    make_source "$T/source/vm.raw" "$size"
    bm volume import vm "$T/source/vm.raw" --format raw
    uri=$("${BM[@]}" volume start vm)
    "${BM[@]}" --json volume show vm >"$T/volume"
    pid=$(jq .worker_pid "$T/volume")
    bound=$(jq .memory_bound_bytes "$T/volume")
    # 64 MiB and two bytes for each of the worker's regions, no more than 2^24 and a bit of them.
    [ "$bound" -le $((64 * 1048576 + 2 * (size / 65536 + 1))) ] || fail "$title: the bound is $bound"
    load "$uri"
    sleep 1
    job=$("${BM[@]}" --json move vm "$destination" --detach | jq .id)
    begin=$SECONDS
    while :; do
        "${BM[@]}" --json volume show vm >"$T/volume" 2>/dev/null || true
        stat=$(jq '.memory_bytes // 0' "$T/volume")
        [ "$stat" -le "$worst" ] || worst=$stat
        state=$(job_field "$job" state)
        case $state in failed | cancelled) fail "$title: $state: $(job_field "$job" error)" ;; esac
        [ "$state" != "done" ] || break
        [ $((SECONDS - begin)) -lt "$SECONDS_EACH" ] || break
        sleep 0.2
    done
    # All buffers were in use by now; what is left to do takes no more of them.
    hwm=$(($(status_kib "$pid" VmHWM) * 1024))
    kill -0 "$FIO" 2>/dev/null || fail "$title: the guest ended: $(cat "$T/fio.out")"
    printf '  %-22s bound %4d MiB, peak %4d MiB (as it says: %4d MiB), %s, copied %d MiB\n' "$title" $((bound / 1048576)) \
        $((hwm / 1048576)) $((worst / 1048576)) "$state" $(($(job_field "$job" bytes_copied) / 1048576))
    [ "$worst" -gt 0 ] || fail "$title: the worker does not say what it takes"
    if [ "$hwm" -gt "$bound" ] || [ "$worst" -gt "$bound" ]; then
        FAILED="$FAILED $title"
        grep -E '^(VmHWM|VmRSS|Rss)' "/proc/$pid/status"
    fi
    stop "$FIO" INT
    "${BM[@]}" cancel "$job" >/dev/null 2>&1 || true
    wait_until 60 sh -c "'$BIN/blockmig' --root '$T/root' --json job $job | grep -Eq '\"state\": \"(cancelled|done)\"'" ||
        fail "$title: the job does not end: $("${BM[@]}" --json job "$job")"
    bm volume stop vm
    bm volume delete vm
}

name_of() {
    case $1 in "$GIB") echo "1 GiB" ;; $((1024 * GIB))) echo "1 TiB" ;; *) echo "16 TiB" ;; esac
}

for size in "${SIZES[@]}"; do
    if ! truncate -s "$size" "$T/luns/$size.raw" 2>/dev/null; then
        echo "  no files of $(name_of "$size") here"
        continue
    fi
    watch_move "$(name_of "$size") to a folder" "$size" folder
    watch_move "$(name_of "$size") to NFS" "$size" filer
    tgt_add_lun "$T/luns/$size.raw"
    watch_move "$(name_of "$size") to iSCSI" "$size" "$TGT_URI"
done
[ -z "$FAILED" ] || fail "more than the bound:$FAILED"
echo "PASS $TEST_NAME"
