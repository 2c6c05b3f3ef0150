# SPDX-License-Identifier: Apache-2.0
"""What a side says of itself: the payload of HELLO.

Exists apart from `frames` because a `msgspec.Struct` is made by a metaclass, which a compiled module cannot use: this
file is never compiled. It must not check anything; `frames.unpack_hello` does.
"""

from __future__ import annotations

import msgspec

PROTOCOL = "mooring-tunnel/1"


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """What a side says of itself in its first frame.

    `instance` names the process, so that an agent can tell two servers behind one address apart. `window` is the
    credit in bytes that every stream begins with, towards the sender of this HELLO. `max_streams` is how many streams
    the peer may hold open at the sender of this HELLO. `peers` are the tunnel URLs of other servers; `instances` are
    the names of all processes that share the URL which led here, this one included. `features` are words for what the
    sender can do beyond the first version of the protocol.
    """

    protocol: str = PROTOCOL
    instance: str
    version: str
    window: int = 256 * 1024
    max_streams: int = 1024
    peers: list[str] = msgspec.field(default_factory=list)
    instances: list[str] = msgspec.field(default_factory=list)
    features: list[str] = msgspec.field(default_factory=list)
