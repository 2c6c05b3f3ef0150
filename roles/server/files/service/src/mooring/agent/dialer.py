# SPDX-License-Identifier: Apache-2.0
"""Keeps a tunnel session to each server instance.

A link per address: dial with a fresh JWT, wait for HELLO, serve until it ends, dial again after a random delay (0.5 to
30 s). HELLO names the instance, so a second session to one that we already have is closed, and lists the other
instances, which are dialled too: the death of one server then costs no outage.

It must not: reuse a JWT, trust a server by anything but the pinned CA, or hide why it was refused.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from mooring.agent.backoff import Backoff
from mooring.agent.identity import BadIdentity, Identity, check_urls
from mooring.lib import logging
from mooring.lib.clock import Clock
from mooring.lib.ids import new_id
from mooring.lib.tasks import Supervisor
from mooring.lib.version import VERSION
from mooring.net.tls import client_context
from mooring.tunnel.carrier import ConnectFailed, connect_client
from mooring.tunnel.session import Session
from mooring.tunnel.stream import OpenHandler, SessionClosed
from mooring.wire.flow import Limits
from mooring.wire.frames import Code, Hello

WINDOW = 64 * 1024
"""Credit in bytes that a stream begins with; it grows while it is used. Small, since most requests have no body."""
GROWTH = 32 * 1024 * 1024
"""What the windows of a session may grow together: the agent has a memory limit."""
STEADY = 10.0
"""Seconds after which a session counts as good and the delays start over."""
DUPLICATE_DELAY = 30.0
"""Seconds until an address is tried again that led to an instance we already have."""
KEY_REFUSED = (401, 403)


class Dialer:
    """Holds the sessions. `renew` is asked for a new identity when the server refuses the key."""

    def __init__(
        self,
        identity: Identity,
        on_open: OpenHandler,
        renew: Callable[[Identity], Awaitable[Identity | None]],
        *,
        clock: Clock,
        max_streams: int,
    ) -> None:
        self._identity = identity
        self._context = client_context(identity.ca_pem)
        self._on_open = on_open
        self._renew = renew
        self._clock = clock
        self._hello = Hello(instance=new_id("a"), version=VERSION, window=WINDOW, max_streams=max_streams)
        self._links: dict[str, _Link] = {}
        self._renewing = asyncio.Lock()
        self._tasks = Supervisor("dialer")
        self._log = logging.get("mooring.agent.dialer")
        self._stopping = False
        self.on_connected: Callable[[Session], None] | None = None
        """Called with each new session."""
        self.problem = "no server has been reached yet"
        """Why there is no session, for people."""

    @property
    def sessions(self) -> list[Session]:
        """The sessions that take new streams."""
        return [link.session for link in self._links.values() if link.session is not None and link.session.usable]

    def start(self) -> None:
        """Dials every known address."""
        for url in self._identity.tunnel_urls:
            self._add(url)

    def broadcast(self, message: dict[str, Any]) -> None:
        """Sends a control message to every server."""
        for session in self.sessions:
            session.message(message)

    async def drain(self, seconds: float) -> None:
        """Says GOAWAY everywhere, lets open streams finish for at most `seconds`, and closes."""
        self._stopping = True
        live = [link.session for link in self._links.values() if link.session is not None]
        await asyncio.gather(*(session.drain(seconds) for session in live))
        await self._tasks.aclose()

    # --- for the links -----------------------------------------------------------------------------------------

    def credentials(self) -> tuple[str, ssl.SSLContext]:
        """A fresh JWT, and whom to trust."""
        return self._identity.sign(self._clock.now()).reveal(), self._context

    def new_session(self, url: str) -> Session:
        """A session that is not connected yet."""
        return Session("agent", self._hello, on_open=self._on_open, limits=Limits(growth_budget=GROWTH), name=url)

    def connected(self, link: _Link, session: Session, hello: Hello) -> bool:
        """A link has a session. False: there is already one to this instance."""
        for other in self._links.values():
            if other is not link and other.session is not None and other.instance == hello.instance:
                return False
        link.session, link.instance = session, hello.instance
        self.problem = ""
        self._log.info("connected", server=link.url, instance=hello.instance, version=hello.version)
        try:
            for url in check_urls(hello.peers):
                self._add(url)
        except BadIdentity as error:
            self._log.warning("the server names a peer that cannot be dialled", reason=error.reason)
        if self.on_connected is not None:
            self.on_connected(session)
        return True

    def wanted(self, url: str) -> bool:
        """Whether an address that cannot be reached is still somebody's: registered, or named by a live server."""
        live = self.sessions
        peers = {peer for session in live if session.peer is not None for peer in session.peer.peers}
        return url in self._identity.tunnel_urls or url in peers or not live

    async def key_refused(self) -> bool:
        """The server does not accept the key. True when a new registration was made."""
        before = self._identity
        async with self._renewing:
            if self._identity is not before:
                return True  # another link has seen to it
            renewed = await self._renew(before)
            if renewed is None:
                return False
            self._context = client_context(renewed.ca_pem)
            self._identity = renewed
            self.start()
            return True

    def failed(self, url: str, reason: str, delay: float) -> None:
        """A link could not connect, or its session ended."""
        if self._stopping:
            return
        if not self.sessions:
            self.problem = f"{url}: {reason}"
        self._log.warning("not connected", server=url, reason=reason, retry_seconds=round(delay, 1))

    def remove(self, url: str) -> None:
        """A link has ended for good."""
        self._links.pop(url, None)

    def _add(self, url: str) -> None:
        if url not in self._links and not self._stopping:
            link = self._links[url] = _Link(self, url)
            self._tasks.spawn(link.run(), url)


class _Link:
    """Keeps one address connected."""

    def __init__(self, dialer: Dialer, url: str) -> None:
        self.url = url
        self.session: Session | None = None
        self.instance = ""
        self._dialer = dialer
        self._backoff = Backoff()

    async def run(self) -> None:
        """Dials until the address is nobody's any more."""
        loop = asyncio.get_running_loop()
        while self._dialer.wanted(self.url):
            began = loop.time()
            reason, delay = await self._once()
            if loop.time() - began >= STEADY:
                self._backoff.reset()
            if delay is None:
                delay = self._backoff.next()
            self._dialer.failed(self.url, reason, delay)
            await asyncio.sleep(delay)
        self._dialer.remove(self.url)

    async def _once(self) -> tuple[str, float | None]:
        """One session from dial to end: why it ended, and a delay if it is not to be the usual one."""
        session = self._dialer.new_session(self.url)
        leaving = asyncio.Event()
        session.on_going_away = lambda _unused: leaving.set()
        session.on_close = lambda *_unused: leaving.set()
        token, context = self._dialer.credentials()
        headers = [("Authorization", f"Bearer {token}"), ("User-Agent", f"mooring-agent/{VERSION}")]
        try:
            await connect_client(self.url, session, headers=headers, ssl_context=context)
            hello = await session.wait_ready()
        except ConnectFailed as error:
            if error.status in KEY_REFUSED and await self._dialer.key_refused():
                return f"{error.reason}; registered anew", 0.0
            return error.reason, None
        except SessionClosed as error:
            return session.close_reason or error.reason, None
        if not self._dialer.connected(self, session, hello):
            session.close(Code.NO_ERROR, "there is already a session to this instance")
            return f"leads to instance {hello.instance}, which is connected already", DUPLICATE_DELAY
        try:
            # A server that goes away finishes its streams on the old session while we look for another.
            await leaving.wait()
        finally:
            self.session = None
        return session.close_reason or "the server is going away", None
