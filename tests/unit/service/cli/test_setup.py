# SPDX-License-Identifier: Apache-2.0
"""`mooring server init` makes a whole server or says why not; it never touches a finished one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from mooring.authn.passwords import Passwords
from mooring.cli import checks, setup
from mooring.lib import certificates, config, pki
from mooring.lib.secrets import Secret
from mooring.store.sql import open_store
from support.fake_api import reason


def init(mooring: Callable[..., Result], folder: Path, *more: str | Path) -> Result:
    return mooring("server", "init", "--data", folder, "--listen", "127.0.0.1:18444", *more)


async def password_is(settings: config.Config, user: str, password: str) -> bool:
    store, passwords = open_store(settings.database_url), Passwords()
    try:
        async with store.read() as tx:
            found = await tx.users.get(user)
            assert found is not None
            assert [name for _unused, name in found.groups] == ["admins"]
            return await passwords.verify(await tx.users.password_hash(found.id), Secret(password))
    finally:
        passwords.close()
        await store.aclose()


def test_a_new_server_is_whole_private_and_found_healthy(mooring: Callable[..., Result], home: Path) -> None:
    result = init(mooring, home / "data")
    assert result.exit_code == 0, result.exception
    words = result.output.split()
    password = words[words.index("password") + 1]
    assert len(password) >= 20
    settings = config.load(home / "data" / "mooring.toml")
    assert asyncio.run(password_is(settings, "admin", password))
    assert settings.url == "https://127.0.0.1:18444"
    assert certificates.problems(settings, time.time()) == []
    assert (home / "data").stat().st_mode & 0o777 == 0o700
    for name in ("mooring.toml", "mooring.db", "tls/ca.key", "tls/server.key"):
        assert (home / "data" / name).stat().st_mode & 0o077 == 0, name
    found = checks.server(home / "data" / "mooring.toml")
    assert [finding for finding in found if finding.result == "failed"] == []
    assert password not in (home / "data" / "mooring.toml").read_text()


def test_a_password_from_a_file_is_not_printed(mooring: Callable[..., Result], home: Path) -> None:
    (home / "pw").write_text("correct horse battery\n")
    result = init(mooring, home / "data", "--admin", "root", "--admin-password-file", home / "pw")
    assert "correct" not in result.output
    settings = config.load(home / "data" / "mooring.toml")
    assert asyncio.run(password_is(settings, "root", "correct horse battery"))


def test_a_finished_server_is_left_alone(mooring: Callable[..., Result], home: Path) -> None:
    init(mooring, home / "data")
    before = {path: path.read_bytes() for path in (home / "data").rglob("*") if path.is_file()}
    assert "set up already" in reason(init(mooring, home / "data"))
    assert {path: path.read_bytes() for path in (home / "data").rglob("*") if path.is_file()} == before


def test_a_run_that_broke_before_its_end_can_be_repeated_with_the_same_ca(
    mooring: Callable[..., Result], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_unused: object) -> str:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(setup, "render", lambda settings, real=setup.render, calls=[]: (
            real(settings) if not calls.append(1) and len(calls) == 1 else broken()
        ))  # fmt: skip
        assert isinstance(init(mooring, home / "data").exception, RuntimeError)
    ca = (home / "data" / "tls" / "ca.crt").read_text()
    assert not (home / "data" / "mooring.toml").exists()
    assert init(mooring, home / "data").exit_code == 0
    assert (home / "data" / "tls" / "ca.crt").read_text() == ca


def test_the_users_own_certificate_is_used_where_it_is(mooring: Callable[..., Result], home: Path) -> None:
    ca_pem, ca_key = pki.make_ca("Corp", time.time())
    cert, key = pki.make_server_certificate(ca_pem, ca_key, ["mooring.corp"], time.time())
    for name, text in (("ca", ca_pem), ("crt", cert), ("key", key.reveal())):
        (home / name).write_text(text)
    words = ("--cert", home / "crt", "--key", home / "key", "--ca", home / "ca")
    (home / "key").chmod(0o644)
    assert "chmod o-rwx" in reason(init(mooring, home / "data", *words, "--url", "https://mooring.corp:8443"))
    (home / "key").chmod(0o640)
    assert "not for '127.0.0.1'" in reason(init(mooring, home / "data", *words))
    assert init(mooring, home / "data", *words, "--url", "https://mooring.corp:8443").exit_code == 0
    settings = config.load(home / "data" / "mooring.toml")
    assert (settings.tls.cert, settings.tls.ca_key) == (str(home / "crt"), "")
    assert not (home / "data" / "tls").exists()
    assert "tls.ca_key is empty" in reason(mooring("server", "renew", "--config", home / "data" / "mooring.toml"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--cert", "x"], "--cert, --key and --ca go together"),
        (["--cert", "x", "--key", "x", "--ca", "/nonexistent"], "cannot be read"),
        (["--listen", "8443"], "--listen"),
        (["--url", "http://x"], "server.url"),
        (["--prefix", "system:"], "identity.prefix"),
        (["--database", "mysql://x"], "database.url"),
        (["--admin", "system:admin"], "system:"),
        (["--admin-password-file", "/nonexistent"], "cannot be read"),
    ],
)
def test_a_wrong_wish_is_refused_by_name_and_leaves_no_configuration(
    words: list[str], says: str, mooring: Callable[..., Result], home: Path
) -> None:
    assert says in reason(init(mooring, home / "data", *words))
    assert not (home / "data" / "mooring.toml").exists()


def test_a_short_password_is_refused(mooring: Callable[..., Result], home: Path) -> None:
    (home / "pw").write_text("short")
    assert "at least 12" in reason(init(mooring, home / "data", "--admin-password-file", home / "pw"))


class TestAfterwards:
    """Commands on a server that is set up."""

    @pytest.fixture
    def settings(self, mooring: Callable[..., Result], home: Path) -> Path:
        init(mooring, home / "data", "--name", "extra.example")
        return home / "data" / "mooring.toml"

    def test_a_renewed_certificate_has_the_same_names_and_ca(
        self, mooring: Callable[..., Result], settings: Path
    ) -> None:
        before = config.load(settings)
        old = pki.inspect(Path(before.tls.cert).read_text())
        assert "extra.example" in old.names
        assert mooring("server", "renew", "--config", settings, "--name", "new.example").exit_code == 0
        assert set(pki.inspect(Path(before.tls.cert).read_text()).names) == {*old.names, "new.example"}
        assert certificates.problems(before, time.time()) == []

    def test_a_lost_password_can_be_replaced_on_the_machine(
        self, mooring: Callable[..., Result], settings: Path, home: Path
    ) -> None:
        (home / "new").write_text("a new long password")
        words = ("server", "set-password", "--config", settings, "--password-file", home / "new")
        assert mooring(*words, "admin").exit_code == 0
        assert asyncio.run(password_is(config.load(settings), "admin", "a new long password"))
        assert "no user 'nobody'" in reason(mooring(*words, "nobody"))
        (home / "new").write_text("short")
        assert "too short" in reason(mooring(*words, "admin"))
