#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cluster_endpoint_info
short_description: Read the authorized endpoint of a cluster
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - Returns how the cluster is reached without the Mooring server, and what kube-api-auth on its control planes must
    know.
options:
  name:
    description:
      - Name or id of the cluster.
    type: str
    required: true
extends_documentation_fragment:
  - mooring.fleet.connection
  - mooring.fleet.attributes
  - mooring.fleet.attributes.info
seealso:
  - module: mooring.fleet.cluster_endpoint
"""

EXAMPLES = r"""
- name: Read the endpoint of Paris
  mooring.fleet.cluster_endpoint_info:
    name: paris
  register: found

- name: Show the control planes that the agent has found
  ansible.builtin.debug:
    msg: "{{ found.endpoint.status.nodes }}"
"""

RETURN = r"""
endpoint:
  description: >-
    The endpoint. C(enabled) says whether it is on, C(status) is what the agent has reported, or C(null).
  returned: always
  type: dict
  sample:
    cluster: paris
    cluster_id: c-k2v5d3h7mwqz
    cluster_uid: 7f2c9a52-0f1b-4e6f-9f5a-2a8d0a7a6f11
    policy_key: 3q2-7wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
    enabled: true
    mode: webhook
    fqdn: ""
    ca_pem: ""
    ttl_seconds: 3600
    grace_seconds: 0
    status:
      nodes:
        - name: m1
          host: 10.0.0.11
          port: 6443
      ca_pem: "-----BEGIN CERTIFICATE-----..."
      serving_url: ""
      serving_ca_pem: ""
      revision: 12
      digest: 5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef
      problem: ""
      reported_at: "2026-12-01T12:00:00Z"
"""

from ansible_collections.mooring.fleet.plugins.module_utils.argspec import make_module
from ansible_collections.mooring.fleet.plugins.module_utils.client import ref
from ansible_collections.mooring.fleet.plugins.module_utils.resource import run


def work(module, client):
    return dict(changed=False, endpoint=client.send("GET", "/clusters/%s/endpoint" % ref(module.params["name"])))


def main():
    run(make_module(dict(name=dict(type="str", required=True))), work)


if __name__ == "__main__":
    main()
