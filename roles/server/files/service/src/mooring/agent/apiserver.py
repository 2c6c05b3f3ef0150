# SPDX-License-Identifier: Apache-2.0
"""The way to the cluster's own kube-apiserver for what comes through the tunnel.

It must not: dial any other address (there is no parameter for one), present the agent's own credential, or trust any
CA but the cluster's.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qs

from mooring.agent.heads import Checked
from mooring.kube.access import ApiServerConfig
from mooring.lib.secrets import Secret
from mooring.net.fetch import Answer, fetch
from mooring.net.http1client import Http1Pool, PlainSink, PoolLimits, UpstreamRequest
from mooring.net.sockets import tcp_connector
from mooring.wire.headers import RequestHead, header_lines

HEAD_TIMEOUT: Final = 90.0
"""Seconds for the head of an ordinary response; kube-apiserver gives up on such a request after 60 s."""

CALL_MAX_BODY: Final = 64 * 1024
"""Bytes of the answer to a small request: a review."""

# Subresources that may stay silent for as long as a person or a program likes.
_LONG: Final = re.compile(rb"/(?:exec|attach|portforward|log|proxy)(?:/|$)|/watch/")


class ApiServer:
    """Runs requests on pooled connections to the one address."""

    def __init__(self, config: ApiServerConfig, max_connections: int) -> None:
        self.authority = config.authority
        self._token: Secret | None = None
        self._ours = Secret("")  # header lines with the token, kept for the next request
        self._pool = Http1Pool(
            tcp_connector(config.host, config.port, config.stream_tls, config.server_name),
            name="the cluster's kube-apiserver",
            limits=PoolLimits(max_connections=max_connections),
        )

    def request(self, request: Checked, token: Secret, sink: PlainSink) -> UpstreamRequest:
        """Starts a request (see `Http1Pool.pass_on`). Raises ValueError for a token that cannot be sent."""
        timeout = None if is_long_running(request.target, request.framing[0]) else HEAD_TIMEOUT
        return self._pool.pass_on(request.method, self.head(request, token), request.framing, sink, timeout)

    def head(self, request: Checked, token: Secret) -> bytes:
        """What kube-apiserver gets: Host and the token first. Raises ValueError for a token that cannot be sent."""
        if token is not self._token:
            bearer = b"Bearer " + token.reveal().encode("ascii")
            lines = header_lines([(b"Host", self.authority), (b"Authorization", bearer)])
            self._ours, self._token = Secret(lines.decode("ascii")), token
        ours = self._ours.reveal().encode("ascii")
        return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (request.method, request.target, ours, request.lines)

    async def call(self, head: RequestHead, body: bytes, deadline: float) -> Answer:
        """A small request and its whole answer within `deadline` seconds. Raises FetchError."""
        return await fetch(self._pool, head, body, deadline=deadline, max_body=CALL_MAX_BODY)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._pool.aclose()


def is_long_running(target: bytes, upgrade: bool) -> bool:
    """Whether the head of the response may take its time: watches, logs, exec and its like, proxied programs.

    Such a request lasts until its client goes or the connection dies, which keep-alive notices.
    """
    path, _unused, query = target.partition(b"?")
    if upgrade or _LONG.search(path):
        return True
    return b"watch=" in query and parse_qs(query.decode("ascii")).get("watch", [""])[0] in ("1", "true")


def is_proxied(target: bytes) -> bool:
    """Whether the answer comes from a program in the cluster (`.../proxy/...`) and not from kube-apiserver."""
    return b"/proxy" in target.partition(b"?")[0]
