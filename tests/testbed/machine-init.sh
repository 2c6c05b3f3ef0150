#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What powers a machine of machine.py. $1 is the stage, $2 the machine's folder with the file `settings`.
#   power  this machine's side: a network namespace per boot, then the boot; again if the machine reboots
#   enter  the first process in the machine's namespaces: writes its pid down, enters the machine's cgroups
#   boot   the same process in a cgroup namespace of its own: mounts what systemd expects and becomes systemd
set -eu
stage=$1
cd "$2"
. ./settings
self=$0

power() {
    while :; do
        # Rules and links of the last boot must not survive, so the network namespace is new each time.
        umount --lazy netns 2> /dev/null || true
        : > netns
        unshare --net="$PWD/netns" true
        . ./attach
        code=0
        nsenter --net="$PWD/netns" unshare --mount --pid --uts --ipc --fork --kill-child --propagation private \
            bash "$self" enter "$PWD" || code=$?
        for controller in $CONTROLLERS; do
            find "/sys/fs/cgroup/$controller/$CGROUP" -mindepth 1 -depth -type d -exec rmdir {} + 2> /dev/null || true
        done
        # reboot(2) in a PID namespace ends its first process with SIGHUP for a reboot, with SIGINT for a power-off.
        [ "$code" = 129 ] || exit "$code"
    done
}

enter() {
    # shellcheck disable=SC2153 # it is in ./settings
    hostname "$NAME"
    read -r stat < /proc/self/stat # still the /proc of outside
    echo "$stat" > init.pid
    # The root of a cgroup namespace is the cgroup of the process that makes it: so first in, then unshare.
    for controller in $CONTROLLERS; do echo 0 > "/sys/fs/cgroup/$controller/$CGROUP/cgroup.procs"; done
    exec unshare --cgroup bash "$self" boot "$PWD"
}

boot() {
    local root=$PWD/root
    mount -t overlay -o "lowerdir=$LAYERS,upperdir=$PWD/upper,workdir=$PWD/work" overlay "$root"
    # An overlay cannot lie on another one, and container engines keep theirs in /var.
    mount --bind var "$root/var"
    if [ ! -e "$root/etc/hostname" ]; then
        echo "$NAME" > "$root/etc/hostname"
        cp hosts resolv.conf "$root/etc/"
        install -m 600 authorized_keys "$root/root/.ssh/authorized_keys"
    fi
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    mkdir "$root/run/lock" "$root/run/testbed"
    mount -t proc proc "$root/proc"
    mount -t sysfs sysfs "$root/sys"
    cgroups "$root/sys/fs/cgroup"
    devices "$root/dev"
    system_settings "$root"
    cd "$root"
    pivot_root . .
    umount -l .
    mount --make-rshared / # systemd leaves this to whoever starts it in a container
    exec env -i container=testbed PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        setpriv --bounding-set=-sys_time,-sys_module /sbin/init
}

# systemd takes the hierarchies that are mounted; v2 (`unified`) is how it hears that a cgroup is empty.
cgroups() {
    mount -t tmpfs -o mode=755 tmpfs "$1"
    local controller
    for controller in $CONTROLLERS; do
        mkdir "$1/$controller"
        case $controller in
            unified) mount -t cgroup2 cgroup2 "$1/$controller" ;;
            systemd) mount -t cgroup -o none,name=systemd cgroup "$1/$controller" ;;
            *) mount -t cgroup -o "$controller" cgroup "$1/$controller" ;;
        esac
    done
}

devices() {
    mount -t tmpfs -o mode=755 tmpfs "$1"
    mkdir "$1/pts" "$1/shm" "$1/mqueue"
    mknod -m 666 "$1/null" c 1 3
    mknod -m 666 "$1/zero" c 1 5
    mknod -m 666 "$1/full" c 1 7
    mknod -m 666 "$1/random" c 1 8
    mknod -m 666 "$1/urandom" c 1 9
    mknod -m 666 "$1/tty" c 5 0
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$1/pts"
    mount -t tmpfs tmpfs "$1/shm"
    mount -t mqueue mqueue "$1/mqueue"
    ln -s pts/ptmx "$1/ptmx"
    ln -s /proc/self/fd "$1/fd"
    ln -s /proc/self/fd/0 "$1/stdin"
    ln -s /proc/self/fd/1 "$1/stdout"
    ln -s /proc/self/fd/2 "$1/stderr"
}

# What the kernel has only once is read-only, /proc/sys/net aside. Settings that roles write are files of the machine.
system_settings() {
    local root=$1 name file
    mount --bind "$root/proc/sys" "$root/proc/sys"
    mount --bind "$root/proc/sys/net" "$root/proc/sys/net"
    for name in $SYSCTLS; do
        [ -e "$root/proc/sys/$name" ] || continue
        file=$root/run/testbed/${name//\//.}
        cat "$root/proc/sys/$name" > "$file"
        mount --bind "$file" "$root/proc/sys/$name"
    done
    # Ansible's reboot module and journald tell one boot from another by this.
    cat "$root/proc/sys/kernel/random/uuid" > "$root/run/testbed/boot_id"
    mount --bind "$root/run/testbed/boot_id" "$root/proc/sys/kernel/random/boot_id"
    mount -o remount,bind,ro "$root/proc/sys"
    if [ -e "$root/proc/sysrq-trigger" ]; then mount --bind /dev/null "$root/proc/sysrq-trigger"; fi
    mount -o remount,bind,ro "$root/sys"
}

"$stage"
