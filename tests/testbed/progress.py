# SPDX-License-Identifier: Apache-2.0
"""Long commands with signs of life: compilers and debootstrap take minutes, and a person must see that they go on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from testbed.errors import BuildError

HEARTBEAT = 30.0  # seconds between two signs of life


def say(text: str) -> None:
    """One line of progress for the person who waits. Not stdout, which holds results."""
    print(text, file=sys.stderr, flush=True)


def run_long(
    title: str,
    words: Sequence[str],
    *,
    log: Path,
    deadline: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a command that takes long, its output in `log`, and say how long it has run.

    Raises BuildError with the end of the log if it fails, is not there, or takes more than `deadline` seconds.
    """
    say(f"{title} …")
    started = time.monotonic()
    with log.open("w") as output:
        try:
            process = subprocess.Popen(
                ["nice", *words],
                cwd=cwd,
                env=dict(env or os.environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        except FileNotFoundError as error:
            raise BuildError(f"{title}: there is no {error.filename}: see tests/testbed/packages.txt") from None
        try:
            while process.poll() is None:
                try:
                    process.wait(HEARTBEAT)
                except subprocess.TimeoutExpired:
                    elapsed = time.monotonic() - started
                    if elapsed > deadline:
                        raise BuildError(f"{title}: no end after {deadline:.0f} s; see {log}") from None
                    say(f"{title} … {elapsed:.0f} s {_end(log, 80)}")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode != 0:
        raise BuildError(f"{title} failed with exit code {process.returncode} ({log}):\n{_end(log, 2000)}")
    say(f"{title}: done in {time.monotonic() - started:.0f} s")


def _end(log: Path, size: int) -> str:
    """The end of a log in at most `size` characters: whole lines, and without the addresses of mirrors."""
    text = re.sub(r"https?://\S+", "(mirror)", log.read_text(errors="replace").strip())
    return text.rpartition("\n")[2][-size:] if size < 200 else text[-size:]
