# SPDX-License-Identifier: Apache-2.0
"""Changing a kubeconfig file that others use too: kubectl, helm, people.

The lock is client-go's (a file `<file>.lock` that must not be there yet), so that `kubectl config` and we do not undo
each other's changes. The file is replaced in one step, with its mode and owner kept, and only if something changes, so
that comments stay as long as they can. A link is followed: what it points to is replaced, the link stays.

It must not: change a file that it cannot read as a whole, or show a piece of one.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from mooring.kube import configtext
from mooring.kube.configmerge import CannotMerge
from mooring.lib.errors import MooringError
from mooring.lib.files import write_atomic

LOCK_WAIT: Final = 10.0
_PAUSE: Final = 0.05
_REMEDY: Final = "nothing was changed"


def update(
    path: Path, change: Callable[[dict[str, Any] | None], Mapping[str, Any]], *, lock_wait: float = LOCK_WAIT
) -> bool:
    """Replace a kubeconfig by what `change` makes of it (None: there is none yet). False: it is that already. Raises
    MooringError, and then the file is as it was."""
    try:
        path = path.absolute()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # kubectl locks the name that it was given; who was given the other name meets us there.
        with locked(path, lock_wait), _target_locked(path, lock_wait) as target:
            before, mode, owner = _read(target)
            old = _load(target, before)
            try:
                new = change(old)
            except CannotMerge as error:
                raise MooringError(f"{path} cannot be merged into: {error}", f"{error.hint}; {_REMEDY}") from None
            if old is not None and old == new:
                return False
            write_atomic(target, configtext.changed(before, old or {}, new), mode, owner)
            return True
    except (OSError, RuntimeError) as error:  # a RuntimeError: a link that leads to itself
        raise MooringError(f"{path} cannot be changed: {error}", _REMEDY) from None


def load(path: Path) -> dict[str, Any] | None:
    """What a kubeconfig holds; None: nothing, or there is none. Raises MooringError."""
    try:
        return _load(path, _read(path)[0])
    except OSError as error:
        raise MooringError(f"{path} cannot be read: {error}", "check its path and mode") from None


def open_to_others(path: Path) -> bool:
    """Whether others than its owner may read the file."""
    return bool(path.stat().st_mode & 0o044)


@contextlib.contextmanager
def locked(path: Path, wait: float) -> Iterator[None]:
    """Hold client-go's lock on the file. Raises MooringError if somebody else does not let go of it, and OSError."""
    lock = path.with_name(path.name + ".lock")
    deadline = time.monotonic() + wait
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            break
        except FileExistsError:
            if time.monotonic() >= deadline:
                raise MooringError(
                    f"another program is changing {path}", f"if there is none, remove {lock}; {_REMEDY}"
                ) from None
            time.sleep(_PAUSE)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            lock.unlink()


@contextlib.contextmanager
def _target_locked(path: Path, wait: float) -> Iterator[Path]:
    """The file itself, where `path` may be a link to it, locked by its own name too."""
    target = path.resolve()
    if target == path.parent.resolve() / path.name:
        yield target
        return
    with locked(target, wait):
        yield target


def _read(path: Path) -> tuple[bytes, int, tuple[int, int] | None]:
    """Content, mode and owner of the file; nothing, 0600 and None if there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return b"", 0o600, None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise MooringError(f"{path} is no file", "name a file, or one that is not there yet")
    with open(descriptor, "rb") as file:
        return file.read(configtext.MAX_SIZE + 1), stat.S_IMODE(found.st_mode), (found.st_uid, found.st_gid)


def _load(path: Path, data: bytes) -> dict[str, Any] | None:
    try:
        return configtext.load(data)
    except configtext.BadText as error:
        raise MooringError(
            f"{path} is no kubeconfig: {error}", f"repair it, or choose another file; {_REMEDY}"
        ) from None
