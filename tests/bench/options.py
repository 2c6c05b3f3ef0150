# SPDX-License-Identifier: Apache-2.0
"""What the environment asks for: `make bench QUICK=1`, `ONLY=rates,exec`, `ROUNDS=5`, `SOAK=30`, `SOURCE=`, `BASE=`.

This module must not start or read anything but the environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "bench"


class BadOption(Exception):
    """An option that cannot be read; the message says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """One run's choices."""

    quick: bool = False
    """Only rates and bulk, beside the commit before: for a developer."""
    only: tuple[str, ...] = ()
    """Names of scenarios; empty: all."""
    rounds: int = 3
    """How often each measurement is made; the paths take turns within a round."""
    seconds: float = 3.0
    """Of load in one measurement of one path."""
    soak_minutes: float = 0.0
    """Of mixed load; 0: the soak is not run."""
    source: Path = ROOT
    """The tree that is measured."""
    base: str = ""
    """QUICK: the commit to compare with; empty: HEAD when the tree has changes, else the one before HEAD."""
    compiled: bool = False
    """Also a row for the build with mypyc."""


def read(environ: Mapping[str, str], known: Sequence[str]) -> Options:
    """The options of an environment; `known` are the scenarios. Raises BadOption."""

    def number(name: str, default: float, most: float) -> float:
        text = environ.get(name, "")
        try:
            value = float(text) if text else default
        except ValueError:
            raise BadOption(f"{name}={text} is not a number") from None
        if not 0 <= value <= most:
            raise BadOption(f"{name}={text} is not between 0 and {most:.0f}")
        return value

    quick = environ.get("QUICK", "") not in ("", "0")
    only = tuple(name for name in environ.get("ONLY", "").replace(",", " ").split())
    for name in only:
        if name not in known:
            raise BadOption(f"ONLY={name}: there is no such scenario; there are {', '.join(known)}")
    source = Path(environ.get("SOURCE") or ROOT).resolve()
    if not (source / "roles/server/files/service/pyproject.toml").is_file():
        raise BadOption(f"SOURCE={source} is not a tree of this project")
    return Options(
        quick=quick,
        only=only,
        rounds=max(1, int(number("ROUNDS", 2 if quick else 3, 100))),
        seconds=max(0.5, number("SECONDS_EACH", 2.5 if quick else 3.0, 600)),
        soak_minutes=number("SOAK", 0.0, 1440),
        source=source,
        base=environ.get("BASE", ""),
        compiled=environ.get("COMPILED", "") not in ("", "0"),
    )
