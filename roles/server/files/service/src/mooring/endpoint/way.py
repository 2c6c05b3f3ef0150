# SPDX-License-Identifier: Apache-2.0
"""The way into the one cluster that this process is in: what the hub of tunnels is on the server.

It must not: wait, or know another cluster.
"""

from __future__ import annotations

from collections.abc import Callable

from mooring.agent.local import LocalSession
from mooring.tunnel.hub import Lost
from mooring.tunnel.stream import APISERVER, StreamOpener


class OwnCluster:
    """A `proxy.ports.Hub` with one session that never goes while the process runs."""

    def __init__(self, cluster_id: str, session: LocalSession) -> None:
        self._cluster_id = cluster_id
        self._session = session

    def session_for(self, cluster_id: str, *, target: str = APISERVER) -> StreamOpener | None:
        """Every target is served."""
        return self._session if cluster_id == self._cluster_id and self._session.usable else None

    def expected(self, cluster_id: str) -> bool:
        """There is no other process that it could come from."""
        return False

    def wait_for(
        self, cluster_id: str, callback: Callable[[StreamOpener | None], None], seconds: float
    ) -> Callable[[], None]:
        """Nothing comes."""
        callback(None)
        return lambda: None

    def last_lost(self, cluster_id: str) -> Lost | None:
        """It never was."""
        return None
