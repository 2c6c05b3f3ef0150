# SPDX-License-Identifier: Apache-2.0
"""The server as a whole: it starts complete or says why not, serves on one port, and ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from mooring import app
from mooring.app import state
from mooring.cli import checks, setup
from mooring.lib import certificates, config
from mooring.lib.config import Config
from mooring.lib.errors import MooringError
from mooring.lib.files import write_atomic
from mooring.lib.secrets import Secret
from msgspec.structs import replace

PASSWORD = "correct horse battery"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A data folder, set up once; each test starts its own server on it."""
    folder = tmp_path_factory.mktemp("app")
    done = setup.init(
        setup.Wishes(
            data_dir=folder / "data",
            config_path=folder / "data" / "mooring.toml",
            listen=f"127.0.0.1:{free_port()}",
            url=None,
            names=(),
            certificate=None,
            admin="admin",
            password=Secret(PASSWORD),
            database="",
            prefix="mooring:",
        )
    )
    text = done.config_path.read_text()
    done.config_path.write_text(text.replace("# workers = 0", "workers = 1"))
    return config.load(done.config_path)


@asynccontextmanager
async def running(settings: Config) -> AsyncIterator[httpx.AsyncClient]:
    server = app.Server(settings)
    try:
        await server.start()
        context = ssl.create_default_context(cafile=settings.tls.ca)
        async with httpx.AsyncClient(base_url=settings.url, verify=context, trust_env=False, timeout=20) as client:
            client.headers["X-Test"] = "1"
            yield client
    finally:
        await server.stop()


async def refused(settings: Config) -> str:
    """Why a server does not start. Everything that it had opened is closed again."""
    server = app.Server(settings)
    try:
        with pytest.raises(MooringError) as caught:
            await server.start()
    finally:
        await server.stop()
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection(*settings.address)
    return str(caught.value)


def content(path: str) -> bytes:
    return Path(path).read_bytes()


async def test_one_port_serves_health_rest_proxy_and_metrics(made: Config) -> None:
    async with running(made) as client:
        assert (await client.get("/healthz")).text == "ok\n"
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.text) == (200, "api ok\naudit ok\ndatabase ok\nready\n")
        assert (await client.get("/version")).json()["name"] == "mooring"
        assert (await client.get("/metrics")).status_code == 401
        login = await client.post("/api/v1/login", json={"username": "admin", "password": PASSWORD})
        assert login.status_code == 201
        client.headers["Authorization"] = f"Bearer {login.json()['token']}"
        assert (await client.get("/api/v1/whoami")).json()["admin"] is True
        assert "mooring_edge_connections" in (await client.get("/metrics")).text
        server = (await client.get("/api/v1/server")).json()
        assert server["ca_pem"] == certificates.ca_bundle(made)
        missing = await client.get("/k8s/clusters/nolab/version")
        assert (missing.status_code, missing.json()["kind"]) == (404, "Status")
        assert (await client.post("/api/v1/clusters", json={"name": "lab"})).status_code == 201
        away = await client.get("/k8s/clusters/lab/version")
        assert away.status_code == 503
        assert "Retry-After" in away.headers
        assert "never connected" in away.json()["message"]
        assert (await client.get("/nothing")).status_code == 404
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection(*made.address)
    assert not made.api_socket.exists()


async def test_the_socket_of_the_api_is_for_the_servers_user_only(made: Config) -> None:
    async with running(made):
        assert made.api_socket.stat().st_mode & 0o777 == 0o600
        assert made.run_dir.stat().st_mode & 0o777 == 0o700


async def test_what_was_made_is_there_after_a_restart_also_one_without_an_end(made: Config) -> None:
    made.run_dir.mkdir(exist_ok=True)
    made.api_socket.unlink(missing_ok=True)
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(made.api_socket))  # what a server that was killed leaves behind
    dead.close()
    async with running(made) as client:
        login = await client.post("/api/v1/login", json={"username": "admin", "password": PASSWORD})
        token = {"Authorization": f"Bearer {login.json()['token']}"}
        await client.post("/api/v1/groups", json={"name": "kept"}, headers=token)
    async with running(made) as client:
        assert (await client.get("/api/v1/groups/kept", headers=token)).status_code == 200


async def test_a_second_server_on_the_same_data_does_not_harm_the_first(made: Config) -> None:
    async with running(made) as client:
        second = app.Server(replace(made, server=replace(made.server, listen=f"127.0.0.1:{free_port()}")))
        with pytest.raises(MooringError, match="runs already"):
            await second.start()
        await second.stop()
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.get("/api/v1/whoami")).status_code == 401


async def test_a_port_that_is_taken_is_named(made: Config) -> None:
    with socket.create_server(made.address):
        server = app.Server(made)
        with pytest.raises(MooringError, match=r"cannot listen on 127\.0\.0\.1:\d+"):
            await server.start()
        await server.stop()


async def test_an_audit_log_that_cannot_be_written_stops_the_start(made: Config, tmp_path: Path) -> None:
    elsewhere = replace(made, audit=replace(made.audit, path=str(tmp_path / "none" / "audit.log")))
    assert "audit log" in await refused(elsewhere)


async def test_a_certificate_for_another_name_stops_the_start(made: Config) -> None:
    elsewhere = replace(made, server=replace(made.server, url="https://other.example"))
    assert "other.example" in await refused(elsewhere)


@pytest.mark.parametrize("setting", ["key", "ca_key"])
async def test_a_private_key_that_everybody_may_read_stops_the_start(made: Config, setting: str) -> None:
    path = getattr(made.tls, setting)
    os.chmod(path, 0o644)
    try:
        said = await refused(made)
    finally:
        os.chmod(path, 0o600)
    assert f"the private key {path} (tls.{setting}) is open to every user" in said


async def test_a_database_of_the_wrong_kind_stops_the_start(made: Config, tmp_path: Path) -> None:
    (tmp_path / "mooring.db").write_text("this is no database " * 100)
    elsewhere = replace(made, database=replace(made.database, url=f"sqlite:///{tmp_path / 'mooring.db'}"))
    assert "the database cannot be read" in await refused(elsewhere)


async def test_a_database_of_a_newer_version_stops_the_start(made: Config, tmp_path: Path) -> None:
    shutil.copy(made.data_dir / "mooring.db", tmp_path / "mooring.db")
    database = sqlite3.connect(tmp_path / "mooring.db")
    with contextlib.closing(database), database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    elsewhere = replace(made, database=replace(made.database, url=f"sqlite:///{tmp_path / 'mooring.db'}"))
    assert "made by a newer version" in await refused(elsewhere)


async def served_certificate(settings: Config) -> bytes:
    context = ssl.create_default_context(cafile=settings.tls.ca)
    _unused, writer = await asyncio.open_connection(*settings.address, ssl=context)
    try:
        found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return found
    finally:
        writer.close()


async def test_a_renewed_certificate_is_taken_without_a_restart_and_a_bad_one_is_not(made: Config) -> None:
    server = app.Server(made)
    try:
        await server.start()
        first = await served_certificate(made)
        certificates.renew(made, (), time.time())
        server.reload_certificate()
        second = first
        async with asyncio.timeout(30):
            while second == first:
                second = await served_certificate(made)
        good = content(made.tls.key).decode()
        write_atomic(Path(made.tls.key), "rubbish")
        server.reload_certificate()
        assert await served_certificate(made) == second
        write_atomic(Path(made.tls.key), good)
    finally:
        await server.stop()


async def test_our_own_certificate_is_renewed_before_it_ends(made: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(made.tls.cert)
    monkeypatch.setattr("mooring.app.server.RENEW_DAYS", 500)
    async with running(made) as client:
        assert (await client.get("/healthz")).status_code == 200
    assert content(made.tls.cert) != before


async def test_a_stop_does_not_wait_for_idle_connections(made: Config) -> None:
    server = app.Server(replace(made, server=replace(made.server, stop_timeout_seconds=600.0)))
    await server.start()
    context = ssl.create_default_context(cafile=made.tls.ca)
    reader, writer = await asyncio.open_connection(*made.address, ssl=context)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"ok\n")
    await asyncio.wait_for(server.stop(), 60)
    assert await asyncio.wait_for(reader.read(), 30) == b""
    writer.close()


def start(settings: Config) -> subprocess.Popen[str]:
    """A server in a process of its own, listening."""
    command = ["server", "run", "--config", str(settings.data_dir / "mooring.toml")]
    script = "from mooring.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == f"listening on {settings.url}\n"
    return process


def test_the_process_prints_one_line_when_it_listens_and_ends_at_sigterm(made: Config) -> None:
    process = start(made)
    try:
        found = state.running(made)
        assert found is not None
        assert found.pid == process.pid
        assert all(map(state.alive, [found.control, *(worker.pid for worker in found.workers)]))
        assert [finding.result for finding in checks.processes(made)] == ["ok"]
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    assert out == ""
    assert "Traceback" not in err
    assert state.running(made) is None
    assert checks.processes(made) == []


def test_a_supervisor_that_is_killed_takes_its_processes_along_and_the_next_one_takes_over(made: Config) -> None:
    first = start(made)
    before = state.running(made)
    first.kill()
    first.wait()
    second = start(made)
    try:
        after = state.running(made)
        assert before is not None
        assert after is not None
        assert after.pid == second.pid
        assert not any(map(state.alive, [before.control, *(worker.pid for worker in before.workers)]))
        second.send_signal(signal.SIGTERM)
        _unused, err = second.communicate(timeout=60)
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()
    assert second.returncode == 0, err


async def test_a_process_that_is_stuck_is_killed_and_replaced(made: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mooring.app.process.PING_SECONDS", 1.0)
    async with running(made) as client:
        before = state.running(made)
        assert before is not None
        os.kill(before.workers[0].pid, signal.SIGSTOP)
        # The call waits in the queue of the stuck process's place, on a connection that only the next one takes.
        assert (await client.get("/healthz", timeout=60)).status_code == 200
        after = state.running(made)
        assert after is not None
        assert after.workers[0].pid != before.workers[0].pid
        assert after.control == before.control


async def test_without_control_for_too_long_nobody_is_let_in_and_what_is_open_ends(made: Config) -> None:
    """A process that cannot hear of revocations must not go on as if there were none."""
    impatient = replace(made, server=replace(made.server, control_grace_seconds=0.2))
    async with running(impatient) as client:
        login = await client.post("/api/v1/login", json={"username": "admin", "password": PASSWORD})
        client.headers["Authorization"] = f"Bearer {login.json()['token']}"
        before = await client.get("/k8s/clusters/nolab/version")
        assert before.status_code == 404
        found = state.running(impatient)
        assert found is not None
        os.kill(found.control, signal.SIGKILL)
        seen = []
        async with asyncio.timeout(60):
            while not seen or seen[-1] != 404 or 503 not in seen:
                answer = await client.get("/k8s/clusters/nolab/version")
                assert answer.status_code == 404 or "away for too long" in answer.json()["message"]
                seen.append(answer.status_code)
        assert (await client.get("/api/v1/whoami")).status_code == 200
