# SPDX-License-Identifier: Apache-2.0
"""One proxied exchange: a client's request on a stream of the cluster's tunnel, and the cluster's answer back.

Why: here the last rules are kept: what a cluster may say to a client (no cookies, no redirects that could carry a token
away), what a failure of the tunnel or the agent is called, what goes into the audit log, and that a right taken away
ends the exchange.

It must not: look at bodies, answer for the cluster when it has answered, or say "try again" for a request that may have
had effects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from mooring.authn.identity import Identity
from mooring.authn.index import ClusterView
from mooring.lib import bounds, metrics
from mooring.proxy import actas
from mooring.proxy.answers import Refused, asks_for_discovery, at_bound, refuse
from mooring.proxy.audit import AuditRecord
from mooring.proxy.ports import Client
from mooring.proxy.registry import Place
from mooring.proxy.relay import Relay
from mooring.proxy.requestinfo import RequestInfo
from mooring.proxy.upgrade import switched
from mooring.tunnel.stream import APISERVER, SessionBusy, SessionClosed, StreamOpener
from mooring.wire.actas import ActAs
from mooring.wire.frames import Code
from mooring.wire.headers import (
    HOP_BY_HOP,
    BadMessage,
    Headers,
    ResponseHead,
    connection_tokens,
    has_dot_segments,
    parse_response_head,
)
from mooring.wire.http1_writer import FramingError
from mooring.wire.plainhead import PlainHead, read_plain

if TYPE_CHECKING:
    from mooring.proxy.chain import Chain

_DROP: Final = HOP_BY_HOP | {
    b"alt-svc",
    b"clear-site-data",
    b"public-key-pins",
    b"refresh",
    b"set-cookie",
    b"set-cookie2",
    b"strict-transport-security",
    b"x-request-id",
}
"""What a cluster may not say in this server's name: these headers speak of the whole origin, not of one response."""
_DROP_PREFIX: Final = b"access-control-"

_EARLY_MAX: Final = 1024 * 1024
"""Bytes of a body that may come before a session is there; the client is not read meanwhile."""
_PATIENCE: Final = 15.0
"""Seconds from its start in which a request whose agent was lost may wait for another; one is found dead in 15."""
_CACHE_MAX: Final = 1024
_dropped: Final[dict[bytes, bool]] = {}


@dataclass(slots=True)
class Ask:
    """What the chain found out about a request, for the exchange and its audit record. `started` is in Unix seconds.

    Nobody changes one; it is not frozen because that would cost a call per field and request."""

    identity: Identity
    cluster: ClusterView
    info: RequestInfo
    long: bool
    upgrade: bytes
    user_agent: str
    started: float
    started_monotonic: float
    target: str = APISERVER
    """What the agent is asked for."""
    acting: ActAs | None = None
    """Whom the client wants to act as; another target then."""


class Forward(Relay):
    """A proxied exchange. `start` opens the stream."""

    __slots__ = (
        "_chain",
        "_early",
        "_payload",
        "_recorded_start",
        "_retried",
        "_session",
        "_stop_waiting",
        "ask",
        "cluster_id",
        "identity",
        "place",
    )

    def __init__(self, chain: Chain, client: Client, ask: Ask, place: Place, *, client_ended: bool) -> None:
        super().__init__(client, client_ended=client_ended)
        self.ask = ask
        self.identity = ask.identity
        self.cluster_id = ask.cluster.id
        self.place = place
        self._chain = chain
        self._payload = b""
        self._recorded_start = False
        self._retried = False
        self._session: StreamOpener | None = None
        self._stop_waiting: Callable[[], None] | None = None
        self._early: list[bytes] = []

    def start(self, payload: bytes) -> None:
        """Open the stream with the payload of an OPEN, or wait for a session that is to be expected. Raises Refused."""
        session = self._look()
        if self._client_ended:
            self._payload = payload
        if session is not None:
            self._open(session, payload, fin=self._client_ended)
        elif self._chain.hub.expected(self.cluster_id):
            self._wait(payload, self._chain.settings.session_timeout)
        else:
            raise self._chain.not_connected(self.ask.cluster)
        registry = self._chain.registry
        registry.add(self)
        if self._client_ended or self.ask.upgrade:
            registry.asked(self, self.ask.started_monotonic + self._chain.settings.answer_timeout)

    def _look(self) -> StreamOpener | None:
        """A session that serves this request, or None. Raises Refused when all agents that are there are too old."""
        hub = self._chain.hub
        session = hub.session_for(self.cluster_id, target=self.ask.target)
        if session is None and self.ask.acting is not None and hub.session_for(self.cluster_id) is not None:
            raise actas.too_old(self.ask.cluster.name)
        return session

    def _open(self, session: StreamOpener, payload: bytes, *, fin: bool) -> None:
        try:
            self._upstream = session.open(payload, self, fin=fin)
            self._session = session
        except SessionBusy as error:
            raise at_bound("streams_per_session", f"cluster {self.ask.cluster.name}: {error.reason}") from None
        except SessionClosed:
            raise self._chain.not_connected(self.ask.cluster) from None

    # -- waiting for a session -------------------------------------------------------------------------------------

    def _wait(self, payload: bytes, seconds: float) -> None:
        """The agent is connected to another worker and on its way to this one: hold the request, unread, for it."""
        self.client.pause()
        self._stop_waiting = self._chain.hub.wait_for(
            self.cluster_id, lambda session: self._arrived(session, payload), seconds
        )

    def _arrived(self, session: StreamOpener | None, payload: bytes) -> None:
        self._stop_waiting = None
        if self.over:
            return
        early, self._early = self._early, []
        try:
            if session is not None:
                session = self._look()  # the one that came may be of an agent that is too old for this request
            if session is None:
                raise self._chain.not_connected(self.ask.cluster)
            self._open(session, payload, fin=self._client_ended and not early)
        except Refused as refusal:
            self.code = refusal.code
            refuse(self.client, refusal, discovery=asks_for_discovery(self.ask.info.path))
            self._finish("refused")
            return
        room = True
        for number, data in enumerate(early, 1):
            assert self._upstream is not None
            room = self._upstream.write(data, self._client_ended and number == len(early))
        if room:
            self.client.resume()

    def client_data(self, data: bytes) -> None:
        if self._stop_waiting is None:
            super().client_data(data)
            return
        # What had been read before the pause: one read of the socket and what the reader had ahead.
        self.bytes_in += len(data)
        self._early.append(data)
        if sum(map(len, self._early)) > _EARLY_MAX:
            self._stop_waiting()
            self._arrived(None, b"")

    def _elsewhere(self) -> bool:
        """Take the request, of which nothing can have had effects, to another session. Once."""
        hub = self._chain.hub
        session = hub.session_for(self.cluster_id, target=self.ask.target)
        if not self._payload or self._retried or self.over or self.code or session is self._session:
            return False
        self._retried = True
        if session is None:
            waited = self._chain.clock.monotonic() - self.ask.started_monotonic
            if waited >= _PATIENCE or not hub.expected(self.cluster_id):
                return False
            self._upstream = None
            self._wait(self._payload, min(self._chain.settings.session_timeout, _PATIENCE - waited))
            return True
        try:
            self._upstream = session.open(self._payload, self, fin=True)
        except (SessionBusy, SessionClosed):
            return False
        return True

    # -- Relay -----------------------------------------------------------------------------------------------------

    def client_end(self) -> None:
        if self._client_ended:
            return
        super().client_end()
        if not (self.over or self.code):
            # The request is complete: from here the cluster is waited for, however long the request took.
            self._chain.registry.asked(self, self._chain.clock.monotonic() + self._chain.settings.answer_timeout)

    def on_head(self, head: bytes, fin: bool) -> None:
        """StreamSink: the head of the response."""
        if self.over:
            return
        self._chain.registry.answered(self)
        self._payload = b""
        parsed: ResponseHead | PlainHead | None = read_plain(head)
        if parsed is None:
            try:
                parsed = parse_response_head(head)
            except BadMessage as error:
                self.break_off(error.reason)
                return
        metrics.PROXY_SECONDS.observe(self._chain.clock.monotonic() - self.ask.started_monotonic)
        self.answered(parsed, fin)
        if not self.over and self.code and (self.raw or (self.ask.long and self.code == 200)):
            self._recorded_start = True
            self._chain.audit.record(self.record("start", ""))

    def on_refused(self, code: Code, message: str) -> None:
        """StreamSink: nothing was sent. When the session was just leaving, another may take the request."""
        if code != Code.SHUTDOWN or not self._elsewhere():
            super().on_refused(code, message)

    def on_reset(self, code: Code, message: str) -> None:
        """StreamSink: the stream is lost. What only reads may be asked again, as long as nothing was answered."""
        lost = code in (Code.UPSTREAM_UNREACHABLE, Code.SHUTDOWN)
        if not (lost and _only_reads(self._payload) and self._elsewhere()):
            super().on_reset(code, message)

    def accept(self, head: ResponseHead) -> ResponseHead:
        if head.status < 200:
            agreed = switched(head, self.ask.upgrade) if head.status == 101 else None
            if agreed is None:
                raise FramingError("the cluster switched to a protocol that was not asked for")
            headers = response_headers(head.headers)
            headers = [pair for pair in headers if pair[0].lower() != b"content-length"]
            headers += [(b"Connection", b"Upgrade"), (b"Upgrade", agreed)]
            return ResponseHead(101, b"Switching Protocols", headers)
        headers = response_headers(head.headers)
        if 300 <= head.status < 400:
            headers = [_safe_location(pair, self._chain.prefix(self.ask.cluster)) for pair in headers]
        return ResponseHead(head.status, head.reason, headers)

    def fail(self, code: Code, message: str, *, sent: bool) -> None:
        if code == Code.BUSY:
            bounds.met("streams_per_session")
        refusal = failure(self.ask.cluster.name, code, message, sent=sent)
        self.code = refusal.code
        self._upstream = None
        refuse(self.client, refusal, discovery=asks_for_discovery(self.ask.info.path))
        self._finish("" if not sent else f"failed: {code.name}")

    def done(self, outcome: str) -> None:
        self._payload = b""
        self._early.clear()
        if self._stop_waiting is not None:
            self._stop_waiting()
            self._stop_waiting = None
        self._chain.registry.remove(self)
        self._chain.count(self.code)
        self._chain.audit.record(self.record("end" if self._recorded_start else "complete", outcome))

    # -- registry ----------------------------------------------------------------------------------------------------

    @property
    def endless(self) -> bool:
        """Whether it may go on for ever: a watch, a followed log, an upgraded connection."""
        return self.raw or self.ask.long

    def cut(self, cause: str, message: str) -> None:
        """End it now: a right was taken away, or the server stops."""
        if self.over:
            return
        if self.code:
            self.client.abort()
        else:
            self.code = 403 if cause != "stop" else 503
            refuse(self.client, Refused(self.code, message))
        self._finish(f"cut: {cause}")

    def late(self) -> None:
        """No head in time."""
        if not self.over and not self.code:
            bounds.met("answer_timeout")
            self._drop_upstream(Code.TIMEOUT, "no answer in time")
            seconds = self._chain.settings.answer_timeout
            self.fail(Code.TIMEOUT, f"no answer within {seconds:.0f} s", sent=True)

    # -- audit -------------------------------------------------------------------------------------------------------

    def record(self, stage: str, outcome: str) -> AuditRecord:
        """The audit record of this exchange as it stands."""
        clock = self._chain.clock
        took = round((clock.monotonic() - self.ask.started_monotonic) * 1000, 3)
        now, moved = clock.now(), (self.bytes_in, self.bytes_out)
        return audit_record(self.ask, self.client, stage, self.code, now, outcome, moved, took)


def audit_record(
    ask: Ask,
    client: Client,
    stage: str,
    code: int,
    now: float,
    outcome: str,
    moved: tuple[int, int] = (0, 0),
    took: float = 0.0,
) -> AuditRecord:
    """The record of a request that has been understood. `moved`: bytes in and out; `took`: milliseconds."""
    identity, info = ask.identity, ask.info
    return AuditRecord(
        time=datetime.fromtimestamp(now, UTC),
        stage=stage,
        request_id=client.request_id,
        source=client.source,
        user=identity.user,
        uid=identity.uid,
        groups=identity.groups,
        token_id=identity.token_id,
        cluster=ask.cluster.name,
        cluster_id=ask.cluster.id,
        verb=info.verb,
        path=info.path,
        code=code,
        resource_request=info.resource_request,
        api_group=info.api_group,
        api_version=info.api_version,
        resource=info.resource,
        subresource=info.subresource,
        namespace=info.namespace,
        name=info.name,
        upgrade=ask.upgrade.decode("latin-1") if ask.upgrade else "",
        user_agent=ask.user_agent,
        bytes_in=moved[0],
        bytes_out=moved[1],
        duration_ms=took,
        outcome=outcome,
        impersonated_user=None if ask.acting is None else actas.recorded(ask.acting),
    )


def _only_reads(payload: bytes) -> bool:
    """Whether the payload of an OPEN (docs/protocol/tunnel.md) holds a GET or HEAD: safe in the sense of RFC 9110."""
    return bool(payload) and payload[1 + payload[0] :].startswith((b"GET ", b"HEAD "))


def response_headers(headers: Headers) -> Headers:
    """The headers of a cluster's response that a client may see."""
    named = connection_tokens(headers)
    named.discard(b"content-length")
    kept: Headers = []
    html = False
    for pair in headers:
        name = pair[0]
        drop = _dropped.get(name)
        if drop is None:
            plain = name.lower().replace(b"_", b"-")
            drop = plain in _DROP or plain.startswith(_DROP_PREFIX)
            if len(_dropped) < _CACHE_MAX and len(name) <= 64:
                _dropped[name] = drop
        if drop or (named and name.lower() in named):
            continue
        if len(name) == 12 and name.lower() == b"content-type" and b"html" in pair[1].lower():
            html = True
        kept.append(pair)
    if html:
        # A page that a cluster serves (a proxied service) must not act as a page of this server in a browser.
        kept.append((b"Content-Security-Policy", b"sandbox"))
    return kept


def _safe_location(pair: tuple[bytes, bytes], prefix: str) -> tuple[bytes, bytes]:
    """A redirect may only lead to the same cluster. client-go sends its token wherever a redirect leads."""
    name, value = pair
    if name.lower() != b"location":
        return pair
    # Browsers drop a tab from a URL before they look for dot segments.
    odd = b"\\" in value or b"\t" in value
    if odd or not value.startswith(b"/") or value.startswith(b"//") or has_dot_segments(value.split(b"#", 1)[0]):
        raise FramingError("the cluster answered with a redirect to another place, which is not passed on")
    return name, prefix.encode() + value


def failure(cluster: str, code: Code, message: str, *, sent: bool) -> Refused:
    """What a failed stream is to the client. `sent`: no Retry-After, as client-go would repeat even a POST."""
    said = f": {message[:512]}" if message else ""
    again = None if sent else 1
    match code:
        case Code.BUSY:
            return Refused(429, f"cluster {cluster}: its agent has too many open requests{said}", retry_after=again)
        case Code.BAD_REQUEST:
            return Refused(400, f"cluster {cluster}: the agent cannot take this request{said}")
        case Code.REFUSED_TARGET:
            return Refused(502, f"cluster {cluster}: the agent does not dial this target{said}")
        case Code.UPSTREAM_TLS:
            return Refused(
                502,
                f"cluster {cluster}: the agent does not trust the certificate of the API server{said}; "
                "check the CA that the agent runs with",
            )
        case Code.CREDENTIAL:
            return Refused(
                503,
                f"cluster {cluster}: the agent has no valid token of the service account mooring-impersonator{said}; "
                "see the log of the deployment mooring-agent in the namespace mooring-system",
                retry_after=again,
            )
        case Code.TIMEOUT:
            return Refused(504, f"cluster {cluster}: the API server did not answer in time{said}")
        case Code.UPSTREAM_UNREACHABLE | Code.SHUTDOWN | Code.CANCEL | Code.NO_ERROR if not sent:
            return Refused(503, f"cluster {cluster}: the agent cannot reach the API server{said}", retry_after=again)
        case Code.UPSTREAM_UNREACHABLE | Code.SHUTDOWN | Code.CANCEL | Code.NO_ERROR:
            return Refused(
                503,
                f"cluster {cluster}: the connection was lost before the answer came{said}; "
                "the request may have been carried out",
            )
        case _:
            return Refused(502, f"cluster {cluster}: the tunnel or the API server broke the protocol{said}")
