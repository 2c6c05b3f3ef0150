# SPDX-License-Identifier: Apache-2.0
"""What tests do as the administrator of a cluster, whatever the cluster is made of.

This module must not know how a cluster is started.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from testbed.errors import TestbedError


class Administrator:
    """A cluster with a kubeconfig of its administrator, and a folder with programs."""

    bin: Path

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, certificates inside."""
        raise NotImplementedError

    def env(self) -> dict[str, str]:
        """The environment with this cluster's KUBECONFIG and its programs first in PATH."""
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "PATH": f"{self.bin}:{os.environ.get('PATH', '')}"}

    def kubectl(
        self,
        *args: str | Path,
        check: bool = True,
        input: str | None = None,
        timeout: float = 60.0,
        kubeconfig: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator, or with another kubeconfig.

        Raises TestbedError with its stderr if it fails and `check` is set, and if it takes more than `timeout` seconds.
        """
        command = [str(self.bin / "kubectl"), "--kubeconfig", str(kubeconfig or self.kubeconfig), *map(str, args)]
        try:
            done = subprocess.run(
                command, input=input or "", capture_output=True, text=True, timeout=timeout, check=False, env=self.env()
            )
        except subprocess.TimeoutExpired as late:
            raise TestbedError(
                f"kubectl {' '.join(map(str, args))}: no end after {timeout} s: {late.stderr!r}"
            ) from None
        if check and done.returncode != 0:
            raise TestbedError(
                f"kubectl {' '.join(map(str, args))}: exit code {done.returncode}: {done.stderr.strip()}"
            )
        return done

    def get(self, *args: str) -> Any:
        """`kubectl get ... -o json`, parsed."""
        return json.loads(self.kubectl("get", *args, "-o", "json").stdout)

    def apply(self, *objects: dict[str, Any]) -> None:
        """`kubectl apply` of objects."""
        self.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
