# SPDX-License-Identifier: Apache-2.0
"""A process's own calls to its kube-apiserver: secrets, one token, nodes, health. A handful, so no client library.

Why not a library: lightkube would add 14 MiB to a process of about 40 (docs/decisions/0002-agent-kubernetes-client.md).
It must not: carry requests of the server's users; those go through `apiserver`, with another credential.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mooring.kube.access import ApiServerConfig
from mooring.lib.errors import MooringError
from mooring.lib.version import VERSION
from mooring.net.fetch import Answer, Download, fetch
from mooring.net.http1client import Http1Pool, PoolLimits
from mooring.net.sockets import tcp_connector
from mooring.wire.headers import Headers, RequestHead

DEADLINE = 10.0
"""Seconds for a call."""
MAX_BODY = 16 * 1024 * 1024
"""Bytes of an answer: a table of 20,000 nodes is about 5 MB."""


class KubeError(MooringError):
    """kube-apiserver answered with an error. `status` is the HTTP status."""

    def __init__(self, status: int, reason: str, hint: str = "") -> None:
        super().__init__(reason, hint)
        self.status = status


class KubeApi:
    """Calls as the process itself. `agent` is what it calls itself in User-Agent."""

    def __init__(
        self, config: ApiServerConfig, *, connections: int = 8, idle: int = 2, agent: str = "mooring-agent"
    ) -> None:
        self._config = config
        self._agent = f"{agent}/{VERSION}".encode()
        self._pool = Http1Pool(
            tcp_connector(config.host, config.port, config.own_tls, config.server_name),
            name="the cluster's kube-apiserver",
            limits=PoolLimits(max_connections=connections, max_idle=idle),
        )

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        accept: str = "application/json",
        media: str = "application/json",
        deadline: float = DEADLINE,
    ) -> Answer:
        """A call and its answer, whatever its status. `media` is the type of the body. Raises FetchError, BadConfig."""
        head = self._head(method, path, accept, media if body is not None else "")
        data = msgspec.json.encode(body) if body is not None else b""
        return await fetch(self._pool, head, data, deadline=deadline, max_body=MAX_BODY)

    async def json(
        self, method: str, path: str, body: Any = None, *, accept: str = "application/json"
    ) -> dict[str, Any]:
        """A call that must succeed and answer with a JSON object. Raises KubeError, FetchError."""
        answer = await self.call(method, path, body, accept=accept)
        if answer.status >= 300:
            raise KubeError(answer.status, f"{method} {path.split('?')[0]}: {message_of(answer)}")
        try:
            return msgspec.json.decode(answer.body, type=dict[str, Any])
        except msgspec.MsgspecError:
            raise KubeError(answer.status, f"{method} {path.split('?')[0]}: the answer is not JSON") from None

    def watch(self, path: str, *, accept: str = "application/json") -> Download:
        """A response that goes on: read it piece by piece, and close it."""
        return Download(self._pool, self._head("GET", path, accept, ""), b"", DEADLINE)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._pool.aclose()

    def _head(self, method: str, path: str, accept: str, media: str) -> RequestHead:
        headers: Headers = [
            (b"Host", self._config.authority),
            (b"User-Agent", self._agent),
            (b"Accept", accept.encode()),
        ]
        if media:
            headers.append((b"Content-Type", media.encode()))
        token = self._config.bearer()
        if token is not None:
            headers.append((b"Authorization", b"Bearer " + token.reveal().encode()))
        return RequestHead(method.encode(), path.encode(), headers)


def message_of(answer: Answer) -> str:
    """What a Status says, else the HTTP status."""
    try:
        message = msgspec.json.decode(answer.body, type=dict[str, Any]).get("message")
    except msgspec.MsgspecError:
        message = None
    return str(message)[:500] if message else f"HTTP status {answer.status}"
