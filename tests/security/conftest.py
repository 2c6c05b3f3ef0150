# SPDX-License-Identifier: Apache-2.0
"""The one road of the attack book: a server, and two clusters A and B with real API servers and agents.

It stands for the whole folder, so a test changes nothing that another relies on: users are made with `road.person`,
under names of the test's own, and what a test breaks it mends. Attacks go over `road.dial()`, byte for byte; what an
API server took a caller for is read from its audit log, or asked of it with `road.whoami`.

Wrong passwords and join tokens slow their source address down: a test that sends them dials from an address of its own
(`road.dial(source=new_source())`, any of 127.0.0.0/8).
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.glass import Glass
from support.rawhttp import Headers, RawAnswer, RawClient, bearer
from support.road import Kubectl, Server, agent_process, stop_process, until
from testbed.controlplane import ControlPlane
from testbed.state import Run

PLANES = os.environ.get("MOORING_ATTACKED_PLANES", "")
"""A file with the facts of two control planes that run already: `make mutants` keeps them for many roads in turn."""

_sources = itertools.count(1)
_SELF = json.dumps({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).encode()


def new_source() -> str:
    """A client address that no other test uses."""
    number = next(_sources)
    return f"127.77.{number // 250}.{number % 250 + 1}"


@dataclass
class Cluster:
    """A downstream cluster. `direct` is its administrator, past the server."""

    name: str
    id: str
    plane: ControlPlane
    direct: Kubectl
    agent: subprocess.Popen[bytes]
    folder: Path
    _marks: Iterator[int] = field(default_factory=itertools.count)

    def path(self, rest: str) -> str:
        """The URL path of a path in this cluster."""
        return f"/k8s/clusters/{self.name}{rest}"

    @property
    def audit_file(self) -> Path:
        return self.plane.dir / "logs" / "audit.jsonl"

    @property
    def agent_log(self) -> str:
        return (self.folder / "agent.log").read_text()

    def position(self) -> int:
        """Where the API server's audit log ends now."""
        return self.audit_file.stat().st_size if self.audit_file.exists() else 0

    def seen(self, since: int = 0) -> list[dict[str, Any]]:
        """What the API server recorded after a position: metadata of each request, `impersonatedUser` among it."""
        with self.audit_file.open("rb") as log:
            log.seek(since)
            return [json.loads(line) for line in log.read().split(b"\n")[:-1]]


@dataclass
class Person:
    """A user of the server. `uid` is what the clusters get as the uid."""

    name: str
    password: str
    token: str
    id: str
    uid: str


Known = tuple[str, str, list[str]]
"""Name, uid and sorted groups, as an API server knows somebody."""


@dataclass
class Road:
    server: Server
    a: Cluster
    b: Cluster

    def dial(self, source: str = "127.0.0.1") -> RawClient:
        """A client that sends exact bytes to the server."""
        return RawClient(self.server.address, self.server.port, self.server.ca, source)

    def person(
        self, name: str, *, clusters: Sequence[Cluster] = (), groups: Sequence[str] = (), password: bool = True
    ) -> Person:
        """Make a user, a member of `clusters`, in `groups` (which are made), with a token.

        Without `password` the user cannot log in; hashing one is what costs most here.
        """
        server = self.server
        for group in groups:
            if server.call("GET", f"/api/v1/groups/{group}", token=server.admin_token).status == 404:
                server.api("POST", "/groups", {"name": group})
        secret = secrets.token_urlsafe(18) if password else ""
        made = server.api("POST", "/users", {"name": name, "password": secret or None, "groups": list(groups)})
        for cluster in clusters:
            server.api("POST", "/memberships", {"cluster": cluster.name, "user": name})
        token = server.api("POST", "/tokens", {"user": name, "ttl_seconds": 3600})["token"]
        return Person(name, secret, token, made["id"], made["uid"])

    def known_as(self, person: Person) -> Known:
        """As whom a cluster must know a person: the name, uid and sorted groups that the server vouches for."""
        me = self.server.api("GET", f"/users/{person.id}")
        names = sorted([*(f"mooring:{group}" for group in me["groups"]), "system:authenticated"])
        return f"mooring:{person.name}", str(me["uid"]), names

    def whoami(self, client: RawClient, cluster: Cluster, token: str, headers: Headers = ()) -> RawAnswer:
        """Ask the cluster's API server who is asking (a SelfSubjectReview), with more headers of one's own."""
        content = (b"Content-Type", b"application/json")
        path = cluster.path("/apis/authentication.k8s.io/v1/selfsubjectreviews")
        return client.request("POST", path, bearer(token, content, *headers), _SELF)

    def seen_until(self, cluster: Cluster, since: int) -> list[dict[str, Any]]:
        """The audit events of a cluster's API server since a position, up to a request made now and thus the last."""
        mark = f"/api?mark={secrets.token_hex(8)}"
        cluster.plane.kubectl("get", "--raw", mark)

        def arrived() -> list[dict[str, Any]]:
            events = cluster.seen(since)
            return events if any(event["requestURI"] == mark for event in events) else []

        events: list[dict[str, Any]] = until("the API server's audit log is written", arrived)
        return [event for event in events if not event["requestURI"].startswith("/api?mark=")]

    def server_log(self) -> str:
        return (self.server.folder / "server.log").read_text()


IMPERSONATOR = "system:serviceaccount:mooring-system:mooring-impersonator"


def strangers(events: Sequence[dict[str, Any]], *known: Known) -> list[dict[str, Any]]:
    """Of what came through the agent, the events in which the API server took the caller for none of `known`.

    A request that reached the API server without an impersonated user is one of them.
    """
    found = []
    for event in events:
        if event["user"]["username"] == IMPERSONATOR:
            user = event.get("impersonatedUser", {})
            who = (user.get("username", ""), user.get("uid", ""), sorted(user.get("groups", ())))
            if who not in known:
                found.append(event)
    return found


def join(server: Server, name: str, plane: ControlPlane, folder: Path) -> Cluster:
    """Import a cluster without nodes, its agent a process beside it with the rights of its service account."""
    folder.mkdir(parents=True)
    direct = Kubectl(plane.bin / "kubectl", Path(plane.kubeconfig))
    if PLANES:  # what the road before left there
        direct(
            "-n", "mooring-system", "delete", "secret", "mooring-agent-identity", "mooring-join", "--ignore-not-found"
        )
    made = server.api("POST", "/clusters", {"name": name})
    path = f"/api/v1/clusters/{name}/manifest"
    manifest = server.call("POST", path, {"workload": "none"}, token=server.admin_token)
    assert manifest.status == 200, manifest.body
    direct("apply", "-f", "-", stdin=manifest.body.decode())
    return Cluster(name, made["id"], plane, direct, agent_process(direct, folder), folder)


@pytest.fixture(scope="session")
def road(testbed_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    """A server, and clusters `a` and `b` that joined it."""
    if PLANES:
        planes = [ControlPlane.running(facts) for facts in json.loads(Path(PLANES).read_text())]
    else:
        planes = [ControlPlane(f"attacked-{name}", audit=True, run=testbed_run).up() for name in "ab"]
    folder = tmp_path_factory.mktemp("attacked")
    server = Server(folder / "server")
    server.init()
    clusters: list[Cluster] = []
    try:
        server.start()
        clusters += [
            join(server, name, plane, folder / name) for name, plane in zip(("aft", "bow"), planes, strict=True)
        ]
        for cluster in clusters:
            connected(server, cluster)
        yield Road(server, *clusters)
    finally:
        for cluster in clusters:
            stop_process(cluster.agent)
        server.stop()


def connected(server: Server, cluster: Cluster) -> None:
    """Wait until the cluster is, whichever worker of the server takes the connection."""

    def through() -> bool:
        path, token = cluster.path("/version"), server.admin_token
        return all(server.call("GET", path, token=token).status == 200 for _unused in range(8))

    until(f"{cluster.name} is connected", through, 60)


@pytest.fixture(scope="session")
def bob(road: Road) -> Person:
    """A member of A, not of B, in the group `deckhands`; in A he may read configmaps in the namespace `default`."""
    person = road.person("bob", clusters=[road.a], groups=["deckhands"])
    rbac = "rbac.authorization.k8s.io"
    meta = {"name": "bob-reads", "namespace": "default"}
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]}]
    road.a.plane.apply(
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": meta, "rules": rules},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "bob-reads"},
            "subjects": [{"apiGroup": rbac, "kind": "User", "name": "mooring:bob"}],
        },
    )
    return person


@pytest.fixture(scope="session")
def glass(road: Road) -> Iterator[Glass]:
    """A third cluster, whose agent shows what the server sends into it."""
    it = Glass(road.server, "glass")
    yield it
    it.close()


@pytest.fixture
def client(road: Road) -> Iterator[RawClient]:
    """A connection of the test's own."""
    with road.dial() as it:
        yield it


@pytest.fixture(scope="session")
def fresh_name() -> Callable[[str], str]:
    """Names for users and groups that no other test uses: fresh_name("eve") -> "eve-3f9a"."""
    return lambda stem: f"{stem}-{secrets.token_hex(3)}"
