# SPDX-License-Identifier: Apache-2.0
"""What may be written as a project: which namespaces, which quotas, and who may loosen what holds its owner.

    namespaces    of one project only; never the cluster's own; one that is there already only by somebody who could do
                  everything in it that the project's people will be able to do
    quotas        of all namespaces together within the project's; the project's is raised in the cluster only
    pod security  weakened only by somebody who may change namespaces of the cluster

It must not: ask a cluster what is there. A namespace marked `create` is made by the agent, which refuses one that
somebody else made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Final

from mooring.kube.names import DEFAULT_NAMESPACE
from mooring.policy import builtin, quantity, rules
from mooring.policy.effective import Rights, flatten
from mooring.policy.fields import check_description, check_plain_name
from mooring.policy.rules import PolicyRefused
from mooring.store.policies import Policy, Project, ProjectNamespace, Rule

MAX_NAMESPACES: Final = 1000
MAX_QUOTA: Final = 64
_SYSTEM: Final = frozenset({"default", "mooring", DEFAULT_NAMESPACE})
_SYSTEM_PREFIXES: Final = ("kube-", "mooring-")
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


def is_system(namespace: str) -> bool:
    """Whether a namespace belongs to the cluster or to us. `default` is one: the Service `kubernetes`, by which every
    pod finds the API server, is in it."""
    return namespace in _SYSTEM or namespace.startswith(_SYSTEM_PREFIXES)


def project(policy: Policy, author: Rights, wish: Project, before: Project | None = None) -> Project:
    """The project as it may be written, its namespaces in the order of their names. `before` is what it takes the place
    of. Raises PolicyRefused.

    Whether the author may write projects or namespaces there at all is asked before, by the guard of the route.
    """
    check_plain_name(wish.name, "name", "project", builtin.PROJECT_PREFIX)
    check_description(wish.description, "description")
    if before is not None and (wish.cluster_id, wish.id) != (before.cluster_id, before.id):
        raise PolicyRefused("cluster", "a project stays in its cluster", hint="make a new one in the other cluster")
    for other in policy.projects.values():
        if other.id != wish.id and other.cluster_id == wish.cluster_id and other.name == wish.name:
            raise PolicyRefused("name", f"the cluster has a project {wish.name!r} already")
    checked = replace(wish, namespaces=tuple(sorted(wish.namespaces, key=lambda namespace: namespace.name)))
    _namespaces(policy, author, checked, before)
    _left(policy, checked, before)
    _quotas(checked)
    _containers(checked)
    _loosened(author, checked, before)
    return checked


def _namespaces(policy: Policy, author: Rights, wish: Project, before: Project | None) -> None:
    if len(wish.namespaces) > MAX_NAMESPACES:
        raise PolicyRefused("namespaces", f"a project has at most {MAX_NAMESPACES} namespaces")
    taken = {
        namespace.name: other
        for other in policy.projects.values()
        if other.cluster_id == wish.cluster_id and other.id != wish.id
        for namespace in other.namespaces
    }
    held = {namespace.name: namespace for namespace in before.namespaces} if before is not None else {}
    seen: set[str] = set()
    for namespace in wish.namespaces:
        name = namespace.name
        if _LABEL.fullmatch(name) is None:
            raise PolicyRefused("namespaces", f"{name!r} is no name of a namespace (1 to 63 of a-z, 0-9 and -)")
        if is_system(name):
            raise PolicyRefused(
                "namespaces",
                f"{name!r} belongs to the cluster or to its agent and can be in no project",
                hint="default, kube-*, mooring and mooring-* stay with those who administer the cluster",
            )
        if name in seen:
            raise PolicyRefused("namespaces", f"the namespace {name!r} stands there twice")
        seen.add(name)
        if name in taken:
            raise PolicyRefused(
                "namespaces",
                f"the namespace {name!r} is in the project {taken[name].name!r}; it can be in one only",
                hint="take it out there first",
            )
        known = held.get(name)
        if known is None and not namespace.create:
            adoption(policy, author, wish, name)
        elif known is not None and known.create != namespace.create:
            if namespace.create:
                raise PolicyRefused("namespaces", f"the namespace {name!r} was there before; it cannot become ours")
            adoption(policy, author, wish, name)


def adoption(policy: Policy, author: Rights, wish: Project, namespace: str) -> None:
    """Whether the author may take a namespace that is there already into the project, also from another one: who takes
    it in gives it to all the project's people. Raises PolicyRefused."""
    given = list(flatten(policy.templates, builtin.template_id(builtin.PROJECT_OWNER)).rules)
    external = False
    for binding in policy.bindings.values():
        if binding.kind == "project" and binding.project_id == wish.id:
            flat = flatten(policy.templates, binding.role_id)
            given.extend(flat.rules)
            external = external or bool(flat.externals)
    wanted = rules.EVERYTHING[:1] if external else rules.normal(rules.kube(given))
    lacking = rules.uncovered(author.kube_rules(cluster=wish.cluster_id), wanted)
    if lacking is not None:
        raise PolicyRefused(
            "namespaces",
            f"the namespace {namespace!r} would be given to the people of the project, and you do not hold in the "
            f"whole cluster what they may do: {rules.text(lacking)}",
            lacking,
            hint="let a cluster owner take it in, or have a new one made (create)",
        )


def _left(policy: Policy, wish: Project, before: Project | None) -> None:
    """A namespace leaves the project: its service accounts must not keep what they were given here."""
    if before is None:
        return
    gone = {namespace.name for namespace in before.namespaces} - {namespace.name for namespace in wish.namespaces}
    if not gone:
        return
    for binding in policy.bindings.values():
        if binding.kind != "project" or binding.project_id != wish.id:
            continue
        for subject in binding.subjects:
            if subject.kind == "serviceaccount" and subject.namespace in gone:
                raise PolicyRefused(
                    "namespaces",
                    f"the binding {binding.name!r} names the service account {subject.namespace}/{subject.name}",
                    hint="take it out of the binding before its namespace leaves the project",
                )


def _quotas(wish: Project) -> None:
    whole = amounts(wish.quota, "quota")
    default = amounts(wish.namespace_quota, "namespace_quota")
    sums: dict[str, Fraction] = dict.fromkeys(whole, Fraction(0))
    for namespace in wish.namespaces:
        own = amounts(namespace.quota, f"namespaces.{namespace.name}.quota")
        has = {**default, **own}
        for name in whole:
            if name not in has:
                raise PolicyRefused(
                    f"namespaces.{namespace.name}.quota",
                    f"the project has a quota of {name}, and the namespace {namespace.name!r} has none",
                    hint=f"give it one, or set {name} in namespace_quota",
                )
            sums[name] += has[name]
    for name, total in sums.items():
        if total > whole[name]:
            raise PolicyRefused(
                "quota",
                f"the namespaces together have {shown(total)} of {name}, and the project has {shown(whole[name])}",
                hint="lower the quotas of the namespaces, or have the project's raised",
            )


def namespace_quota(wish: Project, namespace: ProjectNamespace) -> Mapping[str, str]:
    """What the namespace's quota is: the project's default, with what the namespace has of its own on top."""
    own = {quantity.resource(name) for name in namespace.quota}
    default = {name: value for name, value in wish.namespace_quota.items() if quantity.resource(name) not in own}
    return {**default, **namespace.quota}


def amounts(quota: Mapping[str, str], field: str) -> dict[str, Fraction]:
    """A quota as numbers, by the one name that each resource has. Raises PolicyRefused."""
    if len(quota) > MAX_QUOTA:
        raise PolicyRefused(field, f"a quota has at most {MAX_QUOTA} resources")
    found: dict[str, Fraction] = {}
    for name, value in quota.items():
        try:
            resource, number = quantity.resource(name), quantity.parse(value)
        except quantity.BadQuantity as error:
            raise PolicyRefused(f"{field}.{name}", error.reason, hint=error.hint) from None
        if resource in found:
            raise PolicyRefused(f"{field}.{name}", f"{resource} stands there twice, by two of its names")
        found[resource] = number
    return found


def shown(number: Fraction) -> str:
    """A quantity for people: a whole number, or thousandths, or the fraction."""
    if number.denominator == 1:
        return str(number.numerator)
    thousand = number * 1000
    return f"{thousand.numerator}m" if thousand.denominator == 1 else f"{(number * 10**9).numerator}n"


def _containers(wish: Project) -> None:
    numbers: list[dict[str, Fraction]] = []
    for field, wanted in (
        ("container_limits", wish.container_limits),
        ("container_requests", wish.container_requests),
    ):
        if len(wanted) > MAX_QUOTA:
            raise PolicyRefused(field, f"at most {MAX_QUOTA} resources can stand there")
        found = {}
        for name, value in wanted.items():
            try:
                found[quantity.container_resource(name)] = quantity.parse(value)
            except quantity.BadQuantity as error:
                raise PolicyRefused(f"{field}.{name}", error.reason, hint=error.hint) from None
        numbers.append(found)
    limits, requests = numbers
    for name, number in requests.items():
        if name in limits and number > limits[name]:
            raise PolicyRefused(
                f"container_requests.{name}",
                f"a container would ask for {wish.container_requests[name]} of {name} and be limited to "
                f"{wish.container_limits[name]}",
            )


def _loosened(author: Rights, wish: Project, before: Project | None) -> None:
    """What keeps the project's owner within bounds is not the owner's to loosen."""
    if before is not None and _raised(before, wish) and not author.may("update", "projects", cluster=wish.cluster_id):
        raise PolicyRefused(
            "quota",
            "the quota of a project is raised or taken away only by those who may update projects of the cluster",
            hint="ask a cluster owner",
        )
    old = before.pod_security if before is not None else None
    if wish.pod_security in (old, "restricted") or old == "privileged":
        return
    # No level of ours is the level of the cluster, which may be any: only to `restricted` is it a narrowing for sure.
    needed = Rule(verbs=("update",), api_groups=("",), resources=("namespaces",))
    if rules.uncovered(author.kube_rules(cluster=wish.cluster_id), (needed,)) is not None:
        raise PolicyRefused(
            "pod_security",
            "pod security is set to anything but restricted only by those who may update namespaces of the cluster: a "
            "pod without bounds reaches its node",
            needed,
            hint="ask a cluster owner",
        )


def _raised(before: Project, wish: Project) -> bool:
    after = amounts(wish.quota, "quota")
    return any(name not in after or after[name] > number for name, number in amounts(before.quota, "quota").items())
