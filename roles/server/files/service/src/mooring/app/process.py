# SPDX-License-Identifier: Apache-2.0
"""One child process of the supervisor: started, told what to be, heard until it ends.

It must not: decide whether a child that ended is replaced (the keeper does).
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from mooring.app.orders import Drain, Failed, Going, Ping, Pong, Ready, Settled, ToChild, ToSupervisor
from mooring.bus.channel import Channel, pair
from mooring.lib import logging
from mooring.lib.errors import MooringError

START_SECONDS = 60.0
"""For a process to become ready."""
PING_SECONDS = 5.0
PINGS = 8
"""Pings without an answer after which a process counts as stuck."""
LAST_WORDS_SECONDS = 0.5
GRACE_SECONDS = 12.0
"""On top of the time that a process was given to end, before it is killed."""

log = logging.get("mooring.app")


class Child:
    """A process. Make it with `start`."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.pid = process.pid
        self.instance = ""
        """A worker's name in HELLO."""
        self.settled = asyncio.Event()
        self._going = asyncio.Event()
        self._unanswered = 0
        self._process = process
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._channel: Channel[ToSupervisor] = Channel(ToSupervisor, self._heard, lambda channel: None)
        self._exit = asyncio.ensure_future(process.wait())

    @classmethod
    async def start(cls, name: str, order: ToChild, descriptors: Sequence[int]) -> Child:
        """Start a Python of our own kind and tell it what to be; it keeps `descriptors`. Raises MooringError."""
        ours, theirs = pair()
        try:
            # A new session: Ctrl-C is for the supervisor, which tells the others in the right order.
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "mooring.app.child", str(theirs.fileno()),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), *descriptors], start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            ours.close()
            raise MooringError(f"the process {name} cannot be started: {error}") from None
        finally:
            theirs.close()
        child = cls(name, process)
        await asyncio.get_running_loop().create_unix_connection(lambda: child._channel, sock=ours)
        child.send(order)
        return child

    async def wait_ready(self) -> None:
        """Wait until it does its work. Raises MooringError, and then it is dead."""
        both: set[asyncio.Future[Any]] = {self._ready, self._exit}
        await asyncio.wait(both, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not self._ready.done():
            if self._exit.done():  # what it said last may stand behind the news of its end
                await asyncio.wait([self._ready], timeout=LAST_WORDS_SECONDS)
            if not self._ready.done():
                how = f"ended with {self._exit.result()}" if self._exit.done() else "is not ready in time"
                self._ready.set_exception(MooringError(f"the process {self.name} {how}", "the log above says why"))
        try:
            self._ready.result()
        except MooringError:
            await self.kill()
            raise

    async def wait_gone(self) -> int | None:
        """Wait for its end; returns the exit code, negative for a signal, or None when it is only about to end.

        One whose event loop does not turn any more is killed: it would keep what the kernel gives it, and answer
        nobody. Pings are counted, and not seconds, since it is not the process's fault when the machine stands still.
        """
        going = asyncio.ensure_future(self._going.wait())
        both: set[asyncio.Future[Any]] = {self._exit, going}
        while not (await asyncio.wait(both, timeout=PING_SECONDS, return_when=asyncio.FIRST_COMPLETED))[0]:
            if self._unanswered >= PINGS:
                log.error("a process does not answer and is killed", process=self.name, pid=self.pid)
                await self.kill()
                break
            self._unanswered += 1
            self.send(Ping())
        going.cancel()
        return self._exit.result() if self._exit.done() else None

    async def reap(self, seconds: float) -> None:
        """Wait for the end of one that is about to; kill it when it takes longer than it may."""
        done, _unused = await asyncio.wait([self._exit], timeout=seconds + GRACE_SECONDS)
        if not done:
            log.error("a process did not end in time and is killed", process=self.name, pid=self.pid)
        await self.kill()

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._exit.done()

    def send(self, order: ToChild) -> None:
        """Tell it something."""
        self._channel.send(order)

    async def drain(self, seconds: float, *, replaced: bool) -> None:
        """Let it end by itself; kill it when it takes longer than it may."""
        self.send(Drain(seconds=seconds, replaced=replaced))
        await self.reap(seconds)

    async def kill(self) -> None:
        """End it now."""
        if not self._exit.done():
            try:
                self._process.kill()
            except ProcessLookupError:
                pass  # it was quicker
            await asyncio.wait([self._exit], timeout=GRACE_SECONDS)
        self._channel.close()

    def _heard(self, channel: Channel[ToSupervisor], message: ToSupervisor) -> None:
        match message:
            case Ready():
                if not self._ready.done():
                    self._ready.set_result(None)
            case Failed(reason=reason, hint=hint):
                if not self._ready.done():
                    self._ready.set_exception(MooringError(reason, hint))
            case Pong():
                self._unanswered = 0
            case Going():
                self._going.set()
            case Settled():
                self.settled.set()
