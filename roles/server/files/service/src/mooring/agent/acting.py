# SPDX-License-Identifier: Apache-2.0
"""A request whose user wants to act as another (`kubectl --as`): it waits here until the cluster has allowed that.

    OPEN "apiserver-as" + head -> real user and wanted identity -> review -> no:  403 as the API server would answer
                                                                          -> yes: on, as the wanted identity

What goes on names the real user in the extras `mooring.fleet/original-user` and `-uid`, so that the cluster's audit log
does. The decision belongs to this request: an open watch or exec is not asked about again, as without us.

It must not: send anything of the request before the decision, hold more of its body than the stream's window, or let
the real user's groups and uid through beside the wanted ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from mooring.agent.review import Question, Reviewer, Undecided, Verdict
from mooring.kube import status as kube
from mooring.lib.tasks import Supervisor
from mooring.tunnel.stream import Code, Stream, StreamSink
from mooring.wire.actas import (
    RESERVED,
    ActAs,
    BadActAs,
    extra_header,
    extra_key,
    from_wire,
    impersonation,
    is_client,
    is_wire,
)
from mooring.wire.headers import Headers, ResponseHead, get, serialize_response

ORIGINAL_USER: Final = RESERVED + "original-user"
ORIGINAL_UID: Final = RESERVED + "original-uid"

Begin = Callable[[Headers, bool], StreamSink | None]
"""Sends the request with these headers; `fin`: no body. Returns who listens to the stream, or None when refused."""


def split(headers: Headers) -> tuple[Headers, Headers, ActAs]:
    """The headers that are no identity, those of the real user, and the wanted identity. Raises BadActAs."""
    plain = [pair for pair in headers if not (is_client(pair[0]) or is_wire(pair[0]))]
    real = [pair for pair in headers if is_client(pair[0])]
    if any(extra_key(name) in (ORIGINAL_USER, ORIGINAL_UID) for name, _unused in real):
        raise BadActAs(400, "the request names an original user")
    return plain, real, from_wire([pair for pair in headers if is_wire(pair[0])])


def acting_headers(real: Headers, wanted: ActAs) -> Headers:
    """What the API server gets as identity: the wanted one, our extras, and who it really is."""
    headers = impersonation(wanted)
    # Only our own extras go along: those that a real user may have one day belong to that user.
    headers += [pair for pair in real if (extra_key(pair[0]) or "").startswith(RESERVED)]
    headers.append((extra_header(ORIGINAL_USER), get(real, b"impersonate-user") or b""))
    uid = get(real, b"impersonate-uid")
    if uid:
        headers.append((extra_header(ORIGINAL_UID), uid))
    return headers


def forbidden(real_user: str, question: Question, verdict: Verdict) -> bytes:
    """The API server's own words for a refused impersonation, as a Status (kubernetes, `ForbiddenStatusError`)."""
    qualified = f"{question.resource}.{question.group}" if question.group else question.resource
    resource = f"{question.resource}/{question.subresource}" if question.subresource else question.resource
    where = f"in the namespace {_quoted(question.namespace)}" if question.namespace else "at the cluster scope"
    said = f"User {_quoted(real_user)} cannot impersonate resource {_quoted(resource)} in API group "
    said += f"{_quoted(question.group)} {where}"
    said = said.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    message = f"{qualified} {_quoted(question.name)} is forbidden: {said}"
    if verdict.reason:
        message += f": {verdict.reason}"
    details = {"name": question.name, "group": question.group, "kind": question.resource}
    return kube.status(403, kube.FORBIDDEN, message, {key: value for key, value in details.items() if value})


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Acting:
    """One such request: the sink of its stream while it waits, and what the sink leads to afterwards."""

    def __init__(
        self, stream: Stream, headers: Headers, method: bytes, fin: bool, begin: Begin, done: Callable[[Acting], None]
    ) -> None:
        """Raises BadActAs."""
        plain, self._real, self._wanted = split(headers)
        self._headers = plain + acting_headers(self._real, self._wanted)
        self._stream = stream
        self._head_only = method == b"HEAD"
        self._ended = fin
        self._begin = begin
        self._done = done
        self._held: list[bytes] = []
        self._inner: StreamSink | None = None
        self._refused = False
        self._task: asyncio.Task[None] | None = None

    def start(self, reviewer: Reviewer, tasks: Supervisor) -> None:
        """Asks, and goes on from there."""
        self._task = tasks.spawn(self._decide(reviewer), "act as")

    async def _decide(self, reviewer: Reviewer) -> None:
        try:
            refused = await reviewer.first_refused(self._real, self._wanted)
        except Undecided as error:
            self._done(self)
            self._stream.refuse(error.code, error.reason)
            return
        except Exception:
            self._done(self)
            self._stream.refuse(Code.INTERNAL, "the right to impersonate could not be checked")
            raise  # to the log of the supervisor
        self._done(self)
        if refused is None:
            self._go_on()
        else:
            self._refuse(*refused)

    def _go_on(self) -> None:
        held, self._held = self._held, []
        self._inner = self._begin(self._headers, self._ended and not held)
        if self._inner is None:
            return
        for data in held:
            self._inner.on_data(data)
        if self._ended and held:
            self._inner.on_end()

    def _refuse(self, question: Question, verdict: Verdict) -> None:
        self._refused = True
        real = (get(self._real, b"impersonate-user") or b"").decode("utf-8", "replace")
        body = forbidden(real, question, verdict)
        head: Headers = [
            (b"Content-Type", kube.CONTENT_TYPE),
            (b"Content-Length", b"%d" % len(body)),
            (b"Cache-Control", b"no-cache, private"),
            (b"X-Content-Type-Options", b"nosniff"),
        ]
        self._stream.opened(serialize_response(ResponseHead(403, b"Forbidden", head)), self._head_only)
        if not self._head_only:
            self._stream.write(body, fin=True)
        # What else comes of the request is read, so that its sender is not held up, and dropped.
        self._stream.consumed(sum(map(len, self._held)))
        self._held = []

    def shut_down(self) -> None:
        """The agent stops: nothing was sent, another agent may take the request."""
        self._give_up()
        self._stream.refuse(Code.SHUTDOWN, "the agent is shutting down")

    def _give_up(self) -> None:
        self._done(self)
        self._held = []
        if self._task is not None:
            self._task.cancel()

    # -- StreamSink

    def on_data(self, data: bytes) -> None:
        """Body of the request: it waits, unacknowledged, so that the stream's window bounds it."""
        if self._inner is not None:
            self._inner.on_data(data)
        elif self._refused:
            self._stream.consumed(len(data))
        else:
            self._held.append(data)

    def on_end(self) -> None:
        """The request is complete."""
        self._ended = True
        if self._inner is not None:
            self._inner.on_end()

    def on_reset(self, code: Code, message: str) -> None:
        """The client went away, or the tunnel was lost."""
        if self._inner is not None:
            self._inner.on_reset(code, message)
        else:
            self._give_up()

    def on_writable(self) -> None:
        """The stream has room again."""
        if self._inner is not None:
            self._inner.on_writable()

    def on_head(self, head: bytes, fin: bool) -> None:
        """Only the side that opens a stream is answered; never called here."""

    def on_refused(self, code: Code, message: str) -> None:
        """Only the side that opens a stream can be refused; never called here."""
