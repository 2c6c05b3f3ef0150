# SPDX-License-Identifier: Apache-2.0
"""An endpoint between clients over TLS and a scripted API server, with documents that the test signs."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mooring.agent.credential import Credential
from mooring.agent.identity import Identity, new_key
from mooring.edge.listener import bare_context
from mooring.endpoint.certificate import Shown, load
from mooring.endpoint.journal import Journal
from mooring.endpoint.service import Endpoint, Surroundings
from mooring.endpoint.settings import EndpointOptions, limits
from mooring.kube.client import KubeApi
from mooring.lib.clock import SystemClock
from mooring.lib.secrets import Secret
from mooring.wire import endpoint as wire
from mooring.wire import sealed
from mooring.wire.endpoint import Index, Settings, Shard, Token, User, shard_of, token_hash
from support.agentjwt import b64
from testbed.pki import Authority

from ..agent.fakes import FakeKube, pair, until

CLUSTER, UID = "c-aaaaaaaaaaaa", "uid-of-kube-system"
FAR = 4_000_000_000.0


def secret_of(letter: str) -> str:
    return letter * 52


def bearer(letter: str) -> str:
    return f"mre_e-{'a' * 11}{letter}_{secret_of(letter)}"


def user(name: str, *letters: str, **more: Any) -> User:
    """A user with the tokens of these letters."""
    tokens = tuple(
        Token(
            f"e-{'a' * 11}{letter}", token_hash(more.get("cluster", CLUSTER), secret_of(letter)), more.get("end", FAR)
        )
        for letter in letters
    )
    fields = {"id": f"u-{name.ljust(12, 'a')}", "name": name, "uid": f"x-{name}", "groups": ("devs",), "tokens": tokens}
    return User(**fields | {key: value for key, value in more.items() if key not in ("cluster", "end")})


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> str:
        return str(json.loads(self.body)["message"])


@dataclass
class Scene:
    """What a test has."""

    kube: FakeKube
    authority: Authority
    key: Ed25519PrivateKey
    journal: Journal
    endpoint: Endpoint
    around: Surroundings
    credential: Credential
    own: KubeApi
    revision: int = 0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    """Of connections that are to stay open."""

    def deliver(self, *users: User, settings: Settings | None = None, revision: int | None = None) -> None:
        """The server's documents, as they stand in the Secrets from now on."""
        self.revision = self.revision + 1 if revision is None else revision
        by_shard: dict[int, list[User]] = {}
        for one in users:
            by_shard.setdefault(shard_of(one.id), []).append(one)
        about: Mapping[str, Any] = {
            "cluster_id": CLUSTER, "cluster_uid": UID, "revision": self.revision, "issued_at": 1_700_000_000.0
        }  # fmt: skip
        shards = {n: Shard(number=n, users=tuple(there)) for n, there in by_shard.items()}
        digests = {n: sealed.digest_of(wire.body_of(shard)) for n, shard in shards.items()}
        index = Index(settings=settings or Settings(prefix="mooring:"), registered_at=1.0, shards=digests)
        self.endpoint.copy.adopt(
            wire.seal(index, self.key, **about), {n: wire.seal(s, self.key, **about) for n, s in shards.items()}
        )

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = ssl.create_default_context(cadata=self.authority.crt.read_text())
        return await asyncio.open_connection("127.0.0.1", self.endpoint.port, ssl=context, limit=64 * 1024)

    async def ask(
        self, target: str, token: str | None = None, method: str = "GET", body: bytes = b"", **headers: str
    ) -> Answer:
        reader, writer = await self.open()
        try:
            lines = [f"{method} {target} HTTP/1.1", "Host: endpoint", "Connection: close"]
            lines += [f"Authorization: Bearer {token}"] if token is not None else []
            lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
            lines += [f"Content-Length: {len(body)}"] if body else []
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            async with asyncio.timeout(20):
                return await answer(reader)
        finally:
            writer.close()

    async def records(self, count: int) -> list[dict[str, Any]]:
        """The first so many audit records."""
        await until(lambda: self.journal.path.read_bytes().count(b"\n") >= count)
        return [json.loads(line) for line in self.journal.path.read_bytes().splitlines()]


async def answer(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _unused, value in (line.partition(":") for line in head[1:])}
    body = await reader.readexactly(int(headers["content-length"])) if "content-length" in headers else b""
    return Answer(int(head[0].split()[1]), headers, body)


async def make(kube: FakeKube, authority: Authority, tmp_path: Path, *given: str, audit_limit: int = 1 << 30) -> Scene:
    """An endpoint that listens, and has been given nothing yet."""
    key = Ed25519PrivateKey.generate()
    journal = Journal(tmp_path / "audit", limit=audit_limit)
    journal.open()
    journal.start()
    clock = SystemClock()
    own = KubeApi(kube.config())
    credential = Credential(own, "mooring-system", clock)
    shown = pair(authority, "endpoint")
    tls = bare_context()
    load(tls, Shown(shown.crt.read_text(), Secret(shown.key.read_text()), authority.crt.read_text()))
    identity = Identity(
        key=new_key(), cluster_id=CLUSTER, cluster_name="prod", policy_key=b64(key.public_key().public_bytes_raw())
    )
    options = EndpointOptions(host="127.0.0.1", port=0, folder=tmp_path / "endpoint", limits=limits(given))
    around = Surroundings(
        options=options,
        api=kube.config(),
        namespace="mooring-system",
        credential=credential,
        audit=journal,
        tls=tls,
        clock=clock,
    )
    endpoint = Endpoint(around, identity, UID)
    await endpoint.start()
    scene = Scene(kube, authority, key, journal, endpoint, around, credential, own)
    scene.tasks.append(asyncio.ensure_future(credential.run()))
    await until(lambda: credential.current() is not None)
    return scene


async def end(scene: Scene) -> None:
    await scene.endpoint.stop(0.0)
    for task in scene.tasks:
        task.cancel()
    await scene.own.aclose()
    scene.journal.close()
    scene.journal.shut()
