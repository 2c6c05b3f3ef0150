#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cluster_info
short_description: Read the clusters that a Mooring server knows
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - Returns the clusters that the user may see, all of them or those that match.
options:
  name:
    description:
      - Name or id of one cluster. The list is empty when there is none.
    type: str
  state:
    description:
      - Only clusters in this state.
    type: str
    choices: [pending, connected, disconnected, refused]
  labels:
    description:
      - Only clusters that have all these labels.
    type: dict
extends_documentation_fragment:
  - mooring.fleet.connection
  - mooring.fleet.attributes
  - mooring.fleet.attributes.info
seealso:
  - module: mooring.fleet.cluster
  - plugin: mooring.fleet.clusters
    plugin_type: inventory
"""

EXAMPLES = r"""
- name: Read all connected clusters in Paris
  mooring.fleet.cluster_info:
    state: connected
    labels:
      site: paris
  register: found

- name: Show their Kubernetes versions
  ansible.builtin.debug:
    msg: "{{ found.clusters | items2dict(key_name='name', value_name='kubernetes_version') }}"
"""

RETURN = r"""
clusters:
  description: The clusters, by name.
  returned: always
  type: list
  elements: dict
  sample:
    - id: c-k2v5d3h7mwqz
      name: paris
      state: connected
      state_reason: ""
      labels:
        site: paris
      kubernetes_version: v1.36.3
      node_count: 3
      nodes_ready: 3
      proxy_url: https://mooring.example.com:8443/k8s/clusters/paris
"""

from ansible_collections.mooring.fleet.plugins.module_utils.argspec import make_module
from ansible_collections.mooring.fleet.plugins.module_utils.client import ref
from ansible_collections.mooring.fleet.plugins.module_utils.resource import run


def matches(cluster, state, labels):
    has = cluster.get("labels") or {}
    return (not state or cluster.get("state") == state) and all(has.get(k) == str(v) for k, v in labels.items())


def work(module, client):
    params = module.params
    state, labels = params["state"], params["labels"] or {}
    if params["name"]:
        cluster = client.get("/clusters/%s" % ref(params["name"]))[0]
        found = [cluster] if cluster else []
    else:
        found = client.list(
            "/clusters", dict(state=state, label=["%s=%s" % item for item in sorted(labels.items())] or None)
        )
    found = [cluster for cluster in found if matches(cluster, state, labels)]
    return dict(changed=False, clusters=sorted(found, key=lambda c: c["name"]))


def main():
    module = make_module(
        dict(
            name=dict(type="str"),
            state=dict(type="str", choices=["pending", "connected", "disconnected", "refused"]),
            labels=dict(type="dict"),
        ),
    )
    run(module, work)


if __name__ == "__main__":
    main()
