#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: membership
short_description: Say who may enter a cluster through a Mooring server
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - Lets a user or a group enter a cluster, or ends that. What they may do inside is for the RBAC of the cluster to say.
  - Ending a membership cuts open watches and shells of those who lose the way in.
options:
  cluster:
    description:
      - Name of the cluster.
    type: str
    required: true
  user:
    description:
      - Name of the user. Exactly one of O(user) and O(group) is required.
    type: str
  group:
    description:
      - Name of the group. Exactly one of O(user) and O(group) is required.
    type: str
  state:
    description:
      - Whether the membership exists.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment:
  - mooring.fleet.connection
  - mooring.fleet.attributes
seealso:
  - module: mooring.fleet.cluster
  - module: mooring.fleet.user
  - module: mooring.fleet.group
"""

EXAMPLES = r"""
- name: Let the developers enter Paris
  mooring.fleet.membership:
    cluster: paris
    group: developers

- name: Let them do something there, through the server
  kubernetes.core.k8s:
    host: https://mooring.example.com:8443/k8s/clusters/paris
    api_key: "{{ lookup('ansible.builtin.env', 'MOORING_TOKEN') }}"
    ca_cert: mooring-ca.pem
    definition:
      apiVersion: rbac.authorization.k8s.io/v1
      kind: RoleBinding
      metadata:
        name: developers
        namespace: shop
      roleRef:
        apiGroup: rbac.authorization.k8s.io
        kind: ClusterRole
        name: edit
      subjects:
        - apiGroup: rbac.authorization.k8s.io
          kind: Group
          name: mooring:developers
"""

RETURN = r"""
membership:
  description: The membership.
  returned: when O(state=present)
  type: dict
  sample:
    id: m-4xk7h2pd6wsa
    cluster: paris
    user:
    group: developers
"""

from ansible_collections.mooring.fleet.plugins.module_utils.argspec import make_module, state_option
from ansible_collections.mooring.fleet.plugins.module_utils.client import MooringError
from ansible_collections.mooring.fleet.plugins.module_utils.resource import run


def find(client, wished):
    """The membership of exactly this cluster and this user or group, or None."""
    try:
        items = client.list("/memberships", wished)
    except MooringError as e:
        if e.status == 404:  # there is no such cluster, user or group, hence no membership
            return None
        raise
    for item in items:
        if all(item.get(k) == wished.get(k) for k in ("cluster", "user", "group")):
            return item
    return None


def work(module, client):
    params = module.params
    wished = dict((k, params[k]) for k in ("cluster", "user", "group") if params[k] is not None)
    found = find(client, wished)
    result = dict(
        changed=False, diff=dict(before=wished if found else {}, after=wished if params["state"] == "present" else {})
    )
    if params["state"] == "absent":
        if found:
            result["changed"] = True
            if not module.check_mode:
                client.send("DELETE", "/memberships/%s" % found["id"])
        return result
    if not found:
        result["changed"] = True
        found = wished
        if not module.check_mode:
            try:
                found = client.send("POST", "/memberships", wished)
            except MooringError as e:
                # Somebody was faster: that is what was asked for.
                found = find(client, wished) if e.status == 409 else None
                if found is None:
                    raise
                result["changed"] = False
    return dict(result, membership=found)


def main():
    module = make_module(
        state_option(),
        dict(cluster=dict(type="str", required=True), user=dict(type="str"), group=dict(type="str")),
        mutually_exclusive=[("user", "group")],
        required_one_of=[("user", "group")],
    )
    run(module, work)


if __name__ == "__main__":
    main()
