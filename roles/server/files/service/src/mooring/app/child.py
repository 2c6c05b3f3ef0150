# SPDX-License-Identifier: Apache-2.0
"""What a child process runs: `python -m mooring.app.child DESCRIPTOR`. Hears what it is to be, and is that.

The parts are imported only once it is known which are needed: a worker has neither the database nor the REST framework
in its memory. It must not be imported by anything.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from typing import Protocol

import uvloop

from mooring.app.orders import (
    BeginControl,
    BeginWorker,
    Drain,
    Failed,
    Going,
    Ping,
    Pong,
    ReadCertificate,
    Ready,
    ToChild,
)
from mooring.bus.channel import Channel
from mooring.lib import heap, logging
from mooring.lib.errors import MooringError

ALONE_MOST = 20.0
"""Seconds for a process to end by itself when its supervisor has died."""


class Part(Protocol):
    """What the two kinds of processes have in common."""

    async def start(self) -> None:
        """Raises MooringError."""

    async def wait(self, stop: asyncio.Event) -> None:
        """Returns when it is time to stop. Raises MooringError when the process cannot go on."""

    async def stop(self, order: Drain) -> None: ...

    def read_certificate(self) -> None: ...


class _Child:
    def __init__(self) -> None:
        self._begin: asyncio.Future[BeginControl | BeginWorker] = asyncio.get_running_loop().create_future()
        self._stop = asyncio.Event()
        # Without an order (the supervisor died, or a signal): a signal leaves time, a dead supervisor none.
        self._drain = Drain(seconds=0.0, replaced=False)
        self._part: Part | None = None

    async def run(self, descriptor: int) -> int:
        loop = asyncio.get_running_loop()
        channel: Channel[ToChild] = Channel(ToChild, self._heard, self._alone)
        sock = socket.socket(fileno=descriptor)
        sock.setblocking(False)
        await loop.create_unix_connection(lambda: channel, sock=sock)
        begin = await self._begin
        config = begin.config
        logging.configure(config.log.level, config.log.format)
        loop.add_signal_handler(signal.SIGTERM, self._signalled, channel, config.server.stop_timeout_seconds)
        part: Part
        if isinstance(begin, BeginControl):
            from mooring.app.control import Control

            part = Control(begin)
        else:
            from mooring.app.worker import Worker

            part = Worker(begin, channel.send)
        self._part = part
        try:
            await part.start()
            channel.send(Ready())
            await part.wait(self._stop)
        except MooringError as error:
            logging.get("mooring.app").error("the process cannot go on", reason=error.reason, hint=error.hint)
            channel.send(Failed(reason=error.reason, hint=error.hint))
            return 1
        finally:
            await part.stop(self._drain)
            channel.close()
            await asyncio.sleep(0)
        return 0

    def _heard(self, channel: Channel[ToChild], order: ToChild) -> None:
        match order:
            case BeginControl() | BeginWorker():
                if not self._begin.done():
                    self._begin.set_result(order)
            case Drain():
                self._drain = order
                self._stop.set()
            case Ping():
                channel.send(Pong())
            case ReadCertificate():
                if self._part is not None:
                    self._part.read_certificate()

    def _signalled(self, channel: Channel[ToChild], seconds: float) -> None:
        """SIGTERM to this process alone: it ends in good order, and the supervisor starts another."""
        if not self._stop.is_set():
            channel.send(Going())
            self._drain = Drain(seconds=seconds, replaced=True)
            self._stop.set()

    def _alone(self, channel: Channel[ToChild]) -> None:
        if not self._begin.done():
            os._exit(1)
        # Whatever it waits for while it stops: nobody is there any more who would end it.
        asyncio.get_running_loop().call_later(ALONE_MOST, os._exit, 1)
        self._stop.set()


def main(descriptor: int) -> int:
    """Run; returns the exit code."""
    heap.keep_buffers_out()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(descriptor))


async def _run(descriptor: int) -> int:
    return await _Child().run(descriptor)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
