# SPDX-License-Identifier: Apache-2.0
"""The settings of kube-api-auth: one TOML file without sections, each setting with its check.

Nothing that matters for security has a default that opens something: without a client CA, a policy key or a cluster it
does not start. It only reads the file.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from pathlib import Path
from typing import Final

import msgspec

from mooring.lib.errors import MooringError
from mooring.lib.logging import FORMATS, LEVELS
from mooring.wire.sealed import public_key

DEFAULT_PATH: Final = Path("/etc/mooring/kube-api-auth.toml")
MAX_FILE: Final = 64 * 1024


class BadSettings(MooringError):
    """The settings cannot be used; `reason` names the file and the setting."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """docs/kube-api-auth.md says what each is; a test compares."""

    cluster_id: str
    cluster_uid: str
    policy_key: str
    tls_cert: str
    tls_key: str
    client_ca: str
    state_dir: str
    listen: str = "127.0.0.1:8440"
    audiences: tuple[str, ...] = ("https://kubernetes.default.svc.cluster.local",)
    namespace: str = "mooring-system"
    kubeconfig: str = ""
    metrics: bool = False
    log_level: str = "info"
    log_format: str = "json"

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, _unused, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


def load(path: Path) -> Config:
    """Reads and checks the settings; relative paths in them are relative to the file's folder. Raises BadSettings."""
    try:
        with path.open("rb") as file:
            data = tomllib.loads(file.read(MAX_FILE).decode())
    except FileNotFoundError:
        raise BadSettings(f"there is no file {path}", "name it with --config") from None
    except OSError as error:
        raise BadSettings(f"{path} cannot be read: {error}", "check its owner and mode") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadSettings(f"{path} is not valid TOML: {error}", "text values need quotes") from None
    try:
        config = msgspec.convert(data, Config)
    except msgspec.ValidationError as error:
        raise BadSettings(f"{path}: {_explain(str(error))}") from None
    _check(config, path)
    base = path.absolute().parent
    paths = {
        name: str(base / value)
        for name in ("tls_cert", "tls_key", "client_ca", "state_dir", "kubeconfig")
        if (value := getattr(config, name))
    }
    return msgspec.structs.replace(config, **paths)


def _explain(error: str) -> str:
    if match := re.search(r"unknown field `([^`]+)`", error):
        return f"there is no setting '{match[1]}'; there are {', '.join(Config.__struct_fields__)}"
    if match := re.search(r"missing required field `([^`]+)`", error):
        return f"the setting '{match[1]}' is missing"
    what, _unused, where = error.partition(" - at `$.")
    return f"the setting '{where.rstrip('`')}' is wrong: {what}"


def _check(config: Config, path: Path) -> None:
    def refuse(setting: str, problem: str, hint: str) -> None:
        raise BadSettings(f"{path}: the setting '{setting}' {problem}", hint)

    for name in ("cluster_id", "cluster_uid", "tls_cert", "tls_key", "client_ca", "state_dir", "namespace"):
        if not getattr(config, name).strip():
            refuse(name, "is empty", "see docs/kube-api-auth.md")
    if public_key(config.policy_key) is None:
        refuse("policy_key", "is no Ed25519 key in base64url", "the server says it: mooring cluster endpoint show")
    if not config.audiences or not all(config.audiences):
        refuse("audiences", "is empty", "give the audiences of the API server: --api-audiences or its issuer")
    if not _loopback(config.listen):
        refuse("listen", f"is {config.listen!r}", "write a loopback address and a port, such as '127.0.0.1:8440'")
    if config.log_level not in LEVELS:
        refuse("log_level", f"is {config.log_level!r}", f"use one of: {', '.join(LEVELS)}")
    if config.log_format not in FORMATS:
        refuse("log_format", f"is {config.log_format!r}", f"use one of: {', '.join(FORMATS)}")


def _loopback(listen: str) -> bool:
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536 or (":" in host and not host.startswith("[")):
        return False
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
