# SPDX-License-Identifier: Apache-2.0
"""Logins are remembered privately, and the environment goes first."""

from __future__ import annotations

from pathlib import Path

import pytest
from mooring.cli.profile import Login, NotLoggedIn, Profile, active, normal_url
from mooring.lib.errors import MooringError
from mooring.lib.secrets import Secret

ONE = Login(url="https://one:8443", token=Secret("mrg_1"), ca_pem="PEM\nPEM", username='o"ne', token_id="t-1")
TWO = Login(url="https://two:8443", token=Secret("mrg_2"), expires_at="2026-01-01T00:00:00Z")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mooring" / "config.toml"


def test_what_is_saved_is_read_again(path: Path) -> None:
    Profile(path).save(ONE)
    Profile(path).save(TWO)
    again = Profile(path)
    assert again.logins == {ONE.url: ONE, TWO.url: TWO}
    assert again.current == TWO.url


def test_the_file_and_its_folder_are_private(path: Path) -> None:
    Profile(path).save(ONE)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_mode_that_lets_others_read_is_put_right_when_it_is_read(path: Path) -> None:
    Profile(path).save(ONE)
    path.chmod(0o644)
    Profile(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_after_a_logout_another_login_is_current(path: Path) -> None:
    Profile(path).save(ONE)
    Profile(path).save(TWO)
    Profile(path).forget(TWO.url)
    assert active(environment={}, path=path).url == ONE.url
    Profile(path).forget(ONE.url)
    assert "mrg_" not in path.read_text()
    with pytest.raises(NotLoggedIn, match="mooring login"):
        active(environment={}, path=path)


def test_the_environment_goes_first_and_is_not_written(path: Path) -> None:
    Profile(path).save(ONE)
    login = active(environment={"MOORING_URL": "https://env/", "MOORING_TOKEN": "mrg_env"}, path=path)
    assert (login.url, login.token) == ("https://env", Secret("mrg_env"))
    assert "mrg_env" not in path.read_text()


def test_a_url_alone_in_the_environment_picks_the_remembered_login(path: Path) -> None:
    Profile(path).save(ONE)
    Profile(path).save(TWO)
    assert active(environment={"MOORING_URL": ONE.url}, path=path) == ONE


def test_the_token_of_the_environment_does_not_go_to_another_server(path: Path) -> None:
    environment = {"MOORING_URL": "https://env", "MOORING_TOKEN": "mrg_env"}
    with pytest.raises(NotLoggedIn, match="https://other"):
        active("https://other", environment, path)


def test_a_token_without_a_url_says_what_is_missing(path: Path) -> None:
    with pytest.raises(NotLoggedIn, match="MOORING_URL is not"):
        active(environment={"MOORING_TOKEN": "mrg_env"}, path=path)


def test_a_broken_file_says_what_to_do(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("[[[")
    with pytest.raises(MooringError, match="log in again"):
        Profile(path)


@pytest.mark.parametrize(
    "text", ["mooring.example:8443", "https://mooring.example:8443/", " https://mooring.example:8443"]
)
def test_urls_are_remembered_in_one_form(text: str) -> None:
    assert normal_url(text) == "https://mooring.example:8443"


@pytest.mark.parametrize("text", ["http://mooring.example", "ftp://x", "https://", ""])
def test_there_is_no_plain_http(text: str) -> None:
    with pytest.raises(MooringError, match="https://"):
        normal_url(text)
