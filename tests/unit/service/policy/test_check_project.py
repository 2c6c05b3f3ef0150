# SPDX-License-Identifier: Apache-2.0
"""What may be written as a project: namespaces, quotas, and what keeps its owner within bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from mooring.policy import check
from mooring.policy.check_project import is_system, namespace_quota
from mooring.policy.effective import Who, rights
from mooring.policy.rules import PolicyRefused
from mooring.store.policies import Policy, Project, ProjectNamespace
from support.policymodel import binding, everywhere, policy, project, role, template

_WEB = project("web", "one", "web")


def _company(*things: Any) -> Policy:
    """Owen owns cluster one, Paul the project web, Carl may make projects; root is an administrator."""
    return policy(
        _WEB,
        binding("root", everywhere("admin"), "root"),
        binding("owen", role("cluster-owner"), "owen", cluster="one"),
        binding("paul", role("project-owner"), "paul", project=_WEB),
        binding("carl", role("projects-create"), "carl", cluster="one"),
        *things,
        built_in=True,
    )


def _write(wish: Project, before: Project | None = None, user: str = "paul", whole: Policy | None = None) -> Project:
    held = whole or _company()
    return check.project(held, rights(held, Who(f"u-{user}"), {}, 1.0), wish, before)


def _with(*names: str, create: bool = True, of: Project = _WEB) -> Project:
    return replace(of, namespaces=tuple(ProjectNamespace(name=name, create=create) for name in names))


@pytest.mark.parametrize("user", ["paul", "owen", "root"])
@pytest.mark.parametrize("name", ["kube-system", "kube-anything", "default", "mooring-system", "mooring", "mooring-x"])
def test_namespaces_of_the_cluster_itself_are_in_no_project(name: str, user: str) -> None:
    for create in (True, False):
        with pytest.raises(PolicyRefused, match="belongs to the cluster") as refused:
            _write(_with("web", name, create=create), _WEB, user)
        assert refused.value.field == "namespaces"
    assert is_system(name)


@pytest.mark.parametrize("name", ["Kube-system", "kube_system", "ｋube-system", "a" * 64, "", "-a", "a.b"])
def test_what_is_no_name_of_a_namespace_is_refused(name: str) -> None:
    with pytest.raises(PolicyRefused, match="no name of a namespace"):
        _write(_with("web", name), _WEB, "root")


def test_a_namespace_is_in_one_project_only() -> None:
    other = project("other", "one", "taken")
    whole = _company(other, project("far", "two", "shop"))
    with pytest.raises(PolicyRefused, match="in the project 'other'"):
        _write(_with("web", "taken"), _WEB, "root", whole)
    assert _write(_with("web", "shop"), _WEB, "root", whole), "of another cluster: another namespace"
    with pytest.raises(PolicyRefused, match="twice"):
        _write(_with("web", "web"), _WEB, "root")


def test_a_project_owner_has_new_namespaces_made_and_cannot_pull_in_what_is_there() -> None:
    assert [n.name for n in _write(_with("web", "api"), _WEB).namespaces] == ["api", "web"]
    grown = replace(_WEB, namespaces=(*_WEB.namespaces, ProjectNamespace(name="monitoring")))
    for user in ("paul", "carl"):
        with pytest.raises(PolicyRefused, match="you do not hold in the whole cluster"):
            _write(grown, _WEB, user)
    assert _write(grown, _WEB, "owen")
    assert _write(grown, grown, "paul"), "what is in it stays in it"


def test_who_makes_a_project_cannot_pull_in_what_is_there_either() -> None:
    fresh = project("fresh", "one", made=(ProjectNamespace(name="monitoring"),))
    with pytest.raises(PolicyRefused, match="monitoring"):
        _write(fresh, None, "carl")
    assert _write(project("fresh", "one", "fresh"), None, "carl")


def test_a_namespace_that_was_made_new_cannot_be_turned_into_one_that_was_there() -> None:
    with pytest.raises(PolicyRefused, match="whole cluster"):
        _write(_with("web", create=False), _WEB)
    with pytest.raises(PolicyRefused, match="cannot become ours"):
        _write(_with("web"), _with("web", create=False), "root")


def test_a_project_with_an_external_role_takes_namespaces_in_only_by_who_holds_everything() -> None:
    outside = template("outside", "project", external="admin")
    grown = _with("web", "monitoring", create=False)
    whole = _company(outside, binding("out", outside, "olga", project=_WEB))
    with pytest.raises(PolicyRefused):
        _write(grown, _WEB, "paul", whole)
    assert _write(grown, _WEB, "owen", whole)


def test_a_namespace_does_not_leave_while_its_service_accounts_are_bound_here() -> None:
    whole = _company(binding("robot", role("workloads-manage"), "web/robot", project=_WEB))
    with pytest.raises(PolicyRefused, match="web/robot"):
        _write(_with("api"), _WEB, "root", whole)


def test_quotas_of_namespaces_fit_into_the_project_s_exactly() -> None:
    base = replace(_with("a", "b"), quota={"requests.cpu": "2", "limits.memory": "4Gi"})
    fits = replace(base, namespace_quota={"cpu": "1000m", "limits.memory": "2Gi"})
    assert _write(fits, _WEB, "owen")
    over = replace(base, namespace_quota={"cpu": "1", "limits.memory": "2147483649"})
    with pytest.raises(PolicyRefused, match=r"limits\.memory") as refused:
        _write(over, _WEB, "owen")
    assert refused.value.field == "quota"
    with pytest.raises(PolicyRefused, match=r"2001m of requests\.cpu"):
        _write(replace(fits, namespace_quota={"cpu": "1000500u", "limits.memory": "1Gi"}), _WEB, "owen")


def test_each_namespace_has_a_quota_of_what_the_project_s_is_of() -> None:
    with pytest.raises(PolicyRefused, match="'a' has none"):
        _write(replace(_with("a"), quota={"pods": "10"}), _WEB, "owen")
    own = replace(
        _WEB, quota={"pods": "10"}, namespaces=(ProjectNamespace(name="a", create=True, quota={"pods": "9"}),)
    )
    assert _write(own, _WEB, "owen")
    assert _write(replace(_WEB, quota={"pods": "10"}, namespaces=()), _WEB, "owen")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("quota", {"cpu": "many"}),
        ("quota", {"disk": "1"}),
        ("quota", {"cpu": "1", "requests.cpu": "1"}),
        ("quota", {"cpu": "-1"}),
        ("namespace_quota", {"cpu": ""}),
        ("container_limits", {"pods": "1"}),
        ("container_requests", {"cpu": "1X"}),
        ("quota", {f"count/r{i}": "1" for i in range(65)}),
    ],
)
def test_what_is_no_quota_is_refused_with_its_place(field: str, value: dict[str, str]) -> None:
    with pytest.raises(PolicyRefused) as refused:
        _write(replace(_WEB, **{field: value}), _WEB, "root")  # type: ignore[arg-type]
    assert refused.value.field.startswith(field)


def test_a_container_asks_for_no_more_than_its_limit() -> None:
    with pytest.raises(PolicyRefused, match="limited to 100m"):
        _write(replace(_WEB, container_requests={"cpu": "0.2"}, container_limits={"cpu": "100m"}), _WEB)
    assert _write(replace(_WEB, container_requests={"cpu": "0.1"}, container_limits={"cpu": "100m"}), _WEB)


def test_a_project_owner_cannot_raise_the_quota_and_may_divide_it() -> None:
    before = replace(_with("web"), quota={"pods": "10"}, namespace_quota={"pods": "5"})
    for quota in ({"pods": "11"}, {}):
        with pytest.raises(PolicyRefused, match="raised or taken away"):
            _write(replace(before, quota=quota), before)
        assert _write(replace(before, quota=quota), before, "owen")
    assert _write(replace(before, namespace_quota={"pods": "10"}), before)
    assert _write(replace(before, quota={"pods": "10000m"}), before)


@pytest.mark.parametrize(
    ("old", "new", "refused"),
    [
        (None, "restricted", False),
        (None, "baseline", True),
        (None, "privileged", True),
        ("restricted", None, True),
        ("restricted", "baseline", True),
        ("baseline", "privileged", True),
        ("baseline", "restricted", False),
        ("privileged", "baseline", False),
        ("baseline", "baseline", False),
    ],
)
def test_a_project_owner_cannot_weaken_pod_security(old: Any, new: Any, refused: bool) -> None:
    before, after = replace(_WEB, pod_security=old), replace(_WEB, pod_security=new)
    assert _write(after, before, "owen")
    if refused:
        with pytest.raises(PolicyRefused, match="pod security"):
            _write(after, before)
    else:
        assert _write(after, before)


def test_a_project_stays_in_its_cluster_and_has_a_name_of_its_own_there() -> None:
    with pytest.raises(PolicyRefused, match="stays in its cluster"):
        _write(replace(_WEB, cluster_id="c-two"), _WEB, "root")
    with pytest.raises(PolicyRefused, match="already"):
        _write(replace(_WEB, id="p-other", namespaces=()), None, "root")


def test_the_quota_of_a_namespace_is_the_default_with_its_own_on_top() -> None:
    wish = replace(_WEB, namespace_quota={"cpu": "1", "pods": "5"})
    namespace = ProjectNamespace(name="web", quota={"requests.cpu": "2"})
    assert namespace_quota(wish, namespace) == {"pods": "5", "requests.cpu": "2"}
