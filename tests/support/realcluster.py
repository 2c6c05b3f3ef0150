# SPDX-License-Identifier: Apache-2.0
"""A real cluster, as its administrator sees it and as a service account of the real manifest does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mooring.kube.access import ApiServerConfig, from_kubeconfig
from mooring.kube.client import KubeApi
from mooring.kube.manifest import ManifestOptions, render
from mooring.lib.profiles import Profile
from mooring.lib.secrets import Secret
from mooring.net.tls import client_context
from testbed import ControlPlane

from support.policybed import RBAC, Manifest

OWN = "/api/v1/namespaces/mooring-system"
KINDS = ("clusterroles", "clusterrolebindings", "rolebindings")


class Real:
    """The cluster. `admin` may do everything."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.admin = KubeApi(from_kubeconfig(Path(plane.kubeconfig), None))

    async def apply(self, item: Manifest, path: str) -> None:
        target = f"{path}/{item['metadata']['name']}?fieldManager=admin&force=true"
        answer = await self.admin.call("PATCH", target, item, media="application/apply-patch+yaml")
        assert answer.status in (200, 201), answer.body

    async def manifest(self, profile: Profile, **more: Any) -> None:
        """The agent's manifest."""
        options = ManifestOptions(
            server_url="https://x",
            ca_pem="x",
            join_token=None,
            cluster_name="x",
            profile=profile,
            workload="none",
            **more,
        )
        for item in render(options):
            group = item["apiVersion"]
            root = f"/api/{group}" if group == "v1" else f"/apis/{group}"
            space = item["metadata"].get("namespace")
            await self.apply(item, f"{root}{f'/namespaces/{space}' if space else ''}/{item['kind'].lower()}s")

    async def account(self, name: str) -> ApiServerConfig:
        """For calls as a service account of the agent's namespace."""
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        made = await self.admin.json("POST", f"{OWN}/serviceaccounts/{name}/token", body)
        known = from_kubeconfig(Path(self.plane.kubeconfig), None)
        ca = self.plane.ca.read_text()
        context = client_context(ca)
        return ApiServerConfig(
            host=known.host,
            port=known.port,
            own_tls=context,
            stream_tls=context,
            server_name=known.server_name,
            ca_pem=ca,
            token=Secret(made["status"]["token"]),
        )

    async def there(self, path: str) -> dict[str, Any] | None:
        answer = await self.admin.call("GET", path)
        assert answer.status in (200, 404)
        found: dict[str, Any] = json.loads(answer.body)
        return found if answer.status == 200 else None

    async def make_space(self, name: str) -> None:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        await self.admin.json("POST", "/api/v1/namespaces", body)

    async def may(self, user: str, verb: str, namespace: str = "") -> bool:
        attributes = {"verb": verb, "resource": "pods", "namespace": namespace}
        spec = {"user": f"mooring:{user}", "resourceAttributes": attributes}
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        answer = await self.admin.json("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
        return bool(answer["status"]["allowed"])

    async def clean(self) -> None:
        for kind in KINDS:
            path = f"/apis/{RBAC}/v1/{kind}"
            found = await self.admin.json("GET", f"{path}?labelSelector=mooring.fleet/policy%3Dtrue")
            for item in found["items"]:
                meta = item["metadata"]
                inside = f"/apis/{RBAC}/v1/namespaces/{meta['namespace']}/{kind}" if "namespace" in meta else path
                await self.admin.call("DELETE", f"{inside}/{meta['name']}")
        await self.admin.call("DELETE", f"{OWN}/secrets")
        await self.admin.call("DELETE", "/apis/coordination.k8s.io/v1/namespaces/mooring-system/leases")
