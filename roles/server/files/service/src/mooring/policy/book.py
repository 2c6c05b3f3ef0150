# SPDX-License-Identifier: Apache-2.0
"""The policy in memory, and what each person may do by it: asked on every request to our API, at no query.

The store feeds it: `load` at start, `apply` after each commit. One event loop uses it; nothing in it waits. An answer
is kept until the policy or a cluster's labels change, or until a binding behind it ends, and the answers kept are
bounded, so that many users cost time and never memory.

It must not: grant what the store did not say, or be written to by anybody but the store's feed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

from mooring.policy import effective
from mooring.policy.effective import Flat, Labels, Rights, Who
from mooring.store.policies import Binding, Policy, PolicyDelta, Subject

KEPT: Final = 4096
"""People whose rights are kept ready at the same time."""

T = TypeVar("T")
_Key = tuple[str, str]  # kind and id of a subject


class Book:
    """The policy as it is now. `revision` counts what this book was fed; a store that counts gives its own number."""

    def __init__(self) -> None:
        self._policy = Policy()
        self._labels: Labels = {}
        self._revision = 0
        self._of: dict[_Key, set[str]] = {}  # subject -> ids of the bindings that it is in
        self._flats: dict[str, Flat] = {}
        self._kept: dict[Who, Rights] = {}

    @property
    def policy(self) -> Policy:
        """All of it; never changed in place, so that it may be kept while it is worked on."""
        return self._policy

    @property
    def labels(self) -> Labels:
        """Cluster id -> labels, never changed in place."""
        return self._labels

    @property
    def revision(self) -> int:
        """Greater after each change of the policy."""
        return self._revision

    def load(self, policy: Policy, labels: Labels, revision: int = 0) -> None:
        """Start from what the store holds."""
        self._policy = policy
        self._labels = {cluster: dict(found) for cluster, found in labels.items()}
        self._revision = revision or self._revision + 1
        self._of = {}
        for binding in policy.bindings.values():
            for key in _keys(binding.subjects):
                self._of.setdefault(key, set()).add(binding.id)
        self._forget()

    def apply(self, delta: PolicyDelta, revision: int | None = None) -> None:
        """Take over what a transaction changed."""
        before = self._policy
        for binding_id, binding in delta.bindings.items():
            old = before.bindings.get(binding_id)
            left, came = _difference(() if old is None else old.subjects, () if binding is None else binding.subjects)
            for key in left:
                held = self._of.get(key, set())
                held.discard(binding_id)
                if not held:
                    self._of.pop(key, None)
            for key in came:
                self._of.setdefault(key, set()).add(binding_id)
        self._policy = patched(before, delta)
        self._revision = self._revision + 1 if revision is None else revision
        self._forget()

    def set_labels(self, cluster_id: str, labels: Mapping[str, str] | None) -> None:
        """The labels of a cluster as they are now; None: the cluster is gone."""
        if self._labels.get(cluster_id) == labels:
            return
        changed = {key: value for key, value in self._labels.items() if key != cluster_id}
        if labels is not None:
            changed[cluster_id] = dict(labels)
        self._labels = changed
        self._forget()

    def rights(self, who: Who, now: float) -> Rights:
        """What `who` may do at the time `now` (Unix seconds)."""
        known = self._kept.get(who)
        if known is not None and now < known.until:
            return known
        if known is None and len(self._kept) >= KEPT:
            del self._kept[next(iter(self._kept))]  # the oldest answer; who asks on gets a new one
        known = effective.rights_by(self._policy, self.bindings_of(who), self._labels, now, self._flats)
        self._kept[who] = known
        return known

    def bindings_of(self, who: Who) -> list[Binding]:
        """The bindings that `who` is a subject of, by themselves or by a group, ended ones too; in the order of ids."""
        found: set[str] = set()
        if who.user_id:
            found |= self._of.get(("user", who.user_id), set())
        for group_id in who.group_ids:
            found |= self._of.get(("group", group_id), set())
        return [self._policy.bindings[binding_id] for binding_id in sorted(found)]

    def _forget(self) -> None:
        self._kept.clear()
        self._flats.clear()


def patched(policy: Policy, delta: PolicyDelta) -> Policy:
    """The policy with a change made to it, as a new value."""
    return Policy(
        global_roles=_patched(policy.global_roles, delta.global_roles),
        templates=_patched(policy.templates, delta.templates),
        projects=_patched(policy.projects, delta.projects),
        bindings=_patched(policy.bindings, delta.bindings),
    )


def _patched(held: Mapping[str, T], changed: Mapping[str, T | None]) -> Mapping[str, T]:
    if not changed:
        return held
    result = dict(held)
    for key, value in changed.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = value
    return result


def _keys(subjects: Sequence[Subject]) -> set[_Key]:
    return {(subject.kind, subject.id) for subject in subjects if subject.id}


def _difference(old: Sequence[Subject], new: Sequence[Subject]) -> tuple[set[_Key], set[_Key]]:
    """Who left and who came. Of a binding of many thousands one or two change at a time, so that what is the same at
    both ends is passed over. (A subject is in a binding once.)"""
    head = _same(zip(old, new, strict=False))
    tail = _same(zip(reversed(old[head:]), reversed(new[head:]), strict=False))
    before = _keys(old[head : len(old) - tail])
    after = _keys(new[head : len(new) - tail])
    return before - after, after - before


def _same(pairs: Iterable[tuple[Subject, Subject]]) -> int:
    """How many pairs are equal before the first that is not."""
    count = 0
    for a, b in pairs:
        if a is not b and a != b:
            break
        count += 1
    return count
