# SPDX-License-Identifier: Apache-2.0
"""The proxy chain: every request to a cluster takes these steps, in this order.

    sanitise       our view of the headers: nothing that speaks of identity, connection or this server gets through
    authenticate   the bearer token -> an identity                                       401
    route          the URL -> a cluster, and the Kubernetes path, unchanged              400, 404
    authorise      may this identity enter this cluster                                  403, 429, 503 (audit)
    act as         whom the client wants to act as (kubectl --as), for the cluster to decide   400, 403, 431
    impersonate    the identity -> Impersonate-* headers
    forward        a new head on a stream of the cluster's tunnel      503 not connected, 501 agent too old for --as

Each step raises `Refused` or goes on; nothing is forwarded by default. How a token is read and how a URL names a
cluster is the entrance's to say (`proxy.entrance`): the server has one, a cluster that serves its endpoint itself has
another. It must not ask a database, wait, or log secrets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from mooring.authn.identity import Identity
from mooring.authn.index import ClusterView, Index, Presented, Unauthenticated
from mooring.lib import metrics
from mooring.lib.clock import Clock, rfc3339
from mooring.lib.config import LimitsSection
from mooring.lib.tallies import Tally
from mooring.policy.decide import decide
from mooring.proxy import actas, upgrade
from mooring.proxy.answers import Refused, asks_for_discovery, at_bound, refuse, unauthorized
from mooring.proxy.audit import Audit
from mooring.proxy.entrance import ByPath, Entrance
from mooring.proxy.forward import Ask, Forward, audit_record
from mooring.proxy.impersonate import Impersonator, sanitise
from mooring.proxy.ports import Client, Handler, Hub
from mooring.proxy.registry import Place, Registry
from mooring.proxy.requestinfo import printable, understand
from mooring.tunnel.stream import pack_open
from mooring.wire.actas import TARGET as APISERVER_AS
from mooring.wire.actas import to_wire
from mooring.wire.frames import LocalError
from mooring.wire.headers import Headers, RequestHead, get, header_lines, serialize_request
from mooring.wire.http1_request import Request, once

_HOST: Final = (b"Host", b"apiserver")


@dataclass(frozen=True, slots=True)
class ChainSettings:
    """`identity_prefix` goes before user and group names in clusters. `answer_timeout`: seconds until the head of a
    response. `session_timeout`: seconds that a request waits for an agent that is connected to another worker and on
    its way to this one. The rest are bounds on open exchanges."""

    identity_prefix: str = "mooring:"
    answer_timeout: float = 300.0
    session_timeout: float = 10.0
    max_per_cluster: int = 2_000
    max_per_user: int = 1_000
    max_per_user_and_cluster: int = 400

    @classmethod
    def from_limits(cls, limits: LimitsSection, *, identity_prefix: str) -> ChainSettings:
        """What the configuration says."""
        return cls(
            identity_prefix=identity_prefix,
            answer_timeout=limits.answer_timeout_seconds,
            max_per_cluster=limits.max_streams_per_cluster,
            max_per_user=limits.max_streams_per_user,
            max_per_user_and_cluster=limits.max_streams_per_user_and_cluster,
        )


@dataclass(slots=True)
class Said:
    """What the headers of a client say. A pure function of them: it holds for each request that brings the same."""

    kept: Headers
    """Those that may go to a cluster."""
    impersonates: bool
    shown: Presented | str
    user_agent: str
    lines: bytes
    """`kept` behind our `Host`, as bytes."""


class Chain:
    """Takes requests for clusters. One per process; all parts are given by the composition root."""

    def __init__(
        self,
        *,
        index: Index,
        hub: Hub,
        audit: Audit,
        registry: Registry,
        clock: Clock,
        settings: ChainSettings,
        stale: Callable[[], str] = lambda: "",
        entrance: Entrance | None = None,
    ) -> None:
        """`stale` says why the index may not be believed any more; empty while it may. `entrance`: the server's by
        default."""
        self.index = index
        self.hub = hub
        self.audit = audit
        self.registry = registry
        self.clock = clock
        self.settings = settings
        self._stale = stale
        way_in: Entrance = ByPath(index) if entrance is None else entrance
        self.route = way_in.route
        self._shown = way_in.shown
        self.prefix = way_in.prefix
        self._help = way_in.help
        self._impersonator = Impersonator(settings.identity_prefix)
        self._counters: dict[int, Tally] = {}
        self._once: Callable[[Headers], Said] = self._read

    def handle(self, client: Client, request: Request) -> Handler | None:
        """Take a request whose target names a cluster, as the entrance has it. None: it has been answered."""
        head = request.head
        now = self.clock.now()
        ask: Ask | None = None
        try:
            said = once(request.notes, self._once, head.headers)
            identity = self._identify(said.shown, now)
            cluster, target = self.route(head.target)
            ask = self._ask(identity, cluster, request, target, said, now)
            self.authorise(ask, head.headers)
            place = self.bound(ask, client)
            if said.impersonates:
                ask = replace(ask, target=APISERVER_AS, acting=once(request.notes, actas.wanted, head.headers))
            payload = self._rebuild(request, ask, target, said, client.request_id)
            forward = Forward(self, client, ask, place, client_ended=request.body == "none" and not request.upgrade)
            forward.start(payload)
        except Refused as refusal:
            self.count(refusal.code)
            if ask is not None and self.audit.accepting:
                self.audit.record(audit_record(ask, client, "complete", refusal.code, now, "refused"))
            refuse(client, refusal, discovery=asks_for_discovery(head.target))
            return None
        return forward

    def rename(self, identity_prefix: str) -> None:
        """From now on this goes before names of users and groups. Raises ValueError for what cannot."""
        self._impersonator = Impersonator(identity_prefix)

    # -- the steps ---------------------------------------------------------------------------------------------------

    def authenticate(self, headers: Headers) -> Identity:
        """The identity behind the bearer token, now. Raises Refused: 401, or 503 when nobody can tell who may."""
        return self._identify(self._shown(headers), self.clock.now())

    def _identify(self, shown: Presented | str, now: float) -> Identity:
        if isinstance(shown, str):
            metrics.AUTH_FAILURES.labels(shown).inc()
            if shown == "missing":
                raise unauthorized(f"no bearer token; {self._help}")
            raise unauthorized("the Authorization header does not hold one bearer token")
        stale = self._stale()
        if stale:
            raise Refused(503, stale, retry_after=5)
        try:
            identity = self.index.authenticate(shown, now)
        except Unauthenticated as error:
            metrics.AUTH_FAILURES.labels(error.cause).inc()
            raise unauthorized(str(error)) from None
        self.index.note_used(identity.token_id, now)
        return identity

    def authorise(self, ask: Ask, headers: Headers) -> None:
        """May they, and is there room. Raises Refused."""
        identity, cluster = ask.identity, ask.cluster
        member = self.index.may_enter(identity, cluster.id, ask.started)
        decision = decide(identity, cluster.id, member)
        if not decision.allowed:
            raise Refused(403, f'cluster "{cluster.name}" is forbidden to user "{identity.user}": {decision.reason}')
        if ask.upgrade:
            upgrade.check_origin(headers)
        if not self.audit.accepting:
            raise Refused(
                503, f"requests are refused while they cannot be recorded: {self.audit.problem}", retry_after=5
            )

    def bound(self, ask: Ask, client: Client) -> Place:
        """Is there room, for this user and at all; where the exchange belongs. Raises Refused."""
        user, cluster, settings = ask.identity.user, ask.cluster, self.settings
        place = self.registry.place(ask.identity, cluster.id)
        if place.user.open >= settings.max_per_user:
            raise at_bound("streams_per_user", f'user "{user}" has too many open requests; close some watches')
        if place.both.open >= settings.max_per_user_and_cluster:
            raise at_bound(
                "streams_per_user_and_cluster",
                f'user "{user}" has too many open requests in cluster "{cluster.name}"; close some watches',
            )
        if place.cluster.open >= settings.max_per_cluster:
            raise at_bound("streams_per_cluster", f'cluster "{cluster.name}" has too many open requests; try later')
        if not client.belongs_to(ask.identity.user_id):
            raise at_bound("connections_per_user", f'user "{user}" has too many connections; close some')
        return place

    def _rebuild(self, request: Request, ask: Ask, target: bytes, said: Said, request_id: str) -> bytes:
        """The payload of the OPEN: a new head, in which nothing about identity or framing comes from the client."""
        try:
            lines = said.lines
            if ask.upgrade:
                lines = header_lines([_HOST, *upgrade.request_headers(said.kept, ask.upgrade)])
            if request.body == "length":
                lines += b"Content-Length: %d\r\n" % request.length
            elif request.body == "chunked":
                lines += b"Transfer-Encoding: chunked\r\n"
            elif request.head.method in (b"POST", b"PUT", b"PATCH"):
                lines += b"Content-Length: 0\r\n"
            lines += self._impersonator.lines(ask.identity, request_id)
            if ask.acting is not None:
                lines += header_lines(to_wire(ask.acting))
            return pack_open(ask.target, serialize_request(RequestHead(request.head.method, target, []), lines))
        except (ValueError, LocalError) as error:
            raise Refused(500, f"the request cannot be written for the cluster: {error}") from error

    # -- what the exchanges ask ----------------------------------------------------------------------------------------

    def not_connected(self, cluster: ClusterView) -> Refused:
        """Why nothing can be forwarded. One second to wait: client-go repeats ten times before it prints this."""
        name = cluster.name
        lost = self.hub.last_lost(cluster.id)  # fresher than what the index has from the store
        if cluster.refused_reason:
            why = f"its agent was refused: {cluster.refused_reason}"
        elif lost is None and not cluster.ever_connected:
            why = f"its agent has never connected; apply the output of 'mooring cluster manifest {name}' in the cluster"
        else:
            at = lost.at if lost is not None else cluster.last_seen_at
            reason = lost.reason if lost is not None else cluster.lost_reason
            why = "its agent was lost" + (f" at {rfc3339(at)}" if at is not None else "")
            why += (
                f": {reason}" if reason else ""
            ) + "; check the deployment mooring-agent in the namespace mooring-system"
        return Refused(503, f'cluster "{name}" is not connected: {why}', retry_after=1)

    def count(self, code: int) -> None:
        """Count an answered request."""
        counter = self._counters.get(code)
        if counter is None:
            counter = self._counters[code] = metrics.HTTP_REQUESTS.labels("proxy", str(code))
        counter.count += 1

    def _read(self, headers: Headers) -> Said:
        kept, impersonates = sanitise(headers)
        try:
            lines = header_lines([_HOST, *kept])
        except ValueError as error:
            raise Refused(500, f"the request cannot be written for the cluster: {error}") from error
        return Said(kept, impersonates, self._shown(headers), _user_agent(headers), lines)

    def _ask(
        self, identity: Identity, cluster: ClusterView, request: Request, target: bytes, said: Said, now: float
    ) -> Ask:
        head = request.head
        info, long = understand(head.method, target)
        asked = upgrade.protocol(head.headers) if request.upgrade else b""
        return Ask(identity, cluster, info, long, asked, said.user_agent, now, self.clock.monotonic())


def _user_agent(headers: Headers) -> str:
    return printable((get(headers, b"user-agent") or b"")[:256].decode("utf-8", "replace"))
