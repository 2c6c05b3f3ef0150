# SPDX-License-Identifier: Apache-2.0
"""How answers are printed: a table for people, JSON or YAML for programs (the REST API's own documents, unchanged)."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import click
import msgspec

F = TypeVar("F", bound=Callable[..., Any])
Columns = Sequence[tuple[str, str]]

_NOTHING: Final = "-"


def output_option(function: F) -> F:
    """The option `-o table|json|yaml`, handed on as `output`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json", "yaml"]),
        default="table",
        show_default=True,
        help="How to print.",
    )(function)


def show_list(items: Iterable[Mapping[str, Any]], columns: Columns, output: str) -> None:
    """Prints things, one a line. A column is a heading and a key; `a.b` goes into a nested document."""
    rows = list(items)
    if output != "table":
        click.echo(_document(rows, output), nl=False)
        return
    if not rows:
        click.echo("none", err=True)
        return
    cells = [[heading for heading, _unused in columns]] + [
        [_text(_dig(row, key)) for _unused, key in columns] for row in rows
    ]
    widths = [max(_width(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        padded = [text + " " * (width - _width(text)) for text, width in zip(line, widths, strict=True)]
        click.echo("   ".join(padded).rstrip())


def show(item: Mapping[str, Any], output: str, order: Sequence[str] = ()) -> None:
    """Prints one thing: a line for each field, those in `order` first."""
    if output != "table":
        click.echo(_document(item, output), nl=False)
        return
    keys = [key for key in order if key in item] + [key for key in item if key not in order]
    width = max((len(key) for key in keys), default=0)
    for key in keys:
        value = item[key]
        if key == "conditions":
            value = "; ".join(f"{c['type']}={c['status']} {c['message'] or c['reason']}".strip() for c in value)
        click.echo(f"{key:<{width}}   {_text(value)}")


def _document(value: Any, output: str) -> str:
    if output == "json":
        return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def _dig(row: Mapping[str, Any], key: str) -> Any:
    value: Any = row
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _text(value: Any) -> str:
    if value is None or value == "" or value == [] or value == {}:
        return _NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ",".join(f"{key}={item}" for key, item in sorted(value.items()))
    if isinstance(value, (list, tuple)):
        return ",".join(_text(item) for item in value)
    # Names are checked where they enter; what others wrote (descriptions, states) must not steer the terminal.
    return "".join(char if char.isprintable() else " " for char in str(value))


def _width(text: str) -> int:
    """Columns on a terminal: wide and combining characters counted as they show."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )
