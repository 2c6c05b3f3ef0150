# SPDX-License-Identifier: Apache-2.0
"""Writing files so that nobody else can read them and nobody ever sees half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mooring.lib.errors import MooringError


def private_folder(path: Path) -> None:
    """Makes a folder with mode 0700, or sets that mode on one that we own. Raises MooringError when it cannot."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_mode & 0o777 != 0o700:
            path.chmod(0o700)
    except OSError as error:
        raise MooringError(f"the folder {path} cannot be made private: {error}", "choose your own folder") from None


def write_atomic(path: Path, data: str | bytes, mode: int = 0o600, owner: tuple[int, int] | None = None) -> None:
    """Replaces a file in one step: a reader sees the old content or the new, never a part, even after a power cut.

    The file is created with `mode` from the start, so its content is never readable by others for a moment. `owner`:
    user and group that it is given to, if it is not theirs already. Raises OSError.
    """
    content = data.encode() if isinstance(data, str) else data
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # made with mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            made = os.fstat(file.fileno())
            if owner not in (None, (made.st_uid, made.st_gid)):
                os.fchown(file.fileno(), *owner)
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
