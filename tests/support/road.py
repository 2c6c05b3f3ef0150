# SPDX-License-Identifier: Apache-2.0
"""The whole road as tests use it: a real server process, a cluster that joined it, and users with kubeconfigs.

It drives the product as people do (the `mooring` command, kubectl) and reads nothing of the server's insides, except
its audit log, which is a thing that people read too.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
Done = subprocess.CompletedProcess[str]


def until(what: str, check: Callable[[], Any], deadline: float = 30.0) -> Any:
    """Poll `check` until it returns something true, and return that; fails the test after `deadline` seconds."""
    end = time.monotonic() + deadline
    while True:
        value = check()
        if value:
            return value
        assert time.monotonic() < end, f"{what}: not within {deadline} s"
        time.sleep(0.05)


def free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def run(words: Sequence[str | Path], *, check: bool = True, timeout: float = 120, **more: Any) -> Done:
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=timeout, check=False, **more)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(map(str, words))} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done


@dataclass
class Answer:
    status: int
    headers: Message
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    """A `mooring server` in a process of its own, with its data in `folder`, on `address`."""

    folder: Path
    address: str = "127.0.0.1"
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    settings: dict[str, str] = field(default_factory=dict)
    admin_token: str = ""
    program: Path = BIN / "mooring"
    database: str = ""
    inside: tuple[str, ...] = ()
    """A command prefix that takes the process into a network namespace, where `address` is."""

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self.port}"

    @property
    def ca(self) -> Path:
        return self.folder / "data" / "tls" / "ca.crt"

    @property
    def config(self) -> Path:
        return self.folder / "data" / "mooring.toml"

    def init(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port(self.address)
        password = self.folder / "admin.password"
        password.write_text(secrets.token_urlsafe(18))
        password.chmod(0o600)
        run([self.program, "server", "init", "--data", self.folder / "data", "--listen",
             f"{self.address}:{self.port}", "--url", self.url, "--admin-password-file", password,
             *(["--database", self.database] if self.database else [])])  # fmt: skip

    def set(self, name: str, value: str) -> None:
        """Change a setting in the configuration file, which lists them all; the server reads it when it starts."""
        text, count = re.subn(rf"^#? ?{name} = .*$", f"{name} = {value}", self.config.read_text(), flags=re.MULTILINE)
        assert count == 1, f"{name} stands {count} times in {self.config}"
        self.config.write_text(text)

    def start(self, wait: bool = True) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.inside, self.program, "server", "run", "--config", self.config], stdout=log, stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        if wait:
            until("the server is ready", self.ready, 60)
        if not self.admin_token:
            self.admin_token = self.login("admin", (self.folder / "admin.password").read_text())

    def ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "server.log").read_text()[-3000:]
        try:
            return self.call("GET", "/readyz").status == 200
        except OSError:
            return False

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError("the server did not stop within 20 s of SIGTERM") from None

    def state(self) -> dict[str, Any]:
        """Which processes the server consists of: `pid`, `control`, `workers` (each `slot`, `pid`, `instance`)."""
        return dict(json.loads((self.folder / "data" / "state.json").read_text()))

    def worker_pids(self) -> list[int]:
        return [int(worker["pid"]) for worker in self.state()["workers"]]

    def control_pid(self) -> int:
        return int(self.state()["control"])

    def pids(self) -> list[int]:
        """All processes: the supervisor first."""
        state = self.state()
        return [int(state["pid"]), int(state["control"]), *self.worker_pids()]

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One HTTP call, JSON in; an answer of any status is returned, not raised."""
        request = urllib.request.Request(self.url + path, method=method, headers=dict(headers or {}))
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        context = ssl.create_default_context(cafile=str(self.ca))
        try:
            with urllib.request.urlopen(request, context=context, timeout=30) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read())

    def api(self, method: str, path: str, body: Any = None, *, token: str | None = None) -> Any:
        """One REST call that must succeed, as the administrator unless told otherwise."""
        answer = self.call(method, f"/api/v1{path}", body, token=token or self.admin_token)
        assert answer.status < 300, f"{method} {path}: {answer.status} {answer.body.decode()}"
        return answer.json() if answer.body else None

    def login(self, user: str, password: str, **more: Any) -> str:
        answer = self.call("POST", "/api/v1/login", {"username": user, "password": password, **more})
        assert answer.status == 201, answer.body
        return str(answer.json()["token"])

    def mooring(self, *words: str | Path, token: str | None = None, check: bool = True) -> Done:
        """The `mooring` command as the administrator or as the owner of `token`."""
        environment = {
            **os.environ, "MOORING_URL": self.url, "MOORING_CA_FILE": str(self.ca),
            "MOORING_TOKEN": token or self.admin_token, "XDG_CONFIG_HOME": str(self.folder / "xdg"),
        }  # fmt: skip
        return run([self.program, *words], check=check, env=environment)

    def user(self, name: str, *, clusters: Sequence[str] = (), groups: Sequence[str] = ()) -> User:
        """Make a user who may enter `clusters`, log in, and write a kubeconfig."""
        password = secrets.token_urlsafe(18)
        for group in groups:
            if self.call("GET", f"/api/v1/groups/{group}", token=self.admin_token).status == 404:
                self.api("POST", "/groups", {"name": group})
        self.api("POST", "/users", {"name": name, "password": password, "groups": list(groups)})
        for cluster in clusters:
            self.api("POST", "/memberships", {"cluster": cluster, "user": name})
        token = self.login(name, password)
        kubeconfig = self.folder / f"{name}.kubeconfig"
        self.mooring("kubeconfig", "--token", "-o", kubeconfig, token=token)
        return User(name, password, token, kubeconfig)

    def audit(self) -> list[dict[str, Any]]:
        text = (self.folder / "data" / "audit.log").read_text()
        return [json.loads(line) for line in text.splitlines()]


@dataclass
class User:
    name: str
    password: str
    token: str
    kubeconfig: Path


@dataclass
class Kubectl:
    """A kubectl with a kubeconfig: `k("get", "pods")` returns what it printed."""

    binary: Path
    kubeconfig: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def words(self, *words: str) -> list[str]:
        return [str(self.binary), "--kubeconfig", str(self.kubeconfig), *words]

    def env(self) -> dict[str, str]:
        path = f"{self.binary.parent}:{BIN}:{os.environ['PATH']}"
        return {
            **os.environ,
            "PATH": path,
            "KUBECACHEDIR": str(self.kubeconfig.parent / "kube-cache"),
            **self.environment,
        }

    def __call__(self, *words: str, stdin: str | None = None, check: bool = True, timeout: float = 120) -> str:
        return self.run(*words, stdin=stdin, check=check, timeout=timeout).stdout

    def run(self, *words: str, stdin: str | None = None, check: bool = True, timeout: float = 120) -> Done:
        return run(self.words(*words), check=check, timeout=timeout, input=stdin, env=self.env())

    def refused(self, *words: str) -> str:
        """A command that must fail; returns what it said."""
        done = self.run(*words, check=False)
        assert done.returncode != 0, f"kubectl {' '.join(words)} was not refused: {done.stdout}"
        return done.stdout + done.stderr

    def start(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": self.env(), **more}
        return subprocess.Popen(self.words(*words), **more)

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "-o", "json"))


def with_environment(kubectl: Kubectl, **environment: str) -> Kubectl:
    return Kubectl(kubectl.binary, kubectl.kubeconfig, {**kubectl.environment, **environment})


def agent_process(kubectl: Kubectl, folder: Path, *more: str | Path) -> subprocess.Popen[bytes]:
    """Start `mooring agent` beside a cluster without nodes, with no more rights than its service account has.

    `more` are words of its command line.
    """
    token = kubectl("create", "token", "mooring-agent", "--namespace", "mooring-system", "--duration", "12h").strip()
    config = kubectl.json("config", "view", "--raw", "--minify", "--flatten")
    config["users"][0]["user"] = {"token": token}
    path = folder / "agent.kubeconfig"
    path.write_text(json.dumps(config))
    path.chmod(0o600)
    with (folder / "agent.log").open("ab") as log:
        return subprocess.Popen([BIN / "mooring", "agent", "--kubeconfig", path, *more], stdout=log, stderr=log)


def stop_process(process: subprocess.Popen[Any]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
