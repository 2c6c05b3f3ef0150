# SPDX-License-Identifier: Apache-2.0
"""What an agent says of the endpoint of its cluster, read, and written down at most once a second.

An agent is believed about its own cluster only. Addresses and certificates go into people's kubeconfigs, so that each
must have its form: an address is an IP or a DNS name, a CA is nothing but certificates. What has not is left out.

It must not: write for every message of a talkative agent, or lose the last one while the database is away.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from dataclasses import replace
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mooring.control.noted import write_noted
from mooring.control.status import MAX_MESSAGE, clean
from mooring.lib import logging
from mooring.lib.clock import Clock
from mooring.lib.tasks import Supervisor
from mooring.store.ports import Store, StoreUnavailable
from mooring.store.records import EndpointNode, EndpointStatus

MAX_NODES: Final = 32  # control planes
MAX_CA: Final = 64 * 1024  # characters of PEM
MAX_CERTIFICATES: Final = 16
SAME_AGAIN: Final = 60.0  # seconds after which a status is written again that says the same
_MOST: Final = 2**53  # of a number that JSON carries exactly
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_DNS_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
)
_URL: Final = re.compile(r"https://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:(?P<port>[0-9]{1,5}))?")


class _Node(msgspec.Struct, frozen=True):
    name: str
    host: str
    port: int


class _Serving(msgspec.Struct, frozen=True):
    url: str
    ca_pem: str = ""


class _Message(msgspec.Struct, frozen=True):
    revision: int = 0
    digest: str = ""
    problem: str = ""
    nodes: list[_Node] = msgspec.field(default_factory=list)
    ca_pem: str = ""
    serving: _Serving | None = None


def read(message: dict[str, Any], now: float) -> EndpointStatus:
    """An agent's message of kind `endpoint-status`, checked. Raises ValueError if it does not have the form."""
    try:
        said = msgspec.convert(message, _Message)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    serving_ca = "" if said.serving is None else certificates(said.serving.ca_pem)
    serving = said.serving is not None and is_url(said.serving.url) and bool(serving_ca)
    return EndpointStatus(
        nodes=_nodes(said.nodes),
        ca_pem=certificates(said.ca_pem),
        serving_url=said.serving.url if said.serving is not None and serving else "",
        serving_ca_pem=serving_ca if serving else "",
        revision=max(0, min(said.revision, _MOST)),
        digest=said.digest if _DIGEST.fullmatch(said.digest) else "",
        problem=clean(said.problem, MAX_MESSAGE),
        at=now,
    )


def is_host(text: str) -> bool:
    """Whether it is an IP address or a DNS name, in lower case and without a dot at its end."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return _DNS_NAME.fullmatch(text) is not None
    return "%" not in text  # no zone: it would mean something on one machine only


def is_url(text: str) -> bool:
    """Whether it is `https://host` or `https://host:port`, and nothing more."""
    match = _URL.fullmatch(text)
    return (
        match is not None
        and is_host(match["host"].removeprefix("[").removesuffix("]"))
        and (match["port"] is None or 0 < int(match["port"]) < 65536)
    )


def certificates(pem: str) -> str:
    """The certificates in a PEM text, and nothing else of it; "" if there are none, or too many, or one is broken."""
    if not pem or len(pem) > MAX_CA:
        return ""
    try:
        found = x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        return ""
    if len(found) > MAX_CERTIFICATES:
        return ""
    return "".join(one.public_bytes(Encoding.PEM).decode() for one in found)


def _nodes(said: list[_Node]) -> tuple[EndpointNode, ...]:
    """In the order of names, each name once."""
    found: dict[str, EndpointNode] = {}
    for node in said:
        if _DNS_NAME.fullmatch(node.name) and is_host(node.host) and 0 < node.port < 65536 and len(found) < MAX_NODES:
            found.setdefault(node.name, EndpointNode(node.name, node.host, node.port))
    return tuple(found[name] for name in sorted(found))


class EndpointStatuses:
    """`heard` takes what agents say; what changed is written."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._last: dict[str, EndpointStatus] = {}  # of each cluster, as it was noted to be written
        self._noted: dict[str, EndpointStatus] = {}
        self._write = asyncio.Event()
        self._tasks = Supervisor("endpoint statuses")
        self._log = logging.get("mooring.control")

    def start(self) -> None:
        """Write from now on."""
        self._tasks.spawn(
            write_noted(self._write, self.flush, "what agents said of endpoints was not written"), "write"
        )

    async def aclose(self) -> None:
        """Write what is still noted, if the database answers within 5 seconds."""
        await self._tasks.aclose()
        try:
            async with asyncio.timeout(5):
                await self.flush()
        except (StoreUnavailable, TimeoutError):
            self._log.warning("what the last agents said of their endpoints was not written")

    def forget(self, cluster_id: str) -> None:
        """The cluster was deleted."""
        self._last.pop(cluster_id, None)
        self._noted.pop(cluster_id, None)

    def heard(self, cluster_id: str, message: dict[str, Any]) -> EndpointStatus | None:
        """Take over an `endpoint-status` of a cluster's agent; None if it cannot be understood."""
        now = self._clock.now()
        try:
            status = read(message, now)
        except ValueError as error:
            self._log.warning("an agent's endpoint-status was not understood", cluster=cluster_id, error=str(error))
            return None
        before = self._last.get(cluster_id)
        if before is None or replace(before, at=now) != status or now - before.at >= SAME_AGAIN:
            self._last[cluster_id] = self._noted[cluster_id] = status
            self._write.set()
        if status.problem and (before is None or status.problem != before.problem):
            self._log.warning("an endpoint is not up to date", cluster=cluster_id, problem=status.problem)
        return status

    async def flush(self) -> None:
        """Write what changed, now. What could not be written stays noted. Raises StoreUnavailable."""
        noted, self._noted = self._noted, {}
        if not noted:
            return
        try:
            async with self._store.write() as tx:
                await tx.clusters.set_endpoint_statuses(noted)
        except BaseException:
            self._noted = {**noted, **self._noted}
            raise
