# SPDX-License-Identifier: Apache-2.0
"""docs/edge.md says what is true: every setting with its default, every audit field, every status."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from mooring.lib import metrics
from mooring.lib.bounds import BOUNDS, Bounds
from mooring.lib.config import Config, ServerSection, TlsSection
from mooring.proxy.answers import REASONS
from mooring.proxy.audit import AuditRecord

PAGE = (Path(__file__).parents[4] / "docs" / "edge.md").read_text()
SMALLEST = Config(server=ServerSection(data_dir="/d", url="https://h"), tls=TlsSection(cert="/c", key="/k", ca="/a"))


@pytest.mark.parametrize("section", ["limits", "tunnel", "attempts"])
def test_every_bound_is_documented_as_it_is(section: str) -> None:
    names = {bound.setting: bound for bound in BOUNDS}
    expected = []
    for field in msgspec.structs.fields(type(getattr(Bounds.from_settings(SMALLEST), section))):
        bound = names.pop(f"{section}.{field.name}", None)
        answer = "" if bound is None else str(bound.code or "closed")
        expected.append((field.name, str(field.default), answer, "" if bound is None else f"`{bound.name}`"))
    table = PAGE.split(f"\n`[{section}]`:\n\n")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]
    assert [(row[0].strip("`"), row[1], row[3], row[4]) for row in rows] == expected
    assert all(len(row[2]) > 15 for row in rows)
    assert not [name for name in names if name.startswith(section)], "a bound names a setting that does not exist"


def test_audit_fields_are_complete() -> None:
    rows = PAGE.split("## Audit log")[1]
    documented = {
        name for row in re.findall(r"^\| (`.*?) \|", rows, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert documented == {field.encode_name for field in msgspec.structs.fields(AuditRecord)}


def test_statuses_are_complete() -> None:
    documented = {int(code) for code in re.findall(r"^\| (\d{3}) \|", PAGE, re.MULTILINE)}
    assert documented == set(REASONS)


def test_metrics_of_policies_are_complete() -> None:
    documented = set(re.findall(r"^\| `(mooring_policy_\w+)", PAGE, re.MULTILINE))
    names = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in metrics.REGISTRY.collect()
        if family.name.startswith("mooring_policy_")
    }
    assert documented == names
