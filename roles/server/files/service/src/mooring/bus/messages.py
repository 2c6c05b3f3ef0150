# SPDX-License-Identifier: Apache-2.0
"""The messages of the bus. They are plain values; what they carry of people and clusters are the store's records.

A worker says `Join` first. Control answers with `Welcome`, the parts of a snapshot and `SnapshotEnd`, and from then on
with every `Changed` in the order of the commits. Times are Unix seconds.
"""

from __future__ import annotations

import msgspec

from mooring.store.records import Cluster, Delta, Members, Token, User

MAX_PART = 100
"""Records in one part of a snapshot."""
MAX_MEMBERS = 10_000
"""Users and groups in one part of who may enter a cluster. With fewer, it goes whole, in the company of others."""


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    pass


class Family(msgspec.Struct, frozen=True):
    """One metric of one process: `samples` are (name, labels, value)."""

    name: str
    kind: str
    help: str
    samples: list[tuple[str, dict[str, str], float]]


# --- a worker to control ---------------------------------------------------------------------------------------------


class Join(_Message, frozen=True):
    """A worker is there, or there again. `connected`: the clusters whose agent has a session with it, each with the
    last status that the agent reported, as JSON; empty: none yet. `policies` and `endpoints`: also the last
    `policy-status` and `endpoint-status` of each.
    `seen`: JWTs of agents that were let in here, as in `Claim`, for a control process that does not know."""

    instance: str
    slot: int
    pid: int
    connected: dict[str, bytes]
    seen: list[tuple[str, str, float]] = []
    policies: dict[str, bytes] = {}
    endpoints: dict[str, bytes] = {}


class AgentUp(_Message, frozen=True):
    """The first usable session of a cluster at this worker."""

    cluster_id: str


class AgentDown(_Message, frozen=True):
    """The last session of a cluster at this worker went."""

    cluster_id: str
    reason: str


class AgentSaid(_Message, frozen=True):
    """A control message of a cluster's agent, as JSON: what agents send need not fit into MessagePack."""

    cluster_id: str
    message: bytes


class AgentRefused(_Message, frozen=True):
    """A handshake that named this cluster was refused."""

    cluster_id: str
    reason: str


class Claim(_Message, frozen=True):
    """Is this the first use of an agent's JWT at any worker? `until`: when the JWT is worth nothing any more."""

    id: int
    cluster_id: str
    jti: str
    until: float


class Used(_Message, frozen=True):
    """Tokens that were used here, and when last."""

    times: dict[str, float]


class Sampled(_Message, frozen=True):
    """This worker's metrics; the answer to `Sample`, or (id 0) the last ones before it ends."""

    id: int
    families: list[Family]


class AskMetrics(_Message, frozen=True):
    """Somebody asked this worker for the metrics of the whole server."""

    id: int


class Leaving(_Message, frozen=True):
    """This worker takes nothing new: agents need not look for it."""


ToControl = Join | AgentUp | AgentDown | AgentSaid | AgentRefused | Claim | Used | Sampled | AskMetrics | Leaving

# --- control to a worker ---------------------------------------------------------------------------------------------


class Welcome(_Message, frozen=True):
    """A snapshot follows. `audience` is what the JWTs of agents must be made out to."""

    audience: str


class SnapshotPart(_Message, frozen=True):
    """Some of what the index holds."""

    clusters: list[Cluster] = []
    users: list[User] = []
    tokens: list[Token] = []
    members: dict[str, Members] = {}


class SnapshotEnd(_Message, frozen=True):
    """The snapshot is complete."""


class Changed(_Message, frozen=True):
    """What a commit changed."""

    delta: Delta


class Tell(_Message, frozen=True):
    """A control message for a cluster's agents, as JSON: for those that are connected, and for each that connects until
    another one of its kind takes its place. Only to a worker that has a session of the cluster."""

    cluster_id: str
    message: bytes


class MembersPart(_Message, frozen=True):
    """Some of those who may enter these clusters, which all have the same: for clusters with many, in the snapshot and
    after it. The parts of one value follow each other; `last`: that was all of it."""

    cluster_ids: list[str]
    part: Members
    last: bool


class Instances(_Message, frozen=True):
    """The live instances (workers) of this server, in the order of their slots."""

    names: list[str]


class Reachable(_Message, frozen=True):
    """The clusters whose agent is connected to any worker."""

    cluster_ids: list[str]


class Reach(_Message, frozen=True):
    """A cluster became reachable through some worker, or stopped being so."""

    cluster_id: str
    connected: bool


class Doubted(_Message, frozen=True):
    """Another worker has lost its session with the cluster's agent: is the one here alive?"""

    cluster_id: str


class Beat(_Message, frozen=True):
    """Control lives. `database` says what is wrong with the database; empty: nothing."""

    database: str


class Claimed(_Message, frozen=True):
    """The answer to a `Claim`: whether it was the first."""

    id: int
    first: bool


class Sample(_Message, frozen=True):
    """Send your metrics."""

    id: int


class Metrics(_Message, frozen=True):
    """The answer to `AskMetrics`: all processes' metrics in the Prometheus text format."""

    id: int
    text: bytes


ToWorker = (
    Welcome
    | SnapshotPart
    | SnapshotEnd
    | Changed
    | MembersPart
    | Tell
    | Instances
    | Reachable
    | Reach
    | Doubted
    | Beat
    | Claimed
    | Sample
    | Metrics
)
