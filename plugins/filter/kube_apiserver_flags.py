# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Flags, mounts and annotations of a kube-apiserver, changed in the document that says them, and nothing else in it."""

from __future__ import annotations

DOCUMENTATION = r"""
name: kube_apiserver_flags
short_description: Change flags and mounts of a kube-apiserver in its static pod or in kubeadm's configuration
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - Takes the text of a static pod manifest of kube-apiserver, or of a C(ClusterConfiguration) of kubeadm, and returns
    it with the wished flags and mounts. What is not named stays as it is.
  - A text in which nothing changes is returned as it is, to the byte.
  - Fails for a document that it does not understand whole, rather than to write a kube-apiserver that does not start.
options:
  _input:
    description:
      - The text, YAML.
    type: str
    required: true
  flags:
    description:
      - Names of flags, without dashes, and their values. A flag whose value is V(null) is taken out.
    type: dict
    default: {}
  mounts:
    description:
      - Names of volumes and the folders of the host that are mounted at the same path, for reading. A volume whose
        folder is V(null) is taken out.
    type: dict
    default: {}
  annotations:
    description:
      - Annotations of the static pod. One whose value is V(null) is taken out. Not for a C(ClusterConfiguration).
    type: dict
    default: {}
  ours:
    description:
      - Beginning of the paths that may be replaced. Where it is set and a flag of O(flags) has a value with this
        beginning, a value of another beginning is somebody else's, and the filter fails.
    type: str
    default: ""
  before:
    description:
      - The text of before. Where the result says the same, it is returned instead, so that comments and order are back.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Show the manifest with a flag and a folder more
  ansible.builtin.debug:
    msg: >-
      {{ lookup('ansible.builtin.file', 'kube-apiserver.yaml')
         | mooring.fleet.kube_apiserver_flags(flags={'v': '4'}, mounts={'extra': '/etc/kubernetes/extra'}) }}
"""

RETURN = r"""
_value:
  description: The text with the changes.
  type: str
"""

import copy

import yaml
from ansible.errors import AnsibleFilterError

NAME = "kube-apiserver"


class Plain(yaml.SafeDumper):
    """Writes as kubeadm does: lists at the indentation of their key, no anchors, no folded lines."""

    def ignore_aliases(self, data):
        return True


# Ansible's own kinds of text, which remember where they came from.
Plain.add_multi_representer(str, lambda dumper, data: dumper.represent_str(data.encode().decode()))


def kube_apiserver_flags(text, flags=None, mounts=None, annotations=None, ours="", before=""):
    """The text with the changes; raises AnsibleFilterError for what it does not understand."""
    document = load(text)
    form = form_of(document)
    was = copy.deepcopy(document)
    for name in sorted(flags or {}):
        value = flags[name]
        found = form.flag(name)
        foreign = found is not None and ours and str(value).startswith(ours) and not found.startswith(ours)
        if foreign:
            raise AnsibleFilterError("%s is set to %s already, by somebody else" % (name, found))
        form.set_flag(name, None if value is None else str(value))
    for name in sorted(mounts or {}):
        form.set_mount(name, mounts[name])
    for name in sorted(annotations or {}):
        form.annotate(name, annotations[name])
    if document == was:
        return text
    if before and same(document, before):
        return before
    return yaml.dump(document, Dumper=Plain, default_flow_style=False, allow_unicode=True, width=1 << 20)


def load(text):
    """The one document of a text."""
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as e:
        raise AnsibleFilterError("this is not YAML: %s" % e) from e
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise AnsibleFilterError("this is not one YAML document with keys")
    return documents[0]


def form_of(document):
    """How flags are written in the document."""
    kind = document.get("kind")
    if kind == "Pod":
        return Pod(document)
    if kind == "ClusterConfiguration":
        return ClusterConfiguration(document)
    raise AnsibleFilterError("a document of kind %s has no flags of kube-apiserver" % kind)


def same(document, before):
    """Whether both say the same. Order of flags, volumes and mounts has no meaning."""
    try:
        other = load(before)
        return form_of(copy.deepcopy(document)).sense() == form_of(other).sense()
    except AnsibleFilterError:
        return False


def prune(parent, key):
    """Take away what has become empty."""
    if not parent.get(key):
        parent.pop(key, None)


class Pod:
    """A static pod: each flag is a word C(--name=value) of the container's command or arguments."""

    def __init__(self, document):
        self.document = document
        containers = (document.get("spec") or {}).get("containers") or []
        found = [container for container in containers if container.get("name") == NAME]
        if len(found) != 1:
            raise AnsibleFilterError("the pod must have exactly one container named %s" % NAME)
        self.container = found[0]
        command, arguments = self.container.get("command") or [], self.container.get("args") or []
        if not command or str(command[0]).rsplit("/", 1)[-1] != NAME:
            raise AnsibleFilterError("the container's command must begin with %s: a wrapper is not understood" % NAME)
        for word in command[1:] + arguments:
            if not (isinstance(word, str) and word.startswith("--") and len(word) > 2):
                raise AnsibleFilterError("the word %r of the command is not understood: write --name=value" % (word,))
        self.lists = [command] + ([arguments] if arguments else [])

    def words(self, name):
        return [word for words in self.lists for word in words if word.partition("=")[0] == "--" + name]

    def flag(self, name):
        found = self.words(name)
        if len(found) > 1:
            raise AnsibleFilterError("the flag --%s is there %d times" % (name, len(found)))
        return found[0].partition("=")[2] if found else None

    def set_flag(self, name, value):
        if value == self.flag(name):
            return
        words = next((words for words in self.lists for word in words if word.partition("=")[0] == "--" + name), None)
        if words is None:
            words = self.lists[-1]
        else:
            at = next(i for i, word in enumerate(words) if word.partition("=")[0] == "--" + name)
            del words[at]
        if value is None:
            return
        start = 1 if words is self.lists[0] else 0
        wished = "--%s=%s" % (name, value)
        # kubeadm sorts them: the new one goes where it would be, so that a diff shows one line
        after = [i for i, word in enumerate(words) if i >= start and word > wished]
        words.insert(after[0] if words[start:] == sorted(words[start:]) and after else len(words), wished)

    def set_mount(self, name, path):
        spec = self.document["spec"]
        volumes = [volume for volume in spec.get("volumes") or [] if volume.get("name") != name]
        mounts = [mount for mount in self.container.get("volumeMounts") or [] if mount.get("name") != name]
        if path is not None:
            if any(mount.get("mountPath") == path for mount in mounts):
                raise AnsibleFilterError("%s is mounted in the container already, by somebody else" % path)
            volumes.append(dict(hostPath=dict(path=path, type="Directory"), name=name))
            mounts.append(dict(mountPath=path, name=name, readOnly=True))
        for parent, key, value in ((spec, "volumes", volumes), (self.container, "volumeMounts", mounts)):
            if order(value) != order(parent.get(key) or []):
                parent[key] = value
                prune(parent, key)

    def annotate(self, name, value):
        metadata = self.document.setdefault("metadata", {})
        found = dict(metadata.get("annotations") or {})
        found.pop(name, None)
        if value is not None:
            found[name] = str(value)
        metadata["annotations"] = found
        prune(metadata, "annotations")

    def flags(self):
        return [word[2:].partition("=")[::2] for words in self.lists for word in words if word.startswith("--")]

    def sense(self):
        document = copy.deepcopy(self.document)
        container = next(c for c in document["spec"]["containers"] if c.get("name") == NAME)
        container["command"] = [container["command"][0]] + sorted(container["command"][1:])
        container["args"] = sorted(container.get("args") or [])
        container["volumeMounts"] = order(container.get("volumeMounts") or [])
        document["spec"]["volumes"] = order(document["spec"].get("volumes") or [])
        return document


class ClusterConfiguration:
    """What kubeadm makes the static pods of: C(apiServer.extraArgs), a list since v1beta4 and a dictionary before."""

    def __init__(self, document):
        self.document = document
        self.server = document.get("apiServer") or {}
        version = str(document.get("apiVersion"))
        if not version.startswith("kubeadm.k8s.io/"):
            raise AnsibleFilterError("a ClusterConfiguration of %s is not understood" % version)
        self.as_list = version not in ("kubeadm.k8s.io/v1beta2", "kubeadm.k8s.io/v1beta3")
        args = self.server.get("extraArgs")
        if args is not None and not isinstance(args, list if self.as_list else dict):
            raise AnsibleFilterError("apiServer.extraArgs has not the form of %s" % version)

    def flags(self):
        args = self.server.get("extraArgs") or {}
        return [(arg["name"], arg["value"]) for arg in args] if self.as_list else list(args.items())

    def flag(self, name):
        found = [str(value) for key, value in self.flags() if key == name]
        if len(found) > 1:
            raise AnsibleFilterError("apiServer.extraArgs has %s %d times" % (name, len(found)))
        return found[0] if found else None

    def set_flag(self, name, value):
        if value == self.flag(name):
            return
        left = [(key, found) for key, found in self.flags() if key != name]
        if value is not None:
            left.append((name, value))
        self.write("extraArgs", [dict(name=k, value=v) for k, v in left] if self.as_list else dict(left))

    def set_mount(self, name, path):
        found = self.server.get("extraVolumes") or []
        left = [volume for volume in found if volume.get("name") != name]
        if path is not None:
            left.append(dict(name=name, hostPath=path, mountPath=path, readOnly=True, pathType="Directory"))
        if order(left) != order(found):
            self.write("extraVolumes", left)

    def write(self, key, value):
        self.server[key] = value
        prune(self.server, key)
        self.document["apiServer"] = self.server

    def annotate(self, name, value):
        raise AnsibleFilterError("a ClusterConfiguration has no annotations")

    def sense(self):
        document = copy.deepcopy(self.document)
        document["apiServer"] = dict(
            self.server, extraArgs=order(list(self.flags())), extraVolumes=order(self.server.get("extraVolumes") or [])
        )
        return document


def order(items):
    return sorted(items, key=repr)


class FilterModule:
    """The filter mooring.fleet.kube_apiserver_flags."""

    def filters(self):
        return dict(kube_apiserver_flags=kube_apiserver_flags)
