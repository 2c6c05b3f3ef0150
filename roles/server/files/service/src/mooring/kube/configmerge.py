# SPDX-License-Identifier: Apache-2.0
"""Our entries into a kubeconfig that others use too.

    merge(existing, ours)    what the file holds, and a document of `kube.kubeconfig`

What is another's is never changed, not even when it has the name that ours wants: then nothing is merged at all. An
entry is ours if it bears our mark (`kube.kubeconfig.MARK`) with the URL of the same server. Of a cluster that the new
document has, our entries that it has no longer go away, unless a context of somebody else's uses them. What people
added to our entries stays: the namespace of a context, the `proxy-url` of a cluster, extensions of other programs.
Merging the same again changes nothing.

It must not: open files, or make up entries that neither document has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mooring.kube.kubeconfig import MARK

Entry = Mapping[str, Any]
Document = Mapping[str, Any]

SECTIONS: Final = {"clusters": "cluster", "users": "user", "contexts": "context"}
# Beside our own `certificate-authority-data` these would make a client trust another CA, or none.
_AGAINST_OURS: Final = frozenset({"certificate-authority", "certificate-authority-data", "insecure-skip-tls-verify"})


class CannotMerge(Exception):
    """The file is left as it is. The text says why, `hint` what to do."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.hint = hint


def merge(existing: Document | None, ours: Document, *, make_current: bool = False) -> dict[str, Any]:
    """The document with both. `make_current`: our current context becomes the file's; otherwise only if the file has
    none, or one of ours that is gone. Raises CannotMerge."""
    base: dict[str, Any] = dict(existing or {"preferences": {}})
    _check(base)
    base.setdefault("apiVersion", ours["apiVersion"])
    base.setdefault("kind", ours["kind"])
    url, clusters = _origin(ours)
    used = _used_by_others(base, url)
    before = {entry["name"] for entry in _entries(base, "contexts")}
    for section, kind in SECTIONS.items():
        base[section] = _section(_entries(base, section), ours[section], kind, url, clusters, used[section])
    now = {entry["name"] for entry in base["contexts"]}
    current = base.get("current-context") or ""
    if make_current or not current or (current in before and current not in now):
        current = ours["current-context"] or ("" if current not in now else current)
    base["current-context"] = current
    return base


def mark_of(entry: Entry, kind: str) -> tuple[str, str] | None:
    """(URL of the server, name of the cluster) of an entry that bears our mark; None: it is another's."""
    content = entry.get(kind)
    extensions = content.get("extensions") if isinstance(content, Mapping) else None
    for extension in extensions if isinstance(extensions, list) else ():
        if isinstance(extension, Mapping) and extension.get("name") == MARK:
            mark = extension.get("extension")
            if (
                isinstance(mark, Mapping)
                and isinstance(mark.get("server"), str)
                and isinstance(mark.get("cluster"), str)
            ):
                return mark["server"], mark["cluster"]
    return None


def _check(base: Document) -> None:
    """Raises CannotMerge unless this can be a kubeconfig."""
    repair = "repair it, or choose another file"
    if base.get("kind", "Config") != "Config" or base.get("apiVersion", "v1") != "v1":
        raise CannotMerge(f"it is no kubeconfig but a {base.get('kind')} of {base.get('apiVersion')}", repair)
    if not isinstance(base.get("current-context") or "", str):
        raise CannotMerge("its current-context is no string", repair)
    for section, kind in SECTIONS.items():
        entries = base.get(section)
        if entries is not None and not isinstance(entries, list):
            raise CannotMerge(f"its {section} are no list", repair)
        for number, entry in enumerate(entries or (), 1):
            if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
                raise CannotMerge(f"number {number} of its {section} has no name", repair)
            if not isinstance(entry.get(kind) or {}, Mapping):
                raise CannotMerge(f"{kind} {entry['name']!r} in it is no mapping", repair)


def _origin(ours: Document) -> tuple[str, set[str]]:
    """The server's URL and the clusters of a document of ours."""
    marks = {mark for entry in ours["contexts"] if (mark := mark_of(entry, "context")) is not None}
    return (next(iter(marks))[0] if marks else ""), {cluster for _unused, cluster in marks}


def _entries(base: Document, section: str) -> list[dict[str, Any]]:
    return list(base.get(section) or ())


def _used_by_others(base: Document, url: str) -> dict[str, set[str]]:
    """The names of clusters and users that a context uses that is not this server's."""
    used: dict[str, set[str]] = {section: set() for section in SECTIONS}
    for entry in _entries(base, "contexts"):
        mark = mark_of(entry, "context")
        if mark is None or mark[0] != url:
            content = entry.get("context") or {}
            used["clusters"].add(str(content.get("cluster")))
            used["users"].add(str(content.get("user")))
    return used


def _section(
    there: list[dict[str, Any]], ours: list[dict[str, Any]], kind: str, url: str, clusters: set[str], used: set[str]
) -> list[dict[str, Any]]:
    """One list of the file: what was there in its order, ours in its place or at the end."""
    new = {entry["name"]: entry for entry in ours}
    result = []
    for entry in there:
        name, mark = entry["name"], mark_of(entry, kind)
        mine = mark is not None and mark[0] == url
        if name in new and not mine:
            raise CannotMerge(
                f"the {kind} {name!r} in it is not from {url}",
                "rename it, or put something before our names with --prefix",
            )
        if name in new:
            result.append(_renewed(entry, new.pop(name), kind))
        elif not mine or name in used or (mark is not None and mark[1] not in clusters):
            result.append(entry)
    return [*result, *new.values()]


def _renewed(old: dict[str, Any], new: dict[str, Any], kind: str) -> dict[str, Any]:
    """The new entry, with what people and other programs added to the old one."""
    before = old.get(kind) or {}
    if kind == "user":
        kept: dict[str, Any] = {}
    elif kind == "cluster":
        kept = {key: value for key, value in before.items() if key not in _AGAINST_OURS}
    else:
        kept = dict(before)
    content = {**kept, **new[kind]}
    others = [
        extension
        for extension in before.get("extensions") or ()
        if not (isinstance(extension, Mapping) and extension.get("name") == MARK)
    ]
    content["extensions"] = [*new[kind]["extensions"], *others]
    made = {**old, **new, kind: content}
    return old if _said(made) == _said(old) else made


def _said(value: Any) -> Any:
    """A value without what is null, which kubectl writes where nothing was."""
    if isinstance(value, Mapping):
        return {key: _said(item) for key, item in value.items() if item is not None}
    return [_said(item) for item in value] if isinstance(value, list) else value
