# SPDX-License-Identifier: Apache-2.0
"""kubectl gets credentials that renew by themselves, from a private cache."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from click.testing import Result
from mooring.cli import credential
from mooring.cli.client import ApiError, Unreachable
from mooring.cli.credential import Kept, Wanted, exec_credential, keep
from mooring.cli.profile import Login
from mooring.lib.errors import MooringError
from mooring.lib.secrets import Secret
from support.fake_api import FakeApi, reason

NOW = 1_800_000_000.0
BOB = Login(url="https://m:8443", token=Secret("mrg_bob"))
LAB = Wanted(BOB, "lab")
DIRECT = Wanted(BOB, "lab", endpoint=True)


@dataclass
class Server:
    """Stands in for the server: tokens are numbered and live for an hour, unless it fails."""

    made: list[tuple[str, str]] = field(default_factory=list)
    asked: int = 0
    failure: MooringError | None = None
    grace: float = 0.0
    life: float = 3600.0

    def fetch(self, wanted: Wanted, now: float, *, wait: bool, hurry: bool) -> Kept:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        kind = "mre" if wanted.endpoint else "mrg"
        self.made.append((kind, wanted.cluster))
        return Kept(f"{kind}_{len(self.made)}", made_at=now, expires_at=now + self.life, grace=self.grace)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    fake = Server()
    monkeypatch.setattr(credential, "_fetch", fake.fetch)
    return fake


AWAY = Unreachable("https://m:8443 cannot be reached: timed out", "check the URL")


def token(wanted: Wanted, now: float, folder: Path, said: list[str] | None = None) -> str:
    heard = [] if said is None else said
    return str(exec_credential(wanted, now, folder, heard.append)["status"]["token"])


def test_it_is_an_exec_credential_of_version_one(server: Server, tmp_path: Path) -> None:
    answer = exec_credential(LAB, NOW, tmp_path)
    assert answer["apiVersion"] == "client.authentication.k8s.io/v1"
    assert answer["kind"] == "ExecCredential"
    assert answer["status"]["token"] == "mrg_1"


def test_client_go_comes_again_at_half_of_the_life(server: Server, tmp_path: Path) -> None:
    """A long watch or helm gets its next token while there is time to try again."""
    assert exec_credential(LAB, NOW, tmp_path)["status"]["expirationTimestamp"] == "2027-01-15T08:30:00Z"
    server.failure = AWAY
    for later, again in ((1800, "08:30:30"), (3590, "09:00:00")):
        answer = exec_credential(LAB, NOW + later, tmp_path)
        assert answer["status"]["expirationTimestamp"] == f"2027-01-15T{again}Z"


def test_a_good_token_is_used_again_and_renewed_at_half_of_its_life(server: Server, tmp_path: Path) -> None:
    for later, expected in ((0, "mrg_1"), (1799, "mrg_1"), (1801, "mrg_2"), (3600, "mrg_2"), (3602, "mrg_3")):
        assert token(LAB, NOW + later, tmp_path) == expected


def test_each_cluster_login_and_kind_has_its_own(server: Server, tmp_path: Path) -> None:
    alice = Login(url=BOB.url, token=Secret("mrg_alice"))
    elsewhere = Login(url="https://n:8443", token=BOB.token)
    for wanted in (LAB, Wanted(BOB, "prod"), Wanted(alice, "lab"), Wanted(elsewhere, "lab"), DIRECT, LAB, DIRECT):
        token(wanted, NOW, tmp_path)
    assert len(server.made) == 5
    assert [kind for kind, _unused in server.made].count("mre") == 1


def test_the_cache_is_private_and_its_names_tell_nothing(server: Server, tmp_path: Path) -> None:
    token(LAB, NOW, tmp_path / "c")
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o700
    for file in (tmp_path / "c").iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
        assert "lab" not in file.name
        assert "mrg" not in file.name


@pytest.mark.parametrize(
    "rubbish", ["", "{", "[]", '{"token": 3}', '{"token": "mrg_x"}', '{"token": "x", "expires_at": "y"}', "\xff"]
)
def test_a_broken_cache_file_is_replaced(rubbish: str, server: Server, tmp_path: Path) -> None:
    token(LAB, NOW, tmp_path)
    (file,) = tmp_path.glob("*.json")
    file.write_bytes(rubbish.encode("latin-1"))
    assert token(LAB, NOW, tmp_path) == "mrg_2"
    assert json.loads(file.read_text())["token"] == "mrg_2"


def test_while_the_server_is_away_the_token_is_used_until_its_end_and_that_is_said(
    server: Server, tmp_path: Path
) -> None:
    token(DIRECT, NOW, tmp_path)
    server.failure = AWAY
    said: list[str] = []
    assert token(DIRECT, NOW + 1700, tmp_path, said) == "mre_1"
    assert (said, server.asked) == ([], 1), "half of its life is to come: nobody is asked"
    assert token(DIRECT, NOW + 1900, tmp_path, said) == "mre_1"
    assert said == [f"{AWAY.reason}; the token for lab that is there is used until 2027-01-15T09:00:00Z"]
    assert token(DIRECT, NOW + 3599, tmp_path, said) == "mre_1"
    with pytest.raises(Unreachable):
        token(DIRECT, NOW + 3600, tmp_path)


def test_a_server_that_is_away_is_not_asked_at_every_call(server: Server, tmp_path: Path) -> None:
    token(LAB, NOW, tmp_path)
    server.failure = AWAY
    said: list[str] = []
    for later in (0, 10, 29):
        assert token(LAB, NOW + 1900 + later, tmp_path, said) == "mrg_1"
    assert (server.asked, len(said)) == (2, 3), "one try, and a word at each call"
    token(LAB, NOW + 1931, tmp_path)
    assert server.asked == 3
    server.failure = None
    said.clear()
    assert token(LAB, NOW + 1962, tmp_path, said) == "mrg_2"
    assert token(LAB, NOW + 1963, tmp_path, said) == "mrg_2"
    assert said == []


def test_an_ended_token_is_used_in_its_grace_only_while_the_server_cannot_be_reached(
    server: Server, tmp_path: Path
) -> None:
    server.grace = 600
    token(DIRECT, NOW, tmp_path)
    server.failure = AWAY
    said: list[str] = []
    assert token(DIRECT, NOW + 3700, tmp_path, said) == "mre_1"
    assert "the ended token for lab that is there is used until 2027-01-15T09:10:00Z" in said[0]
    server.failure = ApiError(401, "the token was revoked", "run: mooring login")
    for later in (3731, 3732):
        with pytest.raises(ApiError):
            token(DIRECT, NOW + later, tmp_path)
    server.failure = AWAY
    assert token(DIRECT, NOW + 4199, tmp_path, said) == "mre_1"
    with pytest.raises(Unreachable):
        token(DIRECT, NOW + 4200, tmp_path)


def test_a_refusal_to_renew_leaves_the_token_that_is_there(server: Server, tmp_path: Path) -> None:
    """The login has ended; what was made with it is good until its own end."""
    token(LAB, NOW, tmp_path)
    server.failure = ApiError(401, "the token is expired", "run: mooring login")
    said: list[str] = []
    assert token(LAB, NOW + 1900, tmp_path, said) == "mrg_1"
    assert said[0].startswith("the token is expired; the token for lab")


def test_nobody_with_a_good_token_waits_for_who_asks_the_server(server: Server, tmp_path: Path) -> None:
    token(LAB, NOW, tmp_path)
    began = time.monotonic()
    said: list[str] = []
    with credential._locked(tmp_path / "lock", 1.0):
        assert token(LAB, NOW + 1900, tmp_path, said) == "mrg_1"
    assert time.monotonic() - began < 5
    assert said == []


def test_a_clock_that_went_back_does_not_keep_a_token_fresh(server: Server, tmp_path: Path) -> None:
    token(LAB, NOW, tmp_path)
    assert token(LAB, NOW - 7200, tmp_path) == "mrg_2"


def test_ended_tokens_are_removed_and_those_in_their_grace_are_not(server: Server, tmp_path: Path) -> None:
    server.grace = 600
    token(Wanted(BOB, "old"), NOW, tmp_path)
    token(LAB, NOW + 4000, tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 2
    (tmp_path / "old-form.json").write_text('{"token": "x", "expirationTimestamp": "2020-01-01T00:00:00Z"}')
    token(Wanted(BOB, "next"), NOW + 4300, tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 2


def test_a_token_for_the_endpoint_is_kept_at_hand_quietly(server: Server, tmp_path: Path) -> None:
    assert keep(DIRECT, NOW, tmp_path)
    assert keep(DIRECT, NOW + 1000, tmp_path)
    assert server.asked == 1
    assert keep(DIRECT, NOW + 1900, tmp_path)
    assert server.asked == 2
    server.failure = AWAY
    assert keep(DIRECT, NOW + 4000, tmp_path), "this one is good yet"
    assert token(DIRECT, NOW + 4010, tmp_path) == "mre_2"


def test_a_cluster_without_an_endpoint_is_not_asked_for_at_every_call(server: Server, tmp_path: Path) -> None:
    server.failure = ApiError(409, "the cluster has no endpoint of its own")
    for later in (0, 100, 299):
        assert not keep(DIRECT, NOW + later, tmp_path)
    assert server.asked == 1
    assert not keep(DIRECT, NOW + 301, tmp_path)
    assert server.asked == 2
    with pytest.raises(ApiError):
        token(DIRECT, NOW + 302, tmp_path)


def test_many_kubectls_at_once_make_one_token(server: Server, tmp_path: Path) -> None:
    together = threading.Barrier(8)
    got: list[str] = []

    def ask() -> None:
        together.wait(10)
        got.append(token(LAB, NOW, tmp_path))

    threads = [threading.Thread(target=ask) for _unused in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert got == ["mrg_1"] * 8


def test_a_failure_leaves_nothing_in_the_cache(server: Server, tmp_path: Path) -> None:
    server.failure = ApiError(401, "the token was revoked")
    with pytest.raises(ApiError):
        exec_credential(LAB, NOW, tmp_path)
    assert list(tmp_path.glob("*.json")) == []


MADE = {"token": "mrg_new", "created_at": "2026-01-01T00:00:00.000Z", "expires_at": "2026-01-01T01:00:00.000Z"}


def test_the_command_asks_for_a_short_token_of_one_cluster_and_prints_nothing_else(
    api: FakeApi, home: Path, mooring: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    api.log_in(monkeypatch, home)
    api.answer("POST", "/api/v1/tokens", MADE, 201)
    result = mooring("credential", "--server", api.url, "--cluster", "lab")
    assert result.exit_code == 0
    assert json.loads(result.output)["status"]["token"] == "mrg_new"
    assert api.asked[0].body["cluster"] == "lab"
    assert api.asked[0].body["ttl_seconds"] == 3600


def test_without_a_login_it_says_how_to_get_one(mooring: Callable[..., Result]) -> None:
    result = mooring("credential", "--server", "https://m:8443", "--cluster", "a")
    assert "mooring login https://m:8443" in reason(result)


def test_the_command_gets_a_token_for_the_endpoint_and_keeps_it(
    api: FakeApi, home: Path, mooring: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    api.log_in(monkeypatch, home)
    api.answer("POST", "/api/v1/tokens", {**MADE, "token": "mre_new", "delivered": True, "grace_seconds": 5}, 201)
    for _unused in range(2):
        result = mooring("credential", "--server", api.url, "--cluster", "lab", "--endpoint")
        assert json.loads(result.output)["status"]["token"] == "mre_new"
    assert [asked.body for asked in api.asked] == [
        {"cluster": "lab", "endpoint": True, "description": "mooring credential, endpoint of lab"}
    ]


def test_the_command_keeps_the_other_kind_at_hand_without_waiting_for_its_delivery(
    api: FakeApi, home: Path, mooring: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    api.log_in(monkeypatch, home)
    api.answer("POST", "/api/v1/tokens", MADE, 201)
    result = mooring("credential", "--server", api.url, "--cluster", "lab", "--keep-endpoint")
    assert json.loads(result.output)["status"]["token"] == "mrg_new"
    assert [asked.body.get("endpoint", False) for asked in api.asked] == [False, True]
    assert api.asked[1].body["wait_seconds"] == 0


def test_a_token_never_asks_to_outlive_its_login() -> None:
    """The server refuses that, which would end kubectl's access an hour before the login does."""
    for left, ttl in ((7200, 3600), (600, 599), (30, 60)):
        ends = datetime.fromtimestamp(NOW + left, UTC).isoformat()
        assert credential._ttl(Login(url=BOB.url, token=BOB.token, expires_at=ends), NOW) == ttl
    assert credential._ttl(BOB, NOW) == 3600


def test_a_server_that_is_away_costs_no_long_wait(
    home: Path, tmp_path: Path, mooring: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody answers there: packets to it are lost, as to a machine that is switched off."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        address = deaf.getsockname()
        fillers = [socket.socket() for _unused in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        try:
            login = Login(url=f"https://127.0.0.1:{address[1]}", token=Secret("mrg_bob"))
            wanted, now = Wanted(login, "lab", endpoint=True), time.time()
            kept = Kept("mre_1", made_at=now - 3000, expires_at=now + 600)
            (tmp_path / f"{wanted.name}.json").write_bytes(msgspec.json.encode(kept))
            said: list[str] = []
            began = time.monotonic()
            assert token(wanted, now, tmp_path, said) == "mre_1"
            assert 1.5 < time.monotonic() - began < 6
            assert "did not answer" in said[0] or "cannot be reached" in said[0]
            began = time.monotonic()
            assert token(wanted, now + 1, tmp_path, said) == "mre_1"
            assert time.monotonic() - began < 1
        finally:
            for filler in fillers:
                filler.close()


def test_an_answer_from_the_cache_loads_no_http_library_and_no_yaml(tmp_path: Path) -> None:
    wanted, now = Wanted(BOB, "lab", endpoint=True), time.time()
    program = (
        "import sys, time; from pathlib import Path; from mooring.cli import main, credential, profile; "
        "from mooring.lib.secrets import Secret; "
        "wanted = credential.Wanted(profile.Login('https://m:8443', Secret('mrg_bob')), 'lab', True); "
        "print(credential.exec_credential(wanted, time.time(), Path(sys.argv[1]))['status']['token'], "
        "sorted({'httpx', 'yaml', 'ssl', 'socket'} & set(sys.modules)))"
    )
    kept = Kept("mre_1", made_at=now - 10, expires_at=now + 3600)
    (tmp_path / f"{wanted.name}.json").write_bytes(msgspec.json.encode(kept))
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "mre_1 []\n"
