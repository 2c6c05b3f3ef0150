# SPDX-License-Identifier: Apache-2.0
"""A real kube-apiserver that asks a real kube-api-auth, with documents that the test signs itself.

    with Direct("mine", folder, run) as direct:
        bob = person("bob"); token = direct.sealer.token(bob)
        direct.deliver([bob]); direct.call(token, "/api/v1/namespaces")

There is no server and no agent: the test writes the Secrets as the cluster's administrator.
"""

from __future__ import annotations

import base64
import json
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from mooring.kube.rights import api_auth_rules
from testbed import pki
from testbed.controlplane import ControlPlane, free_port
from testbed.state import Run

from support.endpoint import Documents, Person, Sealer, secret_objects
from support.road import BIN, stop_process, until

NAMESPACE = "mooring-system"
AUDIENCE = "https://kubernetes.default.svc.cluster.local"
GUARD = (
    "'mooring.fleet/token-id' in request.extra && request.extra['mooring.fleet/token-id'].exists(v, v.startsWith('e-'))"
)
OUTER_CACHE = 10.0
"""Seconds for which a kube-apiserver believes a token, whatever its flags say."""


class Facts(Protocol):
    """What kube-api-auth is told of its cluster."""

    @property
    def cluster_id(self) -> str: ...
    @property
    def cluster_uid(self) -> str: ...
    @property
    def policy_key(self) -> str: ...


def caller(path: Path, url: str, ca: Path, user: pki.Pair) -> Path:
    """A kubeconfig by which an API server calls a webhook."""

    def inline(file: Path) -> str:
        return base64.b64encode(file.read_bytes()).decode()

    who = {"client-certificate-data": inline(user.crt), "client-key-data": inline(user.key)}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "webhook",
        "clusters": [{"name": "webhook", "cluster": {"server": url, "certificate-authority-data": inline(ca)}}],
        "users": [{"name": "webhook", "user": who}],
        "contexts": [{"name": "webhook", "context": {"cluster": "webhook", "user": "webhook"}}],
    }
    return pki.write_private(path, json.dumps(config).encode())


class ApiAuth:
    """The process `mooring kube-api-auth`, its certificates and its settings."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.authority = pki.Authority(folder / "pki", "webhook-ca")
        self.clients = pki.Authority(folder / "pki", "client-ca")
        self.serving = self.authority.issue("serving", "kube-api-auth", names=["127.0.0.1"], server=True)
        self.client = self.clients.issue("client", "kube-apiserver", client=True)
        self.settings: dict[str, Any] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self.program = [str(BIN / "mooring")]

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def log(self) -> str:
        path = self.folder / "kube-api-auth.log"
        return path.read_text() if path.exists() else ""

    def url(self, path: str) -> str:
        return f"https://127.0.0.1:{self.port}{path}"

    def flags(self, *, guard: bool = True) -> list[str]:
        """Arguments of a kube-apiserver that asks it, with `guard` also about what was revoked; writes their files."""
        arguments = [
            f"--authentication-token-webhook-config-file={self._caller('authenticate')}",
            "--authentication-token-webhook-version=v1",
            "--authentication-token-webhook-cache-ttl=0s",
        ]
        return [*arguments, f"--authorization-config={self._authorization()}"] if guard else arguments

    def _caller(self, what: str) -> Path:
        return caller(self.folder / f"{what}.kubeconfig", self.url(f"/{what}"), self.authority.crt, self.client)

    def _authorization(self) -> Path:
        webhook = {
            "authorizedTTL": "1s",
            "unauthorizedTTL": "1s",
            "timeout": "3s",
            "subjectAccessReviewVersion": "v1",
            "matchConditionSubjectAccessReviewVersion": "v1",
            "failurePolicy": "Deny",
            "connectionInfo": {
                "type": "KubeConfigFile",
                "kubeConfigFile": str(self._caller("revocation")),
            },
            "matchConditions": [{"expression": GUARD}],
        }
        config = {
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "AuthorizationConfiguration",
            "authorizers": [
                {"type": "Webhook", "name": "mooring-revocation", "webhook": webhook},
                {"type": "Node", "name": "node"},
                {"type": "RBAC", "name": "rbac"},
            ],
        }
        return pki.write_private(self.folder / "authorization.json", json.dumps(config).encode())

    def configure(self, facts: Facts, kubeconfig: Path, **more: Any) -> None:
        """The settings for a cluster: a `Sealer`, or what a server says of one."""
        self.settings = {
            "listen": f"127.0.0.1:{self.port}",
            "cluster_id": facts.cluster_id,
            "cluster_uid": facts.cluster_uid,
            "policy_key": facts.policy_key,
            "audiences": [AUDIENCE],
            "kubeconfig": str(kubeconfig),
            "state_dir": str(self.state),
            "tls_cert": str(self.serving.crt),
            "tls_key": str(self.serving.key),
            "client_ca": str(self.clients.crt),
            **more,
        }

    def write(self) -> Path:
        path = self.folder / "kube-api-auth.toml"
        path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in self.settings.items()))
        return path

    def start(self, *, ready: bool = True) -> float:
        """Start it; returns the seconds until the first answer. `ready`: wait also until it has a copy."""
        config, begin = self.write(), time.monotonic()
        with (self.folder / "kube-api-auth.log").open("ab") as log:
            words = [*self.program, "kube-api-auth", "--config", str(config)]
            self.process = subprocess.Popen(words, stdout=log, stderr=log)
        until("kube-api-auth answers", lambda: self.get("/healthz") == 200)
        took = time.monotonic() - begin
        if ready:
            until("kube-api-auth is ready", lambda: self.get("/readyz") == 200)
        return took

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            stop_process(self.process)
            self.process = None

    def context(self, *, pair: pki.Pair | None = None) -> ssl.SSLContext:
        """TLS towards it, with a client certificate or without."""
        context = ssl.create_default_context(cafile=str(self.authority.crt))
        if pair is not None:
            context.load_cert_chain(pair.crt, pair.key)
        return context

    def get(self, path: str) -> int:
        """The status of one of the pages for which no certificate is needed; 0 if there is no answer."""
        assert self.process is None or self.process.poll() is None, self.log[-3000:]
        try:
            with urllib.request.urlopen(self.url(path), context=self.context(), timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def post(self, path: str, body: bytes, *, pair: pki.Pair | None = None) -> tuple[int, bytes]:
        """One review, as the API server unless another certificate is given."""
        request = urllib.request.Request(self.url(path), data=body, method="POST")
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, context=self.context(pair=pair or self.client), timeout=10) as answer:
                return int(answer.status), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def ask(self, token: str, audiences: Sequence[str] | None = (AUDIENCE,)) -> dict[str, Any]:
        """The status of a TokenReview."""
        spec = {"token": token} if audiences is None else {"token": token, "audiences": list(audiences)}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        status, answer = self.post("/authenticate", json.dumps(body).encode())
        assert status == 200, answer
        return dict(json.loads(answer)["status"])


class Direct:
    """A control plane whose API server asks kube-api-auth. `guard`: also about what was revoked."""

    def __init__(self, name: str, folder: Path, run: Run, *, guard: bool = True) -> None:
        self.auth = ApiAuth(folder)
        self.plane = ControlPlane(name, audit=True, api_args=self.auth.flags(guard=guard), run=run)
        self.sealer = Sealer()
        self._put_at = 0  # characters of kube-api-auth's log when documents were written last

    # --- life

    def __enter__(self) -> Self:
        return self.up()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def up(self) -> Self:
        """The API server first: it does not need kube-api-auth to start."""
        self.plane.up()
        uid = self.plane.get("namespace", "kube-system")["metadata"]["uid"]
        self.sealer.cluster_uid = uid
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        self.plane.apply(namespace, *api_auth_rules(NAMESPACE))
        self.deliver([])
        self.auth.configure(self.sealer, self._own_kubeconfig())
        self.auth.start()
        return self

    def down(self) -> None:
        self.auth.stop()
        self.plane.down()

    def _own_kubeconfig(self) -> Path:
        token = self.plane.kubectl(
            "create", "token", "mooring-kube-api-auth", "--namespace", NAMESPACE, "--duration", "12h"
        ).stdout.strip()
        return self.kubeconfig(token, self.auth.folder / "own.kubeconfig")

    # --- what tests do

    def kubeconfig(self, token: str, path: Path) -> Path:
        """A kubeconfig for the API server itself, with a token."""
        config = json.loads(self.plane.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": token}
        return pki.write_private(path, json.dumps(config).encode())

    def deliver(self, people: Iterable[Person], *, connected: bool | None = True, **about: Any) -> Documents:
        """Write the Secrets, as the agent would; returns the documents."""
        documents = self.sealer.documents(people, **about)
        self.put(documents, connected=connected)
        return documents

    def put(self, documents: Documents, *, connected: bool | None = True) -> None:
        """Write these documents into the Secrets."""
        self._put_at = len(self.auth.log)
        for thing in secret_objects(documents, connected=connected):
            self.plane.apply(thing)

    def taken(self, revision: int | None = None) -> None:
        """Wait until kube-api-auth has taken a revision over, since documents were written last: by default the last
        that was signed. Revisions begin again with each registration, so the same number may be in the log before."""
        wanted = self.sealer.revision if revision is None else revision
        until(f"revision {wanted} is taken over", lambda: f'"revision": {wanted},' in self.auth.log[self._put_at :], 20)

    def call(
        self, token: str, path: str, method: str = "GET", body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """A request straight to the API server: status and what was said."""
        request = urllib.request.Request(self.plane.server + path, method=method, headers=dict(headers or {}))
        request.add_header("Authorization", f"Bearer {token}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        context = ssl.create_default_context(cafile=str(self.plane.ca))
        try:
            with urllib.request.urlopen(request, context=context, timeout=30) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                said = error.read()
            # What an authorizer that cannot be asked comes to is not a Status, but a line of text.
            return error.code, json.loads(said) if said.startswith(b"{") else {"message": said.decode()}

    def whoami(self, token: str) -> dict[str, Any] | None:
        """As whom the API server knows who shows this token; None if it knows nobody."""
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        status, answer = self.call(token, "/apis/authentication.k8s.io/v1/selfsubjectreviews", "POST", body)
        return dict(answer["status"]["userInfo"]) if status == 201 else None

    def may(self, token: str, path: str = "/api/v1/namespaces/default/configmaps") -> int:
        """The status of a call that RBAC allows to whoever is in the group `mooring:deckhands`."""
        return self.call(token, path)[0]

    def refused_within(self, token: str, seconds: float) -> float:
        """Wait until a token is refused; returns after how many seconds it was."""
        begin = time.monotonic()
        while (status := self.may(token)) == 200:
            assert time.monotonic() - begin < seconds, f"still let in after {seconds} s"
            time.sleep(0.02)
        assert status in (401, 403), status
        return time.monotonic() - begin

    def rights(self) -> None:
        """Members of `deckhands` may read configmaps in `default`."""
        api = "rbac.authorization.k8s.io"
        self.plane.apply(
            {
                "apiVersion": f"{api}/v1",
                "kind": "ClusterRole",
                "metadata": {"name": "deckhands"},
                "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]}],
            },
            {
                "apiVersion": f"{api}/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": "deckhands"},
                "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": "deckhands"},
                "subjects": [{"apiGroup": api, "kind": "Group", "name": "mooring:deckhands"}],
            },
        )
