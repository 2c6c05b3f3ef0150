# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs modules as Ansible does: arguments as JSON, the result from standard output, against the fake API."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def _importable() -> None:
    """Make `ansible_collections.mooring.fleet` this working tree, unless it stands in such a folder already."""
    if ROOT.parts[-3:] == ("ansible_collections", "mooring", "fleet"):
        sys.path.insert(0, str(ROOT.parents[2]))
        return
    link = ROOT / ".cache" / "unit" / "ansible_collections" / "mooring" / "fleet"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(ROOT)
    sys.path.insert(0, str(link.parents[2]))


_importable()
sys.path.insert(0, str(Path(__file__).parent))

from fake_api import Failed, FakeApi


@pytest.fixture
def api(monkeypatch):
    for name in ("URL", "TOKEN", "USERNAME", "PASSWORD", "CA_FILE", "VALIDATE_CERTS", "TIMEOUT"):
        monkeypatch.delenv("MOORING_" + name, raising=False)
    fake = FakeApi()
    yield fake
    fake.close()


@pytest.fixture
def run_module(api, capsys):
    """run_module("user", name="bob") -> the module's result. Raises Failed."""
    from ansible.module_utils.testing import patch_module_args

    def call(module_name, /, *, check=False, **arguments):
        module = importlib.import_module("ansible_collections.mooring.fleet.plugins.modules." + module_name)
        arguments = dict({"url": api.url, "token": api.token}, **arguments)
        arguments = {name: value for name, value in arguments.items() if value is not None}  # omitted
        with patch_module_args(dict(arguments, _ansible_check_mode=check, _ansible_diff=True)):
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                module.main()
        out = capsys.readouterr().out
        result = json.loads(out)
        result["_printed"] = out
        if ended.value.code:
            raise Failed(result)
        return result

    return call
