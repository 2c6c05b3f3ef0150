# SPDX-License-Identifier: Apache-2.0
"""A small world for tests of the proxy and the edge: users, clusters, and a tunnel whose far end the test plays.

The index is the real one, loaded by hand. `FakeHub` hands out `FakeSession`s; each `open` makes a `FakeStream` that
writes down what the proxy does to it, and lets the test answer as the agent would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mooring.authn.index import Index
from mooring.authn.tokens import NewToken, new_token
from mooring.lib.clock import ManualClock
from mooring.lib.errors import MooringError
from mooring.proxy.audit import Audit, AuditRecord
from mooring.proxy.chain import Chain, ChainSettings
from mooring.proxy.registry import Registry
from mooring.store.records import Cluster, ClusterState, Delta, Members, Snapshot, Token, User
from mooring.tunnel.hub import Lost
from mooring.tunnel.stream import APISERVER, StreamSink, unpack_open
from mooring.wire.frames import Code
from mooring.wire.headers import RequestHead, ResponseHead, get, get_all, parse_request_head
from mooring.wire.http1_request import Request
from mooring.wire.http1_writer import ResponseWriter
from mooring.wire.plainhead import PlainHead

NOW = 1_700_000_000.0
ADMINS = {"g-adminsadmins": "b-adminsadmins"}
"""The built-in binding of the administrators, which reaches every cluster."""
ALPHA, BETA, GAMMA, DELTA = "c-alphaalphaal", "c-betabetabeta", "c-gammagammaga", "c-deltadeltade"


class FakeStream:
    """A stream, seen from the agent. `log` holds what the proxy did, in order."""

    def __init__(self, stream_id: int, payload: bytes, sink: StreamSink, fin: bool) -> None:
        self.id = stream_id
        self.sink = sink
        opened = unpack_open(payload)
        self.target = opened.target
        self.head: RequestHead = parse_request_head(opened.head)
        self.fin = fin
        self.full = False
        self.closed = False
        self.log: list[tuple[object, ...]] = []

    def header(self, name: str) -> str | None:
        value = get(self.head.headers, name.encode())
        return None if value is None else value.decode()

    def headers(self, name: str) -> list[str]:
        return [value.decode() for value in get_all(self.head.headers, name.encode())]

    # -- what the proxy calls

    def write(self, data: bytes, fin: bool = False) -> bool:
        self.log.append(("write", data))
        if fin:
            self.log.append(("end",))
        return not self.full

    def end(self) -> None:
        self.log.append(("end",))

    def reset(self, code: Code, message: str = "") -> None:
        self.closed = True
        self.log.append(("reset", code.name))

    def consumed(self, n: int) -> None:
        self.log.append(("consumed", n))

    def opened(self, head: bytes, fin: bool = False) -> None:
        raise AssertionError("the proxy opens streams, it does not accept them")

    def respond(self, head: bytes, body: bytes) -> None:
        raise AssertionError("the proxy opens streams, it does not accept them")

    def refuse(self, code: Code, message: str) -> None:
        raise AssertionError("the proxy opens streams, it does not accept them")

    # -- what the test plays

    def answer(self, status: int = 200, headers: Sequence[tuple[str, str]] = (), *, fin: bool = False) -> None:
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers)]
        self.sink.on_head("\r\n".join(lines).encode() + b"\r\n\r\n", fin)

    def data(self, data: bytes) -> None:
        self.sink.on_data(data)

    def done(self) -> None:
        self.sink.on_end()

    def take(self) -> list[tuple[object, ...]]:
        """What happened since the last `take`."""
        log, self.log = self.log, []
        return log


class FakeSession:
    """A session of an agent."""

    def __init__(self) -> None:
        self.streams: list[FakeStream] = []
        self.error: MooringError | None = None

    def open(self, payload: bytes, sink: StreamSink, fin: bool = False) -> FakeStream:
        if self.error is not None:
            raise self.error
        stream = FakeStream(2 * len(self.streams) + 1, payload, sink, fin)
        self.streams.append(stream)
        return stream


class FakeHub:
    """Clusters that are connected."""

    def __init__(self) -> None:
        self.sessions: dict[str, FakeSession] = {}
        self.lost: dict[str, Lost] = {}
        self.coming: set[str] = set()
        self.waiting: list[Callable[[FakeSession | None], None]] = []
        self.patience: list[float] = []
        """For how many seconds each that waited was to wait."""
        self.targets = {APISERVER, "apiserver-as"}
        """What the agents serve."""

    def session_for(self, cluster_id: str, *, target: str = APISERVER) -> FakeSession | None:
        return self.sessions.get(cluster_id) if target in self.targets else None

    def expected(self, cluster_id: str) -> bool:
        return cluster_id in self.coming

    def wait_for(
        self, cluster_id: str, callback: Callable[[FakeSession | None], None], seconds: float
    ) -> Callable[[], None]:
        self.waiting.append(callback)
        self.patience.append(seconds)
        return lambda: self.waiting.remove(callback) if callback in self.waiting else None

    def arrive(self, cluster_id: str, session: FakeSession | None) -> None:
        """The session that was waited for is there; None: it did not come."""
        if session is not None:
            self.sessions[cluster_id] = session
        waiting, self.waiting = self.waiting, []
        for callback in waiting:
            callback(session)

    def last_lost(self, cluster_id: str) -> Lost | None:
        return self.lost.get(cluster_id)


class MemoryAudit(Audit):
    """An audit log that keeps its records in memory."""

    def __init__(self) -> None:
        super().__init__(Path("/nonexistent/audit"))
        self.records: list[AuditRecord] = []
        self.fault = ""

    @property
    def healthy(self) -> bool:
        return not self.fault

    @property
    def problem(self) -> str:
        return self.fault

    def record(self, record: AuditRecord) -> None:
        self.records.append(record)


@dataclass
class World:
    """Bob and Mallory, the administrator Root; clusters alpha (connected, Bob is a member), beta (never connected),
    gamma (lost), delta (refused)."""

    index: Index
    hub: FakeHub
    audit: MemoryAudit
    clock: ManualClock
    registry: Registry
    chain: Chain
    tokens: dict[str, NewToken]
    users: dict[str, User]
    records: dict[str, Token] = field(default_factory=dict)

    def bearer(self, who: str) -> str:
        return self.tokens[who].text.reveal()

    @property
    def agent(self) -> FakeSession:
        """Alpha's agent."""
        return self.hub.sessions[ALPHA]

    @property
    def stream(self) -> FakeStream:
        """The last stream that alpha's agent was given."""
        return self.agent.streams[-1]

    def revoke(self, who: str) -> None:
        self.index.apply(Delta(tokens={self.tokens[who].id: None}))


def cluster(cluster_id: str, name: str, state: ClusterState, reason: str = "", connected: bool = True) -> Cluster:
    return Cluster(
        id=cluster_id,
        name=name,
        created_at=NOW,
        updated_at=NOW,
        state=state,
        state_reason=reason,
        connected_at=NOW if connected else None,
        last_seen_at=NOW if connected else None,
    )


def make_world(settings: ChainSettings | None = None) -> World:
    clock = ManualClock(NOW)
    groups = {"devs": ("g-devsdevsdevs", "devs"), "admins": ("g-adminsadmins", "admins")}
    users = {
        "bob": User(id="u-bob", name="bob", uid="uid-bob", groups=(groups["devs"],), created_at=NOW, updated_at=NOW),
        "mallory": User(id="u-mallory", name="mallory", uid="uid-mallory", created_at=NOW, updated_at=NOW),
        "root": User(
            id="u-root", name="root", uid="uid-root", groups=(groups["admins"],), created_at=NOW, updated_at=NOW
        ),
    }
    tokens: dict[str, NewToken] = {}
    records: dict[str, Token] = {}

    def issue(label: str, user: str, scope: str | None = None, expires_at: float | None = None) -> None:
        made = tokens[label] = new_token("mrg")
        records[label] = Token(
            id=made.id,
            hash=made.hash,
            user_id=users[user].id,
            user_name=user,
            cluster_id=scope,
            created_at=NOW,
            expires_at=expires_at,
        )

    for name in users:
        issue(name, name)
    issue("bob-beta", "bob", scope=BETA)
    issue("root-beta", "root", scope=BETA)
    issue("bob-brief", "bob", expires_at=NOW + 60)
    index = Index()
    index.load(
        Snapshot(
            clusters=[
                cluster(ALPHA, "alpha", "connected"),
                cluster(BETA, "beta", "pending", connected=False),
                cluster(GAMMA, "gamma", "disconnected", "keep-alive ran out"),
                cluster(DELTA, "delta", "refused", "clock differs by 600 s", connected=False),
            ],
            users=list(users.values()),
            tokens=list(records.values()),
            members={
                ALPHA: Members({"u-bob": "m-1"}, ADMINS),
                BETA: Members(groups={"g-devsdevsdevs": "m-2"} | ADMINS),
                GAMMA: Members({"u-bob": "m-3"}, ADMINS),
                DELTA: Members({"u-bob": "m-4"}, ADMINS),
            },
        )
    )
    hub = FakeHub()
    hub.sessions[ALPHA] = FakeSession()
    audit = MemoryAudit()
    registry = Registry(index, clock)
    index.subscribe(registry.on_change)
    chain = Chain(
        index=index,
        hub=hub,
        audit=audit,
        registry=registry,
        clock=clock,
        settings=settings or ChainSettings(),
    )
    return World(index, hub, audit, clock, registry, chain, tokens, users, records)


class FakeClient:
    """The client's half of an exchange. `log` holds what it was given, in order; `sent` the response's bytes."""

    def __init__(self, method: bytes = b"GET") -> None:
        self.source = "192.0.2.7"
        self.request_id = "0" * 32
        self.slow = False
        self.crowded = False
        self.log: list[tuple[object, ...]] = []
        self.sent = b""
        self.head: ResponseHead | None = None
        self._writer = ResponseWriter(method, keep_alive=True)

    @property
    def status(self) -> int:
        assert self.head is not None
        return self.head.status

    def header(self, name: str) -> str | None:
        assert self.head is not None
        value = get(self.head.headers, name.encode())
        return None if value is None else value.decode()

    def respond(self, head: ResponseHead | PlainHead, fin: bool) -> None:
        if isinstance(head, PlainHead):
            head = head.full()
        self.sent += self._writer.head(head, fin=fin)
        self.head = head
        self.log.append(("head", head.status))

    def write(self, data: bytes) -> bool:
        if self.head is not None and self.head.status != 101:
            self.sent += self._writer.data(data)
        else:
            self.sent += data
        self.log.append(("data", data))
        return not self.slow

    def finish(self) -> None:
        if self.head is not None and self.head.status != 101:
            self.sent += self._writer.end()
        self.log.append(("finish",))

    def switch(self, head: ResponseHead) -> None:
        self.head = head
        self.log.append(("switch", head.status))

    def pause(self) -> None:
        self.log.append(("pause",))

    def resume(self) -> None:
        self.log.append(("resume",))

    def belongs_to(self, user_id: str) -> bool:
        return not self.crowded

    def abort(self) -> None:
        self.log.append(("abort",))

    def take(self) -> list[tuple[object, ...]]:
        """What happened since the last `take`."""
        log, self.log = self.log, []
        return log


def request(
    target: str,
    token: str | None = None,
    *,
    method: str = "GET",
    headers: Sequence[tuple[str, str]] = (),
    body: int | None = None,
    chunked: bool = False,
    upgrade: str = "",
) -> Request:
    """A request as the reader gives it. `body` is its length."""
    pairs = [(b"Host", b"mooring.test")]
    if token is not None:
        pairs.append((b"Authorization", f"Bearer {token}".encode()))
    if upgrade:
        pairs += [(b"Connection", b"Upgrade"), (b"Upgrade", upgrade.encode())]
    if body is not None:
        pairs.append((b"Content-Length", str(body).encode()))
    if chunked:
        pairs.append((b"Transfer-Encoding", b"chunked"))
    pairs += [(name.encode(), value.encode()) for name, value in headers]
    return Request(
        RequestHead(method.encode(), target.encode(), pairs),
        upgrade=bool(upgrade),
        expect_continue=False,
        keep_alive=True,
        body="chunked" if chunked else "length" if body else "none",
        length=body or 0,
    )
