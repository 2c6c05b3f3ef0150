# SPDX-License-Identifier: Apache-2.0
"""What the supervisor and the processes that it started say to each other, over a socket that each child inherits.

A child whose supervisor is gone ends: nobody would replace it, and it would keep the port from the next server.
"""

from __future__ import annotations

import msgspec

from mooring.lib.config import Config


class _Order(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    pass


class BeginControl(_Order, frozen=True):
    """Be the control process. `api` and `bus` are descriptors of listening unix sockets; `resumed`: workers are there
    already, and agents are connected to them."""

    config: Config
    api: int
    bus: int
    resumed: bool


class BeginWorker(_Order, frozen=True):
    """Be a worker: one of `workers`, with these descriptors of bound sockets."""

    config: Config
    instance: str
    slot: int
    workers: int
    listen: list[int]


class Drain(_Order, frozen=True):
    """Take nothing new, let what is under way finish for `seconds`, and end. `replaced`: another process has taken the
    place already, so that clients lose nothing when they are asked to come again."""

    seconds: float
    replaced: bool


class ReadCertificate(_Order, frozen=True):
    """The certificate's files have changed."""


class Ping(_Order, frozen=True):
    """Are you there?"""


ToChild = BeginControl | BeginWorker | Drain | ReadCertificate | Ping


class Ready(_Order, frozen=True):
    """The process does its work."""


class Going(_Order, frozen=True):
    """The process was told by somebody else to end, and does so in good order: start another at once."""


class Settled(_Order, frozen=True):
    """A worker has a session with every agent that is connected at all."""


class Failed(_Order, frozen=True):
    """The process cannot start; the same as a MooringError."""

    reason: str
    hint: str


class Pong(_Order, frozen=True):
    """The answer to a `Ping`: the event loop turns."""


ToSupervisor = Ready | Settled | Going | Failed | Pong
