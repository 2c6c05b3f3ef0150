# SPDX-License-Identifier: Apache-2.0
"""What the bodies of roles, projects and bindings share: rules, quantities, subjects and times.

Here a body becomes values of `store.policies`, sorted and bounded. Whether they may be written is not decided here:
`policy.check` does that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from mooring.api.common import Input, Output, check_ref, check_text, named_all
from mooring.api.problems import invalid
from mooring.store.policies import Rule, Subject
from mooring.store.ports import Transaction

MAX_SUBJECTS: Final = 10_000
MAX_QUANTITIES: Final = 64

Word = Annotated[str, Meta(min_length=1, max_length=253)]
Words = Annotated[list[Word], Meta(max_length=200)]
Urls = Annotated[list[Annotated[str, Meta(min_length=1, max_length=1024)]], Meta(max_length=200)]
Core = Annotated[list[Annotated[str, Meta(max_length=253)]], Meta(max_length=200)]  # "" is the core group
Quantities = dict[Word, Annotated[str, Meta(min_length=1, max_length=64)]]
Refs = Annotated[list[Word], Meta(max_length=MAX_SUBJECTS)]
Instant = Annotated[str, Meta(max_length=64, description="RFC 3339, such as 2026-01-31T08:00:00Z.")]


class RuleIn(Input):
    """A rule as Kubernetes has it (`rbac.authorization.k8s.io/v1`, PolicyRule)."""

    verbs: Words
    api_groups: Core = msgspec.field(default_factory=list)
    resources: Words = msgspec.field(default_factory=list)
    resource_names: Words = msgspec.field(default_factory=list)
    non_resource_urls: Urls = msgspec.field(default_factory=list)


Rules = Annotated[list[RuleIn], Meta(max_length=200)]


class RuleOut(Output):
    verbs: list[str]
    api_groups: list[str]
    resources: list[str]
    resource_names: list[str]
    non_resource_urls: list[str]


def rules_in(field: str, rules: Sequence[RuleIn]) -> tuple[Rule, ...]:
    """The rules of a body. Raises Problem (422) that names the rule."""
    return tuple(_rule(f"{field}[{position}]", rule) for position, rule in enumerate(rules))


def _rule(field: str, rule: RuleIn) -> Rule:
    def words(name: str, values: list[str]) -> tuple[str, ...]:
        for value in values:
            check_ref(f"{field}.{name}", value)
        return tuple(sorted(set(values)))

    return Rule(
        verbs=words("verbs", rule.verbs),
        api_groups=words("api_groups", rule.api_groups),
        resources=words("resources", rule.resources),
        resource_names=words("resource_names", rule.resource_names),
        non_resource_urls=words("non_resource_urls", rule.non_resource_urls),
    )


def rules_out(rules: Iterable[Rule]) -> list[RuleOut]:
    return [
        RuleOut(
            verbs=list(rule.verbs),
            api_groups=list(rule.api_groups),
            resources=list(rule.resources),
            resource_names=list(rule.resource_names),
            non_resource_urls=list(rule.non_resource_urls),
        )
        for rule in rules
    ]


def quantities(field: str, values: Mapping[str, str]) -> dict[str, str]:
    """Resource -> quantity, bounded; whether they are quantities is `policy.check`'s to say. Raises Problem (422)."""
    if len(values) > MAX_QUANTITIES:
        raise invalid(field, f"at most {MAX_QUANTITIES} resources are allowed")
    for key, value in values.items():
        check_ref(field, key)
        check_ref(f"{field}.{key}", value)
    return dict(sorted(values.items()))


def instant(field: str, text: str, now: float) -> float:
    """A time to come as Unix seconds. Raises Problem (422) for what is no time with a zone, or lies in the past."""
    try:
        when = datetime.fromisoformat(check_text(field, text))
    except ValueError:
        raise invalid(field, "is not a time as RFC 3339 has it, such as 2026-01-31T08:00:00Z") from None
    if when.tzinfo is None:
        raise invalid(field, "says no time zone; end it with Z for UTC")
    try:
        seconds = when.timestamp()
    except (OverflowError, ValueError):
        raise invalid(field, "is out of the range of times") from None
    if seconds <= now:
        raise invalid(field, "lies in the past")
    return seconds


async def subjects_in(
    tx: Transaction, users: Sequence[str], groups: Sequence[str], service_accounts: Sequence[str], prefix: str = ""
) -> list[Subject]:
    """The subjects that a body names, each once. `prefix` is of the fields' names (`add_`). Raises Problem (422)."""
    found: dict[Subject, None] = {}
    for user_id, name in await named_all(f"{prefix}users", "user", users, tx.users.named):
        found[Subject(kind="user", id=user_id, name=name)] = None
    for group_id, name in await named_all(f"{prefix}groups", "group", groups, tx.groups.named):
        found[Subject(kind="group", id=group_id, name=name)] = None
    for ref in service_accounts:
        namespace, slash, name = check_ref(f"{prefix}service_accounts", ref).partition("/")
        if not slash or not namespace or not name or "/" in name:
            raise invalid(f"{prefix}service_accounts", f"{ref!r} does not have the form namespace/name")
        found[Subject(kind="serviceaccount", name=name, namespace=namespace)] = None
    return list(found)


def subjects_out(subjects: Iterable[Subject]) -> tuple[list[str], list[str], list[str]]:
    """Users, groups and service accounts, as bodies name them."""
    lists: dict[str, list[str]] = {"user": [], "group": [], "serviceaccount": []}
    for subject in subjects:
        text = f"{subject.namespace}/{subject.name}" if subject.kind == "serviceaccount" else subject.name
        lists[subject.kind].append(text)
    return sorted(lists["user"]), sorted(lists["group"]), sorted(lists["serviceaccount"])
