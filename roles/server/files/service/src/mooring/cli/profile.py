# SPDX-License-Identifier: Apache-2.0
"""Where the command line remembers its logins: `~/.config/mooring/config.toml`, mode 0600, written atomically.

One login per server; one of them is current. The environment (MOORING_URL, MOORING_TOKEN, MOORING_CA_FILE) goes first
and is never written down. The file holds tokens: a mode that lets others read it is put right, not ignored.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from mooring.lib.errors import MooringError
from mooring.lib.files import private_folder, write_atomic
from mooring.lib.secrets import Secret

_HEAD: Final = "# Logins of the mooring command. It holds tokens: keep it to yourself. 'mooring logout' removes one.\n"


class NotLoggedIn(MooringError):
    """There is no token to use."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class Login:
    """One login to one server. `expires_at` is RFC 3339, or empty when the token does not end."""

    url: str
    token: Secret
    ca_pem: str = ""
    username: str = ""
    token_id: str = ""
    expires_at: str = ""


def folder(environment: Mapping[str, str] | None = None) -> Path:
    """The folder of the command's own files (XDG base directory specification)."""
    base = (os.environ if environment is None else environment).get("XDG_CONFIG_HOME") or os.path.expanduser(
        "~/.config"
    )
    return Path(base) / "mooring"


def normal_url(url: str) -> str:
    """The form of a server's URL by which it is remembered. Raises MooringError."""
    text = url.strip()
    if "://" not in text:
        text = "https://" + text
    parts = urlsplit(text)
    if parts.scheme != "https" or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.username:
        raise MooringError(f"{url!r} is not the URL of a server", "write https://HOST:PORT; there is no plain http")
    return f"https://{parts.netloc}"


class Profile:
    """The logins in one file."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or folder() / "config.toml"
        self.current = ""
        self.logins: dict[str, Login] = {}
        self._read()

    def _read(self) -> None:
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_mode & 0o077:
                    os.fchmod(file.fileno(), 0o600)
                data: dict[str, Any] = tomllib.load(file)
        except FileNotFoundError:
            return
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise MooringError(
                f"{self.path} cannot be read: {error}", "repair or remove it, then log in again"
            ) from None
        self.current = str(data.get("current", ""))
        for url, entry in data.get("servers", {}).items():
            values = {key: str(entry.get(key, "")) for key in ("ca_pem", "username", "token_id", "expires_at")}
            self.logins[url] = Login(url=url, token=Secret(str(entry.get("token", ""))), **values)

    def save(self, login: Login) -> None:
        """Remembers a login and makes it the current one. Raises MooringError."""
        self.logins[login.url] = login
        self.current = login.url
        self._write()

    def forget(self, url: str) -> None:
        """Drops the login to a server; another one becomes the current one if there is one."""
        self.logins.pop(url, None)
        if self.current == url:
            self.current = next(iter(self.logins), "")
        self._write()

    def _write(self) -> None:
        lines = [_HEAD, f"current = {_quote(self.current)}"]
        for url, login in self.logins.items():
            lines += [
                f"\n[servers.{_quote(url)}]",
                f"token = {_quote(login.token.reveal())}",
                f"username = {_quote(login.username)}",
                f"token_id = {_quote(login.token_id)}",
                f"expires_at = {_quote(login.expires_at)}",
                f"ca_pem = {_quote(login.ca_pem)}",
            ]
        try:
            private_folder(self.path.parent)
            write_atomic(self.path, "\n".join(lines) + "\n")
        except OSError as error:
            raise MooringError(
                f"{self.path} cannot be written: {error}", "check the folder's owner and space"
            ) from None


def active(url: str | None = None, environment: Mapping[str, str] | None = None, path: Path | None = None) -> Login:
    """The login to use: the environment's, else the remembered one for `url`, else the current one.

    Raises NotLoggedIn, or MooringError when MOORING_CA_FILE cannot be read.
    """
    environment = os.environ if environment is None else environment
    wanted = normal_url(url) if url else ""
    named = environment.get("MOORING_URL", "")
    named = normal_url(named) if named else ""
    token = environment.get("MOORING_TOKEN", "")
    if token and named and wanted in ("", named):
        return Login(url=named, token=Secret(token), ca_pem=environment_ca(environment))
    profile = Profile(path)
    chosen = wanted or named or profile.current
    login = profile.logins.get(chosen)
    if login is not None:
        return login
    if token and not chosen:
        raise NotLoggedIn("MOORING_TOKEN is set, but MOORING_URL is not", "set MOORING_URL to https://HOST:PORT")
    where = f" to {chosen}" if chosen else ""
    raise NotLoggedIn(f"you are not logged in{where}", f"run: mooring login {chosen or 'https://HOST:PORT'}")


def environment_ca(environment: Mapping[str, str] | None = None) -> str:
    """The CA bundle that MOORING_CA_FILE names, or nothing. Raises MooringError."""
    file = (os.environ if environment is None else environment).get("MOORING_CA_FILE", "")
    if not file:
        return ""
    try:
        return Path(file).read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise MooringError(
            f"MOORING_CA_FILE cannot be read: {error}", "name the server's CA certificate (PEM)"
        ) from None


def _quote(text: str) -> str:
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")
