# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The flags of a kube-apiserver, from whichever document says them."""

from __future__ import annotations

DOCUMENTATION = r"""
name: kube_apiserver_read
short_description: The flags of a kube-apiserver in its static pod or in the configuration of kubeadm, K3s or RKE2
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - Returns the flags that a text sets, by their names without dashes. Of a flag that is there twice, the last counts.
  - A text of K3s or RKE2 is one with the key C(kube-apiserver-arg) or C(kube-apiserver-arg+), or without any of them.
options:
  _input:
    description:
      - The text, YAML. An empty one has no flags.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show who may be authorized how
  ansible.builtin.debug:
    msg: "{{ (manifest | mooring.fleet.kube_apiserver_read)['authorization-mode'] }}"
"""

RETURN = r"""
_value:
  description: Names of flags and their values.
  type: dict
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.mooring.fleet.plugins.filter.kube_apiserver_flags import form_of, load

KEYS = ("kube-apiserver-arg", "kube-apiserver-arg+")


def kube_apiserver_read(text):
    """The flags; raises AnsibleFilterError for a text that is none of these."""
    if not text.strip():
        return {}
    document = load(text)
    if "kind" in document:
        return dict(form_of(document).flags())
    found = []
    for key in KEYS:
        value = document.get(key) or []
        found += [value] if isinstance(value, str) else value
    if not all(isinstance(word, str) for word in found):
        raise AnsibleFilterError("%s must be a list of texts" % KEYS[0])
    return dict(word.lstrip("-").partition("=")[::2] for word in found)


class FilterModule:
    """The filter mooring.fleet.kube_apiserver_read."""

    def filters(self):
        return dict(kube_apiserver_read=kube_apiserver_read)
