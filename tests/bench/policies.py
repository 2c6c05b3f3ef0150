# SPDX-License-Identifier: Apache-2.0
"""`make bench-policies`: what policies cost, and how fast a change holds.

    render    60,000 users, each in 20 roles of one project: time, objects, bytes
    change    a change by the REST API until the API server's authoriser answers by it, with 10 connected clusters
    apply     5,000 bindings in one cluster: until all are there, and what the agent does afterwards

`ONLY=render,apply` runs some of them and keeps the figures of the others. Results: build/bench/policies.json.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mooring.policy.render import ClusterFacts, Rendered, render
from mooring.store.policies import Binding, Policy, Project, ProjectNamespace, RoleTemplate, Rule, Subject
from mooring.wire.bundle import body_of

from bench import options, policies_real, results
from bench.goals import Goal

FILE = options.OUT / "policies.json"
USERS = 60_000
ROLES = 20
ROUNDS = 3
GOALS = (
    Goal("render_60000x20_s", "render", 1.0, "s", True, "render of 60,000 users, each in 20 roles, median"),
    Goal("objects_60000_users", "render", 128, "objects", True, "objects of 60,000 users in one role and namespace"),
    Goal("change_to_enforced_p99_s", "change", 1.0, "s", True, "a change until it holds, 10 connected clusters, p99"),
    Goal("full_apply_5000_s", "apply", 30, "s", True, "5,000 bindings until all are in the cluster"),
)

Found = dict[str, float]


def policy(users: int, roles: int) -> Policy:
    """Each user in each role of one project with one namespace, bound by name; nothing is shared between the lists."""
    times: dict[str, Any] = {"created_at": 0.0, "updated_at": 0.0}
    templates = {
        f"rt-{n}": RoleTemplate(
            id=f"rt-{n}",
            name=f"role-{n}",
            context="project",
            rules=(Rule(verbs=("get",), api_groups=("",), resources=(f"things{n}",)),),
            **times,
        )
        for n in range(roles)
    }
    project = Project(
        id="p-1",
        name="all",
        cluster_id="c-1",
        cluster_name="one",
        namespaces=(ProjectNamespace(name="all"),),
        **times,
    )
    bindings = {
        f"b-{n}": Binding(
            id=f"b-{n}",
            kind="project",
            name=f"binding-{n}",
            role_id=f"rt-{n}",
            role_name=f"role-{n}",
            cluster_id="c-1",
            project_id="p-1",
            subjects=tuple(Subject(kind="user", id=f"u-{u:012}", name=f"person{u:06}") for u in range(users)),
            **times,
        )
        for n in range(roles)
    }
    return Policy({}, templates, {"p-1": project}, bindings)


def run_render() -> tuple[Found, list[dict[str, Any]]]:
    """Figures of rendering, in this process."""
    cluster = ClusterFacts("c-1", "one")

    def once(what: Policy) -> Rendered:
        return render(what, cluster, prefix="mooring:", left_out={"u-000000000007"})

    many = policy(USERS, ROLES)
    gc.collect()
    gc.freeze()  # the policy stands in memory for long; what is rendered does not
    took, used = [], []
    for _round in range(ROUNDS):
        begin, cpu = time.perf_counter(), time.process_time()
        rendered = once(many)
        took.append(time.perf_counter() - begin)
        used.append(time.process_time() - cpu)
    gc.unfreeze()
    one = once(policy(USERS, 1))
    rows = [
        _row("60,000 users x 20 roles", rendered, sorted(took)[ROUNDS // 2])
        | {"cpu_s": round(sorted(used)[ROUNDS // 2], 3), "best_s": round(min(took), 3)},
        _row("60,000 users x 1 role", one, None),
        _row("1,000 users x 20 roles", once(policy(1000, ROLES)), None),
    ]
    return {"render_60000x20_s": sorted(took)[ROUNDS // 2], "objects_60000_users": len(one.objects)}, rows


def _row(name: str, found: Rendered, seconds: float | None) -> dict[str, Any]:
    sizes = [len(json.dumps(item)) for item in found.objects]
    return {
        "what": name,
        "render_s": seconds,
        "objects": len(found.objects),
        "json_mb": round(len(body_of(found.objects, found.namespaces, limit=2**31)) / 1e6, 2),
        "largest_object_kb": round(max(sizes) / 1e3, 1),
    }


SCENARIOS: dict[str, Callable[[], tuple[Found, list[dict[str, Any]]]]] = {
    "render": run_render,
    "change": policies_real.run_change,
    "apply": policies_real.run_apply,
}


def goals(scenarios: dict[str, Any]) -> dict[str, Any]:
    """The goals, of all scenarios that did not fail."""
    values: Found = {}
    for one in scenarios.values():
        values.update({} if one["error"] else one["values"])
    return {
        goal.name: {
            "value": values.get(goal.name),
            "goal": goal.bound,
            "unit": goal.unit,
            "met": goal.met(values.get(goal.name)),
        }
        for goal in GOALS
    }


def main() -> int:
    """The command: 1 if a scenario failed, 2 if there is none of that name. A goal that was missed is no failure."""
    only = [name for name in os.environ.get("ONLY", "").split(",") if name] or list(SCENARIOS)
    unknown = sorted(set(only) - SCENARIOS.keys())
    if unknown:
        print(f"bench: there is no {', '.join(unknown)}; there are {', '.join(SCENARIOS)}", file=sys.stderr)
        return 2
    try:
        scenarios = json.loads(FILE.read_text())["scenarios"]
    except (OSError, ValueError, KeyError):
        scenarios = {}
    asked = options.Options()
    for name in only:
        facts, begin, error = results.run_facts(asked), time.monotonic(), ""
        print(f"[bench] {name}", flush=True)
        values: Found = {}
        rows: list[dict[str, Any]] = []
        try:
            values, rows = SCENARIOS[name]()
        except Exception as problem:
            traceback.print_exc()
            error = str(problem).strip() or type(problem).__name__
        facts["took_s"] = round(time.monotonic() - begin, 1)
        scenarios[name] = {"rows": rows, "values": values, "error": error, **facts}
        FILE.parent.mkdir(parents=True, exist_ok=True)
        scratch = FILE.with_suffix(".tmp")
        machine = results.machine(Path(sys.executable))
        scratch.write_text(
            json.dumps({"machine": machine, "goals": goals(scenarios), "scenarios": scenarios}, indent=1)
        )
        scratch.replace(FILE)
        for row in rows:
            print(f"[bench]   {row}", flush=True)
    for goal in GOALS:
        value = goals(scenarios)[goal.name]["value"]
        shown = "not measured" if value is None else f"{value:.4g} {goal.unit}"
        print(f"{goal.name:32} {shown:>16}   goal {goal.wanted:>8}   {'met' if goal.met(value) else 'MISSED'}")
    print(f"[bench] {FILE}")
    return 1 if any(scenarios[name]["error"] for name in only) else 0


if __name__ == "__main__":
    sys.exit(main())
