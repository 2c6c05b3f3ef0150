# SPDX-License-Identifier: Apache-2.0
"""The checks of the Ansible collection: `python tests/collection/checks.py sanity|lint|docs|build|importer|molecule`.

The tools want the collection in a folder `ansible_collections/mooring/fleet`. `export` puts the files there that git
knows of (also changed and new ones that are not ignored), under `.cache/collections`, and removes what is gone; so no
cache, environment or build product of the working tree is looked at. Each check is one command on that copy, and works
with a package index as the only network.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = ROOT / ".cache"
COLLECTIONS = CACHE / "collections"
FLEET = COLLECTIONS / "ansible_collections" / "mooring" / "fleet"
BUILD = ROOT / "build"
BIN = Path(sys.executable).parent

# ansible-test makes an environment of its own for each kind of check and loads pip's bootstrap script from a server
# that is not a package index. Python brings pip along: this stands in for that script.
GET_PIP = '''\
"""Stands in for get-pip.py: the pip that comes with Python installs what was asked for from the package index."""
import subprocess
import sys

subprocess.check_call([sys.executable, "-m", "ensurepip", "--default-pip"], stdout=subprocess.DEVNULL)
wanted = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", "--quiet", *wanted]))
'''


def run(command: Iterable[str | Path], cwd: Path = FLEET, env: Mapping[str, str] | None = None) -> None:
    """Run a command and end this program with its status if it fails."""
    words = [str(word) for word in command]
    print(f"+ {' '.join(words)}", flush=True)
    done = subprocess.run(words, cwd=cwd, env=environment(env), check=False)
    if done.returncode:
        sys.exit(done.returncode)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    path = os.pathsep.join([str(BIN), *interpreters(), os.environ["PATH"]])
    return {
        **os.environ,
        "PATH": path,
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "ANSIBLE_HOME": str(CACHE / "ansible"),
        "ANSIBLE_LINT_NODEPS": "1",
        **(extra or {}),
    }


def interpreters() -> list[str]:
    """Folders of the other Pythons that pyenv keeps: behind its shims ansible-test finds them but cannot start them."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    return sorted(str(folder) for folder in root.glob("3.*/bin"))


def exported() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return [Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()]


def export() -> None:
    """Bring the copy up to date. Unchanged files keep their times; ansible-test's own output stays."""
    FLEET.mkdir(parents=True, exist_ok=True)
    if not (FLEET / ".git").exists():
        # ansible-test asks git which files there are: without a repository of its own the copy is an ignored folder
        subprocess.run(["git", "init", "--quiet", "--initial-branch=main"], cwd=FLEET, check=True)
    wanted = exported()
    keep = {FLEET / name for name in wanted}
    for path in sorted(FLEET.rglob("*"), reverse=True):
        parts = path.relative_to(FLEET).parts
        if parts[0] == ".git" or parts[:2] == ("tests", "output"):
            continue
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path not in keep:
            path.unlink()
    for name in wanted:
        source, target = ROOT / name, FLEET / name
        if target.exists() and same(source, target):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def same(a: Path, b: Path) -> bool:
    one, other = a.stat(), b.stat()
    return (one.st_size, one.st_mtime_ns, one.st_mode) == (other.st_size, other.st_mtime_ns, other.st_mode)


def bootstrap_pip() -> None:
    """Put the stand-in where ansible-test looks for the script before it downloads one; an existing one stays."""
    source = Path(sysconfig.get_paths()["purelib"]) / "ansible_test" / "_internal" / "python_requirements.py"
    versions = set(re.findall(r"pip='([0-9.]+)'", source.read_text()))
    if not versions:
        sys.exit(f"no version of pip found in {source}: ansible-test has changed, look at get_venv_packages() there")
    cache = Path.home() / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    for version in versions:
        script = cache / f"get_pip_{version.replace('.', '_')}.py"
        if not script.exists():
            script.write_text(GET_PIP)


def sanity(arguments: list[str]) -> None:
    """ansible-test sanity, all tests, no ignore files."""
    ignores = sorted((FLEET / "tests" / "sanity").glob("ignore-*")) if (FLEET / "tests" / "sanity").exists() else []
    if ignores:
        sys.exit(f"the sanity tests must pass without ignore files: {ignores}")
    if not shutil.which("shellcheck"):
        sys.exit("ansible-test would leave out a test: install shellcheck (see tests/packages.txt)")
    bootstrap_pip()
    run([BIN / "ansible-test", "sanity", "--color", "no", *arguments])


def lint(arguments: list[str]) -> None:
    """ansible-lint, its strictest profile, without the network."""
    run([BIN / "ansible-lint", "--offline", "--strict", "--profile", "production", "--nocolor", *arguments])


def docs(arguments: list[str]) -> None:
    """antsibull-docs and antsibull-changelog: documentation of plugins, roles and fragments."""
    run([BIN / "antsibull-docs", "lint-collection-docs", "--plugin-docs", *arguments, "."])
    run([BIN / "antsibull-changelog", "lint"])


def build(arguments: list[str]) -> Path:
    """The tarball with the service inside, in build/ or in the folder that is named."""
    folder = Path(arguments[0]).absolute() if arguments else BUILD
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("mooring-fleet-*.tar.gz"):
        old.unlink()
    run([BIN / "ansible-galaxy", "collection", "build", "--force", "--output-path", folder])
    [tarball] = folder.glob("mooring-fleet-*.tar.gz")
    names = subprocess.run(["tar", "-tzf", tarball], capture_output=True, text=True, check=True).stdout.splitlines()
    service = "roles/server/files/service/"
    for needed in (
        service + "pyproject.toml",
        service + "src/mooring/app/server.py",
        service + "LICENSE",
        "LICENSE",
        "README.md",
    ):
        if needed not in names:
            sys.exit(f"{tarball.name} lacks {needed}")
    strange = [
        n for n in names if n.split("/")[0] in {".venv", ".cache", ".demo", "build", "tests"} or "__pycache__" in n
    ]
    if strange:
        sys.exit(f"{tarball.name} holds what only development needs: {strange[:5]}")
    print(f"{tarball}: {len(names)} files, {tarball.stat().st_size >> 10} KiB")
    return tarball


def importer(arguments: list[str]) -> None:
    """What Galaxy does with an upload. It reports findings as log lines, so those count as well."""
    tarball = build([str(CACHE / "importer")])
    command = [sys.executable, "-m", "galaxy_importer.main", tarball, *arguments]
    work = CACHE / "importer"
    work.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [str(word) for word in command], cwd=work, env=environment(), capture_output=True, text=True, check=False
    )
    print(done.stdout, done.stderr)
    if done.returncode:
        sys.exit(done.returncode)
    findings = [line for line in done.stdout.splitlines() if line.startswith(("WARNING", "ERROR"))]
    if findings:
        sys.exit(f"galaxy-importer found {len(findings)} problem(s)")


def molecule(arguments: list[str]) -> None:
    """The scenario `default` on test-bed machines, by ssh."""
    run(
        [BIN / "molecule", *(arguments or ["test", "--scenario-name", "default"])],
        cwd=FLEET / "extensions",
        env={"MOORING_ROOT": str(ROOT), "PYTHONPATH": str(ROOT / "tests"), "ANSIBLE_NOCOLOR": "1", "NO_COLOR": "1"},
    )


CHECKS: dict[str, Callable[[list[str]], object]] = {
    "sanity": sanity, "lint": lint, "docs": docs, "build": build, "importer": importer, "molecule": molecule,
}  # fmt: skip


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] not in CHECKS:
        sys.exit(f"usage: python tests/collection/checks.py {'|'.join(CHECKS)} [ARGUMENT...]")
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "export.lock").open("w") as lock:  # tests run some of these checks side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        export()
    CHECKS[arguments[0]](arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
