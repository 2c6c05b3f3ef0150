#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubeconfig
short_description: Write a kubeconfig for clusters behind a Mooring server
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - Writes one file with a context for each cluster that the user may enter, for use with C(kubectl), C(helm) and
    P(kubernetes.core.k8s#module).
  - The file belongs to this module. Nothing is merged into a file that is there; point E(KUBECONFIG) at several files
    instead.
  - The file is written atomically and readable by its owner only.
options:
  dest:
    description:
      - Where the file is written. The folder must exist.
    type: path
    required: true
  mode:
    description:
      - With V(token), the file holds a token for each cluster, which is good for that cluster only and expires.
      - With V(exec), it holds none and runs C(mooring credential), which renews by itself, so that program must be
        installed where the file is used.
    type: str
    choices: [token, exec]
    default: token
  clusters:
    description:
      - Names of the clusters. Without it, all that the user may enter.
    type: list
    elements: str
  current_context:
    description:
      - Name of the cluster that is used when no context is named. The first one by default.
    type: str
  ttl:
    description:
      - Seconds until the tokens in the file expire. The server's default when not set. Not with O(mode=exec).
    type: int
  renew_before:
    description:
      - Write the file anew when one of its tokens has less than these seconds left.
    type: int
    default: 3600
  state:
    description:
      - With V(absent), the file is removed and the tokens in it are revoked. A file that this module did not write is
        left alone and the task fails.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment:
  - mooring.fleet.connection
  - mooring.fleet.attributes
notes:
  - The file is kept while it is unchanged, names the wished clusters, and its tokens are in force.
seealso:
  - module: mooring.fleet.token
"""

EXAMPLES = r"""
- name: Write a kubeconfig for all my clusters
  mooring.fleet.kubeconfig:
    dest: ~/.kube/mooring.yaml

- name: Write one without a token in it
  mooring.fleet.kubeconfig:
    dest: ~/.kube/paris.yaml
    clusters:
      - paris
    mode: exec
"""

RETURN = r"""
dest:
  description: The file.
  returned: always
  type: str
  sample: /home/alice/.kube/mooring.yaml
contexts:
  description: Names of the contexts, which are the names of the clusters.
  returned: when O(state=present)
  type: list
  elements: str
  sample: [lyon, paris]
expires_at:
  description: When the first token in the file expires. Empty with O(mode=exec).
  returned: when O(state=present), not in check mode
  type: str
  sample: "2026-12-01T12:00:00Z"
reason:
  description: Why the file was written or would be.
  returned: when it changed
  type: str
  sample: a token in it has less than 3600 seconds left
"""

import hashlib
import json
import os
import re
import tempfile

from ansible.module_utils.common.text.converters import to_bytes, to_text
from ansible_collections.mooring.fleet.plugins.module_utils.argspec import make_module, state_option
from ansible_collections.mooring.fleet.plugins.module_utils.client import MooringError, ref
from ansible_collections.mooring.fleet.plugins.module_utils.resource import run
from ansible_collections.mooring.fleet.plugins.module_utils.times import seconds_left

# The first line of the file says what it was made from, so that no YAML parser is needed on the managed host.
MARK = "# written by mooring.fleet.kubeconfig "
# A token is mrg_<id>_<secret>: the id is enough to ask for its state.
TOKEN_ID = re.compile(r"\bmrg_(t-[a-z2-7]{12})_")
MAX_FILE = 16 * 1024 * 1024  # bytes


def digest(text):
    return hashlib.sha256(to_bytes(text)).hexdigest()


def render(body, facts):
    """The file's text: the mark with the facts and the body's hash, then the body."""
    return "%s%s\n%s" % (MARK, json.dumps(dict(facts, sha256=digest(body)), sort_keys=True), body)


def parse(text):
    """(facts, body) of a file that render() made and nobody edited, else (None, text)."""
    first, newline, body = text.partition("\n")
    if not newline or not first.startswith(MARK):
        return None, text
    try:
        facts = json.loads(first[len(MARK) :])
    except ValueError:
        return None, text
    if not isinstance(facts, dict) or facts.pop("sha256", None) != digest(body):
        return None, text
    return facts, body


def read(path):
    """The text of the file, or None when there is none."""
    try:
        with open(path, "rb") as f:
            return to_text(f.read(MAX_FILE), errors="replace")
    except FileNotFoundError:
        return None
    except OSError as e:
        raise MooringError("dest %s cannot be read: %s" % (path, e.strerror)) from e


def write(module, path, text):
    """Replace the file in one step; it is never readable by others, not even for a moment."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise MooringError("dest: the folder %s does not exist, make it first" % folder)
    fd, temporary = tempfile.mkstemp(prefix=".mooring-", dir=folder)  # mode 0600
    try:
        with os.fdopen(fd, "wb") as f:
            f.write(to_bytes(text))
        # Not module.atomic_move: it gives a new file the mode of the umask.
        os.replace(temporary, path)
        module.set_default_selinux_context(path, False)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def tokens_of(client, body):
    """(ids of the tokens in the file, those of them that are in force as {id: token})."""
    ids = sorted(set(TOKEN_ID.findall(body)))
    if not ids:
        return [], {}
    active = dict((token["id"], token) for token in client.list("/tokens", dict(user="me", active="true")))
    return ids, dict((i, active[i]) for i in ids if i in active)


def wished_clusters(client, names):
    if names:
        return sorted(set(names))
    return sorted(cluster["name"] for cluster in client.list("/clusters"))


def stale(params, client, wished, text):
    """(why the file must be written, when its token expires); the reason is empty if it can stay."""
    if text is None:
        return "there is no file", ""
    facts, body = parse(text)
    if facts is None:
        return "the file was edited", ""
    for field in sorted(wished):
        if facts.get(field) != wished[field]:
            return "%s changed" % field, ""
    if params["mode"] == "exec":
        return "", ""
    ids, active = tokens_of(client, body)
    if len(active) < len(ids):
        return "a token in it is expired or revoked", ""
    times = [token["expires_at"] for token in active.values() if token.get("expires_at")]
    expires = min(times, key=seconds_left) if times else ""
    if expires and seconds_left(expires) < params["renew_before"]:
        return "a token in it has less than %d seconds left" % params["renew_before"], expires
    return "", expires


def private(path):
    return os.stat(path).st_mode & 0o077 == 0


def absent(module, client, dest):
    text = read(dest)
    result = dict(
        changed=text is not None, dest=dest, diff=dict(before=dict(exists=text is not None), after=dict(exists=False))
    )
    if text is None:
        return result
    body = parse(text)[1]
    if not text.startswith(MARK):
        raise MooringError("dest %s was not written by this module, so it is not removed" % dest)
    if not module.check_mode:
        for token_id in sorted(tokens_of(client, body)[1]):
            client.send("DELETE", "/tokens/%s" % ref(token_id))
        os.unlink(dest)
    return dict(result, reason="state is absent")


def work(module, client):
    params = module.params
    dest = params["dest"]
    if params["state"] == "absent":
        return absent(module, client, dest)
    server = client.send("GET", "/server")
    contexts = wished_clusters(client, params["clusters"])
    wished = dict(
        url=server.get("url"),
        ca_sha256=digest(server.get("ca_pem") or ""),
        user=client.send("GET", "/whoami")["user"],
        mode=params["mode"],
        contexts=contexts,
        current_context=params["current_context"] or "",
    )
    text = read(dest)
    if text is not None and text.strip() and not text.startswith(MARK):
        raise MooringError("dest %s was not written by this module: choose another file, or remove this one" % dest)
    before = parse(text)[0] if text is not None else {}
    reason, expires = stale(params, client, wished, text)
    result = dict(changed=bool(reason), dest=dest, contexts=contexts, diff=dict(before=before or {}, after=wished))
    if not reason:
        if not private(dest):
            result.update(changed=True, reason="others could read the file")
            if not module.check_mode:
                os.chmod(dest, 0o600)
        return dict(result, expires_at=expires)
    result["reason"] = reason
    if module.check_mode:
        return result
    body = dict(mode=params["mode"], clusters=contexts)
    if params["ttl"] is not None:
        body["ttl_seconds"] = params["ttl"]
    if params["current_context"]:
        body["current_context"] = params["current_context"]
    made = client.send("POST", "/kubeconfig", body)
    write(module, dest, render(made["kubeconfig"], wished))
    return dict(result, expires_at=made.get("expires_at") or "")


def main():
    module = make_module(
        state_option(),
        dict(
            dest=dict(type="path", required=True),
            mode=dict(type="str", choices=["token", "exec"], default="token"),
            clusters=dict(type="list", elements="str"),
            current_context=dict(type="str"),
            ttl=dict(type="int"),
            renew_before=dict(type="int", default=3600),
        ),
    )
    run(module, work)


if __name__ == "__main__":
    main()
