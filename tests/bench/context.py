# SPDX-License-Identifier: Apache-2.0
"""What a scenario gets: options, programs, a folder, and where it puts its findings."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.builds import Build
from bench.options import Options
from bench.processes import Failed
from bench.results import Row
from bench.upstream import Trust


@dataclass
class Bench:
    """One scenario's surroundings and its findings."""

    options: Options
    programs: Path
    build: Build
    more: list[Build]
    """Other builds that rates compare: the commit before, the compiled one."""
    folder: Path
    trust: Trust
    rows: list[Row] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    others: dict[str, dict[str, float]] = field(default_factory=dict)
    """The same figures of other roads of ours, by road: no goals, but what one would ask next."""

    def say(self, text: str) -> None:
        """Tell the person in front of it."""
        print(f"[bench] {text}", flush=True)

    def tokens(self, *tokens: str, name: str = "tokens") -> Path:
        """A file with tokens for the load program."""
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text("\n".join(tokens) + "\n")
        return path

    def load_command(self, command: str, ca: Path, tokens: Path, *flags: str, seconds: float) -> list[str]:
        """The words that start the load program."""
        return [
            str(self.programs / "load"),
            "-ca",
            str(ca),
            "-tokens",
            str(tokens),
            "-seconds",
            f"{seconds:g}",
            *flags,
            command,
        ]

    def load(
        self, command: str, ca: Path, tokens: Path, *flags: str, seconds: float, inside: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Run the load program and return what it measured. Raises Failed."""
        words = [*inside, *self.load_command(command, ca, tokens, *flags, seconds=seconds)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=seconds + 240)
        return said(command, done.returncode, done.stdout, done.stderr)


def said(command: str, code: int, output: str, errors: str = "") -> dict[str, Any]:
    """What the load program printed. Raises Failed."""
    if code or not output.strip():
        raise Failed(f"load {command} ended with {code}: {errors[-1500:]}")
    found: dict[str, Any] = json.loads(output)
    return found


def wait_seconds(seconds: float) -> None:
    """Let time pass that is itself what is measured (an idle minute)."""
    time.sleep(seconds)
