# SPDX-License-Identifier: Apache-2.0
"""A cluster of glass: its agent is the test, so that one sees what the server sends into a cluster, byte for byte.

A real API server says whom it took a caller for, not what stood in the request. The agent here registers with a key of
its own, dials every worker as a real one does, keeps each request, and answers what the test tells it to, which may be
what no honest cluster would say.

It must not: check anything. What gets to it has passed the server.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from mooring.agent.dialer import Dialer
from mooring.agent.identity import Identity, Join, new_key, registered
from mooring.lib.clock import SystemClock
from mooring.lib.secrets import Secret
from mooring.tunnel.session import Session
from mooring.tunnel.stream import Code, Stream, unpack_open

from support.road import Server, until


@dataclass
class Call:
    """A request as it came out of the tunnel. `head` ends with the empty line; the body is without chunk framing."""

    target: str
    head: bytes
    body: bytes = b""
    ended: bool = False
    reset: bool = False
    stream: Stream | None = field(default=None, repr=False)

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Names in lower case."""
        lines = [line.partition(b":") for line in self.head.split(b"\r\n")[1:-2]]
        return [(name.lower(), value.strip()) for name, _unused, value in lines]

    def get_all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


Answer = tuple[bytes, bytes]
"""Head (with the empty line) and body."""
OK: Answer = (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", b"{}")


class Glass:
    """The cluster `name`, connected. `calls` grows; `answer` may be replaced, and None leaves the client waiting."""

    def __init__(self, server: Server, name: str) -> None:
        self.name = name
        self.calls: list[Call] = []
        self.answer: Callable[[Call], Answer | None] = lambda call: OK
        made = server.api("POST", "/clusters", {"name": name})
        self.id: str = made["id"]
        self.identity = register(server, name, Identity(key=new_key()), f"uid-of-{name}")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"glass {name}", daemon=True)
        self._thread.start()
        self._dialer: Dialer = self.run(self._dial())
        path, token = f"/k8s/clusters/{name}/version", server.admin_token
        until(f"{name} is connected", lambda: server.call("GET", path, token=token).status == 200, 60)
        self.calls.clear()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the agent's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    @property
    def sessions(self) -> list[Session]:
        """The live sessions, one for each worker of the server."""
        return self._dialer.sessions

    def path(self, rest: str) -> str:
        return f"/k8s/clusters/{self.name}{rest}"

    def close(self) -> None:
        self.run(self._dialer.drain(0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    # -- on the loop

    async def _dial(self) -> Dialer:
        dialer = Dialer(self.identity, self._open, self._renew, clock=SystemClock(), max_streams=1024)
        dialer.start()
        return dialer

    async def _renew(self, identity: Identity) -> Identity | None:
        return None

    def _open(self, stream: Stream, payload: bytes, fin: bool, /) -> _Sink:
        opened = unpack_open(payload)
        call = Call(opened.target, opened.head, stream=stream, ended=fin)
        self.calls.append(call)
        sink = _Sink(self, call)
        if fin or call.get_all(b"upgrade"):
            sink.answer()
        return sink


class _Sink:
    """StreamSink of one request."""

    def __init__(self, glass: Glass, call: Call) -> None:
        self._glass = glass
        self._call = call
        self._answered = False

    def answer(self) -> None:
        stream = self._call.stream
        answer = None if self._answered else self._glass.answer(self._call)
        if answer is None or stream is None:
            return
        self._answered = True
        head, body = answer
        switched = head.startswith(b"HTTP/1.1 101")
        stream.opened(head, not body and not switched)
        if body:
            stream.write(body, fin=not switched)

    def on_data(self, data: bytes) -> None:
        self._call.body += data
        if self._call.stream is not None:
            self._call.stream.consumed(len(data))

    def on_end(self) -> None:
        self._call.ended = True
        self.answer()

    def on_reset(self, code: Code, message: str) -> None:
        self._call.reset = True

    def on_writable(self) -> None:
        pass

    def on_head(self, head: bytes, fin: bool) -> None:
        """Only for the side that opens."""

    def on_refused(self, code: Code, message: str) -> None:
        """Only for the side that opens."""


def register(server: Server, cluster: str, identity: Identity, uid: str) -> Identity:
    """Register an agent's key by a new join token; the identity with what the server answered."""
    token = server.api("POST", f"/clusters/{cluster}/join-tokens")["join_token"]
    answer = server.call("POST", "/api/v1/agents/register", registration(token, identity.public_key(), uid))
    assert answer.status == 201, answer.body
    join = Join(server_url=server.url, ca_pem=server.ca.read_text(), token=Secret(token))
    return registered(identity, join, answer.json())


def registration(token: str, public_key: str, uid: str) -> dict[str, str]:
    """The body of a registration."""
    return {
        "join_token": token,
        "public_key": public_key,
        "cluster_uid": uid,
        "agent_version": "0.0.0",
        "kubernetes_version": "v1.36.3",
    }
