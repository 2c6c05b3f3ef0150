# SPDX-License-Identifier: Apache-2.0
"""`mooring completion`: the script that makes a shell complete commands, options and names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a SHELL.

    \b
    bash:  eval "$(mooring completion bash)"      in ~/.bashrc
    zsh:   eval "$(mooring completion zsh)"       in ~/.zshrc
    fish:  mooring completion fish > ~/.config/fish/completions/mooring.fish
    """
    from mooring.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None, "click knows these three shells"
    click.echo(kind(cli, {}, "mooring", "_MOORING_COMPLETE").source())
