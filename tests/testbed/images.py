# SPDX-License-Identifier: Apache-2.0
"""Container images without a registry and without a container engine: OCI archives made of Debian packages and wheels.

    localhost/pause:1          what holds a pod's namespaces
    localhost/py:1             Debian's Python 3.11 and busybox: sh, tar, sha256sum, stty, nc, wget
    localhost/mooring-agent:1  the agent: the content that deploy/Containerfile describes, from this repository
    localhost/etcd:1 and others, each with one static program (`ensure_program`)

Archives are kept in the user's cache folder under a key of what they are made of. Layers are tar files without
compression, and the same content gives the same bytes: root-owned, sorted, mtime 0.

This module must not know nodes: `Node.load` takes an archive.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testbed import binaries
from testbed.errors import BuildError
from testbed.progress import say
from testbed.state import locked

PAUSE = "localhost/pause:1"
PY = "localhost/py:1"
AGENT = "localhost/mooring-agent:1"
KEPT = 3  # archives of one image
RECIPE = "3"  # raised when this file makes something else of the same content

REPOSITORY = Path(__file__).resolve().parents[2]
SERVICE = REPOSITORY / "roles" / "server" / "files" / "service"
LOCK = REPOSITORY / "requirements" / "dev.lock"
CONTAINERFILE = REPOSITORY / "deploy" / "Containerfile"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Unpacked, not installed: no maintainer script runs. What Python's own modules link to, by hand, since apt would
# bring in a whole system.
PYTHON_PACKAGES = tuple(
    """
    libc6 libgcc-s1 libcrypt1 zlib1g libexpat1 libssl3 libffi8 libbz2-1.0 liblzma5 libuuid1 libsqlite3-0 libnsl2
    libtirpc3 libgssapi-krb5-2 libkrb5-3 libk5crypto3 libkrb5support0 libcom-err2 libkeyutils1 libncursesw6 libtinfo6
    libreadline8 libdb5.3 libstdc++6 python3.11-minimal libpython3.11-minimal libpython3.11-stdlib media-types netbase
    busybox
    """.split()  # noqa: SIM905 - a list of thirty strings is harder to read
)
_NOT_SHIPPED = (
    *(f"usr/share/{name}" for name in ("doc", "man", "lintian", "bug", "locale")),
    *(f"usr/lib/python3.11/{name}" for name in ("test", "ensurepip", "idlelib", "lib2to3")),
)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: a tar file and its digest."""

    path: Path
    sha256: str

    @property
    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size


@dataclass(slots=True)
class Config:
    """How the image runs: the fields of the OCI image configuration that are used here."""

    entrypoint: list[str]
    command: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    user: str = ""
    working_dir: str = "/"


def folder() -> Path:
    """Where the archives are kept."""
    path = binaries.cache_root() / "images"
    path.mkdir(parents=True, exist_ok=True)
    return path


def ensure_pause() -> Path:
    """The archive of localhost/pause:1. Raises BuildError."""
    return _ensure(PAUSE, _key("pause"), _make_pause)


def ensure_py() -> Path:
    """The archive of localhost/py:1. Raises BuildError."""
    return _ensure(PY, _key("py", *PYTHON_PACKAGES), _make_py)


def ensure_program(image: str, program: Path, key: str) -> Path:
    """The archive of an image that holds one static program, of a build named by `key`. Raises BuildError."""

    def make(out: Path, scratch: Path) -> None:
        root = scratch / "root"
        (root / "usr/local/bin").mkdir(parents=True)
        shutil.copy2(program, root / "usr/local/bin" / program.name)
        (root / "tmp").mkdir(mode=0o1777)
        layer = pack_layer(root, scratch / "layer")
        write_archive(out, image, [layer], Config([f"/usr/local/bin/{program.name}"]))

    return _ensure(image, _key(image, key), make)


# -- OCI archives


def pack_layer(root: Path, out: Path) -> Layer:
    """Pack a folder as a layer, as root's and without times."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        entry.mtime = 0
        return entry

    with tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as archive:
        for at, folders, files in os.walk(root):
            folders.sort()
            for name in sorted(files + folders):
                path = Path(at, name)
                archive.add(path, str(path.relative_to(root)), recursive=False, filter=plain)
    with out.open("rb") as file:
        return Layer(out, hashlib.file_digest(file, "sha256").hexdigest())


def write_archive(out: Path, name: str, layers: Sequence[Layer], config: Config) -> None:
    """Write an OCI archive that `ctr images import` takes under `name`."""
    architecture = ARCHITECTURES.get(platform.machine(), platform.machine())
    epoch = "1970-01-01T00:00:00Z"
    environment = {"PATH": SYSTEM_PATH, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", **config.env}
    image = _json(
        {
            "architecture": architecture,
            "os": "linux",
            "created": epoch,
            "config": {
                "Env": [f"{key}={value}" for key, value in environment.items()],
                "Entrypoint": config.entrypoint,
                "Cmd": config.command,
                "WorkingDir": config.working_dir,
                "User": config.user,
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.sha256}" for layer in layers]},
            "history": [{"created": epoch} for _unused in layers],
        }
    )
    kind = "application/vnd.oci.image"
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": _descriptor(image, f"{kind}.config.v1+json"),
            "layers": [
                {"mediaType": f"{kind}.layer.v1.tar", "digest": f"sha256:{layer.sha256}", "size": layer.size}
                for layer in layers
            ],
        }
    )
    # containerd takes the image's name from this annotation.
    names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
    entry = {
        **_descriptor(manifest, f"{kind}.manifest.v1+json"),
        "platform": {"architecture": architecture, "os": "linux"},
        "annotations": names,
    }
    scratch = out.with_name(f".{out.name}.{os.getpid()}")
    with tarfile.open(scratch, "w") as archive:
        _add(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(archive, "index.json", _json({"schemaVersion": 2, "manifests": [entry]}))
        for blob in (manifest, image):
            _add(archive, f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}", blob)
        for layer in layers:
            header = tarfile.TarInfo(f"blobs/sha256/{layer.sha256}")
            header.size = layer.size
            with layer.path.open("rb") as content:
                archive.addfile(header, content)
    scratch.replace(out)


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _descriptor(blob: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{hashlib.sha256(blob).hexdigest()}", "size": len(blob)}


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(content)
    archive.addfile(header, io.BytesIO(content))


# -- making


def _key(*words: str) -> str:
    return hashlib.sha256("\0".join([RECIPE, platform.machine(), *words]).encode()).hexdigest()[:16]


def _ensure(name: str, key: str, make: Callable[[Path, Path], None]) -> Path:
    """The archive of an image, made under a lock if it is not there; all but the last few of it are removed."""
    stem = name.removeprefix("localhost/").partition(":")[0]
    out = folder() / f"{stem}-{key}.tar"
    if out.exists():
        return out
    with locked(f"image-{stem}"):
        if not out.exists():
            say(f"[image] {name}")
            with tempfile.TemporaryDirectory(prefix="mooring-image-") as scratch:
                make(out, Path(scratch))
            # Every change of the source makes another one: a few are kept for whoever uses them now.
            for old in sorted(folder().glob(f"{stem}-*.tar"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
                old.unlink(missing_ok=True)
    return out


def _make_pause(out: Path, scratch: Path) -> None:
    # A sandbox is killed by SIGKILL and has nothing to reap, so that a sleep is enough.
    root = scratch / "root"
    (scratch / "all").mkdir()
    unpack(["busybox-static"], scratch / "all")
    (root / "bin").mkdir(parents=True)
    shutil.copy2(scratch / "all" / "bin" / "busybox", root / "bin" / "busybox")
    layer = pack_layer(root, scratch / "layer")
    write_archive(out, PAUSE, [layer], Config(["/bin/busybox", "sleep", "2147483647"]))


def _make_py(out: Path, scratch: Path) -> None:
    write_archive(out, PY, [_python_layer()], Config(["/usr/bin/python3"]))


def _python_layer() -> Layer:
    return _layer("python", _key(*PYTHON_PACKAGES), python_root)


def _layer(name: str, key: str, fill: Callable[[Path], None]) -> Layer:
    """A layer that several images have, made once: `fill` writes its content into a folder."""
    layers = folder() / "layers"
    layers.mkdir(exist_ok=True)
    with locked(f"layer-{name}"):
        for made in layers.glob(f"{name}-{key}-*"):
            return Layer(made, made.name.rpartition("-")[2])
        say(f"[image] layer {name}")
        with tempfile.TemporaryDirectory(prefix="mooring-layer-") as scratch:
            root = Path(scratch) / "root"
            root.mkdir()
            fill(root)
            layer = pack_layer(root, layers / f".{name}.{os.getpid()}")
        for old in layers.glob(f"{name}-*"):
            old.unlink()
        return Layer(layer.path.rename(layers / f"{name}-{key}-{layer.sha256}"), layer.sha256)


def python_root(root: Path) -> None:
    """Unpack Debian's Python and busybox as a root file system."""
    unpack(PYTHON_PACKAGES, root)
    for name in _NOT_SHIPPED:
        shutil.rmtree(root / name, ignore_errors=True)
    for name in ("tmp", "proc", "sys", "dev", "etc", "root", "run", "var/lib"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    for name in ("python3", "python"):
        (root / "usr/bin" / name).unlink(missing_ok=True)
        (root / "usr/bin" / name).symlink_to("python3.11")
    busybox = root / "bin/busybox"
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout
    for applet in applets.split():
        if not any(os.path.lexists(root / place / applet) for place in ("bin", "usr/bin")):
            (root / "bin" / applet).symlink_to("busybox")
    _compile(root / "usr/lib/python3.11")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")


def unpack(packages: Iterable[str], root: Path) -> None:
    """Fetch Debian packages with this machine's apt and unpack them, without running anything of theirs.

    Raises BuildError with what apt said.
    """
    # apt's own user may not write in a folder of ours.
    fetch = ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", *packages]
    with tempfile.TemporaryDirectory(prefix="mooring-debs-") as debs:
        try:
            done = subprocess.run(fetch, cwd=debs, capture_output=True, text=True, timeout=600, check=False)
            if done.returncode != 0:
                said = re.sub(r"https?://\S+", "(mirror)", done.stderr)[-1500:]
                raise BuildError(f"apt-get download failed (is `apt-get update` done?):\n{said}")
            for deb in sorted(Path(debs).glob("*.deb")):
                subprocess.run(["dpkg", "-x", deb, root], check=True, timeout=120, capture_output=True)
        except FileNotFoundError as error:
            raise BuildError(f"images are made of Debian packages, and there is no {error.filename}") from None


# -- the agent


def ensure_agent_image() -> Path:
    """The archive of localhost/mooring-agent:1, made of this working tree. Raises BuildError.

    What deploy/Containerfile says about its last stage holds here, too: the folder of the virtual environment with the
    service and the dependencies of the agent, environment, user, entry point. In place of the official Python image
    there is Debian's Python (`python_root`).
    """
    parts = [CONTAINERFILE, SERVICE / "pyproject.toml", LOCK, *_sources()]
    contents = [f"{path.relative_to(REPOSITORY)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in parts]
    return _ensure(AGENT, _key("agent", *PYTHON_PACKAGES, *contents), _make_agent)


def _sources() -> list[Path]:
    files = (SERVICE / "src").rglob("*")
    return sorted(path for path in files if path.is_file() and "__pycache__" not in path.parts)


@dataclass(slots=True)
class Stage:
    """The last stage of a Containerfile: what its image is configured with."""

    config: Config
    target: str  # the virtual environment, which is copied from the stage before


def read_containerfile(text: str) -> Stage:
    """Read the last stage of a Containerfile. Raises BuildError for what this cannot follow."""
    stage = Stage(Config([]), "")
    for line in re.sub(r"\\\n", " ", text).splitlines():
        words = line.strip()
        instruction, _unused, rest = words.partition(" ")
        match instruction.upper():
            case "FROM":
                stage = Stage(Config([]), "")
            case "ENV":
                for setting in shlex.split(rest):
                    key, equals, value = setting.partition("=")
                    if not equals:
                        raise BuildError(f"ENV without '=' in the Containerfile: {words}")
                    stage.config.env[key] = value.replace("$PATH", SYSTEM_PATH).replace("${PATH}", SYSTEM_PATH)
            case "USER":
                stage.config.user = rest.strip()
            case "WORKDIR":
                stage.config.working_dir = rest.strip()
            case "ENTRYPOINT":
                stage.config.entrypoint = json.loads(rest)
            case "CMD":
                stage.config.command = json.loads(rest)
            case "COPY" if "--from=" in rest:
                stage.target = rest.split()[-1]
    if not stage.config.entrypoint or not stage.config.user or not stage.target:
        raise BuildError("the last stage of the Containerfile needs COPY --from=, USER and ENTRYPOINT")
    return stage


def _make_agent(out: Path, scratch: Path) -> None:
    stage = read_containerfile(CONTAINERFILE.read_text())
    pyproject = SERVICE / "pyproject.toml"

    def packages(root: Path) -> None:
        _install(root, stage.target, "--requirement", str(pyproject))
        target = root / stage.target.lstrip("/")
        # With the scripts, what makes a prefix a virtual environment.
        (target / "bin" / "python").symlink_to("/usr/bin/python3")
        (target / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")

    words = [stage.target, *(path.read_text() for path in (pyproject, LOCK))]
    layers = [_python_layer(), _layer("agent-packages", _key(*words), packages)]
    service = scratch / "service"
    _install(service, stage.target, "--no-deps", str(SERVICE))
    layers.append(pack_layer(service, scratch / "service-layer"))
    write_archive(out, AGENT, layers, stage.config)


def _install(root: Path, inside: str, *what: str) -> None:
    """Install what the lock names into the prefix `inside` of an image, for the image's Python, not the one here."""
    target = root / inside.lstrip("/")
    target.mkdir(parents=True)
    machine = f"{platform.machine()}-manylinux_2_28"
    words = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--prefix", str(target), "--link-mode", "copy"]
    words += ["--python-version", "3.11", "--python-platform", machine, "--no-build-isolation"]
    words += ["--constraint", str(LOCK), *what]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        raise BuildError(f"the agent's packages could not be installed:\n{done.stderr[-2000:]}")
    for script in (target / "bin").iterdir() if (target / "bin").exists() else ():
        if not script.is_symlink() and script.read_bytes().startswith(b"#!"):
            script.write_text(f"#!{inside}/bin/python\n" + script.read_text().partition("\n")[2])
    _compile(target)


def _compile(folder: Path) -> None:
    """Compile to bytecode, which a container without a writable disk would do anew at each start.

    Only a Python of the image's version can; with another the image works and starts later.
    """
    if sys.version_info[:2] == (3, 11):
        # Not by time: times are not kept in layers.
        words = ["-m", "compileall", "-q", "-s", str(folder), "--invalidation-mode", "unchecked-hash", str(folder)]
        subprocess.run([sys.executable, *words], check=False, timeout=300, capture_output=True)
