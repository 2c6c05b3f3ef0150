# SPDX-License-Identifier: Apache-2.0
"""kubectl gets credentials that renew by themselves, from a private cache."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import Result
from mooring.cli import kubeconfig
from mooring.cli.client import ApiError
from mooring.cli.kubeconfig import exec_credential
from mooring.cli.profile import Login
from mooring.lib.secrets import Secret
from support.fake_api import FakeApi, reason

NOW = 1_800_000_000.0
BOB = Login(url="https://m:8443", token=Secret("mrg_bob"))


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for the server: tokens are numbered, and end an hour after NOW."""
    made: list[str] = []

    def fetch(login: Login, cluster: str) -> dict[str, str]:
        made.append(f"mrg_{len(made) + 1}")
        ends = datetime.fromtimestamp(NOW + 3600, UTC).isoformat()
        return {"token": made[-1], "expirationTimestamp": ends}

    monkeypatch.setattr(kubeconfig, "_fetch", fetch)
    return made


def test_it_is_an_exec_credential_of_version_one(fetched: list[str], tmp_path: Path) -> None:
    answer = exec_credential(BOB, "lab", NOW, tmp_path)
    assert answer["apiVersion"] == "client.authentication.k8s.io/v1"
    assert answer["kind"] == "ExecCredential"
    assert answer["status"]["token"] == "mrg_1"
    assert answer["status"]["expirationTimestamp"] == "2027-01-15T09:00:00+00:00"


def test_a_good_token_is_used_again_and_one_near_its_end_is_renewed(fetched: list[str], tmp_path: Path) -> None:
    for later, token in ((0, "mrg_1"), (3000, "mrg_1"), (3299, "mrg_1"), (3301, "mrg_2")):
        assert exec_credential(BOB, "lab", NOW + later, tmp_path)["status"]["token"] == token


def test_each_cluster_and_each_login_has_its_own(fetched: list[str], tmp_path: Path) -> None:
    alice = Login(url=BOB.url, token=Secret("mrg_alice"))
    elsewhere = Login(url="https://n:8443", token=BOB.token)
    for login, cluster in ((BOB, "lab"), (BOB, "prod"), (alice, "lab"), (elsewhere, "lab"), (BOB, "lab")):
        exec_credential(login, cluster, NOW, tmp_path)
    assert len(fetched) == 4


def test_the_cache_is_private_and_its_names_tell_nothing(fetched: list[str], tmp_path: Path) -> None:
    exec_credential(BOB, "lab", NOW, tmp_path / "c")
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o700
    for file in (tmp_path / "c").iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
        assert "lab" not in file.name
        assert "mrg" not in file.name


@pytest.mark.parametrize("rubbish", ["", "{", "[]", '{"token": "mrg_x"}', '{"token": "", "expirationTimestamp": "x"}'])
def test_a_broken_cache_file_is_replaced(rubbish: str, fetched: list[str], tmp_path: Path) -> None:
    exec_credential(BOB, "lab", NOW, tmp_path)
    (file,) = tmp_path.glob("*.json")
    file.write_text(rubbish)
    assert exec_credential(BOB, "lab", NOW, tmp_path)["status"]["token"] == "mrg_2"
    assert json.loads(file.read_text())["token"] == "mrg_2"


def test_many_kubectls_at_once_make_one_token(fetched: list[str], tmp_path: Path) -> None:
    together = threading.Barrier(8)
    got: list[str] = []

    def ask() -> None:
        together.wait(10)
        got.append(exec_credential(BOB, "lab", NOW, tmp_path)["status"]["token"])

    threads = [threading.Thread(target=ask) for _unused in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert got == ["mrg_1"] * 8


def test_a_failure_leaves_nothing_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_unused: object) -> dict[str, str]:
        raise ApiError(401, "the token was revoked")

    monkeypatch.setattr(kubeconfig, "_fetch", refuse)
    with pytest.raises(ApiError):
        exec_credential(BOB, "lab", NOW, tmp_path)
    assert list(tmp_path.glob("*.json")) == []


def test_the_command_asks_for_a_short_token_of_one_cluster_and_prints_nothing_else(
    api: FakeApi, home: Path, mooring: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    api.log_in(monkeypatch, home)
    api.answer("POST", "/api/v1/tokens", {"token": "mrg_new", "expires_at": "2999-01-01T00:00:00.000Z"}, 201)
    result = mooring("credential", "--server", api.url, "--cluster", "lab")
    assert result.exit_code == 0
    assert json.loads(result.output)["status"]["token"] == "mrg_new"
    assert api.asked[0].body["cluster"] == "lab"
    assert api.asked[0].body["ttl_seconds"] == 3600


def test_without_a_login_it_says_how_to_get_one(mooring: Callable[..., Result]) -> None:
    result = mooring("credential", "--server", "https://m:8443", "--cluster", "a")
    assert "mooring login https://m:8443" in reason(result)


def test_a_kubeconfig_file_is_private(
    api: FakeApi, home: Path, mooring: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    api.log_in(monkeypatch, home)
    api.answer(
        "POST", "/api/v1/kubeconfig", {"kubeconfig": "apiVersion: v1\n", "contexts": ["lab"], "expires_at": None}
    )
    result = mooring("kubeconfig", "--token", "--ttl", "2h", "--cluster", "lab", "-o", home / "kc")
    assert result.exit_code == 0, result.exception
    assert (home / "kc").read_text() == "apiVersion: v1\n"
    assert (home / "kc").stat().st_mode & 0o777 == 0o600
    assert api.asked[0].body == {"mode": "token", "ttl_seconds": 7200, "clusters": ["lab"]}
    assert "1 context: lab" in result.output
