# SPDX-License-Identifier: Apache-2.0
"""Wheels of the service with its data path compiled (docs/decisions/0008-compiled-data-path.md), for tests and bench.

A build with mypyc leaves machine code (`*.so`) beside the sources that it is given. From then on every import of that
tree runs it, silently, whatever is changed in the sources. So it is always given a copy; and whoever is about to
measure or test sources asks first whether there is machine code among them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SERVICE = Path("roles/server/files/service")
IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so")


class NotBuilt(RuntimeError):
    """There is no wheel; says why."""


class MachineCode(RuntimeError):
    """There is machine code among the sources; names it, and says what to do."""


def require_sources(tree: Path) -> None:
    """See that importing the service from this tree runs its sources. Raises MachineCode."""
    found = sorted((tree / SERVICE / "src").rglob("*.so"))
    if found:
        raise MachineCode(
            f"{tree / SERVICE / 'src'} holds {len(found)} files of machine code, such as {found[0].name}: they would "
            f"run instead of the sources. Remove them: find {tree / SERVICE}/src -name '*.so' -delete"
        )


def compiled_wheel(uv: Path, tree: Path, out: Path, python: Path) -> Path:
    """Build the wheel of a tree's service for this interpreter. `out` is emptied first. Raises NotBuilt.

    The tools have the versions of this repository's lock, whatever tree it is.
    """
    shutil.rmtree(out, ignore_errors=True)
    service = shutil.copytree(tree / SERVICE, out / "service", ignore=IGNORED)
    lock = Path(__file__).resolve().parents[2] / "requirements/dev.lock"
    words = ["build", "--wheel", "--python", python, "--build-constraint", lock, "--out-dir", out, service]
    done = subprocess.run(
        [str(word) for word in [uv, *words]], env={**os.environ, "HATCH_BUILD_HOOK_ENABLE_MYPYC": "true"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=1800,
    )  # fmt: skip
    wheels = list(out.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise NotBuilt(f"the build with mypyc ended with {done.returncode}\n{done.stdout[-4000:]}")
    if "-none-any" in wheels[0].name:
        raise NotBuilt("the wheel was built, but nothing in it is compiled")
    return wheels[0]


if __name__ == "__main__":  # what `make venv` asks
    try:
        require_sources(Path(__file__).resolve().parents[2])
    except MachineCode as problem:
        sys.exit(str(problem))
