#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: token
short_description: Manage a token of a Mooring server
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - Makes a token with a description, or revokes it.
  - A valid token of the same user with the same description is kept. Its secret cannot be read again, the server does
    not have it.
options:
  description:
    description:
      - What the token is for. The module finds the token by it.
    type: str
    required: true
  user:
    description:
      - Name of the user that the token is for. Without it, the user who asks. For others it takes the
        right to create tokens, and all rights that the other user holds.
    type: str
  cluster:
    description:
      - Name of the only cluster that the token is good for. Without it, the token is good for all that the user may do.
      - A token with this description and another scope is revoked and made anew.
    type: str
  ttl:
    description:
      - Seconds until a new token expires. The server's default when not set.
    type: int
  state:
    description:
      - With V(absent), all valid tokens of the user with this description are revoked, at once.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment:
  - mooring.fleet.connection
  - mooring.fleet.attributes
seealso:
  - module: mooring.fleet.kubeconfig
"""

EXAMPLES = r"""
- name: Make a token for the pipeline, good for one cluster
  mooring.fleet.token:
    description: pipeline of the shop
    user: robot
    cluster: paris
    ttl: 7776000
  register: pipeline
  no_log: true

- name: Keep the secret, which is only there when the token is new
  ansible.builtin.copy:
    content: "{{ pipeline.secret }}"
    dest: /etc/pipeline/token
    mode: "0600"
  when: pipeline.secret is defined
  no_log: true

- name: Revoke it
  mooring.fleet.token:
    description: pipeline of the shop
    user: robot
    state: absent
"""

RETURN = r"""
token_info:
  description: The token without its secret.
  returned: when O(state=present)
  type: dict
  sample:
    id: t-5mq3c7xk2zhd
    user: robot
    description: pipeline of the shop
    cluster: paris
    expires_at: "2026-12-01T12:00:00Z"
secret:
  description: The token itself. Use C(no_log) with it, it is shown only once.
  returned: when the token is new, not in check mode
  type: str
"""

from ansible_collections.mooring.fleet.plugins.module_utils.argspec import make_module, state_option
from ansible_collections.mooring.fleet.plugins.module_utils.resource import run
from ansible_collections.mooring.fleet.plugins.module_utils.times import seconds_left

SHOWN = ("user", "description", "cluster")


def valid(token):
    """Neither revoked nor expired."""
    left = seconds_left(token.get("expires_at"))
    return not token.get("revoked_at") and (left is None or left > 0)


def view(token):
    return dict((k, token.get(k)) for k in SHOWN)


def work(module, client):
    params = module.params
    user = params["user"] or client.send("GET", "/whoami")["user"]
    named = [
        token
        for token in client.list("/tokens", dict(user=user, active="true"))
        if token.get("user") == user and token.get("description") == params["description"] and valid(token)
    ]
    keep = [token for token in named if params["state"] == "present" and token.get("cluster") == params["cluster"]][:1]
    drop = (
        named
        if params["state"] == "absent"
        else [token for token in named if token.get("cluster") != params["cluster"]]
    )
    wished = dict(user=user, description=params["description"], cluster=params["cluster"])
    result = dict(
        changed=bool(drop) or (params["state"] == "present" and not keep),
        diff=dict(
            before=dict(tokens=[view(token) for token in named]),
            after=dict(tokens=[wished] if params["state"] == "present" else []),
        ),
    )
    if not module.check_mode:
        for token in drop:
            client.send("DELETE", "/tokens/%s" % token["id"])
    if params["state"] == "absent":
        return result
    if keep:
        return dict(result, token_info=keep[0])
    if module.check_mode:
        return dict(result, token_info=wished)
    body = dict((k, v) for k, v in wished.items() if v is not None and (k != "user" or params["user"]))
    if params["ttl"] is not None:
        body["ttl_seconds"] = params["ttl"]
    made = client.send("POST", "/tokens", body)
    secret = made.pop("token")
    return dict(result, token_info=made, secret=secret)


def main():
    module = make_module(
        state_option(),
        dict(
            description=dict(type="str", required=True),
            user=dict(type="str"),
            cluster=dict(type="str"),
            ttl=dict(type="int"),
        ),
    )
    run(module, work)


if __name__ == "__main__":
    main()
