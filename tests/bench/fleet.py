# SPDX-License-Identifier: Apache-2.0
"""A server with many light agents: each a cluster of its own, some hundreds or thousands in one Go process."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench import builds
from bench.builds import Build
from bench.context import Bench
from bench.processes import Failed, Processes, stop, until
from bench.roads import Mooring, start_server

IDENTITIES = Path(__file__).with_name("identities.py")


class Fleet:
    """Light agents of one server. `said` is what they printed last."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: dict[str, Any] = {"sessions": 0, "clusters": 0, "dials": 0, "failures": 0, "time": time.time()}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said = json.loads(line)

    def wait(self, deadline: float, **wanted: int) -> None:
        """Until each number that is named has the value. Raises Failed."""
        try:
            until(
                f"agents: {wanted}",
                lambda: self.process.poll() is not None or all(self.said[name] == wanted[name] for name in wanted),
                deadline,
            )
        except Failed as error:
            raise Failed(f"{error}; they say {self.said}") from None
        if self.process.poll() is not None:
            raise Failed(f"the agents ended with {self.process.returncode}")

    def end(self) -> None:
        """Stop them."""
        stop(self.process)
        self._reader.join(5)


def start_registered(
    bench: Bench, processes: Processes, build: Build, count: int, settings: Mapping[str, str]
) -> tuple[Mooring, dict[str, str], Path]:
    """A server that knows `count` clusters; what registration says; and the file of their identities. Raises Failed."""
    server = start_server(processes, bench.folder / "server", build, settings)
    facts = register_one(server)
    server.stop()
    identities = bench.folder / "identities"
    builds.run([build.python, IDENTITIES, server.folder / "data/mooring.db", str(count), identities])
    server.start()
    return server, facts, identities


def register_one(server: Mooring) -> dict[str, str]:
    """One registration by the REST API, for what it says of this installation: audience and tunnel address."""
    key = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    try:
        server.api("POST", "/clusters", {"name": "first"})
        answer = server.api(
            "POST", "/agents/register",
            {
                "join_token": server.join_values("first")["join_token"],
                "public_key": base64.urlsafe_b64encode(key).rstrip(b"=").decode(),
                "cluster_uid": "first",
            },
        )  # fmt: skip
    except AssertionError as error:
        raise Failed(f"a registration failed: {error}") from error
    return {"audience": answer["audience"], "url": answer["tunnel_urls"][0]}


def start_fleet(
    bench: Bench, processes: Processes, server: Mooring, facts: Mapping[str, str], identities: Path, at_once: int
) -> Fleet:
    """Start the light agents."""
    where = ["-url", facts["url"], "-audience", facts["audience"], "-at-once", str(at_once)]
    words: list[str | Path] = [bench.programs / "agents", "-ca", server.ca, "-identities", identities, *where]
    process = processes.start("agents", words, pipe=True)
    return Fleet(process)
