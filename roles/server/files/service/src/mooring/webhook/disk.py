# SPDX-License-Identifier: Apache-2.0
"""The documents on disk, as they came, so that a start needs no API server: for it may be this one that it waits for.

    index                     the index
    shard-<n>-<16 hex>        a shard, by the digest that the index names
    clock                     the latest time that was seen, as text

A new shard has another name than the one that it replaces, and the index is written last: whatever dies in between, one
whole copy is there. What is read here is worth nothing until `copy` has checked it.

It must not: fail the process. Without a disk that works, serving goes on and a restart needs the API server.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mooring.lib.files import private_folder, write_atomic
from mooring.wire.endpoint import MAX_DOCUMENT

INDEX: Final = "index"
CLOCK: Final = "clock"


def shard_name(number: int, digest: str) -> str:
    """The name of a shard's file."""
    return f"shard-{number}-{digest[:16]}"


class Disk:
    """Reads and writes them. All of it waits for the disk: call it in a thread once there is somebody to answer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def prepare(self) -> None:
        """Makes the folder, for its owner only. Raises MooringError."""
        private_folder(self._folder)

    def index(self) -> bytes | None:
        """The index; None if there is none."""
        return self._read(INDEX)

    def shards(self, wanted: Mapping[int, str]) -> dict[int, bytes]:
        """Of these shards (number -> digest) the ones that are there."""
        found = {number: self._read(shard_name(number, digest)) for number, digest in wanted.items()}
        return {number: data for number, data in found.items() if data is not None}

    def clock(self) -> float:
        """The latest time that was kept, in Unix seconds; 0 if there is none."""
        try:
            time = float((self._folder / CLOCK).read_text("ascii"))
        except (OSError, ValueError):
            return 0.0
        return time if math.isfinite(time) else 0.0

    def save(self, index: bytes, shards: Mapping[int, bytes], named: Mapping[int, str]) -> None:
        """Keep an index and the shards that are new; `named` (number -> digest) are all that it names. What it does not
        name goes. Raises OSError."""
        for number, data in shards.items():
            if number in named:
                write_atomic(self._folder / shard_name(number, named[number]), data)
        write_atomic(self._folder / INDEX, index)
        keep = {shard_name(number, digest) for number, digest in named.items()}
        for path in self._folder.glob("*shard-*"):  # also what a crash has left half written
            if path.name not in keep:
                path.unlink(missing_ok=True)

    def drop_shards(self) -> None:
        """Keep none of them; the index stays, so that an older one is still known for that. Raises OSError."""
        for path in self._folder.glob("*shard-*"):
            path.unlink(missing_ok=True)

    def keep_clock(self, time: float) -> None:
        """Keep the time. Raises OSError."""
        write_atomic(self._folder / CLOCK, f"{time:.3f}\n")

    def _read(self, name: str) -> bytes | None:
        try:
            with (self._folder / name).open("rb") as file:
                data = file.read(MAX_DOCUMENT + 1)
        except OSError:
            return None
        return data if len(data) <= MAX_DOCUMENT else None
