# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Offline copies of a disk full of random bytes: file to file, to and from NFS, to and from iSCSI. Every tool writes past
# the page cache where it can, and ends with a flush.

copy_once() { # KEY COMMAND...
    local key=$1 seconds
    shift
    settle_disk
    seconds=$(seconds_of "$@")
    record "copy.$key" "$(mb_per_s "$COPY_MIB" "$seconds")"
}

copy_ours() { # KEY SRC DEST
    copy_once "$1" "$BIN/blockmig" copy "$2" "$3"
}

copy_qemu() { # KEY SRC DEST [more]
    local key=$1 src=$2 dest=$3
    shift 3
    copy_once "$key" qemu-img convert -f raw -O raw -W -m 16 -t none -T none "$@" "$src" "$dest"
}

copy_same() { # A B: both files hold the same
    cmp -s "$1" "$2" || note "WRONG COPY: $1 and $2 differ"
}

copy_file() {
    local i out=$T/copy.out
    for i in $(seq "$RUNS"); do
        rm -f "$out"; copy_ours file.ours "$SOURCE" "$out"
        [ "$i" != 1 ] || copy_same "$SOURCE" "$out"
        rm -f "$out"; copy_qemu file.qemu "$SOURCE" "$out"
        rm -f "$out"; copy_once file.nbdcopy nbdcopy --flush "$SOURCE" "$out"
        rm -f "$out"
    done
}

copy_nfs() {
    local i remote=$NFS_DIR/copy.raw ours="$NFS_URI/copy.raw?$NFS_PARAMS" qemu="nfs://127.0.0.1$NFS_DIR/copy.raw?uid=0&gid=0"
    for i in $(seq "$RUNS"); do
        rm -f "$remote"; copy_ours to-nfs.ours "$SOURCE" "$ours"
        [ "$i" != 1 ] || copy_same "$SOURCE" "$remote"
        rm -f "$remote"; copy_qemu to-nfs.qemu "$SOURCE" "$qemu"
    done
    for i in $(seq "$RUNS"); do
        rm -f "$T/copy.out"; copy_ours from-nfs.ours "$ours" "$T/copy.out"
        rm -f "$T/copy.out"; copy_qemu from-nfs.qemu "$qemu" "$T/copy.out"
    done
    rm -f "$remote" "$T/copy.out"
}

copy_iscsi() {
    local i lun=$T/copy.lun
    random_file "$lun" "$COPY_MIB" # written once, so that nobody pays for the allocation
    tgt_add_lun "$lun"
    for i in $(seq "$RUNS"); do
        copy_ours to-iscsi.ours "$SOURCE" "$TGT_URI"
        [ "$i" != 1 ] || copy_same "$SOURCE" "$lun"
        copy_qemu to-iscsi.qemu "$SOURCE" "$TGT_URI" -n
    done
    for i in $(seq "$RUNS"); do
        rm -f "$T/copy.out"; copy_ours from-iscsi.ours "$TGT_URI" "$T/copy.out"
        rm -f "$T/copy.out"; copy_qemu from-iscsi.qemu "$TGT_URI" "$T/copy.out"
    done
    rm -f "$T/copy.out"
}

copy_part() {
    SOURCE=$T/source.raw
    note "copy: a disk of $COPY_MIB MiB"
    random_file "$SOURCE" "$COPY_MIB"
    copy_file
    [ -z "$NFS_URI" ] || copy_nfs
    [ -z "$TGT_PORT" ] || copy_iscsi
    rm -f "$SOURCE"
}

copy_table() {
    local kind title ours qemu other
    echo "## Offline copy, $COPY_MIB MiB of random bytes, MB/s"
    echo
    echo "| copy | blockmig | qemu-img convert -W -m 16 | nbdcopy | blockmig / qemu-img |"
    echo "|---|---|---|---|---|"
    for kind in file to-nfs from-nfs to-iscsi from-iscsi; do
        ours=$(median copy.$kind.ours) qemu=$(median copy.$kind.qemu) other=$(median copy.$kind.nbdcopy)
        case $kind in
        file) title="file to file" ;;
        *) title=${kind/-/ } ;;
        esac
        echo "| $title | $ours | $qemu | $other | $(ratio "$ours" "$qemu") |"
    done
    echo
    target "copy file to file, against qemu-img" "$(ratio "$(median copy.file.ours)" "$(median copy.file.qemu)")" ">=" 1.25 x
    for kind in to-nfs from-nfs; do
        target "copy ${kind/-/ }" "$(ratio "$(median copy.$kind.ours)" "$(median copy.$kind.qemu)")" ">=" 3 x
    done
    for kind in to-iscsi from-iscsi; do
        target "copy ${kind/-/ }" "$(ratio "$(median copy.$kind.ours)" "$(median copy.$kind.qemu)")" ">=" 2 x
    done
}
