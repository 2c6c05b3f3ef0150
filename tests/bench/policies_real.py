# SPDX-License-Identifier: Apache-2.0
"""Policies on real API servers: a server, agents as processes with the rights of their service account, and the API
servers' own authorisers asked whether a change holds.

It must not: write any object of a policy itself, or take the agent's word for what holds.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import secrets
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from support.road import Kubectl, Server, agent_process, stop_process, until
from testbed import ControlPlane

CLUSTERS = int(os.environ.get("CLUSTERS", "10"))
CHANGES = 60
EVERYWHERE = 6
POLL = 0.01
BINDINGS = 5000
SPACES = 50
IDLE = 30.0

Found = dict[str, float]
Rows = list[dict[str, Any]]


class Joined:
    """A real cluster with its agent."""

    def __init__(self, name: str, server: Server, folder: Path, keep: contextlib.ExitStack, *, audit: bool) -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir()
        self.plane = keep.enter_context(ControlPlane(name, audit=audit))
        self._server = server
        self._keep = keep
        self._local = threading.local()
        self.kubectl = Kubectl(self.plane.bin / "kubectl", Path(self.plane.kubeconfig))
        server.mooring("cluster", "create", name)
        manifest = server.mooring("cluster", "manifest", name, "--no-workload").stdout
        self.kubectl("apply", "-f", "-", stdin=manifest)

    def start(self) -> int:
        """Start the agent and wait until it is connected; returns its process id."""
        process = agent_process(self.kubectl, self.folder)
        self._keep.callback(stop_process, process)
        until("connected", lambda: self._server.api("GET", f"/clusters/{self.name}")["state"] == "connected", 120)
        return process.pid

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The API server, as its administrator."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            where = urlsplit(self.plane.server)
            connection = self._local.connection = http.client.HTTPSConnection(
                where.hostname or "", where.port, timeout=30, context=self.plane.ssl_context()
            )
        connection.request(
            method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        text = answer.read()
        if answer.status not in (200, 201):
            raise RuntimeError(f"{method} {path}: {answer.status} {text!r}")
        return json.loads(text)

    def allows(self, user: str, resource: str) -> bool:
        """Whether the authoriser lets the user get this, which only a policy gives."""
        spec = {"user": f"mooring:{user}", "resourceAttributes": {"verb": "get", "resource": resource}}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        return bool(self.ask("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)["status"]["allowed"])

    def await_answer(self, user: str, resource: str, wanted: bool, begin: float, deadline: float = 30.0) -> float:
        """Seconds from `begin` until the authoriser answers so."""
        while self.allows(user, resource) != wanted:
            if time.perf_counter() - begin > deadline:
                raise RuntimeError(f"{self.name}: {user} and {resource}: not {wanted} after {deadline} s")
            time.sleep(POLL)
        return time.perf_counter() - begin


@contextlib.contextmanager
def a_server() -> Iterator[tuple[Server, Path, contextlib.ExitStack]]:
    with contextlib.ExitStack() as keep:
        folder = Path(keep.enter_context(tempfile.TemporaryDirectory(prefix="mooring-bench-")))
        server = Server(folder / "server")
        server.folder.mkdir(exist_ok=True)
        server.init()
        server.set("workers", "2")
        server.start()
        keep.callback(server.stop)
        yield server, folder, keep


def template(server: Server, name: str, context: str, resource: str) -> None:
    rule = {"verbs": ["get"], "api_groups": [""], "resources": [resource]}
    server.api("POST", "/role-templates", {"name": name, "context": context, "rules": [rule]})


def user(server: Server, name: str) -> None:
    server.api("POST", "/users", {"name": name, "password": secrets.token_urlsafe(18)})


def run_change() -> tuple[Found, Rows]:
    """Binding changes in one cluster at a time, and global ones in all at once."""
    chance = random.Random(5)
    took: list[float] = []
    everywhere: list[float] = []
    with a_server() as (server, folder, keep):
        clusters = []
        for number in range(CLUSTERS):
            cluster = Joined(f"bench-{number}", server, folder, keep, audit=False)
            cluster.start()
            clusters.append(cluster)
            print(f"[bench]   {cluster.name} is connected", flush=True)
        template(server, "looker", "cluster", "secrets")
        rule = {"verbs": ["get"], "api_groups": [""], "resources": ["configmaps"]}
        server.api("POST", "/global-roles", {"name": "world", "cluster_rules": [rule]})
        for name in ("ann", "bob"):
            user(server, name)
        server.api("POST", "/global-bindings", {"name": "all", "role": "world", "users": ["bob"]})
        for cluster in clusters:
            server.api(
                "POST",
                "/cluster-bindings",
                {"name": cluster.name, "cluster": cluster.name, "role": "looker", "users": ["bob"]},
            )
        for cluster in clusters:  # all is quiet before it begins
            cluster.await_answer("bob", "secrets", True, time.perf_counter())
            cluster.await_answer("bob", "configmaps", True, time.perf_counter())
        bound = dict.fromkeys((cluster.name for cluster in clusters), False)
        for cluster in chance.choices(clusters, k=CHANGES):
            bound[cluster.name] = wanted = not bound[cluster.name]
            begin = time.perf_counter()
            change = "add_users" if wanted else "remove_users"
            server.api("PATCH", f"/cluster-bindings/{cluster.name}", {change: ["ann"]})
            took.append(cluster.await_answer("ann", "secrets", wanted, begin))
        for number in range(EVERYWHERE):
            begin = time.perf_counter()
            server.api("PATCH", "/global-bindings/all", {"remove_users" if number % 2 else "add_users": ["ann"]})
            everywhere += _in_all(clusters, "ann", "configmaps", not number % 2, begin)
    rows = [_row("one cluster", took), _row(f"all {CLUSTERS} at once", everywhere)]
    return {"change_to_enforced_p99_s": _percentile(took + everywhere, 0.99)}, rows


def _in_all(clusters: list[Joined], who: str, resource: str, wanted: bool, begin: float) -> list[float]:
    """The time in each cluster; raises the first error."""
    took: list[float] = []
    errors: list[Exception] = []

    def one(cluster: Joined) -> None:
        try:
            took.append(cluster.await_answer(who, resource, wanted, begin))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(cluster,)) for cluster in clusters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if errors:
        raise errors[0]
    return took


def run_apply() -> tuple[Found, Rows]:
    """A policy that is there before the agent comes: 100 roles in 50 namespaces, each bound to one group."""
    roles = BINDINGS // SPACES
    with a_server() as (server, folder, keep):
        cluster = Joined("bench-apply", server, folder, keep, audit=True)
        server.api("POST", "/groups", {"name": "everybody"})
        spaces = [{"name": f"space-{number}", "create": True} for number in range(SPACES)]
        server.api("POST", "/projects", {"name": "large", "cluster": cluster.name, "namespaces": spaces})
        for number in range(roles):
            template(server, f"bench-role-{number}", "project", f"things{number}")
            binding = {"name": f"b-{number}", "role": f"bench-role-{number}", "groups": ["everybody"]}
            server.api("POST", "/project-bindings", {**binding, "project": "large", "cluster": cluster.name})
        before = _count(cluster)
        pid = cluster.start()
        begin = time.perf_counter()
        until("all bindings are there", lambda: _count(cluster) - before >= BINDINGS, 300)
        took = time.perf_counter() - begin
        until("the status says so", lambda: _settled(server, cluster.name), 120)
        ticks, lines = _cpu(pid), len(cluster.plane.audit_events())
        begin = time.perf_counter()
        time.sleep(IDLE)  # what is measured: nothing shall happen in this time
        passed = time.perf_counter() - begin
        asked = [
            event
            for event in itertools.islice(cluster.plane.audit_events(), lines, None)
            if event["user"]["username"] == "system:serviceaccount:mooring-system:mooring-agent"
            and event["stage"] == "ResponseComplete"
        ]
        found = {"full_apply_5000_s": took}
        idle = {
            "idle_requests_per_min": round(len(asked) * 60 / passed, 1),
            "idle_cpu_percent": round((_cpu(pid) - ticks) / passed * 100, 2),
            "idle_requests": dict(Counter(f"{event['verb']} {_what(event)}" for event in asked)),
        }
        rows: Rows = [{"bindings": _count(cluster) - before, "apply_s": round(took, 2), "rss_mb": _rss(pid), **idle}]
    return found, rows


def _what(event: dict[str, Any]) -> str:
    """What a request of the audit log was for."""
    return str(event.get("objectRef", {}).get("resource") or event["requestURI"].partition("?")[0])


def _count(cluster: Joined) -> int:
    """RoleBindings in the cluster, without reading them all; with a selector the API server would not say."""
    answer = cluster.ask("GET", "/apis/rbac.authorization.k8s.io/v1/rolebindings?limit=1")
    return len(answer["items"]) + int(answer["metadata"].get("remainingItemCount", 0))


def _settled(server: Server, name: str) -> bool:
    status = server.api("GET", f"/clusters/{name}/policy")
    return bool(status["desired_digest"] == status["applied_digest"])


def _cpu(pid: int) -> float:
    """Seconds of processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss(pid: int) -> float:
    return round(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def _percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def _row(what: str, took: list[float]) -> dict[str, Any]:
    named = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {"what": what, "changes": len(took)} | {k: round(_percentile(took, part), 3) for k, part in named.items()}
