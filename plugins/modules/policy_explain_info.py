#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: policy_explain_info
short_description: Ask a Mooring server who may do what, and why
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - With O(verb), answers who may do that in the cluster, and by which binding, role and rule.
  - With O(user) or O(group), answers what they may do and where.
options:
  cluster:
    description:
      - Name or id of the cluster that is asked about. Needed with O(verb).
    type: str
  verb:
    description:
      - The verb, such as V(get).
    type: str
  resource:
    description:
      - The resource, such as V(pods).
    type: str
  api_group:
    description:
      - The API group of the resource. Empty for the core group.
    type: str
  subresource:
    description:
      - The subresource, such as V(log).
    type: str
  resource_name:
    description:
      - The name of one object.
    type: str
  namespace:
    description:
      - The namespace.
    type: str
  path:
    description:
      - A path that is no resource, in place of O(resource).
    type: str
  user:
    description:
      - Name or id of a user.
    type: str
  group:
    description:
      - Name or id of a group.
    type: str
extends_documentation_fragment:
  - mooring.fleet.connection
  - mooring.fleet.attributes
  - mooring.fleet.attributes.info
seealso:
  - module: mooring.fleet.role_template_info
  - module: mooring.fleet.project_binding_info
"""

EXAMPLES = r"""
- name: Who may read the secrets of the shop, and why
  mooring.fleet.policy_explain_info:
    cluster: paris
    verb: get
    resource: secrets
    namespace: shop-db
  register: who

- name: What may Bob do where
  mooring.fleet.policy_explain_info:
    user: bob
  register: bobs
"""

RETURN = r"""
explanation:
  description: The answer of the server, as the REST API documents it.
  returned: always
  type: dict
"""

from ansible_collections.mooring.fleet.plugins.module_utils.argspec import make_module
from ansible_collections.mooring.fleet.plugins.module_utils.client import MooringError
from ansible_collections.mooring.fleet.plugins.module_utils.resource import run

WHO_CAN = dict(
    cluster="cluster",
    verb="verb",
    resource="resource",
    api_group="group",
    subresource="subresource",
    resource_name="name",
    namespace="namespace",
    path="path",
)
WHAT_CAN = dict(user="user", group="group", cluster="cluster")


def work(module, client):
    params = module.params
    path, names = ("/policy/explain", WHO_CAN) if params["verb"] else ("/policy/access", WHAT_CAN)
    stray = sorted(name for name in set(WHO_CAN) - set(names) if params[name] is not None)
    if stray:
        raise MooringError("%s: only with verb" % ", ".join(stray))
    query = dict((asked, params[name]) for name, asked in names.items() if params[name] is not None)
    return dict(changed=False, explanation=client.send("GET", path, query=query))


def main():
    module = make_module(
        dict(
            cluster=dict(type="str"),
            verb=dict(type="str"),
            resource=dict(type="str"),
            api_group=dict(type="str"),
            subresource=dict(type="str"),
            resource_name=dict(type="str"),
            namespace=dict(type="str"),
            path=dict(type="str"),
            user=dict(type="str"),
            group=dict(type="str"),
        ),
        required_one_of=[("verb", "user", "group")],
        mutually_exclusive=[("verb", "user", "group"), ("resource", "path")],
        required_by=dict(verb=("cluster",)),
    )
    run(module, work)


if __name__ == "__main__":
    main()
