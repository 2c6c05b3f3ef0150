# SPDX-License-Identifier: Apache-2.0
"""The namespace of a distant site and the link that leads there.

Link number k has the addresses 10.205.<k>.1 (the server) and .5 (the API server) on this machine, and .2 in the
namespace. Everything is in the test bed's register, so that a killed run is swept. Needs root. This module must not
know what runs at either end.
"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

from testbed.errors import TestbedError
from testbed.network import need_root
from testbed.state import Run, command, locked, until

LINKS = 64
MTU = 9000  # fewer packets for a wire that is written in Python


class Link:
    """A namespace and its wire. `rule` says what happens to packets; `clean` ends all that."""

    def __init__(self, run: Run, number: int, seed: int) -> None:
        self.run = run
        self.number = number
        self.near = f"mfw{number}"
        self.netns = run.work / f"{self.near}.netns"
        self._control = run.work / f"{self.near}.sock"
        self._seed = seed

    @property
    def server(self) -> str:
        """Where the server listens."""
        return f"10.205.{self.number}.1"

    @property
    def api(self) -> str:
        """Where the API server listens."""
        return f"10.205.{self.number}.5"

    @property
    def site(self) -> str:
        """The address inside of the namespace."""
        return f"10.205.{self.number}.2"

    @classmethod
    def create(cls, run: Run, seed: int = 0) -> Link:
        """Make one whose device name is free. Raises TestbedError if none is."""
        need_root("namespaces and links")
        with locked("faults-links"):
            for number in range(LINKS):
                link = cls(run, number, seed)
                if not Path("/sys/class/net", link.near).exists():
                    link._up()
                    return link
        raise TestbedError(f"all {LINKS} links are in use: `python -m testbed sweep`?")

    def _up(self) -> None:
        self.run.record("mount", path=str(self.netns))
        self.netns.touch()
        command("unshare", f"--net={self.netns}", "true")
        self.run.record("link", name=self.near)
        argv = [sys.executable, "-m", "faults.wire", f"--netns={self.netns}", f"--near={self.near}", "--far=eth0"]
        argv += [f"--control={self._control}", f"--seed={self._seed}"]
        wire = self.run.spawn(self.near, argv, log=self.run.work / f"{self.near}.log")
        if not until(lambda: self._control.exists() or not wire.alive(), 20) or not wire.alive():
            raise TestbedError(f"the wire did not start: {wire.tail()}")
        inside = ["nsenter", f"--net={self.netns}", "ip"]
        for words in (
            ["ip", "addr", "add", f"{self.server}/24", "dev", self.near],
            ["ip", "addr", "add", f"{self.api}/24", "dev", self.near],
            ["ip", "link", "set", self.near, "mtu", str(MTU), "up"],
            [*inside, "link", "set", "lo", "up"],
            [*inside, "addr", "add", f"{self.site}/24", "dev", "eth0"],
            [*inside, "link", "set", "eth0", "mtu", str(MTU), "up"],
        ):
            command(*words)

    def rule(self, address: str, **words: Any) -> dict[str, int]:
        """What happens from now on to the packets between the site and `address`; see `wire.Rule`."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(self._control))
            with client.makefile("rwb") as file:
                file.write(json.dumps({address: words}).encode() + b"\n")
                file.flush()
                counters: dict[str, int] = json.loads(file.readline())
                return counters

    def cut(self, address: str) -> None:
        """Nothing passes in either direction, and nobody is told."""
        self.rule(address, cut_to_far=True, cut_to_near=True)

    def clean(self) -> None:
        """As a link should be."""
        for address in (self.server, self.api):
            self.rule(address)
