# SPDX-License-Identifier: Apache-2.0
"""Subjects of many bindings, as Kubernetes has them, in lists of at most `CHUNK`.

Why: an object of a cluster has a bound (etcd takes 1.5 MiB), so 60,000 users of one role stand in several bindings.
They are told apart by the bits of a hash of the subject's name: a list that is too long is split in two by the next
bit. So who stands where follows from the names alone, one more subject changes one list only, and a split never moves
anybody from one object that stays to another that stays.

It must not: look anybody up, or give Kubernetes a user or group whose name begins with `system:`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from itertools import compress
from operator import attrgetter, itemgetter
from typing import Any, Final

from mooring.store.policies import Subject

CHUNK: Final = 1000
"""Subjects of one binding in a cluster, at most."""

_BYTES: Final = 8
_BITS: Final = 8 * _BYTES
_RBAC: Final = "rbac.authorization.k8s.io"
_KIND: Final = attrgetter("kind")
_ID: Final = attrgetter("id")
_NAME: Final = attrgetter("name")

Other = tuple[str, str, str]
"""A group or service account: its kind as Kubernetes says it, its namespace, and its name there."""
_Entry = tuple[bytes, dict[str, str]]
_Chunks = list[tuple[str, list[dict[str, str]]]]


@dataclass(slots=True)
class People:
    """Who stands in one or more bindings, each once: ids of users, and all others."""

    users: set[str] = field(default_factory=set)
    others: set[Other] = field(default_factory=set)


class Subjects:
    """The subjects of one rendering. `left_out` are ids of users that get nothing: disabled, or not known any more.

    Users are many, and the same ones stand in many bindings: they are hashed and sorted once (`know`), and what is done
    with them for each binding is done by C.
    """

    def __init__(self, prefix: str, left_out: Set[str]) -> None:
        self._prefix = prefix
        self._left_out = left_out
        self._names: dict[str, str] = {}  # id of a user -> name in the cluster
        self._users: dict[str, _Entry] = {}
        self._order: list[str] = []
        self._entries: list[_Entry] = []
        self._everybody: _Chunks | None = None

    def add(self, people: People, subjects: Sequence[Subject], accounts: bool) -> None:
        """Put these to `people`; service accounts only if `accounts`."""
        is_user = list(map("user".__eq__, map(_KIND, subjects)))
        users = subjects if all(is_user) else list(compress(subjects, is_user))
        ids = set(map(_ID, users))
        if not ids <= self._names.keys():
            self._names.update(zip(map(_ID, users), map(self._prefix.__add__, map(_NAME, users)), strict=True))
        ids.difference_update(self._left_out)
        ids.discard("")  # of nobody whom the server knows
        if people.users:
            people.users |= ids
        else:
            people.users = ids
        for subject in subjects if len(users) < len(subjects) else ():
            if subject.kind == "group" and not _is_kubernetes_own(self._prefix + subject.name):
                people.others.add(("Group", "", self._prefix + subject.name))
            elif subject.kind == "serviceaccount" and accounts:
                people.others.add(("ServiceAccount", subject.namespace, subject.name))

    def know(self, everybody: Collection[People]) -> None:
        """What must be called before `chunks`, with all that it will be asked for."""
        found = set[str]().union(*(people.users for people in everybody))
        refused = {user for user in found if _is_kubernetes_own(self._names[user])}
        for people in everybody if refused else ():
            people.users -= refused
        for user in found - refused:
            name = self._names[user]
            self._users[user] = (_hash(name), {"apiGroup": _RBAC, "kind": "User", "name": name})
        ordered = sorted(self._users.items(), key=_hash_of)
        self._order = [user for user, _entry in ordered]
        self._entries = [entry for _user, entry in ordered]

    def chunks(self, people: People) -> _Chunks:
        """The lists, each with the bits that tell it apart (none if there is one list only)."""
        if not people.others and len(people.users) == len(self._order):
            if self._everybody is None:  # many roles may be bound to all of them
                self._everybody = self._split(self._entries)
            return self._everybody
        entries = self._sorted_users(people.users)
        if people.others:
            entries = sorted(entries + [_other(other) for other in people.others], key=itemgetter(0))
        return self._split(entries)

    def _split(self, entries: list[_Entry]) -> _Chunks:
        hashes = list(map(itemgetter(0), entries))
        found: _Chunks = []
        todo = [("", 0, len(entries), 0)]  # bits, from, to, the lowest hash
        while todo:
            bits, start, end, lowest = todo.pop()
            if end - start <= CHUNK or len(bits) == _BITS:
                if end > start:
                    chunk = list(map(itemgetter(1), entries[start:end]))
                    found.append((bits, chunk if bits else sorted(chunk, key=_by_name)))
                continue
            half = lowest + (1 << (_BITS - 1 - len(bits)))
            middle = bisect_left(hashes, half.to_bytes(_BYTES), start, end)
            todo += [(bits + "1", middle, end, half), (bits + "0", start, middle, lowest)]
        return found

    def _sorted_users(self, ids: set[str]) -> list[_Entry]:
        if len(ids) * 8 < len(self._order):
            return sorted([self._users[user] for user in ids], key=itemgetter(0))
        return list(compress(self._entries, map(ids.__contains__, self._order)))


def rules_hash(value: Any) -> str:
    """Ten hexadecimal characters of the hash of what stands in `value`."""
    return sha256(repr(value).encode()).hexdigest()[:10]


def _other(other: Other) -> _Entry:
    kind, namespace, name = other
    hashed = _hash("\0".join(other))
    if kind == "ServiceAccount":
        return hashed, {"kind": kind, "name": name, "namespace": namespace}
    return hashed, {"apiGroup": _RBAC, "kind": kind, "name": name}


def _hash_of(item: tuple[str, _Entry]) -> bytes:
    return item[1][0]


def _by_name(subject: dict[str, str]) -> Other:
    return subject["kind"], subject.get("namespace", ""), subject["name"]


def _hash(name: str) -> bytes:
    return blake2b(name.encode(), digest_size=_BYTES).digest()


def _is_kubernetes_own(name: str) -> bool:
    return name.startswith("system:")
