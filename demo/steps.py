# SPDX-License-Identifier: Apache-2.0
"""Named steps with their times, commands with their logs, and processes that outlive this one.

A step that fails names itself and its log, because a demo that stops without saying where is worse than none.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / ".demo"
LOG = DEMO / "log"
STATE = DEMO / "state.json"


class StepFailed(Exception):
    """A step could not be done. `log` is the file that says why."""

    def __init__(self, message: str, log: Path | None = None) -> None:
        super().__init__(message)
        self.log = log


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Print a step's name when it begins and its time when it ends."""
    print(f"\n== {name}", flush=True)
    begin = time.monotonic()
    try:
        yield
    except StepFailed as error:
        where = f"\n   see {error.log.relative_to(ROOT)}" if error.log else ""
        tail = "".join(f"\n   | {line}" for line in last_lines(error.log)) if error.log else ""
        sys.exit(f"\nThe step '{name}' failed: {error}{tail}{where}\n   `make demo-stop` removes what was started.")
    print(f"   ({time.monotonic() - begin:.1f} s)", flush=True)


def last_lines(log: Path, count: int = 12) -> list[str]:
    try:
        return [line[:300] for line in log.read_text(errors="replace").splitlines()[-count:]]
    except OSError:
        return []


def run(command: Sequence[str | Path], log: str, env: Mapping[str, str] | None = None, deadline: float = 300) -> str:
    """Run a command to its end and return its standard output; both outputs go to `.demo/log/<log>.log`.

    Raises StepFailed when it fails or is not done after `deadline` seconds.
    """
    path = LOG / f"{log}.log"
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=deadline,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StepFailed(f"`{words[0]}` was not done after {deadline:.0f} s", path) from error
    except OSError as error:
        raise StepFailed(f"`{words[0]}` could not be started: {error}") from error
    with path.open("a") as file:
        file.write(f"$ {' '.join(words)}\n{done.stdout}{done.stderr}")
    if done.returncode:
        raise StepFailed(f"`{' '.join(words[:3])}` ended with {done.returncode}", path)
    return done.stdout


def until(what: str, true: Callable[[], bool], deadline: float, log: Path | None = None) -> None:
    """Poll until `true()`; raises StepFailed after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not true():
        if time.monotonic() > end:
            raise StepFailed(f"{what} did not come about within {deadline:.0f} s", log)
        time.sleep(0.1)


def fetch(url: str, ca: Path) -> bytes:
    """What an https server of the demo says; nothing if it does not answer, or not with success."""
    context = ssl.create_default_context(cafile=str(ca))
    try:
        with urllib.request.urlopen(url, context=context, timeout=5) as answer:  # noqa: S310 our own https server
            return bytes(answer.read())
    except (OSError, urllib.error.URLError):
        return b""


# --- processes that stay after this one ends


def load() -> dict[str, dict[str, int]]:
    try:
        return dict(json.loads(STATE.read_text()))
    except (OSError, ValueError):
        return {}


def save(state: dict[str, dict[str, int]]) -> None:
    temporary = STATE.with_suffix(".new")
    temporary.write_text(json.dumps(state, indent=1))
    temporary.replace(STATE)


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot (proc(5)), or 0: tells it from a later one with its pid."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] == "Z" else int(fields[19])


def running(name: str) -> bool:
    entry = load().get(name)
    return bool(entry) and entry is not None and start_ticks(entry["pid"]) == entry["started"] != 0


def start(name: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Path:
    """Start a process that outlives this one, its output in `.demo/log/<name>.log`; returns that path."""
    path = LOG / f"{name}.log"
    with path.open("ab") as log:
        process = subprocess.Popen(
            [str(word) for word in command], cwd=ROOT, env={**os.environ, **(env or {})}, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    save({**load(), name: {"pid": process.pid, "started": start_ticks(process.pid)}})
    return path


def stop(name: str, deadline: float = 10, *, crash: bool = False) -> None:
    """Stop a process that `start` started, if it is still the same one; `crash`: by SIGKILL, with all that it began."""
    state = load()
    if running(name):
        pid = state[name]["pid"]
        if crash:
            os.killpg(pid, signal.SIGKILL)  # it leads a session of its own
        else:
            os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + deadline
        while running(name) and time.monotonic() < end:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            time.sleep(0.05)
        if running(name):
            os.kill(pid, signal.SIGKILL)
        print(f"   stopped {name} ({pid})")
    state.pop(name, None)
    save(state)
