# SPDX-License-Identifier: Apache-2.0
"""What `mooring server init` does: folder, certificate, database, administrator, configuration file; in this order.

The configuration file is written last, so that its presence means that all is done: a run that broke half-way can be
repeated, and then takes over the CA and the administrator that it finds. A finished set-up is never touched again.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from mooring.authn.bootstrap import create_admin
from mooring.authn.passwords import Passwords
from mooring.lib import certificates, pki
from mooring.lib.clock import SystemClock
from mooring.lib.config import (
    Config,
    ConfigError,
    DatabaseSection,
    IdentitySection,
    ServerSection,
    TlsSection,
    parse,
    parse_listen,
    render,
)
from mooring.lib.errors import MooringError
from mooring.lib.files import private_folder, write_atomic
from mooring.lib.names import check_name
from mooring.lib.secrets import Secret
from mooring.store.sql import open_store


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the person asked for. `certificate` is the certificate, key and CA they brought; None: make our own."""

    data_dir: Path
    config_path: Path
    listen: str
    url: str | None
    names: tuple[str, ...]
    certificate: tuple[Path, Path, Path] | None
    admin: str
    password: Secret | None
    database: str
    prefix: str


@dataclass(frozen=True, slots=True)
class Done:
    """What was made. `new_password` is set when the password was made up here: it is shown once."""

    config_path: Path
    ca: Path
    url: str
    new_password: Secret | None


def own_certificate(cert: Path | None, key: Path | None, ca: Path | None) -> tuple[Path, Path, Path] | None:
    """The three files as one, or none of them. Raises ConfigError when some are missing."""
    if cert is None and key is None and ca is None:
        return None
    if cert is None or key is None or ca is None:
        raise ConfigError(
            "--cert, --key and --ca go together", "--ca is what agents will trust: the CA that signed --cert"
        )
    return cert.absolute(), key.absolute(), ca.absolute()


def init(wishes: Wishes) -> Done:
    """Sets a server up. Raises MooringError; nothing is overwritten."""
    if wishes.config_path.exists():
        raise ConfigError(
            f"{wishes.config_path} exists: this server is set up already",
            "run it with 'mooring server run', or choose another --data and --config",
        )
    config = _plan(wishes)
    check_name(wishes.admin, "user name")
    password = wishes.password or Secret(secrets.token_urlsafe(18))
    if len(password.reveal()) < config.identity.password_min_length:
        raise MooringError(
            "the password in --admin-password-file is too short",
            f"use at least {config.identity.password_min_length} characters",
        )
    private_folder(config.data_dir)
    if wishes.certificate is None:
        _make_certificate(config, wishes.names)
    wrong = certificates.problems(config, time.time())
    if wrong:
        raise ConfigError(*wrong[0])
    asyncio.run(_make_admin(config, wishes.admin, password))
    try:
        wishes.config_path.parent.mkdir(parents=True, exist_ok=True)
        # Private: the URL of a database holds a password.
        write_atomic(wishes.config_path, render(config))
    except OSError as error:
        raise MooringError(f"{wishes.config_path} cannot be written: {error}", "choose another --config") from None
    return Done(wishes.config_path, Path(config.tls.ca), config.url, None if wishes.password else password)


def set_password(config: Config, user: str, password: Secret) -> None:
    """Gives an existing user a new password. Raises MooringError."""
    if len(password.reveal()) < config.identity.password_min_length:
        raise MooringError(
            "the password is too short", f"use at least {config.identity.password_min_length} characters"
        )
    asyncio.run(_set_password(config, user, password))


def _plan(wishes: Wishes) -> Config:
    """The configuration, checked as if it had been read from its file. Raises ConfigError."""
    try:
        host, port = parse_listen(wishes.listen)
    except ValueError as error:
        raise ConfigError(f"--listen: {error}", "write ':8443', '127.0.0.1:8443' or '[::1]:8443'") from None
    if host in ("", "0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = socket.getfqdn()
    url = wishes.url or f"https://{f'[{host}]' if ':' in host else host}:{port}"
    tls = wishes.data_dir / "tls"
    if wishes.certificate is None:
        files = TlsSection(
            cert=str(tls / "server.crt"),
            key=str(tls / "server.key"),
            ca=str(tls / "ca.crt"),
            ca_key=str(tls / "ca.key"),
        )
    else:
        cert, key, ca = wishes.certificate
        files = TlsSection(cert=str(cert), key=str(key), ca=str(ca))
    config = Config(
        server=ServerSection(data_dir=str(wishes.data_dir), listen=wishes.listen, url=url.rstrip("/")),
        tls=files,
        database=DatabaseSection(url=wishes.database),
        identity=IdentitySection(prefix=wishes.prefix),
    )
    return parse(tomllib.loads(render(config)), wishes.config_path)


def _make_certificate(config: Config, more_names: tuple[str, ...]) -> None:
    """Our own CA (taken over if a run before this one made it) and a server certificate from it."""
    now = time.time()
    private_folder(Path(config.tls.ca).parent)
    if not (Path(config.tls.ca).exists() and Path(config.tls.ca_key).exists()):
        ca_pem, ca_key = pki.make_ca(f"Mooring CA {socket.gethostname()} {time.strftime('%Y-%m-%d')}", now)
        write_atomic(Path(config.tls.ca_key), ca_key.reveal())
        write_atomic(Path(config.tls.ca), ca_pem, 0o644)
    host = urlsplit(config.url).hostname or ""
    names = dict.fromkeys([host, *more_names, socket.gethostname(), "localhost", "127.0.0.1", "::1"])
    certificate, key = pki.make_server_certificate(
        certificates.read(config.tls.ca, "tls.ca"),
        Secret(certificates.read(config.tls.ca_key, "tls.ca_key")),
        [name for name in names if name],
        now,
    )
    write_atomic(Path(config.tls.key), key.reveal())
    write_atomic(Path(config.tls.cert), certificate, 0o644)


async def _make_admin(config: Config, name: str, password: Secret) -> None:
    passwords = Passwords()
    store = open_store(config.database_url)
    try:
        await store.migrate()
        await create_admin(store, passwords, SystemClock(), name, password)
    finally:
        passwords.close()
        await store.aclose()


async def _set_password(config: Config, name: str, password: Secret) -> None:
    passwords = Passwords()
    store = open_store(config.database_url)
    try:
        hashed = await passwords.hash(password)
        async with store.write() as tx:
            user = await tx.users.get(name)
            if user is None:
                raise MooringError(f"there is no user {name!r}", "see: mooring user list")
            await tx.users.set_password_hash(user.id, hashed, time.time())
    finally:
        passwords.close()
        await store.aclose()
