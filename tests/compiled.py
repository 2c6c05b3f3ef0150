# SPDX-License-Identifier: Apache-2.0
"""`make compiled`: the service built with mypyc must be the same service.

Builds the wheel as docs/decisions/0008-compiled-data-path.md says, takes it apart in build/compiled, sees that the data
path in it is machine code, and runs the unit tests of the compiled packages on it. Not a part of `make test`: the C
compiler takes minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "compiled"
IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info")
TESTS = ("wire", "net", "policy", "authn", "tunnel")
SEEN = "import mooring.wire.mux, mooring.proxy.chain, mooring.agent.dispatch, sys; \
sys.exit(not all(m.__file__.endswith('.so') for m in (mooring.wire.mux, mooring.proxy.chain, mooring.agent.dispatch)))"


def run(words: list[str | Path], **environment: str) -> int:
    return subprocess.run(
        [str(word) for word in words], cwd=ROOT, env={**os.environ, **environment}, check=False
    ).returncode


def main() -> int:
    shutil.rmtree(OUT, ignore_errors=True)
    uv = Path(sys.executable).with_name("uv")
    # A copy: the hook moves files about while it works, and one that is broken off would leave the tree like that.
    service = shutil.copytree(ROOT / "roles/server/files/service", OUT / "service", ignore=IGNORED)
    build: list[str | Path] = [uv, "build", "--wheel", "--python", sys.executable, "--out-dir", OUT, service]
    if run(build, HATCH_BUILD_HOOK_ENABLE_MYPYC="true"):
        return 1
    (wheel,) = OUT.glob("*.whl")
    site = OUT / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    if run([sys.executable, "-c", SEEN], PYTHONPATH=str(site)):
        print("the wheel was built, but its data path is not compiled", file=sys.stderr)
        return 1
    folders = [ROOT / "tests/unit/service" / name for name in TESTS]
    return run([sys.executable, "-m", "pytest", "-q", "-o", f"pythonpath={site} tests", *folders], PYTHONPATH=str(site))


if __name__ == "__main__":
    sys.exit(main())
