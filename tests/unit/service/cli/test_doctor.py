# SPDX-License-Identifier: Apache-2.0
"""The doctor finds what is wrong, one fault at a time, and says what to do."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from mooring.cli import checks
from mooring.cli.findings import Finding
from mooring.lib import certificates, config, pki
from mooring.lib.files import write_atomic
from mooring.lib.secrets import Secret
from support.fake_api import FakeApi


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def server(mooring: Callable[..., Result], home: Path) -> config.Config:
    result = mooring("server", "init", "--data", home / "data", "--listen", f"127.0.0.1:{free_port()}")
    assert result.exit_code == 0, result.exception
    return config.load(home / "data" / "mooring.toml")


@contextmanager
def listening(settings: config.Config, answers: dict[str, int]) -> Iterator[None]:
    """Something on the server's port, with its certificate, that answers each path with a status."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(settings.tls.cert, settings.tls.key)
    listener = socket.create_server(settings.address)

    def serve() -> None:
        while True:
            try:
                plain, _unused = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(plain, server_side=True) as secure:
                    path = secure.recv(4096).split(b" ")[1].decode()
                    secure.sendall(f"HTTP/1.1 {answers.get(path, 404)} X\r\nContent-Length: 0\r\n\r\n".encode())
            except (OSError, IndexError):
                continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def bad(found: list[Finding]) -> list[tuple[str, str]]:
    for finding in found:
        assert finding.message
        assert finding.remedy or finding.result == "ok", f"{finding.check}: no remedy"
    return [(finding.check, finding.result) for finding in found if finding.result != "ok"]


def test_a_running_server_is_well(server: config.Config) -> None:
    with listening(server, {"/readyz": 200, "/healthz": 200}):
        found = checks.port(server) + checks.url(server)
    assert bad(found) == []


def test_a_server_that_does_not_run_is_a_warning_with_the_command(server: config.Config) -> None:
    (found,) = checks.port(server)
    assert found.result == "warning"
    assert "mooring server run" in found.remedy


def test_a_server_that_is_not_ready_has_failed(server: config.Config) -> None:
    with listening(server, {"/readyz": 503, "/healthz": 200}):
        assert bad(checks.port(server)) == [("port", "failed")]


def test_another_program_on_the_port_is_told_from_the_server(server: config.Config, home: Path) -> None:
    other_ca, _unused = pki.make_ca("other", time.time())
    own = Path(server.tls.ca).read_text()
    write_atomic(Path(server.tls.ca), other_ca)
    with listening(server, {"/readyz": 200}):
        (found,) = checks.port(server)
    write_atomic(Path(server.tls.ca), own)
    assert found.result == "failed"
    assert "not this server" in found.message


def test_an_address_that_is_not_ours_cannot_be_bound(server: config.Config) -> None:
    (found,) = checks._free("192.0.2.1", 8443)  # TEST-NET-1, RFC 5737
    assert found.result == "failed"
    assert "server.listen" in found.remedy


def test_an_open_folder_and_an_open_key_are_faults(server: config.Config) -> None:
    server.data_dir.chmod(0o755)
    Path(server.tls.key).chmod(0o644)
    assert bad(checks.folder(server)) == [("data folder", "failed")]
    assert bad(checks.certificate(server, time.time())) == [("certificate", "failed")]


@pytest.mark.parametrize(("days", "result"), [(0, None), (370, "warning"), (400, "failed"), (-1, "failed")])
def test_the_dates_of_the_certificate_are_looked_at(server: config.Config, days: int, result: str | None) -> None:
    found = bad(checks.certificate(server, time.time() + days * 86400))
    assert {level for _unused, level in found} == ({result} if result else set())


def test_a_missing_certificate_is_named(server: config.Config) -> None:
    Path(server.tls.cert).unlink()
    (found,) = checks.certificate(server, time.time())
    assert "tls.cert" in found.message


def test_a_missing_database_is_not_made_by_looking(server: config.Config) -> None:
    database = server.data_dir / "mooring.db"
    database.unlink()
    assert bad(checks.database(server, time.time())) == [("database", "failed")]
    assert not database.exists()


def test_a_database_from_the_future_speaks_of_the_clock(server: config.Config) -> None:
    assert bad(checks.database(server, time.time() - 3600)) == [("clock", "failed")]


def test_an_audit_log_that_cannot_be_written_is_a_fault(server: config.Config, home: Path) -> None:
    from msgspec.structs import replace

    elsewhere = replace(server, audit=replace(server.audit, path=str(home / "none" / "audit.log")))
    assert bad(checks.audit(elsewhere)) == [("audit log", "failed")]
    lenient = replace(elsewhere, audit=replace(elsewhere.audit, required=False))
    assert bad(checks.audit(lenient)) == [("audit log", "warning")]


def test_the_clock_is_asked_without_rights() -> None:
    (found,) = checks.clock()
    assert found.result in ("ok", "warning")
    assert "UTC" in found.message


def test_the_command_ends_with_one_when_something_failed(mooring: Callable[..., Result], home: Path) -> None:
    result = mooring("doctor", "--config", home / "none.toml")
    assert result.exit_code == 1
    assert "FAIL  configuration" in result.output
    assert "-> make one with 'mooring server init'" in result.output


def test_the_command_speaks_json_too(mooring: Callable[..., Result], server: config.Config, home: Path) -> None:
    result = mooring("doctor", "--config", home / "data" / "mooring.toml", "-o", "json")
    assert result.exit_code == 0
    assert {"configuration", "certificate", "database", "port"} <= {f["check"] for f in json.loads(result.output)}


CONNECTED: dict[str, Any] = {
    "name": "lab",
    "state": "connected",
    "state_reason": "",
    "connected_at": "2026-01-01T00:00:00Z",
    "agent_version": "0.1.0",
    "api_server_healthy": True,
    "kubernetes_version": "v1.36.3",
    "node_count": 2,
    "nodes_ready": 2,
    "conditions": [],
}


class TestHops:
    """`mooring doctor --cluster`, hop by hop."""

    @pytest.fixture(autouse=True)
    def logged_in(self, api: FakeApi, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        api.log_in(monkeypatch, home)
        api.answer("GET", "/api/v1/whoami", {"user": "bob"})
        api.answer("GET", "/api/v1/clusters/lab", CONNECTED)
        api.answer("GET", "/k8s/clusters/lab/version", {"gitVersion": "v1.36.3"})

    def test_a_way_without_a_fault(self, mooring: Callable[..., Result]) -> None:
        result = mooring("doctor", "--cluster", "lab")
        assert result.exit_code == 0
        assert [line.split()[:2] for line in result.output.splitlines()] == [
            ["ok", "server:"],
            ["ok", "login:"],
            ["ok", "cluster:"],
            ["ok", "agent:"],
            ["ok", "API"],
            ["ok", "proxy:"],
        ]

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"state": "pending"}, "mooring cluster manifest lab"),
            ({"state": "refused", "state_reason": "signed with another key"}, "mooring cluster join-token lab"),
            ({"state": "refused", "state_reason": "the clock differs by about 7200 s"}, "set both clocks by NTP"),
            ({"state": "disconnected", "state_reason": "no ping"}, "no ping"),
            ({"api_server_healthy": False, "conditions": [
                {"type": "X", "status": "False", "reason": "R", "message": "etcd is gone"}]}, "etcd is gone"),
        ],
    )  # fmt: skip
    def test_the_hop_that_is_broken_is_named(
        self, change: dict[str, Any], says: str, api: FakeApi, mooring: Callable[..., Result]
    ) -> None:
        api.answer("GET", "/api/v1/clusters/lab", {**CONNECTED, **change})
        result = mooring("doctor", "--cluster", "lab")
        assert result.exit_code == 1
        assert says in result.output

    def test_a_missing_membership_is_told_from_a_broken_way(self, api: FakeApi, mooring: Callable[..., Result]) -> None:
        api.answer("GET", "/k8s/clusters/lab/version", {"kind": "Status", "message": "no membership"}, 403)
        result = mooring("doctor", "--cluster", "lab")
        assert result.exit_code == 1
        assert "mooring membership create lab" in result.output

    def test_an_unknown_cluster(self, mooring: Callable[..., Result]) -> None:
        assert "knows no cluster 'nolab'" in mooring("doctor", "--cluster", "nolab").output

    def test_a_clock_that_is_wrong(self, api: FakeApi, mooring: Callable[..., Result]) -> None:
        old = "Thu, 01 Jan 2026 00:00:00 GMT"
        api.answer("GET", "/api/v1/whoami", {"user": "bob"}, Date=old)
        assert "clock differs" in mooring("doctor", "--cluster", "lab").output

    def test_no_login(self, mooring: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("MOORING_TOKEN")
        result = mooring("doctor", "--cluster", "lab")
        assert result.exit_code == 1
        assert "mooring login" in result.output


def test_a_half_renewed_pair_is_found(server: config.Config) -> None:
    """A crash between the two files of a renewal leaves a key without its certificate."""
    pair = pki.make_server_certificate(
        Path(server.tls.ca).read_text(), Secret(Path(server.tls.ca_key).read_text()), ["127.0.0.1"], time.time()
    )
    write_atomic(Path(server.tls.key), pair[1].reveal())
    assert [problem for problem, _unused in certificates.problems(server, time.time())] == [
        "the key does not belong to the certificate"
    ]
    assert bad(checks.certificate(server, time.time())) == [("certificate", "failed")]
