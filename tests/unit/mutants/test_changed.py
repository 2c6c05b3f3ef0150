# SPDX-License-Identifier: Apache-2.0
"""Which rows a change concerns, and that a warm process runs the copy and not what it has imported itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from mutants.changed import rows_at, touched
from mutants.guard import ROOT, SOURCE, Edit, Guard
from mutants.table import GUARDS
from mutants.warm import Warm

ROW = Guard("g", 1, (Edit("lib/names.py", "a", "b"),), ("tests/unit/service/lib/test_names.py::test_x", "tests/e2e"))
PACKAGE = SOURCE.relative_to(ROOT)


@pytest.mark.parametrize(
    ("file", "concerned"),
    [
        (f"{PACKAGE}/lib/names.py", True),
        ("tests/unit/service/lib/test_names.py", True),
        ("tests/e2e/test_road.py", True),
        (f"{PACKAGE}/lib/clock.py", False),
        ("lib/names.py", False),
        ("tests/e2e2/test_road.py", False),
        ("", False),
    ],
)
def test_a_row_is_concerned_by_its_source_and_its_tests(file: str, concerned: bool) -> None:
    assert touched(ROW, ["README.md", file]) == concerned


def test_the_tables_of_a_commit_are_read_from_it() -> None:
    rows = rows_at("HEAD")
    assert len(rows) > 400
    assert any(rows.get(guard.name) == guard for guard in GUARDS)
    assert replace(GUARDS[0], attack=0) != rows.get(GUARDS[0].name)


@pytest.fixture
def warm() -> Iterator[Warm]:
    it = Warm(ROOT, {**os.environ, "PYTHONPATH": str(ROOT / "tests")})
    yield it
    it.close()


def test_each_run_imports_its_own_copy_and_the_exit_code_is_its_own(warm: Warm, tmp_path: Path) -> None:
    """One that has not ended by its deadline is killed, and the next one runs all the same."""
    for number in (1, 2):
        package = tmp_path / str(number) / "mooring"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f"NUMBER = {number}\n")
    (tmp_path / "test_it.py").write_text(
        "import mooring, os, sys, time\n"
        "def test_it(): assert mooring.NUMBER == int(os.environ['WANTED'])\n"
        "def test_none(): time.sleep(600)\n"
    )
    words = ["-q", "--assert=plain", "-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={tmp_path}"]

    def run(number: int, wanted: int, test: str = "test_it", deadline: float = 60) -> int | None:
        environment = {**os.environ, "WANTED": str(wanted), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        argv = [*words, f"{tmp_path}/test_it.py::{test}"]
        return warm.run(argv, [tmp_path / str(number)], environment, tmp_path / "log", deadline)

    assert (run(1, 1), run(2, 2), run(1, 2)) == (0, 0, 1)
    assert run(1, 1, "test_none", 1) is None
    assert run(2, 2) == 0
