# SPDX-License-Identifier: Apache-2.0
"""What `Mux.receive_frame` tells its user: one small object per frame that means something.

Exists so that the state machine calls nobody: events come out, and the shell around it decides. `tag` is whatever the
user attached to the stream with `Mux.open` or `Mux.tag`, so that the user needs no table of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mooring.wire.frames import Code
from mooring.wire.hello import Hello


@dataclass(slots=True)
class HelloReceived:
    """The peer introduced itself: from now on streams can be opened."""

    hello: Hello


@dataclass(slots=True)
class StreamOpened:
    """Accepting side: a new stream, to be answered with `opened` or `refuse`. `fin`: no body follows."""

    id: int
    payload: bytes
    fin: bool


@dataclass(slots=True)
class HeadReceived:
    """Opening side: the peer answered. `fin`: nothing follows."""

    tag: Any
    payload: bytes
    fin: bool


@dataclass(slots=True)
class DataReceived:
    """Bytes of a stream, possibly none; `fin`: the peer ended its half with them."""

    tag: Any
    data: bytes
    fin: bool


@dataclass(slots=True)
class StreamRefused:
    """Opening side: the stream is over and nothing was sent upstream."""

    tag: Any
    code: Code
    message: str


@dataclass(slots=True)
class StreamReset:
    """The peer gave the stream up, both ways."""

    tag: Any
    code: Code
    message: str


@dataclass(slots=True)
class MessageReceived:
    """A control message."""

    message: dict[str, Any]


@dataclass(slots=True)
class PongReceived:
    """Our PING was answered after `rtt` seconds."""

    rtt: float


@dataclass(slots=True)
class GoAwayReceived:
    """The peer takes no new streams. `refused`: tags of streams of ours that it never looked at."""

    last: int
    code: Code
    message: str
    refused: list[Any] = field(default_factory=list)


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
