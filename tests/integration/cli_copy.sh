#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# copy, verify, info and check over every kind of place, each pair both ways; thin stays thin; one image under two
# names is known for one; what the places refuse is said.
set -eu
. "$(dirname "$0")/../lib/common.sh"
. tests/lib/ganesha.sh
. tests/lib/tgt.sh
requires jq qemu-img qemu-nbd ganesha.nfsd tgtd
requires_root

B=$BIN/blockmig
SIZE_MIB=32

run() {
    local want=$1 status=0
    shift
    timeout 120 "$B" "$@" >"$T/out" 2>"$T/err" </dev/null || status=$?
    [ "$status" = "$want" ] || fail "'$*' exited with $status, not $want: $(cat "$T/out" "$T/err")"
}

mkdir "$T/export"
at_exit ganesha_stop_all
ganesha_start "$T/export" || skip "no NFS server here"
at_exit tgt_stop
tgt_start || skip "no iSCSI target here"
truncate -s ${SIZE_MIB}M "$T/lun1.raw" "$T/lun2.raw"
tgt_add_lun "$T/lun1.raw"
lun1=$TGT_URI
tgt_add_lun "$T/lun2.raw"
lun2=$TGT_URI
truncate -s ${SIZE_MIB}M "$T/nbd.raw"
start nbd qemu-nbd -f raw --discard=unmap -t -e 8 -k "$T/nbd.sock" -x disk "$T/nbd.raw"
wait_for "$T/nbd.sock"
nbd="nbd+unix:///disk?socket=$T/nbd.sock"

# A quarter is data, in pieces; the rest holes.
truncate -s ${SIZE_MIB}M "$T/a.raw"
for i in 0 7 13 21 31; do
    dd if=/dev/urandom of="$T/a.raw" bs=1M seek=$i count=1 conv=notrunc status=none
done

nfs() { echo "$GANESHA_URI/$1?$GANESHA_PARAMS"; }

allocated_kib() { du -k "$1" | cut -f1; }

# ---- a chain over all of them and back
previous=$T/a.raw
for next in "$(nfs one.raw)" "$lun1" "$nbd" "$(nfs two.raw)" "$lun2" "$T/b.raw"; do
    run 0 copy "$previous" "$next" --verify --json
    jq -e '.verified and .size_bytes == 33554432' "$T/out" >/dev/null || fail "$(cat "$T/out")"
    run 0 verify "$T/a.raw" "$next"
    run 0 check "$next"
    run 0 info "$next" --json
    jq -e '.size_bytes == 33554432 and .format == "raw"' "$T/out" >/dev/null || fail "$(cat "$T/out")"
    previous=$next
done
qemu-img compare -f raw -F raw "$T/a.raw" "$T/b.raw" >"$T/log" || fail "qemu-img sees a difference: $(cat "$T/log")"
for file in "$T/b.raw" "$T/export/one.raw" "$T/export/two.raw" "$T/nbd.raw"; do
    [ "$(allocated_kib "$file")" -le 6144 ] || fail "thin became thick: $(du -k "$file")"
done

# ---- a device that held something else holds nothing of it afterwards
head -c ${SIZE_MIB}M /dev/urandom >"$T/nbd.raw"
run 0 copy "$T/a.raw" "$nbd" --verify
cmp "$T/a.raw" "$T/nbd.raw"

# ---- differences are found and placed
printf x | dd of="$T/nbd.raw" bs=1 seek=20000001 conv=notrunc status=none
run 1 verify "$T/a.raw" "$nbd" --json
jq -e '.equal == false and .first_difference == 19996672 and .bytes_different == 4096' "$T/out" >/dev/null ||
    fail "$(cat "$T/out")"

# ---- one image under two names
run 3 copy "$(nfs one.raw)" "$(nfs /one.raw)" --force
contains "$T/err" "one and the same image"
ln "$T/export/one.raw" "$T/export/hard.raw"
run 3 copy "$(nfs one.raw)" "$(nfs hard.raw)" --force
contains "$T/err" "one and the same image"
run 3 copy "$lun1" "$lun1"
contains "$T/err" "one and the same image"
run 3 copy "$lun1" "${lun1/127.0.0.1/localhost}"
contains "$T/err" "one and the same image"

# ---- what places refuse
run 3 copy "$T/a.raw" "$(nfs one.raw)"
contains "$T/err" "exists: remove it"
run 6 copy "$(nfs nothere.raw)" "$T/c.raw"
run 6 copy "${lun1%/*}/99" "$T/c.raw"
truncate -s 64M "$T/larger.raw"
run 3 copy "$T/larger.raw" "$lun1"
contains "$T/err" "too small"
[ ! -e "$T/c.raw" ] || fail "something was made for a source that is not there"

# ---- a CHAP secret comes from a file or the environment
tgt_chap eve abcdefghijkl
printf 'abcdefghijkl\n' >"$T/secret"
printf 'abcdefghijkm\n' >"$T/wrong"
run 0 info "$(tgt_uri 1 eve)" --secret-file "$T/secret"
BLOCKMIG_SECRET=abcdefghijkl run 0 info "$(tgt_uri 1 eve)"
run 2 info "$(tgt_uri 1 eve)"
contains "$T/err" "without a secret"
run 7 info "$(tgt_uri 1 eve)" --secret-file "$T/wrong"
grep -q abcdefghijk "$T/out" "$T/err" && fail "a secret was printed" || true

echo "all places, both ways"
