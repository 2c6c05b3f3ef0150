# SPDX-License-Identifier: Apache-2.0
"""Who may do what: two naive evaluators that share no code with the service, and policies to ask them about.

    model_allows(policy, ...)      asks the model directly: every binding, every role, every rule
    objects_allow(objects, ...)    asks Kubernetes objects, as the API server's RBAC authorizer does

Source: https://kubernetes.io/docs/reference/access-authn-authz/rbac/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from mooring.store.policies import (
    Binding,
    GlobalRole,
    Policy,
    Project,
    ProjectNamespace,
    RoleTemplate,
    Rule,
    Subject,
)

PREFIX = "mooring:"
NOW = 1_700_000_000.0
HOME = "c-home"
AWAY = "c-away"
LABELS = {HOME: {"tier": "test"}, AWAY: {"tier": "prod"}}
USERS = ("ann", "bob", "cy", "dan")
GROUPS = ("devs", "ops")
ACCOUNTS = (("shop", "robot"), ("bank", "robot"))
SPACES = ("shop", "bank", "dock")
EXTERNAL: Mapping[str, tuple[Rule, ...]] = {
    "outside-reader": (Rule(verbs=("get", "list"), api_groups=("",), resources=("configmaps",)),),
}
MEMBERS = {"ann": ("devs",), "bob": ("devs", "ops"), "cy": (), "dan": ("ops",)}


@dataclass(frozen=True)
class Asker:
    """A user with groups, or a service account with its namespace; by names as they are on the server."""

    kind: str
    name: str
    namespace: str = ""
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Question:
    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""
    namespace: str = ""
    path: str = ""


def rule_allows(rule: Mapping[str, Any], asked: Question) -> bool:
    """One rule as Kubernetes spells it."""
    if not {"*", asked.verb} & set(rule["verbs"]):
        return False
    if asked.path:
        return any(
            url in ("*", asked.path) or (url.endswith("*") and asked.path.startswith(url[:-1]))
            for url in rule.get("nonResourceURLs", ())
        )
    if not {"*", asked.group} & set(rule.get("apiGroups", ())):
        return False
    fitting = {"*", f"{asked.resource}/{asked.subresource}" if asked.subresource else asked.resource}
    if asked.subresource:
        fitting.add(f"*/{asked.subresource}")
    if not fitting & set(rule.get("resources", ())):
        return False
    return not rule.get("resourceNames") or asked.name in rule["resourceNames"]


def spelled(rule: Rule) -> dict[str, Any]:
    return {
        "verbs": rule.verbs,
        "apiGroups": rule.api_groups,
        "resources": rule.resources,
        "resourceNames": rule.resource_names,
        "nonResourceURLs": rule.non_resource_urls,
    }


def model_allows(policy: Policy, cluster_id: str, who: Asker, asked: Question, disabled: Iterable[str] = ()) -> bool:
    """Whether the model gives `who` this in the cluster. `disabled` are names of users that are not
    bound by name; by a group they would be, but their requests are stopped at the server's door."""
    for binding in policy.bindings.values():
        if not any(_is(subject, who, binding, disabled) for subject in binding.subjects):
            continue
        if binding.expires_at is not None and binding.expires_at <= NOW:
            continue
        if binding.kind == "global":
            role = policy.global_roles[binding.role_id]
            fits = all(LABELS[cluster_id].get(k) == v for k, v in role.cluster_selector.items())
            if fits and _any(role.cluster_rules, asked):
                return True
            continue
        if binding.cluster_id != cluster_id:
            continue
        if binding.kind == "project":
            inside = {space.name for space in policy.projects[binding.project_id or ""].namespaces}
            if asked.path or asked.namespace not in inside:
                continue
        if _template_allows(policy, binding.role_id, asked, set()):
            return True
    return False


def _is(subject: Subject, who: Asker, binding: Binding, disabled: Iterable[str]) -> bool:
    if subject.kind == "user":
        return who.kind == "user" and subject.name == who.name and who.name not in disabled
    if subject.kind == "group":
        return who.kind == "user" and subject.name in who.groups
    return (
        binding.kind != "global"
        and who.kind == "serviceaccount"
        and (subject.namespace, subject.name) == (who.namespace, who.name)
    )


def _any(rules: Iterable[Rule], asked: Question) -> bool:
    """Of our own group Kubernetes is never told, whatever it is asked."""
    return any(rule.api_groups != ("mooring.fleet",) and rule_allows(spelled(rule), asked) for rule in rules)


def _template_allows(policy: Policy, template_id: str, asked: Question, seen: set[str]) -> bool:
    if template_id in seen:
        return False
    seen.add(template_id)
    template = policy.templates[template_id]
    rules = EXTERNAL[template.external] if template.external else template.rules
    return _any(rules, asked) or any(_template_allows(policy, one, asked, seen) for one in template.inherits)


def objects_allow(objects: Iterable[Mapping[str, Any]], who: Asker, asked: Question) -> bool:
    """Whether RBAC would allow it with these objects, and with the roles of `EXTERNAL`."""
    return any(rule_allows(rule, asked) for rule in _rules_of(list(objects), who, asked))


def _rules_of(objects: list[Mapping[str, Any]], who: Asker, asked: Question) -> Iterator[Mapping[str, Any]]:
    roles = {item["metadata"]["name"]: item["rules"] for item in objects if item["kind"] == "ClusterRole"}
    roles |= {name: [spelled(rule) for rule in rules] for name, rules in EXTERNAL.items()}
    for item in objects:
        if item["kind"] == "RoleBinding":
            if asked.path or item["metadata"]["namespace"] != asked.namespace:
                continue
        elif item["kind"] != "ClusterRoleBinding":
            continue
        if any(_names(subject, who) for subject in item.get("subjects", ())):
            yield from roles.get(item["roleRef"]["name"], ())


def _names(subject: Mapping[str, str], who: Asker) -> bool:
    if subject["kind"] == "ServiceAccount":
        return who.kind == "serviceaccount" and (subject["namespace"], subject["name"]) == (who.namespace, who.name)
    if subject["kind"] == "Group":
        return who.kind == "user" and subject["name"] in [PREFIX + group for group in who.groups]
    return who.kind == "user" and subject["name"] == PREFIX + who.name


# --- policies and questions at random -------------------------------------------------------------------------------

_VERBS = ("get", "list", "create", "delete", "*")
_GROUPS = ("", "apps", "*", "mooring.fleet")
_RESOURCES = ("pods", "pods/log", "configmaps", "deployments", "*/log", "*")
_NAMES = ("web", "db")
_URLS = ("/healthz", "/logs/*", "*")


def _some(values: tuple[Any, ...], least: int = 1) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.sets(st.sampled_from(values), min_size=least, max_size=2).map(lambda found: tuple(sorted(found)))


_rules = st.one_of(
    st.builds(
        Rule,
        verbs=_some(_VERBS),
        api_groups=st.sampled_from(_GROUPS).map(lambda group: (group,)),
        resources=_some(_RESOURCES),
        resource_names=st.one_of(st.just(()), _some(_NAMES)),
    ),
    st.builds(Rule, verbs=_some(_VERBS), non_resource_urls=_some(_URLS)),
)
_subjects = st.lists(
    st.one_of(
        st.sampled_from(USERS).map(lambda name: Subject(kind="user", id=f"u-{name}", name=name)),
        st.sampled_from(GROUPS).map(lambda name: Subject(kind="group", id=f"g-{name}", name=name)),
        st.sampled_from(ACCOUNTS).map(lambda at: Subject(kind="serviceaccount", namespace=at[0], name=at[1])),
    ),
    max_size=4,
    unique=True,
).map(tuple)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """A small policy for two clusters, with what can be in one: inheritance in circles too, which nobody may write."""
    times: dict[str, Any] = {"created_at": 0.0, "updated_at": 0.0}
    roles = {
        f"gr-{n}": GlobalRole(
            id=f"gr-{n}",
            name=f"world-{n}",
            cluster_rules=tuple(draw(st.lists(_rules, max_size=2))),
            cluster_selector=draw(st.sampled_from(({}, {"tier": "test"}, {"tier": "prod"}))),
            **times,
        )
        for n in range(draw(st.integers(0, 2)))
    }
    templates: dict[str, RoleTemplate] = {}
    for context in ("cluster", "project"):
        ids = [f"rt-{context}-{n}" for n in range(3)]
        for one in ids:
            templates[one] = RoleTemplate(
                id=one,
                name=one[3:],
                context=context,
                rules=tuple(draw(st.lists(_rules, max_size=2))),
                inherits=tuple(draw(st.lists(st.sampled_from(ids), max_size=1))),
                external=draw(st.sampled_from(("", "", "outside-reader"))),
                **times,
            )
    projects = {
        f"p-{cluster}-{n}": Project(
            id=f"p-{cluster}-{n}",
            name=f"project-{n}",
            cluster_id=cluster,
            cluster_name=cluster,
            namespaces=tuple(ProjectNamespace(name=name) for name in names),
            namespace_quota=draw(st.sampled_from(({}, {"pods": "5"}))),
            isolated=draw(st.booleans()),
            **times,
        )
        for cluster in (HOME, AWAY)
        for n, names in enumerate(draw(st.sampled_from(([SPACES[:2]], [SPACES[:1], SPACES[1:]], [(), SPACES]))))
    }
    bindings: dict[str, Binding] = {}
    kinds = [("cluster", None), ("project", None)] + ([("global", None)] if roles else [])
    for n in range(draw(st.integers(0, 6))):
        kind = draw(st.sampled_from(kinds))[0]
        cluster = draw(st.sampled_from((HOME, HOME, AWAY)))
        mine = sorted(one for one, project in projects.items() if project.cluster_id == cluster)
        bindings[f"b-{n}"] = Binding(
            id=f"b-{n}",
            kind=kind,  # type: ignore[arg-type]
            name=f"binding-{n}",
            role_id=draw(st.sampled_from(sorted(roles) if kind == "global" else [f"rt-{kind}-{i}" for i in range(3)])),
            role_name="",
            cluster_id=None if kind == "global" else cluster,
            project_id=draw(st.sampled_from(mine)) if kind == "project" else None,
            subjects=draw(_subjects),
            expires_at=draw(st.sampled_from((None, None, NOW - 1, NOW + 0.5, NOW + 60))),
            **times,
        )
    return Policy(roles, templates, projects, bindings)


@st.composite
def edits(draw: st.DrawFn) -> tuple[Policy, Policy]:
    """A policy before and after an edit: some of its roles and bindings are other ones."""
    old, new = draw(policies()), draw(policies())

    def some(before: Mapping[str, Any], after: Mapping[str, Any], gone: bool = False) -> dict[str, Any]:
        found = dict(before)
        for one in sorted(before.keys() | after.keys()):
            if draw(st.booleans()):
                if one in after:
                    found[one] = after[one]
                elif gone:
                    del found[one]
        return found

    projects = {**new.projects, **some(old.projects, new.projects)}
    roles = {**new.global_roles, **some(old.global_roles, new.global_roles)}
    return old, Policy(roles, some(old.templates, new.templates), projects, some(old.bindings, new.bindings, True))


def all_questions() -> list[Question]:
    """What tells most of these policies apart."""
    return [
        *(
            Question(verb, group, resource, subresource, name, namespace)
            for verb in ("get", "create")
            for group, resource, subresource in (("", "pods", ""), ("", "pods", "log"), ("apps", "deployments", ""))
            for name in ("", "web")
            for namespace in ("", *SPACES)
        ),
        *(Question("get", "", "configmaps", namespace=namespace) for namespace in ("", *SPACES)),
        *(Question("get", path=path) for path in ("/healthz", "/logs/x", "/version")),
    ]


def all_askers() -> list[Asker]:
    return [
        *(Asker("user", name, groups=MEMBERS[name]) for name in USERS),
        *(Asker("serviceaccount", name, namespace) for namespace, name in ACCOUNTS),
    ]
