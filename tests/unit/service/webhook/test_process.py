# SPDX-License-Identifier: Apache-2.0
"""`mooring kube-api-auth` as a process: light, quick to answer, and needing nobody."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from mooring.cli.main import cli
from mooring.webhook.disk import Disk
from mooring.wire.endpoint import SHARD
from mooring.wire.sealed import claimed
from support.apiauth import ApiAuth
from support.endpoint import Sealer, person
from support.road import until
from testbed import pki
from testbed.controlplane import free_port

HEAVY = ("sqlalchemy", "litestar", "uvicorn", "httpx", "argon2", "alembic", "jinja2", "yaml", "joserfc", "picows")


@pytest.fixture
def auth(tmp_path: Path) -> Iterator[ApiAuth]:
    """Its API server is a port that nobody listens on."""
    it = ApiAuth(tmp_path)
    admin = it.authority.issue("admin", "admin", client=True)
    server = f"https://127.0.0.1:{free_port()}"
    pki.write_kubeconfig(tmp_path / "kubeconfig", name="c", server=server, ca=it.authority.crt, user=admin)
    it.configure(Sealer(), tmp_path / "kubeconfig")
    yield it
    it.stop()


def test_it_needs_no_more_than_the_agent_has() -> None:
    script = (
        "import sys, json, mooring.cli.kube_api_auth, mooring.webhook.main\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == []


def test_a_check_says_whether_it_could_start(auth: ApiAuth) -> None:
    def check() -> Result:
        return CliRunner().invoke(cli, ["kube-api-auth", "--config", str(auth.write()), "--check"])

    said = check()
    assert said.exit_code == 0, said.output
    assert "can be used; the API server is 127.0.0.1:" in said.output
    auth.settings["client_ca"] = "none"
    assert check().exit_code != 0
    del auth.settings["client_ca"]
    assert check().exit_code != 0


def test_it_serves_what_is_on_disk_without_an_api_server(auth: ApiAuth) -> None:
    sealer, bob = Sealer(), person("bob")
    token = sealer.token(bob)
    auth.configure(sealer, auth.folder / "kubeconfig")
    index, shards = sealer.documents([bob])
    disk = Disk(auth.state)
    disk.prepare()
    disk.save(index, shards, {number: claimed(SHARD, data) for number, data in shards.items()})
    took = auth.start()
    assert took < 10, "the bench measures it; here machines are busy"
    assert auth.ask(token)["authenticated"]
    # Its certificate is read anew on SIGHUP.
    before = shown(auth)
    fresh = auth.authority.issue("fresh", "kube-api-auth", names=["127.0.0.1"], server=True)
    auth.serving.crt.write_bytes(fresh.crt.read_bytes())
    auth.serving.key.write_bytes(fresh.key.read_bytes())
    assert auth.process is not None
    auth.process.send_signal(signal.SIGHUP)
    until("the new certificate is shown", lambda: shown(auth) != before)
    auth.serving.crt.write_text("no certificate")
    auth.process.send_signal(signal.SIGHUP)
    until("that is refused", lambda: "cannot be read anew" in auth.log)
    assert auth.ask(token)["authenticated"], "and the one of before is still shown"
    begin = time.monotonic()
    auth.process.send_signal(signal.SIGTERM)
    assert auth.process.wait(20) == 0
    assert time.monotonic() - begin < 10
    assert token[-52:] not in auth.log


def shown(auth: ApiAuth) -> str:
    return ssl.get_server_certificate(("127.0.0.1", auth.port))


def test_it_says_why_it_cannot_start(auth: ApiAuth) -> None:
    auth.start(ready=False)
    assert auth.get("/readyz") == 503
    second = subprocess.run(
        [*auth.program, "kube-api-auth", "--config", str(auth.write())],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == 1
    assert "cannot start" in second.stderr
    assert "Traceback" not in second.stderr
