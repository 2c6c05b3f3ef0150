# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: clusters
short_description: The clusters of a Mooring server as hosts
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - Reads the clusters that the user may enter from a Mooring server. Each is a host, named after the cluster, on
    which tasks run on the controller and talk to the cluster's Kubernetes API through the server.
  - The file that configures it must end in C(mooring.yml) or C(mooring.yaml).
  - 'Each host has the variables C(mooring_id), C(mooring_name), C(mooring_description), C(mooring_state),
    C(mooring_state_reason), C(mooring_labels), C(mooring_kubernetes_version), C(mooring_node_count) and
    C(mooring_proxy_url).'
  - C(mooring_k8s_environment) is what P(kubernetes.core.k8s#module) and the other modules of that collection read
    from the environment, so that a play needs no more than C(environment) set to it. The same values are in
    C(mooring_k8s_host), C(mooring_k8s_api_key), C(mooring_k8s_ca_cert) and C(mooring_k8s_validate_certs), for
    C(module_defaults) with C(group/kubernetes.core.k8s).
  - The connection plugin P(kubernetes.core.kubectl#connection) finds C(ansible_kubectl_host), C(ansible_kubectl_token),
    C(ansible_kubectl_ssl_ca_cert) and C(ansible_kubectl_verify_ssl).
  - The token does not become a part of the inventory. The variables hold an expression that reads E(MOORING_TOKEN)
    when it is used, or O(token_expression).
extends_documentation_fragment:
  - ansible.builtin.constructed
  - ansible.builtin.inventory_cache
options:
  plugin:
    description:
      - Must be V(mooring.fleet.clusters).
    type: str
    required: true
    choices: [mooring.fleet.clusters]
  url:
    description:
      - Address of the Mooring server, for example V(https://mooring.example.com:8443), without a path.
    type: str
    required: true
    env:
      - name: MOORING_URL
  token:
    description:
      - The token to read the inventory with. It may hold a template.
    type: str
    env:
      - name: MOORING_TOKEN
  login_username:
    description:
      - Name of a local user, to log in with O(login_password) instead of a token.
    type: str
    env:
      - name: MOORING_USERNAME
  login_password:
    description:
      - Password of O(login_username).
    type: str
    env:
      - name: MOORING_PASSWORD
  ca_file:
    description:
      - File with the certificates (PEM) of the CAs that may sign the server's certificate. No other CA is then trusted.
    type: path
    env:
      - name: MOORING_CA_FILE
  validate_certs:
    description:
      - Whether the server's certificate and name are checked.
    type: bool
    default: true
    env:
      - name: MOORING_VALIDATE_CERTS
  timeout:
    description:
      - Seconds to wait for each answer of the server.
    type: int
    default: 30
    env:
      - name: MOORING_TIMEOUT
  state:
    description:
      - Only clusters in these states.
    type: list
    elements: str
    choices: [pending, connected, disconnected, refused]
    default: [pending, connected, disconnected, refused]
  labels:
    description:
      - Only clusters that have all these labels.
    type: dict
    default: {}
  token_expression:
    description:
      - Jinja expression, without braces, that gives the token for the Kubernetes API when a task needs it.
    type: str
    default: lookup('ansible.builtin.env', 'MOORING_TOKEN')
seealso:
  - module: mooring.fleet.cluster_info
"""

EXAMPLES = r"""
# fleet.mooring.yml, with MOORING_URL, MOORING_TOKEN and MOORING_CA_FILE in the environment
---
plugin: mooring.fleet.clusters
strict: true
state:
  - connected
groups:
  old: mooring_kubernetes_version is version('v1.34', '<')
keyed_groups:
  # a group state_connected, and for each label a group such as label_site_paris
  - key: mooring_state
    prefix: state
  - key: mooring_labels
    prefix: label
compose:
  site: mooring_labels.site | default('unknown')

# A play on it:
#
# - hosts: label_site_paris
#   gather_facts: false
#   environment: "{{ mooring_k8s_environment }}"
#   tasks:
#     - name: Make a namespace in each cluster
#       kubernetes.core.k8s:
#         api_version: v1
#         kind: Namespace
#         name: shop
"""

import os

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible_collections.mooring.fleet.plugins.module_utils.client import Client, MooringError

try:
    from ansible.template import trust_as_template

    def untrusted(value):
        return value
except ImportError:  # ansible-core before 2.19 takes every string for a template that is not marked as unsafe
    from ansible.utils.unsafe_proxy import wrap_var as untrusted

    def trust_as_template(value):
        return value


SUFFIXES = ("mooring.yml", "mooring.yaml")
FACTS = (
    "id",
    "name",
    "description",
    "state",
    "state_reason",
    "labels",
    "kubernetes_version",
    "node_count",
    "proxy_url",
)
CONNECTION = ("url", "token", "login_username", "login_password", "ca_file", "validate_certs", "timeout")


def wanted(cluster, states, labels):
    """Whether the options of the inventory file let the cluster in."""
    has = cluster.get("labels") or {}
    return cluster.get("state") in states and all(has.get(k) == str(v) for k, v in labels.items())


def variables(cluster, ca_file, validate_certs, token):
    """The variables of one host; `token` is a template, not a token."""
    found = dict(("mooring_" + name, untrusted(cluster.get(name))) for name in FACTS)
    host = found["mooring_proxy_url"]
    found.update(
        ansible_connection="local",
        ansible_python_interpreter=trust_as_template("{{ ansible_playbook_python }}"),
        mooring_k8s_host=host,
        mooring_k8s_api_key=token,
        mooring_k8s_validate_certs=validate_certs,
        mooring_k8s_environment=dict(
            K8S_AUTH_HOST=host, K8S_AUTH_API_KEY=token, K8S_AUTH_VERIFY_SSL=str(validate_certs).lower()
        ),
        ansible_kubectl_host=host,
        ansible_kubectl_token=token,
        ansible_kubectl_verify_ssl=validate_certs,
    )
    if ca_file:
        found.update(mooring_k8s_ca_cert=ca_file, ansible_kubectl_ssl_ca_cert=ca_file)
        found["mooring_k8s_environment"]["K8S_AUTH_SSL_CA_CERT"] = ca_file
    return found


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    NAME = "mooring.fleet.clusters"

    def verify_file(self, path):
        return super().verify_file(path) and path.endswith(SUFFIXES)

    def parse(self, inventory, loader, path, cache=True):
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        self.load_cache_plugin()
        for cluster in self._clusters(self.get_cache_key(path), cache):
            if wanted(cluster, self.get_option("state"), self.get_option("labels") or {}):
                self._add(cluster)

    def _clusters(self, key, cache):
        """All clusters, from the cache where the user has one and it is not being renewed."""
        use = self.get_option("cache")
        if use and cache:
            try:
                return self._cache[key]
            except KeyError:
                pass
        clusters = self._read()
        if use:
            self._cache[key] = clusters
        return clusters

    def _read(self):
        """All clusters, from the server. Only what hosts are made of is kept, so that no more gets into a cache."""
        options = dict((name, self.get_option(name)) for name in CONNECTION)
        for name in ("url", "token", "login_username", "login_password"):
            if options[name] and self.templar.is_template(options[name]):
                options[name] = self.templar.template(options[name])
        client = None
        try:
            client = Client(options)
            found = client.list("/clusters")
        except MooringError as e:
            raise AnsibleParserError("mooring.fleet.clusters: %s" % e) from e
        finally:
            if client:
                client.logout()
        return [dict((name, cluster.get(name)) for name in FACTS) for cluster in sorted(found, key=lambda c: c["name"])]

    def _add(self, cluster):
        ca_file = self.get_option("ca_file")
        token = trust_as_template("{{ %s }}" % self.get_option("token_expression"))
        name = self.inventory.add_host(cluster["name"])
        found = variables(cluster, ca_file and os.path.abspath(ca_file), self.get_option("validate_certs"), token)
        for key, value in found.items():
            self.inventory.set_variable(name, key, value)
        strict = self.get_option("strict")
        self._set_composite_vars(self.get_option("compose"), found, name, strict=strict)
        self._add_host_to_composed_groups(self.get_option("groups"), found, name, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), found, name, strict=strict)
