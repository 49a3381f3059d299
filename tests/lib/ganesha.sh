# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Private NFSv3 servers for tests: nfs-ganesha on loopback, exporting one folder each.
#
#   ganesha_start DIR          exports DIR; sets GANESHA_URI (nfs://127.0.0.1DIR), GANESHA_PARAMS
#                              (nfsport=N&mountport=M&uid=0&gid=0), NFS_PORT, MOUNT_PORT
#   ganesha_kill9 [DIR]        SIGKILL, as a crash: what was not committed may be lost
#   ganesha_freeze / ganesha_thaw [DIR]     silent, then not
#   ganesha_restart [DIR]      starts it again on the same ports, after ganesha_kill9 or by itself
#   ganesha_stop [DIR]         ends it and removes its folder
#   ganesha_stop_all           the same for all; put it in the EXIT trap
#
# DIR defaults to the one started last. Any number may run side by side. Ganesha refuses to start
# without a portmapper, and portmappers are one to a host: so each server gets a mount namespace with an
# empty /run and an rpcbind of its own in it, which sits in an empty network namespace and so listens
# on nothing but the unix socket. Where namespaces are refused, a portmapper that runs is used.
#
# GANESHA_ACCESS=RO          a read-only export
# GANESHA_SHARED_RPCBIND=1   use the portmapper that runs, for tests that ask it for the ports
#
# Needs bash. Ends nothing that it did not start.

declare -A GANESHA_WORK=() GANESHA_PORTS=()
GANESHA_LAST=

# Says why Ganesha can't run here and fails; for "ganesha_available || exit 77".
ganesha_available() {
    command -v ganesha.nfsd >/dev/null || { echo "SKIP: ganesha.nfsd is not installed"; return 1; }
    [ "$(id -u)" = 0 ] || { echo "SKIP: ganesha.nfsd needs root"; return 1; }
    if command -v rpcbind >/dev/null && unshare -m -n true 2>/dev/null; then return 0; fi
    [ -S /run/rpcbind.sock ] || { echo "SKIP: no rpcbind runs and none can be started"; return 1; }
}

# A port of loopback that nothing uses at the moment.
ganesha_free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
}

ganesha__config() { # dir work nfs_port mount_port
    cat <<CONFIG
NFS_CORE_PARAM {
    NFS_Port = $3; MNT_Port = $4; Bind_addr = 127.0.0.1; Protocols = 3;
    Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false;
    MaxRPCSendBufferSize = 2097152; MaxRPCRecvBufferSize = 2097152;
}
NFS_KRB5 { Active_krb5 = false; }
NFSv4 { RecoveryRoot = "$2/recovery"; Graceless = true; }
EXPORT {
    Export_Id = 1; Path = "$1"; Pseudo = /export; Protocols = 3; Transports = TCP;
    Access_Type = ${GANESHA_ACCESS:-RW}; Squash = No_Root_Squash; SecType = sys;
    MaxRead = 1048576; MaxWrite = 1048576; PrefRead = 1048576; PrefWrite = 1048576;
    FSAL { Name = VFS; }
}
LOG { Default_Log_Level = EVENT; }
CONFIG
}

# Runs in a mount namespace of its own where it may.
ganesha__launch() { # work
    local work=$1 run
    # shellcheck disable=SC2016
    run='
        work=$1
        if [ "$2" = private ]; then
            mount -t tmpfs none /run
            unshare -n rpcbind -f >"$work/rpcbind.log" 2>&1 &
            echo $! >"$work/rpcbind.pid"
            tries=0
            until [ -S /run/rpcbind.sock ] || [ $tries -ge 100 ]; do
                sleep 0.05
                tries=$((tries + 1))
            done
        fi
        exec ganesha.nfsd -F -f "$work/ganesha.conf" -L "$work/ganesha.log" -p "$work/ganesha.pidfile"'
    if [ -z "${GANESHA_SHARED_RPCBIND:-}" ] && unshare -m -n true 2>/dev/null; then
        unshare -m sh -c "$run" ganesha "$work" private </dev/null >"$work/out.log" 2>&1 &
    else
        sh -c "$run" ganesha "$work" shared </dev/null >"$work/out.log" 2>&1 &
    fi
    echo $! >"$work/pid"
    disown $!
}

# Until both ports answer; 1 if the server ended or 20 s passed.
ganesha__wait_up() { # work nfs_port mount_port
    local tries=0
    while [ $tries -lt 400 ]; do
        if (exec 3<>"/dev/tcp/127.0.0.1/$2") 2>/dev/null &&
            (exec 3<>"/dev/tcp/127.0.0.1/$3") 2>/dev/null &&
            grep -q 'NFS SERVER INITIALIZED' "$1/ganesha.log" 2>/dev/null; then
            return 0
        fi
        kill -0 "$(cat "$1/pid")" 2>/dev/null || return 1
        sleep 0.05
        tries=$((tries + 1))
    done
    return 1
}

ganesha__end() { # work signal
    local pid tries=0
    if [ -f "$1/pid" ]; then
        pid=$(cat "$1/pid")
        kill "-$2" "$pid" 2>/dev/null || true
        # A server that is frozen or still writing back takes a while; a deaf one is killed.
        while kill -0 "$pid" 2>/dev/null && [ $tries -lt 100 ]; do
            sleep 0.05
            tries=$((tries + 1))
        done
        kill -KILL "$pid" 2>/dev/null || true
        while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
        rm -f "$1/pid"
    fi
    if [ -f "$1/rpcbind.pid" ]; then
        kill "$(cat "$1/rpcbind.pid")" 2>/dev/null || true
        rm -f "$1/rpcbind.pid"
    fi
}

ganesha_start() { # dir
    local dir work tries
    dir=$(realpath "$1")
    work=$(mktemp -d "${TMPDIR:-/tmp}/ganesha.XXXXXX")
    mkdir "$work/recovery"
    for tries in 1 2 3 4 5; do
        NFS_PORT=$(ganesha_free_port)
        MOUNT_PORT=$(ganesha_free_port)
        [ "$NFS_PORT" != "$MOUNT_PORT" ] || continue
        ganesha__config "$dir" "$work" "$NFS_PORT" "$MOUNT_PORT" >"$work/ganesha.conf"
        rm -f "$work/ganesha.log"
        ganesha__launch "$work"
        if ganesha__wait_up "$work" "$NFS_PORT" "$MOUNT_PORT"; then
            GANESHA_WORK[$dir]=$work
            GANESHA_PORTS[$dir]="$NFS_PORT $MOUNT_PORT"
            GANESHA_LAST=$dir
            GANESHA_URI="nfs://127.0.0.1$dir"
            GANESHA_PARAMS="nfsport=$NFS_PORT&mountport=$MOUNT_PORT&uid=0&gid=0"
            return 0
        fi
        ganesha__end "$work" KILL # a port that another took first: with other ports again
    done
    echo "ganesha.nfsd does not start; its log:" >&2
    cat "$work/out.log" "$work/ganesha.log" >&2 || true
    rm -rf "$work"
    return 1
}

ganesha__pid() { cat "${GANESHA_WORK[${1:-$GANESHA_LAST}]}/pid"; }
ganesha_kill9() { ganesha__end "${GANESHA_WORK[${1:-$GANESHA_LAST}]}" KILL; }
ganesha_freeze() { kill -STOP "$(ganesha__pid "$@")"; }
ganesha_thaw() { kill -CONT "$(ganesha__pid "$@")"; }

ganesha_restart() {
    local dir=${1:-$GANESHA_LAST} work nfs_port mount_port
    work=${GANESHA_WORK[$dir]}
    read -r nfs_port mount_port <<<"${GANESHA_PORTS[$dir]}"
    ganesha__end "$work" TERM
    rm -f "$work/ganesha.log"
    ganesha__launch "$work"
    ganesha__wait_up "$work" "$nfs_port" "$mount_port" || {
        echo "ganesha.nfsd does not start again; its log:" >&2
        cat "$work/out.log" "$work/ganesha.log" >&2
        return 1
    }
}

ganesha_stop() {
    local dir=${1:-$GANESHA_LAST}
    [ -n "$dir" ] && [ -n "${GANESHA_WORK[$dir]:-}" ] || return 0
    ganesha_thaw "$dir" 2>/dev/null || true
    ganesha__end "${GANESHA_WORK[$dir]}" TERM
    rm -rf "${GANESHA_WORK[$dir]}"
    unset "GANESHA_WORK[$dir]" "GANESHA_PORTS[$dir]"
}

ganesha_stop_all() {
    local dir
    for dir in "${!GANESHA_WORK[@]}"; do ganesha_stop "$dir"; done
}
