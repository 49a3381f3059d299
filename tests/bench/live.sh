# SPDX-License-Identifier: LGPL-2.1-or-later
#
# A live move under fio: ours against blockdev-mirror in both copy modes, to a file, NFS and iSCSI, at three guest
# rates. A mirror that is not in sync after CAP seconds is "never".
#
# What is recorded of a run: live.TARGET.RATE.WHO.{before,during,synced,iops,p99-before,p99,p999-before,p999,
# stall-before,stall,switch}: switch is the guest's longest stall around the switch in us, hold what ours says.

CAP=35

# The windows of one run, from the guest's log. KEY BEFORE_FROM MOVE SYNCED|- SWITCH|- END
live_record() {
    local key=$1 from=$2 move=$3 synced=$4 switch=$5 end=$6 count p50 p99 p999 max
    read -r count p50 p99 p999 max < <(window "$from" "$move")
    record "$key.p99-before" "$p99"
    record "$key.p999-before" "$p999"
    record "$key.stall-before" "$max"
    read -r count p50 p99 p999 max < <(window "$move" "$([ "$synced" = - ] && echo "$end" || echo "$synced")")
    record "$key.p99" "$p99"
    record "$key.p999" "$p999"
    record "$key.stall" "$max"
    record "$key.iops" "$(awk -v n="$count" -v a="$move" -v b="$([ "$synced" = - ] && echo "$end" || echo "$synced")" \
        'BEGIN { printf "%d\n", (b > a) ? n * 1000 / (b - a) : 0 }')"
    if [ "$synced" = - ]; then
        record "$key.synced" never
    else
        record "$key.synced" "$(awk -v ms=$((synced - move)) 'BEGIN { printf "%.1f\n", ms / 1000 }')"
    fi
    [ "$switch" = - ] || record "$key.switch" "$(stall_us "$switch" $((end + 300)))"
}

live_before() {
    sleep 1 # fio starts up
    FROM=$(now_ms)
    sleep "$LIVE_BEFORE"
}

# ---- ours ----

live_ours() { # KEY DEST-URI RATE
    local key=$1 job state move synced=- switch=- end deadline
    local image=$T/live.ours
    cp --reflink=never "$T/live.master" "$image"
    settle_disk 1
    "${BM[@]}" volume import bench "$image" --format raw >/dev/null
    "${BM[@]}" volume start bench >/dev/null
    guest_start ours "$("${BM[@]}" volume start bench --print uri | head -1)" "${LIVE_MIB}M" "$3"
    live_before
    move=$(now_ms)
    job=$("${BM[@]}" --json move bench "$2" --format raw --detach --hold --no-verify --keep-source | jq -r .id)
    deadline=$((move + CAP * 1000))
    while [ "$(now_ms)" -lt "$deadline" ]; do
        state=$(job_field "$job" state)
        case $state in
        synced) synced=$(now_ms); break ;;
        failed | cancelled) note "ours: job $job $state: $(job_field "$job" error)"; break ;;
        esac
        sleep 0.1
    done
    end=$(now_ms)
    if [ "$synced" != - ]; then
        sleep 2 # in sync, and still the guest writes
        switch=$(now_ms)
        "${BM[@]}" switch "$job" >/dev/null
        end=$(now_ms)
        sleep 0.5
        record "$key.hold" "$(job_field "$job" switch_hold_us)"
        "${BM[@]}" commit "$job" >/dev/null 2>&1 || true
    else
        "${BM[@]}" cancel "$job" >/dev/null 2>&1 || true
    fi
    sleep 0.3
    guest_stop || record "$key.synced" failed
    live_record "$key" "$FROM" "$move" "$synced" "$switch" "$end"
    "${BM[@]}" wait "$job" >/dev/null 2>&1 || true
    "${BM[@]}" volume stop bench >/dev/null
    "${BM[@]}" volume delete bench >/dev/null 2>&1 || note "volume delete failed"
    rm -f "$image"
}

# ---- QEMU ----

live_qemu() { # KEY TARGET-NODE RATE COPY-MODE
    local key=$1 move synced=- switch=- end
    local image=$T/live.qemu
    cp --reflink=never "$T/live.master" "$image"
    settle_disk 1
    qsd_start qsd-live "driver=file,node-name=disk,filename=$image,cache.direct=on,aio=$(qemu_aio),discard=unmap"
    guest_start qemu "nbd+unix:///disk?socket=$T/qsd-live.sock" "${LIVE_MIB}M" "$3"
    live_before
    qmp_open qsd-live
    qmp_send "{\"execute\": \"blockdev-add\", \"arguments\": $2}"
    move=$(now_ms)
    qmp_send "{\"execute\": \"blockdev-mirror\", \"arguments\": {\"job-id\": \"m\", \"device\": \"disk\", \"target\": \"target\",
        \"sync\": \"full\", \"copy-mode\": \"$4\"}}"
    if qmp_event BLOCK_JOB_READY "$CAP"; then
        synced=$(now_ms)
        sleep 2
        switch=$(now_ms)
        qmp_send '{"execute": "block-job-complete", "arguments": {"device": "m"}}'
        qmp_event BLOCK_JOB_COMPLETED "$CAP" || note "QEMU's mirror did not complete in $CAP s"
    fi
    end=$(now_ms)
    sleep 0.3
    guest_stop || true
    qmp_close
    live_record "$key" "$FROM" "$move" "$synced" "$switch" "$end"
    [ "$switch" = - ] || record "$key.complete" $((end - switch))
    stop "$QSD_PID" KILL
    rm -f "$image"
}

# ---- targets ----

# live_target KIND: a fresh one; sets DEST (our URI) and NODE (QEMU's)
live_target() {
    local size=$((LIVE_MIB << 20))
    case $1 in
    file)
        rm -f "$T/live.target"
        DEST=$T/live.target
        truncate -s "$size" "$T/live.target.qemu"
        NODE="{\"driver\": \"file\", \"node-name\": \"target\", \"filename\": \"$T/live.target.qemu\", \"aio\": \"$(qemu_aio)\",
            \"cache\": {\"direct\": true}}"
        ;;
    nfs)
        rm -f "$NFS_DIR"/live.*
        DEST="$NFS_URI/live.ours?$NFS_PARAMS"
        truncate -s "$size" "$NFS_DIR/live.qemu"
        NODE="{\"driver\": \"nfs\", \"node-name\": \"target\", \"server\": {\"type\": \"inet\", \"host\": \"127.0.0.1\"},
            \"path\": \"$NFS_DIR/live.qemu\", \"user\": 0, \"group\": 0}"
        ;;
    iscsi)
        if [ -z "${LIVE_LUN:-}" ]; then
            truncate -s "$size" "$T/live.lun"
            tgt_add_lun "$T/live.lun"
            LIVE_LUN=$TGT_LUN
            LIVE_LUN_URI=$TGT_URI
        fi
        DEST=$LIVE_LUN_URI
        NODE="{\"driver\": \"iscsi\", \"node-name\": \"target\", \"transport\": \"tcp\", \"portal\": \"127.0.0.1:$TGT_PORT\",
            \"target\": \"$TGT_IQN\", \"lun\": $LIVE_LUN, \"initiator-name\": \"iqn.2026-01.test.blockmig:qemu\"}"
        ;;
    esac
}

live_run() { # TARGET RATE WHO
    local key=live.$1.$2.$3
    live_target "$1"
    note "live: to $1, $([ "$2" = 0 ] && echo unlimited || echo "$2/s"), $3"
    case $3 in
    ours) live_ours "$key" "$DEST" "$2" ;;
    *) live_qemu "$key" "$NODE" "$2" "$3" ;;
    esac
    rm -f "$T"/live.target* "$NFS_DIR"/live.*
}

live_part() {
    local i kind rate who
    random_file "$T/live.master" "$LIVE_MIB"
    daemon_start
    for kind in $LIVE_TARGETS; do
        case $kind in
        nfs) [ -n "$NFS_URI" ] || continue ;;
        iscsi) [ -n "$TGT_PORT" ] || continue ;;
        esac
        for rate in $LIVE_RATES; do
            for i in $(seq "$RUNS"); do
                for who in ours background write-blocking; do
                    live_run "$kind" "$rate" "$who"
                done
            done
        done
    done
    daemon_end
    rm -f "$T/live.master"
}

live_row() { # KIND RATE WHO TITLE
    local key=live.$1.$2.$3 rate=$2
    [ "$(median "$key.synced")" != - ] || return 0
    [ "$rate" != 0 ] || rate=unlimited
    echo "| $1 | $rate | $4 | $(median "$key.synced") | $(thousands "$(median "$key.iops")") |" \
        "$(ms_of_us "$(median "$key.p99-before")") -> $(ms_of_us "$(median "$key.p99")") |" \
        "$(ms_of_us "$(median "$key.p999-before")") -> $(ms_of_us "$(median "$key.p999")") |" \
        "$(ms_of_us "$(median "$key.stall-before")") -> $(ms_of_us "$(median "$key.stall")") |" \
        "$(ms_of_us "$(median "$key.switch")") |"
}

live_table() {
    local kind rate key
    echo "## Live move of $LIVE_MIB MiB under 4 KiB random writes, queue depth 16"
    echo
    echo "Latencies in ms as the guest saw them, before -> during the copy; the last column is the guest's longest stall"
    echo "around the switch."
    echo
    echo "| target | guest writes/s | mover | s to in sync | guest IOPS during | p99 | p99.9 | longest stall | at the switch |"
    echo "|---|---|---|---|---|---|---|---|---|"
    for kind in $LIVE_TARGETS; do
        for rate in $LIVE_RATES; do
            live_row "$kind" "$rate" ours blockmig
            live_row "$kind" "$rate" background "QEMU, background"
            live_row "$kind" "$rate" write-blocking "QEMU, write-blocking"
        done
    done
    echo
    for kind in $LIVE_TARGETS; do
        key=live.$kind.2000.ours
        [ "$(median "$key.synced")" != - ] || continue
        target "move to $kind at 2,000/s, p99.9 during against before" "$(ratio "$(median "$key.p999")" "$(median "$key.p999-before")")" "<=" 3 x
        target "move to $kind at 2,000/s, longest stall" "$(ms_of_us "$(median "$key.stall")")" "<=" 25 " ms"
    done
    for kind in $LIVE_TARGETS; do
        for rate in $LIVE_RATES; do
            key=live.$kind.$rate.ours
            [ "$(median "$key.synced")" != - ] || continue
            target "move to $kind, $([ "$rate" = 0 ] && echo unlimited || echo "$rate/s"), guest I/O held at the switch" \
                "$(ratio "$(median "$key.hold")" 1000 3)" "<=" 1 " ms"
        done
    done
}
