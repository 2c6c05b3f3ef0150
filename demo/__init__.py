# SPDX-License-Identifier: Apache-2.0
"""The demo: the product's main job on a real cluster, from nothing, for a person to watch and then to try.

`make demo` starts a kube-apiserver (or takes the user's cluster), starts the server, imports the cluster with
ansible-playbook, makes Bob, and runs what Bob runs. It uses only what users use: the `mooring` command, the
collection's playbooks and modules, kubectl. All it makes stands in `.demo/`; a second run finds it and is quick.
"""
