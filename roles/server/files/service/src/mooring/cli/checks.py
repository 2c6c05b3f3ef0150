# SPDX-License-Identifier: Apache-2.0
"""What the doctor checks on the server's machine: configuration, folder, certificate, clock, database, audit, port.

Each check is a function that returns findings and changes nothing. They do not stop at the first failure: the point is
to see all of them.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import socket
import ssl
import time
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from mooring.cli.findings import Finding, failed, from_error, ok, warning
from mooring.lib import certificates, logging
from mooring.lib.config import Config, load
from mooring.lib.errors import MooringError
from mooring.lib.pki import RENEW_DAYS

_TIMEOUT: Final = 5.0
_DISK_LOW: Final = 200 * 1024 * 1024
_TIME_ERROR: Final = 5  # adjtimex(2): the clock is not synchronised


def server(config_path: Path) -> list[Finding]:
    """All checks of the server that this configuration file describes."""
    logging.configure("warning", "console")
    try:
        config = load(config_path)
    except MooringError as error:
        return [from_error("configuration", error)]
    return [
        ok("configuration", str(config_path)),
        *folder(config),
        *certificate(config, time.time()),
        *database(config, time.time()),
        *clock(),
        *audit(config),
        *processes(config),
        *port(config),
        *url(config),
    ]


def folder(config: Config) -> list[Finding]:
    """Is the data folder there, private, ours, and with room?"""
    path = config.data_dir
    try:
        status = path.stat()
    except OSError as error:
        return [failed("data folder", str(error), "run 'mooring server init', or correct server.data_dir")]
    found = []
    if status.st_mode & 0o077:
        found.append(failed("data folder", f"{path} is open to other users", f"run: chmod 0700 {path}"))
    if os.geteuid() not in (0, status.st_uid):
        found.append(
            warning(
                "data folder", f"{path} belongs to another user", "run this command as the server's user or as root"
            )
        )
    free = shutil.disk_usage(path).free
    if free < _DISK_LOW:
        found.append(warning("data folder", f"only {free // 1024**2} MiB are free in {path}", "make room"))
    return found or [ok("data folder", f"{path}, {free // 1024**2} MiB free")]


def certificate(config: Config, now: float) -> list[Finding]:
    """Will clients and agents accept the certificate, and for how long?"""
    try:
        wrong = certificates.problems(config, now)
        days = certificates.days_left(config, now)
    except MooringError as error:
        return [from_error("certificate", error)]
    found = [failed("certificate", problem, remedy) for problem, remedy in wrong]
    if not found and days < RENEW_DAYS:
        remedy = "the running server renews it by itself" if config.tls.ca_key else "renew it where it came from"
        found.append(warning("certificate", f"it ends in {days:.0f} days", remedy))
    return found or [ok("certificate", f"good for {urlsplit(config.url).hostname}, {days:.0f} days left")]


def database(config: Config, now: float) -> list[Finding]:
    """Does the database answer, with the schema that this version needs, and without records from the future?"""
    try:
        return asyncio.run(asyncio.wait_for(_database(config, now), 30.0))
    except MooringError as error:
        return [from_error("database", error)]
    except TimeoutError:
        return [failed("database", "no answer within 30 s", "check that it runs and can be reached")]


async def _database(config: Config, now: float) -> list[Finding]:
    from mooring.authn.bootstrap import check_prefix
    from mooring.store.ports import Paging
    from mooring.store.sql import open_store

    kind = config.database_url.split(":", 1)[0]
    path = config.data_dir / "mooring.db"
    if kind == "sqlite" and not config.database.url and not path.exists():
        return [failed("database", f"{path} is missing", "restore it from a backup, or run 'mooring server init'")]
    store = open_store(config.database_url)
    try:
        at, needed = await store.revision()
        if at != needed:
            message = f"the schema is at {at or 'nothing'}, this version needs {needed}"
            return [warning("database", message, "the server brings it up to date when it starts; make a backup first")]
        async with store.read() as tx:
            admins = await tx.groups.enabled_admins()
            clusters = await tx.clusters.page(Paging(limit=1))
            users = await tx.users.page(Paging(limit=500))
        found = []
        try:
            await check_prefix(store, config.identity.prefix)
        except MooringError as error:
            found.append(from_error("database", error))
    finally:
        await store.aclose()
    if admins == 0:
        found.append(failed("database", "no enabled administrator", "see: mooring server set-password --help"))
    if any(user.updated_at > now + 60 for user in users.items):
        found.append(failed("clock", "the database holds times from the future", "set this machine's clock by NTP"))
    return found or [ok("database", f"{kind}, schema {at}, {users.total} users, {clusters.total} clusters")]


class _Timex(ctypes.Structure):
    """`struct timex` of adjtimex(2), as far as we read it; the rest is room for the kernel to write."""

    _fields_ = [("modes", ctypes.c_uint), ("rest", ctypes.c_byte * 512)]


def clock() -> list[Finding]:
    """Does the kernel say that the clock is kept by NTP? Agents are refused when clocks differ by over 30 s."""
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(_Timex(modes=0)))
    except (OSError, AttributeError):
        state = -1
    stamp = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    if state == _TIME_ERROR:
        return [warning("clock", f"{stamp}; not kept by NTP", "run chrony or systemd-timesyncd on this machine")]
    if state < 0:
        return [warning("clock", f"{stamp}; the kernel does not tell whether NTP keeps it", "compare it by hand")]
    return [ok("clock", f"{stamp}, kept by NTP")]


def audit(config: Config) -> list[Finding]:
    """Can the audit log be written?"""
    path = config.audit_path
    target = path if path.exists() else path.parent
    if not os.access(target, os.W_OK):
        return [
            failed("audit log", f"{target} cannot be written", "correct audit.path or the folder's owner")
            if config.audit.required
            else warning("audit log", f"{target} cannot be written; requests go unrecorded", "correct audit.path")
        ]
    return [ok("audit log", str(path))]


def processes(config: Config) -> list[Finding]:
    """If the server runs: are all of its processes there?"""
    from mooring.app import state

    found = state.running(config)
    if found is None:
        return []
    places = {"supervisor": found.pid, "control": found.control}
    places |= {f"worker {worker.slot}": worker.pid for worker in found.workers}
    dead = [name for name, pid in places.items() if not state.alive(pid)]
    wanted = config.server.workers or os.cpu_count() or 1
    if dead:
        return [failed("processes", f"not there: {', '.join(dead)}", "they are started again; see the server's log")]
    if len(found.workers) != wanted:
        message = f"{len(found.workers)} workers run, server.workers says {wanted}"
        return [warning("processes", message, "restart the server if the configuration was changed")]
    return [ok("processes", f"supervisor, control and {wanted} workers")]


def port(config: Config) -> list[Finding]:
    """Who listens on the port: this server, another program, or nobody?"""
    host, number = config.address
    local = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    try:
        answer = _ask(local, number, config, urlsplit(config.url).hostname or local, "/readyz")
    except ConnectionRefusedError:
        return _free(host, number)
    except (OSError, MooringError) as error:
        return [
            failed(
                "port",
                f"what listens on {local}:{number} is not this server: {error}",
                "end it or change server.listen",
            )
        ]
    if answer != 200:
        return [failed("port", f"the server runs, but is not ready (/readyz gives {answer})", "read the server's log")]
    return [ok("port", f"the server answers on {local}:{number} and is ready")]


def _free(host: str, number: int) -> list[Finding]:
    """Nobody answers: could the server have the port?"""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, number))
    except PermissionError:
        return [
            failed(
                "port", f"this user may not bind port {number}", "use a port from 1024, or give CAP_NET_BIND_SERVICE"
            )
        ]
    except OSError as error:
        return [failed("port", f"{host or '*'}:{number} cannot be bound: {error.strerror}", "correct server.listen")]
    return [warning("port", f"port {number} is free: the server does not run", "start it: mooring server run")]


def url(config: Config) -> list[Finding]:
    """Does the public URL lead to this server, with a certificate that the CA vouches for?"""
    parts = urlsplit(config.url)
    host, number = parts.hostname or "", parts.port or 443
    try:
        answer = _ask(host, number, config, host, "/healthz")
    except socket.gaierror:
        return [failed("url", f"{host} has no address", "add it to DNS or /etc/hosts, or correct server.url")]
    except ssl.SSLCertVerificationError as error:
        return [
            failed("url", f"{config.url}: {error.verify_message}", "see the certificate above, or a proxy in between")
        ]
    except (OSError, MooringError) as error:
        remedy = "start the server; check firewalls, port forwarding and server.url"
        return [warning("url", f"{config.url} cannot be reached from here: {error}", remedy)]
    if answer != 200:
        return [
            failed("url", f"{config.url}/healthz gives {answer}", "check what stands between, such as a load balancer")
        ]
    return [ok("url", f"{config.url} leads here")]


def _ask(host: str, number: int, config: Config, name: str, path: str) -> int:
    """The status of a GET over TLS, verified by the configured CA for `name`. Raises OSError and MooringError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=certificates.ca_bundle(config))
    with (
        socket.create_connection((host, number), timeout=_TIMEOUT) as plain,
        context.wrap_socket(plain, server_hostname=name) as secure,
    ):
        secure.sendall(f"GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        head = secure.recv(4096).split(b"\r\n", 1)[0].split()
    if len(head) < 2 or not head[0].startswith(b"HTTP/1.1") or not head[1].isdigit():
        raise MooringError("it does not speak HTTP")
    return int(head[1])
