# SPDX-License-Identifier: Apache-2.0
"""What is compiled with mypyc (docs/decisions/0008-compiled-data-path.md), as far as it is seen without a compiler."""

from __future__ import annotations

import tomllib
from pathlib import Path

import mooring
import pytest

PROJECT = Path(mooring.__file__).parents[2]


def test_modules_with_structs_stay_out_of_the_compiled_build() -> None:
    """mypyc takes a msgspec Struct for a class of its own: it is not decoded, and what is wrong in it not refused."""
    project = PROJECT / "pyproject.toml"
    if not project.exists():
        pytest.skip("an installed service has no build settings")
    build = tomllib.loads(project.read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]
    compiled = {path for pattern in build["include"] for path in PROJECT.glob(pattern)}
    compiled -= {path for pattern in build["exclude"] for path in PROJECT.glob(pattern)}
    assert len(compiled) > 30
    assert [path.name for path in sorted(compiled) if "msgspec.Struct" in path.read_text()] == []
