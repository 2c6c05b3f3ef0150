# SPDX-License-Identifier: Apache-2.0
"""A process that has imported what the tests of every guard import, and forks for each run.

Most of what a run of unit tests takes is the import of other people's packages. They are the same in each run; the
service and the tests are not, and must not be imported here. A run is ordered by a line of JSON on standard input; its
process id comes back as a line, and its exit code as another. It leads a session of its own, so that whoever ordered it
can end it with all that it started.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

OURS = frozenset({"mooring", "tests", "support", "testbed", "mutants", "fuzz", "faults", "bench", "demo"})
PLUGINS = {
    "asyncio": "pytest_asyncio.plugin",
    "timeout": "pytest_timeout",
    "hypothesispytest": "_hypothesis_pytestplugin",
    "looptime_chronometers": "looptime._internal.chronometers",
    "looptime_plugin": "looptime._internal.plugin",
    "looptime_timeproxies": "looptime._internal.timeproxies",
}
"""The plugins of pytest that tests use, by entry point. Others that are installed cost a second in each run."""
ASKED = f"""
import importlib, sys, pytest, _pytest.junitxml, hypothesis, mooring.app.control, mooring.app.worker
import mooring.agent.main, mooring.cli.main
for name in {list(PLUGINS.values())!r}: importlib.import_module(name)
print(*sys.modules, sep="\\n")
"""


class Warm:
    """Such a process, from outside: one run at a time."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mutants.warm"], cwd=folder, env=dict(environment), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self._said: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.put(line)
        self._said.put("")  # it has ended

    def run(self, argv: Sequence[str], path: Sequence[Path], environment: Mapping[str, str], log: Path,
            deadline: float) -> int | None:  # fmt: skip
        """The exit code of pytest with these arguments; None: it did not end within the deadline (seconds), and was
        killed. `path` goes in front of the import path. Raises RuntimeError when the warm process has ended."""
        assert self._process.stdin is not None
        order = {"argv": [*argv], "path": [*map(str, path)], "environment": dict(environment), "log": str(log)}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        pid = self._answer(None)
        try:
            return self._answer(deadline)
        except queue.Empty:
            self._end(pid)
            return None

    def _end(self, pid: int) -> None:
        """pytest ends with its fixtures when it is asked to; if not, all of its session that is left is killed."""
        for kill, number, patience in ((os.kill, signal.SIGTERM, 30.0), (os.killpg, signal.SIGKILL, None)):
            with contextlib.suppress(ProcessLookupError):
                kill(pid, number)
            with contextlib.suppress(queue.Empty):
                self._answer(patience)
                return

    def _answer(self, patience: float | None) -> int:
        line = self._said.get(timeout=patience)
        if not line:
            raise RuntimeError("the process that forks the runs has ended")
        return int(line)

    def close(self) -> None:
        """End it. A run that goes on is not waited for."""
        self._process.kill()
        self._process.wait()


def prepare() -> None:
    """Import what is not of this repository. A module that cannot be imported alone is left to the runs."""
    names = subprocess.run([sys.executable, "-c", ASKED], capture_output=True, text=True, check=True).stdout.split()
    for name in names:
        if name.partition(".")[0] not in (OURS | {"__main__", "__mp_main__"}):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    same = [name for name in sys.modules if name.partition(".")[0] in OURS - {"mutants"}]
    assert not same, f"these would be the same in all runs: {same}"
    assert threading.active_count() == 1, "a thread does not survive a fork"


def child(order: dict[str, Any]) -> int:
    """The run, in its own process: pytest's exit code."""
    os.setsid()
    null, log = os.open(os.devnull, os.O_RDONLY), os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for target, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.path[:0] = order["path"]
    importlib.invalidate_caches()
    import pytest

    return int(pytest.main(order["argv"]))


def main() -> None:
    prepare()
    out = os.dup(1)
    os.dup2(2, 1)  # only answers go there
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                code = child(json.loads(line))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        os.write(out, f"{pid}\n".encode())
        _pid, status = os.waitpid(pid, 0)
        os.write(out, f"{os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    main()
