# SPDX-License-Identifier: Apache-2.0
"""Machines: Debian hosts with systemd as PID 1 and sshd, for roles and molecule scenarios to run against by real ssh.

Each has net, mount, pid, uts, ipc and cgroup namespaces of its own on this kernel, an address on a bridge, and a disk:
an overlay on a base that debootstrap builds once into the user's cache folder. A reboot from inside works, a power-off
too. Machines have no way out of the test bed.

This module must not know Kubernetes.
"""

from __future__ import annotations

import hashlib
import platform
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from testbed import binaries
from testbed.errors import BuildError, TestbedError
from testbed.network import Network, need_root
from testbed.node import CONTROLLERS, INOTIFY, make_cgroup, need_cgroup_v1
from testbed.progress import run_long
from testbed.state import Pid, Process, Run, command, locked, mounts_under, raise_setting, until

SUITE = "bookworm"
RECIPE = "1"  # raised when the base is made otherwise of the same packages
SSH_DEADLINE = 90.0  # seconds; about 2 on an idle machine
RUNNING_DEADLINE = 90.0
FIRST_INDEX = 31  # on a bridge that they share with nodes, machines have the addresses above these
INIT = Path(__file__).with_name("machine-init.sh")

PACKAGES = (
    *(
        "systemd",
        "systemd-sysv",
        "dbus",
        "libpam-systemd",
        "openssh-server",
        "sudo",
        "acl",
        "procps",
        "cron",
        "logrotate",
    ),
    *("python3", "python3-venv", "python3-apt", "ca-certificates", "curl", "iproute2", "iputils-ping", "rsync"),
)
# No device here, or they change what the kernel has only once: clock, modules, settings.
MASKED = (
    *("console-getty.service", "getty@tty1.service", "systemd-udevd.service", "systemd-udev-trigger.service"),
    *("systemd-udevd-kernel.socket", "systemd-udevd-control.socket", "systemd-modules-load.service"),
    *(
        "systemd-hwdb-update.service",
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
        "e2scrub_reap.service",
        "fstrim.timer",
    ),
)
# Kernel settings that a role may write: files of the machine. What is not here is read-only.
SYSCTLS = (
    *(f"vm/{name}" for name in ("overcommit_memory", "panic_on_oom", "swappiness", "max_map_count", "min_free_kbytes")),
    *(f"kernel/{name}" for name in ("panic", "panic_on_oops", "pid_max", "threads-max", "sysrq", "core_pattern")),
    *("kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes", "fs/file-max", "fs/nr_open", "fs/aio-max-nr"),
    *("fs/inotify/max_user_instances", "fs/inotify/max_user_watches"),
)


# -- the base


def ensure_base() -> Path:
    """The root file system that all machines share, built if it is not there (about 2 minutes; see PACKAGES).

    Raises BuildError with the end of debootstrap's log.
    """
    need_root("machines")
    key = hashlib.sha256(" ".join([RECIPE, SUITE, platform.machine(), *PACKAGES, *MASKED]).encode()).hexdigest()[:16]
    base = binaries.cache_root() / "base" / key
    if not base.exists():
        base.parent.mkdir(parents=True, exist_ok=True)
        with locked("base"):
            if not base.exists():
                _build_base(base)
    return base


def _build_base(base: Path) -> None:
    scratch = base.with_name(f".{base.name}")
    if scratch.exists():  # of a build that was killed
        for point in mounts_under(scratch):
            command("umount", "-l", point)
        shutil.rmtree(scratch)
    words = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    words += ["--keyring=/usr/share/keyrings/debian-archive-keyring.gpg", SUITE, str(scratch), _mirror()]
    title = f"[base] Debian {SUITE} for machines (about 2 minutes)"
    run_long(title, words, log=base.with_name(f"{base.name}.log"), deadline=1800)
    _finish_base(scratch)
    scratch.rename(base)


def _mirror() -> str:
    """The mirror that apt of this machine uses."""
    words = ["apt-get", "indextargets", "--format", "$(REPO_URI)", f"Codename: {SUITE}", "Created-By: Packages"]
    mirrors = command(*words).stdout.split()
    if not mirrors:
        raise BuildError(f"apt of this machine has no source for Debian {SUITE}, which machines are made of")
    return mirrors[0]


def _finish_base(root: Path) -> None:
    for pattern in ("var/cache/apt/*.bin", "var/cache/apt/archives/*.deb", "var/log/bootstrap.log"):
        for path in root.glob(pattern):
            path.unlink()
    for folder in ("var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(root / folder, ignore_errors=True)
    (root / "var/lib/apt/lists/partial").mkdir(parents=True)
    # Machines have no way out: no mirror either.
    (root / "etc/apt/sources.list").write_text("")
    # Each machine gets its own.
    (root / "etc/machine-id").write_text("")
    for name in ("etc/hostname", "etc/resolv.conf", "var/lib/dbus/machine-id"):
        (root / name).unlink(missing_ok=True)
    for unit in MASKED:
        target = root / "etc/systemd/system" / unit
        target.unlink(missing_ok=True)
        target.symlink_to("/dev/null")
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    settings = root / "etc/systemd/system.conf.d/testbed.conf"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text("[Manager]\nDefaultTimeoutStopSec=10s\n")
    (root / "etc/ssh/sshd_config.d/testbed.conf").write_text("PermitRootLogin prohibit-password\nUseDNS no\n")


# -- machines


class Machine:
    """One machine; `Machines` makes it."""

    def __init__(self, machines: Machines, name: str, index: int) -> None:
        self.name = name
        self.machines = machines
        self.index = index
        self.address = machines.network.address(index)
        self.folder = machines.folder / name
        self.cgroup = f"mooring-{machines.network.name}-{name}"
        self.ssh_seconds = 0.0
        self._process: Process | None = None

    @property
    def pid(self) -> Pid | None:
        """Its systemd, as this machine numbers it; None if it is off."""
        try:
            pid = Pid.parse((self.folder / "init.pid").read_text())
        except OSError:
            return None
        return pid if pid and pid.alive() else None

    def up(self) -> Self:
        """Switch it on and wait until systemd says `running`. Raises TestbedError with the end of its console."""
        self._start()
        self._wait_running()
        return self

    def cut(self) -> None:
        """Pull the plug; the disk stays, and `up` boots from it."""
        if self._process:
            self._process.stop()
        if pid := self.pid:
            pid.kill()
            if not until(lambda: not pid.alive(), 20):
                raise TestbedError(f"machine {self.name} does not die")

    def ssh(
        self, *words: str, check: bool = True, timeout: float = 60.0, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command on it, as root. Raises TestbedError if it fails and `check` is set."""
        argv = ["ssh", "-F", str(self.machines.ssh_config), self.name, *words]
        try:
            done = subprocess.run(argv, input=input or "", capture_output=True, text=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            raise TestbedError(f"{self.name}: {shlex.join(words)}: no end after {timeout} s") from None
        if check and done.returncode != 0:
            raise TestbedError(f"{self.name}: {shlex.join(words)}: exit code {done.returncode}: {done.stderr.strip()}")
        return done

    def copy(self, source: Path, target: str) -> None:
        """Copy a file or folder to it."""
        command("scp", "-qr", "-F", self.machines.ssh_config, source, f"{self.name}:{target}", timeout=300)

    def _start(self) -> None:
        if self.pid:
            return
        run, network = self.machines.run, self.machines.network
        new = not self.folder.exists()
        if new:
            for name in ("upper", "work", "root"):
                (self.folder / name).mkdir(parents=True)
            command("cp", "-a", self.machines.base / "var", self.folder / "var", timeout=120)
            self._write_files()
            run.record("link", name=network.veth(self.index))
            run.record("mount", path=str(self.folder / "netns"))
            make_cgroup(run, self.cgroup, extra=("unified",))
            pidfile = self.folder / "init.pid"
            run.record("process", name=self.name, pidfile=str(pidfile), log=str(self.folder / "console"))
        self._begun = time.monotonic()
        words = ["bash", str(INIT), "power", str(self.folder)]
        self._process = run.spawn(self.name, words, log=self.folder / "console")

    def _write_files(self) -> None:
        machines, network = self.machines, self.machines.network
        layers = [*machines.layers, machines.base]
        settings = {
            "NAME": self.name,
            "CGROUP": self.cgroup,
            "CONTROLLERS": " ".join((*CONTROLLERS, "unified")),
            "LAYERS": ":".join(map(str, layers)),
            "SYSCTLS": " ".join(SYSCTLS),
        }
        lines = [f"{key}={shlex.quote(value)}\n" for key, value in settings.items()]
        (self.folder / "settings").write_text("".join(lines))
        # The same address for the neighbours' ARP tables after a reboot.
        mac = f"02:00:00:00:{network.number:02x}:{self.index:02x}"
        first, *others = network.attach_commands(self.index, self.folder / "netns", mac)
        veth = network.veth(self.index)
        # The link of the last boot goes with its namespace, which the kernel removes in its own time.
        lines = [
            "tries=0",
            f"until {shlex.join(first)} 2> attach.log; do",
            f"    ip link del {veth} 2> /dev/null || true",
            "    tries=$((tries + 1))",
            '    [ "$tries" -lt 100 ] || { cat attach.log; exit 1; }',
            "    sleep 0.1",
            "done",
            *map(shlex.join, others),
        ]
        (self.folder / "attach").write_text("\n".join(lines) + "\n")
        hosts = {"127.0.0.1": "localhost", "::1": "localhost ip6-localhost", network.host: "testbed-host"}
        hosts |= {machine.address: machine.name for machine in machines.machines}
        (self.folder / "hosts").write_text("".join(f"{address} {name}\n" for address, name in hosts.items()))
        # Nobody answers there: refused at once.
        (self.folder / "resolv.conf").write_text(f"nameserver {network.host}\n")
        shutil.copy(machines.folder / "key.pub", self.folder / "authorized_keys")

    def _wait_running(self) -> None:
        def answers() -> bool:
            try:
                with socket.create_connection((self.address, 22), timeout=2) as connection:
                    return connection.recv(4) == b"SSH-"
            except OSError:
                return False

        if not until(lambda: answers() or not (self._process and self._process.alive()), SSH_DEADLINE, 0.05):
            raise TestbedError(f"no ssh on machine {self.name}:\n{self._console()}")
        self.ssh("true", timeout=SSH_DEADLINE)
        self.ssh_seconds = time.monotonic() - self._begun
        state = self.ssh("systemctl is-system-running --wait", check=False, timeout=RUNNING_DEADLINE).stdout.strip()
        if state != "running":
            failed = self.ssh("systemctl --failed --no-legend", check=False).stdout
            raise TestbedError(f"machine {self.name} is {state or 'silent'}: {failed}\n{self._console()}")

    def _console(self) -> str:
        return self._process.tail() if self._process else ""


class Machines:
    """A set of machines on one bridge, with one ssh key. A context manager, or `up` and `down`.

    count    how many: m1, m2, …
    network  a bridge to share (`ControlPlane.network`) instead of one of their own
    layers   folders laid read-only over the base, the uppermost first: a way to have big files on every machine
    run      the register to use; without it the set makes and removes its own
    """

    def __init__(
        self,
        count: int = 1,
        *,
        network: Network | None = None,
        layers: Sequence[Path] = (),
        run: Run | None = None,
        folder: Path | None = None,
    ) -> None:
        self.count = count
        self.layers = list(layers)
        self.machines: list[Machine] = []
        self._given_network = network
        self._run = run
        self._own_run = run is None
        self._folder = folder

    def __getitem__(self, name: str) -> Machine:
        return next(machine for machine in self.machines if machine.name == name)

    @property
    def run(self) -> Run:
        """The register; there is one from `up` to `down`."""
        if self._run is None:
            raise TestbedError("the machines are not up")
        return self._run

    @property
    def folder(self) -> Path:
        """Key, ssh configuration, inventory, and a folder per machine."""
        return self._folder or self.run.work / "machines"

    @property
    def host(self) -> str:
        """The address of this machine, as the machines see it: where a server for them listens."""
        return self.network.host

    @property
    def ssh_config(self) -> Path:
        """For `ssh -F`; knows the machines by name."""
        return self.folder / "ssh_config"

    @property
    def inventory(self) -> Path:
        """An Ansible inventory of all machines."""
        return self.folder / "inventory.ini"

    def facts(self) -> dict[str, Any]:
        """What somebody outside of this process needs."""
        return {
            "machines": {machine.name: machine.address for machine in self.machines},
            "machines_host": self.host,
            "ssh_config": str(self.ssh_config),
            "inventory": str(self.inventory),
        }

    def __enter__(self) -> Self:
        return self.up()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def prepare(self) -> Self:
        """Make the bridge, the key and the inventory, so that `host` is known before the machines are up."""
        need_root("machines")
        need_cgroup_v1()
        self.base = ensure_base()
        if self._own_run:
            self._run = Run.create()
        try:
            raise_setting(self.run, *INOTIFY)
            self.network = self._given_network or Network.create(self.run)
            self.folder.mkdir(parents=True, exist_ok=True)
            key = self.folder / "key"
            if not key.exists():
                command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "testbed", "-f", key)
            self.machines = [Machine(self, f"m{number + 1}", FIRST_INDEX + number) for number in range(self.count)]
            self._write_ssh_files(key)
        except BaseException:
            self.down()
            raise
        return self

    def up(self) -> Self:
        """Start all side by side and wait until systemd says `running` on each. Raises TestbedError."""
        if not self.machines:
            self.prepare()
        try:
            for machine in self.machines:
                machine._start()
            for machine in self.machines:
                machine._wait_running()
        except BaseException:
            self.down()
            raise
        return self

    def down(self) -> None:
        """Pull all plugs and remove every trace, if the register is its own; else the run's `teardown` does so."""
        if self._own_run and self._run is not None:
            self._run.teardown()
            self._run = None

    def _write_ssh_files(self, key: Path) -> None:
        common = {
            "User": "root",
            "IdentityFile": str(key),
            "IdentitiesOnly": "yes",
            "StrictHostKeyChecking": "no",  # the host keys are the base's, the same on all
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "ConnectTimeout": "5",
            "ServerAliveInterval": "5",
        }
        lines = ["Host *", *(f"  {name} {value}" for name, value in common.items())]
        for machine in self.machines:
            lines += [f"Host {machine.name}", f"  HostName {machine.address}"]
        self.ssh_config.write_text("\n".join(lines) + "\n")
        lines = ["[machines]", *(f"{m.name} ansible_host={m.address}" for m in self.machines), "", "[machines:vars]"]
        lines += [
            "ansible_user=root",
            f"ansible_ssh_private_key_file={key}",
            "ansible_python_interpreter=/usr/bin/python3",
            f"ansible_ssh_common_args=-F {self.ssh_config}",
            # A multiplexer that outlives the machines would hold up their removal.
            "ansible_ssh_args=-o ControlMaster=auto -o ControlPersist=5s",
        ]
        self.inventory.write_text("\n".join(lines) + "\n")
