# SPDX-License-Identifier: Apache-2.0
"""What the role kube_api_auth needs besides machines: a server that answers its one question, and signed documents.

The server is the stand-in of the unit tests; the documents are made as the server makes them and put where the agent
would. So the role, kube-api-auth and the API server are real, and nothing else has to run.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ansible_runner
from mooring.kube.names import DEFAULT_NAMESPACE
from mooring.kube.rights import api_auth_rules

from support.endpoint import Sealer, person, secret_objects
from support.road import BIN

ROOT = Path(__file__).resolve().parents[2]
Play = Callable[..., ansible_runner.Runner]


def _fake_api() -> Any:
    path = ROOT / "tests" / "unit" / "plugins" / "fake_api.py"
    spec = importlib.util.spec_from_file_location("fake_api_of_modules", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FakeApi()


class Fleet:
    """A server that knows one cluster, `paris`, whose endpoint is on; `token` is Bob's for it."""

    def __init__(self, cluster_uid: str) -> None:
        self.api = _fake_api()
        self.cluster_id = self.api.new_id("c")
        self.sealer = Sealer(cluster_id=self.cluster_id, cluster_uid=cluster_uid)
        self.bob = person("bob", "developers")
        self.token = self.sealer.token(self.bob)
        self.api.policy_key = self.sealer.policy_key
        self.api.objects["clusters"][self.cluster_id] = {
            "id": self.cluster_id, "name": "paris", "cluster_uid": cluster_uid, "version": 1, "labels": {},
        }  # fmt: skip
        self.api.endpoints[self.cluster_id] = {
            "mode": "webhook", "fqdn": "", "ca_pem": "", "ttl_seconds": 3600, "grace_seconds": 0,
        }  # fmt: skip

    def rights(self) -> list[dict[str, Any]]:
        """The part of the agent's manifest that kube-api-auth needs."""
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": DEFAULT_NAMESPACE}}
        return [space, *api_auth_rules(DEFAULT_NAMESPACE)]

    def secrets(self) -> list[dict[str, Any]]:
        """What the agent would write into the cluster: Bob, with the tokens that he has now."""
        return secret_objects(self.sealer.documents([self.bob]))

    def player(self, folder: Path, inventory: str | Path) -> Play:
        """play(name=value...) runs the playbook authorized_endpoint on the machines of the inventory."""
        link = folder / "collections" / "ansible_collections" / "mooring" / "fleet"
        link.parent.mkdir(parents=True)
        link.symlink_to(ROOT)
        count = itertools.count(1)

        def play(cmdline: str | None = None, **variables: Any) -> ansible_runner.Runner:
            data = folder / "runs" / str(next(count))
            data.mkdir(parents=True)
            return ansible_runner.run(
                private_data_dir=str(data),
                playbook="mooring.fleet.authorized_endpoint",
                inventory=str(inventory),
                extravars={"mooring_cluster_name": "paris", "mooring_control_planes": "machines", **variables},
                cmdline=cmdline,
                envvars={
                    "ANSIBLE_COLLECTIONS_PATH": str(folder / "collections"),
                    "ANSIBLE_HOME": str(folder / "home"),
                    "ANSIBLE_LOCALHOST_WARNING": "false",
                    "ANSIBLE_NOCOLOR": "true",
                    "ANSIBLE_PIPELINING": "true",
                    "MOORING_URL": self.api.url,
                    "MOORING_TOKEN": self.api.token,
                    "PATH": f"{BIN}:/usr/bin:/bin",
                },
                quiet=True,
                timeout=900,
            )

        return play
