# SPDX-License-Identifier: LGPL-2.1-or-later
#
# fio as a guest: started on an NBD URI, ended when asked, and its latencies read off by windows of time.
#
#   guest_start NAME URI SIZE RATE [FIO ARGS]   4 KiB random writes, queue depth 16; RATE 0: as fast as it goes.
#                        Sets GUEST_PID, GUEST_LOG. One at a time under a NAME.
#   guest_stop           ends it and waits; false where fio says that anything failed
#   now_ms               milliseconds since 1970, the clock of the log
#   window FROM TO [LOG]    prints "count p50 p99 p999 max", latencies in us, of what completed in [FROM, TO) ms
#   stall_us FROM TO     just the max
#
# Needs $T and common.sh.

guest_start() {
    local name=$1 uri=$2 size=$3 rate=$4
    shift 4
    local limit=()
    [ "$rate" = 0 ] || limit=(--rate_iops="$rate")
    GUEST_LOG=$T/$name
    rm -f "$GUEST_LOG"_*.log "$GUEST_LOG.json"
    fio --name="$name" --ioengine=nbd --uri="$uri" --rw=randwrite --bs=4k --iodepth=16 --size="$size" \
        --time_based --runtime=600 --verify_state_save=0 --randrepeat=0 --norandommap --refill_buffers=0 \
        --write_lat_log="$GUEST_LOG" --log_unix_epoch=1 --log_entries=1048576 --disable_slat=1 --disable_clat=1 \
        --output="$GUEST_LOG.json" --output-format=json --eta=never "${limit[@]}" "$@" \
        >"$GUEST_LOG.out" 2>&1 </dev/null &
    GUEST_PID=$!
    at_exit stop "$GUEST_PID" INT
}

guest_stop() {
    kill -INT "$GUEST_PID" 2>/dev/null || true
    wait "$GUEST_PID" 2>/dev/null || true
    # fio prefixes its JSON with a line when it is interrupted.
    sed -n '/^{/,$p' "$GUEST_LOG.json" >"$GUEST_LOG.clean.json"
    [ "$(jq -r '[.jobs[].error, .jobs[].total_err // 0] | add' "$GUEST_LOG.clean.json" 2>/dev/null)" = 0 ] || {
        echo "fio failed:" >&2
        cat "$GUEST_LOG.out" >&2
        head -c 2000 "$GUEST_LOG.json" >&2
        return 1
    }
}

now_ms() {
    echo $(($(date +%s%N) / 1000000))
}

window() {
    local log=${3:-$GUEST_LOG}
    awk -F'[, ]+' -v from="$1" -v to="$2" '$1 >= from && $1 < to { print int($2 / 1000) }' "$log"_lat*.log |
        sort -n | awk '
            { value[NR] = $1 }
            function at(fraction,   i) { i = int(NR * fraction + 0.999999); return value[i < 1 ? 1 : i] }
            END { if (NR == 0) print "0 0 0 0 0"; else print NR, at(0.5), at(0.99), at(0.999), value[NR] }'
}

stall_us() {
    window "$@" | cut -d' ' -f5
}
