# SPDX-License-Identifier: Apache-2.0
"""Rules of Kubernetes' RBAC: what a rule allows, and whether some rules give all that others give.

Why: "grant only what you hold" is only as good as the comparison. It is made as the API server makes it, so that what
is accepted here is accepted there, and the other way round:

    allows     one request against rules: verb, group, resource (with subresource) and name, or verb and path
    uncovered  the parts of some rules that other rules do not give; a part is one verb, group, resource and name

`*` stands for all verbs, all groups, all resources (with their subresources). `*/scale` is the subresource of every
resource. `pods/*` is nothing special to Kubernetes and therefore refused here. A path may end in `*`. A rule without
names is wider than one with names, whatever names those are: a request without a name (list, create) fits it only.

It must not: know who holds a rule, or where it applies.

Source: https://kubernetes.io/docs/reference/access-authn-authz/rbac/
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from mooring.lib.errors import MooringError
from mooring.store.policies import OWN_GROUP, Rule

ALL: Final = "*"
MAX_RULES: Final = 200
"""Rules of one role, before inheritance."""
MAX_ITEMS: Final = 200
"""Entries of one list of a rule."""
MAX_PARTS: Final = 10_000
"""Parts (verb, group, resource, name) that one role's rules come to."""
MAX_NAME: Final = 253
MAX_URL: Final = 1024

Kind = Literal["own", "cluster", "project"]
"""What rules are for: our API only; a cluster (Kubernetes and our API there); a project (no paths)."""

_VERB: Final = re.compile(r"[a-z]{1,63}|\*", re.ASCII)
_GROUP: Final = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?|\*", re.ASCII)
_RESOURCE: Final = re.compile(
    r"\*|(\*/)?[a-z0-9]([a-z0-9.-]{0,252})|[a-z0-9][a-z0-9.-]{0,252}/[a-z0-9][a-z0-9.-]{0,252}"
)
_URL: Final = re.compile(r"\*|/[A-Za-z0-9._~!$&'()+,;=:@%/-]*\*?", re.ASCII)


class PolicyRefused(MooringError):
    """A change of the policy is refused. `field` names what is wrong in the request, `rule` the rule that is too much
    (or None), as one part: one verb on one resource."""

    def __init__(self, field: str, reason: str, rule: Rule | None = None, hint: str = "") -> None:
        super().__init__(reason, hint)
        self.field = field
        self.rule = rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """A request: on a resource (`name` is empty for list and create), or on a `path` that is no resource."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""
    path: str = ""


def is_own(rule: Rule) -> bool:
    """Whether the rule is on our own API. (The group `*` is all groups of Kubernetes and never ours.)"""
    return rule.api_groups == (OWN_GROUP,)


def own(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules on our own API."""
    return tuple(rule for rule in rules if is_own(rule))


def kube(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules that are Kubernetes'."""
    return tuple(rule for rule in rules if not is_own(rule))


EVERYTHING: Final = (
    Rule(verbs=(ALL,), api_groups=(ALL,), resources=(ALL,)),
    Rule(verbs=(ALL,), non_resource_urls=(ALL,)),
)
"""All that Kubernetes' RBAC can give, as `cluster-admin` has it."""


# --- what a rule allows ---------------------------------------------------------------------------------------------


def allows(rules: Iterable[Rule], asked: Attributes) -> bool:
    """Whether one of the rules allows the request."""
    return first(rules, asked) is not None


def first(rules: Iterable[Rule], asked: Attributes) -> Rule | None:
    """The first rule that allows the request, or None."""
    for rule in rules:
        if ALL not in rule.verbs and asked.verb not in rule.verbs:
            continue
        if asked.path:
            if any(_url_covers(url, asked.path) for url in rule.non_resource_urls):
                return rule
        elif (
            (ALL in rule.api_groups or asked.group in rule.api_groups)
            and _resource_allows(rule.resources, asked.resource, asked.subresource)
            and (not rule.resource_names or asked.name in rule.resource_names)
        ):
            return rule
    return None


def _resource_allows(resources: Sequence[str], resource: str, subresource: str) -> bool:
    if ALL in resources:
        return bool(resource)
    if not subresource:
        return resource in resources
    return f"{resource}/{subresource}" in resources or f"*/{subresource}" in resources


def _url_covers(holder: str, wanted: str) -> bool:
    if holder == wanted:
        return True
    return holder.endswith(ALL) and wanted.startswith(holder.rstrip(ALL))


# --- whether rules give what others give ----------------------------------------------------------------------------


def covers(holder: Iterable[Rule], wanted: Iterable[Rule]) -> bool:
    """Whether `holder` gives all that `wanted` gives."""
    return next(missing(holder, wanted), None) is None


def uncovered(holder: Iterable[Rule], wanted: Iterable[Rule]) -> Rule | None:
    """The first part of `wanted` that `holder` does not give, as a rule of one verb on one thing; or None."""
    return next(missing(holder, wanted), None)


def missing(holder: Iterable[Rule], wanted: Iterable[Rule]) -> Iterator[Rule]:
    """The parts of `wanted` that `holder` does not give. Rules without a part (no verbs, no resources) give nothing."""
    holders = [(rule, frozenset(rule.verbs), frozenset(rule.resource_names)) for rule in holder]
    for rule in wanted:
        if any(_whole(held, rule) for held, _unused, _names in holders):
            continue
        for verb in rule.verbs:
            of_verb = [h for h in holders if ALL in h[1] or verb in h[1]]
            for group in rule.api_groups:
                of_group = [h for h in of_verb if _has(h[0].api_groups, group)]
                for resource in rule.resources:
                    fit = [h for h in of_group if _resource_covers(h[0].resources, resource)]
                    if any(not names for _rule, _verbs, names in fit):
                        continue
                    for name in rule.resource_names or ("",):
                        if not name or not any(name in names for _rule, _verbs, names in fit):
                            yield Rule(
                                verbs=(verb,),
                                api_groups=(group,),
                                resources=(resource,),
                                resource_names=(name,) if name else (),
                            )
            for url in rule.non_resource_urls:
                if not any(_url_covers(held, url) for h in of_verb for held in h[0].non_resource_urls):
                    yield Rule(verbs=(verb,), non_resource_urls=(url,))


def _whole(held: Rule, wanted: Rule) -> bool:
    """Whether one rule covers another without looking at its parts: the usual case, quickly."""
    return (
        (ALL in held.verbs or set(wanted.verbs) <= set(held.verbs))
        and all(_has(held.api_groups, group) for group in wanted.api_groups)
        and all(_resource_covers(held.resources, resource) for resource in wanted.resources)
        and (
            not held.resource_names
            or (bool(wanted.resource_names) and set(wanted.resource_names) <= set(held.resource_names))
            or not wanted.resources
        )
        and all(any(_url_covers(url, path) for url in held.non_resource_urls) for path in wanted.non_resource_urls)
    )


def _has(entries: Sequence[str], value: str) -> bool:
    return ALL in entries or value in entries


def _resource_covers(held: Sequence[str], wanted: str) -> bool:
    if ALL in held or wanted in held:
        return True
    _unused, slash, subresource = wanted.partition("/")
    return bool(slash) and f"*/{subresource}" in held


# --- what may be written, and its normal form -----------------------------------------------------------------------


def text(rule: Rule) -> str:
    """A rule as one line for people: `create pods/exec`, `get secrets (named db)`, `update deployments.apps`."""
    verbs = ",".join(rule.verbs)
    if rule.non_resource_urls:
        return f"{verbs} {','.join(rule.non_resource_urls)}"
    groups = ",".join(rule.api_groups)
    dotted = "" if groups == "" else f".{groups}" if len(rule.api_groups) == 1 else f" of the groups {groups}"
    resources = ",".join(rule.resources)
    if len(rule.resources) == 1 and dotted.startswith("."):
        resource, slash, subresource = resources.partition("/")
        shown = f"{resource}{dotted}{slash}{subresource}"
    elif dotted.startswith("."):
        shown = f"{resources} of the group {groups}"
    else:
        shown = resources + dotted
    return f"{verbs} {shown}" + (f" (named {','.join(rule.resource_names)})" if rule.resource_names else "")


def normal(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The same rules in the one order that all have: lists sorted and without doubles, rules too."""
    return tuple(sorted({_normal(rule) for rule in rules}, key=_key))


def checked(rules: Iterable[Rule], field: str, kind: Kind) -> tuple[Rule, ...]:
    """Rules from outside, checked and in normal form. Raises PolicyRefused, with the place in `field`."""
    listed = list(rules)
    if len(listed) > MAX_RULES:
        raise PolicyRefused(field, f"{len(listed)} rules are too many; a role has at most {MAX_RULES}")
    parts = 0
    for number, rule in enumerate(listed):
        place = f"{field}[{number}]"
        _check(rule, place, kind)
        names = max(len(rule.resource_names), 1)
        parts += len(rule.verbs) * (len(rule.api_groups) * len(rule.resources) * names + len(rule.non_resource_urls))
    if parts > MAX_PARTS:
        raise PolicyRefused(
            field,
            f"the rules come to {parts} combinations of verb, group, resource and name; at most {MAX_PARTS} may be",
            hint="split the role, or use fewer names",
        )
    return normal(listed)


def _check(rule: Rule, place: str, kind: Kind) -> None:
    for entries, pattern, most, what in (
        (rule.verbs, _VERB, 63, "verbs"),
        (rule.api_groups, _GROUP, MAX_NAME, "api_groups"),
        (rule.resources, _RESOURCE, 2 * MAX_NAME, "resources"),
        (rule.resource_names, None, MAX_NAME, "resource_names"),
        (rule.non_resource_urls, _URL, MAX_URL, "non_resource_urls"),
    ):
        if len(entries) > MAX_ITEMS:
            raise PolicyRefused(f"{place}.{what}", f"{len(entries)} entries are too many; at most {MAX_ITEMS}")
        for entry in entries:
            if len(entry) > most:
                raise PolicyRefused(f"{place}.{what}", f"an entry is longer than {most} characters")
            if pattern is not None and pattern.fullmatch(entry) is None:
                raise PolicyRefused(f"{place}.{what}", _why(what, entry))
            if pattern is None and not _name_ok(entry):
                raise PolicyRefused(f"{place}.{what}", _why(what, entry))
    if not rule.verbs:
        raise PolicyRefused(f"{place}.verbs", "a rule has at least one verb")
    if rule.non_resource_urls:
        if rule.api_groups or rule.resources or rule.resource_names:
            raise PolicyRefused(
                f"{place}.non_resource_urls", "a rule is on resources or on paths, not on both; make two rules of it"
            )
        if kind == "project":
            raise PolicyRefused(
                f"{place}.non_resource_urls", "a project has no paths; only a cluster role can have them"
            )
        if kind == "own":
            raise PolicyRefused(f"{place}.non_resource_urls", "our API has resources only; name one")
        return
    if not rule.api_groups:
        raise PolicyRefused(f"{place}.api_groups", 'a rule on resources names its API groups ("" is the core group)')
    if not rule.resources:
        raise PolicyRefused(f"{place}.resources", "a rule names at least one resource or path")
    if OWN_GROUP in rule.api_groups and len(rule.api_groups) > 1:
        raise PolicyRefused(f"{place}.api_groups", f"{OWN_GROUP} stands alone; make a rule of its own for it")
    if kind == "own" and not is_own(rule):
        raise PolicyRefused(
            f"{place}.api_groups",
            f"these rules are on our own API: the group is {OWN_GROUP}",
            hint="rules of Kubernetes go into cluster_rules",
        )


def _why(what: str, entry: str) -> str:
    if what == "resources" and entry.endswith("/*"):
        return f"{entry!r} means nothing to Kubernetes: name the subresources, or use {entry[:-2]!r} and '*/...'"
    said = {
        "verbs": "a verb is lower-case letters, or *",
        "api_groups": "an API group is a lower-case domain name, empty (the core group), or *",
        "resources": "a resource is its lower-case plural, with /subresource if need be; or *, or */subresource",
        "resource_names": "a name has no control characters, no spaces at its ends and no *; there are no wildcards",
        "non_resource_urls": "a path begins with / and may end in *; * alone is all paths",
    }
    return f"{entry!r}: {said[what]}"


def _name_ok(entry: str) -> bool:
    # Names of objects are path segments; `*` is refused since who writes it believes that it means all.
    return bool(entry) and entry.isprintable() and entry.strip() == entry and ALL not in entry and "/" not in entry


def _normal(rule: Rule) -> Rule:
    return Rule(
        verbs=_sorted(rule.verbs),
        api_groups=_sorted(rule.api_groups),
        resources=_sorted(rule.resources),
        resource_names=_sorted(rule.resource_names),
        non_resource_urls=_sorted(rule.non_resource_urls),
    )


def _sorted(entries: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(set(entries)))


def _key(rule: Rule) -> tuple[tuple[str, ...], ...]:
    return rule.api_groups, rule.resources, rule.resource_names, rule.non_resource_urls, rule.verbs
