# SPDX-License-Identifier: Apache-2.0
"""The direct context: Bob straight to the cluster's API server, which asks kube-api-auth who he is.

On nodes the role `mooring.fleet.kube_api_auth` sets this up. The demo's API server is a process beside this one and no
pod of a node, so its flags are given when it starts, and kube-api-auth is a process, too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from support.apiauth import ApiAuth
from support.directbed import configure
from support.road import Kubectl

from demo.steps import DEMO, LOG, StepFailed, fetch, running, start, step, until

FOLDER = DEMO / "kube-api-auth"
KEPT = FOLDER / "kept.json"
CONFIG = FOLDER / "kube-api-auth.toml"
BIN = Path(sys.executable).parent


def flags() -> list[str]:
    """The API server's. They name files that are made once: the cluster stays up from one `make demo` to the next."""
    if not KEPT.exists():
        it = ApiAuth(FOLDER)
        it.configure(SimpleNamespace(cluster_id="", cluster_uid="", policy_key=""), FOLDER / "own.kubeconfig")
        content = {"flags": it.flags(), "settings": it.settings, "ca": str(it.authority.crt), "port": it.port}
        KEPT.touch(mode=0o600)
        KEPT.write_text(json.dumps(content))
    return list(json.loads(KEPT.read_text())["flags"])


def begin(kubectl: Path, kubeconfig: Path, endpoint: dict[str, Any]) -> None:
    """Start kube-api-auth for the cluster, if it does not run."""
    with step("Start kube-api-auth, which the cluster's API server asks who comes directly"):
        kept = json.loads(KEPT.read_text())
        known: Any = SimpleNamespace(folder=FOLDER, configure=lambda facts, path: write(kept["settings"], facts, path))
        if not running("kube-api-auth"):
            configure(known, Kubectl(kubectl, kubeconfig), endpoint)
            start("kube-api-auth", [BIN / "mooring", "kube-api-auth", "--config", CONFIG])
        log = LOG / "kube-api-auth.log"
        url = f"https://127.0.0.1:{kept['port']}"

        def ready() -> bool:
            if not running("kube-api-auth"):
                raise StepFailed("kube-api-auth ended", log)
            return bool(fetch(f"{url}/readyz", Path(kept["ca"])))

        until("a verified copy of the tokens", ready, 30, log)
        print(f"   {url}: it knows the tokens of this cluster, and needs no server for that")


def write(settings: dict[str, Any], facts: SimpleNamespace, kubeconfig: Path) -> None:
    """Its settings. JSON's strings and lists of strings are TOML's as well."""
    wanted = {
        **settings,
        "cluster_id": facts.cluster_id,
        "cluster_uid": facts.cluster_uid,
        "policy_key": facts.policy_key,
        "kubeconfig": str(kubeconfig),
    }
    CONFIG.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in wanted.items()))
