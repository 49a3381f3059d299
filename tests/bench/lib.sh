# SPDX-License-Identifier: LGPL-2.1-or-later
#
# What the parts of the benchmark share: results kept as lines "KEY VALUE", medians, tables, and our programs'
# and QEMU's storage daemon's handling.

note() {
    echo "bench: $*" >&2
}

# ---- results ----

record() { # KEY VALUE
    echo "$1 $2" >>"$T/results"
}

# The median of what was recorded under a key; "-" where nothing was; a word (never, failed) where most are that.
median() {
    awk -v key="$1" '$1 == key { print $2 }' "$T/results" 2>/dev/null | sort -g |
        awk '{ v[NR] = $1 } END { if (!NR) print "-"; else if (v[int((NR + 1) / 2)] ~ /^[0-9.]+$/) print v[int((NR + 1) / 2)]; else print v[int((NR + 1) / 2)] }'
}

ratio() { # A B DIGITS
    awk -v a="$1" -v b="$2" -v digits="${3:-2}" 'BEGIN {
        if (a !~ /^[0-9.]+$/ || b !~ /^[0-9.]+$/ || b + 0 == 0) print "-"; else printf "%.*f\n", digits, a / b }'
}

# verdict VALUE OP BOUND: "reached" or "not reached" or "-"
verdict() {
    awk -v v="$1" -v op="$2" -v bound="$3" 'BEGIN {
        if (v !~ /^[0-9.]+$/) print "-"
        else if (op == ">=" ? v + 0 >= bound + 0 : v + 0 <= bound + 0) print "reached"
        else print "not reached" }'
}

target() { # WHAT VALUE OP BOUND UNIT
    echo "| $1 | $2$5 | $3 $4$5 | $(verdict "$2" "$3" "$4") |" >>"$T/targets"
}

ms_of_us() {
    awk -v us="$1" 'BEGIN { if (us !~ /^[0-9.]+$/) print us; else printf "%.1f\n", us / 1000 }'
}

thousands() {
    awk -v n="$1" 'BEGIN { if (n !~ /^[0-9.]+$/) print n; else if (n >= 10000) printf "%.1fk\n", n / 1000; else printf "%d\n", n }'
}

# ---- disks ----

# Bytes that no zero detection or compression makes shorter.
random_file() { # PATH MIB
    openssl enc -aes-128-ctr -pass pass:bench -nosalt -iter 1 </dev/zero 2>/dev/null |
        head -c $(($2 << 20)) | dd of="$1" bs=1M iflag=fullblock oflag=direct status=none
}

# Seconds that a command takes, to the millisecond; "failed" where it fails.
seconds_of() {
    local begin end
    begin=$(date +%s%N)
    if "$@" >"$T/command.log" 2>&1 </dev/null; then
        end=$(date +%s%N)
        awk -v ns=$((end - begin)) 'BEGIN { printf "%.3f\n", ns / 1e9 }'
    else
        echo failed
        { echo "bench: failed: $*"; tail -5 "$T/command.log"; } >&2
    fi
}

mb_per_s() { # MIB SECONDS
    awk -v mib="$1" -v s="$2" 'BEGIN { if (s !~ /^[0-9.]+$/ || s == 0) print "failed"; else printf "%d\n", mib * 1.048576 / s }'
}

# Lets the disk finish what the last run left to it, so that the next does not pay.
settle_disk() {
    sync
    sleep "${1:-0.5}"
}

# ---- ours ----

# A worker by itself on any image: SERVED_URI, PID. worker_serve NAME IMAGE-URI
worker_serve() {
    local control=$T/$1.control socket=$T/$1.sock
    rm -f "$control" "$socket"
    start "$1" "$BIN/blockmig-worker" --control "$control"
    wait_for "$control"
    local answer=
    coproc CONTROL { exec socat - "UNIX-CONNECT:$control"; }
    jq -cn --arg uri "$2" --arg listen "nbd+unix:///bench?socket=$socket" \
        '{id: 1, do: "open", volume: "bench", epoch: 1, primary: {uri: $uri, format: "raw"}, listen: [$listen]}' \
        >&"${CONTROL[1]}"
    while IFS= read -r -t 30 answer <&"${CONTROL[0]}"; do
        [ "$(jq -r .id <<<"$answer")" != 1 ] || break
    done
    kill "$CONTROL_PID"
    wait "$CONTROL_PID" 2>/dev/null || true
    [ "$(jq -r .ok <<<"$answer")" = true ] || { note "worker: $answer"; return 1; }
    SERVED_URI=$(jq -r '.listen[0]' <<<"$answer")
}

# ---- qemu-storage-daemon ----

# qsd_start NAME BLOCKDEV-ARG: exports node "disk" on $T/NAME.sock, QMP on $T/NAME.qmp; sets QSD_PID
qsd_start() {
    rm -f "$T/$1.sock" "$T/$1.qmp"
    start "$1" qemu-storage-daemon --blockdev "$2" \
        --chardev "socket,id=qmp,path=$T/$1.qmp,server=on,wait=off" --monitor chardev=qmp \
        --nbd-server "addr.type=unix,addr.path=$T/$1.sock,max-connections=0" \
        --export type=nbd,id=export,node-name=disk,name=disk,writable=on
    QSD_PID=$PID
    wait_for "$T/$1.sock"
    wait_for "$T/$1.qmp"
}

# The best asynchronous kind this QEMU and kernel have.
qemu_aio() {
    if [ -z "${QEMU_AIO:-}" ]; then
        truncate -s 1M "$T/probe"
        QEMU_AIO=native
        if timeout 20 qemu-img bench -q -c 8 -d 1 -t none -i io_uring -f raw "$T/probe" >/dev/null 2>&1; then
            QEMU_AIO=io_uring
        fi
    fi
    echo "$QEMU_AIO"
}

# qmp_open NAME; qmp_send JSON; qmp_event NAME SECONDS (sets EVENT; fails on time-out); qmp_close
qmp_open() {
    coproc QMP { exec socat - "UNIX-CONNECT:$T/$1.qmp"; }
    QMP_IN=${QMP[1]} QMP_OUT=${QMP[0]} QMP_SOCAT=$QMP_PID
    qmp_send '{"execute": "qmp_capabilities"}'
}

qmp_send() {
    echo "$1" >&"$QMP_IN"
}

qmp_event() {
    local line deadline=$(($(now_ms) + $2 * 1000)) left
    while left=$((deadline - $(now_ms))) && [ "$left" -gt 0 ]; do
        IFS= read -r -t "$((left / 1000)).$(printf %03d $((left % 1000)))" line <&"$QMP_OUT" || return 1
        case $line in
        *'"error"'*) [ "$1" = any ] || note "QMP: $line" ;;
        esac
        if [[ $line == *"\"event\": \"$1\""* ]]; then
            EVENT=$line
            return 0
        fi
        if [[ $line == *'"desc"'* ]]; then
            EVENT=$line
            return 2
        fi
    done
    return 1
}

qmp_close() {
    kill "$QMP_SOCAT" 2>/dev/null || true
    wait "$QMP_SOCAT" 2>/dev/null || true
}
