# SPDX-License-Identifier: Apache-2.0
"""The register of what a run of the test bed has made on this machine.

A test run can be killed at any instant. So that the next one can clean up, everything that outlives a process is
written down *before* it is made: one file per thing in the run's folder. Undoing is idempotent, and runs in the
opposite order. A process writes its own pid and start time before it becomes the program; only a process whose start
time is still the recorded one is ever killed, since pids are used again.

Folders, under ${TMPDIR:-/tmp}/mooring-testbed-<uid>/ (mode 0700):

    runs/<id>/owner.json      who owns the run: pid and start time, or "detached" (the command line's, until `down`)
    runs/<id>/records/NNNNN-kind.json
    runs/<id>/work/           kubeconfigs, keys, logs, data (or elsewhere, when the owner named a folder)

This module must not know what a cluster or a machine is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.errors import TestbedError

CGROUPS = Path("/sys/fs/cgroup")
GONE_DEADLINE = 20.0  # seconds until a killed process, or a cgroup without processes, is gone
Facts = dict[str, Any]


def root() -> Path:
    """The user's folder of the test bed, made at need. Raises TestbedError if somebody else owns it."""
    folder = Path(os.environ.get("TMPDIR") or "/tmp") / f"mooring-testbed-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise TestbedError(f"{folder} belongs to somebody else")
    (folder / "runs").mkdir(exist_ok=True)
    return folder


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold a lock of this user between processes; it is freed by the death of the holder, too."""
    with (root() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def boot_id() -> str:
    """Tells one boot of the machine from another: recorded pids mean nothing after a boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True, slots=True)
class Pid:
    """A process, as it cannot be mistaken for another: number and start time (clock ticks since boot)."""

    pid: int
    start: int

    @classmethod
    def parse(cls, stat: str) -> Pid | None:
        """Read the content of /proc/PID/stat; None if it is not whole."""
        head, _unused, tail = stat.rpartition(")")
        fields = tail.split()
        if len(fields) < 20:
            return None
        return cls(int(head.split(" ", 1)[0]), int(fields[19]))

    @classmethod
    def of(cls, pid: int) -> Pid | None:
        """The process that has this number now, if there is one."""
        try:
            return cls.parse(Path(f"/proc/{pid}/stat").read_text())
        except OSError:
            return None

    def alive(self) -> bool:
        """Whether it still runs. A zombie that its parent has not reaped does not."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return False
        return Pid.parse(stat) == self and stat.rpartition(")")[2].split()[0] not in ("Z", "X")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal, if the process is still the one that was recorded; SIGKILL to all of a group that it leads."""
        if not self.alive():
            return
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL and os.getpgid(self.pid) == self.pid:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)


def until(condition: Callable[[], bool], deadline: float, step: float = 0.02) -> bool:
    """Poll until the condition holds or `deadline` seconds are over; returns whether it holds."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(step)
    return True


class Process:
    """A program started by a run. It survives its starter; only the register's pid file names it."""

    def __init__(self, name: str, pidfile: Path, log: Path, popen: subprocess.Popen[bytes] | None = None) -> None:
        self.name = name
        self.pidfile = pidfile
        self.log = log
        self._popen = popen

    @property
    def pid(self) -> Pid | None:
        """The process, None as long as it has not written itself down."""
        try:
            return Pid.parse(self.pidfile.read_text())
        except OSError:
            return None

    def alive(self) -> bool:
        """Whether it runs."""
        if self._popen is not None and self._popen.poll() is not None:
            return False
        pid = self.pid
        return pid.alive() if pid else self._popen is not None

    def stop(self, number: int = signal.SIGKILL, deadline: float = GONE_DEADLINE) -> None:
        """Send a signal and wait until the process is gone; SIGKILL if it has not gone by the deadline (seconds)."""
        for send in dict.fromkeys((number, signal.SIGKILL)):
            if pid := self.pid:
                pid.kill(send)
            elif self._popen is not None and self._popen.poll() is None:
                self._popen.send_signal(send)
            if until(lambda: not self.alive(), deadline):
                break
        if self._popen is not None:
            self._popen.wait(GONE_DEADLINE)

    def tail(self, lines: int = 8) -> str:
        """The end of its log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""


class Run:
    """What one owner has made. `teardown` undoes it all; `sweep` does so for owners that died."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.id = folder.name
        self._processes: list[Process] = []

    @classmethod
    def create(cls, name: str | None = None, *, work: Path | None = None) -> Run:
        """Begin a run, after cleaning what dead ones left.

        It dies with this process, unless it is detached. `work` is the folder for its files, which must be new or
        empty. Raises TestbedError if a run of that name exists.
        """
        sweep()
        ident = name or f"run-{os.getpid()}-{secrets.token_hex(3)}"
        folder = root() / "runs" / ident
        if work is not None and work.exists() and any(work.iterdir()):
            raise TestbedError(f"{work} is not empty")
        me = Pid.of(os.getpid())
        assert me is not None
        owner = {"pid": me.pid, "start": me.start, "boot": boot_id(), "detached": False}
        owner["work"] = str(work.absolute() if work else folder / "work")
        # Made aside and renamed: a run without an owner's file could not be judged by a sweep.
        aside = root() / f"new-{ident}-{me.pid}"
        (aside / "records").mkdir(parents=True)
        (aside / "owner.json").write_text(json.dumps(owner))
        try:
            aside.rename(folder)
        except OSError as error:
            shutil.rmtree(aside)
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            raise TestbedError(f"there is a test bed named {ident!r} already: see `python -m testbed status`") from None
        run = cls(folder)
        run.work.mkdir(parents=True, exist_ok=True)
        return run

    @property
    def owner(self) -> Facts:
        """The content of owner.json."""
        facts: Facts = json.loads((self.folder / "owner.json").read_text())
        return facts

    @property
    def work(self) -> Path:
        """The folder for the run's files."""
        return Path(self.owner["work"])

    def detach(self) -> None:
        """Give it to the command line: from now on it lives until `teardown`."""
        scratch = self.folder / ".owner.json"
        scratch.write_text(json.dumps({**self.owner, "detached": True}))
        scratch.rename(self.folder / "owner.json")

    def dead(self) -> bool:
        """Whether nobody owns it any more: its process has gone, or the machine has booted since."""
        owner = self.owner
        if owner["boot"] != boot_id():
            return True
        return not owner["detached"] and not Pid(owner["pid"], owner["start"]).alive()

    # -- the register

    def record(self, kind: str, **facts: Any) -> Path:
        """Write down a thing that is about to be made; returns the record, to be handed to `undo` when it goes."""
        assert kind in _UNDO, kind
        records = self.folder / "records"
        with locked("records"):
            number = max((int(path.name[:5]) for path in records.iterdir()), default=0) + 1
            path = records / f"{number:05d}-{kind}.json"
            scratch = self.folder / f".{path.name}"
            scratch.write_text(json.dumps(facts))
            scratch.rename(path)
        return path

    def records(self, kind: str | None = None) -> list[tuple[str, Facts, Path]]:
        """(kind, facts, file) of each thing, the oldest first."""
        result = []
        for path in sorted((self.folder / "records").glob("*.json")):
            name = path.stem[6:]
            if kind in (None, name):
                result.append((name, json.loads(path.read_text()), path))
        return result

    def undo(self, record: Path) -> None:
        """Undo one recorded thing now, and forget it."""
        if record.exists():
            _UNDO[record.stem[6:]](json.loads(record.read_text()))
            record.unlink(missing_ok=True)

    def spawn(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Process:
        """Start a program in a session of its own, with stdin closed and its output in `log`, and record it."""
        number = len(list((self.folder / "records").iterdir()))
        pidfile = self.folder / f"{name}-{number}-{secrets.token_hex(2)}.pid"
        self.record("process", name=name, pidfile=str(pidfile), log=str(log), argv=[str(word) for word in argv])
        log.parent.mkdir(parents=True, exist_ok=True)
        # The shell writes itself down and then becomes the program: pid and start time stay the same.
        command = ["/bin/sh", "-c", 'cat /proc/$$/stat > "$0" && exec "$@"', str(pidfile), *map(str, argv)]
        with log.open("ab") as output:
            popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env) if env is not None else None,
                cwd=cwd,
                start_new_session=True,
            )
        process = Process(name, pidfile, log, popen)
        self._processes.append(process)
        return process

    def processes(self) -> list[Process]:
        """All recorded processes, whoever started them; those started by this object are its children."""
        mine = {process.pidfile: process for process in self._processes}
        result = []
        for _kind, facts, _path in self.records("process"):
            pidfile = Path(facts["pidfile"])
            result.append(mine.get(pidfile) or Process(facts["name"], pidfile, Path(facts["log"])))
        return result

    def teardown(self) -> None:
        """Undo everything, the newest first, but processes before all else: they hold the rest.

        Raises TestbedError at the end if something resisted; its record is kept for the next attempt.
        """
        processes = self.processes()
        for process in processes:
            if pid := process.pid:
                pid.kill()
        until(lambda: not any(map(_running, processes)), GONE_DEADLINE)
        stuck = [process.name for process in processes if _running(process)]
        for process in self._processes:
            if process._popen is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process._popen.wait(1)
        problems = [f"process {name} does not die" for name in stuck]
        for kind, _unused, path in reversed(self.records()):
            try:
                self.undo(path)
            except (OSError, subprocess.SubprocessError, TestbedError) as error:
                problems.append(f"{kind}: {error}")
        if problems:
            raise TestbedError(f"{self.id} is not wholly removed: " + "; ".join(problems))
        _remove_tree(self.work)
        _remove_tree(self.folder)


def _running(process: Process) -> bool:
    pid = process.pid
    return pid is not None and pid.alive()


def runs() -> list[Run]:
    """Every run of this user, alive or not."""
    return [Run(path) for path in sorted((root() / "runs").iterdir()) if (path / "owner.json").exists()]


def sweep(everything: bool = False) -> list[str]:
    """Remove what dead runs left (with `everything`, also detached runs); returns the ids of the removed runs."""
    swept = []
    with locked("sweep"):
        for run in runs():
            try:
                condemned = run.dead() or (everything and run.owner["detached"])
            except (FileNotFoundError, NotADirectoryError):
                continue  # its owner has just removed it
            if condemned:
                try:
                    run.teardown()
                except TestbedError as error:
                    # What resists now must not keep anybody from working; it is tried again by the next.
                    print(f"[testbed] {error}", file=sys.stderr)
                else:
                    swept.append(run.id)
        for path in root().glob("new-*"):
            pid = path.name.rpartition("-")[2]
            if pid.isdigit() and not Path(f"/proc/{pid}").exists():
                shutil.rmtree(path, ignore_errors=True)
    return swept


# -- undoing, by kind. Each succeeds when the thing is not there.


def command(*argv: str | Path, check: bool = True, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
    """Run a short command and return its text. Raises TestbedError with its stderr if it fails and `check` is set."""
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, timeout=timeout, check=False)
    if check and done.returncode != 0:
        raise TestbedError(f"{' '.join(map(str, argv))}: {done.stderr.strip() or done.stdout.strip()}")
    return done


def _undo_process(facts: Facts) -> None:
    process = Process(facts["name"], Path(facts["pidfile"]), Path(facts["log"]))
    process.stop()
    process.pidfile.unlink(missing_ok=True)


def _undo_link(facts: Facts) -> None:
    link = Path("/sys/class/net", facts["name"])
    if link.exists():
        done = command("ip", "link", "del", link.name, check=False)
        # The kernel removes it with its namespace, in its own time: maybe between the look and the command.
        if done.returncode != 0 and link.exists():
            raise TestbedError(f"ip link del {link.name}: {done.stderr.strip()}")


def _undo_rule(facts: Facts) -> None:
    # `ip rule del` removes one that matches; there may be none.
    while command("ip", "rule", "del", *facts["words"], check=False).returncode == 0:
        pass


def mounts_under(folder: str | Path) -> list[str]:
    """Mount points at or below a folder, the deepest first."""
    prefix = str(folder)
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4].encode().decode("unicode_escape")
        if point == prefix or point.startswith(prefix + "/"):
            points.append(point)
    return sorted(points, key=len, reverse=True)


def _undo_mount(facts: Facts) -> None:
    for point in mounts_under(facts["path"]):
        command("umount", "-l", point)


def cgroup_folders(name: str) -> list[Path]:
    """The folders of a cgroup of this name at the root of each mounted hierarchy."""
    return [folder / name for folder in CGROUPS.iterdir() if folder.is_dir() and not folder.is_symlink()]


def _undo_cgroup(facts: Facts) -> None:
    def empty() -> bool:
        left = False
        for top in cgroup_folders(facts["name"]):
            if not top.exists():
                continue
            for folder, _folders, _files in os.walk(top, topdown=False):
                try:
                    os.rmdir(folder)
                except FileNotFoundError:
                    pass
                except OSError:
                    left = True
        return not left

    if until(empty, 1.0, 0.05):
        return
    # Whatever is still inside was started by this run and by nobody else: the cgroup is its own.
    for top in cgroup_folders(facts["name"]):
        for folder, _folders, _files in os.walk(top):
            with contextlib.suppress(OSError):
                for pid in Path(folder, "cgroup.procs").read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
    if not until(empty, GONE_DEADLINE, 0.05):
        raise TestbedError(f"cgroup {facts['name']} does not get empty")


def _remove_tree(folder: Path) -> None:
    if mounts_under(folder):
        _undo_mount({"path": str(folder)})
    if mounts_under(folder):
        raise TestbedError(f"something is mounted under {folder}")
    shutil.rmtree(folder, ignore_errors=False) if folder.exists() else None


def _undo_folder(facts: Facts) -> None:
    _remove_tree(Path(facts["path"]))


def raise_setting(run: Run, name: str, at_least: int) -> None:
    """Raise a number in /proc/sys for as long as some run needs it; the last one that did restores it.

    For limits that the kernel counts per user over all namespaces. Raises TestbedError if it may not be written.
    """
    setting = Path("/proc/sys", name)
    leases = root() / "settings" / name.replace("/", ".")
    with locked("settings"):
        now = int(setting.read_text())
        others = sorted(leases.iterdir()) if leases.exists() else []
        if now >= at_least and not others:
            return
        lease = leases / run.id
        if lease.exists():
            return
        run.record("setting", name=name, lease=str(lease))
        leases.mkdir(parents=True, exist_ok=True)
        lease.write_text(others[0].read_text() if others else str(now))
        if now < at_least:
            try:
                setting.write_text(str(at_least))
            except OSError as error:
                raise TestbedError(f"{setting} is {now} and has to be {at_least} at least: {error}") from None


def _undo_setting(facts: Facts) -> None:
    lease = Path(facts["lease"])
    with locked("settings"):
        if not lease.exists():
            return
        before = lease.read_text()
        lease.unlink()
        if before and not any(lease.parent.iterdir()):
            Path("/proc/sys", facts["name"]).write_text(before)


_UNDO: dict[str, Callable[[Facts], None]] = {
    "process": _undo_process,
    "link": _undo_link,
    "rule": _undo_rule,
    "mount": _undo_mount,
    "cgroup": _undo_cgroup,
    "folder": _undo_folder,
    "setting": _undo_setting,
}
