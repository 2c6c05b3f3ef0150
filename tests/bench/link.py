# SPDX-License-Identifier: Apache-2.0
"""A network namespace for a cluster and its agent, and a link from it to here, as slow as asked.

The rate is a token bucket (tc tbf) on each end. Names and addresses carry this process's number; all goes when the
block ends.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

from bench import builds
from bench.processes import Failed


class Link:
    """The link. `rate` in bytes per second; 0: as fast as the machine."""

    def __init__(self, rate: int = 0) -> None:
        self.rate = rate
        pid = os.getpid()
        self._name = f"mbench{pid}"
        network = f"10.199.{pid // 64 % 256}.{pid % 64 * 4}".rpartition(".")
        self.near = f"{network[0]}.{int(network[2]) + 1}"
        """The address of this end, where servers listen."""
        self.far = f"{network[0]}.{int(network[2]) + 2}"
        """The address of the end in the namespace."""

    @property
    def inside(self) -> tuple[str, ...]:
        """The command prefix that enters the namespace."""
        return ("ip", "netns", "exec", self._name)

    def __enter__(self) -> Self:
        """Raises Failed, most often because this is not root."""
        if os.geteuid():
            raise Failed("a network namespace needs root")
        try:
            builds.run(["ip", "netns", "add", self._name])
            builds.run(["ip", "link", "add", self._name, "type", "veth", "peer", "name", "eth0", "netns", self._name])
            self._set_up([], self._name, self.near)
            self._set_up(["-n", self._name], "eth0", self.far)
            self._know_each_other()
            builds.run(["ip", "-n", self._name, "link", "set", "lo", "up"])
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _set_up(self, where: list[str], device: str, address: str) -> None:
        builds.run(["ip", *where, "link", "set", device, "addrgenmode", "none"])  # no IPv6: it would ask for routers
        builds.run(["ip", *where, "addr", "add", f"{address}/30", "dev", device])
        builds.run(["ip", *where, "link", "set", device, "up", "gso_max_size", "3000"])
        if self.rate:
            bucket = ["rate", f"{self.rate}bps", "burst", "16kb", "limit", "64kb"]
            builds.run(["tc", *where, "qdisc", "add", "dev", device, "root", "tbf", *bucket])

    def _know_each_other(self) -> None:
        """Each end knows the other's hardware address for good, so that no ARP is among what is counted."""
        near = builds.run(["cat", f"/sys/class/net/{self._name}/address"]).strip()
        far = builds.run([*self.inside, "cat", "/sys/class/net/eth0/address"]).strip()
        entry = ["nud", "permanent", "dev"]
        builds.run(["ip", "neigh", "replace", self.far, "lladdr", far, *entry, self._name])
        builds.run(["ip", "-n", self._name, "neigh", "replace", self.near, "lladdr", near, *entry, "eth0"])

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        # By hand, since a link goes only some time after its namespace.
        if Path(f"/sys/class/net/{self._name}").exists():
            builds.run(["ip", "link", "del", self._name])
        if Path(f"/run/netns/{self._name}").exists():
            builds.run(["ip", "netns", "del", self._name])

    def bytes(self) -> int:
        """Bytes of IP packets over the link so far, both ways; Ethernet's 14 bytes each are left out."""
        counters = [
            f"/sys/class/net/{self._name}/statistics/{way}_{what}"
            for way in ("rx", "tx")
            for what in ("bytes", "packets")
        ]
        rx, rx_packets, tx, tx_packets = (int(line) for line in builds.run(["cat", *counters]).split())
        return rx + tx - 14 * (rx_packets + tx_packets)
