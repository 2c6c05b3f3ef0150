# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a module brings one object of the REST API to the wished state.

One flow for all: read, compare, create or patch or delete with the ETag that was read, and report what changed with a
diff. Check mode stops before the write and reports what the write would have done. What is special to one kind of
object stays in its module.
"""

from __future__ import annotations

import json
import time

from ansible_collections.mooring.fleet.plugins.module_utils.client import Client, MooringError

RETRIES = 3  # writes that lost a race (412) before we give up


def run(module, work):
    """Call work(module, client), exit with the dictionary that it returns, fail with what it raises, and log out.

    A module whose option ttl says how long a token that it makes shall live gets a session that lives as long.
    """
    client = None
    try:
        client = Client(module.params, session_ttl=module.params.get("ttl"))
        result = work(module, client)
    except MooringError as e:
        module.fail_json(msg=str(e), status=e.status, problem=e.problem)
    finally:
        if client:
            client.logout()
    module.exit_json(**result)


def ordered(value):
    """A list in one order, whatever stands in it; other values as they are."""
    if isinstance(value, list):
        return sorted(value, key=lambda item: json.dumps(item, sort_keys=True))
    return value


def same(wished, found):
    """Equal, where the order of a list has no meaning."""
    return ordered(wished) == ordered(found)


def changes(wished, found):
    """The fields of wished that differ from the object found."""
    return dict((k, v) for k, v in wished.items() if not same(v, found.get(k)))


class Resource:
    """One object: its collection's path, its own path, and the fields that a diff shows.

    hidden names the fields that are sent but never shown (passwords).
    """

    def __init__(self, module, client, collection, path, shown, hidden=()):
        self.module = module
        self.client = client
        self.collection = collection
        self.path = path
        self.shown = shown
        self.hidden = hidden

    def view(self, item):
        """What a diff shows of an object."""
        if item is None:
            return {}
        return dict((k, ordered(item[k])) for k in self.shown if k in item)

    def report(self, changed, before, after, **more):
        return dict(changed=changed, diff=dict(before=self.view(before), after=self.view(after)), **more)

    def present(self, wished, key, on_create=None, always=None):
        """Make the object, or patch what differs.

        wished holds the fields that the user gave; on_create the further ones that only a new object takes; always the
        ones that are written even though they cannot be compared. Returns (object, report).
        """
        for attempt in range(RETRIES):
            found, etag = self.client.get(self.path)
            if found is None:
                return self._create(dict(wished, **dict(on_create or {}, **(always or {}))), key)
            patch = dict(changes(wished, found), **(always or {}))
            if not patch:
                return found, self.report(False, found, found)
            after = dict(found, **dict((k, v) for k, v in patch.items() if k not in self.hidden))
            if self.module.check_mode:
                return after, self.report(True, found, after)
            try:
                written = self.client.send("PATCH", self.path, patch, etag=etag)
            except MooringError as e:
                if e.status == 412 and attempt + 1 < RETRIES:
                    continue
                raise
            return written, self.report(True, found, written)
        raise MooringError("%s changed again and again while it was written" % self.path)

    def _create(self, body, key):
        body = dict(body, **key)
        asked = dict((k, v) for k, v in body.items() if k not in self.hidden)
        made = asked if self.module.check_mode else self.client.send("POST", self.collection, body)
        return made, self.report(True, None, asked)

    def absent(self):
        """Remove the object if it is there. Returns the report."""
        found, etag = self.client.get(self.path)
        if found is None:
            return self.report(False, None, None)
        if not self.module.check_mode:
            try:
                self.client.send("DELETE", self.path, etag=etag)
            except MooringError as e:
                if e.status != 404:
                    raise
        return self.report(True, found, None)


def wait_for(read, done, timeout, interval=1.0, clock=time):
    """Call read() until done(value) holds or timeout seconds have passed. Returns (value, whether it held)."""
    deadline = clock.time() + timeout
    while True:
        value = read()
        if done(value):
            return value, True
        left = deadline - clock.time()
        if left <= 0:
            return value, False
        clock.sleep(min(interval, left))
