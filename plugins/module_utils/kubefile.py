# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A kubeconfig that others write too: our entries go in and out, theirs stay as they are.

Ours are those with the extension C(mooring.fleet) that names the same server. What the module made them from stands in
an extension of the whole file, since a comment would not outlive kubectl. Comments of others do not either.
"""

from __future__ import annotations

import contextlib
import os
import re
import time

from ansible_collections.mooring.fleet.plugins.module_utils.client import MooringError

try:
    import yaml
except ImportError:
    yaml = None

LISTS = (("clusters", "cluster"), ("users", "user"), ("contexts", "context"))
MARK = "mooring.fleet"
FACTS = "mooring.fleet.kubeconfig"
LOCK_SECONDS = 10
SAFE = re.compile(r"[A-Za-z_/][A-Za-z0-9_./:@=+-]+$")

if yaml is not None:

    class Loader(yaml.SafeLoader):
        """Reads as kubectl does, whose YAML has other numbers and dates than Python's: C(12:30) is a text there, and a
        key that is there twice is a mistake."""

        yaml_implicit_resolvers = dict(
            (first, [pair for pair in pairs if pair[0].rsplit(":", 1)[1] in ("bool", "null", "merge")])
            for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
        )

        def construct_mapping(self, node, deep=False):
            found = super().construct_mapping(node, deep)
            if len(found) < len(node.value):
                raise yaml.constructor.ConstructorError(None, None, "a key is there twice", node.start_mark)
            return found

    Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[.][0-9]+$"), list("-+0123456789"))

    class Dumper(yaml.SafeDumper):
        """Writes in quotes whatever kubectl could take for something else than a text, such as C(1e3) or C(y)."""

    def quoted(dumper, text):
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if SAFE.match(text) else '"')

    Dumper.add_representer(str, quoted)


def load(text, path):
    """The file as a dictionary; an empty one where there is no text. Raises MooringError for what is no kubeconfig."""
    if yaml is None:
        raise MooringError("merge needs the Python package PyYAML where the module runs")
    try:
        document = yaml.load(text or "", Loader=Loader) or {}  # noqa: S506 - it is a safe one
    except yaml.YAMLError as e:
        raise MooringError("dest %s is not YAML, so nothing can be merged into it: %s" % (path, e)) from e
    lists = [document.get(key) or [] for key, _kind in LISTS] if isinstance(document, dict) else [None]
    if not all(isinstance(found, list) and all(isinstance(entry, dict) for entry in found) for found in lists):
        raise MooringError("dest %s is no kubeconfig, so nothing can be merged into it" % path)
    return document


def dump(document):
    return yaml.dump(document, Dumper=Dumper, default_flow_style=False, sort_keys=False, allow_unicode=True)


def mark_of(entry, kind):
    """The extension of an entry that says which server it is from, or an empty dictionary."""
    for extension in (entry.get(kind) or {}).get("extensions") or []:
        if extension.get("name") == MARK:
            return extension.get("extension") or {}
    return {}


def ours(document, url):
    """(key of a list, entry) of all that is from this server. A user is ours if one of our contexts names it: users
    cannot be trusted to keep an extension."""
    found = []
    users = set()
    for entry in document.get("contexts") or []:
        if mark_of(entry, "context").get("server") == url:
            users.add((entry.get("context") or {}).get("user"))
    for key, kind in LISTS:
        for entry in document.get(key) or []:
            if mark_of(entry, kind).get("server") == url or (key == "users" and entry.get("name") in users):
                found.append((key, entry))
    return found


def facts_of(document, url):
    """What our entries in the file were made from, or None."""
    for extension in document.get("extensions") or []:
        if extension.get("name") == FACTS:
            return ((extension.get("extension") or {}).get(url)) or None
    return None


def without(document, url):
    """The document without our entries; what was empty besides goes too."""
    gone = [id(entry) for _key, entry in ours(document, url)]
    names = [entry.get("name") for key, entry in ours(document, url) if key == "contexts"]
    left = dict(document)
    for key, _kind in LISTS:
        left[key] = [entry for entry in document.get(key) or [] if id(entry) not in gone]
    if left.get("current-context") in names:
        left["current-context"] = ""
    extensions = []
    for extension in document.get("extensions") or []:
        if extension.get("name") == FACTS:
            others = dict((k, v) for k, v in (extension.get("extension") or {}).items() if k != url)
            if others:
                extensions.append(dict(extension, extension=others))
        else:
            extensions.append(extension)
    left.pop("extensions", None)
    if extensions:
        left["extensions"] = extensions
    return left


def merged(document, made, url, facts, current=None):
    """The document with the entries of `made` in the place of ours.

    The current context stays; where there is none, or `current` says so, it is that of `made`. Raises MooringError
    where a name of ours is somebody else's.
    """
    left = without(document, url)
    for key, kind in LISTS:
        taken = set(entry.get("name") for entry in left[key])
        for entry in made.get(key) or []:
            if entry["name"] in taken:
                raise MooringError("dest has a %s %r already, which is not of this server" % (kind, entry["name"]))
        left[key] = left[key] + (made.get(key) or [])
    names = [entry["name"] for entry in left["contexts"]]
    before = document.get("current-context") or ""
    left["current-context"] = before if before in names and not current else made.get("current-context") or ""
    known = [dict(e) for e in left.get("extensions") or [] if e.get("name") == FACTS]
    others = [e for e in left.get("extensions") or [] if e.get("name") != FACTS]
    kept = dict((known[0]["extension"] if known else {}), **{url: facts})
    left["extensions"] = others + [dict(name=FACTS, extension=kept)]
    return dict(dict(apiVersion="v1", kind="Config"), **left)


@contextlib.contextmanager
def locked(path, clock=time):
    """Holds the lock that kubectl takes too, the file PATH.lock. Raises MooringError if somebody keeps it."""
    lock = path + ".lock"
    deadline = clock.time() + LOCK_SECONDS
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            break
        except FileExistsError:
            if clock.time() > deadline:
                raise MooringError("another program holds %s; remove it if there is none" % lock) from None
            clock.sleep(0.2)
        except OSError as e:
            raise MooringError("dest: %s cannot be made: %s" % (lock, e.strerror)) from e
    try:
        yield
    finally:
        os.unlink(lock)
