# SPDX-License-Identifier: Apache-2.0
"""What somebody may do, by all the bindings that hold for them: the policy seen from one user.

    rights(policy, Who("u-...", ("g-...",)), labels, now).may("update", "projects", cluster="c-...")

There are rights on our own API (everywhere, in one cluster, in one project) and rules of Kubernetes that the person
holds in a cluster or in a project's namespaces. What holds everywhere holds in each cluster, what holds in a cluster
holds in each project of it. Bindings that have ended give nothing; `Rights.until` says when the next one ends.

It must not: grant by default, know requests, or know what an external ClusterRole holds: that gives nothing here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Final

from mooring.policy import rules
from mooring.store.policies import OWN_GROUP, Binding, GlobalRole, Policy, Project, RoleTemplate, Rule

_MEMO: Final = 2048
Labels = Mapping[str, Mapping[str, str]]
"""Cluster id -> its labels; the clusters that there are."""


@dataclass(frozen=True, slots=True)
class Who:
    """A user, and the groups that the user is in, by id."""

    user_id: str = ""
    group_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reach:
    """Where a right holds: everywhere, or in these clusters (with all their projects) and these projects, by id."""

    everywhere: bool = False
    clusters: frozenset[str] = frozenset()
    projects: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return self.everywhere or bool(self.clusters) or bool(self.projects)


@dataclass(frozen=True, slots=True)
class Flat:
    """A template with all that it inherits: its rules, and the external ClusterRoles that it stands for."""

    rules: tuple[Rule, ...] = ()
    externals: tuple[str, ...] = ()


class Rights:
    """What one person may do. Good until `until` (Unix seconds), as long as the policy does not change.

    `own`, `by_selector` are held everywhere: rules on our API, and Kubernetes' rules with the labels that a cluster
    must have. `clusters` and `projects` have what bindings there give: rules of both kinds, by id. `externals` are the
    ClusterRoles of the clusters' own, whose rules nobody knows here: (cluster, project or "", name).
    """

    __slots__ = ("_cluster_of", "_memo", "by_selector", "clusters", "externals", "labels", "own", "projects", "until")

    def __init__(
        self,
        *,
        own: tuple[Rule, ...] = (),
        by_selector: tuple[tuple[Mapping[str, str], tuple[Rule, ...]], ...] = (),
        clusters: Mapping[str, tuple[Rule, ...]] | None = None,
        projects: Mapping[str, tuple[Rule, ...]] | None = None,
        externals: tuple[tuple[str, str, str], ...] = (),
        labels: Labels | None = None,
        projects_known: Mapping[str, Project] | None = None,
        until: float = inf,
    ) -> None:
        self.own = own
        self.by_selector = by_selector
        self.clusters = clusters or {}
        self.projects = projects or {}
        self.externals = externals
        self.labels = labels or {}
        self.until = until
        self._cluster_of = projects_known or {}
        self._memo: dict[tuple[str, ...], bool] = {}

    # --- our own API ------------------------------------------------------------------------------------------------

    def may(self, verb: str, resource: str, *, cluster: str = "", project: str = "", name: str = "") -> bool:
        """Whether the person may do it on our API: everywhere, or in this cluster, or in this project (by id).

        `name` is the name of the object, for rules that are limited to some. A project that is not known is in no
        cluster, so that only what holds everywhere (or in `cluster`) counts.
        """
        key = (verb, resource, cluster, project, name)
        known = self._memo.get(key)
        if known is None:
            if len(self._memo) >= _MEMO:
                self._memo.clear()
            known = self._memo[key] = rules.allows(
                self.own_rules(cluster=cluster, project=project),
                rules.Attributes(verb=verb, group=OWN_GROUP, resource=resource, name=name),
            )
        return known

    def reach(self, verb: str, resource: str) -> Reach:
        """Where the person may do it on our API, whatever the object's name; to filter lists with."""
        asked = rules.Attributes(verb=verb, group=OWN_GROUP, resource=resource)
        if rules.allows(self.own, asked):
            return Reach(everywhere=True)
        clusters = {c for c in self._cluster_ids() if rules.allows(self.own_rules(cluster=c), asked)}
        projects = {p for p, held in self.projects.items() if rules.allows(rules.own(held), asked)}
        return Reach(clusters=frozenset(clusters), projects=frozenset(projects))

    def somewhere(self, verb: str, resource: str) -> bool:
        """Whether the person may do it on our API anywhere at all, on any name."""
        return any(
            (rules.ALL in rule.verbs or verb in rule.verbs)
            and (rules.ALL in rule.resources or resource in rule.resources)
            for _scope, rule in self.all_own()
        )

    def own_rules(self, *, cluster: str = "", project: str = "") -> tuple[Rule, ...]:
        """The rules on our API that hold everywhere, with those of a cluster, with those of a project."""
        return (*self.own, *rules.own(self._local(cluster, project)))

    def all_own(self) -> Iterator[tuple[str, Rule]]:
        """Each rule on our API with where it holds: "" (everywhere, or by labels), or a cluster's or project's id."""
        for rule in self.own:
            yield "", rule
        for _selector, held in self.by_selector:
            for rule in rules.own(held):
                yield "", rule
        for scope, held in (*self.clusters.items(), *self.projects.items()):
            for rule in rules.own(held):
                yield scope, rule

    # --- Kubernetes ---------------------------------------------------------------------------------------------------

    def kube_rules(self, *, cluster: str, project: str = "") -> tuple[Rule, ...]:
        """Kubernetes' rules that the person holds in the whole cluster, or in the namespaces of the project."""
        return rules.kube(self._local(cluster, project))

    def everywhere(self, selector: Mapping[str, str] | None = None) -> tuple[Rule, ...]:
        """Rules (of both kinds) held in all clusters that have these labels, also in those that are yet to come."""
        wanted = selector or {}
        return tuple(rule for held, given in self.by_selector if fits(held, wanted) for rule in given)

    def enters(self, cluster: str) -> bool:
        """Whether the person may use the proxy to the cluster: some binding reaches it, or the right `enter`."""
        return (
            cluster in self.clusters
            or bool(self._in_cluster(cluster))
            or any(self.cluster_of(project) == cluster for project in self.projects)
            or self.may("enter", "clusters", cluster=cluster)
        )

    def cluster_of(self, project: str) -> str:
        """The id of the project's cluster, or "" if there is no such project."""
        known = self._cluster_of.get(project)
        return "" if known is None else known.cluster_id

    # --- inside -------------------------------------------------------------------------------------------------------

    def _local(self, cluster: str, project: str) -> tuple[Rule, ...]:
        found: tuple[Rule, ...] = ()
        if project:
            known = self._cluster_of.get(project)
            if known is not None:
                cluster = known.cluster_id
                found = self.projects.get(project, ())
        return (*self._in_cluster(cluster), *found) if cluster else found

    def _in_cluster(self, cluster: str) -> tuple[Rule, ...]:
        # Of a cluster without labels, or one that is only being made, only an empty selector takes hold.
        return (*self.everywhere(self.labels.get(cluster)), *self.clusters.get(cluster, ()))

    def _cluster_ids(self) -> set[str]:
        return {*self.clusters, *self.labels} if self.by_selector else set(self.clusters)


def fits(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether the labels have all that the selector asks for. An empty selector takes everything."""
    return all(labels.get(key) == value for key, value in selector.items())


def flatten(templates: Mapping[str, RoleTemplate], template_id: str) -> Flat:
    """A template's rules with all that it inherits. A template that is not known gives nothing; a circle ends."""
    found: dict[Rule, None] = {}
    externals: dict[str, None] = {}
    for template in lineage(templates, template_id):
        if template.external:
            externals[template.external] = None
            found.update(dict.fromkeys(rules.own(template.rules)))
        else:
            found.update(dict.fromkeys(template.rules))
    return Flat(rules.normal(found), tuple(sorted(externals)))


def lineage(templates: Mapping[str, RoleTemplate], template_id: str) -> list[RoleTemplate]:
    """The template and all that it inherits from, each once, nearest first."""
    seen: dict[str, RoleTemplate] = {}
    waiting = [template_id]
    for current in waiting:
        template = templates.get(current)
        if template is not None and current not in seen:
            seen[current] = template
            waiting.extend(template.inherits)
    return list(seen.values())


def live(binding: Binding, now: float) -> bool:
    """Whether the binding has not ended at the time `now`."""
    return binding.expires_at is None or binding.expires_at > now


def holds_for(binding: Binding, who: Who) -> bool:
    """Whether the user or one of the groups is a subject of the binding."""
    for subject in binding.subjects:
        if subject.kind == "user":
            if subject.id and subject.id == who.user_id:
                return True
        elif subject.kind == "group" and subject.id and subject.id in who.group_ids:
            return True
    return False


def rights(policy: Policy, who: Who, labels: Labels, now: float) -> Rights:
    """What `who` may do at the time `now`. `labels` has the clusters with their labels.

    It looks at all bindings; `mooring.policy.book.Book` keeps the answer and looks at the person's own only.
    """
    return rights_by(policy, (b for b in policy.bindings.values() if holds_for(b, who)), labels, now)


def rights_by(
    policy: Policy,
    bindings: Iterable[Binding],
    labels: Labels,
    now: float,
    flats: dict[str, Flat] | None = None,
) -> Rights:
    """What somebody may do who is a subject of these bindings. `flats` keeps flattened templates between calls."""
    memo = {} if flats is None else flats
    own: dict[Rule, None] = {}
    by_selector: dict[str, tuple[Mapping[str, str], tuple[Rule, ...]]] = {}
    clusters: dict[str, dict[Rule, None]] = {}
    projects: dict[str, dict[Rule, None]] = {}
    externals: list[tuple[str, str, str]] = []
    until = inf
    for binding in bindings:
        if not live(binding, now):
            continue
        if binding.expires_at is not None:
            until = min(until, binding.expires_at)
        if binding.kind == "global":
            role = policy.global_roles.get(binding.role_id)
            if role is not None:
                own.update(dict.fromkeys(role.rules))
                if role.cluster_rules:
                    by_selector[role.id] = (role.cluster_selector, role.cluster_rules)
            continue
        flat = _flat(policy, binding.role_id, memo)
        project = policy.projects.get(binding.project_id or "")
        if binding.kind == "cluster" and binding.cluster_id:
            clusters.setdefault(binding.cluster_id, {}).update(dict.fromkeys(flat.rules))
            externals.extend((binding.cluster_id, "", name) for name in flat.externals)
        elif binding.kind == "project" and project is not None:
            projects.setdefault(project.id, {}).update(dict.fromkeys(flat.rules))
            externals.extend((project.cluster_id, project.id, name) for name in flat.externals)
    return Rights(
        own=tuple(own),
        by_selector=tuple(by_selector.values()),
        clusters={cluster: tuple(found) for cluster, found in clusters.items()},
        projects={project_id: tuple(found) for project_id, found in projects.items()},
        externals=tuple(externals),
        labels=labels,
        projects_known=policy.projects,
        until=until,
    )


def role_of(policy: Policy, binding: Binding) -> GlobalRole | RoleTemplate | None:
    """The role that a binding gives, or None if it is gone."""
    if binding.kind == "global":
        return policy.global_roles.get(binding.role_id)
    return policy.templates.get(binding.role_id)


def _flat(policy: Policy, template_id: str, memo: dict[str, Flat]) -> Flat:
    known = memo.get(template_id)
    if known is None:
        known = memo[template_id] = flatten(policy.templates, template_id)
    return known
