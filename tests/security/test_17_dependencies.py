# SPDX-License-Identifier: Apache-2.0
"""Attack class 17: something that a decision hangs on is killed, in the hope that its absence reads as yes.

Database, API server and agent, one after the other: who might not before may not now, nothing is answered for them,
and nothing that could not be kept is said to have been done. The road is one of its own, on PostgreSQL, as all of it
breaks. Guards: `proxy/chain.py` and `authn/index.py` (a right is what the index has; nothing is asked of what could
be away), `api/problems.py` (no store, no success), `control/` and `tunnel/hub.py` (no agent, no answer),
`agent/dispatch.py`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from support import postgres
from support.road import BIN, Server, agent_process, run, stop_process, until
from testbed.controlplane import ControlPlane
from testbed.state import Run

from .conftest import Cluster, Road, connected, join


@dataclass
class Breakable:
    """A road whose parts may be killed."""

    road: Road
    database: postgres.Postgres

    def kill_database(self) -> None:
        """SIGKILL to PostgreSQL's first process; the others end with it."""
        pid = int((self.database.folder / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def breakable(testbed_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Breakable]:
    folder = tmp_path_factory.mktemp("breakable")
    plane = ControlPlane("breakable", audit=True, run=testbed_run).up()
    with postgres.running() as database:
        server = Server(folder / "server", database=database.create("mooring"))
        server.init()
        cluster: Cluster | None = None
        try:
            server.start()
            cluster = join(server, "hulk", plane, folder / "hulk")
            connected(server, cluster)
            yield Breakable(Road(server, cluster, cluster), database)
        finally:
            if cluster is not None:
                stop_process(cluster.agent)
            server.stop()


def test_without_api_server_agent_or_database_nobody_may_more(breakable: Breakable) -> None:
    road = breakable.road
    server, cluster = road.server, road.a
    secret = cluster.path("/api/v1/namespaces/default/secrets")
    member = road.person("member", clusters=[cluster])
    stranger = road.person("stranger")
    gone = road.person("gone", clusters=[cluster])
    revoked = server.api("GET", "/whoami", token=gone.token)["token"]["id"]
    server.api("DELETE", f"/tokens/{revoked}")
    forged = member.token[:-4] + "aaaa"

    def refused(while_down: str) -> None:
        for name, token, wanted in (
            ("nobody", None, 401),
            ("a stranger", stranger.token, 403),
            ("a revoked token", gone.token, 401),
            ("a forged token", forged, 401),
        ):
            for path in (secret, cluster.path("/api")):
                answer = server.call("GET", path, token=token)
                assert answer.status == wanted, (while_down, name, path, answer.status, answer.body[:300])
            if name != "a stranger":
                assert server.call("GET", "/api/v1/users", token=token).status == 401, (while_down, name)
                assert server.call("GET", "/metrics", token=token).status == 401, (while_down, name)
        assert server.call("GET", "/api/v1/users", token=stranger.token).status == 403, while_down

    def member_gets(path: str) -> int:
        return server.call("GET", cluster.path(path), token=member.token).status

    refused("nothing")
    assert server.call("GET", secret, token=member.token).status == 403, "the cluster's own answer"

    # The API server: nothing stands in for its authorisation, also for what it answered before.
    cluster.plane.kill_api()
    refused("the API server")
    for _unused in range(3):
        for path in ("/api", "/version", "/api/v1/namespaces/default/secrets", "/api/v1/pods?watch=1"):
            assert member_gets(path) in (502, 503, 504), path
    assert server.call("GET", secret, token=server.admin_token).status in (502, 503, 504)
    cluster.plane.start_api()
    until("the API server answers again", lambda: member_gets("/api") == 200, 60)
    assert server.call("GET", secret, token=member.token).status == 403, "its authorisation is there again"

    # The agent.
    cluster.agent.kill()
    cluster.agent.wait()
    until("the agent is missed", lambda: member_gets("/api") == 503, 60)
    refused("the agent")
    assert server.call("GET", secret, token=server.admin_token).status == 503
    cluster.agent = agent_process(cluster.direct, cluster.folder)
    until("the agent is back", lambda: member_gets("/api") == 200, 60)

    # The database, last, as it stays away: what could not be kept was not done.
    breakable.kill_database()
    until("the server says that it is not ready", lambda: server.call("GET", "/readyz").status == 503, 60)
    refused("the database")
    assert server.call("GET", secret, token=member.token).status in (403, 502, 503, 504)
    login = {"username": "admin", "password": (server.folder / "admin.password").read_text()}
    wrong = {"username": "stranger", "password": "wrong"}
    new = {"name": "made-without-database", "password": "a long enough one", "groups": ["admins"]}
    for method, path, body, token in (
        ("POST", "/login", login, None),
        ("POST", "/login", wrong, None),
        ("POST", "/users", new, server.admin_token),
        ("POST", "/tokens", {}, member.token),
        ("POST", "/memberships", {"cluster": "hulk", "user": "stranger"}, server.admin_token),
        ("DELETE", f"/users/{member.id}", None, server.admin_token),
        ("POST", "/users/me/password", {"old": member.password, "new": "x" * 20}, member.token),
        (
            "POST",
            "/agents/register",
            {
                "join_token": "mrj_j-aaaaaaaaaaaa_" + "a" * 52,
                "public_key": "A" * 43,
                "cluster_uid": "u",
                "agent_version": "0",
                "kubernetes_version": "v1",
            },
            None,
        ),
        ("POST", "/clusters/hulk/join-tokens", None, server.admin_token),
        ("POST", "/kubeconfig", {}, member.token),
    ):
        answer = server.call(method, f"/api/v1{path}", body, token=token)
        assert answer.status >= 400, (method, path, answer.body[:300])
        assert answer.status in (429, 500, 503, 504) or token is None, (method, path, answer.status, answer.body[:300])
    assert server.call("GET", secret, token=stranger.token).status == 403, (
        "a membership that was not kept gives nothing"
    )

    # And a server that has no database does not begin to serve.
    server.stop()
    done = run(["timeout", "25", BIN / "mooring", "server", "run", "--config", server.config], check=False, timeout=60)
    assert done.returncode != 0
    with pytest.raises(OSError, match=r"refused|Connection|timed out|reset"):
        server.call("GET", secret, token=server.admin_token)
