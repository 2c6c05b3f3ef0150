# SPDX-License-Identifier: Apache-2.0
"""`mooring login`, `logout` and `whoami`: how a person gets a token, and gets rid of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mooring.cli import profile
from mooring.cli.client import ApiError, Client
from mooring.cli.files import read_secret_file
from mooring.cli.output import output_option, show
from mooring.lib.errors import MooringError
from mooring.lib.secrets import Secret


@click.command()
@click.argument("url", required=False)
@click.option("-u", "--username", help="Your user name; else you are asked.")
@click.option("--password-file", type=click.Path(path_type=Path), help="File with the password ('-': standard input).")
@click.option("--ca-file", type=click.Path(path_type=Path), help="The server's CA (PEM).  [default: MOORING_CA_FILE]")
@click.option("--ttl", "ttl_seconds", type=click.IntRange(min=60), help="How long the token shall live, in seconds.")
def login(
    url: str | None, username: str | None, password_file: Path | None, ca_file: Path | None, ttl_seconds: int | None
) -> None:
    """Log in to the server at URL and remember the token (mode 0600). Without URL: the server you used last."""
    known = profile.Profile()
    address = profile.normal_url(url) if url else known.current
    if not address:
        raise MooringError("which server?", "run: mooring login https://HOST:PORT")
    before = known.logins.get(address)
    if ca_file:
        try:
            ca_pem = ca_file.read_text("ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise MooringError(f"{ca_file} cannot be read: {error}", "give the server's CA as a PEM file") from None
    else:
        ca_pem = profile.environment_ca() or (before.ca_pem if before else "")
    name = username or (before.username if before else "") or click.prompt("user name")
    if password_file:
        password = read_secret_file(password_file)
    else:
        password = Secret(click.prompt(f"password of {name} at {address}", hide_input=True))
    body: dict[str, Any] = {"username": name, "password": password.reveal(), "description": "mooring login"}
    if ttl_seconds:
        body["ttl_seconds"] = ttl_seconds
    with Client(profile.Login(url=address, token=Secret(""), ca_pem=ca_pem)) as client:
        answer = client.post("login", body)
    known.save(
        profile.Login(
            url=address,
            token=Secret(answer["token"]),
            ca_pem=ca_pem,
            username=answer["user"],
            token_id=answer["id"],
            expires_at=answer["expires_at"] or "",
        )
    )
    if before is not None:
        _revoke_quietly(before)
    click.echo(f"logged in to {address} as {answer['user']} until {answer['expires_at'] or 'you log out'}")


@click.command()
@click.argument("url", required=False)
def logout(url: str | None) -> None:
    """Revoke the token of a login and forget it. Without URL: the current login."""
    known = profile.Profile()
    address = profile.normal_url(url) if url else known.current
    login = known.logins.get(address)
    if login is None:
        raise profile.NotLoggedIn("you are not logged in" + (f" to {address}" if address else ""))
    try:
        with Client(login) as client:
            client.call("POST", "logout")
    except ApiError as error:
        if error.status != 401:  # the token is dead already: nothing to revoke
            raise
    known.forget(address)
    click.echo(f"logged out of {address}")


@click.command()
@output_option
def whoami(output: str) -> None:
    """Who the server says you are, by the token in use."""
    with Client(profile.active()) as client:
        show(client.get("whoami"), output, order=("user", "uid", "groups", "admin"))


def _revoke_quietly(login: profile.Login) -> None:
    """The token that the new one replaces; it would end by itself, so a failure here fails nothing."""
    try:
        with Client(login, timeout=5.0) as client:
            client.call("POST", "logout")
    except MooringError:
        pass
