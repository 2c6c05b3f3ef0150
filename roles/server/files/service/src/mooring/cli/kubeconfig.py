# SPDX-License-Identifier: Apache-2.0
"""`mooring kubeconfig` and `mooring credential`: how kubectl and its relatives get in.

`credential` is an exec plugin of client-go (API client.authentication.k8s.io/v1, see
https://kubernetes.io/docs/reference/config-api/client-authentication.v1/). It hands out short tokens for one cluster,
keeps them in a cache of its own (mode 0600), and gets a new one before the old one ends, as long as the login behind it
lives. It prints nothing else, ever.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from mooring.cli import profile
from mooring.cli.files import write_output
from mooring.cli.parameters import Duration, NameOf
from mooring.lib.errors import MooringError
from mooring.lib.files import private_folder, write_atomic

_API: Final = "client.authentication.k8s.io/v1"
_CREDENTIAL_SECONDS: Final = 3600
_RENEW_BEFORE: Final = 300.0
_LOCK_WAIT: Final = 20.0


@click.command()
@click.option("--cluster", "clusters", type=NameOf("clusters"), multiple=True, help="Only this cluster (repeatable).")
@click.option(
    "--exec/--token",
    "by_exec",
    default=True,
    show_default=True,
    help="Have kubectl ask 'mooring credential' (renews by itself), or put a token into the file.",
)
@click.option("--ttl", "ttl_seconds", type=Duration(), help="With --token: how long the token lives, such as 12h.")
@click.option("--current", type=NameOf("clusters"), help="The context that is current in the file.")
@click.option(
    "-o", "--output", "path", type=click.Path(path_type=Path), help="Write to a file (mode 0600), else print."
)
def kubeconfig(
    clusters: tuple[str, ...], by_exec: bool, ttl_seconds: int | None, current: str | None, path: Path | None
) -> None:
    """A kubeconfig with a context for each cluster that you may enter."""
    body: dict[str, Any] = {"mode": "exec" if by_exec else "token"}
    if clusters:
        body["clusters"] = list(clusters)
    if ttl_seconds:
        body["ttl_seconds"] = ttl_seconds
    if current:
        body["current_context"] = current
    from mooring.cli.client import Client

    with Client(profile.active()) as client:
        answer = client.post("kubeconfig", body)
    write_output(path, answer["kubeconfig"], private=True)
    if path is not None and str(path) != "-":
        contexts = answer["contexts"]
        click.echo(
            f"{path}: {len(contexts)} context{'' if len(contexts) == 1 else 's'}: {', '.join(contexts) or 'none'}"
        )


@click.command()
@click.option("--server", "url", help="The server; the login to it must be known.  [default: the current login]")
@click.option("--cluster", required=True, help="The cluster that the token shall be good for.")
def credential(url: str | None, cluster: str) -> None:
    """Print an ExecCredential for kubectl. Used in kubeconfig files; not for people."""
    login = profile.active(url)
    click.echo(msgspec.json.encode(exec_credential(login, cluster, time.time())).decode())


def exec_credential(login: profile.Login, cluster: str, now: float, folder: Path | None = None) -> dict[str, Any]:
    """The ExecCredential for a cluster, from the cache or fresh. Raises MooringError when there is no way to get one.

    Several kubectl processes may ask at once: a lock makes one of them ask the server and the others use its answer.
    """
    # The login's token is part of the name, so that a new login, or another user's, never gets an old token.
    seed = "\n".join((login.url, cluster, login.token.reveal()))
    name = hashlib.sha256(seed.encode()).hexdigest()[:40]
    cache = folder or profile.folder() / "credentials"
    private_folder(cache)
    path = cache / f"{name}.json"
    status = _cached(path, now)
    if status is None:
        with _locked(cache / "lock"):
            status = _cached(path, now)
            if status is None:
                status = _fetch(login, cluster)
                write_atomic(path, msgspec.json.encode(status))
                _sweep(cache, now)
    return {"apiVersion": _API, "kind": "ExecCredential", "status": status}


def _fetch(login: profile.Login, cluster: str) -> dict[str, str]:
    from mooring.cli.client import Client  # only now: an answer from the cache must not wait for an HTTP library

    body = {"cluster": cluster, "ttl_seconds": _CREDENTIAL_SECONDS, "description": f"mooring credential, {cluster}"}
    with Client(login, timeout=15.0) as client:
        made = client.post("tokens", body)
    return {"token": made["token"], "expirationTimestamp": made["expires_at"]}


def _cached(path: Path, now: float) -> dict[str, str] | None:
    """A token that is good for a while yet; whatever is wrong with the file means that there is none."""
    try:
        status = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
        ends = datetime.fromisoformat(status["expirationTimestamp"]).timestamp()
    except (OSError, msgspec.MsgspecError, KeyError, ValueError):
        return None
    return status if status.get("token") and ends - now > _RENEW_BEFORE else None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """An advisory lock between processes, waited for with a deadline."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + _LOCK_WAIT
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise MooringError(
                        f"another process holds {path}", "end it, or remove the file if there is none"
                    ) from None
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _sweep(cache: Path, now: float) -> None:
    """Removes tokens that have ended, of other logins and clusters too. Called under the lock."""
    for path in cache.glob("*.json"):
        if _cached(path, now) is None:
            path.unlink(missing_ok=True)
