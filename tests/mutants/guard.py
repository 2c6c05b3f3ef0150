# SPDX-License-Identifier: Apache-2.0
"""What a row of the tables is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "roles" / "server" / "files" / "service" / "src" / "mooring"
BOOK = "tests/security/"
UNIT = "tests/unit/service/"


@dataclass(frozen=True)
class Edit:
    """In `file` (below the package), `old` occurs once and becomes `new`."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Guard:
    """`attack` is the class of the attack book. `tests` are pytest's: files or node ids, the quickest first.

    `keyword` narrows them as `-k` does. `own_clusters`: the tests break a cluster, or need none: they get none of those
    that other rows use.
    """

    name: str
    attack: int
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]
    keyword: str = ""
    own_clusters: bool = False

    @property
    def on_the_road(self) -> bool:
        """Whether a test of the attack book must notice, which takes a server, two agents and two API servers."""
        return any(test.startswith(BOOK) for test in self.tests)


def off(
    name: str,
    attack: int,
    file: str,
    old: str,
    new: str,
    *tests: str,
    keyword: str = "",
    also: tuple[Edit, ...] = (),
    own_clusters: bool = False,
) -> Guard:
    """A row: one guard in one place, `also` others that keep the same thing."""
    return Guard(name, attack, (Edit(file, old, new), *also), tests, keyword, own_clusters)


def problems(guard: Guard, source: Path = SOURCE) -> list[str]:
    """Why a row cannot be used: a text that is not there exactly once, tests that are not there."""
    found = []
    for edit in guard.edits:
        path = source / edit.file
        count = path.read_text().count(edit.old) if path.is_file() else 0
        if count != 1:
            found.append(f"{guard.name}: the text occurs {count} times in {edit.file}: {edit.old!r}")
        if edit.old == edit.new:
            found.append(f"{guard.name}: {edit.file} is not changed")
    for test in guard.tests:
        file, _unused, function = test.partition("::")
        path = ROOT / file
        if not path.exists() or (function and f"def {function.split('[')[0]}(" not in path.read_text()):
            found.append(f"{guard.name}: there is no test {test}")
    if not guard.tests:
        found.append(f"{guard.name}: no test is named")
    return found
