# SPDX-License-Identifier: Apache-2.0
"""What `Mux.receive_frame` tells its user: one small object per frame that means something.

Exists so that the state machine calls nobody: events come out, and the shell around it decides. `tag` is whatever the
user attached to the stream with `Mux.open` or `Mux.tag`, so that the user needs no table of its own.

Structs, because one is made for each frame: their constructor is C, a dataclass's is Python. They are never compiled
(see `wire.hello`).
"""

from __future__ import annotations

from typing import Any

import msgspec

from mooring.wire.frames import Code
from mooring.wire.hello import Hello


class HelloReceived(msgspec.Struct, gc=False):
    """The peer introduced itself: from now on streams can be opened."""

    hello: Hello


class StreamOpened(msgspec.Struct, gc=False):
    """Accepting side: a new stream, to be answered with `opened` or `refuse`. `fin`: no body follows."""

    id: int
    payload: bytes
    fin: bool


class HeadReceived(msgspec.Struct, gc=False):
    """Opening side: the peer answered. `fin`: nothing follows."""

    tag: Any
    payload: bytes
    fin: bool


class DataReceived(msgspec.Struct, gc=False):
    """Bytes of a stream, possibly none; `fin`: the peer ended its half with them."""

    tag: Any
    data: bytes
    fin: bool


class StreamRefused(msgspec.Struct, gc=False):
    """Opening side: the stream is over and nothing was sent upstream."""

    tag: Any
    code: Code
    message: str


class StreamReset(msgspec.Struct, gc=False):
    """The peer gave the stream up, both ways."""

    tag: Any
    code: Code
    message: str


class MessageReceived(msgspec.Struct, gc=False):
    """A control message."""

    message: dict[str, Any]


class PongReceived(msgspec.Struct, gc=False):
    """Our PING was answered after `rtt` seconds."""

    rtt: float


class GoAwayReceived(msgspec.Struct, gc=False):
    """The peer takes no new streams. `refused`: tags of streams of ours that it never looked at."""

    last: int
    code: Code
    message: str
    refused: list[Any] = msgspec.field(default_factory=list)


Event = (
    HelloReceived
    | StreamOpened
    | HeadReceived
    | DataReceived
    | StreamRefused
    | StreamReset
    | MessageReceived
    | PongReceived
    | GoAwayReceived
)
