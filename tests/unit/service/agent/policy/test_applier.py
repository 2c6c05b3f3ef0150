# SPDX-License-Identifier: Apache-2.0
"""A policy is put into the cluster in order, held there against everybody, and touches nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from mooring.agent.policy import applier as applier_module
from mooring.agent.policy.applier import Applier
from mooring.agent.policy.cluster import Cluster
from mooring.agent.policy.desired import accept
from mooring.agent.policy.report import Report
from mooring.agent.policy.timekeeper import Timekeeper
from mooring.agent.policy.watch import Watcher
from mooring.lib.clock import ManualClock
from support.fakekube import FakeApi
from support.policybed import LABELS, Manifest, binding, role, space, until

READER = role("reader:0000000001", ["get"], ["pods"])
EDITOR = role("editor:0000000002", ["get", "update"], ["pods"])
BOUND = binding("reader:always", "mooring:reader:0000000001", ["bob"])
NAME = "mooring:reader:always"


class World:
    def __init__(self) -> None:
        self.api = FakeApi()
        self.clock = ManualClock()
        self.said: list[dict[str, Any]] = []
        cluster = Cluster(self.api, "mooring-system")  # type: ignore[arg-type]
        self.report = Report(self.said.append, self.clock, "test")
        self.report.active = True
        self.applier = Applier(cluster, Timekeeper(self.clock), self.report)
        self.watcher = Watcher(self.api, self.applier)  # type: ignore[arg-type]
        self.speaker = asyncio.get_running_loop().create_task(self.report.run(cluster))
        self.watched = 7
        self.revision = 0
        self.started = False

    async def policy(self, objects: list[Manifest], spaces: list[Manifest] | None = None) -> None:
        self.revision += 1
        desired = accept(self.revision, f"d{self.revision}", objects, spaces or [], "mooring-system")
        job = self.applier.adopt(desired)
        if not self.started:
            self.started = True
            self.applier.start()
            self.watcher.start()
        await job
        await until("all is watched", lambda: self.api.watches == self.watched)

    def binding(self, name: str = NAME, space: str = "") -> Manifest | None:
        return self.api.get("rolebindings" if space else "clusterrolebindings", name, space)

    def users(self, name: str = NAME) -> list[str]:
        found = self.binding(name)
        return [one["name"] for one in found["subjects"]] if found is not None else []


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    made.speaker.cancel()
    await made.watcher.aclose()
    await made.applier.aclose()


def paths(world: World) -> list[tuple[str, str]]:
    """What was written: method and name."""
    return [(method, path.rpartition("/")[2]) for method, path in world.api.writes() if "/events" not in path]


async def test_a_role_is_there_before_who_is_bound_to_it_and_goes_after_it(world: World) -> None:
    await world.policy([BOUND, READER])
    assert paths(world) == [("PATCH", "mooring:reader:0000000001"), ("PATCH", NAME)]
    world.api.calls.clear()
    await world.policy([EDITOR, binding("editor:always", "mooring:editor:0000000002", ["bob"])])
    assert paths(world) == [
        ("PATCH", "mooring:editor:0000000002"),
        ("PATCH", "mooring:editor:always"),
        ("DELETE", NAME),
        ("DELETE", "mooring:reader:0000000001"),
    ]


async def test_what_is_taken_away_and_not_replaced_goes_first(world: World) -> None:
    await world.policy([READER, BOUND])
    world.api.calls.clear()
    await world.policy([READER, EDITOR, binding("editor:always", "mooring:editor:0000000002", ["eve"])])
    assert paths(world)[0] == ("DELETE", NAME)


async def test_nothing_is_asked_while_nothing_happens(world: World) -> None:
    await world.policy([READER, BOUND])
    await asyncio.sleep(0.3)
    world.api.calls.clear()
    await asyncio.sleep(0.5)
    assert world.api.calls == []


async def test_a_policy_that_is_applied_again_writes_nothing(world: World) -> None:
    await world.policy([READER, BOUND])
    world.api.calls.clear()
    await world.policy([READER, BOUND])
    assert world.api.writes() == []


async def test_what_somebody_deletes_or_edits_comes_back_and_is_counted(world: World) -> None:
    await world.policy([READER, BOUND])
    world.api.drop("clusterrolebindings", NAME)
    await until("it is back", lambda: world.users() == ["mooring:bob"])
    more = [*BOUND["subjects"], {**BOUND["subjects"][0], "name": "mooring:eve"}]
    world.api.put("clusterrolebindings", {**BOUND, "subjects": more})
    await until("eve is out", lambda: world.users() == ["mooring:bob"])
    await until("both were counted", lambda: world.report.healed == 2)
    await until(
        "it was said", lambda: [one["what"] for m in world.said for one in m["drift"]] == ["deleted", "changed"]
    )
    await until("with events", lambda: len(world.api.names("events")) == 2)
    (event, _second) = [item for at, item in world.api.objects.items() if at[0] == "events"]
    assert event["related"]["name"] == NAME
    assert event["regarding"] == {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "namespace": "mooring-system",
        "name": "mooring-policy",
    }


async def test_a_storm_of_edits_makes_few_events(world: World) -> None:
    many = [binding(f"reader:{number}", "mooring:reader:0000000001", ["bob"]) for number in range(40)]
    await world.policy([READER, *many])
    for item in many:
        world.api.drop("clusterrolebindings", item["metadata"]["name"])
    await until("all are back", lambda: world.report.healed == 40)
    await asyncio.sleep(0.3)
    assert len(world.api.names("events")) == 20
    assert all(len(message["drift"]) <= 32 for message in world.said)


@pytest.mark.parametrize("labels", [LABELS, {}])
async def test_what_somebody_else_made_under_our_name_stays(world: World, labels: dict[str, str]) -> None:
    theirs = binding("reader:always", "admin", ["eve"])
    theirs["metadata"]["labels"] = labels
    world.api.put("clusterrolebindings", theirs)
    await world.policy([READER, BOUND])
    assert world.users() == ["mooring:eve"]
    assert "made by kubectl" in world.report.errors[f"ClusterRoleBinding {NAME}"]
    await world.policy([READER])
    assert world.users() == ["mooring:eve"]
    assert world.report.errors == {}


async def test_a_name_that_is_taken_between_the_question_and_the_write_is_left(world: World) -> None:
    asked: list[str] = []

    def meanwhile(method: str, path: str, _unused: Any) -> None:
        if method == "PATCH" and path.endswith(NAME) and not asked:
            asked.append(path)
            world.api.put("clusterrolebindings", binding("reader:always", "admin", ["eve"]))

    world.api.refuse = meanwhile
    await world.policy([READER, BOUND])
    assert world.users() == ["mooring:eve"]
    assert "made by kubectl" in world.report.errors[f"ClusterRoleBinding {NAME}"]


async def test_who_takes_our_name_off_an_object_does_not_get_it(world: World) -> None:
    await world.policy([READER, BOUND])
    more = [*BOUND["subjects"], {**BOUND["subjects"][0], "name": "mooring:eve"}]
    found = world.binding()
    assert found is not None
    # Field managers can be wiped by whoever may update the object.
    found["metadata"]["managedFields"] = []
    world.api.put("clusterrolebindings", {**BOUND, "subjects": more})
    await until("eve is out", lambda: world.users() == ["mooring:bob"])


async def test_a_label_that_is_taken_off_is_put_back(world: World) -> None:
    await world.policy([READER, BOUND])
    bare = {**BOUND, "metadata": {"name": NAME, "labels": {}}}
    world.api.put("clusterrolebindings", bare)
    await until("it is back", lambda: (world.binding() or {})["metadata"]["labels"] == LABELS)


async def test_what_another_put_our_label_on_is_not_pruned(world: World) -> None:
    world.api.put("clusterrolebindings", binding("stray", "view", ["eve"]))
    await world.policy([READER, BOUND])
    await world.policy([])
    assert world.api.names("clusterrolebindings") == {"mooring:stray"}


async def test_what_a_dead_agent_left_is_pruned(world: World) -> None:
    world.api.put("clusterroles", {**EDITOR}, manager="")
    item = world.api.get("clusterroles", "mooring:editor:0000000002")
    assert item is not None
    item["metadata"]["managedFields"] = [{"manager": "mooring-policy", "operation": "Apply"}]
    await world.policy([READER])
    assert world.api.names("clusterroles") == {"mooring:reader:0000000001"}
    assert world.report.healed == 0


async def test_a_binding_ends_at_its_time_and_not_before(world: World) -> None:
    end = int(world.clock.now()) + 3600
    await world.policy([READER, binding("reader:soon", "mooring:reader:0000000001", ["bob"], expires_at=end)])
    world.clock.advance(end - world.clock.now() - 0.1)
    world.applier.tick()
    await asyncio.sleep(0.1)
    assert world.users("mooring:reader:soon")
    world.clock.advance(0.1)
    world.applier.tick()
    await until("it is gone", lambda: not world.users("mooring:reader:soon"))
    assert world.report.healed == 0


async def test_a_binding_whose_time_is_over_never_begins(world: World) -> None:
    end = int(world.clock.now())
    await world.policy([READER, binding("reader:past", "mooring:reader:0000000001", ["bob"], expires_at=end)])
    assert world.binding("mooring:reader:past") is None
    assert world.report.errors == {}


async def test_a_namespace_that_comes_is_bound_and_one_that_goes_is_no_error(world: World) -> None:
    inside = binding("reader:always", "mooring:reader:0000000001", ["bob"], namespace="dev")
    await world.policy([READER, inside], [space("dev")])
    assert world.api.names("rolebindings") == set()
    assert world.report.errors == {}
    world.api.put("namespaces", {"metadata": {"name": "dev"}})
    await until("it is bound", lambda: world.binding(NAME, "dev"))
    found = world.api.get("namespaces", "dev")
    assert found is not None
    await until("it is labelled", lambda: world.api.get("namespaces", "dev")["metadata"].get("labels"))  # type: ignore[index]
    ending = {"metadata": {"name": "dev", "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    world.api.put("namespaces", ending)
    world.api.refuse = lambda method, path, _unused: (
        (403, "it is being terminated") if method == "PATCH" and "/namespaces/dev/" in path else None
    )
    await asyncio.sleep(0.1)
    world.api.drop("rolebindings", NAME, "dev")
    await asyncio.sleep(0.1)
    world.api.drop("namespaces", "dev")
    await asyncio.sleep(0.1)
    assert world.report.errors == {}


async def test_a_namespace_is_made_once_and_one_of_somebody_else_is_not_taken(world: World) -> None:
    world.api.put("namespaces", {"metadata": {"name": "theirs"}})
    inside = [
        binding("reader:always", "mooring:reader:0000000001", ["bob"], namespace=name) for name in ("mine", "theirs")
    ]
    await world.policy([READER, *inside], [space("mine", create=True), space("theirs", create=True)])
    assert world.binding(NAME, "mine") is not None
    assert world.binding(NAME, "theirs") is None
    assert "somebody else made it" in world.report.errors["Namespace theirs"]
    assert not (world.api.get("namespaces", "theirs") or {})["metadata"].get("labels")
    world.api.drop("rolebindings", NAME, "mine")
    world.api.drop("namespaces", "mine")
    await until("it is made again", lambda: world.binding(NAME, "mine"))


async def test_a_namespace_that_leaves_its_project_keeps_nothing_of_it(world: World) -> None:
    world.api.put("namespaces", {"metadata": {"name": "dev", "labels": {"team": "a"}}})
    inside = binding("reader:always", "mooring:reader:0000000001", ["bob"], namespace="dev")
    await world.policy([READER, inside], [space("dev", enforce="baseline")])
    found = world.api.get("namespaces", "dev")
    assert found is not None
    assert found["metadata"]["labels"] == {
        "team": "a",
        "mooring.fleet/project": "shop",
        "pod-security.kubernetes.io/enforce": "baseline",
    }
    await world.policy([READER], [])
    assert (world.api.get("namespaces", "dev") or {})["metadata"]["labels"] == {"team": "a"}
    assert world.api.names("rolebindings") == set()


async def test_what_a_project_left_behind_is_not_made_over_to_the_next_one(world: World) -> None:
    inside = binding("reader:always", "mooring:reader:0000000001", ["bob"], namespace="mine")
    await world.policy([READER, inside], [space("mine", create=True)])
    assert world.binding(NAME, "mine") is not None
    await world.policy([READER], [])
    assert world.api.get("namespaces", "mine") is not None
    await world.policy([READER, inside], [space("mine", create=True)])
    assert world.binding(NAME, "mine") is None
    assert "somebody else made it" in world.report.errors["Namespace mine"]
    await world.policy([READER, inside], [space("mine")])  # by who may take in a namespace that is there
    assert world.binding(NAME, "mine") is not None


async def test_an_open_network_policy_is_closed_again(world: World) -> None:
    world.api.put("namespaces", {"metadata": {"name": "dev"}})
    spec = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {}}]}]}
    meta = {"name": "mooring-isolation", "namespace": "dev", "labels": LABELS}
    item = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec}
    await world.policy([item], [space("dev")])
    # More in a peer is another peer: now everybody comes in.
    wide = {**spec, "ingress": [{"from": [{"podSelector": {}, "namespaceSelector": {}}]}]}
    world.api.put("networkpolicies", {**item, "spec": wide})

    def narrow() -> bool:
        found = world.api.get("networkpolicies", "mooring-isolation", "dev")
        return found is not None and found["spec"] == spec

    await until("it is closed", narrow)


async def test_what_somebody_adds_beside_our_fields_is_taken_off_where_it_widens(world: World) -> None:
    world.api.put("namespaces", {"metadata": {"name": "dev"}})
    spec = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": []}
    meta = {"name": "mooring-isolation", "namespace": "dev", "labels": LABELS}
    item = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec}
    await world.policy([READER, item], [space("dev")])
    world.api.sticky = ("aggregationRule",)  # apply leaves it, as another's
    rule = {"clusterRoleSelectors": [{"matchLabels": {"all": "of-them"}}]}
    world.api.put("clusterroles", {**READER, "aggregationRule": rule})

    def plain() -> bool:
        found = world.api.get("clusterroles", "mooring:reader:0000000001")
        return found is not None and "aggregationRule" not in found

    await until("it is off", plain)
    await until("it was counted", lambda: world.report.healed == 1)
    assert world.report.errors == {}


async def test_what_the_api_server_refuses_is_said_in_its_words_and_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applier_module, "RETRY_FIRST", 0.05)
    world.api.refuse = lambda method, path, _unused: (
        (403, "you may not") if method == "PATCH" and path.endswith(NAME) else None
    )
    await world.policy([READER, BOUND])
    assert world.report.errors == {f"ClusterRoleBinding {NAME}": "you may not"}
    assert world.report.applied == 1
    world.api.refuse = lambda *_unused: None
    await until("it is there", lambda: world.users() == ["mooring:bob"])
    await until("the error is gone", lambda: not world.report.errors)
    assert world.report.healed == 0


async def test_what_cannot_be_read_does_not_hold_up_the_rest(world: World) -> None:
    world.api.refuse = lambda method, path, _unused: (
        (403, "not this") if method == "GET" and path.endswith("/limitranges") else None
    )
    world.watched = 6
    await world.policy([READER, BOUND])
    assert world.users() == ["mooring:bob"]
    assert "not this" in world.report.errors["limitranges"]


async def test_a_list_that_is_read_anew_makes_no_drift_of_what_is_well(world: World) -> None:
    await world.policy([READER, BOUND])
    listing = ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles")
    lists = world.api.calls.count(listing)
    world.api.echo = False
    world.api.drop("clusterroles", "mooring:reader:0000000001")  # which the watch does not say
    world.api.echo = True
    world.api.end_watches()
    await until("it is back", lambda: world.api.names("clusterroles"))
    assert world.users() == ["mooring:bob"]
    await until("it was counted", lambda: world.report.healed == 1)
    assert world.api.calls.count(listing) > lists


async def test_an_object_that_something_in_the_cluster_changes_is_an_error_and_no_loop(world: World) -> None:
    def meddle(method: str, path: str, body: Any) -> None:
        if method in ("PATCH", "PUT") and path.endswith(NAME):
            body["subjects"] = []  # a mutating webhook

    world.api.refuse = meddle
    await world.policy([READER, BOUND])
    assert "something in the cluster changes it" in world.report.errors[f"ClusterRoleBinding {NAME}"]
    await asyncio.sleep(0.2)
    assert len([path for method, path in world.api.writes() if method == "PATCH" and path.endswith(NAME)]) <= 3


async def test_two_who_want_an_object_otherwise_do_not_keep_the_cluster_busy(world: World) -> None:
    await world.policy([READER, BOUND])
    edits = 0

    def other(method: str, path: str, _unused: Any) -> None:
        nonlocal edits
        if method == "PATCH" and path.endswith(NAME):
            edits += 1
            theirs = {**BOUND, "subjects": []}
            asyncio.get_running_loop().call_later(0.005, world.api.put, "clusterrolebindings", theirs)

    world.api.refuse = other
    world.api.drop("clusterrolebindings", NAME)
    await asyncio.sleep(1.0)
    assert edits == 8
    await until("it is put right all the same", lambda: edits > 8, 5)
    world.api.refuse = lambda *_unused: None


async def test_a_transition_waits_for_an_api_server_that_is_away_and_goes_on(world: World) -> None:
    await world.policy([READER, BOUND])
    world.api.cut()
    job = asyncio.get_running_loop().create_task(
        world.policy([EDITOR, binding("editor:always", "mooring:editor:0000000002", ["bob"])])
    )
    await asyncio.sleep(0.5)
    assert not job.done()
    world.api.away = False
    await asyncio.wait_for(job, 20)
    assert world.users("mooring:editor:always") == ["mooring:bob"]
    assert world.binding() is None
    assert world.report.errors == {}


async def test_what_was_wrong_while_the_api_server_was_away_is_put_right_when_it_is_back(world: World) -> None:
    await world.policy([READER, BOUND])
    world.api.echo = False
    world.api.cut()
    world.api.drop("clusterrolebindings", NAME)
    world.api.echo = True
    await asyncio.sleep(0.3)
    world.api.away = False
    world.api.end_watches()
    await until("they are read again", lambda: world.api.watches == 7)
    world.api.end_watches()  # it does not know that far back
    await until("it is back", lambda: world.users() == ["mooring:bob"])


async def test_of_a_thousand_new_names_it_is_asked_once(world: World) -> None:
    world.api.put("clusterrolebindings", binding("reader:7", "admin", ["eve"]))
    many = [binding(f"reader:{number}", "mooring:reader:0000000001", ["bob"]) for number in range(200)]
    await world.policy([READER, *many])
    assert len(world.api.names("clusterrolebindings")) == 200
    assert world.users("mooring:reader:7") == ["mooring:eve"]
    assert list(world.report.errors) == ["ClusterRoleBinding mooring:reader:7"]
    asked = [path for method, path in world.api.calls if method == "GET" and "clusterrolebindings/" in path]
    assert len(asked) <= 3
