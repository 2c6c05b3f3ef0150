# SPDX-License-Identifier: Apache-2.0
"""Which processes a server consists of, in a file in its data folder: for people, the doctor and `server restart`.

It must not: be believed by the server itself, beyond whether an earlier supervisor is still there.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec

from mooring.lib.config import Config
from mooring.lib.files import write_atomic


class WorkerState(msgspec.Struct, frozen=True, kw_only=True):
    """A worker: its place, its process, and the name that it has in HELLO."""

    slot: int
    pid: int
    instance: str


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The supervisor, the control process and the workers that are ready. `restarts` counts rolling restarts that
    came to an end; `failure` says why the last one was given up."""

    pid: int
    control: int
    workers: list[WorkerState]
    restarts: int = 0
    failure: str = ""


def path(config: Config) -> Path:
    """Where it is kept."""
    return config.data_dir / "state.json"


def write(config: Config, state: State) -> None:
    """Replace the file. Raises OSError."""
    write_atomic(path(config), msgspec.json.format(msgspec.json.encode(state)) + b"\n")


def read(config: Config) -> State | None:
    """What it says; None when there is none, or it cannot be read."""
    try:
        return msgspec.json.decode(path(config).read_bytes(), type=State)
    except (OSError, msgspec.MsgspecError):
        return None


def remove(config: Config) -> None:
    """The server has stopped."""
    path(config).unlink(missing_ok=True)


def running(config: Config) -> State | None:
    """What a server that runs now says; None when none does."""
    try:
        with (config.run_dir / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return read(config)  # its processes hold the lock
    except OSError:
        return None
    return None


def alive(pid: int) -> bool:
    """Whether there is a process with this number that has not ended (proc(5): a zombie has)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        # The name, in brackets, may hold anything; the state follows it.
        return not Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].lstrip().startswith((b"Z", b"X"))
    except FileNotFoundError:
        return False
    except OSError:
        return True
