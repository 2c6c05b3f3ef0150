# SPDX-License-Identifier: Apache-2.0
"""The namespaces of projects: made where the project asks for it, labelled, and left when the project does.

It must not: take a namespace that a project asks to be made and somebody else made, or delete one. One that left its
project is somebody's: it comes into another only by who may take in a namespace that is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mooring.agent.policy.cluster import Cluster
from mooring.agent.policy.desired import Space
from mooring.agent.policy.kinds import MADE, NAMESPACE, Item, title
from mooring.agent.policy.report import Report
from mooring.kube.client import KubeError

PROJECT_LABEL = "mooring.fleet/project"


@dataclass(slots=True)
class There:
    """A namespace that is in the cluster. Of one that is nobody's project nothing is kept but that it is there."""

    uid: str = ""
    labels: Mapping[str, str] | None = None
    made: bool = False
    ours: bool = False
    ending: bool = False
    number: int = 0


_SOMEBODYS = There()


class Spaces:
    """Knows the cluster's namespaces, and sees to those of projects."""

    def __init__(self, cluster: Cluster, report: Report) -> None:
        self._cluster = cluster
        self._report = report
        self._there: dict[str, There] = {}
        self.desired: Mapping[str, Space] = {}

    def all(self) -> list[str]:
        """Those that are a project's, and those that were."""
        return [
            *self.desired,
            *(name for name, there in self._there.items() if there.ours and name not in self.desired),
        ]

    def holds(self, name: str) -> bool:
        """Whether a project's objects belong into it now: it is there, and not against its will."""
        there = self._there.get(name)
        return there is not None and not there.ending and name in self.desired and not self.conflict(name)

    def ending(self, name: str) -> bool:
        """Whether it is being deleted."""
        there = self._there.get(name)
        return there is not None and there.ending

    def conflict(self, name: str) -> bool:
        """Whether a project asks for it to be made, and somebody else made it."""
        wanted, there = self.desired.get(name), self._there.get(name)
        return wanted is not None and wanted.create and there is not None and not there.made

    def unsure(self) -> list[str]:
        """Those of projects that are yet to be made, or of which only the name is known."""
        found = []
        for name, wanted in self.desired.items():
            there = self._there.get(name)
            if (there is None and wanted.create) or (there is not None and not there.uid):
                found.append(name)
        return found

    async def see_to(self, name: str) -> bool:
        """Makes it if it shall be made, and puts our labels on it. Returns whether there was anything to do. Raises
        KubeError, FetchError, BadConfig."""
        wanted, there = self.desired.get(name), self._there.get(name)
        if there is not None and not there.uid:
            item = await self._cluster.space(name)  # it became a project's after it was seen
            if item is None:
                self._there.pop(name, None)
                there = None
            else:
                self._keep(item)
                there = self._there[name]
        if wanted is None:
            if there is not None and there.ours:
                if there.made:
                    # Else any other project could ask for it to be made, and have what the last one left in it.
                    await self._cluster.let_go(name, there.uid)
                self._keep(await self._cluster.label_space(name, there.uid, {}))
            return False
        made = False
        if there is None:
            if not wanted.create:
                return False
            try:
                self._keep(await self._cluster.make_space(name, wanted.labels.get(PROJECT_LABEL, "")))
            except KubeError as error:
                if error.status != 409:
                    raise
                item = await self._cluster.space(name)
                if item is None:
                    raise
                self._keep(item)
            there = self._there[name]
            made = there.made
        if there.ending:
            return False
        if self.conflict(name):
            self._report.failed(
                title((NAMESPACE, "", name)),
                "the project asks for this namespace to be made, but somebody else made it: it is left alone",
            )
            return False
        if _within(wanted.labels, there.labels or {}):
            return made
        self._keep(await self._cluster.label_space(name, there.uid, wanted.labels))
        return True

    # --- what the watch says; None: there is nothing to look at, else what somebody did (empty: nothing wrong) --------

    def found(self, item: Item) -> str | None:
        """A namespace is there."""
        name = item.metadata.name
        before = self._there.get(name)
        if before is not None and before.number > item.number > 0 and before.uid == item.metadata.uid:
            return None
        self._keep(item)
        after = self._there[name]
        wanted = self.desired.get(name)
        if wanted is None:
            return "" if after.ours and (before is None or not before.ours) else None
        if not _within(wanted.labels, after.labels or {}):
            had = before is not None and before.uid == after.uid and _within(wanted.labels, before.labels or {})
            return "changed" if had else ""
        if before is None or (before.uid, before.ending, before.made) != (after.uid, after.ending, after.made):
            return ""
        return None

    def gone(self, name: str) -> str | None:
        """A namespace is gone."""
        there = self._there.pop(name, None)
        wanted = self.desired.get(name)
        if wanted is None:
            return None
        return "deleted" if wanted.create and there is not None and there.made else ""

    def listed(self, names: Iterable[str]) -> list[str]:
        """A list is complete: which of ours are gone."""
        gone = set(self._there) - set(names)
        for name in gone:
            del self._there[name]
        return [name for name in gone if name in self.desired]

    def _keep(self, item: Item) -> None:
        meta = item.metadata
        if meta.name in self.desired or item.ours:
            labels = {key: value for key, value in meta.labels.items() if key in self._labels(meta.name)}
            self._there[meta.name] = There(
                meta.uid, labels, MADE in meta.annotations, item.ours, meta.deleted is not None, item.number
            )
        else:
            self._there[meta.name] = _SOMEBODYS

    def _labels(self, name: str) -> Iterable[str]:
        wanted = self.desired.get(name)
        return wanted.labels if wanted is not None else ()


def _within(want: Mapping[str, str], have: Mapping[str, str]) -> bool:
    return all(have.get(name) == value for name, value in want.items())
