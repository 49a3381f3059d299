#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The NFS backend against nfs-ganesha: random requests match a model and the file behind the server, while it is
# killed, frozen and full; what may not be used is refused with its reason.
set -eu
. "$(dirname "$0")/../lib/common.sh"
. tests/lib/ganesha.sh

EXERCISER=$BUILD/tests/tools/disk_exerciser
requires truncate cmp unshare
[ -x "$EXERCISER" ] || skip "needs $EXERCISER (make tests)"
ganesha_available || exit 77

mkdir "$T/export" "$T/export/folder"
at_exit ganesha_stop_all
ganesha_start "$T/export"
uri() { echo "$GANESHA_URI/$1?$GANESHA_PARAMS"; }

# exercise NAME ARGS: the image NAME on the server, afterwards compared with the file itself.
exercise() {
    local name=$1
    shift
    "$EXERCISER" "$(uri "$name")" --no-discard --dump "$T/dump" "$@" >"$T/out" 2>&1 ||
        fail "$name $*: $(cat "$T/out")"
    contains "$T/out" '^ok '
    cmp "$T/dump" "$T/export/$name" || fail "$name: the file behind the server differs"
}

echo "== create, write, read, in a folder of the export"
exercise folder/first.img --create 32M --seed 1 --exclusive
[ ! -e "$T/export/folder/first.img.blockmig-lock" ] || fail "the lock stayed"
[ "$(stat -c %a "$T/export/folder/first.img")" = 600 ] || fail "mode is not 600"

echo "== a new image takes no room"
"$EXERCISER" "$(uri thin.img)" --create 1G --ops 1 --size 4K >"$T/out" || fail "$(cat "$T/out")"
[ "$(stat -c %b "$T/export/thin.img")" -le 16 ] || fail "thin.img is not thin"
[ "$(stat -c %s "$T/export/thin.img")" = 1073741824 ] || fail "thin.img has a wrong size"

echo "== one connection, eight connections, odd sizes, other loop"
exercise one.img --create 8M --seed 2 --sessions 1 --depth 32
exercise eight.img --create 8M --seed 3 --sessions 8 --depth 64 --max-io 1M
exercise odd.img --create 5000001 --seed 4 --align 1
exercise three.img --create 3 --seed 5 --align 1 --max-io 8 --ops 200
BLOCKMIG_LOOP=epoll exercise epoll.img --create 8M --seed 6

# killed_during NAME ARGS: the server is killed and started again under it, over and over.
killed_during() {
    local name=$1 pid i
    shift
    "$EXERCISER" "$(uri "$name")" --no-discard --dump "$T/dump" --describe "$@" >"$T/out" 2>&1 &
    pid=$!
    at_exit stop "$pid"
    wait_until 20 grep -q . "$T/export/$name" || fail "$name was not begun"
    for i in 1 2 3 4; do
        sleep 0.4
        ganesha_kill9
        ganesha_restart
    done
    wait "$pid" || fail "$name $*: $(cat "$T/out")"
    contains "$T/out" '^ok '
    contains "$T/out" '[1-9][0-9]* reconnects'
    cmp "$T/dump" "$T/export/$name" || fail "$name: the file behind the server differs"
}

echo "== killed between writes and commits: nothing fails, nothing is lost"
killed_during killed.img --create 8M --seed 7 --ops 3000 --pace-us 1500 --fill
contains "$T/out" '[1-9][0-9]* restarts with data written again'

echo "== killed under writes that the caller can repeat: a flush fails, and then all is well"
killed_during replay.img --create 8M --seed 8 --ops 3000 --pace-us 1500 --fill --replayable

echo "== frozen for a while: a delay and no error"
"$EXERCISER" "$(uri one.img)" --ops 2000 --pace-us 1000 --no-discard --dump "$T/dump" >"$T/out" 2>&1 &
PID=$!
at_exit stop "$PID"
sleep 0.5
ganesha_freeze
sleep 1
ganesha_thaw
wait "$PID" || fail "frozen: $(cat "$T/out")"
cmp "$T/dump" "$T/export/one.img" || fail "frozen: the file differs"

echo "== frozen for good: time-outs, not a hang"
"$EXERCISER" "$(uri one.img)" --ops 100000 --timeout-ms 1500 >"$T/out" 2>&1 &
PID=$!
at_exit stop "$PID"
sleep 0.3
ganesha_freeze
wait_until 20 bash -c "! kill -0 $PID" || fail "it hangs on a frozen server"
wait "$PID" && fail "it did not notice"
contains "$T/out" 'FAIL .*timed out'
ganesha_thaw

echo "== a read-only export is refused, and so are others' files"
ganesha_stop
GANESHA_ACCESS=RO ganesha_start "$T/export"
expect_fail 7 "$EXERCISER" "$(uri one.img)" --ops 1
contains "$T/out" 'cannot open for writing'
ganesha_stop
ganesha_start "$T/export"
STRANGER="nfsport=$NFS_PORT&mountport=$MOUNT_PORT&uid=12345&gid=12345"
expect_fail 7 "$EXERCISER" "$GANESHA_URI/one.img?$STRANGER" --ops 1
contains "$T/out" 'uid 12345'
expect_fail 6 "$EXERCISER" "$(uri absent.img)" --ops 1
expect_fail 7 "$EXERCISER" "$(uri one.img)" --create 1M --ops 1
contains "$T/out" 'exists already'
expect_fail 3 "$EXERCISER" "$(uri folder)" --ops 1
contains "$T/out" 'is a folder'
ln -s one.img "$T/export/link.img"
expect_fail 3 "$EXERCISER" "$(uri link.img)" --ops 1
contains "$T/out" 'symbolic link'
expect_fail 2 "$EXERCISER" "$(uri one.img)&version=4" --ops 1
expect_fail 1 "$EXERCISER" "$GANESHA_URI/one.img?nfsport=1&mountport=$MOUNT_PORT" --ops 1
contains "$T/out" "the NFS service of '127.0.0.1' \(port 1\) can't be reached: .*refused"

echo "== one writer at a time"
"$EXERCISER" "$(uri one.img)" --exclusive --ops 100000 --pace-us 1000 >"$T/holder" 2>&1 &
PID=$!
at_exit stop "$PID"
wait_for "$T/export/one.img.blockmig-lock"
expect_fail 7 "$EXERCISER" "$(uri one.img)" --exclusive --ops 1
contains "$T/out" "locked by blockmig on host $(hostname), pid $PID"
stop "$PID" KILL
exercise one.img --exclusive --ops 10 # and takes over from one that is gone
[ ! -e "$T/export/one.img.blockmig-lock" ] || fail "the lock stayed"

echo "== full: the server's own words, and the image goes on once there is room"
ganesha_stop
mkdir "$T/small"
if mount -t tmpfs -o size=6m none "$T/small" 2>/dev/null; then
    at_exit umount -l "$T/small"
    ganesha_start "$T/small"
    at_exit ganesha_stop_all
    truncate -s 16M "$T/small/full.img"
    expect_fail 1 "$EXERCISER" "$(uri full.img)" --fill --ops 1
    contains "$T/out" 'FAIL WRITE.*No space left'
    mount -o remount,size=64m "$T/small"
    "$EXERCISER" "$(uri full.img)" --fill --ops 500 >"$T/out" || fail "$(cat "$T/out")"
    ganesha_stop
else
    echo "   (left out: mount is not allowed here)"
fi

echo "== ports from the portmapper"
if unshare -m -n true 2>/dev/null && command -v rpcbind ip >/dev/null; then
    # In a network of its own, so that the one portmapper of a host is this test's.
    export EXERCISER
    unshare -m -n bash -eu -c '
        . tests/lib/ganesha.sh
        ip link set lo up
        ip addr add 192.0.2.1/32 dev lo # Ganesha resolves nothing where there is no address but 127.0.0.1
        mount -t tmpfs none /run
        rpcbind -f & rpcbind=$!
        trap "ganesha_stop_all; kill $rpcbind" EXIT
        until [ -S /run/rpcbind.sock ]; do sleep 0.05; done
        GANESHA_SHARED_RPCBIND=1 ganesha_start "$1"
        "$EXERCISER" "$GANESHA_URI/one.img?uid=0&gid=0" --ops 200' bash "$T/export" >"$T/out" 2>&1 ||
        fail "portmapper: $(cat "$T/out")"
    contains "$T/out" '^ok '
else
    echo "   (left out: no network namespaces here)"
fi
echo "ok"
