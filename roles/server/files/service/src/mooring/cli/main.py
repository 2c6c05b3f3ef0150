# SPDX-License-Identifier: Apache-2.0
"""The `mooring` command: its tree, and how an error leaves it.

Subcommands are imported when they are used: `mooring agent` must not load the server's libraries, and completion must
be quick: kubectl runs `mooring credential` often. What a command does is in the module that the tree names, never here.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, Final, NoReturn

import click

from mooring.lib.errors import MooringError
from mooring.lib.version import VERSION

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2

_COMMANDS: Final = {
    "agent": ("mooring.cli.agent:agent", "Run the agent of a cluster."),
    "cluster": ("mooring.cli.clusters:cluster", "Clusters and how they join."),
    "cluster-binding": ("mooring.cli.bindings:cluster_binding", "Roles of subjects in a cluster."),
    "completion": ("mooring.cli.completion:completion", "Shell completion."),
    "credential": ("mooring.cli.credential:credential", "Give kubectl a token (an exec plugin)."),
    "doctor": ("mooring.cli.doctor:doctor", "Find out what is wrong with a server or a cluster."),
    "global-binding": ("mooring.cli.bindings:global_binding", "Global roles of users and groups."),
    "global-role": ("mooring.cli.roles:global_role", "Rights on the server and in all clusters."),
    "group": ("mooring.cli.groups:group", "Groups of users."),
    "kube-api-auth": ("mooring.cli.kube_api_auth:kube_api_auth", "Tell a cluster's API server who shows a token."),
    "kubeconfig": ("mooring.cli.kubeconfig:kubeconfig", "A kubeconfig with the clusters that you may enter."),
    "login": ("mooring.cli.login:login", "Log in to a server."),
    "logout": ("mooring.cli.login:logout", "Revoke and forget the token of a login."),
    "membership": ("mooring.cli.memberships:membership", "Who may enter which cluster."),
    "policy": ("mooring.cli.policies:policy", "Who can do what and why; the policy's state in the clusters."),
    "project": ("mooring.cli.projects:project", "Sets of namespaces of a cluster."),
    "project-binding": ("mooring.cli.bindings:project_binding", "Roles of subjects in a project."),
    "role-template": ("mooring.cli.roles:role_template", "Roles in a cluster or in a project."),
    "server": ("mooring.cli.server:server", "Set up and run a server."),
    "token": ("mooring.cli.tokens:token", "Tokens for people and programs."),
    "user": ("mooring.cli.users:user", "Users and their passwords."),
    "whoami": ("mooring.cli.login:whoami", "Who the server says you are."),
}

_EPILOG: Final = """\b
Exit codes: 0 done; 1 it failed; 2 the command or the configuration is wrong; 3 not logged in, or not allowed;
4 there is no such thing; 5 the server cannot be reached.
Environment: MOORING_URL, MOORING_TOKEN and MOORING_CA_FILE take the place of 'mooring login'."""


class LazyGroup(click.Group):
    """A group whose commands are imported on use. The short help is kept here, so that `--help` imports nothing."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _unused, attribute = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_unused, about) in sorted(_COMMANDS.items())])


@click.group(
    cls=LazyGroup, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(VERSION, prog_name="mooring")
def cli() -> None:
    """One server in front of many Kubernetes clusters that dial out to it."""


def fail(reason: str, hint: str = "", code: int = EXIT_FAILED) -> NoReturn:
    """Says on standard error what is wrong and what to do, and ends the process."""
    click.echo(f"mooring: {reason}", err=True)
    if hint:
        click.echo(f"  {hint}", err=True)
    sys.exit(code)


def main(arguments: list[str] | None = None) -> Any:
    """The entry point: runs the command; a known error becomes a sentence and an exit code, never a traceback."""
    try:
        return cli.main(args=arguments, prog_name="mooring", standalone_mode=True)
    except MooringError as error:
        fail(error.reason, error.hint, getattr(error, "exit_code", EXIT_FAILED))
    except BrokenPipeError:
        # The reader of our output went away, as `head` does; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
