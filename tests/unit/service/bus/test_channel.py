# SPDX-License-Identifier: Apache-2.0
"""Messages between processes: whole, typed and bounded, or the channel is closed."""

from __future__ import annotations

import asyncio
import struct

import msgspec
import pytest
from mooring.bus import channel
from mooring.bus.channel import Channel, pair


class Ping(msgspec.Struct, tag=True):
    number: int
    filling: bytes = b""


class Other(msgspec.Struct, tag=True):
    number: int


class End:
    """One end, and what came there."""

    def __init__(self) -> None:
        self.got: list[int] = []
        self.lost = asyncio.Event()
        self.some = asyncio.Event()
        self.channel: Channel[Ping] = Channel(Ping, self._heard, lambda channel: self.lost.set())

    def _heard(self, channel: Channel[Ping], message: Ping) -> None:
        self.got.append(message.number)
        self.some.set()
        if message.number == 13:
            raise RuntimeError("one message's fault")


async def ends() -> tuple[End, End]:
    loop = asyncio.get_running_loop()
    both = (End(), End())
    for end, sock in zip(both, pair(), strict=True):
        sock.setblocking(False)
        await loop.create_unix_connection(lambda end=end: end.channel, sock=sock)  # type: ignore[misc]
    return both


async def test_messages_arrive_whole_and_in_order_and_one_fault_does_not_end_the_channel() -> None:
    left, right = await ends()
    for number in (1, 13, 3):
        left.channel.send(Ping(number, bytes(200_000)))
    async with asyncio.timeout(30):
        while len(right.got) < 3:
            right.some.clear()
            await right.some.wait()
    assert right.got == [1, 13, 3]
    left.channel.close()
    await asyncio.wait_for(right.lost.wait(), 30)
    left.channel.send(Ping(4))  # nobody is there: no error


@pytest.mark.parametrize(
    "rubbish",
    [struct.pack("!I", channel.MAX_FRAME + 1), struct.pack("!I", 3) + b"\xff\xff\xff", struct.pack("!I", 1) + b"\x01"],
)
async def test_what_cannot_be_read_closes_the_channel(rubbish: bytes) -> None:
    left, right = await ends()
    assert left.channel._transport is not None
    left.channel._transport.write(rubbish)
    await asyncio.wait_for(right.lost.wait(), 30)
    assert right.got == []


async def test_a_message_of_another_type_closes_the_channel() -> None:
    left, right = await ends()
    left.channel.send(Other(1))
    await asyncio.wait_for(right.lost.wait(), 30)


async def test_a_peer_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "MAX_WAITING", 1024 * 1024)
    left, right = await ends()
    assert right.channel._transport is not None
    right.channel._transport.pause_reading()
    for number in range(100):
        left.channel.send(Ping(number, bytes(100_000)))
    await asyncio.wait_for(left.lost.wait(), 30)


async def test_a_message_over_the_bound_is_our_error() -> None:
    left, _unused = await ends()
    with pytest.raises(ValueError, match="at most"):
        left.channel.send(Ping(1, bytes(channel.MAX_FRAME)))
