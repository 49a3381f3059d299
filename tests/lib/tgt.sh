# SPDX-License-Identifier: LGPL-2.1-or-later
#
# An iSCSI target of a test's own: one tgtd on a free loopback port, its control socket in a private folder, so
# that any number run side by side. LUNs are files, thin-provisioned. Source it; everything is a function.
#
#   tgt_start                starts tgtd with one empty target; sets TGT_PID TGT_PORT TGT_IQN TGT_DIR
#   tgt_add_lun FILE [PARAMS]  offers FILE as the next LUN; sets TGT_URI and TGT_LUN
#   tgt_chap USER PASSWORD   from now on a login needs them (12 characters or more, says RFC 7143)
#   tgt_uri LUN [USER]       prints a LUN's URI
#   tgt_freeze | tgt_thaw    the target goes silent with its connections open, and comes back
#   tgt_kill9                ends it as a crash does
#   tgt_restart              the same port, target, LUNs and accounts again, after tgt_kill9
#   tgt_stop                 ends it and removes its folder; fit for an EXIT trap, fine where nothing was started
#   tgt_adm ARGS             tgtadm --lld iscsi, on this instance
#
# tgtd takes no SIGTERM while a target exists, so its end is always SIGKILL of the one process we started.

TGT_PID= TGT_DIR= TGT_IQN= TGT_PORT= TGT_URI= TGT_LUN=0

tgt_adm() {
    TGT_IPC_SOCKET="$TGT_DIR/control" timeout 20 tgtadm --lld iscsi "$@"
}

tgt_available() {
    command -v tgtd >/dev/null && command -v tgtadm >/dev/null && [ "$(id -u)" = 0 ]
}

# Starts the process on $TGT_PORT; fails where the port is taken.
tgt_spawn() {
    rm -f "$TGT_DIR"/control*
    TGT_IPC_SOCKET="$TGT_DIR/control" tgtd -f -t 4 --iscsi "portal=127.0.0.1:$TGT_PORT" \
        >>"$TGT_DIR/log" 2>&1 &
    TGT_PID=$!
    local i
    for i in $(seq 200); do
        kill -0 "$TGT_PID" 2>/dev/null || break
        if tgt_adm --mode portal --op show 2>/dev/null | grep -q "127.0.0.1:$TGT_PORT,"; then
            return 0
        fi
        sleep 0.05
    done
    tgt_kill9
    return 1
}

# Replays what the target was told, from $TGT_DIR/setup: one tgtadm call a line.
tgt_configure() {
    local line i
    while read -r line; do
        for i in $(seq 100); do
            # shellcheck disable=SC2086
            tgt_adm $line >>"$TGT_DIR/log" 2>&1 && break
            [ "$i" = 100 ] && { echo "tgtadm $line: failed" >&2; return 1; }
            sleep 0.1
        done
    done
}

tgt_tell() {
    echo "$*" >>"$TGT_DIR/setup"
    echo "$*" | tgt_configure
}

tgt_start() {
    local i
    TGT_DIR=$(mktemp -d "${TMPDIR:-/tmp}/tgt.XXXXXX")
    TGT_IQN="iqn.2026-01.test.blockmig:t$$.$RANDOM"
    TGT_LUN=0
    for i in $(seq 20); do
        TGT_PORT=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
        if tgt_spawn; then
            tgt_tell --mode target --op new --tid 1 --targetname "$TGT_IQN" &&
                tgt_tell --mode target --op bind --tid 1 --initiator-address 127.0.0.1
            return
        fi
    done
    echo "tgtd does not start: $(tail -3 "$TGT_DIR/log")" >&2
    return 1
}

tgt_uri() {
    echo "iscsi://${2:+$2@}127.0.0.1:$TGT_PORT/$TGT_IQN/$1"
}

tgt_add_lun() {
    local file=$1 params=${2:-} id
    case $file in *[[:space:]]*) echo "tgt_add_lun: no blanks in '$file'" >&2; return 1 ;; esac
    TGT_LUN=$((TGT_LUN + 1))
    # tgtd numbers its LUNs alike in every instance; a designator of the file's own tells them apart.
    id=$(printf '%s' "$TGT_IQN/$file" | md5sum | cut -c1-16)
    tgt_tell --mode logicalunit --op new --tid 1 --lun $TGT_LUN --backing-store "$file" --bstype rdwr || return
    tgt_tell --mode logicalunit --op update --tid 1 --lun $TGT_LUN \
        --params "thin_provisioning=1,scsi_id=bm$id,scsi_sn=$id${params:+,$params}" || return
    TGT_URI=$(tgt_uri $TGT_LUN)
}

tgt_chap() {
    tgt_tell --mode account --op new --user "$1" --password "$2" &&
        tgt_tell --mode account --op bind --tid 1 --user "$1"
}

tgt_freeze() { kill -STOP "$TGT_PID"; }
tgt_thaw() { kill -CONT "$TGT_PID"; }

tgt_kill9() {
    [ -n "$TGT_PID" ] || return 0
    kill -9 "$TGT_PID" 2>/dev/null || true
    wait "$TGT_PID" 2>/dev/null || true
    TGT_PID=
}

tgt_restart() {
    local i
    # The port may be held for a moment by connections of the one that died.
    for i in $(seq 50); do
        if tgt_spawn; then
            # Nobody is let in before every LUN has its own name again.
            grep -v -e '--op bind .*--initiator' "$TGT_DIR/setup" | tgt_configure &&
                grep -e '--op bind .*--initiator' "$TGT_DIR/setup" | tgt_configure
            return
        fi
        sleep 0.2
    done
    echo "tgtd does not start again: $(tail -3 "$TGT_DIR/log")" >&2
    return 1
}

tgt_stop() {
    tgt_kill9
    [ -z "$TGT_DIR" ] || rm -rf "$TGT_DIR"
    TGT_DIR=
}
