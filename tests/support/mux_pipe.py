# SPDX-License-Identifier: Apache-2.0
"""Two muxes joined by a memory pipe, with a clock that moves only when it is told to."""

from __future__ import annotations

from typing import Any

from mooring.wire.events import Event, StreamOpened
from mooring.wire.flow import Limits
from mooring.wire.hello import Hello
from mooring.wire.mux import Mux

ALL = 1 << 30


class Pipe:
    """`server` and `agent` after their HELLOs, unless `greet` is False."""

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        agent_limits: Limits | None = None,
        server: dict[str, Any] | None = None,
        agent: dict[str, Any] | None = None,
        greet: bool = True,
    ) -> None:
        self.now = 100.0
        server_hello = Hello(instance="srv", version="0", **(server or {}))
        agent_hello = Hello(instance="agt", version="0", **(agent or {}))
        self.server = Mux("server", server_hello, limits or Limits(), self.now)
        self.agent = Mux("agent", agent_hello, agent_limits or limits or Limits(), self.now)
        if greet:
            self.settle()

    def to_agent(self, max_bytes: int = ALL) -> list[Event]:
        """Deliver what the server has to send."""
        return self._move(self.server, self.agent, max_bytes)

    def to_server(self, max_bytes: int = ALL) -> list[Event]:
        """Deliver what the agent has to send."""
        return self._move(self.agent, self.server, max_bytes)

    def settle(self) -> tuple[list[Event], list[Event]]:
        """Deliver in both directions until nothing is left. Returns the events of the server and of the agent."""
        at_server: list[Event] = []
        at_agent: list[Event] = []
        while True:
            new_agent, new_server = self.to_agent(), self.to_server()
            if not new_agent and not new_server and not self.server.has_output and not self.agent.has_output:
                return at_server, at_agent
            at_agent += new_agent
            at_server += new_server

    def open(self, tag: Any = "s", *, fin: bool = True, payload: bytes = b"\x09apiserverGET / HTTP/1.1\r\n\r\n") -> int:
        """Open a stream and let the agent see it."""
        stream_id = self.server.open(payload, fin, tag)
        self.to_agent()
        self.agent.tag(stream_id, tag)
        return stream_id

    def opened(self, tag: Any = "s", *, fin: bool = True) -> int:
        """Open a stream and let the agent answer it, without ending its half."""
        stream_id = self.open(tag, fin=fin)
        self.agent.opened(stream_id, b"HTTP/1.1 200 OK\r\n\r\n")
        self.to_server()
        return stream_id

    def _move(self, source: Mux, target: Mux, max_bytes: int) -> list[Event]:
        events = []
        for frame in source.frames_to_send(max_bytes):
            event = target.receive_frame(memoryview(frame), self.now)
            if isinstance(event, StreamOpened):
                target.tag(event.id, event.id)  # at once, as a session does; `open` gives another tag
            if event is not None:
                events.append(event)
        return events
