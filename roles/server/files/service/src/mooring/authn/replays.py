# SPDX-License-Identifier: Apache-2.0
"""Each JWT of an agent is good once: which ones were seen, and could still be shown again.

A worker keeps one of these for itself; the control process keeps the one that counts for all workers, since a JWT that
was read on its way to one worker could be shown to another. Bounded per cluster: when it is full, nothing is let in.
"""

from __future__ import annotations

from typing import Final

REPLAYS_PER_CLUSTER: Final = 512  # handshakes that one agent may make within the life of a JWT


class Replays:
    """The values of `jti` that could still be replayed, by cluster. A cluster without any takes no memory for long."""

    def __init__(self) -> None:
        # `jti` and until when it counts, the oldest first; the cluster that connected last stands last. One dict each:
        # a cluster that connects once in weeks is the common one, and there are thousands.
        self._seen: dict[str, dict[str, float]] = {}

    def first_time(self, cluster_id: str, jti: str, until: float, now: float) -> bool:
        """Remember a `jti` until that time. False: it was seen, or the cluster's agents connect too often."""
        seen = self._seen.pop(cluster_id, {})
        self._seen[cluster_id] = seen
        self._drop_expired(now)
        _expire(seen, now)
        if jti in seen or len(seen) >= REPLAYS_PER_CLUSTER:
            return False
        # An entry may stand behind one that lives longer; it then stays a little longer than it must, never shorter.
        seen[jti] = until
        return True

    def seen(self, now: float) -> list[tuple[str, str, float]]:
        """What could still be replayed: cluster, `jti`, and until when."""
        return [
            (cluster, jti, until) for cluster, seen in self._seen.items() for jti, until in seen.items() if until > now
        ]

    def forget(self, cluster_id: str) -> None:
        """The cluster is gone; drop what is remembered of it."""
        self._seen.pop(cluster_id, None)

    def _drop_expired(self, now: float) -> None:
        """Forget two of the clusters that were longest quiet, if nothing of theirs counts any more."""
        for _unused in range(2):  # more than come: so that they do not pile up
            first = next(iter(self._seen))
            seen = self._seen[first]
            _expire(seen, now)
            if seen or len(self._seen) == 1:
                break
            del self._seen[first]


def _expire(seen: dict[str, float], now: float) -> None:
    while seen:
        jti = next(iter(seen))
        if seen[jti] > now:
            break
        del seen[jti]
