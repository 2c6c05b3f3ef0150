# SPDX-License-Identifier: Apache-2.0
"""The direct road as its users take it: tokens that a server issued, and calls straight to an API server with them.

kube-api-auth itself is `support.apiauth.ApiAuth`; here it is told of a cluster that a server knows.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from testbed import pki

from support.apiauth import NAMESPACE, ApiAuth
from support.rawhttp import RawClient, bearer
from support.road import Kubectl, Server

JSON = (b"Content-Type", b"application/json")
READ = "/api/v1/namespaces/default/configmaps?limit=1"
ACCOUNT = "mooring-kube-api-auth"


def configure(auth: ApiAuth, admin: Kubectl, endpoint: dict[str, Any]) -> None:
    """Tell kube-api-auth of its cluster: `endpoint` is what `GET /clusters/X/endpoint` says.

    It gets no more rights than its service account has.
    """
    token = admin("create", "token", ACCOUNT, "--namespace", NAMESPACE, "--duration", "12h").strip()
    config = admin.json("config", "view", "--raw", "--minify", "--flatten")
    config["users"][0]["user"] = {"token": token}
    kubeconfig = pki.write_private(auth.folder / "own.kubeconfig", json.dumps(config).encode())
    auth.configure(SimpleNamespace(**endpoint), kubeconfig)


@dataclass
class Direct:
    """A user's calls straight to an API server, with a token of its endpoint."""

    client: RawClient
    token: str

    @property
    def id(self) -> str:
        """The token's."""
        return self.token.split("_")[1]

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        data = b"" if body is None else json.dumps(body).encode()
        answer = self.client.request(method, path, bearer(self.token, JSON), data)
        if not answer.status:  # the API server was restarted since the last call
            answer = self.client.request(method, path, bearer(self.token, JSON), data)
        return answer.status, answer.json() if 200 <= answer.status < 300 else None

    def status(self, path: str = READ) -> int:
        """Of one call."""
        return self.call("GET", path)[0]


def issue(
    server: Server,
    cluster: str,
    *,
    user: str | None = None,
    ttl: int = 3600,
    token: str | None = None,
    must: bool = True,
) -> str:
    """A token for the endpoint of a cluster that the cluster has when this returns; "" if not, unless it `must`."""
    body = {"endpoint": True, "cluster": cluster, "ttl_seconds": ttl, **({"user": user} if user else {})}
    answer = server.api("POST", "/tokens", body, token=token)
    assert answer["delivered"] or not must, answer
    return str(answer["token"]) if answer["delivered"] else ""


def refused_after(caller: Direct, begun: float, deadline: float, path: str = READ) -> float:
    """Call without an end until it is refused for good (20 times); the seconds from `begun` to the last call that
    was let in had begun, i.e. the bound that was really kept."""
    last_in = begun
    refused = 0
    while refused < 20:
        at = time.monotonic()
        assert at < begun + deadline, f"still let in {deadline} s later"
        if caller.status(path) in (401, 403):
            refused += 1
        else:
            refused, last_in = 0, at
    return last_in - begun
