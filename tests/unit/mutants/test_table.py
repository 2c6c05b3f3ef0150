# SPDX-License-Identifier: Apache-2.0
"""The tables of guards do not rot: each text is in the source, once, and each test that must notice is there."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from mutants.__main__ import judge, overlay
from mutants.guard import ROOT, SOURCE, Edit, Guard, problems
from mutants.table import GUARDS


def test_each_row_still_fits_the_source_and_the_tests() -> None:
    assert [problem for guard in GUARDS for problem in problems(guard)] == []


def test_names_are_unique_and_each_class_has_guards() -> None:
    names = [guard.name for guard in GUARDS]
    assert len(names) == len(set(names))
    rows = Counter(guard.attack for guard in GUARDS)
    assert sorted(rows) == list(range(1, 22))
    assert min(rows.values()) >= 4, rows


def test_the_security_page_names_each_file_of_the_attack_book() -> None:
    page = (ROOT / "SECURITY.md").read_text()
    for path in sorted((ROOT / "tests" / "security").glob("test_*.py")):
        number = int(path.name.split("_")[1])
        assert f"| {number} " in page, path.name
        assert f"`{path.name}`" in page, path.name
        assert (ast.get_docstring(ast.parse(path.read_text())) or "").startswith(f"Attack class {number}:"), path.name


def test_what_is_switched_off_is_still_python(tmp_path: Path) -> None:
    """A guard that is "noticed" because the module does not compile proves nothing."""
    for guard in GUARDS:
        texts: dict[str, str] = {}
        for edit in guard.edits:
            text = texts.get(edit.file) or (SOURCE / edit.file).read_text()
            texts[edit.file] = text.replace(edit.old, edit.new)
        for file, text in texts.items():
            try:
                ast.parse(text)
            except SyntaxError as error:
                pytest.fail(f"{guard.name}: {file}: {error}")


def test_a_text_that_is_gone_or_there_twice_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("a = 1\nb = 1\n")
    for old, count in (("c", 0), ("= 1", 2)):
        row = Guard("g", 1, (Edit("m.py", old, "x"),), ("tests/unit/mutants/test_table.py",))
        assert problems(row, tmp_path) == [f"g: the text occurs {count} times in m.py: {old!r}"]
    row = Guard("g", 1, (Edit("m.py", "a", "x"),), ("tests/unit/mutants/test_table.py::test_none",))
    assert problems(row, tmp_path) == ["g: there is no test tests/unit/mutants/test_table.py::test_none"]


def test_the_copy_is_changed_and_is_what_gets_imported(tmp_path: Path) -> None:
    row = Guard("g", 1, (Edit("lib/version.py", "VERSION =", "VERSION = OTHER ="),), ())
    before = (SOURCE / "lib" / "version.py").read_bytes()
    source = overlay(row, tmp_path)
    assert (SOURCE / "lib" / "version.py").read_bytes() == before
    assert (source / "mooring" / "lib" / "version.py").read_bytes() != before
    words = [sys.executable, "-c", "import mooring.lib.version as v; print(v.__file__)"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(source)})
    assert done.stdout.strip() == str(source / "mooring" / "lib" / "version.py")


@pytest.mark.parametrize(
    ("code", "case", "verdict"),
    [
        (1, "<failure/>", "noticed"),
        (1, "<error/>", "broken"),
        (0, "", "survivor"),
        (2, "", "broken"),
        (None, "", "broken"),
    ],
)
def test_only_a_failed_test_counts_as_noticed(tmp_path: Path, code: int | None, case: str, verdict: str) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        f'<testsuites><testsuite><testcase classname="c" name="t">{case}</testcase></testsuite></testsuites>'
    )
    assert judge(GUARDS[0], code, report, 1.0).verdict == verdict


def test_a_run_without_a_report_is_broken(tmp_path: Path) -> None:
    assert judge(GUARDS[0], 1, tmp_path / "none.xml", 1.0).verdict == "broken"
