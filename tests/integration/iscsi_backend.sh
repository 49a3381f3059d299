#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The iSCSI backend against tgtd: bytes, provisioning, CHAP, refusals, and a target that dies, hangs or changes.
set -eu
. "$(dirname "$0")/../lib/common.sh"
. tests/lib/tgt.sh

tgt_available || skip "needs root, tgtd and tgtadm"
PROBE=$BUILD/tests/tools/disk_probe
EXERCISER=$BUILD/tests/tools/disk_exerciser
[ -x "$PROBE" ] && [ -x "$EXERCISER" ] || skip "needs the test tools (make tests)"
at_exit tgt_stop
tgt_start

probe_with() { # OPTIONS... -- COMMAND...: one run of the probe; output to $T/probe
    local options=()
    while [ "$1" != -- ]; do options+=("$1"); shift; done
    shift
    printf '%s\n' "$@" | timeout 100 "$PROBE" "${options[@]}" >"$T/probe" 2>"$T/probe.err"
}
probe() { local uri=$1; shift; probe_with run "$uri" -- "$@" || fail "probe $uri: $(cat "$T/probe" "$T/probe.err")"; }
probe_fails() { local uri=$1; shift; ! probe_with "$@" run "$uri" -- || fail "$uri was opened"; }
allocated() { du --block-size=1K "$1" | cut -f1; }

# A probe that is kept open, talked to line by line. ask WANTED COMMAND: the answer must begin with WANTED; MS is
# how long it took.
begin() {
    coproc TALK { exec timeout 200 "$PROBE" "$@" 2>"$T/talk.err"; }
    local in=${TALK[1]} out=${TALK[0]}
    TALK_ID=$TALK_PID
    exec {TALK_IN}>&"$in" {TALK_OUT}<&"$out"
    exec {in}>&- {out}<&-
    read -r -t 60 LINE <&"$TALK_OUT" && [ "$LINE" = ready ] || fail "probe $*: $LINE $(cat "$T/talk.err")"
}
tell() { echo "$*" >&"$TALK_IN"; }
answer() {
    read -r -t 90 LINE <&"$TALK_OUT" || fail "no answer, wanted '$1': $(cat "$T/talk.err")"
    MS=${LINE##* }
    case $LINE in "$1 "*) ;; *) fail "'$LINE' and not '$1': $(cat "$T/talk.err")" ;; esac
}
ask() { local want=$1; shift; tell "$@"; answer "$want"; }
end() {
    exec {TALK_IN}>&- {TALK_OUT}<&-
    wait "$TALK_ID" || fail "the probe failed: $(cat "$T/talk.err")"
}

echo "- the LUN as it says it is"
truncate -s 64M "$T/a.img"
tgt_add_lun "$T/a.img"
A=$TGT_URI
timeout 60 "$PROBE" stat "$A" >"$T/out"
contains "$T/out" '^exists 1 size 67108864 fixed 1 known_zero 1 identity iscsi:naa\.'
timeout 60 "$PROBE" stat "${A/127.0.0.1/localhost}" >"$T/out2"
cmp "$T/out" "$T/out2" || fail "one LUN by two names has two identities"
truncate -s 64M "$T/b.img"
tgt_add_lun "$T/b.img"
B=$TGT_URI
timeout 60 "$PROBE" stat "$B" >"$T/out2"
! cmp -s "$T/out" "$T/out2" || fail "two LUNs have one identity"

echo "- random requests on both kinds of loop, and the bytes in the target's file"
for loop in uring epoll; do
    BLOCKMIG_LOOP=$loop timeout 200 "$EXERCISER" "$A" --ops 1500 --seed 11 --no-discard --dump "$T/dump" \
        || fail "exerciser on $loop"
    cmp "$T/dump" "$T/a.img" || fail "the target's file differs"
done
timeout 200 "$EXERCISER" "$A?header_digest=crc32c" --ops 300 --seed 12 --sessions 1 || fail "header digests"
timeout 200 "$EXERCISER" "$A" --ops 300 --seed 13 --sessions 8 --align 1 || fail "unaligned"

echo "- what is unmapped takes no room, reads as zeroes, and is told"
probe "$B" "write 0 8388608 0x5a" "write 8388608 8388608 0x5b" flush
[ "$(allocated "$T/b.img")" -ge 16384 ] || fail "written and not allocated"
timeout 60 "$PROBE" stat "$B" >"$T/out"
contains "$T/out" 'known_zero 0'
probe "$B" "unmap 0 8388608" "read 0 8388608 0" "extents 0 67108864"
[ "$(allocated "$T/b.img")" -le 8300 ] || fail "unmapped and still allocated: $(allocated "$T/b.img")"
contains "$T/probe" '^0 8388608 hole zero'
contains "$T/probe" '^8388608 8388608$'
contains "$T/probe" '^16777216 50331648 hole zero'
probe "$B" "discard 8388608 8388608" flush
[ "$(allocated "$T/b.img")" -le 100 ] || fail "discarded and still allocated"
probe "$B" "zero 1048576 1048576" "read 1048576 1048576 0" "write 3 5 7" "read 3 5 7" "read 8 504 0"
! grep -v -E '^ready$|^[a-z]+ ok ' "$T/probe" || fail "a request failed"

echo "- what is refused"
probe_fails "${B%/*}/0"
contains "$T/probe" '^error refused: .*not a disk'
probe_fails "${B%/*}/77"
contains "$T/probe" '^error not.found: .*no such LUN'
probe_fails "iscsi://127.0.0.1:$TGT_PORT/iqn.2026-01.test.nobody/1"
contains "$T/probe" '^error not.found: .*no target'
timeout 60 "$PROBE" stat "${B%/*}/77" | grep -q '^exists 0' || fail "a LUN that is none exists"
timeout 60 "$PROBE" stat "iscsi://127.0.0.1:$TGT_PORT/iqn.2026-01.test.nobody/1" | grep -q '^exists 0' ||
    fail "a target that is none exists"
probe_fails "iscsi://127.0.0.1:$(free_port)/$TGT_IQN/1"
contains "$T/probe" '^error failed: .*refused'
probe_fails "$B?colour=red"
contains "$T/probe" '^error usage: .*colour'
probe_fails "${B%/*}/x"
contains "$T/probe" '^error usage: .*not a number'
truncate -s 16M "$T/ro.img"
tgt_add_lun "$T/ro.img" readonly=1
probe_fails "$TGT_URI"
contains "$T/probe" '^error denied: .*write-protected'
probe_with --read-only run "$TGT_URI" -- "read 0 4096 0" "write 0 4096 1" || fail "read-only LUN"
contains "$T/probe" '^read ok'
contains "$T/probe" '^write EROFS'

echo "- a target killed under load and started again: nothing is lost, nothing is wrong"
for round in plain replayable; do
    how=()
    [ $round = plain ] || how=(--replayable)
    timeout 300 "$EXERCISER" "$A" --ops 2500 --seed 21 --pace-us 1000 --timeout-ms 20000 --max-io 64K \
        "${how[@]}" >"$T/exerciser" 2>&1 &
    id=$!
    for i in 1 2 3; do
        sleep 0.7
        tgt_kill9
        sleep 0.2
        tgt_restart
    done
    wait $id || fail "$round: $(cat "$T/exerciser")"
    contains "$T/exerciser" 'connected again'
    contains "$T/exerciser" '^ok '
done

echo "- a silent target: requests end in their time, and go on when it speaks again"
begin --timeout-ms 4000 run "$B"
ask "write ok" write 0 65536 0x11
tgt_freeze
ask "write ETIMEDOUT" write 65536 65536 0x22
[ "$MS" -ge 3000 ] && [ "$MS" -le 9000 ] || fail "timed out after $MS ms"
ask "read ETIMEDOUT" read 0 65536 0x11
tgt_thaw
for i in $(seq 100); do
    tell write 65536 65536 0x33
    read -r -t 60 LINE <&"$TALK_OUT"
    case $LINE in "write ok "*) break ;; esac
    [ "$i" -lt 100 ] || fail "does not come back: $LINE"
    sleep 0.1
done
ask "read ok" read 0 65536 0x11
ask "read ok" read 65536 65536 0x33
end
contains "$T/talk.err" 'connection is lost \(the target is silent\)'
contains "$T/talk.err" 'connected again'

echo "- a short silence is only a delay"
begin --timeout-ms 20000 run "$B"
tgt_freeze
tell write 0 65536 0x44
sleep 1
tgt_thaw
answer "write ok"
end
! grep -q lost "$T/talk.err" || fail "lost for a short silence"

echo "- time that we did not run is not held against the target"
begin --timeout-ms 4000 run "$B"
tgt_freeze
tell write 0 65536 0x45
sleep 0.3
kill -STOP "$TALK_ID"
tgt_thaw
sleep 6
kill -CONT "$TALK_ID"
answer "write ok"
end
! grep -q lost "$T/talk.err" || fail "lost because we were stopped"

echo "- a flush after a loss tells whoever can write again, and nobody else"
begin --timeout-ms 20000 run "$B"
ask "write ok" '!write' 0 65536 0x55
tgt_kill9
tgt_restart
ask "read ok" read 0 65536 0x55
ask "flush EIO" flush
ask "flush ok" flush
ask "write ok" write 0 65536 0x56
tgt_kill9
tgt_restart
ask "read ok" read 0 65536 0x56
ask "flush ok" flush
end

echo "- a LUN that comes back as another, or resized, is not written to"
begin --timeout-ms 20000 run "$B"
ask "write ok" write 0 4096 0x66
tgt_kill9
truncate -s 65M "$T/b.img"
tgt_restart
ask "write EIO" write 0 4096 0x77
ask "write EIO" write 0 4096 0x77
end
contains "$T/talk.err" 'resized'
truncate -s 64M "$T/b.img"
tgt_kill9
tgt_restart
begin --timeout-ms 20000 run "$B"
ask "read ok" read 0 4096 0x66
tgt_kill9
sed "s/scsi_sn=/scsi_sn=x/" -i "$TGT_DIR/setup"
tgt_restart
ask "write EIO" write 0 4096 0x77
end
contains "$T/talk.err" 'another LUN'
probe "$B" "read 0 4096 0x66"
contains "$T/probe" '^read ok'

echo "- a fenced disk has nothing left under way"
begin --timeout-ms 4000 run "$B"
ask "write ok" write 0 4096 0x68
ask "fence ok" fence
ask "write ESHUTDOWN" write 0 4096 0x69
end
begin --timeout-ms 4000 run "$B"
tgt_freeze
ask "write ETIMEDOUT" write 0 4096 0x6a
tell fence
sleep 0.5
tgt_thaw
answer "fence ok"
ask "write ESHUTDOWN" write 0 4096 0x6b
end

echo "- a target that is silent from the start is given up on in time"
tgt_freeze
SECONDS=0
probe_fails "$B" --timeout-ms 2000
[ $SECONDS -le 8 ] || fail "an open took $SECONDS s"
contains "$T/probe" 'no answer to the login'
tgt_thaw

echo "- CHAP"
SECRET=correct-horse-1
tgt_chap joe "$SECRET"
C=${B/:\/\//:\/\/joe@}
probe_fails "$B"
contains "$T/probe" '^error denied: .*CHAP.*none was given'
probe_fails "$C"
contains "$T/probe" "^error usage: .*CHAP user 'joe', and there is no secret"
BLOCKMIG_SECRET=wrong-horse-123 probe_fails "$C"
contains "$T/probe" '^error denied: .*CHAP'
! grep -q wrong-horse "$T/probe" "$T/probe.err" || fail "the secret is shown"
BLOCKMIG_SECRET=$SECRET probe "$C" "write 0 4096 0x78" "read 0 4096 0x78" describe
contains "$T/probe" '^read ok'
! grep -q "$SECRET" "$T/probe" "$T/probe.err" || fail "the secret is shown"
BLOCKMIG_SECRET=$SECRET begin --timeout-ms 20000 run "$C"
ask "write ok" write 0 4096 0x79
tgt_kill9
tgt_restart
ask "read ok" read 0 4096 0x79
end
echo "ok"
