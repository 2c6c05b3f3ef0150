# SPDX-License-Identifier: Apache-2.0
"""The two neighbours of an agent, in this process: a kube-apiserver by script, and a server that takes sessions."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from mooring.kube.access import ApiServerConfig
from mooring.lib.secrets import Secret
from mooring.net.tls import client_context
from mooring.tunnel.carrier import ServerCarrier
from mooring.tunnel.session import Session
from mooring.tunnel.stream import Code, Stream, pack_open
from mooring.wire.headers import RequestHead, get, parse_request_head, serialize_request
from mooring.wire.hello import Hello
from testbed.pki import Authority, Pair

AGENT_TOKEN = "agent-token-of-the-pod"
CA_KEY_NAME = "ca.crt"
FIRST_TOKEN = "mrj_one_secretsecretsecret"


async def until(condition: Callable[[], Any]) -> None:
    """Waits for a condition, at most 15 s."""
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 - conditions of any kind, with a deadline
            await asyncio.sleep(0.005)


def server_context(pair: Pair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.crt, pair.key)
    return context


class Call:
    """One request that the fake API server got."""

    def __init__(self, head: RequestHead, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.head = head
        self.reader = reader
        self.writer = writer
        self.path, _unused, query = head.target.decode().partition("?")
        self.query = {key: values[0] for key, values in parse_qs(query).items()}
        self.body = b""

    @property
    def bearer(self) -> str:
        return (get(self.head.headers, b"authorization") or b"").decode().removeprefix("Bearer ")

    async def answer(self, status: int, body: Any, media: str = "application/json", extra: str = "") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {media}\r\nContent-Length: {len(data)}\r\n{extra}\r\n"
        self.writer.write(head.encode() + data)
        await self.writer.drain()

    async def chunk(self, data: bytes) -> None:
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self.writer.drain()

    async def stream_head(self) -> None:
        self.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await self.writer.drain()

    async def gone(self) -> bool:
        try:
            return await self.reader.read(1) == b""
        except (ConnectionError, ssl.SSLError):
            return True


Handler = Callable[[Call], Awaitable[None]]


class FakeKube:
    """What the agent uses of Kubernetes: secrets, one token, nodes as a table, health; the rest by `handler`."""

    def __init__(self, authority: Authority, pair: Pair) -> None:
        self.authority = authority
        self.pair = pair
        self.secrets: dict[str, dict[str, str]] = {}
        self.tokens = 0
        self.token_status = 201
        self.token_life = 3600
        self.valid = AGENT_TOKEN
        self.nodes: dict[str, str] = {"n1": "Ready", "n2": "NotReady"}
        self.watchers: list[asyncio.Queue[dict[str, Any]]] = []
        self.ready: tuple[int, bytes] = (200, b"ok")
        self.version = "v1.36.3"
        self.handler: Handler = self.whoami
        self.calls: list[Call] = []
        self.connections = 0
        self.errors: list[BaseException] = []
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=server_context(self.pair), limit=1024 * 1024
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    def config(self) -> ApiServerConfig:
        context = client_context(self.authority.crt.read_text())
        return ApiServerConfig(
            host="127.0.0.1",
            port=self.port,
            own_tls=context,
            stream_tls=context,
            server_name="127.0.0.1",
            token=Secret(AGENT_TOKEN),
        )

    @property
    def impersonated(self) -> list[Call]:
        return [call for call in self.calls if get(call.head.headers, b"impersonate-user")]

    def token(self) -> str:
        return f"impersonator-token-{self.tokens}"

    async def whoami(self, call: Call) -> None:
        user = (get(call.head.headers, b"impersonate-user") or b"").decode()
        await call.answer(200, {"user": user, "path": call.path})

    def node_event(self, kind: str, name: str, status: str) -> None:
        event = {"type": kind, "object": {"kind": "Table", "rows": [{"cells": [name, status, "x"]}]}}
        if kind == "DELETED":
            self.nodes.pop(name, None)
        else:
            self.nodes[name] = status
        for queue in self.watchers:
            queue.put_nowait(event)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = parse_request_head(await reader.readuntil(b"\r\n\r\n"))
                call = Call(head, reader, writer)
                self.calls.append(call)
                await self._route(call)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass  # the client has gone
        except Exception as error:
            self.errors.append(error)
        finally:
            self.connections -= 1
            writer.close()

    async def _route(self, call: Call) -> None:
        if get(call.head.headers, b"impersonate-user"):
            if call.bearer != self.token():
                await call.answer(401, {"kind": "Status", "code": 401})
            else:
                await self.handler(call)
            return
        if length := int(get(call.head.headers, b"content-length") or b"0"):
            call.body = await call.reader.readexactly(length)
        if call.bearer != self.valid:
            await call.answer(401, {"kind": "Status", "message": "Unauthorized", "code": 401})
        elif call.path.endswith("/serviceaccounts/mooring-impersonator/token"):
            self.tokens += self.token_status == 201
            body = {"status": {"token": self.token()}, "spec": {"expirationSeconds": self.token_life}}
            await call.answer(self.token_status, body if self.token_status == 201 else {"message": "no"})
        elif "/secrets" in call.path:
            await self._secrets(call)
        elif call.path == "/api/v1/namespaces/kube-system":
            await call.answer(200, {"metadata": {"uid": "uid-of-kube-system"}})
        elif call.path == "/version":
            await call.answer(200, {"gitVersion": self.version})
        elif call.path == "/readyz":
            await call.answer(self.ready[0], self.ready[1], "text/plain")
        elif call.path == "/api/v1/nodes":
            await self._nodes(call)
        else:
            await call.answer(404, {"message": "not here"})

    async def _secrets(self, call: Call) -> None:
        name = call.path.partition("/secrets")[2].lstrip("/")
        if call.head.method == b"GET":
            data = self.secrets.get(name)
            if data is None:
                await call.answer(404, {"message": "not found"})
                return
            await call.answer(200, {"data": {k: base64.b64encode(v.encode()).decode() for k, v in data.items()}})
            return
        body = json.loads(call.body)
        name = body["metadata"]["name"]
        if call.head.method == b"POST" and name in self.secrets:
            await call.answer(409, {"message": "already exists"})
            return
        self.secrets[name] = body["stringData"]
        await call.answer(201, body)

    async def _nodes(self, call: Call) -> None:
        columns = [{"name": "Name"}, {"name": "Status"}, {"name": "Roles"}]
        if "watch" not in call.query:
            rows = [{"cells": [name, status, "x"]} for name, status in self.nodes.items()]
            table = {"kind": "Table", "metadata": {"resourceVersion": "7"}, "columnDefinitions": columns, "rows": rows}
            await call.answer(200, table)
            return
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.watchers.append(queue)
        await call.stream_head()
        gone = asyncio.ensure_future(call.gone())
        event = asyncio.ensure_future(queue.get())
        while not (await asyncio.wait({gone, event}, return_when=asyncio.FIRST_COMPLETED))[0] & {gone}:
            await call.chunk(json.dumps(event.result()).encode() + b"\n")
            event = asyncio.ensure_future(queue.get())
        event.cancel()
        self.watchers.remove(queue)
        raise ConnectionResetError


class FakeServer(asyncio.Protocol):
    """Registration and tunnel sessions, on one TLS port."""

    def __init__(self, pair: Pair, instance: str) -> None:
        self.pair = pair
        self.instance = instance
        self.peers: list[str] = []
        self.instances: list[str] = []
        """More instances behind the same port: each dial meets the next one of them."""
        self.turned_away = 0
        self.registrations: list[dict[str, Any]] = []
        self.on_register: Callable[[dict[str, Any]], tuple[int, dict[str, Any]]] = self.accept
        self.refuse: tuple[int, str] | None = None
        self.ahead = 0.0  # seconds that this server's clock is before ours
        self.jwts: list[str] = []
        self.sessions: list[Session] = []
        self.messages: list[dict[str, Any]] = []
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        context = server_context(self.pair)
        self._server = await loop.create_server(lambda: _Door(self), "127.0.0.1", self.port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for session in self.sessions:
            session.close(Code.SHUTDOWN, "the test is over")

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def tunnel_url(self) -> str:
        return f"wss://127.0.0.1:{self.port}/tunnel/connect"

    @property
    def live(self) -> list[Session]:
        return [session for session in self.sessions if session.usable]

    def accept(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return 201, {
            "cluster_id": "c-aaaaaaaaaaaa",
            "cluster_name": "prod",
            "audience": "mooring-test",
            "tunnel_urls": [self.tunnel_url],
            "ca_pem": "",
        }

    def take(self, door: _Door, head: RequestHead, raw: bytes) -> None:
        self.jwts.append((get(head.headers, b"authorization") or b"").decode().removeprefix("Bearer "))
        assert door.transport is not None
        if self.ahead and self.refuse is None:
            payload = self.jwts[-1].split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            now = time.time() + self.ahead
            if abs(claims["iat"] - now) > 30:
                date = formatdate(now, usegmt=True).encode()
                door.transport.write(b"HTTP/1.1 403 X\r\nDate: %s\r\nContent-Length: 5\r\n\r\nclock" % date)
                door.transport.close()
                return
        if self.refuse is not None:
            status, text = self.refuse
            data = text.encode()
            door.transport.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(data)) + data)
            door.transport.close()
            return
        instance = self.instance
        if self.instances:
            instance = self.instances[(len(self.jwts) - 1) // 2 % len(self.instances)]  # each is met twice in a row
            held = (get(head.headers, b"mooring-held") or b"").decode().split(", ")
            if instance in held:
                self.turned_away += 1
                door.transport.write(b"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n")
                door.transport.close()
                return
        session = Session("server", Hello(instance=instance, version="0", peers=self.peers, instances=self.instances))
        session.on_message = lambda _unused, message: self.messages.append(message)
        self.sessions.append(session)
        ServerCarrier.accept(door.transport, raw, session)


class _Door(asyncio.Protocol):
    """A connection of the fake server until it knows what it is."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.transport: asyncio.Transport | None = None
        self.data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.data += data
        raw, found, rest = self.data.partition(b"\r\n\r\n")
        if not found or self.transport is None:
            return
        head = parse_request_head(raw + found)
        if head.target == b"/tunnel/connect":
            self.server.take(self, head, self.data)
            return
        if len(rest) < int(get(head.headers, b"content-length") or b"0"):
            return
        assert head.target == b"/api/v1/agents/register"
        body = json.loads(rest)
        self.server.registrations.append(body)
        status, answer = self.server.on_register(body)
        reply = json.dumps(answer).encode()
        self.transport.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(reply)) + reply)
        self.data = b""


class Client:
    """A user of the server's half of a session: one request through the tunnel."""

    def __init__(self, consume: bool = True) -> None:
        self.stream: Stream | None = None
        self.head = b""
        self.body = bytearray()
        self.ended = False
        self.failure: tuple[str, Code, str] | None = None
        self.consume = consume
        self.writable = 0

    @classmethod
    def ask(
        cls,
        session: Session,
        method: bytes = b"GET",
        target: bytes = b"/api",
        headers: list[tuple[bytes, bytes]] | None = None,
        fin: bool = True,
        consume: bool = True,
        user: bytes = b"mooring:bob",
        where: str = "apiserver",
    ) -> Client:
        client = cls(consume)
        head = RequestHead(method, target, [(b"Impersonate-User", user), *(headers or [])])
        client.stream = session.open(pack_open(where, serialize_request(head)), client, fin)
        return client

    @property
    def status(self) -> int:
        return int(self.head.split(b" ")[1]) if self.head else 0

    def on_head(self, head: bytes, fin: bool) -> None:
        self.head = head
        self.ended = fin

    def on_data(self, data: bytes) -> None:
        self.body += data
        if self.consume and self.stream is not None:
            self.stream.consumed(len(data))

    def on_end(self) -> None:
        self.ended = True

    def on_reset(self, code: Code, message: str) -> None:
        self.failure = ("reset", code, message)

    def on_refused(self, code: Code, message: str) -> None:
        self.failure = ("refused", code, message)

    def on_writable(self) -> None:
        self.writable += 1

    async def done(self) -> Client:
        await until(lambda: self.ended or self.failure)
        return self


def pair(authority: Authority, name: str, *names: str) -> Pair:
    return authority.issue(name, name, names=names or ("127.0.0.1", "localhost"), server=True)


def join_secret(server: FakeServer, ca: Path, token: str = FIRST_TOKEN) -> dict[str, str]:
    return {"server_url": server.url, CA_KEY_NAME: ca.read_text(), "join_token": token, "cluster_name": "prod"}
