# SPDX-License-Identifier: Apache-2.0
"""The hub: which session serves a cluster, and who hears when that changes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from mooring.lib import metrics
from mooring.lib.clock import ManualClock
from mooring.tunnel.hub import MAX_SESSIONS, Hub, Lost
from mooring.tunnel.session import Session
from mooring.tunnel.stream import Code, SessionClosed
from mooring.wire import actas, frames
from mooring.wire.hello import Hello
from support.tunnel_ends import Recorder


class Deaf:
    """A link that keeps nothing and says nothing."""

    def room(self) -> int:
        return 1 << 20

    def write(self, written: list[bytes]) -> None:
        pass

    def delivered(self) -> bool:
        return False

    def close(self, code: Code, reason: str) -> None:
        pass


def session(instance: str = "agt", greeted: bool = True) -> Session:
    """The server's half of a session, with an agent that said HELLO, or not yet."""
    made = Session("server", Hello(instance="srv", version="0"))
    made.attach(Deaf())
    if greeted:
        greet(made, instance)
    return made


def greet(made: Session, instance: str = "agt", features: list[str] | None = None) -> None:
    made.frame_received(frames.pack_hello(Hello(instance=instance, version="1", features=features or [])), True)


class Watched:
    """A hub and the list of what it told."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.hub = Hub(self.clock)
        self.changes: list[tuple[str, bool, str]] = []
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self.hub.on_change.append(lambda *change: self.changes.append(change))
        self.hub.on_message.append(lambda *message: self.messages.append(message))


async def test_only_an_agent_that_knows_acting_as_another_is_given_such_a_request() -> None:
    """While agents are updated, an old one beside a new one must not get what it would run as the real user."""
    hub = Watched().hub
    old, new = session(greeted=False), session(greeted=False)
    hub.add("c-1", old)
    greet(old, "old", ["later"])
    assert hub.session_for("c-1") is old
    assert hub.session_for("c-1", target=actas.TARGET) is None
    hub.add("c-1", new)
    greet(new, "new", [actas.FEATURE])
    assert hub.session_for("c-1", target=actas.TARGET) is new
    assert hub.session_for("c-1", but_not=new, target=actas.TARGET) is None
    assert hub.session_for("c-1", target="elsewhere") is None


async def test_a_cluster_without_an_agent_has_no_session() -> None:
    watched = Watched()
    assert watched.hub.session_for("c-1") is None
    assert watched.hub.last_lost("c-1") is None
    assert not watched.hub.connected("c-1")


async def test_a_session_serves_its_own_cluster_only() -> None:
    watched = Watched()
    one, two = session("one"), session("two")
    watched.hub.add("c-1", one)
    watched.hub.add("c-2", two)
    assert watched.hub.session_for("c-1") is one
    assert watched.hub.session_for("c-2") is two
    assert watched.hub.clusters() == ["c-1", "c-2"]


async def test_a_session_is_used_once_hello_came() -> None:
    watched = Watched()
    early = session(greeted=False)
    watched.hub.add("c-1", early)
    assert watched.hub.session_for("c-1") is None
    assert watched.changes == []
    greet(early)
    assert watched.hub.session_for("c-1") is early
    assert watched.changes == [("c-1", True, "")]


async def test_a_lost_session_is_told_with_time_and_reason() -> None:
    watched = Watched()
    lost = session()
    watched.hub.add("c-1", lost)
    watched.clock.advance(60)
    lost.link_lost("the connection was closed")
    assert watched.changes == [("c-1", True, ""), ("c-1", False, "the connection was closed")]
    assert watched.hub.last_lost("c-1") == Lost(watched.clock.now(), "the connection was closed")
    assert watched.hub.session_for("c-1") is None
    assert watched.hub.sessions("c-1") == []


async def test_two_agents_of_a_cluster_share_the_work_and_one_may_die() -> None:
    watched = Watched()
    one, two = session("one"), session("two")
    watched.hub.add("c-1", one)
    watched.hub.add("c-1", two)
    for expected in (one, two, one, two):
        chosen = watched.hub.session_for("c-1")
        assert chosen is expected
        chosen.open(b"x", Recorder())
    assert watched.hub.session_for("c-1", but_not=one) is two
    one.link_lost("killed")
    assert watched.hub.session_for("c-1") is two
    assert watched.hub.session_for("c-1", but_not=two) is None
    assert watched.changes == [("c-1", True, "")]


async def test_an_agent_that_dials_again_is_reached_by_its_new_session() -> None:
    watched = Watched()
    half_open = session("agent-1")
    watched.hub.add("c-1", half_open)
    new = session("agent-1")
    watched.hub.add("c-1", new)
    for _unused in range(3):  # also when the old one has fewer streams
        assert watched.hub.session_for("c-1") is new
        new.open(b"x", Recorder())
    half_open.link_lost("nothing was received for 15 s")
    assert watched.changes == [("c-1", True, "")]


async def test_an_agent_that_closes_a_second_session_is_reached_by_its_first() -> None:
    watched = Watched()
    first, second = session("agent-1"), session("agent-1")
    watched.hub.add("c-1", first)
    watched.hub.add("c-1", second)
    second.link_lost("there is already a session to this instance")
    assert watched.hub.session_for("c-1") is first
    assert watched.changes == [("c-1", True, "")]


async def test_a_session_that_is_going_away_may_finish_beside_its_successor() -> None:
    watched = Watched()
    old = session("agent-1")
    watched.hub.add("c-1", old)
    running = Recorder()
    old.open(b"x", running)
    old.frame_received(frames.pack_goaway(1, 0, "restarting"), True)
    assert watched.changes[-1] == ("c-1", False, "the agent is shutting down")
    new = session("agent-1")
    watched.hub.add("c-1", new)
    assert not old.closed
    assert watched.hub.session_for("c-1") is new
    assert watched.changes[-1] == ("c-1", True, "")


async def test_when_one_session_is_lost_the_others_of_its_cluster_are_asked() -> None:
    watched = Watched()
    sessions = [session(f"agent-{number}") for number in range(3)]
    for number, each in enumerate(sessions):
        watched.hub.add("c-1" if number < 2 else "c-2", each)
        each.mux.frames_to_send(1 << 20)
        each.mux.tick(each.mux.next_deadline())  # nothing came since HELLO: at rest
        each.mux.frames_to_send(1 << 20)
        assert each.mux.resting
    sessions[0].link_lost("nothing was received for 15 s")
    assert [each.mux.has_output for each in sessions] == [False, True, False]
    watched.hub.doubt("c-2")
    watched.hub.doubt("c-3")
    assert sessions[2].mux.has_output


async def test_sessions_of_one_cluster_have_a_bound() -> None:
    watched = Watched()
    for number in range(MAX_SESSIONS):
        watched.hub.add("c-1", session(f"agent-{number}"))
    one_more = session("one more")
    watched.hub.add("c-1", one_more)
    assert one_more.close_code is Code.BUSY
    assert len(watched.hub.sessions("c-1")) == MAX_SESSIONS


async def test_a_session_that_ended_before_it_was_added_is_not_kept() -> None:
    watched = Watched()
    dead = session()
    dead.link_lost("gone")
    watched.hub.add("c-1", dead)
    assert watched.hub.sessions("c-1") == []
    assert watched.changes == []


async def test_control_messages_carry_the_cluster_of_their_session() -> None:
    watched = Watched()
    one = session()
    watched.hub.add("c-1", one)
    one.frame_received(frames.pack_message({"kind": "status", "cluster": "c-2"})[0], True)
    assert watched.messages == [("c-1", {"kind": "status", "cluster": "c-2"})]


async def test_a_callback_that_fails_does_not_keep_others_from_hearing() -> None:
    watched = Watched()

    def fail(*args: object) -> None:
        raise RuntimeError("a bug")

    watched.hub.on_change.insert(0, fail)
    watched.hub.on_message.insert(0, fail)
    one = session()
    watched.hub.add("c-1", one)
    one.frame_received(frames.pack_message({"kind": "x"})[0], True)
    assert watched.changes == [("c-1", True, "")]
    assert len(watched.messages) == 1
    assert one.usable


async def test_a_removed_cluster_loses_its_sessions_and_its_streams() -> None:
    watched = Watched()
    one, two = session("one"), session("two")
    watched.hub.add("c-1", one)
    watched.hub.add("c-1", two)
    sink = Recorder()
    one.open(b"x", sink)
    watched.hub.remove("c-1", "the cluster was deleted")
    assert (one.close_code, two.close_code) == (Code.CREDENTIAL, Code.CREDENTIAL)
    assert sink.over.is_set()
    assert watched.hub.session_for("c-1") is None
    assert watched.hub.last_lost("c-1") is None
    assert watched.changes[-1] == ("c-1", False, "the cluster was deleted")


async def test_closing_takes_no_new_sessions_and_drains_the_old_ones() -> None:
    watched = Watched()
    busy, idle = session("busy"), session("idle")
    watched.hub.add("c-1", busy)
    watched.hub.add("c-2", idle)
    sink = Recorder()
    stream = busy.open(b"x", sink, True)
    closing = asyncio.ensure_future(watched.hub.close_all(30))
    async with asyncio.timeout(20):
        await idle.wait_closed()
    late = session("late")
    watched.hub.add("c-3", late)
    assert late.close_code is Code.SHUTDOWN
    with pytest.raises(SessionClosed):
        busy.open(b"x", Recorder())
    assert not busy.closed
    busy.frame_received(frames.frame(frames.OPENED, stream.id, b"HTTP/1.1 200 OK\r\n\r\n", frames.FIN), True)
    async with asyncio.timeout(20):
        await closing
    assert sink.calls == ["head"]
    assert busy.closed
    assert idle.closed
    assert watched.hub.clusters() == []


def metric(name: str, **labels: str) -> float:
    value = metrics.REGISTRY.get_sample_value(name, labels)
    return 0.0 if value is None else value


async def test_metrics_count_sessions_streams_and_bytes() -> None:
    before_in = metric("mooring_tunnel_bytes_total", direction="in")
    before_ended = metric("mooring_tunnel_sessions_ended_total", code="UPSTREAM_UNREACHABLE")
    watched = Watched()
    one = session()
    watched.hub.add("c-1", one)
    one.open(b"x", Recorder())
    assert metric("mooring_tunnel_sessions") == 1
    assert metric("mooring_tunnel_streams") == 1
    assert watched.hub.streams() == 1
    one.link_lost("gone")
    assert metric("mooring_tunnel_sessions") == 0
    assert metric("mooring_tunnel_streams") == 0
    assert metric("mooring_tunnel_bytes_total", direction="in") - before_in == one.stats().bytes_in > 0
    assert metric("mooring_tunnel_sessions_ended_total", code="UPSTREAM_UNREACHABLE") == before_ended + 1


async def test_who_waits_for_a_session_gets_the_next_one_or_hears_that_none_came() -> None:
    watched = Watched()
    got: list[Session | None] = []
    watched.hub.wait_for("c-1", got.append, 60)
    cancel = watched.hub.wait_for("c-1", lambda session: got.append(None), 60)
    watched.hub.wait_for("c-2", got.append, 60)
    cancel()
    made = session()
    watched.hub.add("c-1", made)
    assert got == [made]
    watched.hub.give_up_waiting(lambda cluster_id: cluster_id == "c-2")
    assert got == [made]
    watched.hub.give_up_waiting(lambda cluster_id: False)
    assert got == [made, None]
    late: asyncio.Future[Session | None] = asyncio.get_running_loop().create_future()
    watched.hub.wait_for("c-3", late.set_result, 0.01)
    assert await asyncio.wait_for(late, 30) is None
    assert watched.hub._waiting == {}


async def test_every_agent_of_a_cluster_is_told_once_and_each_new_session_is_announced() -> None:
    watched = Watched()
    ready: list[tuple[str, Session]] = []
    watched.hub.on_ready.append(lambda *announced: ready.append(announced))
    old, new, replica, other, early = (
        session("one"),
        session("one"),
        session("two"),
        session("three"),
        session("", False),
    )
    for each in (old, new, replica, early):
        watched.hub.add("c-1", each)
    watched.hub.add("c-2", other)
    watched.hub.tell("c-1", {"kind": "policy"})
    told = [
        each for each in (old, new, replica, other, early) if b"policy" in b"".join(each.mux.frames_to_send(1 << 20))
    ]
    assert told == [new, replica], "the newest session of each instance, and nobody else's"
    watched.hub.tell("c-9", {"kind": "policy"})
    assert ready == [("c-1", old), ("c-1", new), ("c-1", replica), ("c-2", other)]
    greet(early, "four")
    assert ready[-1] == ("c-1", early)
