# SPDX-License-Identifier: Apache-2.0
"""What the bench runs: its Go programs and, for each source tree, an environment with the service in it.

Nothing built is kept in the repository: the Go programs go to the user's cache under a key of their sources,
environments and worktrees to build/bench. The interpreter is Debian's where there is one (built with profile-guided
optimisation, and what a packaged server runs on), else the one that runs the bench; the results say which.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from support import wheels

from bench.options import OUT, ROOT
from bench.processes import Failed

PEER = Path(__file__).parent / "peer"
PROGRAMS = ("peer", "stub", "load", "agents")
SERVICE = wheels.SERVICE
DEBIAN = Path("/usr/bin/python3")


def run(words: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a command to its end and return its output. Raises Failed."""
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env={**os.environ, **(env or {})},
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    if done.returncode:
        raise Failed(f"{' '.join(map(str, words))} ended with {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def cache_root() -> Path:
    """The user's cache folder of the bench."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mooring-bench"


def digest(*parts: Path | str) -> str:
    """A key of the content of files, and of texts."""
    value = hashlib.sha256()
    for part in parts:
        value.update(part.read_bytes() if isinstance(part, Path) else part.encode())
    return value.hexdigest()[:16]


def go() -> str:
    """The go command. Raises Failed."""
    usual = "/usr/local/go/bin/go"
    found = shutil.which("go") or (usual if os.access(usual, os.X_OK) else None)
    if found is None:
        raise Failed("there is no `go`: the peer and the load need Go 1.26 or newer")
    return found


def go_programs() -> Path:
    """The folder with the Go programs, built once for their sources. Raises Failed."""
    sources = sorted(path for path in PEER.rglob("*") if path.suffix in (".go", ".mod", ".sum"))
    folder = cache_root() / digest(run([go(), "version"]), *sources)
    if not all((folder / name).exists() for name in PROGRAMS):
        print("[bench] building the peer and the load (Go, once)", flush=True)
        scratch = folder.with_name(f".{folder.name}.{os.getpid()}")
        scratch.mkdir(parents=True)
        try:
            # -mod=readonly: what is not in go.sum is refused, never fetched.
            run(
                [go(), "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-o", f"{scratch}/", "./..."],
                cwd=PEER, env={"CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"},
            )  # fmt: skip
            shutil.rmtree(folder, ignore_errors=True)
            scratch.replace(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder


def interpreter() -> Path:
    """The Python that servers and agents run on: Debian's if it is 3.11 or newer, else our own."""
    if DEBIAN.exists() and Path("/etc/debian_version").exists():
        asked = subprocess.run(
            [DEBIAN, "-c", "import sys; print(sys.version_info >= (3, 11))"],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.stdout.strip() == "True":
            return DEBIAN
    return Path(sys.executable).resolve()


@dataclass(frozen=True, slots=True)
class Build:
    """A service that can be run."""

    name: str
    source: Path
    program: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.program.with_name("python")


def service(name: str, source: Path, *, compiled: bool = False) -> Build:
    """An environment with the service of a source tree and the locked versions of what it needs. Raises Failed."""
    python, project, lock = interpreter(), source / SERVICE, source / "requirements/dev.lock"
    try:
        wheels.require_sources(source)
    except wheels.MachineCode as problem:
        raise Failed(str(problem)) from None
    if compiled and "mypyc" not in (project / "pyproject.toml").read_text():
        raise Failed(f"COMPILED=1: the service in {source} has no build with mypyc")
    key = digest(str(python), str(source), lock, project / "pyproject.toml", "compiled" if compiled else "")
    if compiled:
        key = digest(key, *sorted((project / "src").rglob("*.py")))
    folder = OUT / "venv" / f"{name}-{key}"
    build = Build(name, source, folder / "bin" / "mooring")
    if not (folder / ".ready").exists():
        print(f"[bench] an environment for {name} on {python}", flush=True)
        for old in folder.parent.glob(f"{name}-*"):
            shutil.rmtree(old)
        uv = ROOT / ".venv/bin/uv"
        target: list[str | Path] = ["--editable", f"{project}[server,cli]"]
        if compiled:
            try:
                wheel = wheels.compiled_wheel(uv, source, OUT / "wheel" / name, python)
            except wheels.NotBuilt as problem:
                raise Failed(str(problem)) from None
            target = [f"mooring[server,cli] @ {wheel.as_uri()}"]
        run([uv, "venv", "--quiet", "--python", python, folder])
        install: list[str | Path] = [uv, "pip", "install", "--quiet", "--python", build.python, "--constraint", lock]
        # Constraints with hashes are checked by uv; a package that the lock does not name would be refused.
        run([*install, "--compile-bytecode", *target])
        (folder / ".ready").touch()
    return build


def git(*words: str, source: Path = ROOT) -> str:
    """What git says of a tree, stripped. Raises Failed."""
    return run(["git", "-C", source, *words]).strip()


def base_commit(asked: str, source: Path = ROOT) -> str:
    """The commit that QUICK compares with: the one asked for; else HEAD if the service has changes, else HEAD~1."""
    if asked:
        return git("rev-parse", "--verify", f"{asked}^{{commit}}", source=source)
    changed = git("status", "--porcelain", "--", str(SERVICE), source=source)
    return git("rev-parse", "HEAD" if changed else "HEAD~1", source=source)


def worktree(commit: str) -> Path:
    """A tree of a commit in build/bench. Raises Failed."""
    folder = OUT / "base" / commit[:12]
    if not (folder / SERVICE / "pyproject.toml").exists():
        shutil.rmtree(folder.parent, ignore_errors=True)
        git("worktree", "prune")
        git("worktree", "add", "--quiet", "--detach", str(folder), commit)
    return folder
