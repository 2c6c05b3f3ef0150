# SPDX-License-Identifier: Apache-2.0
"""The server's configuration file: its settings, their defaults, their documentation and their checks, in one place.

`render` writes a file that explains itself from the same descriptions. Every error names the setting and says how to
put it right. Nothing that matters for security has a default that opens something. It only reads the file.
"""

from __future__ import annotations

import os
import re
import socket
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, get_args, get_type_hints
from urllib.parse import urlsplit

import msgspec

from mooring.lib.errors import MooringError
from mooring.lib.logging import FORMATS, LEVELS

DEFAULT_PORT: Final = 8443
# sockaddr_un.sun_path holds 108 bytes on Linux, with the closing NUL.
_SOCKET_PATH_MAX: Final = 107
_PREFIX: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}:")


class ConfigError(MooringError):
    """The configuration cannot be used; `reason` names the file and the setting."""


def _doc(text: str) -> msgspec.Meta:
    return msgspec.Meta(description=text)


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


Count = Annotated[int, msgspec.Meta(ge=1)]
Natural = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Buffer = Annotated[int, msgspec.Meta(ge=4096)]
# The window of a stream must hold a frame, and fit into the 31 bits of a WINDOW frame.
Window = Annotated[int, msgspec.Meta(ge=32 * 1024, le=2**30)]
HeadBytes = Annotated[int, msgspec.Meta(ge=1024, le=128 * 1024 - 8192)]  # a head must fit into one OPEN, with ours
Headers = Annotated[int, msgspec.Meta(ge=16, le=4096)]


class ServerSection(_Section, frozen=True, kw_only=True):
    data_dir: Annotated[str, _doc("Folder of everything the server keeps. Only the server's user may read it.")]
    listen: Annotated[str, _doc("Address and port of the one TLS port. ':8443' means every address.")] = ":8443"
    url: Annotated[str, _doc("How clients and agents reach this server. Its host must be in the certificate.")]
    instance: Annotated[str, _doc("Name of this server instance; empty means the host name.")] = ""
    run_dir: Annotated[
        str, _doc("Folder for the sockets between the server's processes; empty means 'run' in data_dir.")
    ] = ""
    workers: Annotated[
        int, msgspec.Meta(ge=0, le=64), _doc("Processes that serve the port; 0 means one per processor core.")
    ] = 0
    metrics_public: Annotated[
        bool, _doc("true: anybody may read /metrics. false: it needs the token of an administrator.")
    ] = False
    stop_timeout_seconds: Annotated[
        Seconds,
        _doc("On SIGTERM and in a rolling restart, how long requests in flight may take to finish, in seconds."),
    ] = 10.0
    control_grace_seconds: Annotated[
        Seconds,
        _doc(
            "How long workers go on with what they know when the process with the database is away, in seconds. Then "
            "they refuse: nobody could tell them what was revoked."
        ),
    ] = 60.0


class TlsSection(_Section, frozen=True, kw_only=True):
    cert: Annotated[str, _doc("Certificate of the server (PEM; the server's first, then its chain).")]
    key: Annotated[
        str,
        _doc("Private key of the certificate (PEM); the server refuses one that every user of the machine may read."),
    ]
    ca: Annotated[str, _doc("CA that signed it (PEM). Agents trust this CA only; kubeconfigs carry it.")]
    ca_key: Annotated[
        str,
        _doc("Private key of that CA, when it is Mooring's own: the server then renews its certificate by itself."),
    ] = ""


class DatabaseSection(_Section, frozen=True, kw_only=True):
    url: Annotated[
        str,
        _doc(
            "Where state is kept. Empty means SQLite, 'mooring.db' in data_dir. For PostgreSQL: "
            "postgresql://user:password@host/name."
        ),
    ] = ""

    def __repr__(self) -> str:
        return "DatabaseSection(url=<secret>)"  # it may hold a password


class IdentitySection(_Section, frozen=True, kw_only=True):
    prefix: Annotated[
        str,
        _doc(
            "Put before user and group names in the clusters, so that nobody collides with a cluster's own names. "
            "It cannot change once a cluster is registered."
        ),
    ] = "mooring:"
    password_min_length: Annotated[
        int, msgspec.Meta(ge=8, le=128), _doc("Shortest password that is accepted, in characters.")
    ] = 12
    login_ttl_seconds: Annotated[
        int, msgspec.Meta(ge=60), _doc("Life of a token from a login that asks for no other, in seconds.")
    ] = 12 * 3600
    max_ttl_seconds: Annotated[
        int, msgspec.Meta(ge=60), _doc("Longest life that a token may be given, in seconds.")
    ] = 365 * 86400


class LimitsSection(_Section, frozen=True, kw_only=True):
    max_connections: Annotated[Count, _doc("Open client connections; more are refused.")] = 10_000
    max_connections_per_address: Annotated[
        Count, _doc("Open client connections from one address; raise it when many people share one (NAT, a proxy).")
    ] = 1_000
    max_connections_per_user: Annotated[
        Count, _doc("Open connections that one user's requests to clusters came on; a watch holds one.")
    ] = 1_200
    max_handshakes: Annotated[
        Count, _doc("TLS handshakes under way, half-open ones too; more connections are closed without an answer.")
    ] = 2_000
    max_handshakes_per_address: Annotated[
        Count, _doc("TLS handshakes under way from one address. All agents behind one NAT may arrive at once.")
    ] = 600
    handshakes_per_address: Annotated[
        Count,
        _doc(
            "TLS handshakes that one address may begin within a minute, on average; more connections are closed "
            "without an answer. Each costs a signature, whether or not it ends well."
        ),
    ] = 12_000
    handshake_timeout_seconds: Annotated[
        Seconds, _doc("A TLS handshake must be complete within this time, in seconds.")
    ] = 10.0
    head_bytes: Annotated[HeadBytes, _doc("Largest head of a request, in bytes.")] = 65_536
    headers: Annotated[Headers, _doc("Most headers of a request.")] = 256
    head_timeout_seconds: Annotated[Seconds, _doc("A request's head must arrive within this time, in seconds.")] = 15.0
    idle_timeout_seconds: Annotated[
        Seconds, _doc("A connection without a request is closed after this time, in seconds.")
    ] = 120.0
    body_timeout_seconds: Annotated[
        Seconds, _doc("How long a request's body may bring less than body_bytes_per_second, in seconds.")
    ] = 60.0
    body_bytes_per_second: Annotated[
        Count,
        _doc(
            "What a request's body must bring over body_timeout_seconds; it may wait for as long as the cluster does."
        ),
    ] = 256
    write_timeout_seconds: Annotated[
        Seconds, _doc("A client that takes nothing of what waits for it is cut off after this time, in seconds.")
    ] = 600.0
    upgrade_idle_timeout_seconds: Annotated[
        Seconds, _doc("An exec, attach or port-forward without a byte either way ends after this time, in seconds.")
    ] = 14_400.0
    linger_timeout_seconds: Annotated[
        Seconds, _doc("How long the rest of a request that was answered early is read, in seconds.")
    ] = 5.0
    linger_bytes: Annotated[Count, _doc("How much of such a rest is read, in bytes.")] = 33_554_432
    close_timeout_seconds: Annotated[
        Seconds, _doc("How long a client may take for what it was sent last, in seconds.")
    ] = 60.0
    client_buffer_bytes: Annotated[
        Buffer, _doc("Bytes that wait for a client at which its stream gets no more credit.")
    ] = 262_144
    api_body_bytes: Annotated[Count, _doc("Largest request body that the REST API takes, in bytes.")] = 1_048_576
    api_answer_timeout_seconds: Annotated[
        Seconds, _doc("How long the REST API may take for an answer, in seconds.")
    ] = 60.0
    max_api_requests: Annotated[Count, _doc("Open requests to the REST API.")] = 1_024
    max_api_requests_per_address: Annotated[
        Count, _doc("Open requests to the REST API from one address, so that none keeps the others out.")
    ] = 100
    answer_timeout_seconds: Annotated[
        Seconds, _doc("How long a cluster may take for the head of its answer, in seconds.")
    ] = 300.0
    max_streams_per_cluster: Annotated[Count, _doc("Open requests (watches too) per cluster.")] = 2_000
    max_streams_per_user: Annotated[Count, _doc("Open requests (watches too) of one user, in all clusters.")] = 1_000
    max_streams_per_user_and_cluster: Annotated[
        Count, _doc("Open requests (watches too) of one user in one cluster: what is left is for others.")
    ] = 400


class TunnelSection(_Section, frozen=True, kw_only=True):
    max_sessions_per_cluster: Annotated[Count, _doc("Sessions of one cluster's agents with one server process.")] = 16
    max_streams_per_session: Annotated[
        Count, _doc("Open streams of a session; the agent has a bound of its own, and the lower one counts.")
    ] = 1_024
    window_bytes: Annotated[
        Window, _doc("What an agent may send on a stream before its client takes it, in bytes.")
    ] = 262_144
    window_max_bytes: Annotated[
        Window, _doc("What that may grow to, in bytes, while the client is fast: 16 MiB are 160 MB/s over 100 ms.")
    ] = 16_777_216
    window_growth_bytes: Annotated[Natural, _doc("What all windows of a session may grow together, in bytes.")] = (
        67_108_864
    )
    send_buffer_bytes: Annotated[
        Buffer, _doc("Bytes queued for an agent on a stream at which its client is not read any more.")
    ] = 262_144
    send_total_bytes: Annotated[
        Buffer, _doc("Bytes queued for an agent on all streams, above which each may queue 16 KiB only.")
    ] = 67_108_864
    open_backlog_bytes: Annotated[
        Buffer, _doc("Bytes of new requests queued for an agent at which the next one is refused.")
    ] = 1_048_576
    control_buffer_bytes: Annotated[
        Buffer, _doc("Bytes of control frames queued for an agent that does not read at which its session ends.")
    ] = 16_777_216
    ping_after_seconds: Annotated[
        Seconds, _doc("An agent that is silent while its session is in use is asked after this time, in seconds.")
    ] = 7.0
    dead_after_seconds: Annotated[Seconds, _doc("... and its session ends after this time, in seconds.")] = 15.0
    hello_timeout_seconds: Annotated[Seconds, _doc("How long an agent may take for its first frame, in seconds.")] = (
        10.0
    )


class AttemptsSection(_Section, frozen=True, kw_only=True):
    agent_handshakes_per_address: Annotated[
        Count,
        _doc("Agents' handshakes from one address per minute, at each server process; agents behind a NAT share one."),
    ] = 2_000
    login_free_per_user: Annotated[
        Count, _doc("Wrong passwords of one user from one address that cost nothing; then each doubles the delay.")
    ] = 3
    login_free_per_address: Annotated[
        Count, _doc("Wrong passwords from one address, of all users, that cost nothing; one is forgotten in 30 s.")
    ] = 20
    max_passwords_waiting: Annotated[
        Count, _doc("Passwords that wait to be checked; each takes 64 MiB and tens of milliseconds, two at a time.")
    ] = 32
    join_free_per_token: Annotated[
        Count, _doc("Failed registrations with one join token from one address that cost nothing.")
    ] = 3
    join_free_per_address: Annotated[
        Count, _doc("Failed registrations from one address that cost nothing; one is forgotten in 30 s.")
    ] = 50
    first_delay_seconds: Annotated[Seconds, _doc("The first delay of the next try, in seconds; it doubles.")] = 1.0
    max_delay_seconds: Annotated[Seconds, _doc("The longest delay, in seconds.")] = 60.0
    forget_after_seconds: Annotated[Seconds, _doc("Time without a failure until all is forgotten, in seconds.")] = 900.0
    max_remembered: Annotated[
        Count, _doc("Pairs of user and address whose failures are remembered; the longest quiet goes first.")
    ] = 10_000


class LogSection(_Section, frozen=True, kw_only=True):
    level: Annotated[str, _doc("One of: debug, info, warning, error.")] = "info"
    format: Annotated[str, _doc("'json' for machines or 'console' for people. Logs go to standard error.")] = "json"


class AgentsSection(_Section, frozen=True, kw_only=True):
    image: Annotated[
        str, _doc("Image of the agent in import manifests; empty means 'mooring-agent' with the server's version.")
    ] = ""


class AuditSection(_Section, frozen=True, kw_only=True):
    path: Annotated[str, _doc("File of the audit log (JSON lines); empty means 'audit.log' in data_dir.")] = ""
    required: Annotated[
        bool, _doc("true: when the audit log cannot be written, requests are refused. false: they go on unrecorded.")
    ] = True


class Config(_Section, frozen=True, kw_only=True):
    """The whole file. All paths in it are absolute once it is loaded."""

    server: ServerSection
    tls: TlsSection
    database: DatabaseSection = DatabaseSection()
    identity: IdentitySection = IdentitySection()
    agents: AgentsSection = AgentsSection()
    limits: LimitsSection = LimitsSection()
    tunnel: TunnelSection = TunnelSection()
    attempts: AttemptsSection = AttemptsSection()
    log: LogSection = LogSection()
    audit: AuditSection = AuditSection()

    @property
    def data_dir(self) -> Path:
        return Path(self.server.data_dir)

    @property
    def run_dir(self) -> Path:
        return Path(self.server.run_dir) if self.server.run_dir else self.data_dir / "run"

    @property
    def api_socket(self) -> Path:
        return self.run_dir / "api.sock"

    @property
    def bus_socket(self) -> Path:
        return self.run_dir / "bus.sock"

    @property
    def audit_path(self) -> Path:
        return Path(self.audit.path) if self.audit.path else self.data_dir / "audit.log"

    @property
    def database_url(self) -> str:
        return self.database.url or f"sqlite:///{self.data_dir / 'mooring.db'}"

    @property
    def instance(self) -> str:
        return self.server.instance or socket.gethostname()

    @property
    def url(self) -> str:
        return self.server.url.rstrip("/")

    @property
    def address(self) -> tuple[str, int]:
        return parse_listen(self.server.listen)


_SECTIONS: Final[dict[str, tuple[type[_Section], str]]] = {
    "server": (ServerSection, "Where the server keeps its data and where it listens."),
    "tls": (TlsSection, "The certificate that clients and agents see."),
    "database": (DatabaseSection, "State: users, tokens, clusters. (Clusters keep their own state.)"),
    "identity": (IdentitySection, "Who people are, here and in the clusters."),
    "agents": (AgentsSection, "What runs in the clusters."),
    "limits": (LimitsSection, "Bounds and deadlines of clients, so that none can use the server up."),
    "tunnel": (TunnelSection, "Bounds and deadlines of the tunnels to agents."),
    "attempts": (AttemptsSection, "How often one may try to get in."),
    "log": (LogSection, "What the server says about itself."),
    "audit": (AuditSection, "Who did what in which cluster."),
}


def parse_listen(value: str) -> tuple[str, int]:
    """Splits `host:port`, `[v6]:port` or `:port` (host `""`: every address). Raises ValueError."""
    host, colon, port = value.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{value!r} is not an address and port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{value!r}: write an IPv6 address in brackets")
    return host, int(port)


def load(path: Path) -> Config:
    """Reads and checks a configuration file. Relative paths in it are relative to its folder. Raises ConfigError."""
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"there is no configuration file {path}", "make one with 'mooring server init', or name it with --config"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", "check its owner and mode") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}", "text values need quotes") from None
    return parse(data, path)


def parse(data: dict[str, Any], path: Path) -> Config:
    """Checks the content of a configuration file that came from `path`. Raises ConfigError."""
    try:
        config = msgspec.convert(data, Config)
    except msgspec.ValidationError as error:
        raise _explain(error, path) from None
    base = path.absolute().parent

    def absolute(value: str) -> str:
        return str(base / os.path.expanduser(value)) if value else value

    replace = msgspec.structs.replace
    config = replace(
        config,
        server=replace(
            config.server, data_dir=absolute(config.server.data_dir), run_dir=absolute(config.server.run_dir)
        ),
        tls=TlsSection(**{name: absolute(getattr(config.tls, name)) for name in TlsSection.__struct_fields__}),
        audit=replace(config.audit, path=absolute(config.audit.path)),
    )
    _check(config, path)
    return config


def _explain(error: msgspec.ValidationError, path: Path) -> ConfigError:
    """Turns `Expected `int`, got `str` - at `$.limits.x`` into a sentence about the setting `limits.x`."""
    message, _unused, where = str(error).partition(" - at `$")
    section = where.rstrip("`").lstrip(".")
    unknown = re.search(r"unknown field `([^`]+)`", message)
    if unknown:
        name = ".".join(filter(None, (section, unknown[1])))
        known = _SECTIONS[section][0].__struct_fields__ if section in _SECTIONS else tuple(_SECTIONS)
        return ConfigError(f"{path}: there is no setting '{name}'", f"known here: {', '.join(known)}")
    missing = re.search(r"missing required field `([^`]+)`", message)
    if missing:
        name = ".".join(filter(None, (section, missing[1])))
        return ConfigError(f"{path}: the setting '{name}' is missing", _description(name) or "add it")
    return ConfigError(f"{path}: the setting '{section}' is wrong: {message}", _description(section))


def _description(name: str) -> str:
    section, _unused, field = name.partition(".")
    if section not in _SECTIONS:
        return ""
    if not field:
        return _SECTIONS[section][1]
    return _descriptions(_SECTIONS[section][0]).get(field, "")


def _descriptions(section: type[_Section]) -> dict[str, str]:
    found = {}
    for name, hint in get_type_hints(section, include_extras=True).items():
        for meta in get_args(hint)[1:]:
            if isinstance(meta, msgspec.Meta) and meta.description:
                found[name] = meta.description
    return found


def _check(config: Config, path: Path) -> None:
    def refuse(setting: str, problem: str, hint: str) -> None:
        raise ConfigError(f"{path}: the setting '{setting}' {problem}", hint)

    if not config.server.data_dir:
        refuse("server.data_dir", "is empty", "name a folder that only the server's user may read")
    try:
        config.address  # noqa: B018 - read for its check
    except ValueError as error:
        refuse("server.listen", f"is wrong: {error}", "write ':8443', '127.0.0.1:8443' or '[::1]:8443'")
    try:
        url = urlsplit(config.server.url)
    except ValueError:  # brackets that hold no address
        url = urlsplit("")
    if url.scheme != "https" or not url.hostname or url.path not in ("", "/") or url.query or url.username:
        refuse(
            "server.url", f"is {config.server.url!r}", "write https://NAME or https://NAME:PORT, with nothing after it"
        )
    for name in ("cert", "key", "ca"):
        if not getattr(config.tls, name):
            refuse(f"tls.{name}", "is empty", "give the path of a PEM file; there is no mode without TLS")
    if not _PREFIX.fullmatch(config.identity.prefix):
        refuse("identity.prefix", f"is {config.identity.prefix!r}", "use letters, digits, '.', '_', '-' and end in ':'")
    if config.identity.prefix.casefold().startswith("system:"):
        refuse("identity.prefix", "begins with 'system:'", "Kubernetes keeps these names for itself")
    if config.log.level not in LEVELS:
        refuse("log.level", f"is {config.log.level!r}", f"use one of: {', '.join(LEVELS)}")
    if config.log.format not in FORMATS:
        refuse("log.format", f"is {config.log.format!r}", f"use one of: {', '.join(FORMATS)}")
    tunnel, attempts = config.tunnel, config.attempts
    if tunnel.ping_after_seconds >= tunnel.dead_after_seconds:
        refuse("tunnel.ping_after_seconds", "is not below dead_after_seconds", "ask twice before giving up: 7 and 15")
    if tunnel.window_max_bytes < tunnel.window_bytes:
        refuse("tunnel.window_max_bytes", "is below window_bytes", "a window grows, it does not shrink")
    if attempts.first_delay_seconds > attempts.max_delay_seconds:
        refuse("attempts.first_delay_seconds", "is above max_delay_seconds", "delays grow from the one to the other")
    database = config.database_url.split(":", 1)[0].split("+", 1)[0]
    if database not in ("sqlite", "postgresql"):
        refuse("database.url", f"names the unknown database {database!r}", "use sqlite:///PATH or postgresql://...")
    if len(os.fsencode(config.api_socket)) > _SOCKET_PATH_MAX:
        refuse(
            "server.run_dir",
            f"makes the socket path {config.api_socket} longer than {_SOCKET_PATH_MAX} bytes",
            "set server.run_dir to a short path, such as /run/mooring",
        )


def render(config: Config) -> str:
    """The configuration as a TOML file that documents every setting; `load` reads it back to the same values."""
    out = [
        "# Configuration of the Mooring server (mooring server run --config THIS-FILE).",
        "# Every setting is listed. A line that begins with '#' shows a default; remove the '#' to change it.",
        "# 'mooring doctor --config THIS-FILE' checks it.",
    ]
    for name, (section, about) in _SECTIONS.items():
        out += ["", f"# {about}", f"[{name}]"]
        values = getattr(config, name)
        descriptions = _descriptions(section)
        defaults = {field.name: field.default for field in msgspec.structs.fields(section)}
        for field in section.__struct_fields__:
            value = getattr(values, field)
            off = "# " if value == defaults[field] else ""
            out += ["", f"# {descriptions[field]}", f"{off}{field} = {_toml(value)}"]
    return "\n".join(out) + "\n"


def _toml(value: str | int | float | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
        return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
    return repr(value)
