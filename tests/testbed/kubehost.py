# SPDX-License-Identifier: Apache-2.0
"""What a machine needs to become a node of a kubeadm cluster: a layer over its base, made once.

Programs (kubelet, kubeadm, kubectl, containerd, runc, the CNI plugins), units, settings, and the images of a control
plane as OCI archives made of the static programs. All of it is in the user's cache folder, where the programs are: they
are hard links of those, so that the layer costs next to nothing.

This module must not know machines: `Machines(layers=[ensure()])` takes the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from pathlib import Path

from testbed import binaries, images
from testbed.binaries import KUBERNETES_VERSION
from testbed.progress import say
from testbed.state import locked

RECIPE = "1"  # raised when the layer is made otherwise of the same things
GROUPS = ("api", "control", "node", "kubeadm")
PROGRAMS = ("kubelet", "kubeadm", "kubectl", "containerd", "containerd-shim-runc-v2", "ctr")
PACKAGES = ("runc", "containernetworking-plugins")
ETCD_TAG = "1"
# Program of a control plane -> its image. All but etcd have the version of Kubernetes as their tag: kubeadm's choice.
COMPONENTS = {
    "etcd": f"localhost/etcd:{ETCD_TAG}",
    **{
        name: f"localhost/{name}:{KUBERNETES_VERSION}"
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
    },
}
ARCHIVES = "opt/images"

CONTAINERD = """\
version = 3
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.tracing"]
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "localhost/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = "/usr/sbin/runc"
      SystemdCgroup = true
"""
CONTAINERD_UNIT = """\
[Unit]
Description=containerd
After=network.target local-fs.target dbus.service
[Service]
Type=notify
ExecStart=/usr/bin/containerd
Delegate=yes
KillMode=process
Restart=always
RestartSec=1
LimitNOFILE=65536
TasksMax=infinity
[Install]
WantedBy=multi-user.target
"""
# Without its configuration, which kubeadm writes, it would fail again and again: it is not started then. Machines have
# no kmsg, so that their journal is not the kernel's; the kubelet does not start without.
KUBELET_UNIT = """\
[Unit]
Description=kubelet
After=network-online.target containerd.service
ConditionPathExists=/var/lib/kubelet/config.yaml
StartLimitIntervalSec=0
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
ExecStartPre=/bin/sh -c 'test -e /dev/kmsg || mknod -m 600 /dev/kmsg c 1 11'
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS --kubeconfig=/etc/kubernetes/kubelet.conf \\
    --config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS
Restart=always
RestartSec=1
[Install]
WantedBy=multi-user.target
"""
FILES = {
    "etc/containerd/config.toml": CONTAINERD,
    "etc/systemd/system/containerd.service": CONTAINERD_UNIT,
    "etc/systemd/system/kubelet.service": KUBELET_UNIT,
    "etc/sysctl.d/99-kubernetes.conf": "net.ipv4.ip_forward = 1\n",
}
ENABLED = ("containerd.service", "kubelet.service")


def ensure() -> Path:
    """The layer, made if it is not there. Raises BuildError."""
    programs = binaries.ensure(*GROUPS)
    archives = [images.ensure_pause(), images.ensure_py(), *(_archive(name, programs) for name in COMPONENTS)]
    content = [RECIPE, platform.machine(), binaries.key(), *PROGRAMS, *PACKAGES, *ENABLED, json.dumps(FILES)]
    content += [archive.name for archive in archives]
    layer = binaries.cache_root() / "kubehost" / hashlib.sha256("\0".join(content).encode()).hexdigest()[:16]
    if layer.exists():
        return layer
    with locked("kubehost"):
        if not layer.exists():
            say("[machines] layer of kubeadm hosts")
            scratch = layer.with_name(f".{layer.name}")
            shutil.rmtree(scratch, ignore_errors=True)
            _fill(scratch, programs, archives)
            scratch.rename(layer)
    return layer


def _fill(root: Path, programs: Path, archives: list[Path]) -> None:
    unpacked = root / "unpacked"
    unpacked.mkdir(parents=True)
    images.unpack(PACKAGES, unpacked)
    (root / "usr/sbin").mkdir(parents=True)
    shutil.move(unpacked / "usr/sbin/runc", root / "usr/sbin/runc")
    shutil.move(unpacked / "usr/lib/cni", root / "usr/lib/cni")
    shutil.rmtree(unpacked)
    for name in PROGRAMS:
        _link(programs / name, root / "usr/bin" / name)
    for archive in archives:
        # containerd is told which one by the name of the program, and not by the key of its content.
        _link(archive, root / ARCHIVES / f"{archive.stem[:-17]}.tar")
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir()
    for unit in ENABLED:
        (wants / unit).symlink_to(f"/etc/systemd/system/{unit}")
    for name in ("etc/kubernetes/manifests", "etc/cni/net.d"):
        (root / name).mkdir(parents=True)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def _archive(name: str, programs: Path) -> Path:
    """The image of one program of a control plane."""
    return images.ensure_program(COMPONENTS[name], programs / name, binaries.key())


def archive_names() -> list[str]:
    """The archives of the layer, as a machine sees them, in the order in which a control plane needs them."""
    return [f"/{ARCHIVES}/{name}.tar" for name in ("pause", *COMPONENTS, "py")]
