# SPDX-License-Identifier: Apache-2.0
"""Control and two workers over a real unix socket: what each knows, and what happens when one of them is gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from mooring.app.sockets import unix_listener
from mooring.authn.agents import AgentIdentity
from mooring.authn.index import Change, Index, TokenRevoked, Unauthenticated, UserChanged
from mooring.authn.tokens import new_token
from mooring.bus import messages
from mooring.bus.link import Link
from mooring.bus.roster import Roster, parts
from mooring.lib.clock import ManualClock
from mooring.store.policies import PolicyDelta
from mooring.store.records import Delta, EndpointSettings, EndpointStatus, Members, Snapshot
from mooring.tunnel.hub import Hub
from support import records as make
from support.records import NOW


async def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        await asyncio.sleep(0.005)


@dataclass
class Worker:
    link: Link
    index: Index
    hub: Hub
    changes: list[Change] = field(default_factory=list)

    def says(self, cluster_id: str, connected: bool) -> None:
        """What the hub would call when its first session came or its last one went."""
        for callback in self.hub.on_change:
            callback(cluster_id, connected, "" if connected else "cut")

    async def claim(self, jti: str) -> bool | None:
        answer: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()
        self.link.claim(AgentIdentity("c-one", jti, NOW + 90, b"k"), answer.set_result)
        return await answer


@dataclass
class Bus:
    """`control` may be closed and opened again; its index is what the store says."""

    folder: Path
    clock: ManualClock
    index: Index
    roster: Roster
    workers: list[Worker]
    heard: list[tuple[str, bool, str]]

    async def open(self) -> None:
        self.roster = Roster(self.index, self.clock, "audience-1", lambda: "")
        self.roster.on_change.append(lambda *change: self.heard.append(change))
        await self.roster.start(unix_listener(self.folder / "bus.sock"))

    def commit(self, **changed: Any) -> None:
        """As the store does: control's index first, then everybody."""
        delta = Delta(**changed)
        self.index.apply(delta)
        self.roster.publish(delta)

    async def join(self, slot: int) -> Worker:
        index, hub = Index(), Hub(self.clock)
        link = Link(
            str(self.folder / "bus.sock"),
            instance=f"srv/i-{slot}",
            slot=slot,
            pid=slot,
            index=index,
            hub=hub,
            clock=self.clock,
        )
        worker = Worker(link, index, hub)
        index.subscribe(worker.changes.append)
        self.workers.append(worker)
        await link.start(30)
        return worker


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Bus]:
    clock = ManualClock(NOW)
    index = Index()
    it = Bus(tmp_path, clock, index, Roster(index, clock, "", lambda: ""), [], [])
    await it.open()
    yield it
    for worker in it.workers:
        await worker.link.aclose()
    await it.roster.aclose()


async def test_a_worker_knows_what_control_knows_and_hears_of_changes(bus: Bus) -> None:
    bob, lab = make.user("bob"), make.cluster("lab", public_key=b"k" * 32)
    made = new_token("mrg")
    token = make.token(bob, id=made.id, hash=made.hash)
    more = [make.token(bob) for _unused in range(1_200)]  # in more than one part
    bus.index.load(Snapshot([lab], [bob], [token, *more], {lab.id: Members({bob.id: "m-1"})}))
    one, two = await bus.join(0), await bus.join(1)
    for worker in (one, two):
        identity = worker.index.authenticate(made.text.reveal(), NOW)
        assert (identity.user, worker.index.memberships_of(bob.id, lab.id, make.NOW)) == ("bob", {"m-1"})
        assert worker.index.agent_key(lab.id) == b"k" * 32
        assert worker.link.audience == "audience-1"
        assert len(worker.index.snapshot().tokens) == 1_201
        worker.changes.clear()
    bus.commit(tokens={token.id: None})
    await until(lambda: one.changes and two.changes)
    for worker in (one, two):
        assert worker.changes == [TokenRevoked(token.id)]
        with pytest.raises(Unauthenticated):
            worker.index.authenticate(made.text.reveal(), NOW)


async def test_workers_hear_nothing_of_endpoints(bus: Bus) -> None:
    bob, lab = make.user("bob"), make.cluster("lab")
    bus.index.load(Snapshot([lab], [bob], [], {}))
    worker = await bus.join(0)
    token = make.endpoint_token(bob, lab)
    with_endpoint = replace(lab, endpoint=EndpointSettings(ca_pem="PEM"), endpoint_status=EndpointStatus(at=NOW))
    gone = {"e-aaaaaaaaaaaa": None, "t-aaaaaaaaaaaa": None}
    assert list(parts(Delta(tokens=gone))) == [messages.Changed(delta=Delta(tokens={"t-aaaaaaaaaaaa": None}))]
    delta = Delta(clusters={lab.id: with_endpoint}, tokens={token.id: token})
    assert list(parts(delta)) == [messages.Changed(delta=Delta(clusters={lab.id: lab}))]
    bus.commit(clusters={lab.id: with_endpoint}, tokens={token.id: token})
    bus.commit(members={lab.id: Members({bob.id: "m-1"})})
    await until(lambda: worker.changes)
    late = await bus.join(1)
    for one in (worker, late):
        assert one.index.snapshot().tokens == []
        assert one.index.snapshot().clusters == [lab]


async def test_who_may_enter_reaches_everybody_whole_however_many_they_are(bus: Bus) -> None:
    """Sixty thousand users by one binding, in two clusters: some megabytes, in parts, and nobody sees half of them."""
    one, two, small = make.cluster("one"), make.cluster("two"), make.cluster("small")
    ann = make.user("ann")
    many = {f"u-{number:012d}": "b-bindingbindi" for number in range(60_000)}
    until_then = {"b-bindingbindi": NOW + 60}
    both = Members(many | {ann.id: "b-bindingbindi"}, {"g-adminsadmins": "b-adminsadmins"}, until_then)
    few = Members({ann.id: "m-1"})
    bus.index.load(Snapshot([one, two, small], [ann], [], {one.id: both, two.id: both, small.id: few}))
    worker = await bus.join(0)
    assert worker.index.snapshot().members == {one.id: both, two.id: both, small.id: few}
    worker.changes.clear()
    less = Members(many, both.groups, until_then)
    policy = PolicyDelta(projects={"p-gone": None})
    bus.commit(members={one.id: less, two.id: less, small.id: Members()}, policy=policy, policy_revision=7)
    await until(lambda: len(worker.changes) == 3)
    assert worker.index.snapshot().members == {one.id: less, two.id: less, small.id: Members()}
    assert worker.index.memberships_of(ann.id, two.id, NOW) == set()


def test_the_policy_is_not_for_workers() -> None:
    policy = PolicyDelta(projects={"p-gone": None})
    changed = Delta(members={"c-one": Members({"u-ann": "m-1"})}, policy=policy, policy_revision=7)
    assert list(parts(changed)) == [messages.Changed(delta=Delta(members=changed.members))]
    assert list(parts(Delta(policy=policy, policy_revision=7))) == []


async def test_a_change_of_very_many_reaches_everybody(bus: Bus) -> None:
    """A group of twenty thousand is deleted: one transaction, and more than one message holds."""
    groups = tuple((f"g-{number:08d}", f"group-{number:08d}") for number in range(20))
    before = [make.user(f"user-{number:05d}", groups=groups) for number in range(20_000)]
    bus.index.load(Snapshot([], before, [], {}))
    worker = await bus.join(0)
    worker.changes.clear()
    bus.commit(users={user.id: make.user(user.name, id=user.id, groups=groups[1:]) for user in before})
    await until(lambda: len(worker.changes) == len(before))
    assert {len(user.groups) for user in worker.index.snapshot().users} == {19}


async def test_what_was_revoked_while_control_was_away_ends_what_is_open(bus: Bus) -> None:
    bob = make.user("bob")
    kept, lost = make.token(bob), make.token(bob)
    bus.index.load(Snapshot([], [bob], [kept, lost], {}))
    worker = await bus.join(0)
    worker.changes.clear()
    await bus.roster.aclose()
    await until(lambda: not worker.link.connected)
    bus.clock.advance(7)
    assert worker.link.lost_for() == 7
    bus.index.apply(Delta(tokens={lost.id: None}, users={bob.id: make.user("bob", id=bob.id, enabled=False)}))
    await bus.open()
    await until(lambda: worker.link.connected)
    assert worker.link.lost_for() == 0
    assert worker.changes == [TokenRevoked(lost.id), UserChanged(bob.id)]


async def test_a_control_process_that_says_nothing_any_more_is_left_and_found_again(bus: Bus) -> None:
    worker = await bus.join(0)
    before = worker.link._channel
    await bus.roster._tasks.aclose()  # no beats from now on
    bus.clock.advance(11)
    await until(lambda: worker.link._channel not in (None, before) and worker.link.connected)


async def test_a_jwt_is_good_once_for_all_workers_and_nobody_gets_in_without_control(bus: Bus) -> None:
    one, two = await bus.join(0), await bus.join(1)
    assert await one.claim("jti-number-1") is True
    assert await two.claim("jti-number-1") is False
    assert await two.claim("\ud800 is no text that travels") is True
    await bus.roster.aclose()
    await until(lambda: not one.link.connected)
    assert await one.claim("jti-number-2") is None


async def test_a_jwt_that_was_used_is_not_good_again_because_control_was_replaced(bus: Bus) -> None:
    one, two = await bus.join(0), await bus.join(1)
    assert await one.claim("jti-number-1") is True
    await bus.roster.aclose()
    await until(lambda: not (one.link.connected or two.link.connected))
    await bus.open()
    await until(lambda: one.link.connected and two.link.connected)
    assert await two.claim("jti-number-1") is False
    assert await two.claim("jti-number-2") is True


async def test_a_cluster_is_connected_while_any_worker_has_its_agent(bus: Bus) -> None:
    one, two = await bus.join(0), await bus.join(1)
    one.says("c-lab", True)
    await until(lambda: two.link.expected("c-lab"))
    two.says("c-lab", True)
    one.says("c-lab", False)
    two.says("c-lab", False)
    await until(lambda: len(bus.heard) == 2)
    assert bus.heard == [("c-lab", True, ""), ("c-lab", False, "cut")]
    await until(lambda: not two.link.expected("c-lab"))


async def test_a_worker_that_lost_an_agent_makes_the_others_ask(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = await bus.join(0), await bus.join(1), await bus.join(2)
    asked: list[tuple[Hub, str]] = []
    monkeypatch.setattr(Hub, "doubt", lambda hub, cluster_id: asked.append((hub, cluster_id)))
    one.says("c-lab", True)
    two.says("c-lab", True)
    three.says("c-home", True)
    await until(lambda: sum("c-lab" in worker.clusters for worker in bus.roster._workers.values()) == 2)
    one.says("c-lab", False)
    await until(lambda: asked)
    assert asked == [(two.hub, "c-lab")]


async def test_a_worker_that_died_takes_its_clusters_along(bus: Bus) -> None:
    one, two = await bus.join(0), await bus.join(1)
    one.says("c-lab", True)
    await until(lambda: two.link.expected("c-lab"))
    bus.workers.remove(one)
    await one.link.aclose()
    await until(lambda: len(bus.heard) == 2)
    assert bus.heard[1][:2] == ("c-lab", False)
    await until(lambda: two.link.instances == ["srv/i-1"])


async def test_all_workers_are_listed_and_one_that_leaves_is_not(bus: Bus) -> None:
    one, two = await bus.join(1), await bus.join(0)
    await until(lambda: one.link.instances == two.link.instances == ["srv/i-0", "srv/i-1"])
    one.link.leave()
    await until(lambda: two.link.instances == ["srv/i-0"])


async def test_a_status_that_cannot_be_written_does_not_keep_the_worker_from_coming_back(bus: Bus) -> None:
    worker = await bus.join(0)
    said: list[dict[str, Any]] = []
    bus.roster.on_message.append(lambda cluster_id, message: said.append(message))
    for message in ({"kind": "status", "node_count": 1}, {"kind": "status", "node_count": 1 << 70}, {"kind": "other"}):
        for callback in worker.hub.on_message:
            callback("c-lab", message)
    await until(lambda: said)
    await bus.roster.aclose()
    await until(lambda: not worker.link.connected)
    await bus.open()
    await until(lambda: worker.link.connected)
    assert said[0] == {"kind": "status", "node_count": 1}


async def test_uses_of_tokens_and_metrics_of_all_workers_come_together(bus: Bus) -> None:
    bob = make.user("bob")
    token = make.token(bob)
    bus.index.load(Snapshot([], [bob], [token], {}))
    one, two = await bus.join(0), await bus.join(1)
    one.index.note_used(token.id, NOW + 5)
    page: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    two.link.metrics(page.set_result)
    text = (await page).decode()
    # All three "processes" of this test are one, so what it counted stands there three times.
    assert 'process_resident_memory_bytes{process="worker-0"}' in text
    assert 'process_resident_memory_bytes{process="control"}' in text
    bus.workers.remove(one)
    await one.link.aclose()
    await until(lambda: bus.index.take_used() == {token.id: NOW + 5})


class Told:
    """A session of an agent, as far as the hub tells it things."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []

    def message(self, message: dict[str, Any]) -> None:
        self.heard.append(message)


def agent(worker: Worker, cluster_id: str, told: list[Told]) -> Told:
    """An agent of the cluster connects to this worker. `told`: all that the hub knows there."""
    new = Told()
    told.append(new)
    worker.hub.tell = lambda cluster_id, message: [one.message(message) for one in told]  # type: ignore[method-assign,assign,misc]
    worker.hub.connected = lambda cluster_id: bool(told)  # type: ignore[method-assign]
    if len(told) == 1:
        worker.says(cluster_id, True)
    for callback in worker.hub.on_ready:
        callback(cluster_id, new)  # type: ignore[arg-type]
    return new


async def test_agents_hear_what_they_are_told_at_every_worker_and_when_they_connect_later(bus: Bus) -> None:
    one, two = await bus.join(0), await bus.join(1)
    here: list[Told] = []
    there: list[Told] = []
    first = agent(one, "c-lab", here)
    await until(lambda: bus.heard)
    bus.roster.tell("c-lab", {"kind": "policy", "revision": 1})
    await until(lambda: first.heard == [{"kind": "policy", "revision": 1}])
    replica = agent(one, "c-lab", here)
    assert replica.heard == first.heard, "a second one of the same worker need not wait"
    elsewhere = agent(two, "c-lab", there)
    await until(lambda: elsewhere.heard == first.heard)
    bus.roster.tell("c-lab", {"kind": "policy", "revision": 2})
    bus.roster.tell("c-other", {"kind": "policy", "revision": 9})
    await until(lambda: all(told.heard[-1]["revision"] == 2 for told in (first, replica, elsewhere)))
    here.clear()
    one.says("c-lab", False)
    again = agent(one, "c-lab", here)
    await until(lambda: again.heard == [{"kind": "policy", "revision": 2}])
    bus.roster.forget("c-lab")
    here.clear()
    one.says("c-lab", False)
    bare = agent(one, "c-lab", here)
    bus.roster.tell("c-lab", {"kind": "policy", "revision": 3})
    await until(lambda: bare.heard)
    assert {message["revision"] for message in bare.heard} == {3}


async def test_what_an_agent_is_told_of_one_kind_does_not_take_the_place_of_another(bus: Bus) -> None:
    one = await bus.join(0)
    here: list[Told] = []
    first = agent(one, "c-lab", here)
    await until(lambda: bus.heard)
    policy, endpoint = {"kind": "policy", "revision": 1}, {"kind": "endpoint", "revision": 7}
    for message in (policy, endpoint, policy | {"revision": 2}):
        bus.roster.tell("c-lab", message)
    await until(lambda: len(first.heard) == 3)
    replica = agent(one, "c-lab", here)
    assert replica.heard == [{"kind": "policy", "revision": 2}, endpoint]
    here.clear()
    one.says("c-lab", False)
    again = agent(one, "c-lab", here)
    await until(lambda: len(again.heard) == 2)
    assert again.heard == replica.heard


async def test_a_control_process_that_was_replaced_hears_the_last_of_each_kind(bus: Bus) -> None:
    worker = await bus.join(0)
    worker.hub.clusters = lambda: ["c-lab"]  # type: ignore[method-assign]
    policy: dict[str, Any] = {"kind": "policy-status", "drift": [{"object": "o"}]}
    endpoint = {"kind": "endpoint-status", "revision": 3}
    for message in ({"kind": "status", "node_count": 1}, policy | {"applied": 1}, endpoint, policy | {"applied": 2}):
        for callback in worker.hub.on_message:
            callback("c-lab", message)
    await bus.roster.aclose()
    await until(lambda: not worker.link.connected)
    said: list[tuple[str, dict[str, Any]]] = []
    await bus.open()
    bus.roster.on_message.append(lambda *message: said.append(message))
    await until(lambda: worker.link.connected)
    assert said == [
        ("c-lab", {"kind": "status", "node_count": 1}),
        ("c-lab", {"kind": "policy-status", "applied": 2}),
        ("c-lab", endpoint),
    ]
    assert bus.roster.first_use(AgentIdentity("c-lab", "jti-number-1", NOW + 90, b"k"))
    assert await worker.claim("no-such-jti") is True
    answer: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()
    worker.link.claim(AgentIdentity("c-lab", "jti-number-1", NOW + 90, b"k"), answer.set_result)
    assert await answer is False
