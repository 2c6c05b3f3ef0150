# SPDX-License-Identifier: Apache-2.0
"""Files that a command takes as the body of a request: YAML or JSON, as `get -o yaml` printed it.

It must not: read without a bound, or build anything but plain data.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from mooring.lib.errors import MooringError

F = TypeVar("F", bound=Callable[..., Any])

_MAX: Final = 4 * 1024 * 1024
_SEEN: Final = frozenset({"id", "builtin", "created_at", "updated_at", "created_by", "version"})
"""What the server says of a thing and nobody writes; a file that came from `get` has it."""


def file_option(function: F) -> F:
    """The option `-f FILE`, handed on as `path`."""
    return click.option(
        "-f", "--file", "path", type=click.Path(path_type=Path), help="Fields as YAML or JSON; - is standard input."
    )(function)


def read_document(path: Path) -> Any:
    """The data in a file. Raises MooringError for what cannot be read."""
    import yaml

    try:
        if str(path) == "-":
            text = sys.stdin.read(_MAX + 1)
        else:
            with path.open(encoding="utf-8") as file:
                text = file.read(_MAX + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise MooringError(f"{path} cannot be read: {error}", "check the path and its mode") from None
    if len(text) > _MAX:
        raise MooringError(f"{path} is larger than {_MAX} characters", "split it")
    try:
        # A few lines of aliases of aliases come to gigabytes.
        if "&" in text and any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, yaml.SafeLoader)):
            raise MooringError(f"{path} has YAML aliases", "write out what they stand for")
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise MooringError(f"{path} is neither YAML nor JSON: {error}", "'get -o yaml' shows the form") from None


def read_fields(path: Path | None, unchanging: Collection[str] = ()) -> dict[str, Any]:
    """The fields of one thing in a file, without those that nobody writes and those that are `unchanging`; none without
    a file. Raises MooringError."""
    if path is None:
        return {}
    found = read_document(path)
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise MooringError(f"{path} does not hold fields", "write 'name: value' lines; 'get -o yaml' shows the form")
    return {key: value for key, value in found.items() if key not in _SEEN and key not in unchanging}
