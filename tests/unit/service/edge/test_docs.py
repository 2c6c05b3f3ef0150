# SPDX-License-Identifier: Apache-2.0
"""docs/edge.md says what is true: every setting with its default, every audit field, every status."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import msgspec
import pytest
from mooring.edge.settings import EdgeSettings
from mooring.proxy.answers import REASONS
from mooring.proxy.audit import AuditRecord
from mooring.proxy.chain import ChainSettings

PAGE = (Path(__file__).parents[4] / "docs" / "edge.md").read_text()


@pytest.mark.parametrize("settings", [EdgeSettings(), ChainSettings()])
def test_settings_table_is_complete(settings: EdgeSettings | ChainSettings) -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", PAGE, re.MULTILINE))
    for field in dataclasses.fields(settings):
        assert rows.get(field.name) == str(getattr(settings, field.name)), field.name


def test_no_setting_is_documented_that_does_not_exist() -> None:
    section = PAGE.split("## Bounds and deadlines")[1].split("## Audit log")[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    assert documented == {field.name for cls in (EdgeSettings, ChainSettings) for field in dataclasses.fields(cls)}


def test_audit_fields_are_complete() -> None:
    rows = PAGE.split("## Audit log")[1]
    documented = {
        name for row in re.findall(r"^\| (`.*?) \|", rows, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert documented == {field.name for field in msgspec.structs.fields(AuditRecord)}


def test_statuses_are_complete() -> None:
    documented = {int(code) for code in re.findall(r"^\| (\d{3}) \|", PAGE, re.MULTILINE)}
    assert documented == set(REASONS)
