# SPDX-License-Identifier: Apache-2.0
"""What Bob does with his kubeconfig: each command is printed, run with a real kubectl, and its outcome checked.

The demo shows refusals too, so an unexpected success is a failure here like any other.
"""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

from demo.steps import DEMO, StepFailed, until

FORBIDDEN = "orbidden"


class Bob:
    """Runs kubectl as Bob and prints what he would see."""

    def __init__(self, kubectl: Path, kubeconfig: Path, context: str = "") -> None:
        self.kubectl = kubectl
        self.kubeconfig = kubeconfig
        self.context = [f"--context={context}"] if context else []

    def command(self, *words: str) -> list[str]:
        return [str(self.kubectl), "--kubeconfig", str(self.kubeconfig), *self.context, *words]

    def run(self, *words: str, refused: str = "") -> str:
        """Run one command and print it; `refused` is what must be said by whoever refuses it."""
        print(f"   $ kubectl {' '.join([*self.context, *words])}", flush=True)
        done = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=60, check=False)
        output = (done.stdout + done.stderr).rstrip()
        for line in output.splitlines()[:14]:
            print(f"     {line}", flush=True)
        if bool(refused) != bool(done.returncode) or refused not in output:
            raise StepFailed(f"`kubectl {' '.join(words)}` {'was not refused' if refused else 'failed'}")
        return output

    def watch(self, change: tuple[str, ...]) -> None:
        """Open a watch, make a change, and see the event arrive."""
        words = ("get", "configmaps", "--watch-only", "-o", "name")
        print(f"   $ kubectl {' '.join(words)} &", flush=True)
        seen: list[str] = []
        with subprocess.Popen(
            self.command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as watch:
            assert watch.stdout is not None
            output = watch.stdout
            reader = threading.Thread(target=lambda: seen.extend(iter(output.readline, "")), daemon=True)
            reader.start()
            try:
                # kubectl says nothing when its watch stands, so the change is repeated until it was seen
                for _unused in range(20):
                    self.quiet("delete", "configmap", "harbour", "--ignore-not-found")
                    self.quiet(*change)
                    try:
                        until("an event", lambda: any("harbour" in line for line in seen), 2)
                        break
                    except StepFailed:
                        continue
                else:
                    raise StepFailed("the watch saw no event")
            finally:
                watch.terminate()
        print(f"   $ kubectl {' '.join(change)}")
        print(f"     (the watch) {next(line for line in seen if 'harbour' in line).strip()}", flush=True)

    def quiet(self, *words: str) -> None:
        done = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise StepFailed(f"`kubectl {' '.join(words)}` failed: {done.stderr.strip()}")


def walk(kubectl: Path) -> None:
    bob = Bob(kubectl, DEMO / "bob.kubeconfig")
    os.environ.pop("KUBECONFIG", None)
    bob.run("auth", "whoami")
    bob.run("version")
    bob.quiet("delete", "configmap", "tide", "--ignore-not-found")
    bob.run("create", "configmap", "tide", "--from-literal=high=06:12")
    bob.run("get", "configmaps")
    bob.run("get", "secrets", "--namespace", "kube-system", refused=FORBIDDEN)
    bob.watch(("create", "configmap", "harbour", "--from-literal=open=yes"))


def walk_directly(kubectl: Path, context: str) -> None:
    """The same rights on another road."""
    bob = Bob(kubectl, DEMO / "bob.kubeconfig", context)
    os.environ.pop("KUBECONFIG", None)
    bob.run("auth", "whoami")
    bob.quiet("delete", "configmap", "ebb", "--ignore-not-found")
    bob.run("create", "configmap", "ebb", "--from-literal=low=12:31")
    bob.run("get", "configmaps")
    bob.run("get", "secrets", "--namespace", "kube-system", refused=FORBIDDEN)


def walk_without(kubectl: Path, context: str) -> None:
    """What a road says that leads through a server which is not there."""
    os.environ.pop("KUBECONFIG", None)
    Bob(kubectl, DEMO / "bob.kubeconfig", context).run("get", "configmaps", refused="refused")
