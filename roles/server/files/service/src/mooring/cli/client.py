# SPDX-License-Identifier: Apache-2.0
"""The command line's way to the REST API: one small client on httpx, with errors that say what to do.

It trusts the CA that the login remembered, and nothing else; without one, the system's. There is no way to switch
verification off. It follows no redirects and takes no proxy from the environment: a token must not travel elsewhere.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

import httpx

from mooring.cli import profile
from mooring.lib.errors import MooringError
from mooring.lib.version import VERSION

_PAGE: Final = 200
_LIST_MAX: Final = 100_000
TIMEOUT: Final = 30.0


class ApiError(MooringError):
    """The server refused. `status` is the HTTP status, `exit_code` what the process should end with."""

    def __init__(self, status: int, reason: str, hint: str = "") -> None:
        super().__init__(reason, hint)
        self.status = status
        self.exit_code = {401: 3, 403: 3, 404: 4}.get(status, 1)


class Unreachable(MooringError):
    """No answer from the server."""

    exit_code = 5


class Client:
    """Talks to one server. Use as a context manager. `timeout` is for each wait (seconds), `connect` for connecting."""

    def __init__(self, login: profile.Login, timeout: float = TIMEOUT, connect: float | None = None) -> None:
        self.login = login
        headers = {"User-Agent": f"mooring/{VERSION}", "Accept": "application/json"}
        if login.token:
            headers["Authorization"] = f"Bearer {login.token.reveal()}"
        self._http = httpx.Client(
            base_url=login.url + "/api/v1/",
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=timeout if connect is None else connect),
            verify=_trust(login.ca_pem),
            trust_env=False,
            follow_redirects=False,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_unused: object) -> None:
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> httpx.Response:
        """One request; the answer is a success. Raises ApiError and Unreachable."""
        headers = {"If-Match": if_match} if if_match else {}
        try:
            response = self._http.request(method, path, json=body, params=params, headers=headers)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Unreachable(f"{self.login.url} cannot be reached: {_why(error)}", _remedy(error)) from None
        except httpx.TimeoutException:
            raise Unreachable(
                f"{self.login.url} did not answer in time", "try again; 'mooring doctor' on the server says more"
            ) from None
        except httpx.HTTPError as error:
            raise Unreachable(f"the connection to {self.login.url} broke: {error}", "try again") from None
        if response.is_success:
            return response
        raise _refused(response)

    def get(self, path: str, /, **params: str) -> Any:
        return self.call("GET", path, params=params or None).json()

    def post(self, path: str, body: Any) -> Any:
        response = self.call("POST", path, body)
        return response.json() if response.content else None

    def items(self, path: str, params: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """All items of a list, page by page. Raises ApiError and Unreachable."""
        query = {**params, "limit": str(_PAGE)}
        count = 0
        while count < _LIST_MAX:
            page = self.call("GET", path, params=query).json()
            yield from page["items"]
            count += len(page["items"])
            if not page.get("next"):
                return
            query["cursor"] = page["next"]

    def change(self, path: str, body: Mapping[str, Any]) -> Any:
        """Changes a thing (PATCH), provided that nobody changed it since it was read here."""
        etag = self.call("GET", path).headers.get("ETag")
        return self.call("PATCH", path, body, if_match=etag).json()


def segment(name: str) -> str:
    """A name as one segment of a path."""
    return quote(name, safe="")


def _trust(ca_pem: str) -> ssl.SSLContext:
    if not ca_pem:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=ca_pem)
    except (ssl.SSLError, ValueError) as error:
        raise MooringError(
            f"the CA certificate cannot be used: {error}", "give the server's CA as a PEM file"
        ) from None
    return context


def _why(error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted ({cause.verify_message})"
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__


def _remedy(error: Exception) -> str:
    if "certificate" in _why(error):
        return "name the server's CA with --ca-file or MOORING_CA_FILE, and use a host name that is in the certificate"
    return "check the URL, the network, and that the server runs"


def _refused(response: httpx.Response) -> ApiError:
    """Makes the error from a problem document (RFC 9457)."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        return ApiError(response.status_code, f"the server answered {response.status_code} {response.reason_phrase}")
    # REST errors are problem documents; on the proxy's paths they are Kubernetes Status objects.
    detail = problem.get("detail") or problem.get("message") or problem.get("title") or str(response.status_code)
    errors = [error for error in problem.get("errors") or [] if isinstance(error, dict)]
    fields = [f"{e.get('field')}: {e.get('message')}" for e in errors if str(e.get("message")) not in str(detail)]
    hint = "; ".join(fields) or str(problem.get("hint") or "") or _HINTS.get(response.status_code, "")
    return ApiError(response.status_code, str(detail), hint)


_HINTS: Final = {
    401: "run: mooring login",
    403: "ask an administrator of the server",
    412: "somebody else changed it meanwhile; look at it and try again",
    429: "wait a little and try again",
}
