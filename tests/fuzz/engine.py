# SPDX-License-Identifier: Apache-2.0
"""One target in one process, under libFuzzer (atheris), or on files: `python -m fuzz.engine TARGET [FILE...]`.

libFuzzer ends its process at the first finding and never returns, so that each target runs in a process of its own;
`__main__` starts it and reads what it printed. With files as arguments, they are run once and nothing is mutated.

Counting the branches of h11 too takes three times as long for each input: `--oracle` does it, for the part of the time
in which they are worth knowing; else only our own modules are instrumented.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from pathlib import Path

OURS = (
    "mooring.wire",
    "mooring.authn",
    "mooring.proxy",
    "mooring.agent",
    "mooring.lib.config",
    "mooring.lib.names",
)
ORACLE = ("h11",)


def replay(name: str, files: list[Path]) -> None:
    """Run a target on saved inputs, as a person who looks into a finding does."""
    from fuzz.registry import TARGETS

    for file in files:
        TARGETS[name].run(file.read_bytes())
        print(f"{file}: nothing found")


def fuzz(name: str, arguments: list[str], oracle: bool) -> None:
    """Mutate until libFuzzer's options say stop. Does not return."""
    import atheris  # not in the development environment: `make fuzz` installs it beside it

    with atheris.instrument_imports(include=[*OURS, *(ORACLE if oracle else ())]):
        from fuzz.registry import TARGETS
    logging.disable(logging.CRITICAL)
    gc.freeze()  # what was imported is not looked at again by each collection
    run = TARGETS[name].run
    atheris.Setup([f"fuzz {name}", *arguments], run)
    atheris.Fuzz()


def main(arguments: list[str]) -> None:
    name, rest = arguments[0], arguments[1:]
    if "--" in rest:
        at = rest.index("--")
        fuzz(name, rest[at + 1 :], oracle="--oracle" in rest[:at])
    replay(name, [Path(file) for file in rest])


if __name__ == "__main__":
    sys.setrecursionlimit(int(os.environ.get("FUZZ_RECURSION", "1000")))
    main(sys.argv[1:])
