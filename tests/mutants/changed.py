# SPDX-License-Identifier: Apache-2.0
"""Which guards a change concerns: those whose row, source or tests are not as they were at a commit.

What tests share (tests/support, conftest.py) and what a guarded module calls are not looked at: a whole run does that.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from typing import Any

from mutants.guard import ROOT, SOURCE, Guard


def git(*words: str) -> str:
    """What git says. Raises CalledProcessError."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def changed(guards: Iterable[Guard], commit: str) -> list[Guard]:
    """Those of the guards that have changed, in the working tree too. Raises CalledProcessError: no such commit."""
    before = rows_at(commit)
    files = git("diff", "--name-only", commit).split("\n")
    files += git("ls-files", "--others", "--exclude-standard").split("\n")
    return [guard for guard in guards if before.get(guard.name) != guard or touched(guard, files)]


def touched(guard: Guard, files: Sequence[str]) -> bool:
    """Whether one of the files is what the guard stands in or what must notice it."""
    package = SOURCE.relative_to(ROOT)
    own = {str(package / edit.file) for edit in guard.edits}
    tests = {test.partition("::")[0] for test in guard.tests}
    return bool(own & set(files)) or any(
        file == test or file.startswith(f"{test}/") for file in files for test in tests
    )


def rows_at(commit: str) -> dict[str, Guard]:
    """The rows of the tables of that commit, by name."""
    rows: dict[str, Guard] = {}
    for path in git("ls-tree", "-r", "--name-only", commit, "tests/mutants/").split():
        if "/guards_" in path:
            space: dict[str, Any] = {"__name__": f"{path} at {commit}"}
            exec(compile(git("show", f"{commit}:{path}"), path, "exec"), space)  # noqa: S102 our own tables
            rows.update({guard.name: guard for guard in space["GUARDS"]})
    return rows
