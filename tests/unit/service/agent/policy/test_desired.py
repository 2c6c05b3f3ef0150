# SPDX-License-Identifier: Apache-2.0
"""Whatever a signed bundle says, only what a policy consists of is taken."""

from __future__ import annotations

from typing import Any

import pytest
from mooring.agent.policy.desired import Unacceptable, accept
from support.policybed import LABELS, Manifest, binding, role, space

ROLE = role("reader:0000000001", ["get"], ["pods"])
OTHER = role("other:0000000001", ["get"], ["pods"])
INSIDE = binding("reader:always", "view", ["bob"], namespace="dev")
DEV = [space("dev")]


def changed(item: Manifest, **parts: Any) -> Manifest:
    return {**item, **parts}


def meta(item: Manifest, **parts: Any) -> Manifest:
    return {**item, "metadata": {**item["metadata"], **parts}}


def subject(kind: str, name: str, **more: str) -> Manifest:
    return changed(INSIDE, subjects=[{"kind": kind, "name": name, **more}])


def test_what_a_policy_consists_of_is_taken() -> None:
    found = accept(7, "d", [ROLE, INSIDE], DEV, "mooring-system")
    assert set(found.objects) == {
        ("ClusterRole", "", "mooring:reader:0000000001"),
        ("RoleBinding", "dev", "mooring:reader:always"),
    }
    assert found.objects["ClusterRole", "", "mooring:reader:0000000001"].manifest() == ROLE
    assert found.spaces["dev"].labels == {"mooring.fleet/project": "shop"}


@pytest.mark.parametrize(
    "item",
    [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mooring-x", "namespace": "dev", "labels": LABELS}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "mooring-x", "labels": LABELS}},
        changed(ROLE, kind="Role"),
        changed(ROLE, apiVersion="rbac.authorization.k8s.io/v2"),
        changed(ROLE, aggregationRule={}),
        changed(ROLE, spec={}),
        meta(ROLE, name="cluster-admin"),
        meta(ROLE, name="mooring-agent"),
        meta(ROLE, name="mooring:../x"),
        meta(ROLE, namespace="dev"),
        meta(ROLE, labels={}),
        meta(ROLE, finalizers=["x"]),
        meta(ROLE, ownerReferences=[]),
        meta(INSIDE, namespace="kube-system"),
        meta(INSIDE, namespace="mooring-system"),
        meta(INSIDE, namespace="other"),
        meta(INSIDE, name="x"),
        changed(INSIDE, roleRef={"kind": "Role", "name": "x"}),
        changed(INSIDE, roleRef=None),
        changed(INSIDE, subjects="all"),
        changed(INSIDE, subjects=["bob"]),
        subject("Group", "system:masters"),
        subject("Group", "system:authenticated"),
        subject("User", "system:kube-scheduler"),
        subject("Machine", "x"),
        subject("User", ""),
        subject("ServiceAccount", "mooring-impersonator", namespace="mooring-system"),
        None,
        "x",
        {},
        {"kind": "ClusterRole", "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": None},
    ],
)
def test_anything_else_is_refused_with_all_that_came_with_it(item: Any) -> None:
    with pytest.raises(Unacceptable):
        accept(1, "d", [OTHER, item], DEV, "mooring-system")


@pytest.mark.parametrize(
    "entry",
    [
        space("kube-system"),
        space("kube-x"),
        space("mooring-system"),
        space("UPPER"),
        space("a/b"),
        space(""),
        {"name": 7},
        "dev",
        {"name": "dev", "labels": {"kubernetes.io/metadata.name": "kube-system"}},
        {"name": "dev", "labels": {"mooring.fleet/project": 1}},
        {"name": "dev", "labels": ["x"]},
    ],
)
def test_a_namespace_that_no_project_can_have_is_refused(entry: Any) -> None:
    with pytest.raises(Unacceptable):
        accept(1, "d", [], [entry], "mooring-system")


def test_an_object_that_is_there_twice_is_refused() -> None:
    with pytest.raises(Unacceptable, match="twice"):
        accept(1, "d", [ROLE, ROLE], [], "mooring-system")
