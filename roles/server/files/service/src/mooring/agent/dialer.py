# SPDX-License-Identifier: Apache-2.0
"""Keeps a tunnel session to each server instance.

A link per address: dial with a fresh JWT, wait for HELLO, and dial again after a random delay (0.5 to 10 s) whenever a
session has ended. An address may lead to several processes: HELLO names the one that answered and lists them all, and
the link dials until it has a session with each. Each dial says which instances we have, so that one of these can send
us away before a session is made. Other addresses that HELLO names are dialled too: the death of one process, or of one
server, then costs no outage.

It must not: reuse a JWT, trust a server by anything but the pinned CA, or hide why it was refused.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from mooring.agent.identity import BadIdentity, Identity, check_urls
from mooring.agent.servertime import ServerTime, Verdict
from mooring.lib import logging
from mooring.lib.backoff import Backoff
from mooring.lib.clock import Clock
from mooring.lib.ids import new_id
from mooring.lib.tasks import Supervisor
from mooring.lib.version import VERSION
from mooring.net.tls import client_context
from mooring.tunnel.carrier import ConnectFailed, connect_client
from mooring.tunnel.session import Session
from mooring.tunnel.stream import OpenHandler, SessionClosed
from mooring.wire.actas import FEATURE
from mooring.wire.flow import Limits
from mooring.wire.frames import MAX_PEERS, Code
from mooring.wire.hello import Hello

WINDOW = 64 * 1024
"""Credit in bytes that a stream begins with; it grows while it is used. Small, since most requests have no body."""
GROWTH = 32 * 1024 * 1024
"""What the windows of a session may grow together: the agent has a memory limit."""
SEND_TOTAL = 32 * 1024 * 1024
"""Bytes of responses that wait to be sent in a session; above, a stream is stopped with 16 KiB and not with 256."""
STEADY = 10.0
"""Seconds after which a session counts as good and the delays start over."""
DUPLICATE_DELAY = 30.0
"""Seconds until an address is tried again that led to an instance we already have, when it has shown no other."""
SEEK_FIRST, SEEK_MOST = 0.02, 1.0
"""Seconds between two dials while an instance is missing that the address is known to lead to."""
SEEK_TRIES = 8
"""Dials per listed instance that may meet one we have, before the link waits for DUPLICATE_DELAY or for news. Eight
leave a chance of 1 in 3000 to miss one of many."""
LEAD_PULSE, OTHER_PULSE = 15.0, 60.0
"""Seconds between two signs of life that a server at rest is asked for: on one session with it, and on the others,
whose death is mostly that of the one too, and is looked for when that one dies."""
KEY_REFUSED = (401, 403)
HELD = "Mooring-Held"
CONFLICT = 409


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
        time: ServerTime | None = None,
    ) -> None:
        self._identity = identity
        self._context = client_context(identity.ca_pem)
        self._on_open = on_open
        self._renew = renew
        self._time = time or ServerTime(clock)
        self._hello = Hello(
            instance=new_id("a"), version=VERSION, window=WINDOW, max_streams=max_streams, features=[FEATURE]
        )
        self._links: dict[str, _Link] = {}
        self._renewing = asyncio.Lock()
        self._tasks = Supervisor("dialer")
        self._log = logging.get("mooring.agent.dialer")
        self._stopping = False
        self.on_connected: Callable[[Session], None] | None = None
        """Called with each new session."""
        self.on_message: Callable[[dict[str, Any]], None] | None = None
        """Called with each control message that is not about the sessions themselves."""
        self.on_sessions: Callable[[], None] | None = None
        """Called when there is a session more, or one less."""
        self.problem = "no server has been reached yet"
        """Why there is no session, for people."""

    @property
    def sessions(self) -> list[Session]:
        """The sessions that take new streams."""
        return [session for link in self._links.values() for session in link.sessions.values() if session.usable]

    @property
    def held(self) -> list[str]:
        """The names of the instances that there is a session with."""
        return [name for link in self._links.values() for name in link.sessions]

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
        live = [session for link in self._links.values() for session in link.sessions.values()]
        await asyncio.gather(*(session.drain(seconds) for session in live))
        await self._tasks.aclose()

    # --- for the links -----------------------------------------------------------------------------------------

    def credentials(self) -> tuple[str, ssl.SSLContext]:
        """A fresh JWT, and whom to trust."""
        return self._identity.sign(self._time.now()).reveal(), self._context

    def new_session(self, url: str) -> Session:
        """A session that is not connected yet."""
        return Session(
            "agent",
            self._hello,
            on_open=self._on_open,
            limits=Limits(growth_budget=GROWTH, send_total=SEND_TOTAL),
            name=url,
        )

    def connected(self, link: _Link, session: Session, hello: Hello) -> bool:
        """A link has a session. False: there is already one to this instance."""
        if hello.instance in self.held:
            return False
        link.sessions[hello.instance] = session
        self.problem = ""
        self._log.info("connected", server=link.url, instance=hello.instance, version=hello.version)
        try:
            for url in check_urls(hello.peers):
                self._add(url)
        except BadIdentity as error:
            self._log.warning("the server names a peer that cannot be dialled", reason=error.reason)
        if self.on_connected is not None:
            self.on_connected(session)
        if self.on_sessions is not None:
            self.on_sessions()
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

    def clock_off(self, date: float | None) -> str:
        """Why a JWT was refused, if the server's Date (Unix seconds) says that it was the clock's fault; else empty."""
        verdict = Verdict.FINE if date is None else self._time.learn(date)
        return "" if verdict is Verdict.FINE else verdict.value

    def failed(self, url: str, reason: str, delay: float) -> None:
        """A link could not connect, or its session ended."""
        if self._stopping:
            return
        if not self.sessions:
            self.problem = f"{url}: {reason}"
        self._log.warning("not connected", server=url, reason=reason, retry_seconds=round(delay, 1))

    def lost(self) -> None:
        """A session has ended: an address that only led to instances which we had may be the way to one now."""
        for link in self._links.values():
            if not link.sessions:
                link.look_again()
        if self.on_sessions is not None and not self._stopping:
            self.on_sessions()

    def remove(self, url: str) -> None:
        """A link has ended for good."""
        self._links.pop(url, None)

    def _add(self, url: str) -> None:
        if url not in self._links and not self._stopping:
            link = self._links[url] = _Link(self, url)
            self._tasks.spawn(link.run(), url)


class _Link:
    """Keeps one address connected: a session with every instance that it leads to."""

    def __init__(self, dialer: Dialer, url: str) -> None:
        self.url = url
        self.sessions: dict[str, Session] = {}
        self._known: list[str] = []  # the instances behind the address, as one of them said last
        self._dialer = dialer
        self._backoff = Backoff()
        self._seek = Backoff(SEEK_FIRST, SEEK_MOST)
        self._met = 0  # dials in a row that met an instance which we have
        self._news = asyncio.Event()
        self._lost: str | None = None  # why the last session ended, until it was told
        self._lead: Session | None = None  # the session on which the server is listened for

    async def run(self) -> None:
        """Dials until the address is nobody's any more."""
        while self.sessions or self._dialer.wanted(self.url):
            if not self._missing():
                self._lost = None
                await self._wait(None)
            elif self._lost is not None:
                reason, self._lost = self._lost, None
                await self._pause(reason, self._backoff.next())
            elif self.sessions and self._met >= SEEK_TRIES * len(self._known):
                await self._wait(DUPLICATE_DELAY)
                self._met = 0
            else:
                reason, delay = await self._once()
                if reason:
                    await self._pause(reason, delay)
        self._dialer.remove(self.url)

    def look_again(self) -> None:
        """Do not wait any longer for news: there is some."""
        self._news.set()

    def _missing(self) -> bool:
        """Whether the address leads to an instance that there is no session with."""
        return not self.sessions or not set(self._known) <= set(self._dialer.held)

    async def _wait(self, seconds: float | None, began: bool = False) -> None:
        """Wait for news of the instances, or for the end of a session. `began`: what came since the dial counts."""
        if not began:
            self._news.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            pass

    async def _pause(self, reason: str, delay: float | None) -> None:
        if delay is None:
            delay = self._backoff.next()
        self._dialer.failed(self.url, reason, delay)
        await asyncio.sleep(delay)

    async def _once(self) -> tuple[str, float | None]:
        """One dial: why it made no session (empty: it did, or is to be tried again at once), and a delay if it is not
        to be the usual one."""
        self._news.clear()
        session = self._dialer.new_session(self.url)
        began = asyncio.get_running_loop().time()
        name = ""

        def ended(reason: str) -> None:
            if self.sessions.get(name) is session:
                del self.sessions[name]
                self._lost = reason
                if asyncio.get_running_loop().time() - began >= STEADY:
                    self._backoff.reset()
                self._dialer.lost()
                self._news.set()
                for other in self.sessions.values():
                    other.doubt()
                self._choose_lead()

        # A server that goes away finishes its streams on the old session while we look for another.
        session.on_going_away = lambda _unused: ended("the server is going away")
        session.on_close = lambda _session, _code, reason: ended(reason)
        session.on_message = self._heard
        session.on_ready = self._greeted
        token, context = self._dialer.credentials()
        headers = [("Authorization", f"Bearer {token}"), ("User-Agent", f"mooring-agent/{VERSION}")]
        if self._dialer.held:
            headers.append((HELD, ", ".join(self._dialer.held)))
        try:
            await connect_client(self.url, session, headers=headers, ssl_context=context)
            hello = await session.wait_ready()
        except ConnectFailed as error:
            if error.status == CONFLICT:
                return await self._again(error.reason)
            if error.status in KEY_REFUSED:
                if off := self._dialer.clock_off(error.date):
                    return f"{off} ({error.reason})", None
                if await self._dialer.key_refused():
                    return f"{error.reason}; registered anew", 0.0
            return error.reason, None
        except SessionClosed as error:
            return session.close_reason or error.reason, None
        name = hello.instance
        if not session.usable:
            return session.close_reason or "the session ended at once", None
        if not self._dialer.connected(self, session, hello):
            session.close(Code.NO_ERROR, "there is already a session to this instance")
            return await self._again(f"leads to instance {name}, which is connected already")
        self._choose_lead()
        if session is not self._lead:
            session.pulse(OTHER_PULSE)
        self._met = 0
        self._seek.reset()
        return "", None

    def _choose_lead(self) -> None:
        """Listen on one session for all with this server."""
        if self._lead is not None and self._lead in self.sessions.values():
            return
        self._lead = next(iter(self.sessions.values()), None)
        if self._lead is not None:
            self._lead.pulse(LEAD_PULSE)

    async def _again(self, reason: str) -> tuple[str, float | None]:
        """The dial met an instance that we have. While others are known to be there, the next one may meet them."""
        if self._lost is not None:
            return "", None  # the session that it met has ended meanwhile (a half-open link): that is what counts now
        if not self.sessions:
            self._dialer.failed(self.url, reason, DUPLICATE_DELAY)
            await self._wait(DUPLICATE_DELAY, began=True)  # for the end of the session that another address has
            await asyncio.sleep(SEEK_MOST)  # news may come with each dial
            return "", None
        self._met += 1
        await asyncio.sleep(self._seek.next())
        return "", None

    def _greeted(self, session: Session) -> None:
        """HELLO came; a message with a newer list may follow at once."""
        if session.peer is not None:
            self._know(session.peer.instances)

    def _heard(self, session: Session, message: dict[str, Any]) -> None:
        """A control message: the server's processes have changed."""
        names = message.get("instances")
        if message.get("kind") == "instances" and isinstance(names, list):
            self._know([name for name in names[:MAX_PEERS] if isinstance(name, str)])
        elif self._dialer.on_message is not None:
            self._dialer.on_message(message)

    def _know(self, names: list[str]) -> None:
        if names != self._known:
            self._known = names
            self._met = 0
            self._seek.reset()
            self._news.set()
