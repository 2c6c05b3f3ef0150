# SPDX-License-Identifier: Apache-2.0
"""What is compiled with mypyc (docs/decisions/0008-compiled-data-path.md), as far as it is seen without a compiler."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import mooring
import pytest

PROJECT = Path(mooring.__file__).parents[2]


def hook() -> dict[str, Any]:
    """The settings of the build with mypyc."""
    project = PROJECT / "pyproject.toml"
    if not project.exists():
        pytest.skip("an installed service has no build settings")
    found: dict[str, Any] = tomllib.loads(project.read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]
    return found["mypyc"]  # type: ignore[no-any-return]


def test_modules_with_structs_stay_out_of_the_compiled_build() -> None:
    """mypyc takes a msgspec Struct for a class of its own: it is not decoded, and what is wrong in it not refused."""
    build = hook()
    compiled = {path for pattern in build["include"] for path in PROJECT.glob(pattern)}
    compiled -= {path for pattern in build["exclude"] for path in PROJECT.glob(pattern)}
    assert len(compiled) > 30
    assert [path.name for path in sorted(compiled) if "msgspec.Struct" in path.read_text()] == []
    assert [pattern for pattern in build["include"] if not list(PROJECT.glob(pattern))] == []


def test_a_compiled_build_is_made_with_the_mypy_that_is_tested() -> None:
    """Another one may compile the same source to something else."""
    [pinned] = [line for line in hook()["dependencies"] if line.startswith("mypy==")]
    lock = Path(__file__).resolve().parents[4] / "requirements/dev.lock"
    assert f"\n{pinned} " in lock.read_text()
