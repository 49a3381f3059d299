#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# One writer at a time, between us and QEMU, both ways: neither opens what the other writes, each may again
# once the other has ended, however it ended.
set -eu
. "$(dirname "$0")/../lib/common.sh"
requires qemu-img qemu-io qemu-system-x86_64
hold=$BUILD/tests/tools/hold
[ -x "$hold" ] || skip "needs $hold (make tests)"

image=$T/disk.raw
truncate -s 64M "$image"

# Opens the image with hold in the background; sets PID and HOLD_IN.
holding() {
    rm -f "$T/fifo"
    mkfifo "$T/fifo"
    "$hold" "$@" "$image" <"$T/fifo" >"$T/hold.out" 2>&1 &
    PID=$!
    exec {HOLD_IN}>"$T/fifo"
    wait_until 20 grep -q open "$T/hold.out" || fail "hold $*: $(cat "$T/hold.out")"
}
let_go() {
    exec {HOLD_IN}>&-
    wait "$PID"
}

# Its last lock is of byte 201.
has_locks() {
    grep -hq 'OFDLCK.* 201 ' "/proc/$1/fdinfo/"*
}

# 1. What we write QEMU does not write. (It reads it: it does so with its own VMs' raw images, too.)
holding -w -x
expect_fail 1 qemu-io -f raw -c 'write 0 4k' "$image"
contains "$T/err" 'Failed to get .*lock'
truncate -s 64M "$T/other.raw"
expect_fail 1 qemu-img convert -n -f raw -O raw "$T/other.raw" "$image"
contains "$T/err" 'Failed to get .*lock'
expect_fail 1 qemu-img resize -f raw "$image" 128M
expect_fail 1 qemu-system-x86_64 -accel tcg -S -display none -monitor none -nodefaults \
    -drive "file=$image,format=raw,if=virtio"
contains "$T/err" 'Failed to get .*lock'
let_go
qemu-io -f raw -c 'write 0 4k' "$image" >/dev/null

# 2. It may again after we were killed.
holding -w -x
kill -9 "$PID"
wait "$PID" 2>/dev/null || true
exec {HOLD_IN}>&-
qemu-io -f raw -c 'write 0 4k' "$image" >/dev/null

# 3. What we read and want to stand still, QEMU reads and doesn't write.
holding -x
qemu-io -r -f raw -c 'read 0 4k' "$image" >/dev/null
expect_fail 1 qemu-io -f raw -c 'write 0 4k' "$image"
let_go

# 4. Opened without exclusion nobody is kept out.
holding -w
qemu-io -f raw -c 'write 0 4k' "$image" >/dev/null
let_go

# 5. What a running VM writes, we refuse and name the VM.
start qemu qemu-system-x86_64 -accel tcg -S -display none -monitor none -nodefaults \
    -drive "file=$image,format=raw,if=virtio,cache=none"
qemu=$PID
wait_until 30 has_locks "$qemu" || fail "QEMU takes no locks: $(cat "$T/qemu.log")"
expect_fail 7 "$hold" -w -x "$image" </dev/null
contains "$T/err" "process $qemu \(qemu-system-x86\) (writes it|lets nobody else write it)"
expect_fail 7 "$hold" -x "$image" </dev/null
contains "$T/err" "process $qemu "
"$hold" "$image" </dev/null >/dev/null
stop "$qemu"
"$hold" -w -x "$image" </dev/null >/dev/null

# 6. A VM that only reads its disk keeps our writer out, not our reader.
start reader qemu-system-x86_64 -accel tcg -S -display none -monitor none -nodefaults \
    -drive "file=$image,format=raw,if=virtio,readonly=on"
qemu=$PID
wait_until 30 has_locks "$qemu" || fail "QEMU takes no locks: $(cat "$T/reader.log")"
expect_fail 7 "$hold" -w -x "$image" </dev/null
contains "$T/err" "process $qemu \(qemu-system-x86\) lets nobody else write it"
"$hold" -x "$image" </dev/null >/dev/null
stop "$qemu"

# 7. Two of ours.
holding -w -x
expect_fail 7 "$hold" -w -x "$image" </dev/null
contains "$T/err" "process $PID \(hold\)"
let_go
echo "PASS $TEST_NAME"
