# SPDX-License-Identifier: Apache-2.0
"""What the bench and the tests build: the sources of a tree stay what an import of the tree runs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from bench import builds
from bench.processes import Failed
from support import wheels

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with as much of a service as a build looks at."""
    package = tmp_path / "tree" / wheels.SERVICE / "src" / "mooring"
    package.mkdir(parents=True)
    (package / "mux.py").write_text("")
    (tmp_path / "tree" / wheels.SERVICE / "pyproject.toml").write_text("[tool.hatch.build.hooks.mypyc]\n")
    (tmp_path / "tree" / "requirements").mkdir()
    (tmp_path / "tree" / "requirements" / "dev.lock").write_text("")
    return tmp_path / "tree"


def _mypyc(words: list[str], **_more: Any) -> subprocess.CompletedProcess[str]:
    """In place of uv and pip: a build does what hatch-mypyc does, which is to leave its work beside the sources."""
    folders = [Path(word.removeprefix("mooring[server,cli] @ file://")) for word in words]
    for service in [folder for folder in folders if (folder / "pyproject.toml").exists()]:
        (service / "src" / "mooring" / "mux.cpython-311-x86_64-linux-gnu.so").touch()
        if "--out-dir" in words:
            Path(words[words.index("--out-dir") + 1], "mooring-0-cp311-cp311-linux_x86_64.whl").touch()
    if "venv" in words:
        (Path(words[-1]) / "bin").mkdir(parents=True)
    return subprocess.CompletedProcess(words, 0, "", "")


def test_compiled_bench_left_machine_code_in_the_tree(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `make bench COMPILED=1` the editable tree ran the compiled build, also after its sources had changed."""
    monkeypatch.setattr(subprocess, "run", _mypyc)
    monkeypatch.setattr(builds, "OUT", tmp_path / "out")
    monkeypatch.setattr(builds, "interpreter", lambda: Path("/usr/bin/python3"))
    builds.service("compiled", tree, compiled=True)
    assert list((tree / wheels.SERVICE).rglob("*.so")) == []
    wheels.require_sources(tree)


def test_a_tree_with_machine_code_is_not_measured(tree: Path) -> None:
    (tree / wheels.SERVICE / "src" / "abc__mypyc.cpython-311-x86_64-linux-gnu.so").touch()
    for compiled in (False, True):
        with pytest.raises(Failed, match=r"abc__mypyc.*find .* -delete"):
            builds.service("m", tree, compiled=compiled)


def test_git_shows_machine_code() -> None:
    """What lies beside the sources must be seen in `git status`."""
    name = f"{wheels.SERVICE}/src/mooring/wire/mux.cpython-311-x86_64-linux-gnu.so"
    assert subprocess.run(["git", "check-ignore", "--quiet", name], cwd=ROOT, check=False).returncode == 1


def test_a_build_that_compiles_nothing_is_an_error(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def plain(words: list[str], **_more: Any) -> subprocess.CompletedProcess[str]:
        Path(words[words.index("--out-dir") + 1], "mooring-0-py3-none-any.whl").touch()
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(subprocess, "run", plain)
    with pytest.raises(wheels.NotBuilt, match="nothing in it is compiled"):
        wheels.compiled_wheel(Path("uv"), tree, tmp_path / "out", Path("python3"))
