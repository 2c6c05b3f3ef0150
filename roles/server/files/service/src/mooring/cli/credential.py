# SPDX-License-Identifier: Apache-2.0
"""`mooring credential`: tokens for kubectl and its relatives.

It is an exec plugin of client-go (API client.authentication.k8s.io/v1, see
https://kubernetes.io/docs/reference/config-api/client-authentication.v1/). It hands out short tokens for one cluster,
of the kind that the context needs: for the way through the server, or for the cluster's own endpoint (`--endpoint`).
Tokens are kept in a cache of its own (mode 0600), one for each login, cluster and kind.

A token is renewed from half of its life on, so that its end is seldom met. While the server cannot be reached, the one
that is there is handed out until it ends, with a word on standard error; a try costs at most two seconds, and there is
none for half a minute after one that failed.

It must not: print anything else on standard output, or import an HTTP library when the answer is in the cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from mooring.cli import profile
from mooring.lib.errors import MooringError
from mooring.lib.files import private_folder, write_atomic

_API: Final = "client.authentication.k8s.io/v1"
_PROXY_SECONDS: Final = 3600
_LEAST_SECONDS: Final = 60
_RETRY: Final = 30.0
_KEEP_RETRY: Final = 300.0
_LOCK_WAIT: Final = 20.0
_CONNECT: Final = 10.0
_CONNECT_WITH_TOKEN: Final = 2.0
_READ: Final = 15.0
_READ_QUIETLY: Final = 5.0


class Kept(msgspec.Struct, omit_defaults=True):
    """A token in the cache; all times in Unix seconds by the clock of this machine. `grace`: seconds for which the
    cluster takes it after its end while the server cannot be reached. `tried_at`: when renewing it failed last, `why`,
    and whether the server was `away`. An empty token: there was none yet."""

    token: str = ""
    made_at: float = 0.0
    expires_at: float = 0.0
    grace: float = 0.0
    tried_at: float = 0.0
    why: str = ""
    away: bool = False

    def fresh(self, now: float) -> bool:
        """Whether it need not be renewed: not half of its life is over."""
        return bool(self.token) and now < self.renew_at and self.made_at <= now

    @property
    def renew_at(self) -> float:
        return (self.made_at + self.expires_at) / 2

    def good(self, now: float) -> bool:
        """Whether it has not ended."""
        return bool(self.token) and now < self.expires_at

    def usable(self, now: float) -> bool:
        """Whether it can be handed out instead of a new one: it has not ended, or the cluster takes it all the same,
        since the server cannot be reached."""
        return bool(self.token) and now < self.end(now)

    def tried(self, now: float, lately: float) -> bool:
        """Whether renewing it failed within so many seconds."""
        return self.tried_at <= now < self.tried_at + lately

    def end(self, now: float) -> float:
        """Until when it is usable."""
        return self.expires_at + (self.grace if self.away and not self.good(now) else 0.0)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose token for which cluster; `endpoint`: for its own endpoint."""

    login: profile.Login
    cluster: str
    endpoint: bool = False

    @property
    def name(self) -> str:
        """Of the file in the cache. The login's token is part of it, so that a new login, or another user's, never
        gets an old token."""
        seed = [self.login.url, self.cluster, self.login.token.reveal(), *(["endpoint"] if self.endpoint else [])]
        return hashlib.sha256("\n".join(seed).encode()).hexdigest()[:40]


@click.command()
@click.option("--server", "url", help="The server; the login to it must be known.  [default: the current login]")
@click.option("--cluster", required=True, help="The cluster that the token shall be good for.")
@click.option("--endpoint", is_flag=True, help="A token for the cluster's own endpoint, for a direct context.")
@click.option("--keep-endpoint", is_flag=True, help="Also keep one for its endpoint at hand, for when it is needed.")
@click.option("--prefer-direct", is_flag=True, help="Fall back to the server while the cluster cannot be reached.")
@click.option(
    "--kubeconfig", "path", type=click.Path(path_type=Path),
    help="The file whose current context falls back.  [default: as kubectl finds it]",
)  # fmt: skip
def credential(
    url: str | None, cluster: str, endpoint: bool, keep_endpoint: bool, prefer_direct: bool, path: Path | None
) -> None:
    """Print an ExecCredential for kubectl. Used in kubeconfig files; not for people."""
    login, now = profile.active(url), time.time()
    if prefer_direct:
        from mooring.cli import fallback  # only now: the others need neither sockets nor YAML

        fallback.choose(login, cluster, now, endpoint=endpoint, path=path, say=_say)
    click.echo(msgspec.json.encode(exec_credential(Wanted(login, cluster, endpoint), now, say=_say)).decode())
    if keep_endpoint and not endpoint:
        keep(Wanted(login, cluster, endpoint=True), now)


def exec_credential(
    wanted: Wanted, now: float, folder: Path | None = None, say: Callable[[str], None] = lambda _text: None
) -> dict[str, Any]:
    """The ExecCredential for a cluster, from the cache or fresh. Raises MooringError when there is no way to get one.

    Several kubectl processes may ask at once: a lock makes one of them ask the server and the others use its answer.
    """
    cache = _folder(folder)
    path = cache / f"{wanted.name}.json"
    kept = _read(path)
    if kept.fresh(now):
        return _answer(kept, now)
    try:
        # Who has a good token waits for nobody.
        with _locked(cache / "lock", 0.0 if kept.good(now) else _LOCK_WAIT):
            kept = _read(path)
            if not kept.fresh(now) and not (kept.usable(now) and kept.tried(now, _RETRY)):
                kept = _renewed(wanted, kept, now, path)
                _sweep(cache, now)
    except _Busy:
        if not kept.good(now):
            raise
        return _answer(kept, now)
    except MooringError:
        kept = _read(path)
        if not kept.usable(now):
            raise
    if kept.tried_at:
        what = "the token" if kept.good(now) else "the ended token"
        say(f"{kept.why}; {what} for {wanted.cluster} that is there is used until {_time(kept.end(now))}")
    return _answer(kept, now)


def keep(wanted: Wanted, now: float, folder: Path | None = None) -> bool:
    """Have a token at hand for when it is needed, which may be when the server is away. False: there is none, for
    whatever reason; it is not tried again for a while."""
    cache = _folder(folder)
    path = cache / f"{wanted.name}.json"
    kept = _read(path)
    if kept.fresh(now) or kept.tried(now, _KEEP_RETRY):
        return kept.good(now)
    try:
        with _locked(cache / "lock", 0.0):
            kept = _renewed(wanted, _read(path), now, path, wait=False)
    except MooringError:
        return kept.good(now)
    return True


def _renewed(wanted: Wanted, kept: Kept, now: float, path: Path, *, wait: bool = True) -> Kept:
    """A new token, written to the cache. Called under the lock. When there is none, that is noted. Raises
    MooringError."""
    try:
        made = _fetch(wanted, now, wait=wait, hurry=bool(kept.token))
    except MooringError as error:
        kept.tried_at, kept.why, kept.away = now, error.reason, _unreachable(error)
        if kept.token or not wait:
            write_atomic(path, msgspec.json.encode(kept))
        raise
    write_atomic(path, msgspec.json.encode(made))
    return made


def _fetch(wanted: Wanted, now: float, *, wait: bool, hurry: bool) -> Kept:
    """A new token from the server. `wait`: until the cluster has it; `hurry`: there is one that is good yet."""
    from mooring.cli.client import Client  # only now: an answer from the cache must not wait for an HTTP library

    body: dict[str, Any] = {"cluster": wanted.cluster}
    if wanted.endpoint:
        body |= {"endpoint": True, "description": f"mooring credential, endpoint of {wanted.cluster}"}
        if not wait:
            body["wait_seconds"] = 0
    else:
        body |= {"ttl_seconds": _ttl(wanted.login, now), "description": f"mooring credential, {wanted.cluster}"}
    read, connect = _READ if wait else _READ_QUIETLY, _CONNECT_WITH_TOKEN if hurry or not wait else _CONNECT
    with Client(wanted.login, timeout=read, connect=connect) as client:
        made = client.post("tokens", body)
    return Kept(
        token=made["token"],
        made_at=now,
        expires_at=now + _seconds(made["expires_at"]) - _seconds(made["created_at"]),
        grace=float(made.get("grace_seconds") or 0),
    )


def _ttl(login: profile.Login, now: float) -> int:
    """How long a token for the way through the server shall live: no longer than the login does, which the server
    refuses."""
    if not login.expires_at:
        return _PROXY_SECONDS
    left = int(_seconds(login.expires_at) - now) - 1
    return max(_LEAST_SECONDS, min(_PROXY_SECONDS, left))


def _answer(kept: Kept, now: float) -> dict[str, Any]:
    """What client-go gets. Its time is when client-go shall ask again, which is not later than the token's end."""
    again = kept.renew_at if kept.fresh(now) else min(now + _RETRY, kept.end(now))
    status = {"token": kept.token, "expirationTimestamp": _time(again)}
    return {"apiVersion": _API, "kind": "ExecCredential", "status": status}


def _unreachable(error: MooringError) -> bool:
    return getattr(error, "exit_code", 0) == 5  # cli.client.Unreachable, which is not imported for this


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _say(text: str) -> None:
    click.echo(f"mooring: {text}", err=True)


def _folder(folder: Path | None) -> Path:
    cache = folder or profile.folder() / "credentials"
    private_folder(cache)
    return cache


def _read(path: Path) -> Kept:
    """What the cache has; whatever is wrong with the file means that it has nothing."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Kept)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return Kept()


class _Busy(MooringError):
    """Another process asks the server just now."""


@contextmanager
def _locked(path: Path, wait: float) -> Iterator[None]:
    """An advisory lock between processes, waited for with a deadline. Raises _Busy."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise _Busy(
                        f"another process holds {path}", "end it, or remove the file if there is none"
                    ) from None
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _sweep(cache: Path, now: float) -> None:
    """Removes tokens that have ended, of other logins and clusters too. Called under the lock."""
    for path in cache.glob("*.json"):
        kept = _read(path)
        if now >= max(kept.expires_at + kept.grace, kept.tried_at + _KEEP_RETRY):
            path.unlink(missing_ok=True)
