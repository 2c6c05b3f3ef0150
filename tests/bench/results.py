# SPDX-License-Identifier: Apache-2.0
"""What a run found: rows, goals and errors by scenario, kept in build/bench/results.json.

A run of some scenarios (ONLY=) replaces these and keeps the others with the time and commit that they have, so that a
long soak can be run by itself. A scenario that failed replaces the figures that it had by its error.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import builds, goals
from bench.options import OUT, Options

FILE = OUT / "results.json"
Row = dict[str, Any]


class Results:
    """The scenarios of this run and, unless it starts `afresh`, of those before it."""

    def __init__(self, file: Path = FILE, *, afresh: bool = False) -> None:
        self.file = file
        self.scenarios: dict[str, dict[str, Any]] = {}
        if afresh:
            return
        try:
            self.scenarios = json.loads(file.read_text())["scenarios"]
        except (OSError, ValueError, KeyError):
            pass  # there was no run before this one

    def put(
        self,
        name: str,
        *,
        rows: list[Row],
        values: Mapping[str, float],
        error: str,
        facts: Mapping[str, Any],
        others: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """Keep what a scenario found; `facts` are those of the run, `others` the values of other roads of ours."""
        kept = {road: dict(found) for road, found in (others or {}).items()}
        self.scenarios[name] = {"rows": rows, "values": dict(values), "others": kept, "error": error, **facts}

    def goals(self) -> dict[str, dict[str, Any]]:
        """The goals, of all scenarios that did not fail."""
        values: dict[str, float | None] = {}
        for one in self.scenarios.values():
            if not one["error"]:
                values.update(one["values"])
        return goals.assess(values)

    def write(self, machine: Mapping[str, Any], options: Options) -> None:
        """Write the file, whole or not at all."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(
            {
                "machine": machine,
                "rounds": options.rounds,
                "seconds": options.seconds,
                "goals": self.goals(),
                "scenarios": self.scenarios,
            },
            indent=1,
        )
        scratch = self.file.with_suffix(".tmp")
        scratch.write_text(text + "\n")
        scratch.replace(self.file)


def run_facts(options: Options) -> dict[str, Any]:
    """When and of what a scenario was measured."""
    commit = builds.git("rev-parse", "--short=12", "HEAD", source=options.source)
    changed = builds.git("status", "--porcelain", "--", str(builds.SERVICE), source=options.source)
    load = os.getloadavg()[0]
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit + ("+changes" if changed else ""),
        "load_before": round(load, 2),
    }


def machine(python: Path) -> dict[str, Any]:
    """The machine and the versions of what runs on it."""
    model = [
        line.partition(":")[2].strip() for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name")
    ]
    memory = _read("/proc/meminfo").split()
    debian = builds.interpreter() == builds.DEBIAN
    return {
        "processors": os.cpu_count(),
        "model": model[0] if model else platform.machine(),
        "memory_gb": round(int(memory[1]) / 1024**2, 1) if len(memory) > 1 else None,
        "kernel": platform.release(),
        "python": f"{_said([str(python), '-VV'])}{' of Debian' if debian else ''}",
        "go": _said([builds.go(), "version"]),
        "nginx": _said(["nginx", "-v"]),
        "wrk": _said(["wrk", "-v"]),
        "openssl": _said([str(python), "-c", "import ssl; print(ssl.OPENSSL_VERSION)"]),
        "remotedialer": _pin("github.com/rancher/remotedialer"),
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _said(words: list[str]) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    except OSError:
        return "missing"
    return (done.stdout + done.stderr).strip().splitlines()[0]


def _pin(module: str) -> str:
    for line in (builds.PEER / "go.mod").read_text().splitlines():
        words = line.split()
        if module in words:
            return words[words.index(module) + 1]
    return "missing"
