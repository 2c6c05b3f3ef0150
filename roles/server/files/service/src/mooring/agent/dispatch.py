# SPDX-License-Identifier: Apache-2.0
"""What the agent does with a stream that the server opens: check it, add the credential, join it to kube-apiserver.

    OPEN "apiserver" + head -> allow-list -> strict head -> no credential in it, one Impersonate-User -> our token, Host
    -> request to the own API server; from then on bytes both ways, each side stopped by the other's back-pressure.
    OPEN "apiserver-as" + head -> the same checks -> `acting`: may the user act as another? -> our token, Host -> ...

It must not: dial what is not on the allow-list, let a credential or a second identity through, send a request without
an impersonated user, keep an upstream connection whose stream has gone, or hold bytes back that could go on.
"""

from __future__ import annotations

from typing import Final

from mooring.agent.acting import Acting
from mooring.agent.apiserver import ApiServer, is_proxied
from mooring.agent.credential import Credential
from mooring.agent.heads import Checked, Heads, checked
from mooring.agent.review import Reviewer
from mooring.lib import logging
from mooring.lib.clock import Clock
from mooring.lib.secrets import Secret
from mooring.lib.tasks import Supervisor
from mooring.net.http1client import UpstreamRequest
from mooring.tunnel.stream import APISERVER, Code, OpenRequest, Stream, StreamSink, unpack_open
from mooring.wire.actas import TARGET as APISERVER_AS
from mooring.wire.actas import BadActAs, is_wire
from mooring.wire.frames import TunnelProtocolError
from mooring.wire.headers import (
    BadMessage,
    Headers,
    RequestHead,
    ResponseHead,
    connection_tokens,
    get,
    get_all,
    parse_request_head,
    serialize_response,
    strip_hop_by_hop,
)
from mooring.wire.plainhead import PlainHead

TARGETS: Final = (APISERVER, APISERVER_AS)
"""What a stream may ask for."""
NEW_TOKEN_WAIT: Final = 10.0
"""Seconds that a request waits for a new token after the API server refused the old one."""

# Credentials, and what a front proxy says in the name of one (kube-apiserver, --requestheader-*).
_FORBIDDEN: Final = frozenset({b"authorization", b"proxy-authorization", b"cookie"})
_FORBIDDEN_PREFIX: Final = b"x-remote-"
_CONNECTION_OPTIONS: Final = frozenset({b"keep-alive", b"close", b"upgrade"})
_FORBIDDEN_METHODS: Final = frozenset({b"CONNECT", b"TRACE"})
_ALLOWED_SYSTEM_GROUPS: Final = frozenset({b"system:authenticated"})


class Refused(Exception):
    """The stream is not served; nothing was sent."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def check_head(head: RequestHead, *, acts: bool = False) -> Headers:
    """The headers that may travel on, hop-by-hop ones left out. Raises Refused for what the agent will not carry.

    `acts`: the head also names an identity to act as; the rules here are about the real user.
    The server has checked all this; the agent does not rely on it, since its cluster trusts it and not the server.
    """
    if not head.target.startswith(b"/") or head.target.startswith(b"//") or b"#" in head.target:
        raise Refused(Code.BAD_REQUEST, "the request target is not an absolute path")
    if head.method in _FORBIDDEN_METHODS:
        raise Refused(Code.BAD_REQUEST, "this method is not forwarded")
    if connection_tokens(head.headers) - _CONNECTION_OPTIONS:
        raise Refused(Code.BAD_REQUEST, "Connection names other headers")
    for name, _unused in head.headers:
        lower = name.lower()
        if lower in _FORBIDDEN or lower.startswith(_FORBIDDEN_PREFIX):
            raise Refused(Code.BAD_REQUEST, f"the request carries {lower.decode()}, which is not the server's to give")
        if not acts and is_wire(name):
            raise Refused(Code.BAD_REQUEST, f"an identity to act as belongs to the target {APISERVER_AS}")
    users = get_all(head.headers, b"impersonate-user")
    if len(users) != 1 or not users[0]:
        raise Refused(Code.BAD_REQUEST, "the request must name exactly one user to impersonate")
    if users[0].lower().startswith(b"system:"):
        raise Refused(Code.BAD_REQUEST, "the user to impersonate is one of Kubernetes' own")
    for group in get_all(head.headers, b"impersonate-group"):
        if group.lower().startswith(b"system:") and group not in _ALLOWED_SYSTEM_GROUPS:
            raise Refused(Code.BAD_REQUEST, "a group to impersonate is one of Kubernetes' own")
    return [pair for pair in strip_hop_by_hop(head.headers) if pair[0].lower() not in (b"host", b"expect")]


def passed(head: RequestHead, headers: Headers) -> Checked:
    """The request with those of its headers that may travel on. Raises Refused for a body of unclear length."""
    try:
        return checked(head, headers)
    except ValueError as error:
        raise Refused(Code.BAD_REQUEST, str(error)) from None


def response_head(head: ResponseHead) -> bytes:
    """The head that goes back: its body travels decoded, so the framing of this connection is left out."""
    headers = strip_hop_by_hop(head.headers)
    if head.status == 101:
        upgrade = get(head.headers, b"upgrade")
        headers = [*headers, (b"Connection", b"Upgrade"), (b"Upgrade", upgrade or b"")]
    return serialize_response(ResponseHead(head.status, head.reason, headers))


class Dispatcher:
    """The `on_open` of the agent's sessions."""

    def __init__(self, apiserver: ApiServer, credential: Credential, clock: Clock) -> None:
        self.apiserver = apiserver
        self.credential = credential
        self.tasks = Supervisor("dispatch")
        self.exchanges: set[Exchange] = set()
        """Under way; each takes itself out."""
        self._reviewer = Reviewer(apiserver.call, apiserver.authority, credential, clock)
        self._heads = Heads(lambda head: passed(head, check_head(head)))
        self._acting: set[Acting] = set()
        self._log = logging.get("mooring.agent.dispatch")

    @property
    def open(self) -> int:
        """Exchanges under way, those that wait for a decision included."""
        return len(self.exchanges) + len(self._acting)

    def __call__(self, stream: Stream, payload: bytes, fin: bool, /) -> StreamSink | None:
        """Serves a stream, or refuses it. See `tunnel.stream.OpenHandler`."""
        try:
            opened = self._read(payload)
            if opened.target == APISERVER_AS:
                return self._act(stream, opened.head, fin)
            return self._begin(stream, self._heads.read(opened.head), fin)
        except Refused as refusal:
            self._refuse(stream, refusal)
        except BadMessage as error:
            self._refuse(stream, Refused(Code.BAD_REQUEST, f"malformed request head: {error.reason}"))
        return None

    def _read(self, payload: bytes) -> OpenRequest:
        try:
            opened = unpack_open(payload)
        except TunnelProtocolError as error:
            raise Refused(Code.BAD_REQUEST, f"malformed OPEN: {error}") from None
        if opened.target not in TARGETS:
            raise Refused(Code.REFUSED_TARGET, f"{opened.target!r} is not a target of this agent")
        return opened

    def _begin(self, stream: Stream, request: Checked, fin: bool) -> StreamSink:
        exchange = Exchange(self, stream, request, fin)
        exchange.start()
        self.exchanges.add(exchange)
        return exchange.from_tunnel

    def _act(self, stream: Stream, raw: bytes, fin: bool) -> StreamSink:
        def begin(headers: Headers, fin: bool) -> StreamSink | None:
            try:
                return self._begin(stream, passed(head, headers), fin)
            except Refused as refusal:
                self._refuse(stream, refusal)
                return None

        head = parse_request_head(raw)
        headers = check_head(head, acts=True)
        try:
            acting = Acting(stream, headers, head.method, fin, begin, self._acting.discard)
        except BadActAs as error:
            raise Refused(Code.BAD_REQUEST, error.reason) from None
        self._acting.add(acting)
        acting.start(self._reviewer, self.tasks)
        return acting

    def _refuse(self, stream: Stream, refusal: Refused) -> None:
        self._log.warning("stream refused", code=refusal.code.name, reason=refusal.message)
        stream.refuse(refusal.code, refusal.message)

    async def aclose(self) -> None:
        """Ends what is under way: streams are reset with SHUTDOWN."""
        for waiting in list(self._acting):
            waiting.shut_down()
        for exchange in list(self.exchanges):
            exchange.shut_down()
        await self.tasks.aclose()
        await self._reviewer.aclose()


class Exchange:
    """One stream and its request. This half listens to kube-apiserver (`UpstreamSink`) and writes to the stream."""

    __slots__ = (
        "_dispatcher",
        "_fin",
        "_repeatable",
        "_sent",
        "_token",
        "_unconsumed",
        "from_tunnel",
        "request",
        "stream",
    )

    def __init__(self, dispatcher: Dispatcher, stream: Stream, sent: Checked, fin: bool) -> None:
        self.from_tunnel = FromTunnel(self)
        self.stream = stream
        self.request: UpstreamRequest | None = None
        self._dispatcher = dispatcher
        self._sent = sent
        self._token: Secret | None = None
        self._fin = fin
        # Nothing but the head was sent, so the whole request can be sent again after a refused token.
        self._repeatable = fin or sent.framing[0]
        self._unconsumed = 0

    def start(self) -> None:
        """Sends the request. Raises Refused."""
        dispatcher = self._dispatcher
        self._token = token = dispatcher.credential.current()
        if token is None:
            raise Refused(Code.CREDENTIAL, dispatcher.credential.problem)
        try:
            self.request = dispatcher.apiserver.request(self._sent, token, self)
        except ValueError as error:
            raise Refused(Code.BAD_REQUEST, str(error)) from None
        if self._fin:
            self.request.end()

    def on_head(self, head: ResponseHead, fin: bool) -> None:
        """kube-apiserver answers."""
        if self._accepts(head.status, fin):
            self.stream.opened(response_head(head), fin)

    def on_plain_head(self, head: PlainHead) -> None:
        """kube-apiserver answers, with a head that goes back as it came."""
        if self._accepts(head.status, False):
            self.stream.opened(head.raw)

    def on_whole(self, head: PlainHead, body: bytes) -> None:
        """The same, and its whole body."""
        if self._accepts(head.status, True):
            self.stream.respond(head.raw, body)

    def _accepts(self, status: int, fin: bool) -> bool:
        if status == 401 and not is_proxied(self._sent.target):
            self._unauthorized()
            return False
        self._repeatable = False
        if fin:
            self._done()
        return True

    def on_data(self, data: bytes) -> None:
        """Body of the response, or raw bytes after a 101: on at once."""
        if self.stream.write(data):
            if self.request is not None:
                self.request.consumed(len(data))
        else:
            self._unconsumed += len(data)

    def stream_writable(self) -> None:
        """The stream has room again: what was held back counts as passed on, and kube-apiserver is read again."""
        held, self._unconsumed = self._unconsumed, 0
        if held and self.request is not None:
            self.request.consumed(held)

    def on_end(self) -> None:
        """The response is complete."""
        self._done()
        self.stream.end()

    def on_reset(self, code: Code, message: str) -> None:
        """kube-apiserver failed after it may have got the request."""
        self._done()
        self.stream.reset(code, message)

    def on_refused(self, code: Code, message: str) -> None:
        """kube-apiserver could not be reached."""
        self._done()
        self.stream.refuse(code, message)

    def on_writable(self) -> None:
        """kube-apiserver takes more of the request body."""
        self.from_tunnel.upstream_writable()

    def give_up(self) -> None:
        """The stream is gone: the upstream connection goes at once, so that no watch is left behind."""
        self._done()
        if self.request is not None:
            self.request.reset()

    def shut_down(self) -> None:
        """The agent stops."""
        self.give_up()
        self.stream.reset(Code.SHUTDOWN, "the agent is shutting down")

    def _done(self) -> None:
        self._dispatcher.exchanges.discard(self)

    def wrote_body(self) -> None:
        """Part of the body has been sent."""
        self._repeatable = False

    def _unauthorized(self) -> None:
        """A 401 speaks of the impersonator's token, not of the user: it never goes back to the client."""
        request, self.request = self.request, None
        if request is not None:
            request.reset()
        assert self._token is not None
        self._dispatcher.credential.rejected(self._token)
        if self._repeatable:
            self._repeatable = False
            self._dispatcher.tasks.spawn(self._again(self._token), "retry after 401")
        else:
            self._fail_credential()

    async def _again(self, old: Secret) -> None:
        if await self._dispatcher.credential.other_than(old, NEW_TOKEN_WAIT) is None or self.stream.closed:
            self._fail_credential()
            return
        try:
            self.start()
        except Refused as refusal:
            self._done()
            self.stream.reset(refusal.code, refusal.message)
        else:
            self.from_tunnel.pass_on()

    def _fail_credential(self) -> None:
        self._done()
        self.stream.reset(Code.CREDENTIAL, "kube-apiserver refuses the agent's token of mooring-impersonator")


class FromTunnel:
    """The other half of an exchange: listens to the stream (`StreamSink`) and writes to kube-apiserver."""

    __slots__ = ("_early", "_early_end", "_exchange", "_unconsumed")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._unconsumed = 0
        self._early: bytearray | None = None  # at most the stream's window: no credit is given for it
        self._early_end = False

    def on_data(self, data: bytes) -> None:
        """Body of the request, or raw bytes after a 101."""
        exchange = self._exchange
        exchange.wrote_body()
        if exchange.request is None:
            if self._early is None:
                self._early = bytearray()
            self._early += data
        elif exchange.request.write(data):
            exchange.stream.consumed(len(data))
        else:
            self._unconsumed += len(data)

    def pass_on(self) -> None:
        """There is a request again: it gets what came while there was none."""
        early, self._early = self._early, None
        if early is not None:
            self.on_data(bytes(early))
        if self._early_end:
            self.on_end()

    def upstream_writable(self) -> None:
        """kube-apiserver has room again: the peer may send as much more."""
        held, self._unconsumed = self._unconsumed, 0
        if held:
            self._exchange.stream.consumed(held)

    def on_end(self) -> None:
        """The request is complete."""
        if self._exchange.request is not None:
            self._exchange.request.end()
        else:
            self._early_end = True

    def on_reset(self, code: Code, message: str) -> None:
        """The client went away, or the tunnel was lost."""
        self._exchange.give_up()

    def on_writable(self) -> None:
        """The stream has room again."""
        self._exchange.stream_writable()

    def on_head(self, head: bytes, fin: bool) -> None:
        """Only the side that opens a stream is answered; never called here."""

    def on_refused(self, code: Code, message: str) -> None:
        """Only the side that opens a stream can be refused; never called here."""
