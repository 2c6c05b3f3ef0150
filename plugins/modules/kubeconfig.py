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
  - The file belongs to this module, unless O(merge) is set. E(KUBECONFIG) can be pointed at several files.
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
  contexts:
    description:
      - Which ways to each cluster have a context. V(proxy) is the one through the server, with the name of the cluster;
        V(fqdn) and V(nodes) go straight to a cluster whose authorized endpoint is on, by its name (C(<cluster>-fqdn))
        and to each control plane (C(<cluster>-<node>)). Without it, all that there are.
      - With another one than V(proxy), the user needs the right to read the endpoints of the clusters.
    type: list
    elements: str
    choices: [proxy, fqdn, nodes]
  current_context:
    description:
      - Name of the context or the cluster that is used when no context is named. The first one by default.
    type: str
  prefer_direct:
    description:
      - Whether the current context is one that goes straight to the cluster, if there is one. With O(mode=exec),
        C(mooring credential) then changes to the proxy while the cluster cannot be reached directly, and back.
    type: bool
    default: false
  merge:
    description:
      - Whether the contexts are merged into a file that others write too. All that is not of this server stays in it,
        the current context too, unless O(current_context) is set; comments are lost.
      - Needs the Python package PyYAML where the module runs.
    type: bool
    default: false
  ttl:
    description:
      - Seconds until the tokens in the file expire. The server's default when not set. Not with O(mode=exec).
    type: int
  renew_before:
    description:
      - Write the file anew when one of its tokens has less than these seconds left.
      - Without it, 3600, or a third of the time for which the token is good where that is less.
    type: int
  state:
    description:
      - With V(absent), the file is removed and the tokens in it are revoked. A file that this module did not write is
        left alone and the task fails. With O(merge), what is of this server is taken out of it.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment:
  - mooring.fleet.connection
  - mooring.fleet.attributes
notes:
  - The file is kept while it is unchanged but for its current context, names the wished clusters, and its tokens are in
    force.
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

- name: Reach Paris directly wherever that is possible, with a file that holds other clusters as well
  mooring.fleet.kubeconfig:
    dest: ~/.kube/config
    clusters:
      - paris
    mode: exec
    prefer_direct: true
    merge: true
"""

RETURN = r"""
dest:
  description: The file.
  returned: always
  type: str
  sample: /home/alice/.kube/mooring.yaml
contexts:
  description: Names of the contexts. In check mode, where the file would be written, names of the clusters.
  returned: when O(state=present)
  type: list
  elements: str
  sample: [lyon, paris]
expires_at:
  description: When the first token in the file expires. Empty with O(mode=exec).
  returned: when O(state=present), not in check mode
  type: str
  sample: "2026-12-01T12:00:00Z"
undelivered:
  description: Clusters that did not say in time that they know the token for their endpoint. They will within seconds.
  returned: when the file was written
  type: list
  elements: str
  sample: []
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
from ansible_collections.mooring.fleet.plugins.module_utils import kubefile
from ansible_collections.mooring.fleet.plugins.module_utils.resource import run
from ansible_collections.mooring.fleet.plugins.module_utils.times import parse_time, seconds_left

# The first line of the file says what it was made from, so that no YAML parser is needed on the managed host.
MARK = "# written by mooring.fleet.kubeconfig "
# A token is mrg_<id>_<secret>, that of an endpoint mre_<id>_<secret>: the id is enough to ask for its state.
TOKEN_ID = re.compile(r"\bmr[ge]_([te]-[a-z2-7]{12})_")
CURRENT = re.compile(r"^current-context:.*\n?", re.M)
RENEW_BEFORE = 3600  # seconds
MAX_FILE = 16 * 1024 * 1024  # bytes


def digest(text):
    return hashlib.sha256(to_bytes(text)).hexdigest()


def fixed(body):
    """The body without what C(mooring credential) may change in it: which context is current."""
    return CURRENT.sub("", body)


def render(body, facts):
    """The file's text: the mark with the facts and the body's hash, then the body."""
    return "%s%s\n%s" % (MARK, json.dumps(dict(facts, sha256=digest(fixed(body))), sort_keys=True), body)


def parse(text):
    """(facts, body) of a file that render() made and nobody edited, else (None, text)."""
    first, newline, body = text.partition("\n")
    if not newline or not first.startswith(MARK):
        return None, text
    try:
        facts = json.loads(first[len(MARK) :])
    except ValueError:
        return None, text
    if not isinstance(facts, dict) or facts.pop("sha256", None) != digest(fixed(body)):
        return None, text
    return facts, body


def read(path, strict=False):
    """The text of the file, or None when there is none. `strict`: what cannot be read whole is an error."""
    try:
        with open(path, "rb") as f:
            data = f.read(MAX_FILE + 1)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise MooringError("dest %s cannot be read: %s" % (path, e.strerror)) from e
    if not strict:
        return to_text(data[:MAX_FILE], errors="replace")
    if len(data) > MAX_FILE:
        raise MooringError("dest %s is larger than %d MiB, so nothing can be merged into it" % (path, MAX_FILE >> 20))
    try:
        return to_text(data, errors="strict")
    except UnicodeError as e:
        raise MooringError("dest %s is not UTF-8, so nothing can be merged into it" % path) from e


def write(module, path, text):
    """Replace the file in one step; it is never readable by others, not even for a moment. One that others use too is
    found through a link, and stays its owner's."""
    owner = None
    if module.params["merge"]:
        path = os.path.realpath(path)
        if os.path.exists(path):
            owner = os.stat(path)
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise MooringError("dest: the folder %s does not exist, make it first" % folder)
    fd, temporary = tempfile.mkstemp(prefix=".mooring-", dir=folder)  # mode 0600
    try:
        with os.fdopen(fd, "wb") as f:
            if owner is not None and (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(fd, owner.st_uid, owner.st_gid)
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


def endpoints(client, clusters, contexts):
    """What the direct contexts of each cluster are made of, as one hash: a node that comes is a reason to write."""
    if contexts == ["proxy"]:
        return {}
    found = {}
    for name in clusters:
        endpoint = client.send("GET", "/clusters/%s/endpoint" % ref(name))
        status = endpoint.get("status") or {}
        if endpoint["enabled"]:
            made_of = [endpoint.get(field) for field in ("mode", "fqdn", "ca_pem")]
            made_of += [status.get(field) for field in ("nodes", "ca_pem", "serving_url", "serving_ca_pem")]
            found[name] = digest(json.dumps(made_of, sort_keys=True))
    return found


def margin(params, token):
    """Seconds before its end at which a token is too old."""
    if params["renew_before"] is not None:
        return params["renew_before"]
    lifetime = (parse_time(token["expires_at"]) - parse_time(token["created_at"])).total_seconds()
    return min(RENEW_BEFORE, int(lifetime / 3))


def stale(params, client, wished, facts, body):
    """(why the file must be written, when its token expires); the reason is empty if it can stay."""
    for field in sorted(wished):
        if facts.get(field) != wished[field]:
            return "%s changed" % field, ""
    if params["mode"] == "exec":
        return "", ""
    ids, active = tokens_of(client, body)
    if len(active) < len(ids):
        return "a token in it is expired or revoked", ""
    ending = sorted((t for t in active.values() if t.get("expires_at")), key=lambda t: seconds_left(t["expires_at"]))
    if not ending:
        return "", ""
    expires, least = ending[0]["expires_at"], margin(params, ending[0])
    if seconds_left(expires) < least:
        return "a token in it has less than %d seconds left" % least, expires
    return "", expires


def private(path):
    return os.stat(path).st_mode & 0o077 == 0


class Own:
    """A file of this module alone, with its mark as first line."""

    def __init__(self, dest, text):
        self.dest = dest
        self.text = text
        if text is not None and text.strip() and not text.startswith(MARK):
            raise MooringError("dest %s was not written by this module: choose another file, or merge" % dest)

    def known(self):
        """(why it must be written at once, the facts, the text in which tokens are looked for)."""
        if self.text is None:
            return "there is no file", None, ""
        facts, body = parse(self.text)
        return ("the file was edited" if facts is None else ""), facts, body

    def made(self, kubeconfig, facts, current):
        return render(kubeconfig, facts)

    def gone(self):
        """What is left of it without us: None, no file."""
        return None


class Shared:
    """A file of others too, in which our part has an extension with the facts."""

    def __init__(self, dest, text, url):
        self.text = text
        self.url = url
        self.document = kubefile.load(text, dest)

    def part(self, document):
        return json.dumps(kubefile.ours(document, self.url), sort_keys=True, default=str)

    def known(self):
        facts = kubefile.facts_of(self.document, self.url)
        mine = self.part(self.document)
        if facts is None:
            return "nothing in the file is of this module", None, mine
        facts = dict(facts)
        return ("our part of the file was edited" if facts.pop("sha256", None) != digest(mine) else ""), facts, mine

    def made(self, kubeconfig, facts, current):
        made = kubefile.load(kubeconfig, "of the server")
        document = kubefile.merged(self.document, made, self.url, current)
        facts = dict(facts, sha256=digest(self.part(document)))
        return kubefile.dump(kubefile.with_facts(document, self.url, facts))

    def gone(self):
        if not kubefile.ours(self.document, self.url):
            return self.text
        return kubefile.dump(kubefile.without(self.document, self.url))


def absent(module, client, file, dest):
    text, left = file.text, (file.gone() if file.text is not None else None)
    result = dict(changed=left != text, dest=dest)
    result["diff"] = dict(before=dict(exists=left != text), after=dict(exists=False))
    if left == text:
        return result
    if not module.check_mode:
        for token_id in sorted(tokens_of(client, file.known()[2])[1]):
            client.send("DELETE", "/tokens/%s" % ref(token_id))
        if left is None:
            os.unlink(dest)
        else:
            write(module, dest, left)
    return dict(result, reason="state is absent")


def work(module, client):
    params = module.params
    if not params["merge"] or module.check_mode:
        return bring(module, client)
    with kubefile.locked(params["dest"]):
        return bring(module, client)


def bring(module, client):
    params = module.params
    dest = params["dest"]
    server = client.send("GET", "/server")
    text = read(dest, strict=params["merge"])
    file = Shared(dest, text, server.get("url")) if params["merge"] else Own(dest, text)
    if params["state"] == "absent":
        return absent(module, client, file, dest)
    clusters = wished_clusters(client, params["clusters"])
    wished = dict(
        url=server.get("url"),
        ca_sha256=digest(server.get("ca_pem") or ""),
        user=client.send("GET", "/whoami")["user"],
        mode=params["mode"],
        clusters=clusters,
        ways=sorted(params["contexts"] or []),
        endpoints=endpoints(client, clusters, params["contexts"]),
        current_context=params["current_context"] or "",
        prefer_direct=params["prefer_direct"],
    )
    reason, facts, body = file.known()
    expires = ""
    if not reason:
        reason, expires = stale(params, client, wished, facts, body)
    names = (facts or {}).pop("contexts", clusters)
    result = dict(changed=bool(reason), dest=dest, contexts=names, diff=dict(before=facts or {}, after=wished))
    if not reason:
        if not private(dest):
            result.update(changed=True, reason="others could read the file")
            if not module.check_mode:
                os.chmod(dest, 0o600)
        return dict(result, expires_at=expires)
    result["reason"] = reason
    if module.check_mode:
        return dict(result, contexts=clusters)
    made = client.send("POST", "/kubeconfig", request(params, clusters))
    facts = dict(wished, contexts=made["contexts"])
    write(module, dest, file.made(made["kubeconfig"], facts, params["current_context"]))
    return dict(
        result,
        contexts=made["contexts"],
        expires_at=made.get("expires_at") or "",
        undelivered=made.get("undelivered") or [],
    )


def request(params, clusters):
    """The body of the request for a kubeconfig."""
    body = dict(mode=params["mode"], clusters=clusters)
    if params["ttl"] is not None:
        body["ttl_seconds"] = params["ttl"]
    if params["current_context"]:
        body["current_context"] = params["current_context"]
    if params["contexts"]:
        body["contexts"] = sorted(set(params["contexts"]))
    if params["prefer_direct"]:
        body.update(prefer_direct=True, path=os.path.abspath(params["dest"]))
    return body


def main():
    module = make_module(
        state_option(),
        dict(
            dest=dict(type="path", required=True),
            mode=dict(type="str", choices=["token", "exec"], default="token"),
            clusters=dict(type="list", elements="str"),
            contexts=dict(type="list", elements="str", choices=["proxy", "fqdn", "nodes"]),
            current_context=dict(type="str"),
            prefer_direct=dict(type="bool", default=False),
            merge=dict(type="bool", default=False),
            ttl=dict(type="int"),
            renew_before=dict(type="int"),
        ),
    )
    run(module, work)


if __name__ == "__main__":
    main()
