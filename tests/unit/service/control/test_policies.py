# SPDX-License-Identifier: Apache-2.0
"""From a commit to what the agents are told and get, and from what they say to what is written."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from mooring.control import policies as module
from mooring.control.bundles import Bundles
from mooring.control.drift import PER_MINUTE, DriftLog
from mooring.control.policies import PolicyController
from mooring.control.signing import SETTING, signing_key
from mooring.lib import metrics
from mooring.lib.clock import ManualClock
from mooring.lib.errors import MooringError
from mooring.lib.ids import new_id
from mooring.policy.book import Book
from mooring.proxy.audit import AuditRecord
from mooring.store.policies import Binding, PolicyStatus, RoleTemplate, Rule, Subject
from mooring.store.ports import StoreUnavailable
from mooring.store.records import Cluster, User
from mooring.store.sql import SqlStore, open_store
from mooring.wire.bundle import BadBundle, Bundle, decode
from support import records as make

KEY = Ed25519PrivateKey.generate()
PODS = Rule(verbs=("get",), api_groups=("",), resources=("pods",))


async def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        await asyncio.sleep(0.005)


@dataclass
class Hub:
    """Stands in for the roster: the tests say what agents would say, and see what they are told."""

    on_change: list[Callable[[str, bool, str], None]] = field(default_factory=list)
    on_message: list[Callable[[str, dict[str, Any]], None]] = field(default_factory=list)
    live: set[str] = field(default_factory=set)
    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def connected(self, cluster_id: str) -> bool:
        return cluster_id in self.live

    def tell(self, cluster_id: str, message: dict[str, Any]) -> None:
        self.told.append((cluster_id, message))

    def of(self, cluster: Cluster) -> list[dict[str, Any]]:
        return [message for cluster_id, message in self.told if cluster_id == cluster.id]

    def say(self, cluster_id: str, kind: str, **message: Any) -> None:
        for callback in self.on_message:
            callback(cluster_id, {"kind": kind} | message)

    def report(self, cluster: Cluster, **message: Any) -> None:
        self.say(cluster.id, "policy-status", **message)


@dataclass
class Recorded:
    records: list[AuditRecord] = field(default_factory=list)

    def record(self, record: AuditRecord) -> None:
        self.records.append(record)


@dataclass
class Realm:
    """Two clusters that have registered, one that has not, and a role template."""

    store: SqlStore
    hub: Hub
    clock: ManualClock
    audit: Recorded
    prod: Cluster
    test: Cluster
    new: Cluster
    bob: User
    reader: RoleTemplate
    bundles: Bundles
    book: Book
    control: PolicyController

    async def restart(self) -> None:
        """Another control process on the same store."""
        await self.control.aclose()
        self.hub.on_message.clear()
        self.hub.told.clear()
        self.bundles = Bundles(KEY, "mooring:")
        self.book = Book()
        self.control = PolicyController(self.store, self.hub, self.clock, self.book, self.bundles, DriftLog(self.audit))
        await self.control.start()
        self.store._listeners[:] = [self.control.committed]

    def state(self, cluster: Cluster) -> str:
        standing = self.control.standing(cluster.id)
        assert standing is not None
        return standing.state

    async def bind(self, cluster: Cluster, name: str = "b", **more: Any) -> Binding:
        now = self.clock.now()
        subject = Subject(kind="user", id=self.bob.id, name="bob")
        async with self.store.write() as tx:
            return await tx.bindings.add(
                Binding(
                    **{
                        "id": new_id("b"),
                        "kind": "cluster",
                        "name": name,
                        "role_id": self.reader.id,
                        "role_name": "",
                        "cluster_id": cluster.id,
                        "subjects": (subject,),
                        "created_at": now,
                        "updated_at": now,
                    }
                    | more
                )
            )

    async def told(self, cluster: Cluster, count: int) -> dict[str, Any]:
        """The last message, once there were as many as that; there may not be more."""
        await until(lambda: len(self.hub.of(cluster)) >= count)
        assert len(self.hub.of(cluster)) == count
        return self.hub.of(cluster)[-1]

    async def fetch(self, cluster: Cluster) -> Bundle:
        encoded = await self.control.bundle(cluster.id)
        assert encoded is not None
        key = Ed25519PublicKey.from_public_bytes(self.bundles.public_key)
        bundle = decode(encoded.data, key, cluster.id, cluster.cluster_uid or "")
        assert (bundle.sha256, bundle.revision) == (encoded.digest, encoded.revision)
        return bundle

    async def stored(self, cluster: Cluster) -> PolicyStatus:
        await self.control.flush()
        async with self.store.read() as tx:
            status = await tx.policy_status.get(cluster.id)
        assert status is not None
        return status


def kinds(bundle: Bundle) -> list[str]:
    return sorted(item["kind"] for item in bundle.objects)


@pytest.fixture
async def realm(tmp_path: Path, migrated: Path) -> AsyncIterator[Realm]:
    shutil.copy(migrated, tmp_path / "mooring.db")
    store = open_store(f"sqlite:///{tmp_path / 'mooring.db'}")
    clock, hub, audit = ManualClock(make.NOW), Hub(), Recorded()
    template = RoleTemplate(
        id=new_id("t"), name="pod-reader", context="cluster", rules=(PODS,), created_at=make.NOW, updated_at=make.NOW
    )
    async with store.write() as tx:
        clusters = [await tx.clusters.add(make.cluster(name)) for name in ("prod", "test", "new")]
        for number, cluster in enumerate(clusters[:2]):
            clusters[number] = await tx.clusters.register(
                cluster.id, make.NOW, public_key=bytes([number + 9]) * 32, cluster_uid=f"uid-{number}",
                agent="", kubernetes="",
            )  # fmt: skip
        bob = await tx.users.add(make.user("bob"), None)
        reader = await tx.templates.add(template)
    bundles, book = Bundles(KEY, "mooring:"), Book()
    control = PolicyController(store, hub, clock, book, bundles, DriftLog(audit))
    it = Realm(store, hub, clock, audit, *clusters, bob, reader, bundles, book, control)
    await control.start()
    store.on_commit(lambda delta: it.control.committed(delta))  # pylint: disable=unnecessary-lambda
    for cluster in clusters[:2]:
        hub.live.add(cluster.id)
        await it.told(cluster, 1)
    yield it
    await it.control.aclose()
    it.bundles.close()
    await store.aclose()


async def test_a_binding_reaches_its_cluster_and_no_other(realm: Realm) -> None:
    before = realm.hub.of(realm.prod)[0]
    assert realm.hub.of(realm.test)[0]["kind"] == "policy"
    assert kinds(await realm.fetch(realm.prod)) == []
    await realm.bind(realm.prod)
    assert realm.book.policy.bindings, "the book is true when the commit returns"
    told = await realm.told(realm.prod, 2)
    assert told["kind"] == "policy"
    assert told["revision"] > before["revision"]
    assert told["digest"] != before["digest"]
    assert told["key"] == realm.control.public_key
    bundle = await realm.fetch(realm.prod)
    assert kinds(bundle) == ["ClusterRole", "ClusterRoleBinding"]
    assert (bundle.revision, bundle.sha256) == (told["revision"], told["digest"])
    assert [s["name"] for o in bundle.objects for s in o.get("subjects", ())] == ["mooring:bob"]
    await realm.told(realm.test, 1)
    key = Ed25519PublicKey.from_public_bytes(realm.bundles.public_key)
    encoded = await realm.control.bundle(realm.prod.id)
    assert encoded is not None
    with pytest.raises(BadBundle):
        decode(encoded.data, key, realm.test.id, "uid-1")


async def test_many_commits_become_few_bundles_and_the_last_one_has_all(realm: Realm) -> None:
    async with realm.store.write() as tx:
        users = [await tx.users.add(make.user(f"user-{number}"), None) for number in range(40)]
    for number, user in enumerate(users):
        subject = Subject(kind="user", id=user.id, name=user.name)
        await realm.bind(realm.prod, f"b-{number}", subjects=(subject,))
        realm.clock.advance(0.001)

    def count() -> int:
        realm.clock.advance(0.05)
        found = realm.bundles.kept(realm.prod.id, realm.hub.of(realm.prod)[-1]["digest"])
        assert found is not None
        key = Ed25519PublicKey.from_public_bytes(realm.bundles.public_key)
        bundle = decode(found.data, key, realm.prod.id, realm.prod.cluster_uid or "")
        return sum(len(o.get("subjects", ())) for o in bundle.objects)

    await until(lambda: count() == 40)
    assert len(realm.hub.of(realm.prod)) <= 30, "the first one, a burst, and what time has allowed since"


async def test_what_does_not_change_the_content_is_not_told(realm: Realm) -> None:
    await realm.bind(realm.prod)
    await realm.told(realm.prod, 2)
    first = await realm.fetch(realm.prod)
    await realm.bind(realm.prod, "the same once more")
    async with realm.store.write() as tx:
        await tx.clusters.edit(realm.prod.id, realm.clock.now(), labels={"tier": "prod"})
    await until(lambda: not realm.control._due and not realm.control._rendering.locked())
    await realm.told(realm.prod, 2)
    assert (await realm.fetch(realm.prod)).revision == first.revision


async def test_a_disabled_user_loses_the_rights_and_gets_them_back(realm: Realm) -> None:
    await realm.bind(realm.prod)
    await realm.told(realm.prod, 2)
    for count, enabled, there in ((3, False, []), (4, True, ["ClusterRole", "ClusterRoleBinding"])):
        async with realm.store.write() as tx:
            await tx.users.edit(realm.bob.id, realm.clock.now(), enabled=enabled)
        await realm.told(realm.prod, count)
        assert kinds(await realm.fetch(realm.prod)) == there
    await realm.told(realm.test, 1)


async def test_a_binding_that_ends_is_not_wanted_any_more(realm: Realm) -> None:
    await realm.bind(realm.prod, expires_at=realm.clock.now() + 60)
    told = await realm.told(realm.prod, 2)
    realm.clock.advance(59)
    realm.control.end_bindings()
    assert not realm.control._due
    realm.clock.advance(1)
    realm.control._ends.set()
    after = await realm.told(realm.prod, 3)
    assert after["revision"] >= told["revision"]
    assert kinds(await realm.fetch(realm.prod)) == []


async def test_the_clock_wakes_the_controller_at_the_end_of_a_binding(realm: Realm) -> None:
    """With the real passing of time: the task itself waits for the end that is next."""
    await realm.bind(realm.prod, expires_at=realm.clock.now() + 0.3)
    await realm.told(realm.prod, 2)
    realm.clock.advance(0.3)
    await realm.told(realm.prod, 3)


async def test_a_cluster_that_registers_is_rendered_and_one_that_is_deleted_is_forgotten(realm: Realm) -> None:
    assert realm.control.digest(realm.new.id) == ""
    assert await realm.control.bundle(realm.new.id) is None
    standing = realm.control.standing(realm.new.id)
    assert standing is not None
    assert (standing.state, standing.lag) == ("unknown", None)
    async with realm.store.write() as tx:
        await tx.clusters.register(
            realm.new.id, make.NOW, public_key=b"n" * 32, cluster_uid="uid-n", agent="", kubernetes=""
        )
    await realm.told(realm.new, 1)
    assert await realm.control.bundle(realm.new.id) is not None
    async with realm.store.write() as tx:
        await tx.clusters.remove(realm.new.id)
    assert realm.control.digest(realm.new.id) == ""
    assert realm.control.standing(realm.new.id) is None
    assert await realm.control.bundle(realm.new.id) is None


async def test_a_bundle_that_fell_out_of_memory_is_rendered_again(realm: Realm) -> None:
    await realm.bind(realm.prod)
    told = await realm.told(realm.prod, 2)
    realm.bundles.forget(realm.prod.id)
    assert (await realm.fetch(realm.prod)).sha256 == told["digest"]
    await realm.told(realm.prod, 2)


async def test_memory_keeps_the_last_ones_up_to_its_bound(realm: Realm) -> None:
    small = Bundles(KEY, "mooring:", kept_bytes=1)
    realm.control._bundles = small
    try:
        first = await realm.fetch(realm.prod)
        await realm.fetch(realm.test)
        assert small.kept(realm.test.id, realm.control.digest(realm.test.id)) is not None
        assert small.kept(realm.prod.id, realm.control.digest(realm.prod.id)) is None
        assert (await realm.fetch(realm.prod)).sha256 == first.sha256
    finally:
        small.close()


async def test_what_the_agent_says_is_written_and_stands(realm: Realm) -> None:
    await realm.bind(realm.prod)
    told = await realm.told(realm.prod, 2)
    realm.clock.advance(3)
    standing = realm.control.standing(realm.prod.id)
    assert standing is not None
    assert (standing.state, standing.lag) == ("pending", 3.0)
    healed = metrics.REGISTRY.get_sample_value("mooring_policy_healed_total") or 0
    applied = metrics.REGISTRY.get_sample_value("mooring_policy_apply_seconds_count") or 0
    for count in (5, 7, 2):  # the last by an agent that began to count anew
        realm.hub.report(
            realm.prod, desired=told["revision"], applied=told["revision"], digest=told["digest"], profile="admin",
            applied_at=realm.clock.now(), healed=count, errors=[{"object": "x", "reason": "y"}] if count == 5 else [],
        )  # fmt: skip
    standing = realm.control.standing(realm.prod.id)
    assert standing is not None
    assert (standing.state, standing.lag, standing.status.healed) == ("applied", 0.0, 2)
    assert metrics.REGISTRY.get_sample_value("mooring_policy_healed_total") == healed + 9
    assert metrics.REGISTRY.get_sample_value("mooring_policy_apply_seconds_count") == applied + 1
    assert metrics.REGISTRY.get_sample_value("mooring_policy_clusters", {"state": "applied"}) == 1
    stored = await realm.stored(realm.prod)
    assert (stored.desired_revision, stored.desired_digest) == (told["revision"], told["digest"])
    assert (stored.applied_revision, stored.applied_digest) == (told["revision"], told["digest"])
    assert (stored.profile, stored.healed, stored.errors) == ("admin", 2, ())
    other = await realm.stored(realm.test)
    assert (other.applied_digest, other.healed) == ("", 0), "an agent is believed about its own cluster only"


async def test_a_change_that_is_not_rendered_yet_was_called_applied(realm: Realm) -> None:
    """Who bound somebody and asked at once how the cluster stands was told of the policy before."""
    told = await realm.told(realm.prod, 1)
    realm.hub.report(realm.prod, applied=told["revision"], digest=told["digest"], profile="admin")
    await until(lambda: realm.state(realm.prod) == "applied")
    await realm.bind(realm.prod)
    assert realm.state(realm.prod) == "pending", "nothing but the commit has happened"
    told = await realm.told(realm.prod, 2)
    assert realm.state(realm.prod) == "pending"
    realm.hub.report(realm.prod, applied=told["revision"], digest=told["digest"], profile="admin")
    await until(lambda: realm.state(realm.prod) == "applied")


async def test_nonsense_of_an_agent_changes_nothing(realm: Realm) -> None:
    before = realm.control.standing(realm.prod.id)
    realm.hub.report(realm.prod, applied="seven")
    realm.hub.say(realm.prod.id, "status", applied=7)
    realm.hub.say("c-unknown", "policy-status", applied=7)
    assert realm.control.standing(realm.prod.id) == before


async def test_drift_is_recorded_once_and_not_without_end(realm: Realm) -> None:
    drift = {"object": "RoleBinding shop/mooring:x", "what": "deleted", "at": make.NOW}
    realm.hub.report(realm.prod, healed=1, drift=[drift, drift])
    realm.hub.report(realm.prod, healed=1, drift=[drift])
    (record,) = realm.audit.records
    assert (record.stage, record.verb, record.source) == ("drift", "heal", "agent")
    assert (record.cluster, record.name, record.outcome) == ("prod", "RoleBinding shop/mooring:x", "deleted")
    for number in range(20):
        more = [{"object": f"o-{number}-{one}", "what": "edited", "at": 0} for one in range(32)]
        realm.hub.report(realm.prod, drift=more)
    assert len(realm.audit.records) == PER_MINUTE
    realm.hub.report(realm.test, drift=[drift])
    assert realm.audit.records[-1].cluster == "test"


async def test_a_control_process_that_is_replaced_goes_on_where_the_last_one_was(realm: Realm) -> None:
    await realm.bind(realm.prod)
    told = await realm.told(realm.prod, 2)
    realm.hub.report(realm.prod, applied=told["revision"], digest=told["digest"], profile="admin")
    await realm.restart()
    assert await realm.told(realm.prod, 1) == told, "the same policy has the same revision and digest"
    standing = realm.control.standing(realm.prod.id)
    assert standing is not None
    assert standing.state == "applied"
    async with realm.store.write() as tx:
        await tx.users.edit(realm.bob.id, realm.clock.now(), enabled=False)
    assert (await realm.told(realm.prod, 2))["revision"] > told["revision"]


async def test_a_restored_database_does_not_leave_agents_with_what_they_have(realm: Realm) -> None:
    """The agent has a later revision than the server knows of, and takes no lower one."""
    told = await realm.told(realm.prod, 1)
    realm.hub.report(realm.prod, applied=told["revision"] + 50, digest="f" * 64)
    assert (await realm.told(realm.prod, 2))["revision"] == told["revision"] + 50
    assert (await realm.fetch(realm.prod)).revision == told["revision"] + 50
    await realm.bind(realm.prod)
    assert (await realm.told(realm.prod, 3))["revision"] >= told["revision"] + 50


async def test_a_policy_that_cannot_be_rendered_is_said_and_holds_up_no_other(
    realm: Realm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY", 0.05)
    monkeypatch.setattr("mooring.control.bundles.body_of", _too_large)
    failures = metrics.REGISTRY.get_sample_value("mooring_policy_render_failures_total") or 0
    await realm.bind(realm.prod)
    await until(lambda: (metrics.REGISTRY.get_sample_value("mooring_policy_render_failures_total") or 0) > failures)
    standing = realm.control.standing(realm.prod.id)
    assert standing is not None
    assert standing.status.errors[0].reason == "bind groups instead"
    assert realm.control.digest(realm.prod.id) == realm.hub.of(realm.prod)[0]["digest"], "the last one stays"
    monkeypatch.undo()
    await realm.told(realm.prod, 2)
    standing = realm.control.standing(realm.prod.id)
    assert standing is not None
    assert standing.status.errors == ()


def _too_large(objects: Any, namespaces: Any) -> bytes:
    raise BadBundle("bind groups instead")


async def test_what_could_not_be_written_is_written_later(realm: Realm, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> Any:
        raise StoreUnavailable("the database does not answer")

    await realm.stored(realm.prod)
    realm.hub.report(realm.prod, profile="admin")
    with monkeypatch.context() as patched:
        patched.setattr(realm.store, "write", away)
        with pytest.raises(StoreUnavailable):
            await realm.control.flush()
    assert (await realm.stored(realm.prod)).profile == "admin"


async def test_the_signing_key_is_made_once_and_a_broken_one_is_not_replaced(realm: Realm) -> None:
    first, again = await signing_key(realm.store), await signing_key(realm.store)
    assert first.private_bytes_raw() == again.private_bytes_raw()
    async with realm.store.write() as tx:
        await tx.settings.put(SETTING, "bm90IGEga2V5")
    with pytest.raises(MooringError, match="no Ed25519 key"):
        await signing_key(realm.store)
