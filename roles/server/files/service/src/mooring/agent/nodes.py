# SPDX-License-Identifier: Apache-2.0
"""Which nodes the cluster has, and whether each is ready: a list, then a watch.

Nodes are asked for as a table without objects: about 200 bytes for a node instead of 15 KB.
It must not: poll (a node's heartbeat does not change the node), or hold more of a node than name and readiness.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from mooring.kube.access import BadConfig
from mooring.kube.client import KubeApi, KubeError
from mooring.lib import logging
from mooring.lib.backoff import Backoff
from mooring.net.fetch import FetchError

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
WATCH_SECONDS = 290
"""After this the watch is ended by the API server and the list is read anew."""
MAX_LINE = 1024 * 1024
"""Bytes of one watch event."""


class Nodes:
    """Follows the nodes; calls `changed` when a count may be another."""

    def __init__(self, kube: KubeApi, changed: Callable[[], None]) -> None:
        self._kube = kube
        self._changed = changed
        self._ready: dict[str, bool] = {}
        self._columns: tuple[int, int] = (0, 1)
        self._log = logging.get("mooring.agent.nodes")
        self.known = False
        """Whether the nodes could be read at all."""

    @property
    def count(self) -> int:
        """Nodes."""
        return len(self._ready)

    @property
    def ready(self) -> int:
        """Nodes that are ready."""
        return sum(self._ready.values())

    async def run(self) -> None:
        """Follows the nodes until cancelled."""
        backoff = Backoff(0.5, 5.0)
        while True:
            try:
                version = await self._list()
                backoff.reset()
                await self._watch(version)
            except (KubeError, FetchError, BadConfig, msgspec.MsgspecError) as error:
                self._log.info("the nodes cannot be followed just now", reason=str(error))
            await asyncio.sleep(backoff.next())

    async def _list(self) -> str:
        table = await self._kube.json("GET", "/api/v1/nodes?includeObject=None&resourceVersion=0", accept=TABLE)
        self._set_columns(table)
        self._ready = dict(self._rows(table))
        self.known = True
        self._changed()
        metadata = table.get("metadata")
        return str(metadata.get("resourceVersion", "")) if isinstance(metadata, dict) else ""

    async def _watch(self, version: str) -> None:
        path = f"/api/v1/nodes?watch=1&includeObject=None&resourceVersion={version}&timeoutSeconds={WATCH_SECONDS}"
        async for line in self._lines(path):
            event = msgspec.json.decode(line, type=dict[str, Any])
            kind, table = event.get("type"), event.get("object")
            if kind == "ERROR" or not isinstance(table, dict):
                return  # most often the version is too old: list again
            self._set_columns(table)
            for name, ready in self._rows(table):
                if kind == "DELETED":
                    self._ready.pop(name, None)
                else:
                    self._ready[name] = ready
            self._changed()

    async def _lines(self, path: str) -> AsyncIterator[bytes]:
        download = self._kube.watch(path, accept=TABLE)
        try:
            head = await download.head()
            if head.status != 200:
                raise KubeError(head.status, f"watching the nodes: HTTP status {head.status}")
            rest = b""
            async for piece in download:
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > MAX_LINE:
                    raise KubeError(502, "an event of the nodes is too large")
                for line in lines:
                    if line.strip():
                        yield line
        finally:
            download.close()

    def _set_columns(self, table: dict[str, Any]) -> None:
        """Where name and status stand; only the first table of a watch says so."""
        definitions = table.get("columnDefinitions") or []
        names = [str(column.get("name", "")) for column in definitions]
        if "Name" in names and "Status" in names:
            self._columns = (names.index("Name"), names.index("Status"))

    def _rows(self, table: dict[str, Any]) -> list[tuple[str, bool]]:
        rows = []
        for row in table.get("rows") or []:
            cells = row.get("cells") or []
            if len(cells) > max(self._columns):
                # "Ready", "NotReady", "Ready,SchedulingDisabled"
                rows.append(
                    (str(cells[self._columns[0]]), str(cells[self._columns[1]]).split(",", maxsplit=1)[0] == "Ready")
                )
        return rows
