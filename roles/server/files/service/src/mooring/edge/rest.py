# SPDX-License-Identifier: Apache-2.0
"""The REST API behind the edge: requests go to it over a unix socket, with who asked and from where.

Why: the API runs in a web framework that must not face the network. It trusts `X-Mooring-*` headers because only the
edge can reach its socket, so the edge takes them off every request before it writes its own.

It must not: authenticate (the API does, by the same index), or forward an upgrade.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mooring.edge.settings import EdgeSettings
from mooring.lib import bounds, metrics
from mooring.lib.addresses import bucket
from mooring.lib.tallies import Tally
from mooring.net.http1client import Http1Pool
from mooring.proxy.answers import Refused, at_bound, refuse_problem
from mooring.proxy.ports import Client, Handler
from mooring.proxy.relay import Relay
from mooring.wire.frames import Code
from mooring.wire.headers import Headers, RequestHead, ResponseHead, strip_hop_by_hop
from mooring.wire.http1_request import Request
from mooring.wire.http1_writer import FramingError

_DROP: Final = frozenset(
    {b"content-length", b"expect", b"forwarded", b"x-http-method", b"x-http-method-override", b"x-method-override",
     b"x-real-ip", b"x-request-id"}
)  # fmt: skip
_DROP_PREFIXES: Final = (b"x-mooring-", b"x-forwarded-", b"x-remote-", b"impersonate-")


class RestRoute:
    """Forwards requests to the REST API. `away` says why it cannot be reached for now; empty: it can."""

    def __init__(self, pool: Http1Pool, settings: EdgeSettings, *, away: Callable[[], str] = lambda: "") -> None:
        self.pool = pool
        self._away = away
        self.settings = settings
        self._open = bounds.Slots(settings.api_requests_per_source)
        self._counters: dict[int, Tally] = {}

    def handle(self, client: Client, request: Request) -> Handler | None:
        """Take a request. None: it has been answered."""
        if request.upgrade:
            self.refuse(client, Refused(400, "nothing on this path can be upgraded"))
            return None
        if request.length > self.settings.api_body_max:
            self.refuse(client, self.too_large())
            return None
        away = self._away()
        if away:
            self.refuse(client, Refused(503, f"the REST API cannot be reached: {away}", retry_after=1))
            return None
        source = bucket(client.source)
        if not self._open.take(source):
            # Also before anybody has logged in: who holds requests open must not keep the others from it.
            self.refuse(
                client, at_bound("api_requests_per_address", "too many open requests to the REST API from your address")
            )
            return None
        exchange = _Exchange(self, client, source, client_ended=request.body == "none")
        try:
            exchange.start(RequestHead(request.head.method, request.head.target, self._headers(client, request)))
        except BaseException:
            self.done(source)
            raise
        return exchange

    def too_large(self) -> Refused:
        """The answer to a body over the bound."""
        return at_bound("api_body", f"the REST API takes at most {self.settings.api_body_max} bytes", retry_after=None)

    def refuse(self, client: Client, refusal: Refused) -> None:
        """Answer in place of the API."""
        self.count(refusal.code)
        refuse_problem(client, refusal)

    def done(self, source: str) -> None:
        """An exchange is over."""
        self._open.free(source)

    def count(self, code: int) -> None:
        """Count an answered request."""
        counter = self._counters.get(code)
        if counter is None:
            counter = self._counters[code] = metrics.HTTP_REQUESTS.labels("api", str(code))
        counter.count += 1

    def _headers(self, client: Client, request: Request) -> Headers:
        headers: Headers = []
        for pair in strip_hop_by_hop(request.head.headers):
            name = pair[0].lower().replace(b"_", b"-")
            if name not in _DROP and not name.startswith(_DROP_PREFIXES):
                headers.append(pair)
        if request.body == "length":
            headers.append((b"Content-Length", b"%d" % request.length))
        elif request.body == "chunked":
            headers.append((b"Transfer-Encoding", b"chunked"))
        headers.append((b"X-Mooring-Request-Id", client.request_id.encode()))
        headers.append((b"X-Mooring-Source", client.source.encode()))
        return headers


class _Exchange(Relay):
    __slots__ = ("_route", "_source")

    def __init__(self, route: RestRoute, client: Client, source: str, *, client_ended: bool) -> None:
        super().__init__(client, client_ended=client_ended)
        self._route = route
        self._source = source

    def start(self, head: RequestHead) -> None:
        self._upstream = self._route.pool.request(head, self, head_timeout=self._route.settings.api_answer_timeout)

    def client_data(self, data: bytes) -> None:
        if self.bytes_in + len(data) > self._route.settings.api_body_max:
            self._answer(self._route.too_large())
        else:
            super().client_data(data)

    def on_head(self, head: ResponseHead, fin: bool) -> None:
        """UpstreamSink: the head of the response."""
        self.answered(head, fin)

    def accept(self, head: ResponseHead) -> ResponseHead:
        if head.status < 200:
            raise FramingError("an upgrade that was not asked for")
        headers = [pair for pair in strip_hop_by_hop(head.headers) if pair[0].lower() != b"x-request-id"]
        return ResponseHead(head.status, head.reason, headers)

    def fail(self, code: Code, message: str, *, sent: bool) -> None:
        if code == Code.TIMEOUT:
            self._answer(at_bound("api_answer_timeout", "the REST API did not answer in time", retry_after=None))
        elif code == Code.BUSY:
            self._answer(at_bound("api_requests", "the REST API has too many open requests; try again later"))
        else:
            again = None if sent else 1
            self._answer(Refused(503, f"the REST API cannot be reached: {message[:256]}", retry_after=again))

    def done(self, outcome: str) -> None:
        self._route.done(self._source)
        self._route.count(self.code)

    def _answer(self, refusal: Refused) -> None:
        """An answer of ours in place of the API's."""
        self._drop_upstream(Code.CANCEL, "answered by the edge")
        if self.code:
            self.client.abort()
        else:
            self.code = refusal.code
            refuse_problem(self.client, refusal)
        self._finish("answered by the edge")
