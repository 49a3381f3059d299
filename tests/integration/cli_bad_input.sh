#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Bad words and bad places, by table: each is refused with its exit code and its exact reason, ends soon, and
# leaves every file as it was.
set -eu
. "$(dirname "$0")/../lib/common.sh"
requires timeout sha256sum mkfifo

B=$BIN/blockmig
export BLOCKMIG_ROOT=$T/nobody
W=$T/work
mkdir "$W"
cases=0

make_images() {
    head -c 1048576 /dev/urandom >"$W/a.raw"
    head -c 1048576 /dev/urandom >"$W/b.raw"
    head -c 524288 /dev/urandom >"$W/small.raw"
    head -c 2097152 /dev/urandom >"$W/large.raw"
    : >"$W/empty.raw"
    head -c 1 /dev/urandom >"$W/one.raw"
    head -c 513 /dev/urandom >"$W/odd.raw"
    ln -s a.raw "$W/link.raw"
    ln "$W/a.raw" "$W/hard.raw"
    ln -s nowhere "$W/dangling.raw"
    ln -s loop.raw "$W/loop.raw"
    mkdir "$W/folder"
    mkfifo "$W/fifo"
    printf secret >"$W/secret"
}

# Names, kinds, sizes and contents of everything there is.
picture() {
    (cd "$W" && find . -printf '%p %y %s %l\n' | sort && find . -type f -exec sha256sum {} + | sort)
}

# t EXIT FRAGMENT WORDS...: blockmig WORDS must exit so, say so on stderr, and change nothing.
t() {
    local want=$1 fragment=$2 status=0
    shift 2
    cases=$((cases + 1))
    (cd "$W" && timeout 20 "$B" "$@") >"$T/out" 2>"$T/err" </dev/null || status=$?
    [ "$status" = "$want" ] ||
        fail "'${*:0:200}' exited with $status, not $want: $(head -c 2000 "$T/err")"
    grep -qF -- "$fragment" "$T/err" ||
        fail "'${*:0:200}' does not say '$fragment': $(head -c 2000 "$T/err")"
    [ ! -s "$T/out" ] || fail "'${*:0:200}' printed data: $(head -c 500 "$T/out")"
    [ "$(picture)" = "$before" ] || fail "'${*:0:200}' changed the folder: $(picture | diff - <(echo "$before"))"
}

make_images
before=$(picture)
name256=$(printf 'n%.0s' $(seq 256))
path4096=$W/$(printf 'p/%.0s' $(seq 2048))x

# ---- words: verbs and options
t 2 "did you mean 'copy'" cpoy a.raw c.raw
t 2 "unknown verb 'frobnicate'" frobnicate
t 2 "'copy' needs more words" copy a.raw
t 2 "one word too many" copy a.raw c.raw d.raw
t 2 "unknown option '--forse': did you mean '--force'" copy a.raw c.raw --forse
t 2 "does not take --hold" copy a.raw c.raw --hold
t 2 "given twice" copy a.raw c.raw --force --force
t 2 "unknown option '-f'" copy -f a.raw c.raw
t 2 "an empty word" copy "" c.raw
t 2 "an empty word" copy a.raw ""
t 2 "--format needs a value" copy a.raw c.raw --format
t 2 "is no format" copy a.raw c.raw --format raww
t 3 "format qcow2 is not supported in this build" copy a.raw c.raw --format qcow2
t 3 "not supported in this build" migrate vm qemu+ssh://host/system
t 3 "not supported in this build" move vm:vda fast

# ---- words: rates, times, sizes
t 2 "--bandwidth" copy a.raw c.raw --bandwidth 100
t 2 "--bandwidth" copy a.raw c.raw --bandwidth -5MiB/s
t 2 "--bandwidth" copy a.raw c.raw --bandwidth=-5MiB/s
t 2 "--bandwidth" copy a.raw c.raw --bandwidth 5mib/h
t 2 "--bandwidth" copy a.raw c.raw --bandwidth 99999999999999999999MiB/s
t 2 "--bandwidth" copy a.raw c.raw --bandwidth 8EiB/s
t 2 "--bandwidth" copy a.raw c.raw --bandwidth nan
t 2 "--bandwidth" copy a.raw c.raw --bandwidth 1e3MiB/s
t 2 "--bandwidth" set 1 --bandwidth 12
t 2 "--max-latency" set 1 --max-latency 5
t 2 "--max-latency" set 1 --max-latency -5ms
t 2 "needs --bandwidth" set 1
t 2 "--timeout" wait 1 --timeout 10
t 2 "--undo-window" move v r --undo-window forever
for size in 0 1 513 9223372036854775807 9223372036854775808 8E 18446744073709551616 -1 1.5 ten 1X 0x10 ' 1G'; do
    t 2 "--size" volume create v --repo r --size "$size"
done
for job in 0 -- -1 seven 1.5 99999999999999999999 7x; do
    [ "$job" = -- ] || t 2 "" job -- "$job"
done
t 2 "--print" volume start v --print json

# ---- words: URIs
t 2 "" info ""
t 2 "'file:///x%00y'" info 'file:///x%00y'
t 2 "" info 'file:///x%zz'
t 2 "" info 'nosuch://host/x'
t 2 "" info 'nfs:///export/x'
t 2 "" info 'nfs://host:99999/export/x'
t 2 "" info 'nfs://user:password@host/export/x'
t 2 "" info "file://$W/a.raw?colour=red"
t 2 "" copy a.raw 'mem:x?size=1G&sise=2G'
t 2 "" info 'mem:?size=1G&size=2G'
if "$B" info nfs://127.0.0.1:1/ 2>&1 | grep -q 'nfs' && ! "$B" info nfs://127.0.0.1/e/x 2>&1 | grep -q 'names no place'; then
    t 2 "" info 'nfs://127.0.0.1/export/x?colour=red'
    t 2 "version" info 'nfs://127.0.0.1/export/x?version=4'
fi
if ! "$B" info iscsi://127.0.0.1:1/iqn.2003-01.org.example:t/1 2>&1 | grep -q 'names no place'; then
    t 2 "" info 'iscsi://127.0.0.1:1/iqn.2003-01.org.example:t'
    t 2 "" info 'iscsi://127.0.0.1:1/iqn.2003-01.org.example:t/lun'
    t 2 "" info 'iscsi://127.0.0.1:1/iqn.2003-01.org.example:t/1?colour=red'
    t 2 "CHAP user 'eve' without a secret" info 'iscsi://eve@127.0.0.1:1/iqn.2003-01.org.example:t/1'
    t 6 "--secret-file" info 'iscsi://eve@127.0.0.1:1/iqn.2003-01.org.example:t/1' --secret-file nothere
    t 2 "no secret of 1 to" info 'iscsi://eve@127.0.0.1:1/iqn.2003-01.org.example:t/1' --secret-file empty.raw
fi
if ! "$B" info nbd://127.0.0.1:1/x 2>&1 | grep -q 'names no place'; then
    t 2 "" info 'nbd+unix:///x'
    t 2 "" info 'nbd://127.0.0.1:1/x?colour=red'
fi
t 2 "" copy a.raw c.raw --filters 'nosuch:?x=1'
t 2 "" copy a.raw c.raw --filters 'faults:?op=frob&error=EIO'

# ---- no daemon
for verb in "repo list" "repo show x" "repo remove x" "repo add x /x" "volume list" "volume show v" \
    "volume start v" "volume stop v" "volume delete v" "volume import v /x --format raw" \
    "volume create v --repo r --size 1M" "move v r" "jobs" "job 1" "watch 1" "wait 1" "pause 1" "resume 1" \
    "cancel 1" "switch 1" "rollback 1" "commit 1" "set 1 --bandwidth 0" "recover" "cleanup"; do
    # shellcheck disable=SC2086
    t 5 "no blockmigd answers at $T/nobody/run/blockmigd.sock" $verb
done
t 5 "is REPO:IMAGE" copy repo:a.raw c.raw
t 5 "is REPO:IMAGE" copy a.raw repo:c.raw
t 2 "too long a path" --root "/$name256" jobs

# ---- places: the source
t 6 "does not exist" copy nothere.raw c.raw
t 6 "does not exist" info nothere.raw
t 6 "does not exist" check nothere.raw
t 6 "does not exist" verify a.raw nothere.raw
t 3 "is a directory" copy folder c.raw
t 3 "is a FIFO" copy fifo c.raw
t 3 "is a character device" copy /dev/zero c.raw
t 6 "which does not exist" copy dangling.raw c.raw
t 1 "loop.raw" copy loop.raw c.raw
t 3 "is empty" copy empty.raw c.raw
t 1 "is empty" check empty.raw

# ---- places: source and target one and the same
t 3 "one and the same image" copy a.raw a.raw --force
t 3 "one and the same image" copy a.raw ./a.raw --force
t 3 "one and the same image" copy a.raw "$W/../work/a.raw" --force
t 3 "one and the same image" copy a.raw link.raw --force
t 3 "one and the same image" copy link.raw a.raw
t 3 "one and the same image" copy a.raw hard.raw --force
t 3 "one and the same image" copy a.raw "file://$W/hard.raw" --force
t 3 "one and the same image" copy a.raw "/proc/self/root$W/a.raw" --force
t 3 "one and the same image" verify a.raw link.raw

# ---- places: the target
t 3 "exists: remove it, or write over it with --force" copy a.raw b.raw
t 3 "too small" copy a.raw small.raw --force
t 3 "would keep its old end" copy a.raw large.raw --force
t 3 "is a directory" copy a.raw folder
t 3 "is a directory" copy a.raw folder --force
t 3 "is a FIFO" copy a.raw fifo --force
t 3 "is a character device" copy a.raw /dev/null --force
t 6 "which does not exist" copy a.raw dangling.raw
t 6 "which does not exist" copy a.raw dangling.raw --force
t 6 "its folder" copy a.raw nofolder/c.raw
t 1 "" copy a.raw a.raw/c.raw
t 1 "name too long" copy a.raw "$name256"
t 1 "name too long" copy a.raw "$path4096"
t 6 "" copy a.raw "../work/nofolder/../c.raw"
t 2 "comes after --" copy a.raw -c.raw
t 3 "its name says so" copy a.raw c.qcow2
t 3 "its name says so" copy x.vmdk c.raw
t 2 "" copy a.raw "file://$W/c%00.raw"
t 1 "different" verify a.raw b.raw
t 1 "different" verify a.raw small.raw

# ---- JSON errors: one document on stderr, nothing on stdout, whatever the name holds
requires jq
for words in "copy nothere c.raw" "frob" "copy a.raw b.raw" "jobs"; do
    # shellcheck disable=SC2086
    t "$("$B" $words >/dev/null 2>&1 && echo 0 || (cd "$W" && "$B" $words >/dev/null 2>&1; echo $?))" "kind" --json $words
    jq -e '.error | .kind and .message' "$T/err" >/dev/null || fail "no JSON error of '$words': $(cat "$T/err")"
done
t 6 'does not exist' --json copy $'no\nthere\xff\x1b[2J.raw' c.raw
jq -e '.error.kind == "not-found"' "$T/err" >/dev/null || fail "no JSON error of a strange name"
LC_ALL=C grep -q $'\x1b' "$T/err" && fail "an escape character reached stderr"
t 6 '\x1b' copy $'no\nthere\xff\x1b[2J.raw' c.raw
t 2 "not UTF-8" move $'v\xff' fast

# ---- names that are strange and good
for name in $'new\nline.raw' '100%00.raw' '..raw' '-dash.raw' 'a?b&c.raw' 'co:lon.raw' 'ümlaut.raw' "$(printf 'm%.0s' $(seq 251)).raw"; do
    cases=$((cases + 1))
    (cd "$W" && "$B" copy --verify -- a.raw "./$name") >"$T/out" 2>"$T/err" || fail "'$name': $(cat "$T/err")"
    cmp "$W/a.raw" "$W/$name" || fail "'$name' is no copy"
    rm "$W/$name"
done
(cd "$W" && "$B" copy -- a.raw -dash.raw >/dev/null && rm ./-dash.raw)

# ---- sizes 1 and 513: the rest of the sector reads as zeroes
for name in one odd; do
    cases=$((cases + 1))
    (cd "$W" && "$B" copy $name.raw c.raw --verify >/dev/null) || fail "$name.raw is not copied"
    size=$(stat -c %s "$W/$name.raw")
    cmp -n "$size" "$W/$name.raw" "$W/c.raw"
    [ $(($(stat -c %s "$W/c.raw") % 512)) = 0 ] || fail "a disk of half a sector"
    (cd "$W" && "$B" verify $name.raw c.raw >/dev/null) || fail "$name.raw differs from its copy"
    rm "$W/c.raw"
done

# ---- closed descriptors
cases=$((cases + 1))
(cd "$W" && "$B" copy a.raw c.raw <&- >&- 2>&-) || fail "closed descriptors fail a copy"
cmp "$W/a.raw" "$W/c.raw" || fail "a message was written into the image"
rm "$W/c.raw"
(cd "$W" && "$B" copy a.raw b.raw <&- >&- 2>&-) && fail "refused, and no exit code to say so" || true
(cd "$W" && "$B" info a.raw >/dev/full) 2>"$T/err" && fail "a full stdout is no success" || true
contains "$T/err" "can't write to stdout"

# ---- places that need root
if [ "$(id -u)" = 0 ]; then
    before=$(picture)
    if chattr +i "$W/b.raw" 2>/dev/null; then
        at_exit chattr -i "$W/b.raw"
        t 7 "immutable" copy a.raw b.raw --force
        chattr -i "$W/b.raw"
    fi
    if chattr +i "$W/folder" 2>/dev/null; then
        at_exit chattr -i "$W/folder"
        t 7 "" copy a.raw folder/c.raw
        chattr -i "$W/folder"
    fi
    mkdir "$T/bind" "$T/ro" "$T/full"
    if mount --bind "$W" "$T/bind" 2>/dev/null; then
        at_exit umount "$T/bind"
        t 3 "one and the same image" copy a.raw "$T/bind/a.raw" --force
        t 3 "one and the same image" verify a.raw "$T/bind/hard.raw"
    fi
    if mount -t tmpfs -o size=1m,mode=755 none "$T/full" 2>/dev/null; then
        at_exit umount "$T/full"
        t 3 "no room" copy large.raw "$T/full/c.raw"
        [ -z "$(ls "$T/full")" ] || fail "something was left on the full file system"
        # Room that is gone by the time it is needed: the copy fails and is removed again.
        truncate -s 2M "$T/sparse.raw"
        dd if=/dev/urandom of="$T/sparse.raw" bs=64k count=12 conv=notrunc status=none
        dd if=/dev/zero of="$T/full/filler" bs=64k count=2 status=none
        (cd "$W" && "$B" copy "$T/sparse.raw" "$T/full/c.raw") >"$T/out" 2>"$T/err" || fail "$(cat "$T/err")"
        rm "$T/full/c.raw"
    fi
    if mount -t tmpfs -o size=8m,mode=755 none "$T/ro" 2>/dev/null; then
        at_exit umount "$T/ro"
        cp "$W/b.raw" "$T/ro/b.raw"
        mount -o remount,ro "$T/ro"
        t 7 "read-only" copy a.raw "$T/ro/c.raw"
        t 7 "read-only" copy a.raw "$T/ro/b.raw" --force
        (cd "$W" && "$B" verify b.raw "$T/ro/b.raw") >/dev/null || fail "a read-only image can't be read"
    fi
fi

# ---- what fails or is interrupted on the way
before=$(picture)
t 1 "'c.raw' was removed again" copy a.raw c.raw --filters 'faults:?op=write&nth=1&error=ENOSPC'
t 1 "'c.raw' was removed again" copy a.raw c.raw --filters 'faults:?op=flush&nth=1&error=EIO'
t 1 "'c.raw' was removed again" copy a.raw c.raw --source-filters 'faults:?op=read&nth=1&error=EIO'
for signal in INT TERM HUP; do
    cases=$((cases + 1))
    head -c 67108864 /dev/urandom >"$T/long.raw"
    "$B" copy "$T/long.raw" "$T/target.raw" --bandwidth 1MiB/s >"$T/out" 2>"$T/err" &
    pid=$!
    wait_for "$T/target.raw"
    kill -$signal $pid
    status=0
    wait $pid || status=$?
    # A shell starts its background commands with SIGINT ignored; ours is caught all the same.
    [ $status = 4 ] || fail "SIG$signal: exit $status, not 4: $(cat "$T/err")"
    contains "$T/err" "was removed again"
    [ ! -e "$T/target.raw" ] || fail "SIG$signal left a part of a copy"
done

echo "$cases cases"
