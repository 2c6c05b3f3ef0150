# SPDX-License-Identifier: Apache-2.0
"""A command line with a home of its own, and a server of the REST API that answers as it is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from mooring.cli.main import cli
from mooring.lib import pki
from support.fake_api import FakeApi, served


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No login, no settings from outside."""
    for name in ("MOORING_URL", "MOORING_TOKEN", "MOORING_CA_FILE", "MOORING_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    return tmp_path


@pytest.fixture
def mooring(home: Path) -> Callable[..., Result]:
    """Runs the command; a MooringError is in the result's `exception`, as `main` would see it."""

    def run(*words: str | Path, stdin: str | None = None) -> Result:
        return CliRunner().invoke(cli, [str(word) for word in words], input=stdin)

    return run


@pytest.fixture(scope="session")
def authority() -> tuple[str, Any]:
    return pki.make_ca("Test CA", time.time())


@pytest.fixture
def api(tmp_path: Path, authority: tuple[str, Any]) -> Iterator[FakeApi]:
    with served(tmp_path, *authority) as fake:
        yield fake
