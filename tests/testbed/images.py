# SPDX-License-Identifier: Apache-2.0
"""Container images without a registry and without a container engine: OCI archives made of Debian packages and wheels.

    localhost/pause:1          what holds a pod's namespaces
    localhost/py:1             Debian's Python 3.11 and busybox: sh, tar, sha256sum, stty, nc, wget
    localhost/mooring-agent:1  the agent: the content that deploy/Containerfile describes, from this repository

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
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testbed import binaries
from testbed.errors import BuildError
from testbed.state import locked

PAUSE = "localhost/pause:1"
PY = "localhost/py:1"
AGENT = "localhost/mooring-agent:1"
RECIPE = "1"  # raised when this file makes something else of the same content

REPOSITORY = Path(__file__).resolve().parents[2]
SERVICE = REPOSITORY / "roles" / "server" / "files" / "service"
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
                "WorkingDir": config.working_dir,
                "User": config.user,
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.sha256}" for layer in layers]},
            "history": [{"created": epoch} for _ in layers],
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


def _ensure(name: str, key: str, make: Any) -> Path:
    """The archive of an image, made under a lock if it is not there; older versions of it are removed."""
    stem = name.removeprefix("localhost/").partition(":")[0]
    out = folder() / f"{stem}-{key}.tar"
    if out.exists():
        return out
    with locked(f"image-{stem}"):
        if not out.exists():
            binaries.say(f"[image] {name}")
            with tempfile.TemporaryDirectory(prefix="mooring-image-") as scratch:
                make(out, Path(scratch))
    return out


def _make_pause(out: Path, scratch: Path) -> None:
    # A sandbox is killed by SIGKILL and has nothing to reap, so that a sleep is enough.
    root = scratch / "root"
    unpack(["busybox-static"], scratch / "debs", scratch / "all")
    (root / "bin").mkdir(parents=True)
    shutil.copy2(scratch / "all" / "bin" / "busybox", root / "bin" / "busybox")
    layer = pack_layer(root, scratch / "layer")
    write_archive(out, PAUSE, [layer], Config(["/bin/busybox", "sleep", "2147483647"]))


def _make_py(out: Path, scratch: Path) -> None:
    write_archive(out, PY, [pack_layer(python_root(scratch), scratch / "layer")], Config(["/usr/bin/python3"]))


def python_root(scratch: Path) -> Path:
    """Unpack Debian's Python and busybox as a root file system below `scratch`."""
    root = scratch / "root"
    unpack(PYTHON_PACKAGES, scratch / "debs", root)
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
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    return root


def unpack(packages: Iterable[str], debs: Path, root: Path) -> None:
    """Fetch Debian packages with this machine's apt and unpack them, without running anything of theirs.

    Raises BuildError with what apt said.
    """
    debs.mkdir(parents=True)
    root.mkdir(parents=True, exist_ok=True)
    # apt's own user may not write in a folder of ours.
    fetch = ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", *packages]
    try:
        done = subprocess.run(fetch, cwd=debs, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode != 0:
            said = re.sub(r"https?://\S+", "(mirror)", done.stderr)[-1500:]
            raise BuildError(f"apt-get download failed (is `apt-get update` done?):\n{said}")
        for deb in sorted(debs.glob("*.deb")):
            subprocess.run(["dpkg", "-x", deb, root], check=True, timeout=120, capture_output=True)
    except FileNotFoundError as error:
        raise BuildError(f"images are made of Debian packages, and there is no {error.filename}") from None
