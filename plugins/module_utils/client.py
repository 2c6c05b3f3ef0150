# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The REST client of the collection, on ansible.module_utils.urls alone.

Modules and the inventory plugin share it, so it knows neither AnsibleModule nor inventories: it takes the connection
options as a dictionary and raises C(MooringError), whose text says what failed, which field is wrong and what to do. It
must never put a token or password into such a text.
"""

from __future__ import annotations

import json
import ssl
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit

from ansible.module_utils.common.text.converters import to_native, to_text
from ansible.module_utils.urls import Request

API = "/api/v1"
PAGE = 200  # items per page that list() asks for
MAX_BODY = 32 * 1024 * 1024  # bytes; an answer over this is not one of ours
LOOPBACK = ("127.0.0.1", "::1", "localhost")  # where http is good enough: tests
SLACK = 60  # seconds that a session lives longer than what is made in it


class MooringError(Exception):
    """A request failed.

    status is the HTTP status, or 0 where no answer came; problem is the decoded problem document (RFC 9457), or {}.
    """

    def __init__(self, message, status=0, problem=None):
        super().__init__(message)
        self.status = status
        self.problem = problem or {}


def ref(name):
    """A name as one path segment."""
    return quote(to_native(name), safe="")


def hint(status):
    """What to do about a status, where the server's own words may not say it."""
    return {
        401: "The token is missing, wrong, expired or revoked: check the option token or MOORING_TOKEN.",
        403: "The user of this token may not do that: use a token of a member of the group admins.",
        412: "Somebody changed the object at the same time: run again.",
        429: "Too many tries: wait, then run again.",
    }.get(status, "")


def describe(method, path, status, problem, text):
    """One readable message from a problem document, naming each field that is wrong."""
    parts = ["%s %s answered %d" % (method, path, status)]
    said = problem.get("detail") or problem.get("title") or text.strip()[:200]
    if said:
        parts.append(": %s" % said)
    fields = ["%s: %s" % (e.get("field"), e.get("message")) for e in problem.get("errors") or [] if isinstance(e, dict)]
    fields = [field for field in fields if field not in said]
    if fields:
        parts.append(" (%s)" % "; ".join(fields))
    advice = problem.get("hint") or hint(status)
    if advice:
        parts.append(". %s%s" % (advice[0].upper(), advice[1:]))
    return "".join(parts)


def tls_context(scheme, ca_file, verify):
    """How the server must prove itself. With a CA file, only those CAs can vouch for it, not the system's.

    One context serves all requests, because reading the system's CAs takes long.
    """
    if scheme != "https" or not verify:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ValueError) as e:
        raise MooringError("ca_file %s cannot be used: %s" % (ca_file, to_native(e))) from e


class Client:
    """Requests to one server as one user. Logs in only when it was given a password instead of a token.

    session_ttl is for how many seconds something made in that session has to live, because no token outlives the one
    that made it; without it the session is as long as the server says. It ends with logout() in any case.
    """

    def __init__(self, options, session_ttl=None):
        self.base = (options.get("url") or "").rstrip("/")
        parts = urlsplit(self.base)
        if not parts.netloc or not (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)):
            raise MooringError("url must look like https://mooring.example.com:8443, it is %r" % self.base)
        if parts.path or parts.query or parts.fragment:
            raise MooringError("url must be the server's address without a path, it is %r" % self.base)
        self.timeout = options.get("timeout") or 30
        self._context = tls_context(parts.scheme, options.get("ca_file"), options.get("validate_certs") is not False)
        self._token = options.get("token") or None
        self._user = options.get("login_username") or None
        self._password = options.get("login_password") or None
        self._session = False
        self._session_ttl = session_ttl
        self._http = Request(http_agent="mooring.fleet", follow_redirects="none")

    # -- who

    def authorization(self):
        """The header that says who asks; logs in at the first request that needs it."""
        if not self._token:
            if not self._user or not self._password:
                raise MooringError(
                    "No credential: set token (or MOORING_TOKEN), or login_username and login_password"
                    " (or MOORING_USERNAME and MOORING_PASSWORD)."
                )
            body = dict(username=self._user, password=self._password, description="ansible")
            if self._session_ttl:
                body["ttl_seconds"] = self._session_ttl + SLACK
            self._token = self.send("POST", "/login", body, anonymous=True)["token"]
            self._session = True
        return "Bearer %s" % self._token

    def logout(self):
        """End the session that a password opened. A failure is of no use to anyone: the token expires by itself."""
        if self._session:
            self._session = False
            try:
                self.send("POST", "/logout")
            except MooringError:
                pass
            self._token = None

    # -- requests

    def send(self, method, path, body=None, query=None, etag=None, anonymous=False, bearer=None):
        """Send one request below /api/v1 and return the decoded JSON, the text of another type, or None when empty.

        Raises MooringError for every status from 300 up and when no answer comes.
        """
        return self._send(method, path, body, query, etag, anonymous, bearer)[0]

    def get(self, path, query=None):
        """GET; returns (object, etag), or (None, None) where the server has no such object."""
        try:
            return self._send("GET", path, None, query, None, False, None)
        except MooringError as e:
            if e.status == 404:
                return None, None
            raise

    def list(self, path, query=None):
        """All items of a list, page by page."""
        items, asked = [], dict(query or {}, limit=PAGE)
        while True:
            page = self.send("GET", path, query=asked)
            items.extend(page.get("items") or [])
            following = page.get("next")
            if not following or following == asked.get("cursor"):
                return items
            asked["cursor"] = following

    def _send(self, method, path, body, query, etag, anonymous, bearer):
        url = self.base + API + path
        if query:
            url += "?" + urlencode([(k, v) for k, v in sorted(query.items()) if v is not None], doseq=True)
        headers = {"Accept": "application/json, application/problem+json, application/yaml"}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode("utf-8")
        if etag:
            headers["If-Match"] = etag
        if not anonymous:
            headers["Authorization"] = "Bearer %s" % bearer if bearer else self.authorization()
        try:
            answer = self._http.open(
                method,
                url,
                data=data,
                headers=headers,
                timeout=self.timeout,
                context=self._context,
                use_netrc=False,
            )
            return self._decode(answer), answer.headers.get("ETag")
        except HTTPError as e:
            self._fail(method, path, e)
        except (URLError, OSError, ValueError) as e:
            reason = to_native(getattr(e, "reason", None) or e)
            if "CERTIFICATE_VERIFY_FAILED" in reason:
                reason += (
                    ". Set ca_file (or MOORING_CA_FILE) to the server's CA, and use the name that its certificate holds"
                )
            raise MooringError("%s %s failed, no answer from %s: %s" % (method, path, self.base, reason)) from e

    @staticmethod
    def _decode(answer):
        raw = answer.read(MAX_BODY + 1)
        if len(raw) > MAX_BODY:
            raise MooringError("The answer is larger than %d bytes" % MAX_BODY)
        text = to_text(raw)
        if not text.strip():
            return None
        if "json" in (answer.headers.get("Content-Type") or ""):
            return json.loads(text)
        return text

    @staticmethod
    def _fail(method, path, error):
        text = to_text(error.read(MAX_BODY) or b"", errors="replace")
        try:
            problem = json.loads(text)
        except ValueError:
            problem = {}
        if not isinstance(problem, dict):
            problem = {}
        raise MooringError(describe(method, path, error.code, problem, text), error.code, problem)
