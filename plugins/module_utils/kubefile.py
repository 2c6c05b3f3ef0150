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
# Beside our own certificate-authority-data these would make a client trust another CA, or none.
AGAINST_OURS = ("certificate-authority", "certificate-authority-data", "insecure-skip-tls-verify")

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
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        mark = getattr(e, "problem_mark", None)
        where = ", line %d: %s" % (mark.line + 1, e.problem) if mark else ""  # no piece of the file: it may be a secret
        raise MooringError("dest %s is not YAML, so nothing can be merged into it%s" % (path, where)) from e
    if not isinstance(document, dict) or not all(fits(document.get(key), kind) for key, kind in LISTS):
        raise MooringError("dest %s is no kubeconfig, so nothing can be merged into it" % path)
    return document


def fits(entries, kind):
    """Whether this can be a list of a kubeconfig."""
    if entries is None:
        return True
    return isinstance(entries, list) and all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get(kind) or {}, dict)
        for entry in entries
    )


def dump(document):
    return yaml.dump(document, Dumper=Dumper, default_flow_style=False, sort_keys=False, allow_unicode=True)


def extensions_of(holder):
    found = (holder or {}).get("extensions")
    return [e for e in found if isinstance(e, dict)] if isinstance(found, list) else []


def mark_of(entry, kind):
    """The extension of an entry that says which server it is from, or an empty dictionary."""
    for extension in extensions_of(entry.get(kind)):
        if extension.get("name") == MARK and isinstance(extension.get("extension"), dict):
            return extension["extension"]
    return {}


def ours(document, url):
    """(key of a list, entry) of all that is from this server."""
    return [
        (key, entry)
        for key, kind in LISTS
        for entry in document.get(key) or []
        if mark_of(entry, kind).get("server") == url
    ]


def facts_of(document, url):
    """What our entries in the file were made from, or None."""
    for extension in extensions_of(document):
        if extension.get("name") == FACTS and isinstance(extension.get("extension"), dict):
            return extension["extension"].get(url)
    return None


def with_facts(document, url, facts):
    """The document with what our entries were made from; facts None: without."""
    known = {}
    others = []
    for extension in document.get("extensions") or []:
        if isinstance(extension, dict) and extension.get("name") == FACTS:
            known.update(extension.get("extension") or {})
        else:
            others.append(extension)
    known.pop(url, None)
    if facts is not None:
        known[url] = facts
    left = dict((key, value) for key, value in document.items() if key != "extensions")
    if known:
        others = others + [dict(name=FACTS, extension=known)]
    if others:
        left["extensions"] = others
    return left


def without(document, url, but=()):
    """The document without our entries, except those that a context of somebody else's uses and that are not called as
    one in `but`, which are (key, name) of entries to come."""
    used = set()
    for entry in document.get("contexts") or []:
        if mark_of(entry, "context").get("server") != url:
            content = entry.get("context") or {}
            used.update([("clusters", content.get("cluster")), ("users", content.get("user"))])
    used.difference_update(but)
    gone = [(key, entry) for key, entry in ours(document, url) if (key, entry["name"]) not in used]
    left = with_facts(document, url, None)
    for key, _kind in LISTS:
        left[key] = [e for e in document.get(key) or [] if not any(k == key and e is other for k, other in gone)]
    if left.get("current-context") in [entry["name"] for key, entry in gone if key == "contexts"]:
        left["current-context"] = ""
    return left


def renewed(old, new, kind):
    """Our new entry, with what people and other programs added to the old one."""
    before = old.get(kind) or {}
    kept = {} if kind == "user" else dict(before)
    if kind == "cluster":
        kept = dict((key, value) for key, value in before.items() if key not in AGAINST_OURS)
    others = [e for e in extensions_of(before) if e.get("name") != MARK]
    return dict(new, **{kind: dict(kept, **dict(new[kind], extensions=extensions_of(new[kind]) + others))})


def merged(document, made, url, current=None):
    """The document with the entries of `made` in the place of ours.

    The current context stays; where there is none, or `current` says so, it is that of `made`. Raises MooringError
    where a name of ours is somebody else's.
    """
    left = without(document, url, [(key, e["name"]) for key, _kind in LISTS for e in made.get(key) or []])
    for key, kind in LISTS:
        taken = set(entry["name"] for entry in left[key])
        before = dict((entry["name"], entry) for k, entry in ours(document, url) if k == key)
        for entry in made.get(key) or []:
            if entry["name"] in taken:
                raise MooringError("dest has a %s %r already, which is not of this server" % (kind, entry["name"]))
            left[key] = left[key] + [renewed(before.get(entry["name"], {}), entry, kind)]
    names = [entry["name"] for entry in left["contexts"]]
    before = document.get("current-context") or ""
    mine = [entry["name"] for key, entry in ours(document, url) if key == "contexts"]
    if current or not before or (before in mine and before not in names):
        left["current-context"] = made.get("current-context") or ""
    else:
        left["current-context"] = before
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
