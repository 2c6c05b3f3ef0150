# SPDX-License-Identifier: Apache-2.0
"""Run the checks and tests by name: what `make test`, `make lint` and the others call.

Why not plain make targets: a cold run takes many minutes, so a person must see which long step runs and how far it is,
find the log of a step that failed, and read at the end one line per part and the number of tests.

Parts stand in lanes, and lanes run side by side: each part of one lane after the other. On a cold machine compilers and
debootstrap work while the checks do; on a warm one the checks fill, at low priority, what the tests on real clusters
and machines leave of the processors while they wait. Those have deadlines, so there is one lane of each and no more (a
fourth one makes all of them slower, and the whole not shorter).
The faults mostly wait, and do so beside them; the tests of the authorized endpoint, which need clusters too, follow
them there. A kubeadm cluster is made of machines, so its part goes before molecule's.

This file must not know how a check works: each part is a command that a developer can run by hand, and is printed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "logs"
PY = sys.executable
HEARTBEAT = 20.0  # seconds between two signs of life of a long part
KUBEADM = "tests/e2e/endpoint/test_role_kubeadm.py"
SLOW = 2700.0  # seconds for a part of ten minutes, where a machine is four times slower; each test has its own timeout
LOOK = 0.2  # seconds between two looks whether a part has ended
print_lock = threading.Lock()
started = time.monotonic()


def say(text: str) -> None:
    with print_lock:
        print(f"[{time.monotonic() - started:6.0f} s] {text}", flush=True)


@dataclass(frozen=True)
class Lane:
    """Parts that run one after the other, beside the other lanes."""

    nice: int = 0
    after: tuple[str, ...] = ()  # lanes whose parts must have ended


LANES = {
    "programs": Lane(),
    "images": Lane(),
    "clusters": Lane(after=("programs", "images")),
    "faults": Lane(after=("programs", "images")),
    "machines": Lane(nice=5, after=("programs", "images")),
    "checks": Lane(nice=10),
}


@dataclass
class Part:
    """One step: a command, what it is for, and the groups (`make` targets) that it belongs to."""

    name: str
    command: list[str]
    groups: set[str]
    deadline: float = 900.0  # seconds; a part that hangs fails instead of holding everything up
    junit: bool = False
    lane: str = "checks"
    result: str = "not run"
    seconds: float = 0.0
    cpu: float = 0.0  # seconds of processor time
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    @property
    def log(self) -> Path:
        return LOGS / f"{self.name}.log"

    @property
    def ok(self) -> bool:
        return self.result == "ok"


def pytest(name: str, *arguments: str, group: str, deadline: float, lane: str = "checks") -> Part:
    command = [PY, "-m", "pytest", "-q", f"--junitxml=build/logs/{name}.xml", *arguments]
    return Part(name, command, {group}, deadline, junit=True, lane=lane)


def parts() -> list[Part]:
    bed, checks = [PY, "-m", "testbed"], [PY, "tests/collection/checks.py"]
    return [
        # what compilers and debootstrap take minutes for, once per machine
        Part("programs", [*bed, "build", "programs"], {"e2e", "security", "faults", "molecule"}, 3600, lane="programs"),
        Part("images", [*bed, "build", "images"], {"e2e", "molecule"}, 1800, lane="images"),
        pytest("unit", "tests/unit", group="unit", deadline=SLOW),
        Part("ruff", ["ruff", "check", "."], {"lint"}),
        Part("format", ["ruff", "format", "--check", "."], {"lint"}),
        Part("mypy", ["mypy"], {"lint"}),
        Part("import-linter", ["lint-imports", "--cache-dir", ".cache/import-linter"], {"lint"}),
        Part("ansible-lint", [*checks, "lint"], {"lint"}),
        Part("docs-lint", [*checks, "docs"], {"lint"}),
        Part("galaxy-build", [*checks, "build"], {"lint"}),
        Part("galaxy-importer", [*checks, "importer"], {"lint"}),
        Part("sanity", [*checks, "sanity"], {"lint"}, 1800),
        pytest(
            *("e2e", "--timeout=600", "tests/e2e", "--ignore=tests/e2e/policies", "--ignore=tests/e2e/endpoint"),
            group="e2e",
            deadline=SLOW,
            lane="clusters",
        ),
        pytest("security", "--timeout=300", "tests/security", group="security", deadline=1800, lane="clusters"),
        pytest("policies", "--timeout=600", "tests/e2e/policies", group="e2e", deadline=SLOW, lane="clusters"),
        pytest("faults", "tests/faults", group="faults", deadline=SLOW, lane="faults"),
        pytest(
            *("endpoint", "--timeout=600", "tests/e2e/endpoint", f"--ignore={KUBEADM}"),
            group="e2e",
            deadline=SLOW,
            lane="faults",
        ),
        pytest("kubeadm", "--timeout=900", KUBEADM, group="e2e", deadline=SLOW, lane="machines"),
        Part("molecule", [*checks, "molecule"], {"molecule"}, 1800, lane="machines"),
    ]


def last_line(log: Path) -> str:
    try:
        with log.open("rb") as f:
            f.seek(max(0, log.stat().st_size - 4096))
            lines = [line.strip() for line in f.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    return re.sub(r"\x1b\[[0-9;]*m", "", lines[-1])[-110:] if lines else ""


def ended(process: subprocess.Popen[bytes], part: Part) -> int | None:
    """The exit code once the process has ended, and the processor time of it and of all that it waited for."""
    pid, status, usage = os.wait4(process.pid, os.WNOHANG)
    if not pid:
        return None
    process.returncode = os.waitstatus_to_exitcode(status)
    part.cpu = usage.ru_utime + usage.ru_stime
    return process.returncode


def run(part: Part) -> None:
    say(f"{part.name}: {' '.join(part.command).replace(PY, 'python')}")
    begin = time.monotonic()
    with part.log.open("wb") as log:
        process = subprocess.Popen(
            ["nice", "-n", str(LANES[part.lane].nice), *part.command],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        beat = begin + HEARTBEAT
        while (code := ended(process, part)) is None:
            part.seconds = time.monotonic() - begin
            if part.seconds > part.deadline:
                os.killpg(process.pid, 15)
                until = time.monotonic() + 20
                while ended(process, part) is None:
                    if time.monotonic() > until:
                        os.killpg(process.pid, 9)
                    time.sleep(LOOK)
                code = -1
                break
            if time.monotonic() > beat:
                say(f"{part.name}: {part.seconds:.0f} s, {last_line(part.log)}")
                beat += HEARTBEAT
            time.sleep(LOOK)
    part.seconds = time.monotonic() - begin
    part.result = "ok" if code == 0 else f"no answer in {part.deadline:.0f} s" if code == -1 else f"failed ({code})"
    if part.junit:
        count(part)
    say(f"{part.name}: {part.result} in {part.seconds:.0f} s, {part.cpu:.0f} s of a processor")
    if not part.ok:
        tail = part.log.read_text(errors="replace").splitlines()[-120:]
        with print_lock:
            print(f"---- the end of {part.log.relative_to(ROOT)}", *tail, "----", sep="\n", flush=True)


def count(part: Part) -> None:
    """Read the number of tests from pytest's junit file; a run that executed none has failed."""
    try:
        suites = list(ET.parse(LOGS / f"{part.name}.xml").getroot().iter("testsuite"))  # noqa: S314 our own file
    except (OSError, ET.ParseError):
        part.result = part.result if not part.ok else "wrote no result"
        return

    def total(key: str) -> int:
        return sum(int(suite.get(key, 0)) for suite in suites)

    part.failed = total("failures") + total("errors")
    part.skipped = total("skipped")
    part.passed = total("tests") - part.failed - part.skipped
    if part.ok and not part.passed:
        part.result = "ran no test"


def packages() -> None:
    """Install the Debian packages that the tests need, where any is missing."""
    wanted = [
        line.split("#")[0].strip()
        for name in ("tests/testbed/packages.txt", "tests/packages.txt")
        for line in (ROOT / name).read_text().splitlines()
    ]
    wanted = [name for name in wanted if name]
    query = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    have = {line.split()[0] for line in query.stdout.splitlines() if line.endswith(" installed")}
    missing = [name for name in wanted if name not in have]
    if not missing:
        return
    say(f"packages: apt-get install {' '.join(missing)}")
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with (LOGS / "packages.log").open("wb") as log:
        for command in ([*apt, "update"], [*apt, "install", "-y", "--no-install-recommends", *missing]):
            if subprocess.run(command, stdout=log, stderr=log, env=environment, check=False).returncode:
                sys.exit(f"{' '.join(command)} failed, see build/logs/packages.log")


def run_lanes(chosen: list[Part]) -> None:
    """Run the parts, each lane in a thread of its own; a part that fails stops no other."""
    done = {name: threading.Event() for name in LANES}

    def work(name: str) -> None:
        try:
            for lane in LANES[name].after:
                done[lane].wait()
            for part in chosen:
                if part.lane == name:
                    run(part)
        finally:
            done[name].set()

    threads = [threading.Thread(target=work, args=[name], daemon=True) for name in LANES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main(arguments: list[str]) -> int:
    known = parts()
    names = {part.name for part in known} | {group for part in known for group in part.groups} | {"all"}
    if not arguments or set(arguments) - names:
        print(f"usage: python tests/run.py NAME...   one or more of: {' '.join(sorted(names))}", file=sys.stderr)
        return 2
    chosen = [part for part in known if "all" in arguments or {part.name, *part.groups} & set(arguments)]
    LOGS.mkdir(parents=True, exist_ok=True)
    os.environ["PATH"] = f"{Path(PY).parent}:{os.environ['PATH']}"
    os.environ["PYTHONPATH"] = str(ROOT / "tests")
    if any(part.groups & {"lint", "unit", "e2e", "security", "faults", "molecule"} for part in chosen):
        packages()

    run_lanes(chosen)

    print()
    for part in chosen:
        tests = f"  {part.passed} passed, {part.failed} failed, {part.skipped} skipped" if part.junit else ""
        print(f"{part.name:16} {part.result:12} {part.seconds:6.0f} s{tests}")
    passed, failed = sum(part.passed for part in chosen), sum(part.failed for part in chosen)
    bad = [part for part in chosen if not part.ok]
    print(f"{len(chosen) - len(bad)} of {len(chosen)} parts ok in {time.monotonic() - started:.0f} s")
    if any(part.junit for part in chosen):
        print(f"{passed} passed, {failed} failed")
    for part in bad:
        print(f"failed: {part.name}, see {part.log.relative_to(ROOT)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
