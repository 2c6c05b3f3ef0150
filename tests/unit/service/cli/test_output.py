# SPDX-License-Identifier: Apache-2.0
"""Tables for people, documents for programs; what others wrote cannot steer the terminal."""

from __future__ import annotations

import json

import pytest
import yaml
from mooring.cli.output import show, show_list

ROWS = [
    {"name": "lab", "labels": {"b": "2", "a": "1"}, "healthy": True, "nodes": 0, "info": {"v": "1.36"}},
    {"name": "李雷", "labels": {}, "healthy": False, "nodes": None, "info": None},
]
COLUMNS = (("NAME", "name"), ("LABELS", "labels"), ("OK", "healthy"), ("NODES", "nodes"), ("V", "info.v"))


def test_a_table_lines_up_also_with_wide_characters(capsys: pytest.CaptureFixture[str]) -> None:
    show_list(ROWS, COLUMNS, "table")
    assert capsys.readouterr().out.splitlines() == [
        "NAME   LABELS    OK    NODES   V",
        "lab    a=1,b=2   yes   0       1.36",
        "李雷   -         no    -       -",
    ]


def test_an_empty_table_says_so_beside_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    show_list([], COLUMNS, "table")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "none\n")


def test_documents_are_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    show_list(ROWS, COLUMNS, "json")
    assert json.loads(capsys.readouterr().out) == ROWS
    show_list(ROWS, COLUMNS, "yaml")
    assert yaml.safe_load(capsys.readouterr().out) == ROWS


def test_one_thing_is_shown_field_by_field(capsys: pytest.CaptureFixture[str]) -> None:
    show({"b": 1, "name": "lab", "a": None}, "table", ("name",))
    assert capsys.readouterr().out == "name   lab\nb      1\na      -\n"


def test_control_characters_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show_list([{"name": "a\x1b[31m\nb\u202e"}], (("NAME", "name"),), "table")
    assert capsys.readouterr().out == "NAME\na [31m b\n"
