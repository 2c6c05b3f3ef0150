# SPDX-License-Identifier: Apache-2.0
"""The agent's half of the endpoint without a server: a test signs tokens, announces them, and hears what is reported.

The agent runs in this process against a real API server or a fake one. What the Secrets hold is read as `kube-api-auth`
would read them.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mooring.agent.endpoint.service import EndpointAgent
from mooring.agent.identity import Identity, Registrations, new_key
from mooring.agent.servertime import ServerTime
from mooring.kube.client import KubeApi, KubeError
from mooring.lib.clock import Clock, SystemClock
from mooring.wire import endpoint, sealed
from mooring.wire.endpoint import Index, Settings, Shard, Token, User
from testbed.pki import Authority

from support.policybed import until

CLUSTER_ID = "c-aaaaaaaaaaaa"
NAMESPACE = "mooring-system"


def user(name: str, *tokens: str, groups: tuple[str, ...] = (), expires_at: float = 2e9) -> User:
    """A user with tokens of these secrets."""
    held = tuple(
        Token(f"e-{secret:a<12}"[:14], endpoint.token_hash(CLUSTER_ID, secret), expires_at) for secret in tokens
    )
    return User(id=f"u-{name}", name=name, uid=f"uid-of-{name}", groups=groups, tokens=held)


class EndpointServer:
    """Gives the documents of the moment, over TLS, with the server's clock."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.key = Ed25519PrivateKey.generate()
        self.index = b""
        self.digest = ""
        self.shards: dict[int, tuple[str, bytes]] = {}
        self.asked: list[dict[str, Any]] = []
        self.connections = 0
        self.ahead = 0.0
        self.status = 200
        self.spoil: Callable[[dict[int, bytes]], dict[int, bytes]] = lambda shards: shards
        self.port = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    def sign(
        self,
        revision: int,
        users: list[User],
        *,
        uid: str,
        prefix: str = "mooring:",
        registered_at: float = 1000.0,
        cluster: str = CLUSTER_ID,
        key: Ed25519PrivateKey | None = None,
    ) -> None:
        """Makes the documents."""
        said = {"cluster_id": cluster, "cluster_uid": uid, "revision": revision, "issued_at": time.time()}
        by_number: dict[int, list[User]] = {}
        for one in users:
            by_number.setdefault(endpoint.shard_of(one.id), []).append(one)
        self.shards = {}
        for number, held in by_number.items():
            shard = Shard(number=number, users=tuple(held))
            digest = sealed.digest_of(endpoint.body_of(shard))
            self.shards[number] = (digest, endpoint.seal(shard, key or self.key, **said))  # type: ignore[arg-type]
        digests = {number: digest for number, (digest, _data) in self.shards.items()}
        index = Index(settings=Settings(prefix=prefix), registered_at=registered_at, shards=digests)
        self.digest = sealed.digest_of(endpoint.body_of(index))
        self.index = endpoint.seal(index, key or self.key, **said)  # type: ignore[arg-type]

    @property
    def public_key(self) -> str:
        """The public key in base64url."""
        return base64.urlsafe_b64encode(self.key.public_key().public_bytes_raw()).rstrip(b"=").decode()

    async def start(self) -> None:
        """Listens."""
        pair = self.authority.issue("endpoints", "endpoints", names=("127.0.0.1",), server=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.crt, pair.key)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """The server is away."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                assert head.startswith("POST /api/v1/agents/endpoint HTTP/1.1\r\n"), head
                assert "\r\nAuthorization: Bearer ey" in head
                size = int(head.lower().partition("content-length:")[2].split()[0])
                asked = msgspec.json.decode(await reader.readexactly(size))
                self.asked.append(asked)
                status = 204 if self.status == 200 and asked["digest"] == self.digest else self.status
                body = msgspec.msgpack.encode(self._answer(asked)) if status == 200 else b""
                date = formatdate(time.time() + self.ahead, usegmt=True)
                length = "" if status == 204 else f"Content-Length: {len(body)}\r\n"
                writer.write(f"HTTP/1.1 {status} X\r\nDate: {date}\r\n{length}\r\n".encode())
                writer.write(body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    def _answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        have = {int(number): digest for number, digest in asked["have"].items()}
        shards = {number: data for number, (digest, data) in self.shards.items() if have.get(number) != digest}
        return {"index": self.index, "shards": self.spoil(shards)}


class Bed:
    """Agents of one cluster, what they say, and what is in the cluster."""

    def __init__(self, kube: Callable[[], KubeApi], server: EndpointServer, clock: Clock | None = None) -> None:
        self.server = server
        self.uid = ""
        self.said: list[dict[str, Any]] = []
        self.clock = clock or SystemClock()
        self.revision = 0
        self._kube = kube
        self._reader = kube()
        self._running: list[tuple[EndpointAgent, asyncio.Task[None], KubeApi]] = []
        self.identity = Identity(
            key=new_key(),
            cluster_id=CLUSTER_ID,
            audience="mooring-test",
            server_url=f"https://127.0.0.1:{server.port}",
            ca_pem=server.authority.crt.read_text(),
            join_token_id="one",
            policy_key=server.public_key,
        )

    async def _load(self) -> Identity:
        return self.identity

    async def _save(self, identity: Identity) -> None:
        self.identity = identity

    def start(self, holder: str = "one") -> EndpointAgent:
        """An agent begins."""
        kube = self._kube()
        agent = EndpointAgent(
            kube,
            NAMESPACE,
            Registrations(self._load, self._save),
            self.said.append,
            clock=self.clock,
            time=ServerTime(self.clock),
            holder=holder,
            ca_pem="the cluster's CA",
        )
        agent.linked(True)
        self._running.append((agent, asyncio.get_running_loop().create_task(agent.run()), kube))
        return agent

    async def stop(self) -> None:
        """All agents end."""
        for _unused, task, kube in self._running:
            task.cancel()
            await asyncio.wait({task}, timeout=10)
            await kube.aclose()
        self._running.clear()

    async def aclose(self) -> None:
        """The end."""
        await self.stop()
        await self._reader.aclose()

    def announce(self) -> None:
        """The server says that there is an index."""
        for agent, _unused, _also in self._running:
            agent.heard({"kind": "endpoint", "revision": self.revision, "digest": self.server.digest})

    def offer(self, *users: User, **other: Any) -> None:
        """Signs and announces."""
        self.revision += 1
        self.server.sign(self.revision, list(users), **{"uid": self.uid, **other})
        self.announce()

    async def deliver(self, *users: User, **other: Any) -> None:
        """These are the users from now on; returns when an agent has reported it."""
        self.offer(*users, **other)
        await until("it is reported", lambda: self.last("digest") == self.server.digest and not self.last("problem"))

    def last(self, name: str) -> Any:
        """A member of the last report."""
        return self.said[-1].get(name) if self.said else None

    async def data(self, name: str) -> dict[str, bytes] | None:
        """What is in a Secret."""
        try:
            found = await self._reader.json("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}")
        except KubeError as error:
            if error.status != 404:
                raise
            return None
        return {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}

    async def link(self) -> dict[str, Any]:
        """What the agent says of its session."""
        found = await self.data("mooring-endpoint")
        return msgspec.json.decode(found["link"], type=dict[str, Any]) if found is not None else {}

    async def users(self) -> list[str]:
        """Who a reader of the Secrets would let in: the names in all shards that the index names."""
        found = await self.data("mooring-endpoint")
        if found is None:
            return []
        key = self.server.key.public_key()
        try:
            _header, index = endpoint.open_index(found["document"], key, CLUSTER_ID, self.uid)
        except sealed.BadDocument:
            return []
        names = []
        for number, digest in index.shards.items():
            there = await self.data(f"mooring-endpoint-{number}")
            if there is None:
                continue
            try:
                header, shard = endpoint.open_shard(there["document"], key, CLUSTER_ID, self.uid, number)
            except (sealed.BadDocument, KeyError):
                continue
            if header.sha256 == digest:
                names += [one.name for one in shard.users]
        return sorted(names)

    async def are(self, *names: str, within: float = 10.0) -> None:
        """Waits until exactly these would be let in."""

        async def same() -> bool:
            return await self.users() == sorted(names)

        await until(f"only {names} get in", same, within)

    def register_anew(self) -> None:
        """The cluster is registered with another join token."""
        self.identity = replace(self.identity, join_token_id=self.identity.join_token_id + "+")
