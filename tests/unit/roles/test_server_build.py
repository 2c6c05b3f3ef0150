# SPDX-License-Identifier: Apache-2.0
"""How the role server installs a build: compiled or not, once, and nothing in check mode.

The tasks are the role's, run by ansible-playbook on this machine; Python and pip are a script that writes down how it
was called.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
PYTHON = """#!/bin/sh
echo "${HATCH_BUILD_HOOK_ENABLE_MYPYC:-plain} $*" >> @LOG@
case "$2" in
  venv) mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
esac
case "$*" in
  *seen*) test -z "@PLAIN@" ;;
esac
"""


class Machine:
    """This machine, with a folder for what the role makes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "calls"
        self.python = folder / "python3"
        self.pretend()

    def pretend(self, *, plain: bool = False) -> None:
        """What the build comes out as."""
        self.python.write_text(PYTHON.replace("@LOG@", str(self.log)).replace("@PLAIN@", "plain" if plain else ""))
        self.python.chmod(0o755)

    def run(self, *arguments: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        """The role's tasks that install a build."""
        play = [{
            "hosts": "localhost", "connection": "local", "gather_facts": False,
            "tasks": [{"ansible.builtin.include_role": {"name": "mooring.fleet.server", "tasks_from": "build.yml"}}],
        }]  # fmt: skip
        (self.folder / "play.yml").write_text(json.dumps(play))
        link = self.folder / "collections" / "ansible_collections" / "mooring" / "fleet"
        if not link.exists():
            link.parent.mkdir(parents=True)
            link.symlink_to(ROOT)
        extra = {
            "mooring_server_home": str(self.folder / "opt"), "mooring_server_python": str(self.python),
            "ansible_python_interpreter": sys.executable, "mooring_server_compiler_packages": [], **variables,
        }  # fmt: skip
        program = Path(sys.executable).with_name("ansible-playbook")
        return subprocess.run(
            [program, "-i", "localhost,", "-e", json.dumps(extra), *arguments, self.folder / "play.yml"],
            env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(self.folder / "collections")},
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    def builds(self) -> list[str]:
        """The builds that are whole."""
        return sorted(path.parent.name for path in (self.folder / "opt" / "builds").glob("*/complete"))

    def installs(self) -> list[str]:
        """How pip was called: compiled or not."""
        calls = self.log.read_text().splitlines() if self.log.exists() else []
        return [call.split()[0] for call in calls if " pip install " in call]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "opt" / "builds").mkdir(parents=True)
    return Machine(tmp_path)


@pytest.mark.timeout(900)
@pytest.mark.skipif(os.geteuid() != 0, reason="the role makes files of root")
def test_compiled_is_a_build_of_its_own_made_once(machine: Machine) -> None:
    checked = machine.run("--check", mooring_server_compiled=True)
    assert checked.returncode == 0, checked.stdout
    assert (machine.builds(), machine.installs()) == ([], [])
    for _again in range(2):
        done = machine.run(mooring_server_compiled=True)
        assert done.returncode == 0, done.stdout
    assert "changed=0" in done.stdout
    assert machine.installs() == ["true"]
    [build] = machine.builds()
    assert build.endswith("-compiled")


@pytest.mark.timeout(900)
@pytest.mark.skipif(os.geteuid() != 0, reason="the role makes files of root")
def test_a_build_that_did_not_compile_is_not_taken_for_one_that_did(machine: Machine) -> None:
    machine.pretend(plain=True)
    done = machine.run(mooring_server_compiled="true")
    assert done.returncode != 0
    assert "See that the data path is machine code" in done.stdout
    assert machine.builds() == []
