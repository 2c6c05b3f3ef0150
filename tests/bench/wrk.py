# SPDX-License-Identifier: Apache-2.0
"""The load of the rates: wrk, one thread, keep-alive, TLS. An answer that is not 2xx or 3xx is an error, not a rate."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.processes import Failed

SCRIPT = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True, slots=True)
class Load:
    """One run: how many answers in how many seconds, bytes, and percentiles of the latency in ms by their number."""

    requests: int
    seconds: float
    bytes: int
    errors: int
    latency: Mapping[str, float]

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    @property
    def megabytes(self) -> float:
        """10^6 bytes per second."""
        return self.bytes / self.seconds / 1e6


def parse(output: str) -> Load:
    """What the script printed. Raises Failed when it did not, or when nothing was answered."""
    for line in output.splitlines():
        if line.startswith("BENCH "):
            load = Load(**json.loads(line.removeprefix("BENCH ")))
            if not load.requests or load.seconds <= 0:
                raise Failed(f"wrk got no answer: {line}")
            return load
    raise Failed(f"wrk said nothing: {output}")


def warm(url: str, token: str, connections: int) -> None:
    """Load a URL for a second so that code paths, pools and caches are warm; what comes of it does not matter."""
    try:
        run(url, token, connections, 1)
    except Failed:
        pass  # the measurement that follows will say so too


def run(url: str, token: str, connections: int, seconds: float) -> Load:
    """Load a URL. Raises Failed when wrk is missing or fails, and when one answer in a thousand or more is an error."""
    if shutil.which("wrk") is None:
        raise Failed("wrk is not installed: apt-get install wrk")
    # wrk takes whole seconds only.
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s", "-s", str(SCRIPT)]
    done = subprocess.run(
        [*command, "-H", f"Authorization: Bearer {token}", url],
        capture_output=True, text=True, check=False, timeout=seconds + 60,
    )  # fmt: skip
    if done.returncode:
        raise Failed(f"wrk ended with {done.returncode}: {done.stdout}{done.stderr}")
    load = parse(done.stdout)
    if load.errors * 1000 > load.requests:
        raise Failed(f"{url}: {load.errors} errors beside {load.requests} answers")
    return load
