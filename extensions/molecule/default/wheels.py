# SPDX-License-Identifier: GPL-3.0-or-later
"""Make folders of wheels for machines without a package index: `wheels.py SERVICE FOLDER`.

    FOLDER/first   the service as it is
    FOLDER/second  the same with a newer version
    FOLDER/broken  a version that does not start

The machines have Python 3.11, whatever runs this.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


def build(service: Path, out: Path) -> Path:
    subprocess.run([*PIP, "wheel", "--no-deps", "--wheel-dir", out, service], check=True)
    [wheel] = out.glob("mooring-*.whl")
    return wheel


def variant(service: Path, work: Path, version: str, *, broken: bool = False) -> Path:
    """A copy of the service with another version."""
    copy = work / version
    shutil.copytree(service, copy, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    path = copy / "src" / "mooring" / "lib" / "version.py"
    text, count = re.subn(r'(VERSION\b[^"]*)"[^"]+"', rf'\1"{version}"', path.read_text(), count=1)
    if count != 1:
        sys.exit(f"there is no VERSION in {path}")
    path.write_text(text)
    if broken:
        app = copy / "src" / "mooring" / "app" / "server.py"
        app.write_text(app.read_text() + '\nraise RuntimeError("this build is broken")\n')
    return copy


def main(service: Path, folder: Path) -> None:
    work = folder / "work"
    first = build(variant(service, work, "0.1.0"), folder / "first")
    download = [*PIP, "download", "--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp"]
    subprocess.run([*download, "--dest", folder / "first", f"{first}[server]"], check=True)
    for name, version, broken in (("second", "0.1.1", False), ("broken", "0.1.2", True)):
        shutil.copytree(folder / "first", folder / name, ignore=shutil.ignore_patterns("mooring-*.whl"))
        build(variant(service, work, version, broken=broken), folder / name)
    shutil.rmtree(work)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
