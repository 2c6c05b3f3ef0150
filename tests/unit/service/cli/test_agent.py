# SPDX-License-Identifier: Apache-2.0
"""`mooring agent`: with an endpoint it is another process than without, and what it was told arrives."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from mooring.agent import main as plain
from mooring.agent.config import AgentOptions
from mooring.app import clusteragent
from mooring.endpoint.settings import EndpointOptions


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was started, with which options."""
    started: list[tuple[Any, ...]] = []
    monkeypatch.setattr(plain, "run", lambda options: started.append((options,)) or 0)
    monkeypatch.setattr(clusteragent, "run", lambda options, served: started.append((options, served)) or 0)
    return started


def test_without_an_endpoint_nothing_of_it_is_there(
    mooring: Callable[..., Result], begun: list[tuple[Any, ...]]
) -> None:
    assert mooring("agent").exit_code == 0
    ((options,),) = begun
    assert options == AgentOptions(health_port=8080)


def test_what_it_was_told_arrives(mooring: Callable[..., Result], begun: list[tuple[Any, ...]], tmp_path: Path) -> None:
    result = mooring(
        "agent", "--endpoint-listen", ":8443", "--endpoint-names", "a.example, 192.0.2.1,", "--endpoint-dir", tmp_path,
        "--endpoint-url", "https://a.example", "--endpoint-audit-mib", "2", "--endpoint-audit-optional",
        "--endpoint-limit", "max_connections=9", "--namespace", "elsewhere",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    ((options, served),) = begun
    assert options.namespace == "elsewhere"
    assert isinstance(served, EndpointOptions)
    assert (served.host, served.port, served.names) == ("", 8443, ("a.example", "192.0.2.1"))
    assert (served.url, served.folder) == ("https://a.example", tmp_path)
    assert (served.audit_limit, served.audit_required) == (2 * 1024 * 1024, False)
    assert served.limits.max_connections == 9


@pytest.mark.parametrize("words", [("--endpoint-listen", "8443"), ("--endpoint-listen", ":0"),
                                   ("--endpoint-listen", ":8443", "--endpoint-limit", "nonsense=1"),
                                   ("--endpoint-listen", ":8443", "--endpoint-audit-mib", "0")])  # fmt: skip
def test_what_makes_no_sense_is_refused(
    mooring: Callable[..., Result], begun: list[tuple[Any, ...]], words: tuple[str, ...]
) -> None:
    assert mooring("agent", *words).exit_code != 0
    assert begun == []


def test_an_agent_with_an_endpoint_has_no_database_and_no_rest_framework_either() -> None:
    heavy = [
        "sqlalchemy",
        "litestar",
        "uvicorn",
        "httpx",
        "argon2",
        "alembic",
        "yaml",
        "mooring.store.sql",
        "mooring.api",
    ]
    script = (
        f"import sys, json, mooring.app.clusteragent\nprint(json.dumps([n for n in {heavy!r} if n in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == []
