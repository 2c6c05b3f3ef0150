# SPDX-License-Identifier: Apache-2.0
"""The way to a cluster, hop by hop: login, server, cluster, agent, API server. Each hop is asked for itself.

Uses the REST API and one request through the proxy, with the login of the person who asks; so it also finds out what
this person may not do.
"""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import Any, Final

from mooring.cli import profile
from mooring.cli.client import ApiError, Client, segment
from mooring.cli.findings import Finding, failed, from_error, ok, warning
from mooring.lib.errors import MooringError

_SKEW: Final = 30.0  # what the server allows an agent's clock


def cluster(name: str) -> list[Finding]:
    """The findings for each hop, up to the first that fails: what lies behind it cannot be asked."""
    try:
        login = profile.active()
    except MooringError as error:
        return [from_error("login", error)]
    found: list[Finding] = []
    with Client(login, timeout=15.0) as client:
        try:
            _server(client, found)
            view = client.get(f"clusters/{segment(name)}")
        except ApiError as error:
            if error.status == 404:
                remedy = "see: mooring cluster list; you may lack a membership"
                return [*found, failed("cluster", f"the server knows no cluster {name!r} for you", remedy)]
            return [*found, from_error("server", error)]
        except MooringError as error:
            return [*found, from_error("server", error)]
        found.append(ok("cluster", f"{view['name']} is known here"))
        found += _agent(view)
        if found[-1].result == "failed":
            return found
        found += _api_server(view)
        found += _proxy(client, str(view["name"]))
    return found


def _server(client: Client, found: list[Finding]) -> None:
    """Login, server and its clock, by one request. Raises MooringError."""
    began = time.monotonic()
    answer = client.call("GET", "whoami")
    took = (time.monotonic() - began) * 1000
    found.append(ok("server", f"{client.login.url} answers in {took:.0f} ms"))
    found.append(ok("login", f"you are {answer.json()['user']}"))
    date = answer.headers.get("Date")
    if date:
        skew = time.time() - parsedate_to_datetime(date).timestamp()
        if abs(skew) > _SKEW:
            message = f"this machine's clock differs from the server's by {skew:.0f} s"
            found.append(warning("clock", message, "set both clocks by NTP"))


def _agent(view: dict[str, Any]) -> list[Finding]:
    state, reason = view["state"], view.get("state_reason") or "no reason given"
    name = view["name"]
    if state == "connected":
        return [
            ok("agent", f"connected since {view['connected_at']}, version {view.get('agent_version') or 'unknown'}")
        ]
    if state == "pending":
        remedy = f"apply the manifest in the cluster: mooring cluster manifest {name} | kubectl apply -f -"
        return [failed("agent", "it has never connected", remedy)]
    if state == "refused":
        if "clock" in reason:  # a new join token would change nothing
            return [failed("agent", f"it was refused: {reason}", "set both clocks by NTP")]
        remedy = f"read the reason; a new join token is: mooring cluster join-token {name}"
        return [failed("agent", f"it was refused: {reason}", remedy)]
    remedy = (
        "in the cluster: kubectl -n mooring-system get pods; kubectl -n mooring-system logs deploy/mooring-agent; "
        "check that the cluster can reach the server's URL"
    )
    return [failed("agent", f"lost at {view.get('last_seen_at')}: {reason}", remedy)]


def _api_server(view: dict[str, Any]) -> list[Finding]:
    healthy = view.get("api_server_healthy")
    if healthy is None:
        return [warning("API server", "the agent has not reported on it yet", "try again in a few seconds")]
    if not healthy:
        notes = [c["message"] for c in view.get("conditions", []) if c["status"] == "False" and c.get("message")]
        message = "; ".join(notes) or "the agent reports that it is not healthy"
        return [failed("API server", message, "look at the control plane of the cluster itself")]
    nodes = f"{view.get('nodes_ready')} of {view.get('node_count')} nodes ready"
    return [ok("API server", f"healthy by the agent's report, {view.get('kubernetes_version')}, {nodes}")]


def _proxy(client: Client, name: str) -> list[Finding]:
    """One request all the way."""
    began = time.monotonic()
    try:
        answer = client.call("GET", f"{client.login.url}/k8s/clusters/{segment(name)}/version")
    except ApiError as error:
        remedy = {
            401: "run: mooring login",
            403: f"ask an administrator: mooring membership create {name} --user YOU",
            503: "the agent is gone; run this again",
            504: "the API server does not answer the agent in time",
        }.get(error.status, error.hint or "read the server's and the agent's log")
        return [failed("proxy", f"GET /version gives {error.status}: {error.reason}", remedy)]
    except MooringError as error:
        return [from_error("proxy", error)]
    took = (time.monotonic() - began) * 1000
    return [ok("proxy", f"GET /version through the tunnel: {answer.json()['gitVersion']} in {took:.0f} ms")]
