# SPDX-License-Identifier: Apache-2.0
"""Each JWT of an agent is good once: which ones were seen, and could still be shown again.

A worker keeps one of these for itself; the control process keeps the one that counts for all workers, since a JWT that
was read on its way to one worker could be shown to another. Bounded per cluster: when it is full, nothing is let in.
"""

from __future__ import annotations

from collections import deque
from typing import Final

REPLAYS_PER_CLUSTER: Final = 512  # handshakes that one agent may make within the life of a JWT


class Replays:
    """The values of `jti` that could still be replayed, by cluster."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def first_time(self, cluster_id: str, jti: str, until: float, now: float) -> bool:
        """Remember a `jti` until that time. False: it was seen, or the cluster's agents connect too often."""
        seen = self._seen.get(cluster_id)
        if seen is None:
            seen = self._seen[cluster_id] = _Seen()
        return seen.first_time(jti, until, now)

    def seen(self, now: float) -> list[tuple[str, str, float]]:
        """What could still be replayed: cluster, `jti`, and until when."""
        return [
            (cluster, jti, until) for cluster, seen in self._seen.items() for until, jti in seen.order if until > now
        ]

    def forget(self, cluster_id: str) -> None:
        """The cluster is gone; drop what is remembered of it."""
        self._seen.pop(cluster_id, None)


class _Seen:
    def __init__(self) -> None:
        self._ids: set[str] = set()
        self.order: deque[tuple[float, str]] = deque()

    def first_time(self, jti: str, until: float, now: float) -> bool:
        while self.order and self.order[0][0] <= now:
            self._ids.discard(self.order.popleft()[1])
        if jti in self._ids or len(self._ids) >= REPLAYS_PER_CLUSTER:
            return False
        self._ids.add(jti)
        # An entry may stand behind one that lives longer; it then stays a little longer than it must, never shorter.
        self.order.append((until, jti))
        return True
