# SPDX-License-Identifier: Apache-2.0
"""Bridges of the test bed: one per cluster with nodes or per set of machines, with addresses that nobody else uses.

Network number k (0 to 63) has the bridge `mbed<k>` with 10.200.<k>.1/24 on this machine, and 4094 addresses for pods in
10.201.0.0 to 10.204.255.255. What is on a bridge reaches this machine, its neighbours, and the test bed's other bridges
with their pods. Routing rules answer everything else with "unreachable" at once, whatever this machine's `ip_forward`
says.

Needs root. This module must not know what is attached to a bridge.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
from dataclasses import dataclass
from pathlib import Path

from testbed.errors import TestbedError
from testbed.state import Run, command, locked

NETWORKS = 64
SPANS = ("10.200.0.0/14", "10.204.0.0/16")


def need_root(what: str) -> None:
    """Raises TestbedError unless this process may make namespaces and links."""
    if os.geteuid() != 0:
        raise TestbedError(f"{what} need root: they are made of namespaces, links and cgroups")


@dataclass(frozen=True, slots=True)
class Network:
    """A bridge and the addresses that belong to it."""

    number: int
    name: str

    @property
    def host(self) -> str:
        """This machine's address on the bridge."""
        return f"10.200.{self.number}.1"

    def address(self, index: int) -> str:
        """The address of what is attached as number `index` (1 to 99)."""
        assert 1 <= index <= 99
        return f"10.200.{self.number}.{index + 10}"

    @property
    def pods(self) -> str:
        """The range that holds the pod ranges of all nodes."""
        return f"{self._pods_prefix(0)}.0/20"

    def node_pods(self, index: int) -> str:
        """The pod range of node number `index` (1 to 15)."""
        assert 1 <= index <= 15
        return f"{self._pods_prefix(index)}.0/24"

    def _pods_prefix(self, index: int) -> str:
        return f"10.{201 + self.number // 16}.{self.number % 16 * 16 + index}"

    def veth(self, index: int) -> str:
        """The name of this machine's end of the link to number `index`."""
        return f"{self.name}v{index}"

    @classmethod
    def create(cls, run: Run) -> Network:
        """Make a bridge whose number, name and addresses are free. Raises TestbedError if none is."""
        need_root("nodes and machines")
        with locked("network"):
            taken = _used_networks()
            for number in range(NETWORKS):
                network = cls(number, f"mbed{number}")
                ranges = [ipaddress.ip_network(f"10.200.{number}.0/24"), ipaddress.ip_network(network.pods)]
                if Path("/sys/class/net", network.name).exists() or any(r.overlaps(t) for r in ranges for t in taken):
                    continue
                network._up(run)
                return network
        raise TestbedError(f"all {NETWORKS} networks of the test bed are in use: `python -m testbed sweep`?")

    def _up(self, run: Run) -> None:
        rules = []
        for preference, span in enumerate(SPANS, 1):
            # Only routes of /24 and longer, those of bridges and nodes: never the default route.
            known = ["lookup", "main", "suppress_prefixlength", "23"]
            rules.append(["pref", str(preference), "iif", self.name, "to", span, *known])
        rules.append(["pref", str(len(SPANS) + 1), "iif", self.name, "unreachable"])
        run.record("link", name=self.name)
        for rule in rules:
            run.record("rule", words=rule)
        command("ip", "link", "add", self.name, "type", "bridge")
        command("ip", "addr", "add", f"{self.host}/24", "dev", self.name)
        command("ip", "link", "set", self.name, "up")
        for rule in rules:
            command("ip", "rule", "add", *rule)
        # The kernel answers with an ICMP error only where it would forward.
        Path(f"/proc/sys/net/ipv4/conf/{self.name}/forwarding").write_text("1")

    def attach_commands(self, index: int, netns: Path, mac: str | None = None) -> list[list[str]]:
        """The commands that give the network namespace named by a file an `eth0` on the bridge.

        Its default route leads to this machine. The link's name is `veth(index)`; the caller records it.
        """
        veth = self.veth(index)
        peer = ["name", "eth0", *(["address", mac] if mac else []), "netns", str(netns)]
        inside = ["nsenter", f"--net={netns}", "ip"]
        return [
            ["ip", "link", "add", veth, "type", "veth", "peer", *peer],
            ["ip", "link", "set", veth, "master", self.name, "up"],
            [*inside, "link", "set", "lo", "up"],
            [*inside, "addr", "add", f"{self.address(index)}/24", "dev", "eth0"],
            [*inside, "link", "set", "eth0", "up"],
            [*inside, "route", "add", "default", "via", self.host],
        ]


def _used_networks() -> list[ipaddress.IPv4Network]:
    """What this machine has a route to, the default route aside."""
    routes = json.loads(command("ip", "-json", "-4", "route", "show", "table", "all").stdout or "[]")
    used = []
    for route in routes:
        with contextlib.suppress(ValueError):  # "default", multicast notations
            network = ipaddress.ip_network(route["dst"])
            if network.version == 4 and network.prefixlen >= 8:
                used.append(network)
    return used
