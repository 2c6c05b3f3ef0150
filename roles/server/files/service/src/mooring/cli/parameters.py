# SPDX-License-Identifier: Apache-2.0
"""Arguments and options that the resource commands share, with completion of names by the server's lists."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from mooring.lib.errors import MooringError

F = TypeVar("F", bound=Callable[..., Any])

_COMPLETION_TIMEOUT: Final = 2.0
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class NameOf(click.ParamType[str]):
    """The name or id of a thing in one of the server's lists."""

    name = "name"

    def __init__(self, resource: str) -> None:
        self.resource = resource

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from mooring.cli import profile
        from mooring.cli.client import Client

        key = "id" if self.resource in ("tokens", "memberships") else "name"
        try:
            with Client(profile.active(), timeout=_COMPLETION_TIMEOUT) as client:
                names = [item[key] for item in client.get(self.resource, limit="200")["items"]]
        except MooringError:
            return []  # not logged in, or no server: completion stays quiet
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


class Duration(click.ParamType[int]):
    """A time span: `90s`, `15m`, `12h`, `30d`, or seconds; `zero`: also 0."""

    name = "duration"

    def __init__(self, *, zero: bool = False) -> None:
        self.zero = zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,9})([smhd]?)", str(value))
        if match is None or (int(match[1]) == 0 and not self.zero):
            self.fail(f"{value!r} is no time span; write 90s, 15m, 12h or 30d", param, ctx)
        return int(match[1]) * _UNITS[match[2] or "s"]


class Words(click.ParamType[tuple[str, ...]]):
    """Some of a few words, with commas between them."""

    name = "words"

    def __init__(self, known: Sequence[str]) -> None:
        self.known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        words = tuple(dict.fromkeys(word.strip() for word in str(value).split(",")))
        for word in words:
            if word not in self.known:
                self.fail(f"{word!r} is none of {', '.join(self.known)}", param, ctx)
        return words

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        before, comma, last = incomplete.rpartition(",")
        said = before.split(",")
        left = [word for word in self.known if word.startswith(last) and word not in said]
        return [CompletionItem(before + comma + word) for word in left]


class Label(click.ParamType[tuple[str, str]]):
    """`KEY=VALUE`, as a pair."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not equals or not key:
            self.fail(f"{value!r} is no KEY=VALUE", param, ctx)
        return key, text


def yes_option(function: F) -> F:
    """The option `--yes`, which answers the question before something is deleted."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(function)


def confirm(yes: bool, what: str) -> None:
    """Asks before something cannot be undone; without a terminal to ask at, `--yes` is needed."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise MooringError(f"{what}: not confirmed", "add --yes")
    click.confirm(f"{what}?", abort=True)
