# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL server of its own for tests: made in a temporary folder, on loopback, gone afterwards.

PostgreSQL refuses to run as root, so as root it runs as the system user `postgres`. Durability is off: nothing here
outlives the test run.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_SECONDS = 60.0
STOP_SECONDS = 20.0
_QUICK = "-c fsync=off -c synchronous_commit=off -c full_page_writes=off -c max_connections=40 -c shared_buffers=16MB"


@dataclass(frozen=True)
class Postgres:
    """A running server; each test gets a database of its own."""

    bin: Path
    folder: Path
    port: int

    def url(self, database: str) -> str:
        return f"postgresql://mooring@127.0.0.1:{self.port}/{database}"

    def create(self, database: str, template: str = "template1") -> str:
        """Make a database, empty or as a copy of another; its URL."""
        self.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        return self.url(database)

    def drop(self, database: str) -> None:
        self.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    def execute(self, statement: str) -> None:
        """Run a statement as the superuser. Raises CalledProcessError."""
        command = [str(self.bin / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", str(self.folder / "run")]
        command += ["-p", str(self.port), "-U", "mooring", "-d", "postgres", "-c", statement]
        subprocess.run(command, check=True, timeout=30, capture_output=True)


def find_bin() -> Path:
    """The folder of the newest PostgreSQL server on this machine. Raises RuntimeError if there is none."""
    on_path = shutil.which("postgres")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    if on_path:
        return Path(on_path).resolve().parent
    raise RuntimeError("there is no PostgreSQL server: apt-get install postgresql")


@contextmanager
def running() -> Iterator[Postgres]:
    """Start a server; it is stopped and its folder removed at the end."""
    bin_folder = find_bin()
    account = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
    who: dict[str, Any] = (
        {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    )
    folder = Path(tempfile.mkdtemp(prefix="mooring-pg-"))
    try:
        (folder / "run").mkdir()
        if account is not None:
            for path in (folder, folder / "run"):
                os.chown(path, account.pw_uid, account.pw_gid)
        data = folder / "data"
        init = [str(bin_folder / "initdb"), "-D", str(data), "-U", "mooring", "-A", "trust", "-E", "UTF8"]
        subprocess.run(
            [*init, "--no-sync", "--locale=C.UTF-8"], check=True, timeout=120, capture_output=True, cwd="/", **who
        )
        port = _free_port()
        with open(folder / "log", "wb") as log:
            server = subprocess.Popen(
                [
                    *(str(bin_folder / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(port)),
                    *("-k", str(folder / "run"), *_QUICK.split()),
                ],
                stdout=log,
                stderr=log,
                cwd="/",
                process_group=0,
                **who,
            )
        try:
            _wait(bin_folder, folder, port, server)
            yield Postgres(bin_folder, folder, port)
        finally:
            _stop(server)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(bin_folder: Path, folder: Path, port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    ready = [str(bin_folder / "pg_isready"), "-q", "-h", str(folder / "run"), "-p", str(port)]
    while subprocess.run(ready, check=False, timeout=10).returncode != 0:
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"PostgreSQL did not start:\n{(folder / 'log').read_text()}")
        time.sleep(0.05)


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGINT)  # "fast shutdown": ends the sessions
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.send_signal(signal.SIGQUIT)
        server.wait(STOP_SECONDS)
