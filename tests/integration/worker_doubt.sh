#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A worker told to end while a switch is in doubt and a write waits for the record: it ends at once and
# answers nothing. And what it is told to open is looked at before it is believed.
set -eu
BUILD=${BUILD:-build}
for tool in socat qemu-io; do
    command -v $tool >/dev/null || { echo "no $tool"; exit 77; }
done
dir=$(mktemp -d)
worker= client=
trap 'for pid in $worker $client; do kill -9 $pid 2>/dev/null || true; done; rm -rf "$dir"' EXIT

"$BUILD/bin/blockmig-worker" --control "$dir/control" 2>"$dir/log" &
worker=$!
for ((i = 0; i < 100; i++)); do [ -S "$dir/control" ] && break; sleep 0.05; done

# A worker forgets whom it was to answer once he has closed his side: that stays open for a while.
say() { { printf '%s\n' "$1"; sleep 0.5; } | socat -t 5 - "UNIX-CONNECT:$dir/control" | grep -m1 '"id"'; }
good() { say "$1" | grep -q '"ok":true' || { echo "refused: $1"; cat "$dir/log"; exit 1; }; }

say '{"id":1,"do":"open","volume":"v","epoch":1,"primary":{"uri":"mem:?size=1M"},"listen":[1]}' |
    grep -q '"kind":"usage"' || { echo "a place to listen that is a number is no usage error"; exit 1; }
good '{"id":1,"do":"open","volume":"v","epoch":1,"primary":{"uri":"mem:?size=1M"},"listen":["nbd+unix:///v?socket='"$dir"'/nbd"]}'
good '{"id":1,"do":"mirror-start","verify":false,"target":{"uri":"mem:?size=1M","known_zero":true,"filters":"faults:?op=write"}}'
for ((i = 0; i < 100; i++)); do
    say '{"id":1,"do":"stat"}' | grep -q '"state":"synced"' && break
    sleep 0.05
done
good '{"id":1,"do":"switch-prepare"}'
qemu-io -f raw -t writeback -c 'write -P 7 0 4096' "nbd+unix:///v?socket=$dir/nbd" >"$dir/qemu-io" 2>&1 &
client=$!
sleep 1
grep -q wrote "$dir/qemu-io" && { echo "a write in doubt was answered"; exit 1; }
kill -TERM $worker
for ((i = 0; i < 100; i++)); do kill -0 $worker 2>/dev/null || break; sleep 0.1; done
kill -0 $worker 2>/dev/null && { echo "the worker does not end"; exit 1; }
sleep 0.2
grep -q wrote "$dir/qemu-io" && { echo "the write was answered at the end"; exit 1; }
exit 0
