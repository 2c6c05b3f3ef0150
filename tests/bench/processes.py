# SPDX-License-Identifier: Apache-2.0
"""Programs of the bench: started together, stopped together, and read in /proc: CPU time and memory of whole trees.

A server is all of its processes, whatever it starts. Only what was started here is ever stopped.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A part of the bench did not do what it must; the message says what, and shows the end of a log."""


def until(what: str, check: Callable[[], Any], deadline: float = 30.0, log: Path | None = None) -> Any:
    """Poll `check` until it returns something true, and return that. Raises Failed after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not (value := check()):
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {deadline:.0f} s{tail(log)}")
        time.sleep(0.05)
    return value


def tail(log: Path | None) -> str:
    """The end of a log, to be put behind a message."""
    if log is None or not log.exists():
        return ""
    return f"\n{log}:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:])


class Processes:
    """What is stopped when the block ends, the last first."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_unused: object) -> None:
        self._stack.close()

    def later(self, call: Callable[[], Any]) -> None:
        """Have something else undone in the same order."""
        self._stack.callback(call)

    def start(
        self, name: str, argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, pipe: bool = False
    ) -> subprocess.Popen[str]:
        """Start a program; its output goes to a log, with `pipe` its standard output to us."""
        with (self.logs / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                [str(word) for word in argv], stdin=subprocess.DEVNULL, stderr=log, text=True,
                stdout=subprocess.PIPE if pipe else log, env={**os.environ, **(env or {})},
            )  # fmt: skip
        self._stack.callback(stop, process)
        return process


def stop(process: subprocess.Popen[Any], how: int = signal.SIGTERM, patience: float = 15.0) -> None:
    """End a program and reap it."""
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def tree(*roots: int) -> list[int]:
    """The processes and all that descend from them. One that has ended meanwhile is left out."""
    found: list[int] = []
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        try:
            children = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
        except OSError:
            continue
        if Path(f"/proc/{pid}/stat").exists():
            found.append(pid)
            waiting += [int(child) for text in children for child in text.split()]
    return found


def cpu_of(stat: str) -> float:
    """Seconds of user and system time in /proc/<pid>/stat (proc(5)): of the process and of its reaped children."""
    fields = stat.rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / TICKS


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of trees of processes so far."""
    total = 0.0
    for pid in tree(*pids):
        with contextlib.suppress(OSError):
            total += cpu_of(Path(f"/proc/{pid}/stat").read_text())
    return total


def memory_of(rollup: str) -> dict[str, float]:
    """Bytes of Rss and Pss in the text of /proc/<pid>/smaps_rollup."""
    found = {}
    for line in rollup.splitlines():
        name, _unused, rest = line.partition(":")
        if name in ("Rss", "Pss"):
            found[name.lower()] = float(rest.split()[0]) * 1024
    return found


def memory(pids: Iterable[int]) -> dict[str, float]:
    """Bytes of trees of processes: `rss` summed (shared pages count in each), `pss` (shared pages count once)."""
    total = {"rss": 0.0, "pss": 0.0}
    for pid in tree(*pids):
        with contextlib.suppress(OSError):
            for name, value in memory_of(Path(f"/proc/{pid}/smaps_rollup").read_text()).items():
                total[name] += value
    return total
