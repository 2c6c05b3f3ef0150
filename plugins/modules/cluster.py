#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cluster
short_description: Manage a downstream Kubernetes cluster on a Mooring server
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - Makes, changes and removes the object of one downstream cluster, gives the manifest or the join token that its
    agent needs, and waits until the agent is connected.
  - It does not touch the downstream cluster itself. The role P(mooring.fleet.cluster_agent#role) does.
options:
  name:
    description:
      - Name of the cluster, lower case letters, digits and hyphens, at most 63. It cannot be changed later.
    type: str
    required: true
  description:
    description:
      - A sentence for people. Kept as it is when not set.
    type: str
  labels:
    description:
      - All the labels of the cluster. Labels that are not named here are removed. Kept as they are when not set.
    type: dict
  profile:
    description:
      - How much of the cluster its agent may change, and so what policies can do there.
      - With V(admin) the manifest lets the agent give away any right, which is what policies need. With V(read-only)
        the cluster's own RBAC lets it give away reading only (C(get), C(list), C(watch)). With V(proxy-only) it
        manages no roles, and there are no policies in the cluster.
      - A new cluster is V(admin) when not set; later it is kept as it is when not set. A change holds once the
        manifest has been applied again.
    type: str
    choices: [proxy-only, read-only, admin]
  state:
    description:
      - Whether the cluster exists on the server. Removing it closes its tunnel and revokes its agent's key.
    type: str
    choices: [present, absent]
    default: present
  join_token:
    description:
      - When to make a new one-time join token, for an agent that is not installed by the manifest.
      - V(unregistered) makes one for as long as no agent has registered.
    type: str
    choices: [never, unregistered, always]
    default: never
  manifest:
    description:
      - When to return the manifest with which the agent is installed.
      - V(unregistered) returns it for as long as no agent has registered, V(always) also afterwards, for an upgrade
        of the agent.
      - While no agent has registered, a manifest holds a new one-time join token, so the task reports a change. Later
        it holds none, unless O(rekey) is set.
    type: str
    choices: [never, unregistered, always]
    default: never
  rekey:
    description:
      - Put a join token into the manifest although an agent has registered, so that an agent whose key is lost can
        register with a new one.
    type: bool
    default: false
  join_ttl:
    description:
      - Seconds for which a new join token is valid, also the one in a manifest.
    type: int
    default: 3600
  workload:
    description:
      - What runs the agent. V(deployment) is a Deployment in the cluster. With V(none) the manifest holds only the
        namespace, the service accounts and the rights, for an agent that runs elsewhere with a kubeconfig.
    type: str
    choices: [deployment, none]
    default: deployment
  image:
    description:
      - Image of the agent, where it is not the server's default.
    type: str
  image_pull_policy:
    description:
      - When the cluster's nodes pull the image.
    type: str
    choices: [Always, IfNotPresent, Never]
  replicas:
    description:
      - Number of agents in the Deployment.
    type: int
  endpoint_service:
    description:
      - Type of the Service in front of an authorized endpoint that the agent serves (M(mooring.fleet.cluster_endpoint)
        with the mode V(agent)). The server's default when not set.
    type: str
    choices: [ClusterIP, NodePort, LoadBalancer]
  endpoint_node_port:
    description:
      - Port of the nodes for O(endpoint_service). Kubernetes chooses one when not set.
    type: int
  endpoint_names:
    description:
      - Names and addresses for the certificate of such an endpoint, beside its C(fqdn).
    type: list
    elements: str
  admin_binding:
    description:
      - Whether the manifest binds the server's group C(admins) to C(cluster-admin).
    type: bool
    default: true
  wait:
    description:
      - Wait until the agent is connected.
    type: bool
    default: false
  wait_timeout:
    description:
      - Seconds to wait for O(wait).
    type: int
    default: 120
extends_documentation_fragment:
  - mooring.fleet.connection
  - mooring.fleet.attributes
seealso:
  - module: mooring.fleet.cluster_info
  - module: mooring.fleet.membership
"""

EXAMPLES = r"""
- name: Make the cluster and get what installs its agent
  mooring.fleet.cluster:
    name: paris
    labels:
      site: paris
    manifest: unregistered
  register: paris
  no_log: true # the manifest holds a join token

- name: Wait until its agent is connected
  mooring.fleet.cluster:
    name: paris
    wait: true
    wait_timeout: 300

- name: Remove it from the server
  mooring.fleet.cluster:
    name: paris
    state: absent
"""

RETURN = r"""
cluster:
  description: The cluster as the server knows it. In check mode a cluster that is yet to be made has only the wished
    fields.
  returned: when O(state=present)
  type: dict
  contains:
    id:
      description: Identifier, kept for the life of the cluster.
      type: str
      sample: c-k2v5d3h7mwqz
    name:
      description: Name.
      type: str
      sample: paris
    state:
      description: One of V(pending), V(connected), V(disconnected) and V(refused).
      type: str
      sample: connected
    state_reason:
      description: Why the cluster is in that state.
      type: str
    labels:
      description: Labels.
      type: dict
      sample: {"site": "paris"}
    profile:
      description: How much of the cluster its agent may change.
      type: str
      sample: admin
    kubernetes_version:
      description: Version of the cluster's API server, as its agent reported it.
      type: str
      sample: v1.36.3
    node_count:
      description: Number of nodes.
      type: int
      sample: 3
    proxy_url:
      description: Address of the cluster's Kubernetes API through the server.
      type: str
      sample: https://mooring.example.com:8443/k8s/clusters/paris
manifest:
  description: Kubernetes objects as YAML documents. May hold a join token, use C(no_log) with it.
  returned: when O(manifest) asks for it; in check mode only if it holds no join token
  type: str
join_token:
  description: The one-time join token. A secret, use C(no_log) with it.
  returned: when O(join_token) asks for it, not in check mode
  type: str
"""

from ansible_collections.mooring.fleet.plugins.module_utils.argspec import make_module, state_option
from ansible_collections.mooring.fleet.plugins.module_utils.client import MooringError, ref
from ansible_collections.mooring.fleet.plugins.module_utils.resource import Resource, run, wait_for

ENDPOINT = ("endpoint_service", "endpoint_node_port", "endpoint_names")
WHEN = ["never", "unregistered", "always"]


def wanted(when, cluster):
    """Whether to make what the option `when` guards: an agent that has registered left the UID of its cluster."""
    return when == "always" or (when == "unregistered" and not cluster.get("cluster_uid"))


def manifest_request(params, join_token):
    """The body of the manifest request; what the user left out is the server's to choose."""
    body = dict(workload=params["workload"], admin_binding=params["admin_binding"], join_token=join_token)
    if join_token:
        body["ttl_seconds"] = params["join_ttl"]
    for option in ("image", "image_pull_policy", "replicas", *ENDPOINT):
        if params[option] is not None:
            body[option] = params[option]
    return body


def connect(client, params):
    """Wait until the agent is connected, and fail with the server's reason if it is not in time."""
    path = "/clusters/%s" % ref(params["name"])
    cluster, connected = wait_for(
        lambda: client.get(path)[0], lambda c: c is not None and c.get("state") == "connected", params["wait_timeout"]
    )
    if not connected:
        state = (
            "gone"
            if cluster is None
            else "%s (%s)" % (cluster.get("state"), cluster.get("state_reason") or "no reason given")
        )
        raise MooringError(
            "The agent of cluster %s did not connect within %d s, the cluster is %s. Look at the agent's log:"
            " kubectl -n mooring-system logs deployment/mooring-agent" % (params["name"], params["wait_timeout"], state)
        )
    return cluster


def work(module, client):
    params = module.params
    path = "/clusters/%s" % ref(params["name"])
    resource = Resource(module, client, "/clusters", path, shown=("name", "description", "labels", "profile"))
    if params["state"] == "absent":
        return resource.absent()

    wished = dict((k, params[k]) for k in ("description", "labels", "profile") if params[k] is not None)
    if "labels" in wished:
        wished["labels"] = dict((str(k), str(v)) for k, v in wished["labels"].items())
    cluster, result = resource.present(wished, key=dict(name=params["name"]))
    if wanted(params["join_token"], cluster):
        result["changed"] = True
        if not module.check_mode:
            made = client.send("POST", path + "/join-tokens", dict(ttl_seconds=params["join_ttl"]))
            result["join_token"] = made["join_token"]
    if wanted(params["manifest"], cluster):
        join_token = params["rekey"] or wanted("unregistered", cluster)
        result["changed"] = result["changed"] or join_token
        if not (module.check_mode and join_token):
            result["manifest"] = client.send("POST", path + "/manifest", manifest_request(params, join_token))
    if params["wait"] and not module.check_mode:
        cluster = connect(client, params)
    return dict(result, cluster=cluster)


def main():
    module = make_module(
        state_option(),
        dict(
            name=dict(type="str", required=True),
            description=dict(type="str"),
            labels=dict(type="dict"),
            profile=dict(type="str", choices=["proxy-only", "read-only", "admin"]),
            join_token=dict(type="str", choices=WHEN, default="never", no_log=False),
            manifest=dict(type="str", choices=WHEN, default="never"),
            rekey=dict(type="bool", default=False, no_log=False),
            join_ttl=dict(type="int", default=3600),
            workload=dict(type="str", choices=["deployment", "none"], default="deployment"),
            image=dict(type="str"),
            image_pull_policy=dict(type="str", choices=["Always", "IfNotPresent", "Never"]),
            replicas=dict(type="int"),
            endpoint_service=dict(type="str", choices=["ClusterIP", "NodePort", "LoadBalancer"]),
            endpoint_node_port=dict(type="int"),
            endpoint_names=dict(type="list", elements="str"),
            admin_binding=dict(type="bool", default=True),
            wait=dict(type="bool", default=False),
            wait_timeout=dict(type="int", default=120),
        ),
    )
    run(module, work)


if __name__ == "__main__":
    main()
