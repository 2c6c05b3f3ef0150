# SPDX-License-Identifier: Apache-2.0
"""From a commit to the documents that an agent gets, and from what it says to whoever waits for it."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mooring.authn.index import Index
from mooring.control import endpoints as module
from mooring.control.endpointdocs import Documents
from mooring.control.endpoints import EndpointController
from mooring.lib import metrics
from mooring.lib.clock import ManualClock
from mooring.lib.ids import new_id
from mooring.store.policies import OWN_GROUP, Rule
from mooring.store.ports import StoreUnavailable
from mooring.store.records import Cluster, EndpointSettings, Group, Token, User
from mooring.store.sql import SqlStore, open_store
from mooring.wire import endpoint
from mooring.wire.endpoint import shard_of
from mooring.wire.sealed import BadDocument, Header
from support import records as make

KEY = Ed25519PrivateKey.generate()
ENTER = Rule(verbs=("enter",), api_groups=(OWN_GROUP,), resources=("clusters",))


async def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        await asyncio.sleep(0.002)


@dataclass
class Hub:
    """Stands in for the roster: the tests say what agents would say, and see what they are told."""

    on_change: list[Callable[[str, bool, str], None]] = field(default_factory=list)
    on_message: list[Callable[[str, dict[str, Any]], None]] = field(default_factory=list)
    live: set[str] = field(default_factory=set)
    told: list[tuple[str, dict[str, Any], float]] = field(default_factory=list)

    def connected(self, cluster_id: str) -> bool:
        return cluster_id in self.live

    def tell(self, cluster_id: str, message: dict[str, Any]) -> None:
        self.told.append((cluster_id, message, time.monotonic()))

    def of(self, cluster: Cluster) -> list[dict[str, Any]]:
        return [message for cluster_id, message, _unused in self.told if cluster_id == cluster.id]

    def change(self, cluster: Cluster, connected: bool) -> None:
        (self.live.add if connected else self.live.discard)(cluster.id)
        for callback in self.on_change:
            callback(cluster.id, connected, "")

    def say(self, cluster: Cluster, kind: str = "endpoint-status", **message: Any) -> None:
        for callback in self.on_message:
            callback(cluster.id, {"kind": kind} | message)


@dataclass
class Held:
    """What a cluster was given, opened."""

    header: Header
    index: endpoint.Index
    users: dict[str, endpoint.User]
    digests: dict[int, str]
    revisions: dict[int, int]

    @property
    def tokens(self) -> set[str]:
        return {token.id for user in self.users.values() for token in user.tokens}


@dataclass
class Realm:
    """Two clusters with an endpoint, one without; Bob and Eve, and a group."""

    store: SqlStore
    hub: Hub
    clock: ManualClock
    index: Index
    prod: Cluster
    test: Cluster
    bare: Cluster
    bob: User
    eve: User
    ops: Group
    documents: Documents
    control: EndpointController

    async def restart(self, kept_bytes: int = 64 << 20) -> None:
        """Another control process on the same store."""
        await self.control.aclose()
        self.documents.close()
        self.hub.on_message.clear()
        self.hub.on_change.clear()
        self.hub.told.clear()
        self.index = Index()
        self.index.load(await self.store.snapshot(self.clock.now()))
        self.documents = Documents(KEY, kept_bytes)
        self.control = EndpointController(
            self.store, self.index, self.hub, self.clock, self.documents, prefix="mooring:"
        )
        await self.control.start()
        self.store._listeners[:] = [self.index.apply, self.control.committed]
        await self.settled()

    async def told(self, cluster: Cluster, count: int) -> dict[str, Any]:
        """The last message, once there were as many as that; there may not be more."""
        await until(lambda: len(self.hub.of(cluster)) >= count)
        assert len(self.hub.of(cluster)) == count
        message = self.hub.of(cluster)[-1]
        assert message["kind"] == "endpoint"
        assert message["digest"] == self.control.digest(cluster.id)
        return message

    async def fetch(self, cluster: Cluster, have: Held | None = None) -> Held:
        made = await self.control.documents(cluster.id, {} if have is None else have.digests)
        assert made is not None
        header, index = endpoint.open_index(made[0], KEY.public_key(), cluster.id, cluster.cluster_uid or "")
        assert header.sha256 == self.control.digest(cluster.id)
        held = Held(header, index, {}, dict(index.shards), {})
        for number, data in made[1].items():
            head, shard = endpoint.open_shard(data, KEY.public_key(), cluster.id, cluster.cluster_uid or "", number)
            assert head.sha256 == index.shards[number]
            assert head.revision <= header.revision
            held.users |= {user.id: user for user in shard.users}
            held.revisions[number] = head.revision
        if have is None:
            assert made[1].keys() == index.shards.keys()
        return held

    async def issue(self, user: User, cluster: Cluster, **more: Any) -> Token:
        now = self.clock.now()
        async with self.store.write() as tx:
            return await tx.tokens.add(
                make.endpoint_token(user, cluster, **{"created_at": now, "expires_at": now + 3600} | more)
            )

    async def enter(self, cluster: Cluster, who: User | Group) -> str:
        async with self.store.write() as tx:
            return (await tx.memberships.add(make.membership(cluster, who))).id

    async def settled(self) -> None:
        """Nothing is due any more."""
        await until(lambda: not self.control._due and not self.control._busy)

    def report(self, cluster: Cluster, digest: str = "", **more: Any) -> None:
        """The agent has what it was told last."""
        self.hub.say(cluster, digest=digest or self.control.digest(cluster.id), **more)


@pytest.fixture
async def realm(tmp_path: Path, migrated: Path) -> AsyncIterator[Realm]:
    shutil.copy(migrated, tmp_path / "mooring.db")
    store = open_store(f"sqlite:///{tmp_path / 'mooring.db'}")
    clock, hub = ManualClock(make.NOW), Hub()
    async with store.write() as tx:
        clusters = [await tx.clusters.add(make.cluster(name)) for name in ("prod", "test", "bare")]
        for number, cluster in enumerate(clusters):
            clusters[number] = await tx.clusters.register(
                cluster.id, make.NOW, public_key=bytes([number + 9]) * 32, cluster_uid=f"uid-{number}",
                agent="", kubernetes="",
            )  # fmt: skip
        for number in (0, 1):
            clusters[number] = await tx.clusters.set_endpoint(clusters[number].id, make.NOW, EndpointSettings())
        bob, eve = [await tx.users.add(make.user(name), None) for name in ("bob", "eve")]
        ops = await tx.groups.add(make.group("ops"))
    index, documents = Index(), Documents(KEY)
    index.load(await store.snapshot(clock.now()))
    control = EndpointController(store, index, hub, clock, documents, prefix="mooring:")
    it = Realm(store, hub, clock, index, *clusters, bob, eve, ops, documents, control)
    await control.start()
    store.on_commit(index.apply)
    store.on_commit(lambda delta: it.control.committed(delta))  # pylint: disable=unnecessary-lambda
    for cluster in clusters[:2]:
        hub.live.add(cluster.id)
        await it.told(cluster, 1)
    yield it
    await it.control.aclose()
    it.documents.close()
    await store.aclose()


async def test_a_token_reaches_its_cluster_and_no_other(realm: Realm) -> None:
    before = await realm.told(realm.prod, 1)
    assert (await realm.fetch(realm.prod)).users == {}
    await realm.enter(realm.prod, realm.bob)
    await realm.settled()
    await realm.told(realm.prod, 1)
    token = await realm.issue(realm.bob, realm.prod)
    told = await realm.told(realm.prod, 2)
    assert told["revision"] > before["revision"]
    held = await realm.fetch(realm.prod)
    assert held.header.revision == told["revision"]
    assert held.index.settings == endpoint.Settings(prefix="mooring:", grace=0, mode="webhook")
    assert held.index.registered_at == make.NOW
    assert held.users == {
        realm.bob.id: endpoint.User(
            id=realm.bob.id,
            name="bob",
            uid=realm.bob.uid,
            tokens=(endpoint.Token(token.id, token.hash, token.expires_at or 0),),
        )
    }
    assert held.digests.keys() == {shard_of(realm.bob.id)}
    await realm.settled()
    await realm.told(realm.test, 1)
    assert realm.hub.of(realm.bare) == []
    assert realm.control.digest(realm.bare.id) == ""
    assert await realm.control.documents(realm.bare.id, {}) is None
    assert await realm.control.documents("c-unknown", {}) is None
    made = await realm.control.documents(realm.prod.id, {})
    assert made is not None
    with pytest.raises(BadDocument):
        endpoint.open_index(made[0], KEY.public_key(), realm.test.id, "uid-1")


async def test_one_token_makes_one_shard_anew(realm: Realm) -> None:
    async with realm.store.write() as tx:
        users = [await tx.users.add(make.user(f"user-{number}"), None) for number in range(64)]
        for user in users:
            await tx.memberships.add(make.membership(realm.prod, user))
            await tx.tokens.add(make.endpoint_token(user, realm.prod))
    await realm.told(realm.prod, 2)
    first = await realm.fetch(realm.prod)
    assert len(first.tokens) == 64
    assert len(first.digests) > 8
    await realm.issue(users[0], realm.prod)
    await realm.told(realm.prod, 3)
    second = await realm.fetch(realm.prod, first)
    assert second.revisions == {shard_of(users[0].id): second.header.revision}
    assert len(second.users[users[0].id].tokens) == 2
    third = await realm.fetch(realm.prod, second)
    assert third.revisions == {}


async def test_a_revocation_is_told_within_a_fifth_of_a_second(realm: Realm) -> None:
    await realm.enter(realm.prod, realm.bob)
    tokens = [await realm.issue(realm.bob, realm.prod) for _unused in range(3)]
    await realm.settled()
    assert len((await realm.fetch(realm.prod)).tokens) == 3
    count = len(realm.hub.told)
    async with realm.store.write() as tx:
        await tx.tokens.revoke([tokens[0].id], realm.clock.now())
    answered = time.monotonic()
    await until(lambda: len(realm.hub.told) > count)
    assert realm.hub.told[-1][2] - answered < 0.2
    assert (await realm.fetch(realm.prod)).tokens == {tokens[1].id, tokens[2].id}
    async with realm.store.write() as tx:
        await tx.tokens.revoke_all_of(realm.bob.id, realm.clock.now())
    await until(lambda: len(realm.hub.told) > count + 1)
    assert (await realm.fetch(realm.prod)).digests == {}


async def test_many_commits_become_few_indexes_and_the_last_one_has_all(realm: Realm) -> None:
    await realm.enter(realm.prod, realm.bob)
    for _unused in range(60):
        await realm.issue(realm.bob, realm.prod)

    def all_there() -> bool:
        realm.clock.advance(0.02)
        known = realm.control._clusters[realm.prod.id]
        return sum(len(made.ids) for made in known.shards.values()) == 60

    await until(all_there)
    assert len(realm.hub.of(realm.prod)) <= 40, "the first one, a burst, and what time has allowed since"


async def test_who_may_not_enter_any_more_leaves(realm: Realm) -> None:
    token = await realm.issue(realm.bob, realm.prod)
    await realm.settled()
    assert (await realm.fetch(realm.prod)).users == {}
    membership = await realm.enter(realm.prod, realm.bob)
    await realm.told(realm.prod, 2)
    assert (await realm.fetch(realm.prod)).tokens == {token.id}
    async with realm.store.write() as tx:
        await tx.memberships.remove(membership)
    await realm.told(realm.prod, 3)
    assert (await realm.fetch(realm.prod)).users == {}
    await realm.enter(realm.prod, realm.ops)
    await realm.settled()
    assert (await realm.fetch(realm.prod)).users == {}
    async with realm.store.write() as tx:
        await tx.users.set_groups(realm.bob.id, [realm.ops.id], realm.clock.now())
    await realm.told(realm.prod, 4)
    held = await realm.fetch(realm.prod)
    assert held.users[realm.bob.id].groups == ("ops",)
    async with realm.store.write() as tx:
        await tx.groups.remove(realm.ops.id)
    await realm.told(realm.prod, 5)
    assert (await realm.fetch(realm.prod)).users == {}
    await realm.settled()
    await realm.told(realm.test, 1)


async def test_a_global_role_lets_in_where_its_selector_takes(realm: Realm) -> None:
    tokens = [await realm.issue(realm.bob, cluster) for cluster in (realm.prod, realm.test)]
    pods = Rule(verbs=("get",), api_groups=("",), resources=("pods",))
    role = make.global_role("prod-readers", cluster_rules=(pods,), cluster_selector={"env": "prod"})
    everywhere = make.global_role("enters", rules=(ENTER,))
    async with realm.store.write() as tx:
        for one in (role, everywhere):
            await tx.global_roles.add(one)
        await tx.bindings.add(make.binding("global", "b1", role, subjects=(make.subject(realm.bob),)))
        await tx.clusters.edit(realm.prod.id, realm.clock.now(), labels={"env": "prod"})
    await realm.told(realm.prod, 2)
    assert (await realm.fetch(realm.prod)).tokens == {tokens[0].id}
    async with realm.store.write() as tx:
        await tx.clusters.edit(realm.prod.id, realm.clock.now(), labels={"env": "test"})
    await realm.told(realm.prod, 3)
    assert (await realm.fetch(realm.prod)).tokens == set()
    await realm.told(realm.test, 1)
    async with realm.store.write() as tx:
        await tx.bindings.add(make.binding("global", "b2", everywhere, subjects=(make.subject(realm.bob),)))
    await realm.told(realm.test, 2)
    assert (await realm.fetch(realm.test)).tokens == {tokens[1].id}


async def test_a_binding_that_ends_says_until_when(realm: Realm) -> None:
    token = await realm.issue(realm.bob, realm.prod)
    role = make.global_role("enters", rules=(ENTER,))
    end = make.NOW + 600
    async with realm.store.write() as tx:
        await tx.global_roles.add(role)
        subjects = (make.subject(realm.bob),)
        binding = await tx.bindings.add(make.binding("global", "b", role, subjects=subjects, expires_at=end))
    await realm.told(realm.prod, 2)
    assert (await realm.fetch(realm.prod)).users[realm.bob.id].until == end
    async with realm.store.write() as tx:
        await tx.bindings.edit(binding.id, realm.clock.now(), expires_at=end + 60)
    await realm.told(realm.prod, 3)
    assert (await realm.fetch(realm.prod)).users[realm.bob.id].until == end + 60
    membership = await realm.enter(realm.prod, realm.bob)
    await realm.told(realm.prod, 4)
    assert (await realm.fetch(realm.prod)).users[realm.bob.id].until is None
    async with realm.store.write() as tx:
        await tx.memberships.remove(membership)
    await realm.told(realm.prod, 5)
    realm.clock.advance(660)
    realm.control.sweep()
    await realm.told(realm.prod, 6)
    assert (await realm.fetch(realm.prod)).digests == {}
    assert token.expires_at is not None
    assert token.expires_at > realm.clock.now()


async def test_expired_tokens_are_swept_and_left_out(realm: Realm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP", 0.01)
    await realm.restart()
    await realm.enter(realm.prod, realm.bob)
    short = await realm.issue(realm.bob, realm.prod, expires_at=make.NOW + 60)
    long = await realm.issue(realm.bob, realm.prod, expires_at=make.NOW + 600)
    await realm.settled()
    assert (await realm.fetch(realm.prod)).tokens == {short.id, long.id}
    told = len(realm.hub.of(realm.prod))
    realm.clock.advance(60)
    await realm.told(realm.prod, told + 1)
    assert (await realm.fetch(realm.prod)).tokens == {long.id}
    assert len(realm.control._book) == 1
    realm.clock.advance(540)
    await realm.told(realm.prod, told + 2)
    assert (await realm.fetch(realm.prod)).digests == {}
    assert len(realm.control._book) == 0


async def test_nothing_that_expired_is_rendered_even_before_a_sweep(realm: Realm) -> None:
    await realm.enter(realm.prod, realm.bob)
    await realm.issue(realm.bob, realm.prod, expires_at=make.NOW + 60)
    await realm.settled()
    realm.clock.advance(60)
    other = await realm.issue(realm.bob, realm.prod)
    await realm.settled()
    assert (await realm.fetch(realm.prod)).tokens == {other.id}


async def test_where_there_is_a_grace_expired_tokens_stay_for_it(realm: Realm) -> None:
    await realm.enter(realm.prod, realm.bob)
    token = await realm.issue(realm.bob, realm.prod, expires_at=make.NOW + 60)
    settings = EndpointSettings(grace_seconds=30, mode="agent")
    async with realm.store.write() as tx:
        await tx.clusters.set_endpoint(realm.prod.id, realm.clock.now(), settings)
    await realm.settled()
    held = await realm.fetch(realm.prod)
    assert held.index.settings == endpoint.Settings(prefix="mooring:", grace=30, mode="agent")
    realm.clock.advance(89)
    realm.control.sweep()
    await realm.restart()
    await realm.told(realm.prod, 1)
    assert (await realm.fetch(realm.prod)).tokens == {token.id}
    realm.clock.advance(1)
    realm.control.sweep()
    await realm.told(realm.prod, 2)
    assert (await realm.fetch(realm.prod)).tokens == set()


async def test_who_is_disabled_stays_to_be_told_so_and_who_is_gone_leaves(realm: Realm) -> None:
    await realm.enter(realm.prod, realm.ops)
    for user in (realm.bob, realm.eve):
        async with realm.store.write() as tx:
            await tx.users.set_groups(user.id, [realm.ops.id], realm.clock.now())
        await realm.issue(user, realm.prod)
    await realm.settled()
    async with realm.store.write() as tx:
        await tx.users.edit(realm.bob.id, realm.clock.now(), enabled=False)
    await realm.settled()
    held = await realm.fetch(realm.prod)
    assert (held.users[realm.bob.id].enabled, held.users[realm.eve.id].enabled) == (False, True)
    async with realm.store.write() as tx:
        await tx.users.edit(realm.bob.id, realm.clock.now(), enabled=True)
        await tx.users.remove(realm.eve.id)
    await realm.settled()
    held = await realm.fetch(realm.prod)
    assert {user.name: user.enabled for user in held.users.values()} == {"bob": True}


async def test_what_does_not_change_the_content_is_not_told(realm: Realm) -> None:
    await realm.enter(realm.prod, realm.bob)
    await realm.issue(realm.bob, realm.prod)
    told = await realm.told(realm.prod, 2)
    async with realm.store.write() as tx:
        await tx.users.edit(realm.bob.id, realm.clock.now(), display_name="Bob")
        await tx.clusters.set_endpoint(realm.prod.id, realm.clock.now(), EndpointSettings(fqdn="prod.example"))
        await tx.memberships.add(make.membership(realm.prod, realm.eve))
        await tx.tokens.add(make.token(realm.bob, cluster_id=realm.prod.id))
    await realm.settled()
    assert await realm.told(realm.prod, 2) == told
    held = await realm.fetch(realm.prod)
    assert held.revisions == {shard_of(realm.bob.id): told["revision"]}


async def test_turning_it_off_empties_the_cluster(realm: Realm) -> None:
    await realm.enter(realm.prod, realm.bob)
    token = await realm.issue(realm.bob, realm.prod)
    await realm.told(realm.prod, 2)
    async with realm.store.write() as tx:
        await tx.clusters.set_endpoint(realm.prod.id, realm.clock.now(), None)
    await realm.told(realm.prod, 3)
    held = await realm.fetch(realm.prod)
    assert (held.digests, held.index.settings.mode) == ({}, "off")
    await realm.issue(realm.bob, realm.prod)
    await realm.settled()
    await realm.told(realm.prod, 3)
    await realm.restart()
    await realm.told(realm.prod, 1)
    assert (await realm.fetch(realm.prod)).digests == {}, "an agent that was away then hears of it, too"
    assert realm.hub.of(realm.bare) == []
    async with realm.store.write() as tx:
        await tx.clusters.set_endpoint(realm.prod.id, realm.clock.now(), EndpointSettings())
    await realm.told(realm.prod, 2)
    assert token.id in (await realm.fetch(realm.prod)).tokens


async def test_a_cluster_that_gets_an_endpoint_gets_what_there_is_already(realm: Realm) -> None:
    await realm.enter(realm.bare, realm.bob)
    token = await realm.issue(realm.bob, realm.bare)
    await realm.settled()
    async with realm.store.write() as tx:
        await tx.clusters.set_endpoint(realm.bare.id, realm.clock.now(), EndpointSettings())
    await realm.told(realm.bare, 1)
    assert (await realm.fetch(realm.bare)).tokens == {token.id}


async def test_a_cluster_that_registers_again_gets_documents_of_the_new_registration(realm: Realm) -> None:
    before = await realm.told(realm.prod, 1)
    async with realm.store.write() as tx:
        await tx.clusters.register(
            realm.prod.id, make.NOW + 5, public_key=b"n" * 32, cluster_uid="uid-0", agent="", kubernetes=""
        )
    told = await realm.told(realm.prod, 2)
    assert told["revision"] > before["revision"]
    assert (await realm.fetch(realm.prod)).index.registered_at == make.NOW + 5


async def test_a_cluster_without_a_uid_gets_nothing_until_it_registers(realm: Realm) -> None:
    async with realm.store.write() as tx:
        new = await tx.clusters.add(make.cluster("new", endpoint=EndpointSettings()))
    await realm.settled()
    assert realm.control.digest(new.id) == ""
    assert not await realm.control.delivered(new.id, "e-any", 0.01)
    async with realm.store.write() as tx:
        await tx.clusters.register(new.id, make.NOW, public_key=b"n" * 32, cluster_uid="u-9", agent="", kubernetes="")
    await realm.told(new, 1)
    async with realm.store.write() as tx:
        await tx.clusters.remove(new.id)
    assert realm.control.digest(new.id) == ""
    assert await realm.control.documents(new.id, {}) is None


async def test_revisions_go_up_over_restarts_and_the_digest_stays(realm: Realm) -> None:
    await realm.enter(realm.prod, realm.bob)
    await realm.issue(realm.bob, realm.prod)
    before = await realm.told(realm.prod, 2)
    await realm.restart()
    after = await realm.told(realm.prod, 1)
    assert after["digest"] == before["digest"]
    assert after["revision"] > before["revision"]


async def test_a_block_of_revisions_that_is_used_up_is_followed_by_another(
    realm: Realm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REVISIONS", 2)
    await realm.restart()
    await realm.enter(realm.prod, realm.bob)
    seen = []
    for count in range(2, 8):
        await realm.issue(realm.bob, realm.prod)
        seen.append((await realm.told(realm.prod, count))["revision"])
    assert seen == sorted(set(seen))
    async with realm.store.read() as tx:
        assert (await tx.clusters.with_endpoint())[realm.prod.id] >= seen[-1]


async def test_a_database_that_was_restored_goes_on_above_what_the_agent_has(realm: Realm) -> None:
    told = await realm.told(realm.prod, 1)
    realm.report(realm.prod, digest="f" * 64, revision=told["revision"] + 5_000)
    again = await realm.told(realm.prod, 2)
    assert (again["digest"], again["revision"]) == (told["digest"], told["revision"] + 5_001)
    realm.report(realm.prod, revision=again["revision"])
    await realm.settled()
    await realm.told(realm.prod, 2)
    realm.report(realm.prod, digest="e" * 64, revision=told["revision"] + 3)
    await realm.settled()
    await realm.told(realm.prod, 2)
    realm.report(realm.prod, revision=again["revision"] + 9)
    await realm.settled()
    await realm.told(realm.prod, 2)
    await realm.enter(realm.prod, realm.bob)
    await realm.issue(realm.bob, realm.prod)
    assert (await realm.told(realm.prod, 3))["revision"] > again["revision"] + 9


# --- whoever waits for a token to be there --------------------------------------------------------------------------


async def test_a_token_is_delivered_when_the_agent_has_the_index_that_holds_it(realm: Realm) -> None:
    await realm.enter(realm.prod, realm.bob)
    await realm.settled()
    realm.report(realm.prod)
    old = realm.control.digest(realm.prod.id)
    token = await realm.issue(realm.bob, realm.prod)
    waiter = asyncio.create_task(realm.control.delivered(realm.prod.id, token.id, 20))
    await realm.told(realm.prod, 2)
    realm.report(realm.prod, digest=old)
    realm.report(realm.prod, digest="0" * 64)
    realm.report(realm.prod, problem="the shard 3 was refused")
    realm.hub.say(realm.prod, kind="policy-status", digest=realm.control.digest(realm.prod.id))
    realm.report(realm.test)
    await asyncio.sleep(0.05)
    assert not waiter.done()
    realm.report(realm.prod)
    assert await waiter
    assert await realm.control.delivered(realm.prod.id, token.id, 0)
    await realm.issue(realm.bob, realm.prod)
    assert not await realm.control.delivered(realm.prod.id, "", 0)
    await realm.told(realm.prod, 3)
    realm.report(realm.prod)
    assert await realm.control.delivered(realm.prod.id, "", 20), "all that was committed, and no token in particular"


async def test_who_waits_is_not_answered_by_an_index_from_before_their_token(realm: Realm) -> None:
    """The index of an earlier change is told, fetched and reported between the commit and its own index."""
    await realm.enter(realm.prod, realm.bob)
    first = await realm.issue(realm.bob, realm.prod)
    await realm.told(realm.prod, 2)
    second = await realm.issue(realm.bob, realm.prod)
    realm.report(realm.prod)
    waiter = asyncio.create_task(realm.control.delivered(realm.prod.id, second.id, 20))
    await asyncio.sleep(0)
    assert not waiter.done()
    await realm.told(realm.prod, 3)
    assert not waiter.done()
    realm.report(realm.prod)
    assert await waiter
    assert await realm.control.delivered(realm.prod.id, first.id, 0)


async def test_an_agent_that_reported_before_the_commit_is_counted_if_nothing_changes(realm: Realm) -> None:
    await realm.enter(realm.prod, realm.bob)
    token = await realm.issue(realm.bob, realm.prod)
    await realm.told(realm.prod, 2)
    realm.report(realm.prod)
    async with realm.store.write() as tx:
        await tx.users.edit(realm.bob.id, realm.clock.now(), display_name="Bob")
    assert await realm.control.delivered(realm.prod.id, token.id, 20)
    await realm.told(realm.prod, 2)


async def test_nobody_waits_for_what_cannot_come(realm: Realm) -> None:
    await realm.enter(realm.prod, realm.bob)
    token = await realm.issue(realm.bob, realm.prod)
    began = time.monotonic()
    assert not await realm.control.delivered("c-unknown", token.id, 20)
    waiter = asyncio.create_task(realm.control.delivered(realm.prod.id, token.id, 20))
    await asyncio.sleep(0.01)
    realm.hub.change(realm.prod, False)
    assert not await waiter
    assert not await realm.control.delivered(realm.prod.id, token.id, 20)
    assert time.monotonic() - began < 5
    realm.hub.change(realm.prod, True)
    assert not await realm.control.delivered(realm.prod.id, token.id, 0.01)
    waiter = asyncio.create_task(realm.control.delivered(realm.prod.id, token.id, 20))
    await asyncio.sleep(0.01)
    async with realm.store.write() as tx:
        await tx.clusters.remove(realm.prod.id)
    assert not await waiter


async def test_a_token_that_is_not_let_in_is_not_delivered(realm: Realm) -> None:
    token = await realm.issue(realm.bob, realm.prod)
    await realm.settled()
    realm.report(realm.prod)
    assert not await realm.control.delivered(realm.prod.id, token.id, 1)
    assert not await realm.control.delivered(realm.prod.id, "e-unknown", 1)


async def test_the_time_until_an_agent_has_it_is_measured(realm: Realm) -> None:
    def count() -> float:
        return next(
            sample.value
            for metric in metrics.ENDPOINT_DELIVER_SECONDS.collect()
            for sample in metric.samples
            if sample.name.endswith("_count")
        )

    realm.report(realm.prod)
    realm.report(realm.test)
    before = count()
    await realm.enter(realm.prod, realm.bob)
    await realm.issue(realm.bob, realm.prod)
    await realm.told(realm.prod, 2)
    assert metrics.REGISTRY.get_sample_value("mooring_endpoint_clusters_behind") == 1
    realm.report(realm.prod)
    assert count() == before + 1
    assert metrics.REGISTRY.get_sample_value("mooring_endpoint_clusters_behind") == 0
    assert metrics.REGISTRY.get_sample_value("mooring_endpoint_tokens") == 1


# --- when something is in the way -----------------------------------------------------------------------------------


async def test_what_fell_out_of_memory_is_made_again(realm: Realm) -> None:
    await realm.restart(kept_bytes=1)
    for user in (realm.bob, realm.eve):
        await realm.enter(realm.prod, user)
        await realm.issue(user, realm.prod)
    other = realm.bob
    while shard_of(other.id) == shard_of(realm.bob.id):
        other = make.user(new_id("x"))
    async with realm.store.write() as tx:
        await tx.users.add(other, None)
        await tx.memberships.add(make.membership(realm.test, other))
        await tx.tokens.add(make.endpoint_token(other, realm.test))
    await realm.settled()
    told = realm.hub.of(realm.test)[-1]
    have = {number: digest for number, digest in (await _shards(realm, realm.prod)).items() if number != 99}
    one = shard_of(realm.bob.id)
    made = await realm.control.documents(realm.prod.id, {n: d for n, d in have.items() if n != one})
    assert made is not None
    assert made[1].keys() == {one}
    assert (await realm.fetch(realm.test)).header.revision == told["revision"]


async def _shards(realm: Realm, cluster: Cluster) -> dict[int, str]:
    return {number: made.digest for number, made in realm.control._clusters[cluster.id].shards.items()}


async def test_one_clusters_fault_does_not_keep_the_others_waiting(
    realm: Realm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY", 0.05)
    await realm.enter(realm.prod, realm.bob)
    await realm.enter(realm.test, realm.bob)
    shard = realm.documents.shard

    async def fails(whose: Any, *rest: Any) -> Any:
        if whose.cluster_id == realm.prod.id:
            raise OSError("broken")
        return await shard(whose, *rest)

    monkeypatch.setattr(realm.documents, "shard", fails)
    failures = metrics.REGISTRY.get_sample_value("mooring_endpoint_render_failures_total") or 0
    token = await realm.issue(realm.bob, realm.prod)
    await realm.issue(realm.bob, realm.test)
    await realm.told(realm.test, 2)
    await until(lambda: (metrics.REGISTRY.get_sample_value("mooring_endpoint_render_failures_total") or 0) > failures)
    await realm.told(realm.prod, 1)
    monkeypatch.setattr(realm.documents, "shard", shard)
    await realm.told(realm.prod, 2)
    assert (await realm.fetch(realm.prod)).tokens == {token.id}


async def test_revisions_wait_for_the_database(realm: Realm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY", 0.02)
    await realm.enter(realm.prod, realm.bob)
    await realm.settled()
    realm.control._clusters[realm.prod.id].ceiling = 0
    take = realm.control._take_revisions
    tries = []

    async def away(cluster_ids: Any) -> None:
        tries.append(cluster_ids)
        if len(tries) < 3:
            raise StoreUnavailable("away")
        await take(cluster_ids)

    monkeypatch.setattr(realm.control, "_take_revisions", away)
    await realm.issue(realm.bob, realm.prod)
    await realm.told(realm.prod, 2)
    assert len(tries) == 3


async def test_what_agents_say_of_themselves_is_written_at_most_once_a_second(realm: Realm) -> None:
    commits: list[Any] = []
    realm.store.on_commit(lambda delta: commits.append(delta.clusters) if delta.clusters else None)
    nodes = [{"name": "m1", "host": "10.0.0.1", "port": 6443}]
    for number in range(50):
        realm.hub.say(realm.bare, nodes=nodes, problem=f"problem {number}")
        await asyncio.sleep(0.002)
    await realm.control.flush()
    assert 1 <= len(commits) <= 2
    async with realm.store.read() as tx:
        cluster = await tx.clusters.get(realm.bare.id)
    assert cluster is not None
    assert cluster.endpoint_status is not None
    assert cluster.endpoint_status.problem == "problem 49"
    assert cluster.endpoint_status.nodes[0].host == "10.0.0.1"
    assert cluster.version == realm.bare.version
    realm.hub.say(realm.bare, nodes=nodes, problem="problem 49")
    await realm.control.flush()
    assert len(commits) <= 2, "it says the same"
    realm.hub.say(realm.bare, nodes="none")
    realm.hub.say(make.cluster("gone"), nodes=[])
    await realm.control.flush()
    assert len(commits) <= 2
