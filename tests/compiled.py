# SPDX-License-Identifier: Apache-2.0
"""`make compiled`: the service built with mypyc must be the same service.

Builds the wheel as docs/decisions/0008-compiled-data-path.md says, takes it apart in build/compiled, sees that the data
path in it is machine code, and runs the unit tests of the compiled packages on it. Not a part of `make test`: the C
compiler takes minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from support.wheels import NotBuilt, compiled_wheel

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "compiled"
TESTS = ("wire", "net", "policy", "authn", "tunnel", "proxy", "edge", "agent")
SEEN = "import mooring.wire.mux, mooring.proxy.chain, mooring.agent.dispatch, sys; \
sys.exit(not all(m.__file__.endswith('.so') for m in (mooring.wire.mux, mooring.proxy.chain, mooring.agent.dispatch)))"


def run(words: list[str | Path], **environment: str) -> int:
    return subprocess.run(
        [str(word) for word in words], cwd=ROOT, env={**os.environ, **environment}, check=False
    ).returncode


def main() -> int:
    try:
        wheel = compiled_wheel(Path(sys.executable).with_name("uv"), ROOT, OUT, Path(sys.executable))
    except NotBuilt as problem:
        print(problem, file=sys.stderr)
        return 1
    site = OUT / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    if run([sys.executable, "-c", SEEN], PYTHONPATH=str(site)):
        print("the wheel was built, but its data path is not compiled", file=sys.stderr)
        return 1
    folders = [ROOT / "tests/unit/service" / name for name in TESTS]
    path = f"{site}:{ROOT / 'tests'}"
    return run([sys.executable, "-m", "pytest", "-q", "-o", f"pythonpath={site} tests", *folders], PYTHONPATH=path)


if __name__ == "__main__":
    sys.exit(main())
