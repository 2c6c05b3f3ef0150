# SPDX-License-Identifier: Apache-2.0
"""`mooring server`: set a server up, run it, renew its certificate. The work is in `setup.py` and `mooring.app`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from mooring.cli.files import config_option, read_secret_file
from mooring.lib.secrets import Secret


@click.group()
def server() -> None:
    """Set up and run a server."""


@server.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder for everything the server keeps.")
@click.option("--listen", default=":8443", show_default=True, help="Address and port of the one TLS port.")
@click.option("--url", help="How clients and agents reach this server.  [default: https://HOSTNAME:PORT]")
@click.option("--name", "names", multiple=True, help="One more DNS name or address for the certificate (repeatable).")
@click.option("--cert", type=click.Path(path_type=Path), help="Use this certificate (PEM), not one of our own CA.")
@click.option("--key", type=click.Path(path_type=Path), help="The key of --cert.")
@click.option("--ca", type=click.Path(path_type=Path), help="The CA that signed --cert; agents will trust it only.")
@click.option("--admin", default="admin", show_default=True, help="Name of the first administrator.")
@click.option(
    "--admin-password-file",
    type=click.Path(path_type=Path),
    help="File with the password; else one is made and printed.",
)
@click.option("--database", default="", help="URL of a PostgreSQL database.  [default: SQLite in the data folder]")
@click.option("--prefix", default="mooring:", show_default=True, help="Put before user and group names in clusters.")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="Where to write the configuration.  [default: mooring.toml in the data folder]",
)
def init(
    data: Path,
    listen: str,
    url: str | None,
    names: tuple[str, ...],
    cert: Path | None,
    key: Path | None,
    ca: Path | None,
    admin: str,
    admin_password_file: Path | None,
    database: str,
    prefix: str,
    config_path: Path | None,
) -> None:
    """Make a data folder, a certificate, an administrator and a configuration file.

    It stops before it changes anything when the configuration file is there already. If it fails half-way, run it
    again.
    """
    from mooring.cli import setup
    from mooring.lib import logging

    logging.configure("warning", "console")
    os.umask(0o077)  # the database and its journal are for the server's user only
    done = setup.init(
        setup.Wishes(
            data_dir=data.absolute(),
            config_path=(config_path or data / "mooring.toml").absolute(),
            listen=listen,
            url=url,
            names=names,
            certificate=setup.own_certificate(cert, key, ca),
            admin=admin,
            password=read_secret_file(admin_password_file) if admin_password_file else None,
            database=database,
            prefix=prefix,
        )
    )
    click.echo(f"configuration  {done.config_path}")
    click.echo(f"CA             {done.ca}")
    click.echo(f"url            {done.url}")
    if done.new_password is not None:
        click.echo(f"administrator  {admin}")
        click.echo(f"password       {done.new_password.reveal()}   (shown once; change it after the first login)")
    click.echo(f"\nnext: mooring server run --config {done.config_path}")


@server.command()
@config_option
def run(config_path: Path) -> None:
    """Run the server until SIGTERM or SIGINT.

    SIGHUP reads the certificate again; SIGUSR1 (or 'mooring server restart') exchanges its processes one by one.
    """
    from mooring import app
    from mooring.lib import config, logging

    os.umask(0o077)
    settings = config.load(config_path)
    logging.configure(settings.log.level, settings.log.format)
    app.run(settings)


@server.command()
@config_option
@click.option("--timeout", default=300.0, show_default=True, help="Seconds to wait for the end of the restart.")
def restart(config_path: Path, timeout: float) -> None:
    """Exchange the processes of the running server for new ones, one after another: nobody is refused meanwhile.

    It starts the program that is installed now. The configuration file is not read again: that takes a stop and
    a start.
    """
    import signal
    import time

    from mooring.app import state
    from mooring.lib import config
    from mooring.lib.errors import MooringError

    settings = config.load(config_path)
    before = state.running(settings)
    if before is None:
        raise MooringError(f"no server runs with the data folder {settings.data_dir}", "start it: mooring server run")
    os.kill(before.pid, signal.SIGUSR1)
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        now = state.running(settings)
        if now is None or now.pid != before.pid:
            raise MooringError("the server ended during the restart", "its log says why")
        if now.restarts > before.restarts:
            if now.failure:
                raise MooringError(f"the restart was given up: {now.failure}", "the server goes on as it was")
            click.echo(f"restarted: control and {len(now.workers)} workers are new")
            return
        time.sleep(0.1)
    raise MooringError(f"the restart was not done within {timeout:.0f} s", "it goes on; see the server's log")


@server.command()
@config_option
@click.option("--name", "names", multiple=True, help="One more DNS name or address for the certificate (repeatable).")
def renew(config_path: Path, names: tuple[str, ...]) -> None:
    """Make a new certificate from the server's own CA, with the names of the present one.

    A running server does this by itself before the certificate ends; after this command send it SIGHUP.
    """
    import time

    from mooring.lib import certificates, config

    settings = config.load(config_path)
    until = certificates.renew(settings, names, time.time())
    click.echo(f"{settings.tls.cert} is valid until {until:%Y-%m-%d}; send the server SIGHUP to use it now")


@server.command("set-password")
@config_option
@click.argument("user")
@click.option("--password-file", type=click.Path(path_type=Path), help="File with the password; else you are asked.")
def set_password(config_path: Path, user: str, password_file: Path | None) -> None:
    """Give a user a new password without logging in: the way back when no administrator can."""
    from mooring.cli import setup
    from mooring.lib import config, logging

    logging.configure("warning", "console")
    settings = config.load(config_path)
    if password_file:
        password = read_secret_file(password_file)
    else:
        password = Secret(click.prompt("new password", hide_input=True, confirmation_prompt=True))
    setup.set_password(settings, user, password)
    click.echo(f"{user} has a new password; the tokens that {user} has stay valid")
