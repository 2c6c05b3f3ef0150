#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The first process of a node, in namespaces made by node.py: mounts what the node sees, starts its three programs, and
# reaps what they leave behind. $1 is the node's folder; node.py has written the file `settings` in it.
set -eu
cd "$1"
. ./settings
export PATH="$BIN:$PATH"

# /proc is still the machine's: this is the pid by which the test bed kills the node.
read -r stat < /proc/self/stat
echo "$stat" > init.pid
for controller in $CONTROLLERS; do echo 0 > "/sys/fs/cgroup/$controller/$CGROUP/cgroup.procs"; done

hostname "$NODE"
mount --make-rprivate /
mount -t proc proc /proc
# A sysfs of this network namespace, with the machine's cgroups (which `ip netns exec` would hide).
mkdir -p sys
mount -t sysfs sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount --rbind sys /sys
for name in $SYSCTLS; do mount --bind "sysctl/$(echo "$name" | tr / .)" "/proc/sys/$name"; done
for pair in $OWN_FOLDERS; do
    mkdir -p "${pair%%:*}"
    mount --bind "${pair#*:}" "${pair%%:*}"
done
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /run/containerd
mount --bind node-resolv.conf /etc/resolv.conf
mount --make-rshared / # the kubelet hands mounts on to containers

containerd --config "$PWD/containerd.toml" > logs/containerd.log 2>&1 &
tries=0
until ctr version > /dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 600 ] || exit 1
    sleep 0.05
done
for archive in $IMAGES; do ctr --namespace k8s.io images import "$archive" > logs/import.log 2>&1; done
kubelet --config="$PWD/kubelet.json" --kubeconfig="$PWD/kubelet.kubeconfig" --root-dir=/var/lib/kubelet \
    --cert-dir=/var/lib/kubelet/pki --hostname-override="$NODE" --node-ip="$ADDRESS" --v=2 > logs/kubelet.log 2>&1 &
kube-proxy --config="$PWD/kube-proxy.json" > logs/kube-proxy.log 2>&1 &
wait
