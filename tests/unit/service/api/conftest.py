# SPDX-License-Identifier: Apache-2.0
"""The REST API on a real SQLite store, called in memory, with a clock that the tests move."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar
from mooring.api.app import create
from mooring.api.openapi import nothing
from mooring.api.services import ApiSettings, Services
from mooring.authn.agents import AgentDoor, AgentVerifier
from mooring.authn.bootstrap import create_admin
from mooring.authn.index import Index
from mooring.authn.passwords import Passwords
from mooring.authn.replays import Replays
from mooring.authn.throttle import Throttle
from mooring.control.auditinbox import AuditInbox
from mooring.control.builtins import bring_in_line
from mooring.lib.clock import ManualClock
from mooring.lib.config import AttemptsSection
from mooring.lib.secrets import Secret
from mooring.policy.book import Book
from mooring.policy.standing import Standing
from mooring.proxy.audit import Audit
from mooring.store.records import Delta
from mooring.store.sql import open_store

ADMIN_PASSWORD = "correct horse battery"
USER_PASSWORD = "a long enough one"
CA = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


@dataclass
class NotedControl:
    """Stands in for the cluster controller and keeps what it was told."""

    refused: list[tuple[str, str]] = field(default_factory=list)
    registered: list[str] = field(default_factory=list)

    def note_refused(self, cluster_id: str, reason: str) -> None:
        self.refused.append((cluster_id, reason))

    def note_registered(self, cluster_id: str) -> None:
        self.registered.append(cluster_id)


@dataclass
class Sealed:
    digest: str
    data: bytes


@dataclass
class NotedPolicies:
    """Stands in for the policy controller: the bundles and standings that tests put there."""

    public_key: str = "cG9saWN5IGtleQ"
    bundles: dict[str, Sealed] = field(default_factory=dict)
    standings: dict[str, Standing] = field(default_factory=dict)
    stuck: bool = False

    def digest(self, cluster_id: str) -> str:
        return self.bundles[cluster_id].digest if cluster_id in self.bundles else ""

    async def bundle(self, cluster_id: str) -> Sealed | None:
        return None if self.stuck else self.bundles.get(cluster_id)

    def standing(self, cluster_id: str) -> Standing | None:
        return self.standings.get(cluster_id)


@dataclass
class NotedEndpoints:
    """Stands in for the endpoint controller: the documents that tests put there, what was waited for, and which
    clusters are `away`."""

    digests: dict[str, str] = field(default_factory=dict)
    made: dict[str, tuple[bytes, dict[int, bytes]]] = field(default_factory=dict)
    asked: list[tuple[str, dict[int, str]]] = field(default_factory=list)
    waited: list[tuple[str, str, float]] = field(default_factory=list)
    arrives: bool = True
    away: set[str] = field(default_factory=set)

    def digest(self, cluster_id: str) -> str:
        return self.digests.get(cluster_id, "")

    async def documents(self, cluster_id: str, have: Mapping[int, str]) -> tuple[bytes, dict[int, bytes]] | None:
        self.asked.append((cluster_id, dict(have)))
        return self.made.get(cluster_id)

    async def delivered(self, cluster_id: str, token_id: str, seconds: float) -> bool:
        self.waited.append((cluster_id, token_id, seconds))
        return self.arrives and cluster_id not in self.away


class Client:
    """One caller: their token, and JSON in and out."""

    def __init__(self, http: httpx.AsyncClient, token: str | None = None, source: str = "192.0.2.1") -> None:
        self.http = http
        self.token = token
        self.source = source

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        sent = {"X-Mooring-Source": self.source, "X-Mooring-Request-Id": "r" * 32}
        if self.token is not None:
            sent["Authorization"] = f"Bearer {self.token}"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.request(method, f"/api/v1{path}", json=body, headers=sent)

    async def ok(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The answer's JSON; anything but a success fails the test with the answer."""
        response = await self(method, path, body, **headers)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
        return response.json() if response.content else None


@dataclass
class World:
    """The API, its parts, and an administrator."""

    services: Services
    clock: ManualClock
    control: NotedControl
    policies: NotedPolicies
    audit: Audit
    endpoints: NotedEndpoints
    http: httpx.AsyncClient
    admin: Client
    anonymous: Client

    async def user(self, name: str, *, groups: tuple[str, ...] = (), password: str = USER_PASSWORD) -> Client:
        """Make a user who is logged in."""
        await self.admin.ok("POST", "/users", {"name": name, "password": password, "groups": list(groups)})
        return await self.login(name, password)

    async def login(self, name: str, password: str, **more: Any) -> Client:
        answer = await self.anonymous.ok("POST", "/login", {"username": name, "password": password, **more})
        return Client(self.http, answer["token"])

    async def cluster(self, name: str, **more: Any) -> dict[str, Any]:
        made: dict[str, Any] = await self.admin.ok("POST", "/clusters", {"name": name, **more})
        return made


def _read(book: Book, delta: Delta) -> None:
    """Keep the book true, as the policy controller does."""
    if delta.policy_revision is not None:
        book.apply(delta.policy, delta.policy_revision)
    for cluster_id, cluster in delta.clusters.items():
        book.set_labels(cluster_id, None if cluster is None else cluster.labels)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database to copy."""
    path = tmp_path_factory.mktemp("migrated") / "mooring.db"

    async def migrate() -> None:
        store = open_store(f"sqlite:///{path}")
        await store.migrate()
        await bring_in_line(store, ManualClock().now())
        await store.aclose()

    asyncio.run(migrate())
    return path


class Current(Services):
    """Passes for the services of the test that runs, so that the application is put together once and not per test."""

    def __init__(self, services: Services) -> None:
        self.__dict__["bound"] = services

    def bind(self, services: Services) -> None:
        self.__dict__["bound"] = services

    def __getattribute__(self, name: str) -> Any:
        if name == "bind" or name.startswith("__"):
            return super().__getattribute__(name)
        return getattr(super().__getattribute__("__dict__")["bound"], name)


@pytest.fixture(scope="session")
def current() -> Current:
    return Current(nothing())


@pytest.fixture(scope="session")
def application(current: Current) -> Litestar:
    return create(current)


@pytest.fixture
async def world(tmp_path: Path, migrated: Path, application: Litestar, current: Current) -> AsyncIterator[World]:
    clock = ManualClock()
    shutil.copy(migrated, tmp_path / "mooring.db")
    store = open_store(f"sqlite:///{tmp_path / 'mooring.db'}")
    index = Index()
    passwords = Passwords(time_cost=1, memory_kib=64)
    await create_admin(store, passwords, clock, "admin", Secret(ADMIN_PASSWORD))
    index.load(await store.snapshot(clock.now()))
    store.on_commit(index.apply)
    control, policies, endpoints, book = NotedControl(), NotedPolicies(), NotedEndpoints(), Book()
    revision, policy = await store.policy()
    book.load(policy, {}, revision)
    store.on_commit(lambda delta: _read(book, delta))
    audit = Audit(tmp_path / "audit.log", required=False, spool=tmp_path / "spool")
    audit.start()
    verifier, used = AgentVerifier(index.agent_key, "mooring.example"), Replays()
    services = Services(
        store=store,
        index=index,
        clock=clock,
        passwords=passwords,
        logins=Throttle.of_logins(AttemptsSection()),
        joins=Throttle.of_joins(AttemptsSection()),
        control=control,
        book=book,
        policies=policies,
        endpoints=endpoints,
        agents=AgentDoor(
            verifier, clock.now, lambda agent: used.first_time(agent.cluster_id, agent.jti, agent.until, clock.now())
        ),
        audit=AuditInbox(audit),
        settings=ApiSettings(
            url="https://mooring.example:8443",
            ca_pem=CA,
            instance="one",
            audience="mooring.example",
            started_at=clock.now(),
        ),
    )
    current.bind(services)
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as http:
        anonymous = Client(http)
        answer = await anonymous.ok("POST", "/login", {"username": "admin", "password": ADMIN_PASSWORD})
        admin = Client(http, answer["token"])
        yield World(services, clock, control, policies, audit, endpoints, http, admin, anonymous)
    audit.close()
    passwords.close()
    await store.aclose()
