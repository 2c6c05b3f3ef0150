# SPDX-License-Identifier: Apache-2.0
"""Every other parser of what strangers, agents, clusters or administrators write: one error, and what it promises."""

from __future__ import annotations

import contextlib
import posixpath
import re
import ssl
import tempfile
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jwt
from joserfc.jwk import OKPKey
from joserfc.util import urlsafe_b64encode
from mooring.agent import acting, dispatch
from mooring.agent.apiserver import ApiServer
from mooring.agent.heads import Checked, Heads
from mooring.authn import tokens
from mooring.authn.agents import ALGORITHM, TYP, AgentRefused, AgentVerifier
from mooring.authn.identity import Identity
from mooring.kube import access
from mooring.lib import config
from mooring.lib.errors import MooringError
from mooring.lib.names import InvalidName, check_cluster_name, check_name
from mooring.lib.secrets import Secret
from mooring.proxy import forward, impersonate, requestinfo, upgrade
from mooring.proxy.answers import Refused
from mooring.proxy.entrance import ByPath
from mooring.wire import actas
from mooring.wire.headers import (
    BadMessage,
    Headers,
    RequestHead,
    check_head,
    has_dot_segments,
    header_lines,
    is_target,
    is_token,
    is_value,
    parse_request_head,
    parse_response_head,
    serialize_request,
    serialize_response,
    strip_hop_by_hop,
)
from mooring.wire.http1_writer import FramingError

from fuzz.source import Source


def heads(data: bytes) -> None:
    """The head parsers of the tunnel: BadMessage or a head that is written back to the same head."""
    with contextlib.suppress(BadMessage):
        head = parse_request_head(data)
        assert all(is_token(name) and is_value(value) for name, value in head.headers)
        assert parse_request_head(serialize_request(head)) == head
    with contextlib.suppress(BadMessage):
        response = parse_response_head(data)
        assert all(is_token(name) and is_value(value) for name, value in response.headers)
        if response.reason == response.reason.strip(b" \t"):
            assert parse_response_head(serialize_response(response)) == response
    with contextlib.suppress(BadMessage):
        check_head(data, head_max=512)
        assert len(data) <= 512


def _identity(user: str, group: str) -> Identity:
    return Identity("u-aaaaaaaaaaaa", user, "uid", (group,), "t-aaaaaaaaaaaa", None, None, False)


IDENTITY = _identity("bob", "devs")


def _ours(identity: Identity) -> tuple[bytes, Headers]:
    """The lines that the server adds for somebody, and what an agent reads in them."""
    lines = impersonate.Impersonator("mooring:").lines(identity, "0f")
    return lines, parse_request_head(b"GET / HTTP/1.1\r\n" + lines + b"\r\n").headers


def _says_who(name: bytes) -> bool:
    """Whether some server could take a header of this name for one that says who asks."""
    plain = name.lower().replace(b"_", b"-")
    return (plain + b"-").startswith((b"impersonate-", b"x-remote-")) or plain in (b"authorization", b"cookie")


def acting_headers(data: bytes) -> None:
    """`kubectl --as`, from any client headers to the API server: refused, or the one identity that was named."""
    source = Source(data)
    headers: Headers = [(b"Impersonate-User", b"alice")] if source.flag() else []
    while not source.empty and len(headers) < 40:
        name = source.one_of(NAMES) if source.flag() else b"Impersonate-" + source.take(source.number(0, 24))
        value = source.one_of(NAMES) if source.flag() else source.take(source.number(0, 24))
        if is_token(name) and is_value(value):
            headers.append((name, value))
    try:
        wanted = actas.read(headers)
    except actas.BadActAs as error:
        assert error.status in (400, 403, 431)
        return
    assert all(text.isascii() and text.isprintable() for text in wanted.texts())
    lines, ours = _ours(IDENTITY)
    written = serialize_request(RequestHead(b"GET", b"/api", []), lines + header_lines(actas.to_wire(wanted)))
    plain, real, arrived = acting.split(dispatch.check_head(parse_request_head(written), acts=True))
    assert (plain, real, arrived) == ([], ours, wanted)
    final = acting.acting_headers(real, arrived)
    assert [value for name, value in final if name.lower() == b"impersonate-user"] == [wanted.user.encode()]
    extras = [(actas.extra_key(name), value.decode()) for name, value in final if actas.extra_key(name) is not None]
    said = [pair for pair in extras if not str(pair[0]).startswith(actas.RESERVED)]
    assert said == list(wanted.extra)
    assert sorted(str(key) for key, _unused in extras if str(key).lower().startswith(actas.RESERVED)) == [
        "mooring.fleet/original-uid",
        "mooring.fleet/original-user",
        "mooring.fleet/request-id",
        "mooring.fleet/token-id",
    ]


def identity_headers(data: bytes) -> None:
    """From any client headers to what kube-apiserver gets: the identity is ours alone, at both hops."""
    source = Source(data)
    headers: Headers = []
    while not source.empty and len(headers) < 40:
        name = source.one_of(NAMES) if source.flag() else source.take(source.number(1, 24))
        value = source.one_of(NAMES) if source.flag() else source.take(source.number(0, 24))
        if is_token(name) and is_value(value):
            headers.append((name, value))
    kept, refused = impersonate.sanitise(headers)
    assert not any(_says_who(name) for name, _unused in kept)
    assert refused or not any(name.lower().startswith(b"impersonate-") for name, _unused in headers)
    assert all(impersonate.verdict(name) in ("keep", "offers") for name, _unused in kept)
    wanted = upgrade.protocol(headers)
    sent = upgrade.request_headers(kept, wanted) if wanted and is_value(wanted) else kept
    assert not any(
        b"base64url.bearer.authorization.k8s.io." in value.lower()
        for name, value in sent
        if name.lower() == b"sec-websocket-protocol"
    )
    lines, ours = _ours(IDENTITY)
    kept_lines = header_lines([(b"Host", b"apiserver"), *sent])
    written = serialize_request(RequestHead(b"GET", b"/api", []), kept_lines + lines)
    with contextlib.suppress(dispatch.Refused):
        read = parse_request_head(written)
        _first, final = _at_kube(dispatch.passed(read, dispatch.check_head(read)))
        who = [(name, value) for name, value in final if _says_who(name)]
        assert who == [(b"Authorization", b"Bearer token"), *ours], who
        assert sum(name.lower() == b"host" for name, _unused in final) == 1
    strip_hop_by_hop(headers)


NAMES = (
    b"Impersonate-Extra-mooring%2efleet%2Foriginal-user",
    b"Impersonate-User",
    b"impersonate-group",
    b"Impersonate_User",
    b"IMPERSONATE-EXTRA-x",
    b"Impersonate-Uid",
    b"Connection",
    b"Authorization",
    b"Cookie",
    b"X-Remote-User",
    b"x_remote_group",
    b"Host",
    b"Content-Length",
    b"Transfer-Encoding",
    b"Upgrade",
    b"websocket",
    b"keep-alive",
    b"close",
    b"Impersonate",
    b"Proxy-Authorization",
    b"Expect",
    b"Accept",
    b"Sec-WebSocket-Protocol",
    b"base64url.bearer.authorization.k8s.io.bXJn",
    b"v4.channel.k8s.io",
    b"system:masters",
)


def paths(data: bytes) -> None:
    """A target that the edge gives to a cluster stays in that cluster, however it is decoded and cleaned on the way."""
    target = b"/k8s/clusters/" + data
    if not is_target(target) or b"#" in target or has_dot_segments(target):
        return
    path = target.split(b"?", 1)[0]
    ref, _unused, rest = path.removeprefix(b"/k8s/clusters/").partition(b"/")
    if not re.fullmatch(rb"[a-z0-9-]+", ref):
        return  # no cluster; `routes` is about these
    for decoded in (rest, unquote_to_bytes(rest)):
        clean = posixpath.normpath(b"/k8s/clusters/" + ref + b"/" + decoded)
        # %2f decodes to a slash, so that "..%2f" becomes a segment for a server that decodes first.
        # Nobody decodes between here and the cluster, where `..%2f` is a name that RBAC sees decoded.
        if not (clean + b"/").startswith(b"/k8s/clusters/" + ref + b"/"):
            assert b"%2f" in rest.lower(), clean


def locations(data: bytes) -> None:
    """A redirect that is passed on leads to the same cluster, also for a browser, which drops tabs and line ends."""
    if not is_value(data):
        return
    try:
        _name, value = forward._safe_location((b"Location", data), "/k8s/clusters/harbour")
    except FramingError:
        return
    # The URL standard: tab, LF and CR go, a backslash is a slash.
    seen = value.translate(None, b"\t\r\n").replace(b"\\", b"/").split(b"?", 1)[0].split(b"#", 1)[0]
    assert seen.startswith(b"/k8s/clusters/harbour/")
    for segment in seen.lower().replace(b"%2e", b".").split(b"/"):
        assert segment not in (b".", b".."), value
    # At an endpoint that a cluster serves itself nothing stands before the path.
    _name, bare = forward._safe_location((b"Location", data), "")
    seen = bare.translate(None, b"\t\r\n").replace(b"\\", b"/")
    assert seen.startswith(b"/")
    assert not seen.startswith(b"//")


def routes(data: bytes) -> None:
    """The server's cut of a target: a cluster's reference has only safe characters, the rest is unchanged."""

    class Index:
        def cluster(self, ref: str) -> str:
            return ref

    entrance = ByPath(Index())  # type: ignore[arg-type]
    if not is_target(data):
        return
    try:
        cluster, rest = entrance.route(b"/k8s/clusters/" + data)
    except Refused as refusal:
        assert refusal.code == 404
        return
    name = str(cluster)
    assert check_cluster_name(name) if not name.startswith("c-") else name
    assert rest.startswith(b"/")
    assert (name.encode() + rest == data) or (name.encode() == data.split(b"?")[0])


VERBS = {"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "proxy", ""}
HTTP = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def request_infos(data: bytes) -> None:
    """What the audit says of any request line: never an error, never a line break, the same with and without cache."""
    source = Source(data)
    method = source.one_of(HTTP)
    raw = source.rest()
    if not is_target(raw):
        return
    target = raw.decode("ascii")
    info = requestinfo.request_info(method, target)
    assert requestinfo.understand(method.encode(), raw) == (info, requestinfo.long_running(info, target))
    for text in (info.path, info.resource, info.name, info.namespace, info.subresource, info.api_group, info.verb):
        assert text.isprintable() or not text, repr(text)
    if info.resource_request:
        assert info.verb in VERBS


def user_tokens(data: bytes) -> None:
    """A bearer token: None, or an id of the right form that the text holds."""
    text = data.decode("latin-1")
    for kind in ("mrg", "mrj"):
        parsed = tokens.parse(text, kind)
        if parsed is not None:
            assert text.startswith(f"{kind}_{parsed.id}_")
            assert len(text) == len(kind) + 1 + len(parsed.id) + 1 + 52
            assert text.isascii()
            assert len(parsed.hash) == 32


CLUSTER = "c-aaaaaaaaaaaa"
NOW = 1_800_000_000.0


@lru_cache(maxsize=1)
def _agent() -> tuple[bytes, str]:
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    private, public = key.private_bytes_raw(), key.public_key().public_bytes_raw()
    jwk = OKPKey.import_key(
        {
            "kty": "OKP",
            "crv": "Ed25519",
            "x": urlsafe_b64encode(public).decode(),
            "d": urlsafe_b64encode(private).decode(),
        }
    )
    claims = {"iss": CLUSTER, "aud": "https://m", "iat": NOW, "nbf": NOW, "exp": NOW + 60, "jti": "0123456789abcdef"}
    token = jwt.encode({"alg": ALGORITHM, "typ": TYP, "kid": CLUSTER}, claims, jwk, algorithms=[ALGORITHM])
    return public, token


def handshakes(data: bytes) -> None:
    """A JWT at `/tunnel/connect`: AgentRefused, or the very claims and header that the agent signed."""
    public, good = _agent()
    verifier = AgentVerifier({CLUSTER: public}.get, "https://m")
    source = Source(data)
    how = source.byte() % 4
    if how == 0:
        token = source.rest().decode("latin-1")
    elif how == 1:  # other parts between the dots
        parts = good.split(".")
        parts[source.byte() % 3] = source.rest().decode("latin-1")
        token = ".".join(parts)
    elif how == 2:  # other header and claims, as JSON, under the old signature
        head = source.take(source.number(0, 60))
        token = ".".join(
            [urlsafe_b64encode(head).decode(), urlsafe_b64encode(source.rest()).decode(), good.split(".")[2]]
        )
    else:  # single characters changed
        text = list(good)
        while not source.empty:
            text[source.number(0, len(text) - 1)] = chr(source.byte())
        token = "".join(text)
    try:
        identity = verifier.verify(token, NOW)
    except AgentRefused:
        return
    assert identity.cluster_id == CLUSTER
    # The signature covers the first two parts as they are written; only the signature's own spelling is left.
    assert token.rsplit(".", 1)[0] == good.rsplit(".", 1)[0]
    with contextlib.suppress(AgentRefused):
        verifier.verify(token, NOW)
        raise AssertionError("replayed")


def agent_requests(data: bytes) -> None:
    """What the server may send to the agent as a request head: Refused, or one that names one user and is not ours."""
    try:
        head = parse_request_head(data)
    except BadMessage:
        return
    try:
        checked = dispatch.passed(head, dispatch.check_head(head))
    except dispatch.Refused:
        return
    known, _unused = _agent_side()
    assert known.read(data) == checked, "remembered lines mean something else"
    first, final = _at_kube(checked)
    users = [value for name, value in final if name.lower() == b"impersonate-user"]
    assert len(users) == 1
    assert users[0]
    assert not users[0].lower().startswith(b"system:")
    assert [v for n, v in final if n.lower() == b"authorization"] == [b"Bearer token"]
    assert first == b"%b %b HTTP/1.1" % (head.method, head.target)
    assert head.target.startswith(b"/")


@lru_cache(maxsize=1)
def _agent_side() -> tuple[Heads, ApiServer]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    apiserver = ApiServer(
        access.ApiServerConfig(host="kube", port=6443, own_tls=tls, stream_tls=tls, server_name="kube"), 1
    )
    return Heads(lambda head: dispatch.passed(head, dispatch.check_head(head))), apiserver


def _at_kube(request: Checked) -> tuple[bytes, Headers]:
    """First line and headers as kube-apiserver gets them."""
    _unused, apiserver = _agent_side()
    first, *lines = apiserver.head(request, Secret("token")).removesuffix(b"\r\n\r\n").split(b"\r\n")
    pairs = [line.partition(b": ") for line in lines]
    return first, [(name, value) for name, _colon, value in pairs]


def names(data: bytes) -> None:
    """A user or group name that is taken makes a header that can be written, and one line of a log."""
    text = data.decode("utf-8", "surrogatepass") if _decodes(data) else data.decode("latin-1")
    with contextlib.suppress(InvalidName):
        check_cluster_name(text)
        assert text.isascii()
        assert "/" not in text
        assert "." not in text
    try:
        check_name(text, "user name")
    except InvalidName as error:
        assert "\n" not in str(error)
        return
    identity = _identity(text, text)
    _lines, headers = _ours(identity)
    assert dict(headers)[b"Impersonate-User"] == f"mooring:{text}".encode()
    head = RequestHead(b"GET", b"/", [(b"Host", b"a"), *headers])
    assert parse_request_head(serialize_request(head)) == head
    assert len(text.splitlines()) == 1


def _decodes(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def server_configs(data: bytes) -> None:
    """mooring.toml: ConfigError or a configuration that is written and read back to the same."""
    path = _scratch() / "mooring.toml"
    path.write_bytes(data)
    try:
        read = config.load(path)
    except config.ConfigError:
        return
    assert urlsplit(read.server.url).scheme == "https"
    path.write_text(config.render(read), "utf-8")
    assert config.load(path) == read


def kubeconfigs(data: bytes) -> None:
    """The agent's kubeconfig: an error with a sentence for people, or a configuration that verifies TLS."""
    path = _scratch() / "kubeconfig"
    path.write_bytes(data)
    try:
        read = access.from_kubeconfig(path, None)
    except MooringError:
        return
    assert read.own_tls.check_hostname
    assert read.stream_tls.check_hostname


@lru_cache(maxsize=1)
def _scratch() -> Path:
    shm = Path("/dev/shm")  # memory: a file is written for every input
    return Path(tempfile.mkdtemp(prefix="mooring-fuzz-", dir=shm if shm.is_dir() else None))


def origins(data: bytes) -> None:
    """The Origin of an upgrade: refused, or https or wss at the very Host."""
    source = Source(data)
    host = source.take(source.number(0, 30))
    origin = source.rest()
    if not is_value(host) or not is_value(origin) or not origin:
        return
    try:
        upgrade.check_origin([(b"Host", host), (b"Origin", origin)])
    except Refused:
        return
    scheme, _unused, rest = origin.lower().partition(b"://")
    assert scheme in (b"https", b"wss")
    assert rest.split(b"/")[0].split(b"?")[0].split(b"#")[0].removesuffix(b":443") == host.lower().removesuffix(b":443")
