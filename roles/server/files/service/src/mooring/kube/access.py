# SPDX-License-Identifier: Apache-2.0
"""Where a process's own kube-apiserver is, and with which credential the process speaks to it for itself.

Two sources: the service account of the pod that it runs in, or a kubeconfig. The address found here is the only one
that an agent ever dials for a stream.

It must not: fall back from one source to the other, or accept a configuration that switches verification off.
"""

from __future__ import annotations

import base64
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from mooring.lib.errors import MooringError
from mooring.lib.secrets import Secret
from mooring.net.tls import client_context

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MAX_KUBECONFIG = 1024 * 1024
"""Bytes of a kubeconfig that are read."""


class BadConfig(MooringError):
    """The process cannot start with what it was given, or cannot read its credential any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiServerConfig:
    """The process's own kube-apiserver.

    `own_tls` may carry the client certificate of a kubeconfig and is for its own calls only. `stream_tls` never
    carries one: the API server would take it for the user, before the impersonator's token, and a request that lost its
    Impersonate headers would then run as that user.
    """

    host: str
    port: int
    own_tls: ssl.SSLContext
    stream_tls: ssl.SSLContext
    server_name: str
    ca_pem: str = ""
    """The CA that the API server's certificate is of."""
    token_file: Path | None = None
    token: Secret | None = None

    @property
    def authority(self) -> bytes:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}".encode("ascii")

    def bearer(self) -> Secret | None:
        """The process's own token, read again each time since the kubelet renews the file. Raises BadConfig."""
        if self.token_file is None:
            return self.token
        try:
            return Secret(self.token_file.read_text("ascii").strip())
        except (OSError, UnicodeDecodeError) as error:
            raise BadConfig(f"the service account token cannot be read: {error}") from None


def in_cluster(environ: Mapping[str, str], account: Path = SERVICE_ACCOUNT) -> ApiServerConfig:
    """The API server as a pod finds it. Raises BadConfig."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port.isdigit():
        raise BadConfig(
            "this is not a pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set",
            "give --kubeconfig to run outside of the cluster",
        )
    try:
        ca = (account / "ca.crt").read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"the service account's CA cannot be read: {error}") from None
    context = client_context(ca)
    config = ApiServerConfig(
        host=host,
        port=int(port),
        own_tls=context,
        stream_tls=context,
        server_name=host,
        ca_pem=ca,
        token_file=account / "token",
    )
    config.bearer()  # fail now rather than at the first call
    return config


def from_kubeconfig(path: Path, context: str | None) -> ApiServerConfig:
    """The API server of a kubeconfig's context. Raises BadConfig for what cannot be read or would not be safe."""
    config = _read(path)
    name = context or config.get("current-context")
    if not name:
        raise BadConfig(f"{path} has no current context", "give --context")
    chosen = _named(config, "contexts", "context", name, path)
    cluster = _named(config, "clusters", "cluster", chosen.get("cluster"), path)
    user = _named(config, "users", "user", chosen.get("user"), path)
    for unsupported in ("exec", "auth-provider", "username"):
        if unsupported in user:
            raise BadConfig(
                f"the user of context {name!r} in {path} authenticates by {unsupported!r}, which Mooring cannot do",
                "use a kubeconfig with a client certificate or a token",
            )
    if cluster.get("insecure-skip-tls-verify"):
        raise BadConfig(f"{path} switches off the verification of the API server's certificate", "give its CA instead")
    if cluster.get("proxy-url"):
        raise BadConfig(f"{path} names a proxy for the API server, which Mooring does not use")
    host, port = _address(str(cluster.get("server", "")), path)
    ca = _data(cluster, "certificate-authority", path)
    if ca is None:
        raise BadConfig(f"{path} has no CA for the API server", "add certificate-authority-data")
    certificate, key = _data(user, "client-certificate", path), _data(user, "client-key", path)
    if (certificate is None) != (key is None):
        raise BadConfig(f"{path} has only one of client certificate and key")
    token_file = user.get("tokenFile")
    token = user.get("token")
    return ApiServerConfig(
        host=host,
        port=port,
        own_tls=_with_certificate(ca, certificate, key),
        stream_tls=client_context(ca),
        server_name=str(cluster.get("tls-server-name") or host),
        ca_pem=ca,
        token_file=_beside(path, str(token_file)) if token_file else None,
        token=Secret(str(token)) if token and not token_file else None,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KUBECONFIG)
    except OSError as error:
        raise BadConfig(f"the kubeconfig cannot be read: {error}") from None
    config = _parse(data)
    if not isinstance(config, dict):
        raise BadConfig(f"{path} is not a kubeconfig")
    return config


def _parse(data: bytes) -> Any:
    """JSON is YAML, and needs no library that the image of the agent does not have."""
    if data.lstrip().startswith(b"{"):
        try:
            return msgspec.json.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass  # YAML can begin so, too
    try:
        import yaml
    except ImportError:
        raise BadConfig(
            "PyYAML is needed to read a kubeconfig that is not JSON", "install mooring[cli], or write it as JSON"
        ) from None
    try:
        return yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none
        raise BadConfig(f"the kubeconfig cannot be read: {error}") from None


def _named(config: dict[str, Any], group: str, kind: str, name: Any, path: Path) -> dict[str, Any]:
    entries = config.get(group)
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(kind), dict):
            found: dict[str, Any] = entry[kind]
            return found
    raise BadConfig(f"{path} has no {kind} named {name!r}")


def _address(server: str, path: Path) -> tuple[str, int]:
    try:
        url = urlsplit(server)
        port = url.port or 443
    except ValueError:
        url, port = urlsplit(""), 0
    if url.scheme != "https" or not url.hostname or not port or url.path not in ("", "/") or url.query:
        raise BadConfig(f"the server {server!r} in {path} is not of the form https://host:port")
    return url.hostname, port


def _beside(path: Path, name: str) -> Path:
    """Relative files in a kubeconfig are relative to its folder."""
    return path.parent / name


def _data(entry: dict[str, Any], key: str, path: Path) -> str | None:
    """The PEM text of `<key>-data` or of the file `<key>`."""
    try:
        if inline := entry.get(f"{key}-data"):
            return base64.b64decode(str(inline), validate=True).decode("ascii")
        if name := entry.get(key):
            return _beside(path, str(name)).read_text("ascii")
    except (OSError, ValueError) as error:  # binascii.Error and UnicodeDecodeError among them
        raise BadConfig(f"{key} of {path} cannot be read: {error}") from None
    return None


def _with_certificate(ca: str, certificate: str | None, key: str | None) -> ssl.SSLContext:
    if certificate is None or key is None:
        return client_context(ca)
    # OpenSSL loads them from files only; these live for a moment in a folder of mode 0700.
    with tempfile.TemporaryDirectory(prefix="mooring-") as folder:
        cert_file, key_file = Path(folder) / "tls.crt", Path(folder) / "tls.key"
        cert_file.write_text(certificate)
        key_file.touch(mode=0o600)
        key_file.write_text(key)
        return client_context(ca, client_cert=cert_file, client_key=key_file)
