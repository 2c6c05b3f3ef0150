# SPDX-License-Identifier: Apache-2.0
"""The agent's policy half without a server: a test signs bundles, announces them, and hears what is reported.

The agent runs in this process, as the service account of the real manifest, against a real API server or a fake one.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from email.utils import formatdate
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mooring.agent.identity import Identity, Registrations, new_key
from mooring.agent.policy.service import PolicyAgent
from mooring.agent.servertime import ServerTime
from mooring.kube.client import KubeApi
from mooring.lib.clock import Clock, SystemClock
from mooring.wire import bundle
from testbed.pki import Authority

Manifest = dict[str, Any]
LABELS = {"app.kubernetes.io/managed-by": "mooring", "mooring.fleet/policy": "true"}
RBAC = "rbac.authorization.k8s.io"
CLUSTER_ID = "c-aaaaaaaaaaaa"


async def until(what: str, condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Waits until the condition (which may be a coroutine) is true, and returns what it gave."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                found = condition()
                if isinstance(found, Awaitable):
                    found = await found
                if found:
                    return found
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {seconds:g} s: {what}") from None


def role(name: str, verbs: list[str], resources: list[str], groups: list[str] | None = None) -> Manifest:
    """A ClusterRole as policies have them."""
    rule = {"apiGroups": groups or [""], "resources": resources, "verbs": verbs}
    meta = {"name": f"mooring:{name}", "labels": dict(LABELS)}
    return {"apiVersion": f"{RBAC}/v1", "kind": "ClusterRole", "metadata": meta, "rules": [rule]}


def binding(
    name: str, role_name: str, users: list[str], *, namespace: str = "", expires_at: float | None = None
) -> Manifest:
    """A RoleBinding, or without a namespace a ClusterRoleBinding."""
    meta: Manifest = {"name": f"mooring:{name}", "labels": dict(LABELS)}
    if namespace:
        meta["namespace"] = namespace
    if expires_at is not None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(expires_at))
        meta["annotations"] = {"mooring.fleet/expires-at": stamp}
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": "RoleBinding" if namespace else "ClusterRoleBinding",
        "metadata": meta,
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role_name},
        "subjects": [{"apiGroup": RBAC, "kind": "User", "name": f"mooring:{user}"} for user in users],
    }


def space(name: str, *, create: bool = False, project: str = "shop", **labels: str) -> Manifest:
    """A namespace of a project."""
    named = {"mooring.fleet/project": project, **{f"pod-security.kubernetes.io/{k}": v for k, v in labels.items()}}
    return {"name": name, "create": create, "project": project, "labels": named}


class BundleServer:
    """Gives the bundle of the moment, over TLS, with the server's clock."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.data = b""
        self.digest = ""
        self.ahead = 0.0
        self.asked = 0
        self._server: asyncio.Server | None = None
        self._key = Ed25519PrivateKey.generate()
        self.port = 0

    @property
    def key(self) -> str:
        """The public key in base64url."""
        return base64.urlsafe_b64encode(self._key.public_key().public_bytes_raw()).rstrip(b"=").decode()

    def sign(
        self,
        revision: int,
        objects: list[Manifest],
        spaces: list[Manifest] | None = None,
        *,
        uid: str,
        cluster: str = CLUSTER_ID,
        key: Ed25519PrivateKey | None = None,
    ) -> bytes:
        """A bundle."""
        made = bundle.Bundle(
            cluster_id=cluster,
            cluster_uid=uid,
            revision=revision,
            issued_at=time.time(),
            objects=objects,
            namespaces=spaces or [],
        )
        self.digest = bundle.digest_of(bundle.body_of(objects, spaces or []))
        self.data = bundle.encode(made, key or self._key)
        return self.data

    async def start(self) -> None:
        """Listens."""
        pair = self.authority.issue("bundles", "bundles", names=("127.0.0.1",), server=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.crt, pair.key)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """The server is away."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            assert head.startswith("GET /api/v1/agents/policy HTTP/1.1\r\n")
            assert "\r\nAuthorization: Bearer ey" in head
            self.asked += 1
            same = f'"{self.digest}"' in head
            body = b"" if same else self.data
            date = formatdate(time.time() + self.ahead, usegmt=True)
            lines = f"HTTP/1.1 {304 if same else 200} X\r\nDate: {date}\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(lines.encode() + body)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()


class Bed:
    """Agents of one cluster, and what they say."""

    def __init__(self, kube: Callable[[], KubeApi], server: BundleServer, clock: Clock | None = None) -> None:
        self.server = server
        self.uid = ""
        self.said: list[dict[str, Any]] = []
        self.clock = clock or SystemClock()
        self._kube = kube
        self.identity = Identity(
            key=new_key(),
            cluster_id=CLUSTER_ID,
            audience="mooring-test",
            server_url=f"https://127.0.0.1:{server.port}",
            ca_pem=server.authority.crt.read_text(),
            join_token_id="one",
        )
        self._running: list[tuple[PolicyAgent, asyncio.Task[None], KubeApi]] = []
        self.revision = 0

    async def load(self) -> Identity:
        return self.identity

    async def save(self, identity: Identity) -> None:
        self.identity = identity

    def start(self, holder: str = "one") -> PolicyAgent:
        """An agent begins."""
        kube = self._kube()
        agent = PolicyAgent(
            kube,
            "mooring-system",
            Registrations(self.load, self.save),
            self.said.append,
            clock=self.clock,
            time=ServerTime(self.clock),
            holder=holder,
        )
        self._running.append((agent, asyncio.get_running_loop().create_task(agent.run()), kube))
        return agent

    async def stop(self, *, crash: bool = False) -> None:
        """All agents end."""
        for _unused, task, kube in self._running:
            if crash:
                await kube.aclose()  # its last word, to let the lease go, is not heard
            task.cancel()
            await asyncio.wait({task}, timeout=10)
            await kube.aclose()
        self._running.clear()

    def announce(self) -> None:
        """The server says that there is a policy."""
        message = {"kind": "policy", "revision": self.revision, "digest": self.server.digest, "key": self.server.key}
        for agent, _unused, _also in self._running:
            agent.heard(message)

    async def policy(
        self, objects: list[Manifest], spaces: list[Manifest] | None = None, *, within: float = 60, **other: Any
    ) -> None:
        """This is the policy from now on; returns when an agent has reported it as applied."""
        self.offer(objects, spaces, **other)
        revision = self.revision
        await until(f"revision {revision} is applied", lambda: self.last("applied") == revision, within)

    def offer(self, objects: list[Manifest], spaces: list[Manifest] | None = None, **other: Any) -> None:
        """Signs and announces a policy."""
        self.revision += 1
        self.server.sign(self.revision, objects, spaces, **{"uid": self.uid, **other})
        self.announce()

    def last(self, name: str) -> Any:
        """A member of the last report."""
        return self.said[-1].get(name) if self.said else None

    def errors(self) -> dict[str, str]:
        """The errors of the last report, by object."""
        return {entry["object"]: entry["reason"] for entry in (self.last("errors") or [])}

    def drift(self) -> list[tuple[str, str]]:
        """All drifts that were reported."""
        return [(entry["object"], entry["what"]) for message in self.said for entry in message["drift"]]

    def register_anew(self) -> None:
        """The cluster is registered with another join token."""
        self.identity = replace(self.identity, join_token_id=self.identity.join_token_id + "+")
