# SPDX-License-Identifier: Apache-2.0
"""From the objects that are in a cluster to those that shall be, in an order in which nobody has for a moment more than
the old or the new policy gives, and nobody loses for a moment what both give.

    for action, item in steps(have, want): apply(item) or delete(item)

Why: RBAC only adds up, so each right that holds at any moment comes from one binding and the role that it names. Roles
are named after their content and never change, so a binding always gives what the old or the new policy gives. What is
left is the order:

    1  what nobody wrote: a role or binding of ours that was edited, a binding whose time is over
    2  what is taken away and not replaced, before anything else: subjects leave bindings, bindings go
    3  namespaces, quotas, limits and network policies; then new roles; then new bindings and new subjects
    4  what is taken away and was replaced in step 3
    5  roles that nobody is bound to any more; then quotas, limits and network policies

Whether a subject's loss is replaced is asked of what step 3 adds for it in the same namespace or everywhere. A person
may be in a group, and only the server knows who is, so a group that gains something counts as a gain of every user
there, and a gain of anybody there as one of every group. This defers a loss at most to step 4; it never drops one.

It must not: talk to a cluster, or delete a namespace. Source: https://kubernetes.io/docs/reference/access-authn-authz/rbac/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Literal

Manifest = dict[str, Any]
Step = tuple[Literal["apply", "delete"], Manifest]
Key = tuple[str, str, str]
"""Kind, namespace (empty for an object of the cluster) and name."""
Subject = tuple[str, str, str]

EXPIRES_AT: Final = "mooring.fleet/expires-at"
"""The annotation of a binding that ends, with the time in RFC 3339."""

PHASES: Final = ("wrong", "losses", "around", "roles", "gains", "replaced", "old roles", "old around")
"""What the lists of `phases` are."""

_BINDINGS: Final = ("ClusterRoleBinding", "RoleBinding")
_ROLES: Final = ("ClusterRole", "Role")
_EVERYWHERE: Final = ""
_SUFFIXES: Final = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1), "k": Decimal("1e3"),
    "M": Decimal("1e6"), "G": Decimal("1e9"), "T": Decimal("1e12"), "P": Decimal("1e15"), "E": Decimal("1e18"),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40), "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}  # fmt: skip


def steps(have: Iterable[Manifest], want: Iterable[Manifest], now: float = 0.0) -> list[Step]:
    """What to apply (the whole object, by server-side apply) and delete, in order. Nothing, if all is as it shall be.

    `have` are the objects of ours that are in the cluster, as the API server gives them; `want` those that shall be,
    without bindings whose time is over at `now` (Unix seconds). An object may come twice: first without the subjects
    that lose, later as it shall be. The objects that were given are not changed.
    """
    return [step for phase in phases(have, want, now) for step in phase]


def phases(have: Iterable[Manifest], want: Iterable[Manifest], now: float = 0.0) -> list[list[Step]]:
    """The same as `steps`, in eight lists that come one after the other (see `PHASES`); the steps in each of them may
    be done at the same time. No list has an object twice."""
    return _Plan({key(item): item for item in have}, {key(item): item for item in want}, now).phases()


def key(item: Mapping[str, Any]) -> Key:
    """What identifies an object among those of ours."""
    meta = item["metadata"]
    return item["kind"], meta.get("namespace", _EVERYWHERE), meta["name"]


def same(have: Mapping[str, Any], want: Mapping[str, Any]) -> bool:
    """Whether an object in the cluster is as it shall be: what others added to its labels or annotations, and what the
    API server fills in or spells otherwise (`1000m` as `1`), makes no difference."""
    for part in ("labels", "annotations"):
        if not _within(want["metadata"].get(part) or {}, have["metadata"].get(part) or {}):
            return False
    if want["kind"] in _ROLES:
        return _rules(have) == _rules(want) and not have.get("aggregationRule")
    if want["kind"] in _BINDINGS:
        return _role_of(have) == _role_of(want) and subjects(have) == subjects(want)
    return _within(want.get("spec") or {}, have.get("spec") or {})


def subjects(binding: Mapping[str, Any]) -> frozenset[Subject]:
    """The subjects of a binding: kind, namespace and name."""
    return frozenset(_subject(item) for item in binding.get("subjects") or ())


def expires_at(item: Mapping[str, Any]) -> float | None:
    """When a binding ends, in Unix seconds; None if it does not. One that says it in a way that nobody can read has
    ended: raises nothing, gives 0."""
    text = (item["metadata"].get("annotations") or {}).get(EXPIRES_AT)
    if text is None:
        return None
    try:
        parsed = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return 0.0
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


@dataclass(slots=True)
class _Gains:
    """Who gains something in step 3, and where."""

    by_subject: dict[Subject, set[str]] = field(default_factory=dict)
    by_group: set[str] = field(default_factory=set)
    by_any: set[str] = field(default_factory=set)

    def add(self, who: Subject, where: str) -> None:
        self.by_subject.setdefault(who, set()).add(where)
        self.by_any.add(where)
        if who[0] == "Group":
            self.by_group.add(where)

    def replaces(self, who: Subject, where: str) -> bool:
        """Whether what `who` loses `where` may be something that it also gains."""
        if _meet(self.by_subject.get(who), where):
            return True
        if who[0] == "Group":
            return _meet(self.by_any, where)
        return who[0] == "User" and _meet(self.by_group, where)


class _Plan:
    def __init__(self, have: dict[Key, Manifest], want: dict[Key, Manifest], now: float) -> None:
        self._have = have
        self._want = want
        self._now = now
        self._wrong: list[Step] = []
        self._losses: list[Step] = []
        self._around: list[Step] = []
        self._roles: list[Step] = []
        self._gains: list[Step] = []
        self._replaced: list[Step] = []
        self._old_roles: list[Step] = []
        self._old_around: list[Step] = []

    def phases(self) -> list[list[Step]]:
        self._foreign()
        gains = self._find_gains()
        for at in sorted(self._have.keys() | self._want.keys()):
            kind = at[0]
            if kind in _BINDINGS:
                self._binding(at, gains)
            else:
                self._other(at)
        return [
            self._wrong, self._losses, self._around, self._roles, self._gains, self._replaced, self._old_roles,
            self._old_around,
        ]  # fmt: skip

    def _foreign(self) -> None:
        """What neither policy gives goes first, and counts as not being there from then on."""
        for at, item in sorted(self._have.items()):
            wanted = self._want.get(at)
            over = at[0] in _BINDINGS and wanted is None and _is_over(item, self._now)
            turned = at[0] in _BINDINGS and wanted is not None and _role_of(item) != _role_of(wanted)
            if over or turned:  # what a binding binds to cannot be changed
                self._wrong.append(("delete", item))
                del self._have[at]

    def _find_gains(self) -> _Gains:
        gains = _Gains()
        for at, item in self._want.items():
            if at[0] not in _BINDINGS:
                continue
            gained = subjects(item)
            if at in self._have and not self._is_new_role(item, at[1]):
                gained -= subjects(self._have[at])
            for who in gained:
                gains.add(who, at[1])
        return gains

    def _is_new_role(self, binding: Manifest, namespace: str) -> bool:
        """Whether the role that it names is one of those that shall be, and is not there yet."""
        kind, name = _role_of(binding)
        at = (kind, namespace if kind == "Role" else _EVERYWHERE, name)
        return at in self._want and at not in self._have

    def _other(self, at: Key) -> None:
        have, want = self._have.get(at), self._want.get(at)
        role = at[0] in _ROLES
        if want is None:
            if have is not None and at[0] != "Namespace":
                (self._old_roles if role else self._old_around).append(("delete", have))
        elif have is None:
            (self._roles if role else self._around).append(("apply", want))
        elif not same(have, want):
            # A role's name says what is in it: one that differs was edited by somebody else.
            (self._wrong if role else self._around).append(("apply", want))

    def _binding(self, at: Key, gains: _Gains) -> None:
        have, want = self._have.get(at), self._want.get(at)
        if have is None:
            if want is not None:
                self._gains.append(("apply", want))
            return
        if want is not None and same(have, want):
            return
        before, after = subjects(have), subjects(want) if want is not None else frozenset()
        lost = before - after
        replaced = {who for who in lost if gains.replaces(who, at[1])}
        final: Step = ("apply", want) if want is not None else ("delete", have)
        if not replaced:
            # Nobody gains by coming early: the role is there, since the binding is.
            (self._losses if lost else self._gains).append(final)
            return
        base = want if want is not None else have
        if lost - replaced:
            self._losses.append(("apply", _with(base, before - (lost - replaced), have)))
        if after - before and want is not None:
            self._gains.append(("apply", _with(want, after | replaced, have)))
        self._replaced.append(final)


def _with(base: Manifest, who: frozenset[Subject] | set[Subject], other: Manifest) -> Manifest:
    """The binding with these subjects, in one order, without what only the API server writes."""
    known = {_subject(item): item for source in (other, base) for item in source.get("subjects") or ()}
    meta = base["metadata"]
    kept = {part: meta[part] for part in ("name", "namespace", "labels", "annotations") if part in meta}
    return {
        "apiVersion": base["apiVersion"],
        "kind": base["kind"],
        "metadata": kept,
        "roleRef": base["roleRef"],
        "subjects": [known[item] for item in sorted(who)],
    }


def _is_over(item: Manifest, now: float) -> bool:
    end = expires_at(item)
    return end is not None and end <= now


def _meet(places: set[str] | None, where: str) -> bool:
    """Whether something in one of these namespaces (or everywhere) may give the same as something `where`."""
    if not places:
        return False
    return where == _EVERYWHERE or where in places or _EVERYWHERE in places


def _subject(item: Mapping[str, Any]) -> Subject:
    return item["kind"], item.get("namespace") or "", item["name"]


def _role_of(binding: Mapping[str, Any]) -> tuple[str, str]:
    return binding["roleRef"]["kind"], binding["roleRef"]["name"]


def _rules(role: Mapping[str, Any]) -> list[dict[str, list[str]]]:
    return [{part: values for part, values in rule.items() if values} for rule in role.get("rules") or ()]


def _within(want: Any, have: Any) -> bool:
    """Whether all that is wanted is there, whatever else is."""
    if isinstance(want, Mapping):
        return isinstance(have, Mapping) and all(
            name in have and _within(value, have[name]) for name, value in want.items()
        )
    if isinstance(want, list):
        return isinstance(have, list) and len(want) == len(have) and all(map(_within, want, have))
    if want == have:
        return True
    number = _quantity(want)
    return number is not None and number == _quantity(have)


def _quantity(value: Any) -> Decimal | None:
    """A Kubernetes quantity as a number; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    text = str(value)
    bare = text.rstrip("numkMGTPEi")
    try:
        return Decimal(bare) * _SUFFIXES[text[len(bare) :]]
    except (InvalidOperation, KeyError):
        # `1E3` is an exponent, `1E` a suffix: what is left is no number with a suffix of ours.
        try:
            return Decimal(text)
        except InvalidOperation:
            return None
