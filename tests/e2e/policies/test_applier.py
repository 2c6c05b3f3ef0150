# SPDX-License-Identifier: Apache-2.0
"""Policies in a real cluster, without a server: bundles that the test signs, the rights of the real manifest."""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop
from mooring.agent.policy.service import CONNECTIONS
from mooring.kube.client import KubeApi
from support.policybed import LABELS, RBAC, Bed, BundleServer, binding, role, space, until
from support.realcluster import OWN, Real
from testbed import ControlPlane
from testbed.pki import Authority

ROLES = f"/apis/{RBAC}/v1/clusterroles"
BINDINGS = f"/apis/{RBAC}/v1/clusterrolebindings"
READER = role("reader:0000000001", ["get", "list"], ["pods"])
EDITOR = role("editor:0000000002", ["get", "list", "update"], ["pods"])


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """As in production."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"), "ca")


@pytest.fixture
async def real(control_plane: ControlPlane) -> AsyncIterator[Real]:
    cluster = Real(control_plane)
    await cluster.manifest("admin")
    yield cluster
    await cluster.clean()
    await cluster.admin.aclose()


@pytest.fixture
async def bed(real: Real, authority: Authority) -> AsyncIterator[Bed]:
    server = BundleServer(authority)
    await server.start()
    account = await real.account("mooring-agent")
    made = Bed(lambda: KubeApi(account, connections=CONNECTIONS, idle=16), server)
    made.uid = (await real.admin.json("GET", "/api/v1/namespaces/kube-system"))["metadata"]["uid"]
    yield made
    await made.stop()
    server.stop()


async def test_a_policy_is_in_the_cluster_and_the_next_one_replaces_it(bed: Bed, real: Real) -> None:
    bed.start()
    await bed.policy([READER, binding("reader:always", "mooring:reader:0000000001", ["bob"])])
    assert await real.may("bob", "get")
    assert not await real.may("bob", "update")
    found = await real.there(f"{BINDINGS}/mooring:reader:always")
    assert found is not None
    owners = {(o["manager"], o["operation"]) for o in found["metadata"]["managedFields"]}
    assert owners == {("mooring-policy", "Apply")}
    assert bed.errors() == {}
    await bed.policy([EDITOR, binding("editor:always", "mooring:editor:0000000002", ["bob"])])
    assert await real.may("bob", "update")
    assert await real.there(f"{ROLES}/mooring:reader:0000000001") is None
    assert await real.there(f"{BINDINGS}/mooring:reader:always") is None
    await bed.policy([])
    assert not await real.may("bob", "get")


async def test_what_is_deleted_edited_or_widened_by_hand_is_put_right(bed: Bed, real: Real) -> None:
    bed.start()
    bound = binding("reader:always", "mooring:reader:0000000001", ["bob"])
    await bed.policy([READER, bound])
    path = f"{BINDINGS}/mooring:reader:always"

    await real.admin.json("DELETE", path)
    await until("the binding is back", lambda: real.there(path), 2)

    more = {**bound, "subjects": [*bound["subjects"], {"apiGroup": RBAC, "kind": "User", "name": "mooring:eve"}]}
    await real.apply(more, BINDINGS)

    async def alone() -> bool:
        found = await real.there(path)
        return found is not None and [one["name"] for one in found["subjects"]] == ["mooring:bob"]

    await until("eve is out again", alone, 2)
    await real.apply({**READER, "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}, ROLES)

    async def narrow() -> bool:
        found = await real.there(f"{ROLES}/mooring:reader:0000000001")
        return found is not None and found["rules"] == READER["rules"]

    await until("the role is narrow again", narrow, 2)
    # Its label is taken away: it is as good as deleted for the watch, and still ours.
    await real.admin.json("PUT", path, {**bound, "metadata": {"name": "mooring:reader:always", "labels": {}}})

    async def labelled() -> bool:
        found = await real.there(path)
        return found is not None and found["metadata"].get("labels") == LABELS

    await until("the label is back", labelled, 2)
    await until("all of it was reported", lambda: bed.last("healed") == 4)
    assert bed.drift() == [
        ("ClusterRoleBinding mooring:reader:always", "deleted"),
        ("ClusterRoleBinding mooring:reader:always", "changed"),
        ("ClusterRole mooring:reader:0000000001", "changed"),
        ("ClusterRoleBinding mooring:reader:always", "deleted"),
    ]

    async def told() -> bool:
        events = await real.admin.json("GET", "/apis/events.k8s.io/v1/namespaces/mooring-system/events")
        notes = [event["note"] for event in events["items"] if event["reason"] == "PolicyDrift"]
        return any("ClusterRole mooring:reader:0000000001 was changed" in note for note in notes)

    await until("an Event says so", told)


async def test_what_somebody_else_made_under_our_name_is_left_alone(bed: Bed, real: Real) -> None:
    theirs = binding("taken:always", "view", ["eve"])
    await real.apply(theirs, BINDINGS)  # with our label, which anybody can put on
    stray = binding("stray:always", "view", ["eve"])
    await real.apply(stray, BINDINGS)
    bed.start()
    await bed.policy([READER, binding("taken:always", "mooring:reader:0000000001", ["bob"])])
    found = await real.there(f"{BINDINGS}/mooring:taken:always")
    assert found is not None
    assert [one["name"] for one in found["subjects"]] == ["mooring:eve"]
    assert found["roleRef"]["name"] == "view"
    assert "made by admin" in bed.errors()["ClusterRoleBinding mooring:taken:always"]
    assert await real.there(f"{BINDINGS}/mooring:stray:always") is not None
    assert await real.there(f"{ROLES}/mooring:reader:0000000001") is not None


async def test_a_binding_ends_by_the_second_without_the_server(bed: Bed, real: Real) -> None:
    bed.start()
    end = int(time.time()) + 4
    name = f"reader:{end}"
    await bed.policy([READER, binding(name, "mooring:reader:0000000001", ["bob"], expires_at=end)])
    assert await real.may("bob", "get")
    bed.server.stop()
    await bed.stop()
    bed.start()  # from what was kept
    gone = 0.0

    async def over() -> bool:
        nonlocal gone
        gone = time.time()
        return await real.there(f"{BINDINGS}/mooring:{name}") is None

    await until("the binding is gone", over, 20)
    print(f"\nended {gone - end:+.2f} s after its time")
    assert gone >= end
    assert not await real.may("bob", "get")
    assert bed.drift() == []


async def test_namespaces_of_a_project_are_made_labelled_and_bound_when_they_come(bed: Bed, real: Real) -> None:
    await real.make_space("sp-old")
    await real.make_space("sp-theirs")
    bed.start()
    names = ["sp-old", "sp-new", "sp-later", "sp-theirs"]
    bound = [binding("reader:always", "mooring:reader:0000000001", ["bob"], namespace=name) for name in names]
    spaces = [
        space("sp-old", enforce="restricted"),
        space("sp-new", create=True),
        space("sp-later"),
        space("sp-theirs", create=True),
    ]
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "mooring-quota", "namespace": "sp-old", "labels": LABELS},
        "spec": {"hard": {"pods": "10", "requests.cpu": "1000m"}},
    }
    await bed.policy([READER, *bound, quota], spaces)
    await until("the new one is bound", lambda: real.may("bob", "get", "sp-new"), 5)
    assert await real.may("bob", "get", "sp-old")
    assert not await real.may("bob", "get", "sp-theirs")
    assert "somebody else made it" in bed.errors()["Namespace sp-theirs"]
    old = await real.there("/api/v1/namespaces/sp-old")
    assert old is not None
    assert old["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert old["metadata"]["labels"]["mooring.fleet/project"] == "shop"
    assert await real.there("/api/v1/namespaces/sp-later") is None

    await real.make_space("sp-later")
    await until("what came later is bound", lambda: real.may("bob", "get", "sp-later"), 2)
    body = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}}
    await real.admin.call("PATCH", "/api/v1/namespaces/sp-old", body, media="application/merge-patch+json")

    async def strict() -> bool:
        found = await real.there("/api/v1/namespaces/sp-old")
        assert found is not None
        return bool(found["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") == "restricted")

    await until("the level is back", strict, 2)
    await until("it was reported", lambda: ("Namespace sp-old", "changed") in bed.drift())
    # The quota is spelt otherwise by the API server, and that is no drift.
    assert [what for what in bed.drift() if what[0].startswith("ResourceQuota")] == []

    await bed.policy([], [])

    async def free() -> bool:
        found = await real.there("/api/v1/namespaces/sp-old")
        assert found is not None
        return not {"mooring.fleet/project", "pod-security.kubernetes.io/enforce"} & set(found["metadata"]["labels"])

    await until("the project has left it", free, 5)
    assert await real.there("/api/v1/namespaces/sp-new") is not None
    assert not await real.may("bob", "get", "sp-new")

    # What a project left behind is not given to the next one that asks for a namespace of that name to be made.
    again = binding("reader:always", "mooring:reader:0000000001", ["bob"], namespace="sp-new")
    await bed.policy([READER, again], [space("sp-new", create=True)])
    await until("it is refused", lambda: "Namespace sp-new" in bed.errors(), 5)
    assert not await real.may("bob", "get", "sp-new")


async def test_an_agent_that_dies_in_the_middle_goes_on_after_its_restart(bed: Bed, real: Real) -> None:
    bed.start("pod")
    many = [binding(f"reader:{number}", "mooring:reader:0000000001", [f"u{number}"]) for number in range(300)]
    bed.offer([READER, *many])

    async def count() -> int:
        found = await real.admin.json("GET", f"{BINDINGS}?labelSelector=mooring.fleet/policy%3Dtrue")
        return len(found["items"])

    async def some() -> bool:
        return await count() > 20

    await until("it is under way", some)
    await bed.stop(crash=True)
    assert await count() < 300
    bed.server.stop()
    bed.start("pod")  # the same pod: its container was restarted

    async def done() -> bool:
        return await count() == 300

    await until("all is there", done, 30)


async def test_a_policy_that_was_tampered_with_or_is_for_another_cluster_is_refused(bed: Bed, real: Real) -> None:
    bed.start()
    await bed.policy([READER, binding("reader:always", "mooring:reader:0000000001", ["bob"])])
    kept = bed.said[-1]
    bed.offer([], cluster="c-bbbbbbbbbbbb")
    await until("it is refused", lambda: "for the cluster" in bed.errors().get("policy", ""))
    bed.offer([], uid="another")
    await until("it is refused", lambda: "UID" in bed.errors().get("policy", ""))
    bed.revision = kept["applied"] - 2
    bed.offer([])
    await until("an old one is refused", lambda: "was applied already" in bed.errors().get("policy", ""))
    bed.revision = kept["applied"]
    bed.offer([{**binding("x:always", "admin", []), "subjects": [{"kind": "Group", "name": "system:masters"}]}])
    await until("what no policy says is refused", lambda: "system:masters" in bed.errors().get("policy", ""))
    assert await real.may("bob", "get")
    await bed.stop()

    secrets = (await real.admin.json("GET", f"{OWN}/secrets"))["items"]
    (secret,) = [one for one in secrets if one["metadata"]["name"].startswith("mooring-policy-")]
    part = bytearray(base64.b64decode(secret["data"]["part"]))
    part[-3] ^= 1
    secret["data"]["part"] = base64.b64encode(part).decode()
    await real.admin.json("PUT", f"{OWN}/secrets/{secret['metadata']['name']}", secret)
    await real.admin.json("DELETE", f"{BINDINGS}/mooring:reader:always")
    bed.said.clear()
    bed.revision = kept["applied"] + 1
    bed.start()
    bed.offer([READER])  # which there is no way to
    await until("the server's policy counts", lambda: bed.last("applied") == bed.revision)
    assert await real.there(f"{BINDINGS}/mooring:reader:always") is None


async def test_a_read_only_agent_cannot_give_away_more_than_reading(bed: Bed, real: Real) -> None:
    await real.manifest("read-only")
    bed.start()
    objects = [READER, EDITOR]
    objects += [binding("reader:always", "mooring:reader:0000000001", ["bob"])]
    objects += [binding("editor:always", "mooring:editor:0000000002", ["bob"])]
    await bed.policy(objects)
    assert bed.last("profile") == "read-only"
    assert await real.may("bob", "get")
    assert not await real.may("bob", "update")
    assert "not currently held" in bed.errors()["ClusterRole mooring:editor:0000000002"]


async def test_an_agent_that_is_only_a_proxy_says_so(bed: Bed, real: Real) -> None:
    await real.manifest("proxy-only")
    bed.start()
    bed.offer([READER])
    await until("it says so", lambda: "proxy-only" in bed.errors().get("policy", ""))
    assert bed.last("applied") == 0
    await real.manifest("admin")
    bed.announce()
    await until("it applies it", lambda: bed.last("applied") == bed.revision)


async def test_one_of_two_agents_works_by_the_lease(bed: Bed, real: Real) -> None:
    bed.start("one")
    bed.start("two")
    await bed.policy([READER])
    lease = await real.there("/apis/coordination.k8s.io/v1/namespaces/mooring-system/leases/mooring-policy")
    assert lease is not None
    first = lease["spec"]["holderIdentity"]
    assert first in ("one", "two")


@pytest.mark.timeout(300)
async def test_how_long_many_bindings_take(bed: Bed, real: Real) -> None:
    count = int(os.environ.get("MOORING_POLICY_BINDINGS", "500"))
    for number in range(10):
        await real.make_space(f"many-{number}")
    bed.start()
    name = "mooring:reader:0000000001"
    spaces = [space(f"many-{number}") for number in range(10)]
    many = [binding(f"reader:{at}", name, ["bob", f"u{at}"], namespace=f"many-{at % 10}") for at in range(count)]
    began = time.monotonic()
    await bed.policy([READER, *many], spaces, within=240)
    print(f"\n{count} bindings applied in {time.monotonic() - began:.1f} s")
    assert bed.errors() == {}
    began = time.monotonic()
    await bed.policy([], spaces, within=240)
    print(f"{count} bindings taken away in {time.monotonic() - began:.1f} s")
