# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL server that may be killed: it commits as in production, and is in the test bed's register.

(`support.postgres` is for unit tests: it commits asynchronously, so a kill would lose what it had acknowledged.)
This module must not know who uses the database.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

from support.postgres import find_bin
from support.road import free_port, until
from testbed.state import Process, Run

HOST = "127.0.0.1"


class Postgres:
    """One server with one database."""

    def __init__(self, register: Run) -> None:
        self._register = register
        self._bin = find_bin()
        # Not below the register's folder: that one is closed to others, and PostgreSQL refuses to run as root.
        self._folder = Path(f"/tmp/mooring-faults-pg-{register.id}")
        self._port = free_port(HOST)
        self._process: Process | None = None
        self.url = f"postgresql://mooring@{HOST}:{self._port}/postgres"

    def create(self) -> None:
        """Make it and start it. Raises CalledProcessError or AssertionError."""
        self._register.record("folder", path=str(self._folder))
        self._folder.mkdir(mode=0o700)
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        words = [*self._as_postgres(), str(self._bin / "initdb"), "-D", str(self._folder / "data"), "-U", "mooring"]
        subprocess.run([*words, "-A", "trust", "-E", "UTF8"], check=True, timeout=120, capture_output=True, cwd="/")
        self.start()
        until("PostgreSQL answers", self.ready, 60)

    def start(self) -> None:
        """Start it (again); it does not wait until it answers."""
        words = [*self._as_postgres(), str(self._bin / "postgres"), "-D", str(self._folder / "data"), "-h", HOST]
        words += ["-p", str(self._port), "-k", str(self._folder), "-c", "shared_buffers=16MB"]
        self._process = self._register.spawn("postgres", words, log=self._register.work / "postgres.log", cwd=Path("/"))

    def kill(self) -> None:
        """SIGKILL to the postmaster; its children end when they see that, and a new one may start then."""
        assert self._process is not None
        self._process.stop()

    def restart(self) -> None:
        """Start it until it stays: it refuses as long as a child of the killed one lives."""

        def stays() -> bool:
            if self._process is None or not self._process.alive():
                self.start()
            return self.ready()

        until("PostgreSQL answers again", stays, 60)

    def ready(self) -> bool:
        words = [str(self._bin / "pg_isready"), "-q", "-h", HOST, "-p", str(self._port)]
        return subprocess.run(words, check=False, timeout=10).returncode == 0

    @staticmethod
    def _as_postgres() -> list[str]:
        if os.geteuid() != 0:
            return []
        return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
