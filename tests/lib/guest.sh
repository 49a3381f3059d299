# SPDX-License-Identifier: LGPL-2.1-or-later
#
# A real guest: QEMU without KVM, Debian's cloud kernel, and an initrd of busybox, the modules that kernel needs, and
# what a test adds.
#
#   guest_available           says why there can be none here and fails
#   guest_initrd OUT INIT [FILE...]   INIT is the guest's /init (a shell script's path), FILEs go to its /bin.
#                             The modules' load order is in its /lib/order
#   guest_boot NAME ARGS...   starts it with extra QEMU arguments; sets GUEST_QEMU (a pid). Its serial line is logged to
#                             $T/NAME.console and answers on $T/NAME.serial
#   guest_type NAME TEXT      types a line
#   guest_saw NAME PATTERN    whether the console has a line that matches
#   guest_gone SECONDS        waits until the guest has switched itself off
#
# Needs common.sh. Start INIT with guest_prelude's output: it mounts, loads, and puts busybox' names into /bin.

guest_kernel() {
    find /boot -maxdepth 1 -name 'vmlinuz-*-cloud-amd64' | sort -V | tail -1
}

guest_available() {
    local tool
    for tool in qemu-system-x86_64 busybox cpio modprobe; do
        command -v "$tool" >/dev/null || { echo "no $tool"; return 1; }
    done
    [ -n "$(guest_kernel)" ] || { echo "no cloud kernel in /boot"; return 1; }
}

guest_prelude() {
    cat <<'PRELUDE'
#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /mnt
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
while read -r module; do insmod "/lib/$module"; done </lib/order
PRELUDE
}

guest_initrd() {
    local out=$1 init=$2 kernel release tree module path
    shift 2
    kernel=$(guest_kernel)
    release=${kernel#/boot/vmlinuz-}
    tree=$T/initrd.tree
    rm -rf "$tree"
    mkdir -p "$tree/bin" "$tree/lib"
    cp "$(command -v busybox)" "$tree/bin/busybox"
    # modprobe knows what depends on what, and what this kernel has built in.
    for module in virtio_pci virtio_blk ext4 crc32c_generic; do
        modprobe -S "$release" --show-depends "$module" 2>/dev/null || true
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r path; do
        cp "$path" "$tree/lib/"
        basename "$path"
    done >"$tree/lib/order"
    { guest_prelude; cat "$init"; } >"$tree/init"
    chmod +x "$tree/init"
    for path in "$@"; do
        cp "$path" "$tree/bin/"
    done
    (cd "$tree" && find . | cpio -o -H newc --quiet | gzip -1) >"$out"
    rm -rf "$tree"
}

guest_boot() {
    local name=$1 initrd=$2
    shift 2
    rm -f "$T/$name.serial" "$T/$name.console"
    start "$name" qemu-system-x86_64 -accel tcg -m 256 -smp 1 -nodefaults -no-user-config -display none -no-reboot \
        -kernel "$(guest_kernel)" -initrd "$initrd" -append "console=ttyS0 panic=-1 quiet loglevel=4" \
        -chardev "socket,id=serial,path=$T/$name.serial,server=on,wait=off,logfile=$T/$name.console" \
        -serial chardev:serial "$@"
    GUEST_QEMU=$PID
}

guest_type() {
    echo "$2" | socat -t 0.2 - "UNIX-CONNECT:$T/$1.serial" >/dev/null
}

guest_saw() {
    grep -aEq "$2" "$T/$1.console" 2>/dev/null
}

guest_gone() {
    local i
    for i in $(seq $(($1 * 10))); do
        kill -0 "$GUEST_QEMU" 2>/dev/null || return 0
        sleep 0.1
    done
    return 1
}
