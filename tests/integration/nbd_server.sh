#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The NBD server with the clients there are: libnbd's nbdinfo and nbdcopy, QEMU's driver (qemu-img, qemu-io), and
# fio's engine, on a unix socket and on TCP, on memory and on a file, on both kinds of loop; and by the worker.

set -eu
. "$(dirname "$0")/../lib/common.sh"

requires nbdinfo nbdcopy qemu-img qemu-io fio jq cmp socat
SERVE=$BUILD/tests/tools/serve
[ -x "$SERVE" ] || fail "no $SERVE: make tests"
cd "$T"

# serve NAME ARGS...: starts a server; sets PID, UNIX and TCP to its URIs
serve() {
    local name=$1 log=$T/$1.log
    shift
    start "$name" "$SERVE" "$@" "nbd+unix:///disk?socket=$T/$name.sock" "nbd://127.0.0.1:0/disk"
    wait_until 20 grep -q '^nbd://' "$log" || fail "the server did not start: $(cat "$log")"
    UNIX=$(sed -n 1p "$log")
    TCP=$(sed -n 2p "$log")
}

end() {
    kill -TERM "$PID"
    wait "$PID" || fail "the server's end was $?: $(cat "$T/$1.log")"
}

io() {
    qemu-io -f raw "$@" >"$T/io.log" 2>&1 || fail "qemu-io $*: $(cat "$T/io.log")"
    ! grep -qi 'fail\|error\|verification' "$T/io.log" || fail "qemu-io $*: $(cat "$T/io.log")"
}

check_info() {
    local uri=$1
    nbdinfo --json "$uri" >"$T/info.json"
    jq -e '.protocol == "newstyle-fixed" and .structured == true and .TLS == false and
        (.exports | length == 1) and (.exports[0] |
            ."export-size" == 67108864 and .is_read_only == false and .can_flush and .can_fua and
            .can_multi_conn and .can_trim and .can_zero and .can_fast_zero and .can_df and
            .contexts == ["base:allocation"] and .block_size_minimum == 1 and .block_size_preferred == 4096 and
            .block_size_maximum == 33554432)' "$T/info.json" >/dev/null || fail "nbdinfo: $(cat "$T/info.json")"
    nbdinfo --list "$uri" >"$T/out"
    contains "$T/out" 'export="disk"'
    expect_fail ! nbdinfo "${uri/\/disk/\/other}"
}

check_map() {
    local uri=$1
    io -c "write -P 7 1M 1M" -c "write -P 7 4M 64k" "$uri"
    nbdinfo --map "$uri" | awk '{print $1, $2, $3}' >"$T/map"
    printf '%s\n' '0 1048576 3' '1048576 1048576 0' '2097152 2097152 3' '4194304 65536 0' \
        '4259840 62849024 3' >"$T/map.want"
    cmp -s "$T/map" "$T/map.want" || fail "nbdinfo --map: $(cat "$T/map")"
    [ "$(qemu-img map --output=json -f raw "$uri" | jq '[.[] | select(.data)] | map(.length) | add')" = 1114112 ] ||
        fail "qemu-img map: $(qemu-img map --output=json -f raw "$uri")"
    io -c "write -z -u 1M 1M" -c "discard 4M 64k" "$uri"
    [ "$(nbdinfo --map "$uri" | wc -l)" = 1 ] || fail "not thin after zeroes: $(nbdinfo --map "$uri")"
}

check_qemu_io() {
    local uri=$1
    io -c "write -P 1 0 1M" -c "write -f -P 2 4097 511" -c "flush" -c "read -P 1 0 4097" \
        -c "read -P 2 4097 511" -c "write -z 64k 64k" -c "write -z -u 128k 64k" -c "write -z -f 512k 1" \
        -c "read -P 0 64k 128k" -c "discard 512k 128k" -c "read -P 1 192k 64k" -c "read -P 1 1048575 1" \
        -c "aio_write -P 3 2M 2M" -c "aio_write -P 4 4M 2M" -c "aio_flush" -c "read -P 3 2M 2M" -c "read -P 4 4M 2M" \
        "$uri"
    expect_fail ! qemu-io -f raw -c "write 67108864 512" "$uri"
}

check_copies() {
    local uri=$1 i
    nbdcopy "$T/img" "$uri"
    nbdcopy --connections=8 --requests=32 "$uri" "$T/back"
    cmp "$T/img" "$T/back" || fail "nbdcopy, default out, eight connections back"
    nbdcopy --connections=16 --request-size=33554432 "$T/img2" "$uri"
    nbdcopy --connections=1 --request-size=4096 --no-extents "$uri" "$T/back"
    cmp "$T/img2" "$T/back" || fail "nbdcopy, 32 MiB out, 4 KiB back"
    nbdcopy --synchronous "$T/img" "$uri"
    qemu-img compare -f raw -F raw "$T/img" "$uri" >/dev/null || fail "nbdcopy --synchronous"
    qemu-img convert -n -W -m 16 -f raw -O raw "$T/img2" "$uri"
    qemu-img compare -f raw -F raw "$T/img2" "$uri" >/dev/null || fail "qemu-img convert to the server"
    qemu-img convert -W -m 16 -f raw -O raw "$uri" "$T/back"
    cmp "$T/img2" "$T/back" || fail "qemu-img convert from the server"
    qemu-img info --output=json -f raw "$uri" | jq -e '."virtual-size" == 67108864' >/dev/null ||
        fail "qemu-img info"
    # Several at once, each on its own part.
    for i in 0 1 2 3; do
        qemu-io -f raw -c "write -P $i $((i * 16))M 16M" -c "read -P $i $((i * 16))M 16M" "$uri" >"$T/par.$i" 2>&1 &
        PAR[i]=$!
    done
    for i in 0 1 2 3; do
        wait "${PAR[i]}" || fail "parallel client $i: $(cat "$T/par.$i")"
        ! grep -qi 'fail\|error' "$T/par.$i" || fail "parallel client $i: $(cat "$T/par.$i")"
    done
}

check_fio() {
    local uri=$1 mode
    for mode in randwrite randrw; do
        fio --name=verify --ioengine=nbd --uri="$uri" --rw=$mode --bsrange=512-256k --bs_unaligned=1 --iodepth=16 \
            --size=64m --io_size=64m --verify=crc32c --verify_fatal=1 --verify_state_save=0 --fsync=50 \
            >"$T/fio.log" 2>&1 || fail "fio $mode: $(tail -20 "$T/fio.log")"
    done
}

# 64 MiB with holes, and 64 MiB without
truncate -s 64M "$T/img"
for at in 0 3 17 40 63; do
    dd if=/dev/urandom of="$T/img" bs=1M count=1 seek="$at" conv=notrunc status=none
done
dd if=/dev/urandom of="$T/img2" bs=1M count=64 status=none

for loop in uring epoll; do
    export BLOCKMIG_LOOP=$loop
    serve "mem-$loop" 'mem:?size=64M' 2>/dev/null
    check_info "$UNIX"
    check_info "$TCP"
    check_map "$UNIX"
    check_qemu_io "$UNIX"
    check_qemu_io "$TCP"
    check_copies "$UNIX"
    check_copies "$TCP"
    check_fio "$UNIX"
    end "mem-$loop"
    [ ! -e "$T/mem-$loop.sock" ] || fail "the socket was left"

    # A file, past the page cache, and little memory: what is served must be what the file holds.
    cp --sparse=always "$T/img" "$T/disk-$loop"
    serve "file-$loop" --direct --pool 8 --format raw "$T/disk-$loop"
    qemu-img compare -f raw -F raw "$T/img" "$UNIX" >/dev/null || fail "the file is served wrongly"
    check_copies "$UNIX"
    check_qemu_io "$TCP"
    check_fio "$TCP"
    nbdcopy "$T/img2" "$UNIX"
    end "file-$loop"
    cmp "$T/img2" "$T/disk-$loop" || fail "the file does not hold what was written"

    serve "ro-$loop" --read-only --format raw "$T/disk-$loop"
    nbdinfo --json "$UNIX" | jq -e '.exports[0].is_read_only' >/dev/null || fail "read-only is not said"
    expect_fail ! qemu-io -f raw -c "write 0 512" "$UNIX"
    end "ro-$loop"
done

# The same by the real thing.
start worker "$BIN/blockmig-worker" --control "$T/control"
wait_for "$T/control"
open=$(printf '{"id":1,"do":"open","volume":"disk","epoch":1,"primary":{"uri":"%s","format":"raw"},"listen":["%s","%s"]}' \
    "$T/disk-epoll" "nbd+unix:///disk?socket=$T/worker.sock" "nbd://127.0.0.1:0/disk")
{
    echo "$open"
    wait_until 20 test -s "$T/opened" || true # it hangs up on who hangs up
} | socat - "UNIX-CONNECT:$T/control" >"$T/opened"
jq -e '.ok and .size_bytes == 67108864' "$T/opened" >/dev/null || fail "the worker said $(cat "$T/opened")"
UNIX=$(jq -r '.listen[0]' "$T/opened")
TCP=$(jq -r '.listen[1]' "$T/opened")
check_info "$TCP"
check_qemu_io "$UNIX"
check_copies "$UNIX"
echo "ok"
