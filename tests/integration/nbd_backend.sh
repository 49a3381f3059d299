#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The NBD client against nbdkit, qemu-nbd and qemu-storage-daemon: random requests next to a model, servers that
# are killed, fall silent, come back as another, refuse, or ask for TLS.
set -eu
. "$(dirname "$0")/../lib/common.sh"
requires nbdkit qemu-nbd qemu-storage-daemon openssl socat truncate

EXERCISER=$BUILD/tests/tools/disk_exerciser
[ -x "$EXERCISER" ] || skip "no $EXERCISER (make tests)"
SOCKET=$T/s
URI="nbd+unix:///?socket=$SOCKET"

step() {
    echo "- $*"
}

# Ends the server started last.
halt() {
    stop "$PID" "$@"
    rm -f "$SOCKET"
}

# kit NAME ARGS: nbdkit in the foreground on $SOCKET
kit() {
    local name=$1
    shift
    rm -f "$SOCKET"
    start "$name" nbdkit -f -U "$SOCKET" "$@"
    wait_for "$SOCKET"
}

exercise() {
    "$EXERCISER" "$@" >"$T/exercise" 2>"$T/exercise.err" ||
        fail "exerciser $*: $(cat "$T/exercise" "$T/exercise.err")"
}

# In the background; EX is its pid, its output is in $T/exercise.
exercise_start() {
    "$EXERCISER" "$@" >"$T/exercise" 2>"$T/exercise.err" &
    EX=$!
}

exercise_ok() {
    wait "$EX" || fail "exerciser: $(cat "$T/exercise" "$T/exercise.err")"
}

exercise_fails() {
    if wait "$EX"; then fail "the exerciser succeeded: $(cat "$T/exercise")"; fi
    cat "$T/exercise" "$T/exercise.err" >"$T/both"
    contains "$T/both" "$1"
}

refused() { # PATTERN ARGS
    local pattern=$1
    shift
    expect_fail "!" timeout 60 "$EXERCISER" "$@"
    cat "$T/out" "$T/err" >"$T/both"
    contains "$T/both" "$pattern"
}

step "nbdkit memory, unix socket and TCP, one connection and several"
kit memory memory 64M
exercise "$URI" --ops 1500
exercise "$URI" --ops 500 --sessions 1 --depth 1
exercise "$URI" --ops 500 --sessions 8 --depth 64
halt
PORT=$(free_port)
start tcp nbdkit -f -i 127.0.0.1 -p "$PORT" -e disk memory 32M
wait_for "$PORT"
exercise "nbd://127.0.0.1:$PORT/disk" --ops 800
halt

step "a server without structured replies, with odd block sizes, and without zeroing"
kit plain --no-sr memory 16M
exercise "$URI" --ops 300
halt
kit blocks --filter=blocksize-policy memory 16M blocksize-minimum=4096 blocksize-preferred=64K \
    blocksize-maximum=128K blocksize-error-policy=error
exercise "$URI" --ops 500 --align 512
halt
kit nozero --filter=nozero memory 16M
exercise "$URI" --ops 300
halt
kit slow --filter=delay memory 16M rdelay=5ms wdelay=5ms
exercise "$URI" --ops 200
halt

step "qemu-nbd and qemu-storage-daemon"
truncate -s 32M "$T/disk"
start qemu-nbd qemu-nbd -k "$SOCKET" -f raw -e 8 -t --discard=unmap "$T/disk"
wait_for "$SOCKET"
exercise "$URI" --ops 800
halt
start qemu-nbd qemu-nbd -k "$SOCKET" -f raw -e 1 -t --discard=unmap "$T/disk"
wait_for "$SOCKET"
exercise "$URI" --ops 300
halt
start qsd qemu-storage-daemon \
    --blockdev "driver=file,node-name=file,filename=$T/disk,discard=unmap" \
    --nbd-server "addr.type=unix,addr.path=$SOCKET" \
    --export type=nbd,id=export,node-name=file,name=disk,writable=on
wait_for "$SOCKET"
exercise "nbd+unix:///disk?socket=$SOCKET" --ops 800
refused "no image|not found|NOT_FOUND|exist|unknown|export" "nbd+unix:///other?socket=$SOCKET"
halt

step "a server that is killed in the stream of requests, and comes back"
kit file file "$T/disk"
exercise_start "$URI" --ops 1500 --pace-us 1000
for i in 1 2 3; do
    sleep 0.4
    halt KILL
    sleep 0.2
    kit "file$i" file "$T/disk"
done
exercise_ok
contains "$T/exercise.err" "connected again"
halt

step "a server that loses what it acknowledged and had not flushed"
kit volatile --filter=cache file "$T/disk" cache=writeback
exercise_start "$URI" --ops 1200 --pace-us 1000 --no-discard
for i in 1 2 3; do
    sleep 0.35
    halt KILL
    kit "volatile$i" --filter=cache file "$T/disk" cache=writeback
done
exercise_ok
contains "$T/exercise.err" "connected again"
exercise_start "$URI" --ops 1200 --pace-us 1000 --replayable
for i in 1 2 3; do
    sleep 0.35
    halt KILL
    kit "volatile$i" --filter=cache file "$T/disk" cache=writeback
done
exercise_ok
contains "$T/exercise.err" "connected again"
halt

step "a server that stops for a while, within the bound and beyond it"
kit frozen file "$T/disk"
exercise_start "$URI" --ops 1000 --pace-us 1000 --timeout-ms 10000
sleep 0.3
kill -STOP "$PID"
sleep 1.5
kill -CONT "$PID"
exercise_ok
exercise_start "$URI" --ops 100000 --pace-us 1000 --timeout-ms 1000
sleep 0.3
kill -STOP "$PID"
begin=$SECONDS
exercise_fails "timed out|Timed out|ETIMEDOUT|time"
[ $((SECONDS - begin)) -lt 20 ] || fail "a silent server held us for $((SECONDS - begin)) s"
kill -CONT "$PID"
halt

step "a server that never says a word"
start mute socat "UNIX-LISTEN:$SOCKET,fork" "EXEC:sleep 60"
wait_for "$SOCKET"
begin=$SECONDS
refused "handshake in time" "$URI" --timeout-ms 1000
[ $((SECONDS - begin)) -lt 10 ] || fail "a mute server held us for $((SECONDS - begin)) s"
halt
start hangup socat "UNIX-LISTEN:$SOCKET,fork" "SYSTEM:head -c 3 /dev/zero"
wait_for "$SOCKET"
refused "FAIL open" "$URI" --timeout-ms 2000
halt
refused "FAIL open" "$URI"

step "a server that comes back with another size"
kit before memory 16M
exercise_start "$URI" --ops 100000 --pace-us 1000
sleep 0.4
halt KILL
kit after memory 32M
exercise_fails "came back with 33554432 bytes where there were 16777216"
halt

step "read-only exports, errors, words"
kit readonly -r memory 1M
refused "read-only" "$URI"
halt
kit full --filter=error memory 16M error=ENOSPC error-pwrite-rate=100%
refused "No space left" "$URI" --ops 50
halt
kit broken --filter=error memory 16M error=EIO error-pread-rate=100%
refused "FAIL READ" "$URI" --ops 50
halt
refused "socket" "nbd+unix:///x"
refused "tls-certificates" "nbd://127.0.0.1/?tls-certificates=$T"
refused "frobnicate" "nbd+unix:///?socket=$SOCKET&frobnicate=1"
refused "exclude" "nbds://127.0.0.1/?tls-certificates=$T&tls-psk-file=$T/x"

step "TLS required is TLS or nothing"
authority() { # NAME
    mkdir -p "$T/$1"
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=$1" -keyout "$T/$1/ca-key.pem" \
        -out "$T/$1/ca-cert.pem" -addext basicConstraints=critical,CA:true >/dev/null 2>&1
}
certificate() { # AUTHORITY WHO SUBJECT
    openssl req -newkey rsa:2048 -nodes -subj "/CN=$3" -keyout "$T/$1/$2-key.pem" \
        -out "$T/$1/$2.csr" >/dev/null 2>&1
    openssl x509 -req -in "$T/$1/$2.csr" -CA "$T/$1/ca-cert.pem" -CAkey "$T/$1/ca-key.pem" \
        -CAcreateserial -days 2 -out "$T/$1/$2-cert.pem" \
        -extfile <(echo "subjectAltName=DNS:$3,DNS:localhost") >/dev/null 2>&1
}
authority good
certificate good server localhost
certificate good client a-client
authority other
certificate other client a-client
PORT=$(free_port)
start tls nbdkit -f -i 127.0.0.1 -p "$PORT" --tls=require --tls-verify-peer \
    --tls-certificates="$T/good" memory 16M
wait_for "$PORT"
exercise "nbds://localhost:$PORT/?tls-certificates=$T/good" --ops 300
refused "FAIL open" "nbd://localhost:$PORT/"
refused "FAIL open" "nbds://localhost:$PORT/?tls-certificates=$T/other" --timeout-ms 5000
refused "FAIL open" "nbds://127.0.0.1:$PORT/?tls-certificates=$T/good" --timeout-ms 5000
halt
PORT=$(free_port)
start plaintext nbdkit -f -i 127.0.0.1 -p "$PORT" --tls=off memory 16M
wait_for "$PORT"
refused "TLS" "nbds://localhost:$PORT/?tls-certificates=$T/good"
halt
echo "alice:0123456789abcdef0123456789abcdef" >"$T/psk"
start psk nbdkit -f -U "$SOCKET" --tls=require --tls-psk="$T/psk" memory 16M
wait_for "$SOCKET"
exercise "nbds+unix:///?socket=$SOCKET&tls-username=alice&tls-psk-file=$T/psk" --ops 300
echo "alice:ffffffffffffffffffffffffffffffff" >"$T/wrong"
refused "FAIL open" "nbds+unix:///?socket=$SOCKET&tls-username=alice&tls-psk-file=$T/wrong" --timeout-ms 5000
halt
echo "PASS $TEST_NAME"
