# SPDX-License-Identifier: Apache-2.0
"""Registers thousands of clusters at once, straight into a server's database while it is stopped.

By hand each would take two REST calls, and 5,000 of them longer than the measurement. The rows are what registration
leaves. The keys are throw-away: their seeds go to a file that the light agents read.

    python identities.py DATABASE COUNT FILE      (with the interpreter of the service that is measured)
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mooring.lib.ids import new_id
from mooring.store.sql.tables import ClusterRow
from sqlalchemy import create_engine, insert


def main(database: str, count: int, file: Path) -> None:
    """Write `count` clusters, and '<cluster id> <seed, hex>' for each to `file`."""
    now = time.time()
    rows, lines = [], []
    for number in range(count):
        key, name = Ed25519PrivateKey.generate(), new_id("c")
        lines.append(f"{name} {key.private_bytes_raw().hex()}")
        rows.append({
            "id": name, "name": f"light-{number}", "description": "", "created_at": now, "updated_at": now,
            "version": 1, "state": "disconnected", "state_reason": "", "conditions": "[]", "registered_at": now,
            "kubernetes_version": "", "agent_version": "", "cluster_uid": f"light-{number}",
            "public_key": key.public_key().public_bytes_raw(),
        })  # fmt: skip
    with create_engine(f"sqlite:///{database}").begin() as connection:
        connection.execute(insert(ClusterRow), rows)
    file.touch(mode=0o600)
    file.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
