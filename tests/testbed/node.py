# SPDX-License-Identifier: Apache-2.0
"""A real node: containerd, kubelet and kube-proxy in net, mount, uts and pid namespaces of their own.

Its first process is a shell (node-init.sh beside this file); killing it kills everything of the node. The node's
containers are in cgroups of its own, below `mooring-<bridge>-<index>` in each hierarchy.

This module must not know the API server's flags or pytest.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed import images, pki
from testbed.errors import TestbedError
from testbed.network import Network
from testbed.state import CGROUPS, Pid, Process, Run, command, raise_setting, until

if TYPE_CHECKING:
    from testbed.controlplane import ControlPlane

READY_DEADLINE = 120.0  # seconds; about 4 on an idle machine
INIT = Path(__file__).with_name("node-init.sh")
# A kubelet and a systemd take six or seven inotify instances each, of root's 128 in all namespaces together.
INOTIFY = ("fs/inotify/max_user_instances", 1024)
CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd")
CLUSTER_DNS = "10.96.0.10"

# The kubelet and kube-proxy set these for the whole machine. The node sees files with the wanted values instead.
SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}

# Folders of the machine that the node must not share: (in the node, in the node's own folder).
OWN_FOLDERS = {
    "/var/lib/containerd": "var-containerd",
    "/var/lib/kubelet": "var-kubelet",
    "/var/lib/cni": "var-cni",
    "/etc/cni/net.d": "cni",
    "/var/log/pods": "log-pods",
    "/var/log/containers": "log-containers",
}


def need_cgroup_v1() -> None:
    """Raises TestbedError unless the hierarchies that nodes and machines use are there."""
    missing = [name for name in CONTROLLERS if not (CGROUPS / name).is_dir()]
    if missing:
        raise TestbedError(
            f"nodes and machines need cgroup v1 below {CGROUPS}, as this test bed mounts it in their namespaces; "
            f"not there: {', '.join(missing)}"
        )


def make_cgroup(run: Run, name: str, extra: Sequence[str] = ()) -> None:
    """Make and record a cgroup of this name at the root of each hierarchy."""
    run.record("cgroup", name=name)
    for controller in (*CONTROLLERS, *extra):
        (CGROUPS / controller / name).mkdir(exist_ok=True)
    for setting in ("cpuset.cpus", "cpuset.mems"):  # an empty cpuset takes no process
        (CGROUPS / "cpuset" / name / setting).write_text((CGROUPS / "cpuset" / setting).read_text())


class Node:
    """One node; `ControlPlane` makes it."""

    def __init__(self, run: Run, plane: ControlPlane, network: Network, index: int) -> None:
        self.run = run
        self.plane = plane
        self.network = network
        self.index = index
        self.name = f"n{index}"
        self.address = network.address(index)
        self.folder = plane.dir / self.name
        self.cgroup = f"mooring-{network.name}-{self.name}"
        self._process: Process | None = None

    @staticmethod
    def up_all(nodes: Sequence[Node]) -> None:
        """Start nodes side by side and wait until all are Ready. Raises TestbedError with the end of a log."""
        need_cgroup_v1()
        raise_setting(nodes[0].run, *INOTIFY)
        for archive in (images.ensure_pause(), images.ensure_py()):
            assert archive.exists()
        for node in nodes:
            node._start()
        for node in nodes:
            node._wait_ready()

    @property
    def netns(self) -> Path:
        """The file that the node's network namespace is mounted on."""
        return self.folder / "netns"

    @property
    def pid(self) -> Pid:
        """The node's first process, as this machine numbers it. Raises TestbedError if the node is not up."""
        try:
            pid = Pid.parse((self.folder / "init.pid").read_text())
        except OSError:
            pid = None
        if pid is None or not pid.alive():
            raise TestbedError(f"node {self.name} is not up; see {self.folder / 'logs'}")
        return pid

    def exec(self, *argv: str | Path, timeout: float = 60.0, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program in the node's namespaces. Raises TestbedError if it fails and `check` is set."""
        inside = ["nsenter", "-t", str(self.pid.pid), "-m", "-n", "-u", "-p"]
        return command(*inside, *argv, check=check, timeout=timeout)

    def load(self, archive: Path) -> None:
        """Import an image archive into the node's containerd."""
        self.exec(self.plane.bin / "ctr", "-n", "k8s.io", "images", "import", archive, timeout=300)

    # -- inside

    def _start(self) -> None:
        logs = self.folder / "logs"
        for name in OWN_FOLDERS.values():
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        logs.mkdir(exist_ok=True)
        self._make_network()
        make_cgroup(self.run, self.cgroup)
        self._write_files()
        self.run.record("process", name=self.name, pidfile=str(self.folder / "init.pid"), log=str(logs / "init.log"))
        # A PID namespace ends with its first process; --kill-child ties that one to this `unshare`.
        launcher = ["nsenter", f"--net={self.netns}", "unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child"]
        launcher += ["--propagation", "private", "/bin/sh", str(INIT), str(self.folder)]
        self._begun = time.monotonic()
        self._process = self.run.spawn(f"{self.plane.name}-{self.name}", launcher, log=logs / "init.log")

    def _make_network(self) -> None:
        self.run.record("link", name=self.network.veth(self.index))
        self.run.record("mount", path=str(self.netns))
        self.netns.touch()
        command("unshare", f"--net={self.netns}", "true")
        for words in self.network.attach_commands(self.index, self.netns):
            command(*words)
        inside = ["nsenter", f"--net={self.netns}"]
        # From a pod to a ClusterIP that leads to a pod on the same bridge.
        command(*inside, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1")
        # The API server reaches pods itself (webhooks, aggregated APIs); nodes reach each other's pods over the bridge.
        command("ip", "route", "replace", self.network.node_pods(self.index), "via", self.address)
        for other in range(1, self.plane.node_count + 1):
            if other != self.index:
                via = ["via", self.network.address(other)]
                command(*inside, "ip", "route", "add", self.network.node_pods(other), *via)

    def _write_files(self) -> None:
        plane = self.plane
        serving = plane.issue(
            f"kubelet-{self.name}", f"system:node:{self.name}", "system:nodes", [self.name, self.address]
        )
        kubeconfig = self.folder / "kubelet.kubeconfig"
        pki.write_kubeconfig(kubeconfig, name=plane.name, server=plane.server, ca=plane.ca, user=serving)
        self._write_json("cni/10-bridge.conflist", self._cni())
        self._write_json("kubelet.json", self._kubelet(serving))
        self._write_json("kube-proxy.json", self._kube_proxy())
        (self.folder / "containerd.toml").write_text(CONTAINERD)
        # Nobody answers on the node's own address, so a look-up fails at once; pods ask the cluster's DNS address.
        (self.folder / "node-resolv.conf").write_text("nameserver 127.0.0.1\n")
        (self.folder / "pod-resolv.conf").write_text(f"nameserver {CLUSTER_DNS}\n")
        (self.folder / "sysctl").mkdir(exist_ok=True)
        for name, value in SYSCTLS.items():
            (self.folder / "sysctl" / name.replace("/", ".")).write_text(f"{value}\n")
        settings = {
            "NODE": self.name,
            "ADDRESS": self.address,
            "BIN": plane.bin,
            "CGROUP": self.cgroup,
            "IMAGES": f"{images.ensure_pause()} {images.ensure_py()}",
            "CONTROLLERS": " ".join(CONTROLLERS),
            "SYSCTLS": " ".join(SYSCTLS),
            "OWN_FOLDERS": " ".join(f"{inside}:{own}" for inside, own in OWN_FOLDERS.items()),
        }
        lines = [f"{key}={shlex.quote(str(value))}" for key, value in settings.items()]
        (self.folder / "settings").write_text("\n".join(lines) + "\n")

    def _write_json(self, name: str, value: dict[str, Any]) -> None:
        (self.folder / name).write_text(json.dumps(value, indent=1))

    def _wait_ready(self) -> None:
        def settled() -> bool:
            return self._is_ready() or not (self._process and self._process.alive())

        if not until(settled, READY_DEADLINE, 0.2) or not self._is_ready():
            tails = []
            for log in sorted((self.folder / "logs").glob("*.log")):
                tails.append(f"{log}:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-8:]))
            raise TestbedError(f"node {self.name} is not Ready:\n" + "\n".join(tails))

    def _is_ready(self) -> bool:
        path = '{.status.conditions[?(@.type=="Ready")].status}'
        done = self.plane.kubectl("get", "node", self.name, "-o", f"jsonpath={path}", check=False)
        return done.returncode == 0 and done.stdout == "True"

    def _cni(self) -> dict[str, Any]:
        ranges = [[{"subnet": self.network.node_pods(self.index)}]]
        ipam = {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]}
        bridge = {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": False,
            "hairpinMode": True,
            "ipam": ipam,
        }
        portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
        return {"cniVersion": "0.4.0", "name": "testbed", "plugins": [bridge, portmap]}

    def _kubelet(self, serving: pki.Pair) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address,
            "healthzBindAddress": "127.0.0.1",
            "readOnlyPort": 0,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self.plane.ca)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(serving.crt),
            "tlsPrivateKeyFile": str(serving.key),
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "failCgroupV1": False,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cgroup}",
            "failSwapOn": False,
            "protectKernelDefaults": True,  # checks SYSCTLS instead of setting them
            "makeIPTablesUtilChains": True,
            "clusterDNS": [CLUSTER_DNS],
            "clusterDomain": "cluster.local",
            "resolvConf": str(self.folder / "pod-resolv.conf"),
            "imageGCHighThresholdPercent": 100,  # these images cannot be pulled again
            "evictionHard": {
                "memory.available": "50Mi",
                "nodefs.available": "1%",
                "imagefs.available": "1%",
                "nodefs.inodesFree": "1%",
            },
            "nodeStatusUpdateFrequency": "2s",
            "syncFrequency": "10s",
            "volumeStatsAggPeriod": "0s",
        }

    def _kube_proxy(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "bindAddress": self.address,  # unset, ClusterIPs are dead for the first seconds
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            "clusterCIDR": self.network.pods,
            "mode": "iptables",
            "hostnameOverride": self.name,
            "clientConnection": {"kubeconfig": str(self.plane.dir / "pki" / "kube-proxy.kubeconfig")},
            # Read-only outside the machine's first network namespace.
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }


# restrict_oom_score_adj: without CAP_SYS_RESOURCE, runc cannot make a container less likely to be killed than itself.
CONTAINERD = """\
version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs",
  "io.containerd.internal.v1.tracing", "io.containerd.nri.v1.nri",
]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "localhost/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = "/usr/sbin/runc"
      SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
"""
