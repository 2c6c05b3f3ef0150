#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: project
short_description: Manage a project of a cluster
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - Makes, changes and removes a project, a set of namespaces of one cluster that people are bound to as a whole.
  - A namespace is never removed from the cluster, neither when it leaves the project nor when the project is removed.
options:
  name:
    description:
      - Name of the project, unique in its cluster. It cannot be changed later.
    type: str
    required: true
  cluster:
    description:
      - Name or id of the cluster.
    type: str
    required: true
  description:
    description:
      - A sentence for people. Kept as it is when not set.
    type: str
  namespaces:
    description:
      - All the namespaces of the project. Kept as they are when not set.
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - Name of the namespace. It is in one project only.
        type: str
        required: true
      create:
        description:
          - Whether it is made if it is not there. With V(false), it is there already.
        type: bool
        default: true
      quota:
        description:
          - Resources and quantities that override O(namespace_quota) for it.
        type: dict
  quota:
    description:
      - Resources and quantities of all namespaces together, such as C(cpu=10). Kept as it is when not set.
    type: dict
  namespace_quota:
    description:
      - Resources and quantities of each namespace. Kept as it is when not set.
    type: dict
  container_limits:
    description:
      - Limits of containers that do not say any. Kept as they are when not set.
    type: dict
  container_requests:
    description:
      - Requests of containers that do not say any. Kept as they are when not set.
    type: dict
  pod_security:
    description:
      - Level of the Pod Security Standards that its namespaces enforce. V(none) takes it away. Kept when not set.
    type: str
    choices: [none, privileged, baseline, restricted]
  isolated:
    description:
      - Whether its pods are reached from namespaces of the same project only. Kept as it is when not set.
    type: bool
extends_documentation_fragment:
  - mooring.fleet.connection
  - mooring.fleet.policy
  - mooring.fleet.attributes
seealso:
  - module: mooring.fleet.project_binding
  - module: mooring.fleet.project_info
  - module: mooring.fleet.role_template
"""

EXAMPLES = r"""
- name: The project of the web shop
  mooring.fleet.project:
    name: shop
    cluster: paris
    namespaces:
      - name: shop-front
      - name: shop-db
        quota:
          requests.memory: 8Gi
    namespace_quota:
      requests.memory: 4Gi
    pod_security: baseline
    isolated: true
"""

RETURN = r"""
project:
  description: The project.
  returned: when O(state=present)
  type: dict
  sample:
    id: p-9rw4t7cn2ybe
    name: shop
    cluster: paris
    namespaces:
      - name: shop-front
        create: true
        quota: {}
    pod_security: baseline
    isolated: true
change:
  description: The change as the API's C(POST /policy/simulate) takes it.
  returned: in check mode, when something would change
  type: dict
  sample:
    kind: project
    op: delete
    name: shop
simulation:
  description: The Kubernetes objects that would come and go in each cluster, with counts of them all.
  returned: in check mode with O(simulate=true), when something would change and could be simulated
  type: list
  elements: dict
  sample:
    - cluster: paris
      counts:
        added: 0
        removed: 1
        changed: 0
      added: []
      removed:
        - kind: RoleBinding
          namespace: shop
          name: mooring:project-member:0f3a5b7c9d:always
      changed: []
"""

from ansible_collections.mooring.fleet.plugins.module_utils.argspec import make_module, state_option
from ansible_collections.mooring.fleet.plugins.module_utils.policy import (
    PolicyObject,
    given_fields,
    simulate_option,
    texts,
)
from ansible_collections.mooring.fleet.plugins.module_utils.resource import run

QUANTITIES = ("quota", "namespace_quota", "container_limits", "container_requests")
SHOWN = ("name", "cluster", "description", "namespaces", "pod_security", "isolated") + QUANTITIES


def namespaces(given):
    return [dict(name=one["name"], create=one["create"], quota=texts(one["quota"] or {})) for one in given]


def work(module, client):
    params = module.params
    project = PolicyObject(module, client, "project", "/projects", SHOWN, where=dict(cluster=params["cluster"]))
    wished = given_fields(
        params,
        ("description", "isolated"),
        namespaces=namespaces,
        pod_security=lambda level: None if level == "none" else level,
        **dict((name, texts) for name in QUANTITIES),
    )
    return project.bring(wished)


def main():
    module = make_module(
        state_option(),
        simulate_option(),
        dict(
            name=dict(type="str", required=True),
            cluster=dict(type="str", required=True),
            description=dict(type="str"),
            namespaces=dict(
                type="list",
                elements="dict",
                options=dict(
                    name=dict(type="str", required=True),
                    create=dict(type="bool", default=True),
                    quota=dict(type="dict"),
                ),
            ),
            quota=dict(type="dict"),
            namespace_quota=dict(type="dict"),
            container_limits=dict(type="dict"),
            container_requests=dict(type="dict"),
            pod_security=dict(type="str", choices=["none", "privileged", "baseline", "restricted"]),
            isolated=dict(type="bool"),
        ),
    )
    run(module, work)


if __name__ == "__main__":
    main()
