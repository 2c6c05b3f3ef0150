# SPDX-License-Identifier: Apache-2.0
"""The command tree is whole, light, and ends with sentences and exit codes, never with tracebacks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result
from mooring.cli import main
from mooring.lib.errors import MooringError

HEAVY = ("sqlalchemy", "litestar", "uvicorn", "httpx", "structlog", "argon2", "alembic", "jinja2", "yaml")


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def test_every_command_and_option_says_what_it_is_for() -> None:
    for path, command in commands(main.cli):
        assert command.help, f"{path} has no help"
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{' '.join(path)}: {parameter.opts} has no help"


def test_the_short_help_of_the_tree_is_there_without_importing_the_commands(mooring: Callable[..., Result]) -> None:
    output = mooring("--help").output
    for name in main._COMMANDS:
        assert f"\n  {name} " in output


@pytest.mark.parametrize("words", [["--help"], ["agent", "--help"], ["credential", "--help"], ["completion", "bash"]])
def test_light_commands_do_not_load_the_libraries_of_the_server(words: list[str]) -> None:
    heavy = [name for name in HEAVY if not (words[0] == "agent" and name == "structlog")]
    script = (
        "import sys, json\nfrom mooring.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        f"print('LOADED', json.dumps([name for name in {heavy!r} if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout.rpartition("LOADED ")[2]) == []


def test_the_agent_runs_without_the_libraries_of_the_server() -> None:
    script = (
        "import sys, json, mooring.cli.agent, mooring.agent.main\n"
        f"print(json.dumps([n for n in {HEAVY!r} if n != 'structlog' and n in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == []


class Special(MooringError):
    exit_code = 3


@pytest.mark.parametrize(("error", "code"), [(MooringError("it is broken", "mend it"), 1), (Special("no", "ask"), 3)])
def test_a_known_error_is_a_sentence_a_remedy_and_an_exit_code(
    error: MooringError, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_unused: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(main.cli, "main", fail)
    with pytest.raises(SystemExit) as ended:
        main.main([])
    assert ended.value.code == code
    said = capsys.readouterr()
    assert said.err == f"mooring: {error.reason}\n  {error.hint}\n"
    assert said.out == ""


@pytest.mark.parametrize(("shell", "mark"), [("bash", "complete -o"), ("zsh", "#compdef"), ("fish", "complete ")])
def test_each_shell_gets_its_completion_script(shell: str, mark: str, mooring: Callable[..., Result]) -> None:
    result = mooring("completion", shell)
    assert result.exit_code == 0
    assert mark in result.output
    assert "_MOORING_COMPLETE" in result.output


def test_a_usage_error_is_exit_code_two(mooring: Callable[..., Result]) -> None:
    assert mooring("cluster", "delete").exit_code == 2
    assert mooring("nonsense").exit_code == 2


def test_the_command_is_installed(home: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "mooring", "whoami"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 3
    assert done.stderr == "mooring: you are not logged in\n  run: mooring login https://HOST:PORT\n"
