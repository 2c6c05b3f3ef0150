# SPDX-License-Identifier: Apache-2.0
"""Options and files that several commands share: the server's configuration, secrets in files, output files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from mooring.lib.errors import MooringError
from mooring.lib.files import write_atomic
from mooring.lib.secrets import Secret

F = TypeVar("F", bound=Callable[..., Any])

_SECRET_MAX: Final = 4096
_DEFAULT_CONFIG: Final = "/etc/mooring/mooring.toml"


def config_option(function: F) -> F:
    """The option `--config`, handed on as `config_path`."""
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        envvar="MOORING_CONFIG",
        default=_DEFAULT_CONFIG,
        show_default=True,
        show_envvar=True,
        help="The server's configuration file.",
    )(function)


def read_secret_file(path: Path) -> Secret:
    """Reads a secret from the first line of a file; `-` is standard input. Raises MooringError."""
    try:
        if str(path) == "-":
            text = sys.stdin.readline(_SECRET_MAX)
        else:
            with path.open(encoding="utf-8") as file:
                text = file.readline(_SECRET_MAX)
    except (OSError, UnicodeDecodeError) as error:
        raise MooringError(f"the secret cannot be read from {path}: {error}", "check the path and its mode") from None
    secret = text.rstrip("\r\n")
    if not secret:
        raise MooringError(f"the first line of {path} is empty", "write the secret on the first line")
    return Secret(secret)


def write_output(path: Path | None, text: str, *, private: bool = False) -> None:
    """Writes to the file, whole or not at all (mode 0600 when private), or to standard output. Raises MooringError."""
    if path is None or str(path) == "-":
        click.echo(text, nl=not text.endswith("\n"))
        return
    try:
        write_atomic(path.absolute(), text, 0o600 if private else 0o644)
    except OSError as error:
        raise MooringError(f"{path} cannot be written: {error}", "choose another place with -o") from None
