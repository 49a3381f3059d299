# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Serving: fio over NBD on a unix socket, against servers of the same file (O_DIRECT) and of no medium at all. All
# servers run throughout; for each load they take turns.

SERVE_LOADS=(read-1 write-1 read-16 write-16 bulk-16)

# serve_fio KEY LOAD FIO-ENGINE-ARGS: records IOPS (4 KiB) or MB/s (bulk)
serve_fio() {
    local key=$1 load=$2 args metric
    shift 2
    case $load in
    read-*) args=(--rw=randread --bs=4k --iodepth="${load#*-}") metric='.jobs[0].read.iops' ;;
    write-*) args=(--rw=randwrite --bs=4k --iodepth="${load#*-}") metric='.jobs[0].write.iops' ;;
    bulk-*) args=(--rw=write --bs=1M --iodepth="${load#*-}") metric='.jobs[0].write.bw_bytes / 1e6' ;;
    esac
    settle_disk 0.2
    timeout 120 fio --name=serve --size="${SERVE_MIB}M" --time_based --runtime="$SERVE_SECONDS" --ramp_time="$SERVE_RAMP" \
        --randrepeat=0 --norandommap --output-format=json --eta=never "${args[@]}" "$@" >"$T/serve.json" 2>"$T/serve.err" ||
        { note "fio on $key: $(head -c 500 "$T/serve.err")"; record "serve.$key.$load" failed; return 0; }
    record "serve.$key.$load" "$(sed -n "/^{/,\$p" "$T/serve.json" | jq -r "$metric | floor")"
}

# Each server has a file of its own, of the same size and contents.
serve_part() {
    local load i key
    local -A uri=()
    note "serve: $SERVE_MIB MiB, $SERVE_SECONDS s a run"
    for key in direct ours qsd nbdkit; do
        random_file "$T/serve.$key" "$SERVE_MIB"
    done
    worker_serve ours-file "$T/serve.ours" && uri[ours]=$SERVED_URI
    worker_serve ours-mem "mem:?size=${SERVE_MIB}M" && uri[ours-mem]=$SERVED_URI
    qsd_start qsd-file "driver=file,node-name=disk,filename=$T/serve.qsd,cache.direct=on,aio=$(qemu_aio)"
    uri[qsd]="nbd+unix:///disk?socket=$T/qsd-file.sock"
    qsd_start qsd-null "driver=null-co,node-name=disk,size=$((SERVE_MIB << 20)),read-zeroes=off"
    uri[qsd-null]="nbd+unix:///disk?socket=$T/qsd-null.sock"
    start kit-file nbdkit -f -U "$T/kit-file.sock" file "$T/serve.nbdkit"
    uri[nbdkit]="nbd+unix:///?socket=$T/kit-file.sock"
    start kit-null nbdkit -f -U "$T/kit-null.sock" null "${SERVE_MIB}M"
    uri[nbdkit-null]="nbd+unix:///?socket=$T/kit-null.sock"
    wait_for "$T/kit-file.sock"
    wait_for "$T/kit-null.sock"

    # Memory that was never touched would measure the kernel's handing out of pages.
    fio --name=fill --ioengine=nbd --uri="${uri[ours-mem]:-}" --rw=write --bs=1M --iodepth=4 --size="${SERVE_MIB}M" \
        --eta=never >"$T/fill.log" 2>&1 || note "memory was not filled first"

    for load in "${SERVE_LOADS[@]}"; do
        for i in $(seq "$RUNS"); do
            serve_fio direct "$load" --ioengine=libaio --direct=1 --filename="$T/serve.direct"
            for key in ours qsd nbdkit ours-mem qsd-null nbdkit-null; do
                [ -n "${uri[$key]:-}" ] || continue
                serve_fio "$key" "$load" --ioengine=nbd --uri="${uri[$key]}"
            done
        done
    done
    rm -f "$T"/serve.{direct,ours,qsd,nbdkit}
}

serve_row() { # TITLE KEY
    local load row="| $1 |"
    for load in "${SERVE_LOADS[@]}"; do
        row+=" $(thousands "$(median "serve.$2.$load")") |"
    done
    echo "$row"
}

serve_ratio() { # A B LOAD
    ratio "$(median "serve.$1.$3")" "$(median "serve.$2.$3")"
}

serve_table() {
    local load
    echo "## Serving over NBD, random 4 KiB in IOPS, 1 MiB writes in MB/s"
    echo
    echo "| server | read QD1 | write QD1 | read QD16 | write QD16 | 1 MiB writes QD16 |"
    echo "|---|---|---|---|---|---|"
    serve_row "the file itself, O_DIRECT" direct
    serve_row "blockmig, file O_DIRECT" ours
    serve_row "qemu-storage-daemon, file O_DIRECT, $(qemu_aio)" qsd
    serve_row "nbdkit file (page cache)" nbdkit
    serve_row "blockmig, memory" ours-mem
    serve_row "qemu-storage-daemon, null-co" qsd-null
    serve_row "nbdkit null" nbdkit-null
    echo
    for load in read-1 write-1; do
        target "serve a file, ${load/-/ QD}, against qemu-storage-daemon" "$(serve_ratio ours qsd $load)" ">=" 1.2 x
    done
    for load in read-16 write-16; do
        target "serve a file, ${load/-/ QD}, against the file itself" "$(serve_ratio ours direct $load)" ">=" 0.9 x
    done
    for load in read-1 write-1 read-16 write-16; do
        target "serve memory, ${load/-/ QD}, against QEMU's null-co" "$(serve_ratio ours-mem qsd-null $load)" ">=" 1.1 x
    done
    target "serve memory, 1 MiB writes, against QEMU's null-co" "$(serve_ratio ours-mem qsd-null bulk-16)" ">=" 2 x
}
