#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cluster_endpoint
short_description: Turn the authorized endpoint of a cluster on and off
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - With an authorized endpoint, people reach the cluster without the Mooring server too, with tokens of their own for
    it, and the same roles hold.
  - This is the server's side. In the cluster, the agent's manifest has to be applied anew after a change of mode, and
    with O(mode=webhook) the role P(mooring.fleet.kube_api_auth#role) sets up the control planes.
options:
  name:
    description:
      - Name or id of the cluster.
    type: str
    required: true
  mode:
    description:
      - With V(webhook), the API server asks kube-api-auth on its own node who a token is. Its flags must be in your
        hands.
      - With V(agent), the agent serves the endpoint in the cluster, for clusters whose flags cannot be set.
      - Needed to turn it on. Kept as it is when not set.
    type: str
    choices: [webhook, agent]
  fqdn:
    description:
      - Name or address, with a port if it is not 443, under which people reach the endpoint, such as a load balancer's.
        An empty text for none. Kept as it is when not set.
    type: str
  ca_pem:
    description:
      - CA (PEM) of the certificate at O(fqdn), where it is not that of the cluster or the agent. Kept as it is when not
        set.
    type: str
  token_ttl:
    description:
      - Seconds for which a token of the endpoint is good, unless another time is asked for. Kept as it is when not set.
    type: int
  grace:
    description:
      - Seconds for which an expired token is still good while the server cannot be reached. With V(0), which a new
        endpoint has, it is refused. Kept as it is when not set.
    type: int
  state:
    description:
      - With V(absent), the endpoint is turned off and all its tokens are revoked.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment:
  - mooring.fleet.connection
  - mooring.fleet.attributes
seealso:
  - module: mooring.fleet.cluster_endpoint_info
  - module: mooring.fleet.kubeconfig
"""

EXAMPLES = r"""
- name: Let people reach Paris directly
  mooring.fleet.cluster_endpoint:
    name: paris
    mode: webhook
    fqdn: paris.example.com:6443

- name: Keep expired tokens good for an hour while the server is away
  mooring.fleet.cluster_endpoint:
    name: paris
    grace: 3600

- name: Turn it off
  mooring.fleet.cluster_endpoint:
    name: paris
    state: absent
"""

RETURN = r"""
endpoint:
  description: The endpoint, with what the agent has reported of it.
  returned: when O(state=present)
  type: dict
  sample:
    cluster: paris
    cluster_id: c-k2v5d3h7mwqz
    cluster_uid: 7f2c9a52-0f1b-4e6f-9f5a-2a8d0a7a6f11
    policy_key: 3q2-7wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
    enabled: true
    mode: webhook
    fqdn: paris.example.com:6443
    ca_pem: ""
    ttl_seconds: 3600
    grace_seconds: 0
    status: null
"""

from ansible_collections.mooring.fleet.plugins.module_utils.argspec import make_module, state_option
from ansible_collections.mooring.fleet.plugins.module_utils.client import MooringError, ref
from ansible_collections.mooring.fleet.plugins.module_utils.resource import RETRIES, run

# Option -> field of the API.
FIELDS = {"mode": "mode", "fqdn": "fqdn", "ca_pem": "ca_pem", "token_ttl": "ttl_seconds", "grace": "grace_seconds"}


def view(endpoint):
    """What a diff shows, and what is written: all of it, since a write replaces the whole."""
    if not endpoint["enabled"]:
        return {}
    return dict((field, endpoint[field]) for field in FIELDS.values())


def work(module, client):
    params = module.params
    path = "/clusters/%s/endpoint" % ref(params["name"])
    given = dict((field, params[name]) for name, field in FIELDS.items() if params[name] is not None)
    for attempt in range(RETRIES):
        endpoint, etag = client.get(path)
        if endpoint is None:
            if params["state"] == "absent":
                return dict(changed=False, diff=dict(before={}, after={}))
            raise MooringError("there is no cluster %r" % params["name"])
        before = view(endpoint)
        if params["state"] == "absent":
            result = dict(changed=bool(before), diff=dict(before=before, after={}))
            if before and not module.check_mode:
                client.send("DELETE", path)
            return result
        after = dict(before, **given)
        if "mode" not in after:
            raise MooringError("mode is needed to turn the endpoint of %s on" % params["name"])
        result = dict(changed=after != before, diff=dict(before=before, after=after), endpoint=endpoint)
        if not result["changed"]:
            return result
        if module.check_mode:
            return dict(result, endpoint=dict(endpoint, enabled=True, **after))
        try:
            return dict(result, endpoint=client.send("PUT", path, after, etag=etag))
        except MooringError as e:
            if e.status != 412 or attempt + 1 == RETRIES:
                raise


def main():
    module = make_module(
        state_option(),
        dict(
            name=dict(type="str", required=True),
            mode=dict(type="str", choices=["webhook", "agent"]),
            fqdn=dict(type="str"),
            ca_pem=dict(type="str"),
            token_ttl=dict(type="int", no_log=False),
            grace=dict(type="int"),
        ),
    )
    run(module, work)


if __name__ == "__main__":
    main()
