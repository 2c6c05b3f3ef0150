# SPDX-License-Identifier: Apache-2.0
"""From what was observed of a cluster to what is written down about it. Pure: no clock, no store, no hub.

An agent is believed about its own cluster only, and what it says is cut to size and cleaned, since people read it on
their terminals.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from mooring.store.records import Cluster, ClusterState, ClusterStatus, Condition

MAX_CONDITIONS: Final = 32  # of the agent's own
MAX_MESSAGE: Final = 1024  # characters
MAX_WORD: Final = 128
_OWN: Final = ("Connected", "APIServerHealthy", "NodesReady")  # the agent cannot set these
Truth = Literal["True", "False", "Unknown"]


class AgentCondition(msgspec.Struct, frozen=True):
    """A condition as the agent reports it."""

    type: str
    status: Truth
    reason: str = ""
    message: str = ""


class StatusMessage(msgspec.Struct, frozen=True):
    """The tunnel's control message of kind `status` (docs/protocol/tunnel.md). Unknown fields are left out."""

    kubernetes_version: str = ""
    node_count: int | None = None
    nodes_ready: int | None = None
    api_server_healthy: bool | None = None
    api_server_message: str = ""
    agent_version: str = ""
    conditions: list[AgentCondition] = msgspec.field(default_factory=list)


@dataclass(slots=True)
class Observed:
    """What this process saw of a cluster. None: nothing yet."""

    connected: bool = False
    connected_at: float | None = None
    lost_reason: str | None = None
    refused_reason: str | None = None
    message: StatusMessage | None = None
    seen_at: float | None = None


def read_message(message: dict[str, Any]) -> StatusMessage:
    """An agent's status message, cleaned. Raises ValueError if it does not have the form."""
    try:
        status = msgspec.convert(message, StatusMessage)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    return StatusMessage(
        kubernetes_version=clean(status.kubernetes_version, MAX_WORD),
        node_count=_count(status.node_count),
        nodes_ready=_count(status.nodes_ready),
        api_server_healthy=status.api_server_healthy,
        api_server_message=clean(status.api_server_message, MAX_MESSAGE),
        agent_version=clean(status.agent_version, MAX_WORD),
        conditions=[
            AgentCondition(
                clean(condition.type, MAX_WORD),
                condition.status,
                clean(condition.reason, MAX_WORD),
                clean(condition.message, MAX_MESSAGE),
            )
            for condition in status.conditions[:MAX_CONDITIONS]
        ],
    )


def clean(text: str, most: int) -> str:
    """One line, without control characters, of at most `most` characters."""
    return "".join(" " if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") else char for char in text[:most])


def merge(cluster: Cluster, observed: Observed, now: float) -> ClusterStatus:
    """The new status of a cluster: what is stored, brought up to date by what was observed."""
    state, reason = _state(cluster, observed)
    message = observed.message
    connected = state == "connected"
    if message is None:
        message = StatusMessage(
            kubernetes_version=cluster.kubernetes_version,
            node_count=cluster.node_count,
            nodes_ready=cluster.nodes_ready,
            agent_version=cluster.agent_version,
        )
    return ClusterStatus(
        state=state,
        state_reason=reason,
        conditions=_conditions(cluster, state, reason, message if connected else None, now),
        last_seen_at=observed.seen_at or cluster.last_seen_at,
        connected_at=observed.connected_at or cluster.connected_at,
        kubernetes_version=message.kubernetes_version or cluster.kubernetes_version,
        node_count=message.node_count,
        nodes_ready=message.nodes_ready,
        api_server_healthy=message.api_server_healthy if connected else None,
        agent_version=message.agent_version or cluster.agent_version,
    )


def _state(cluster: Cluster, observed: Observed) -> tuple[ClusterState, str]:
    if observed.connected:
        return "connected", ""
    if observed.refused_reason is not None:
        return "refused", clean(observed.refused_reason, MAX_MESSAGE)
    if cluster.connected_at is not None or observed.connected_at is not None:
        if observed.lost_reason is not None:
            return "disconnected", clean(observed.lost_reason, MAX_MESSAGE)
        return "disconnected", cluster.state_reason if cluster.state == "disconnected" else "waiting for the agent"
    if cluster.public_key is not None:
        return "pending", "the agent has registered and has not connected yet"
    return "pending", "no agent has registered yet"


def _conditions(
    cluster: Cluster, state: ClusterState, reason: str, message: StatusMessage | None, now: float
) -> tuple[Condition, ...]:
    """Ours first, then the agent's. A condition keeps its time while its status stays the same."""
    words = {"connected": "AgentConnected", "refused": "AgentRefused", "disconnected": "AgentLost"}
    wanted: list[AgentCondition] = [
        AgentCondition(
            "Connected", "True" if state == "connected" else "False", words.get(state, "NeverConnected"), reason
        )
    ]
    if message is not None:
        wanted += _reported(message)
    else:
        # What nobody reports any more is not known any more.
        wanted += [
            AgentCondition(old.type, "Unknown", "AgentNotConnected", "")
            for old in cluster.conditions
            if old.type != "Connected"
        ]
    before = {condition.type: condition for condition in cluster.conditions}
    result = []
    for condition in wanted:
        old = before.get(condition.type)
        since = old.last_transition_at if old is not None and old.status == condition.status else now
        result.append(Condition(condition.type, condition.status, condition.reason, condition.message, since))
    return tuple(result)


def _reported(message: StatusMessage) -> list[AgentCondition]:
    healthy = message.api_server_healthy
    health: Truth = "Unknown" if healthy is None else "True" if healthy else "False"
    words = {"True": "Healthy", "False": "Unhealthy", "Unknown": "NotReported"}
    conditions = [AgentCondition("APIServerHealthy", health, words[health], message.api_server_message)]
    if message.node_count is None or message.nodes_ready is None:
        conditions.append(AgentCondition("NodesReady", "Unknown", "NotReported", ""))
    else:
        ready = message.nodes_ready >= message.node_count
        text = f"{message.nodes_ready} of {message.node_count} nodes are ready"
        conditions.append(
            AgentCondition("NodesReady", "True" if ready else "False", "AllReady" if ready else "SomeNotReady", text)
        )
    seen = set(_OWN)
    for condition in message.conditions:
        if condition.type and condition.type not in seen:
            seen.add(condition.type)
            conditions.append(condition)
    return conditions


def _count(value: int | None) -> int | None:
    return None if value is None else max(0, min(value, 1_000_000))
