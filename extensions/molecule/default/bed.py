# SPDX-License-Identifier: GPL-3.0-or-later
"""Start what the scenario runs on, and say where it is as JSON: `bed.py NAME FOLDER`. `python -m testbed down` ends it.

Two machines and a cluster of one node that has the agent's image, made of the files beside this scenario.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from testbed import ControlPlane, Machines, Run, images


def main(name: str, folder: Path) -> None:
    run = Run.create(name, work=folder)
    try:
        machines = Machines(2, run=run).up()
        cluster = ControlPlane(name, nodes=1, run=run, folder=run.work).up()
        for node in cluster.nodes:
            node.load(images.ensure_agent_image())
        facts = {"dir": str(run.work), **cluster.facts(), **machines.facts(), "image": images.AGENT}
        (run.folder / "facts.json").write_text(json.dumps(facts))
        run.detach()
    except BaseException:
        run.teardown()
        raise
    print(json.dumps(facts))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
