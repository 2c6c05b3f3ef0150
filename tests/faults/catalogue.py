# SPDX-License-Identifier: Apache-2.0
"""The faults, a row each: how it is made and healed, what clients may see, and how soon it must work again.

A row's `inject` is a generator: it breaks something, yields while it is broken, and heals. `untouched` names the
channels that must not notice anything; on the others a client may see the statuses in `codes`, or the end of a
connection. `bound` is in seconds from the healing to the moment when every channel has worked again; it is the goal
for a machine of its own (tests on a busy machine wait longer).
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mooring.lib import pki
from mooring.lib.secrets import Secret
from support.road import until
from testbed.state import until as waited

from faults.bed import Bed, kill

Inject = Callable[[Bed, float], Iterator[None]]
DATA = frozenset({"write", "read", "watch", "talk"})
ALL = DATA | {"rest"}
REST = 10.0  # seconds without a stream, after which a tunnel is at rest (docs/protocol/tunnel.md, section 7), and some


@dataclass(frozen=True)
class Fault:
    """One row. `hold`: how many seconds it lasts; a soak draws other lengths up to `hold_max`."""

    name: str
    title: str
    inject: Inject
    hold: float
    bound: float
    codes: frozenset[int] = frozenset({503})
    untouched: frozenset[str] = frozenset()
    quick: bool = True
    hold_max: float = 10.0


def agent_killed(bed: Bed, hold: float) -> Iterator[None]:
    bed.kill_agent()
    time.sleep(hold)
    yield
    bed.start_agent()


def server_killed(bed: Bed, hold: float) -> Iterator[None]:
    bed.server.kill()
    time.sleep(hold)
    yield
    bed.server.start(wait=False)


def worker_killed(bed: Bed, hold: float) -> Iterator[None]:
    before = bed.server.worker_pids()
    kill(before[0])
    yield
    until("the worker is replaced", lambda: len(set(bed.server.worker_pids()) - set(before)) == 1, 60)


def control_killed(bed: Bed, hold: float) -> Iterator[None]:
    before = bed.server.control_pid()
    kill(before)
    yield
    until("the control process is replaced", lambda: bed.server.control_pid() != before, 60)


def api_server_killed(bed: Bed, hold: float) -> Iterator[None]:
    bed.cluster.kill_api()
    time.sleep(hold)
    yield
    bed.cluster.start_api(wait=False)


def tunnel_cut(bed: Bed, hold: float) -> Iterator[None]:
    bed.link.cut(bed.link.server)
    time.sleep(hold)
    yield
    bed.link.clean()


def tunnel_deaf(bed: Bed, hold: float) -> Iterator[None]:
    """Half-open: the server hears the agent, the agent hears nothing."""
    bed.link.rule(bed.link.server, cut_to_far=True)
    time.sleep(hold)
    yield
    bed.link.clean()


def tunnel_mute(bed: Bed, hold: float) -> Iterator[None]:
    """Half-open the other way: the agent hears the server, the server hears nothing."""
    bed.link.rule(bed.link.server, cut_to_near=True)
    time.sleep(hold)
    yield
    bed.link.clean()


def _at_rest(asked: bool, **rule: bool) -> Inject:
    """A link that breaks while nobody uses the tunnel. `asked`: clients come at once, and not when that was noticed."""

    def inject(bed: Bed, hold: float) -> Iterator[None]:
        assert bed.clients is not None
        bed.clients.quiet()
        try:
            time.sleep(REST)
            bed.link.rule(bed.link.server, **rule)
            if not asked:
                cut = time.monotonic()
                until("the server knows that the agent is away", lambda: bed.state() == "disconnected", 60)
                bed.noticed = time.monotonic() - cut
        finally:
            bed.clients.resume()
        time.sleep(hold)
        yield
        bed.link.clean()

    return inject


def tunnel_bad(bed: Bed, hold: float) -> Iterator[None]:
    bed.link.rule(bed.link.server, loss=0.03, delay=0.02)
    time.sleep(hold)
    yield
    bed.link.clean()


def api_link_cut(bed: Bed, hold: float) -> Iterator[None]:
    bed.link.cut(bed.link.api)
    time.sleep(hold)
    yield
    bed.link.clean()


def disk_full(bed: Bed, hold: float) -> Iterator[None]:
    with bed.full_disk():
        time.sleep(hold)
        yield


def database_locked(bed: Bed, hold: float) -> Iterator[None]:
    with bed.locked_database():
        time.sleep(hold)
        yield


def credential_lost(bed: Bed, hold: float) -> Iterator[None]:
    """The agent's token dies with its service account; the API server goes on taking it for up to 10 s."""
    before = bed.tokens_of_agent()
    bed.cluster.kubectl("-n", "mooring-system", "delete", "serviceaccount", "mooring-impersonator")
    time.sleep(hold)
    yield
    bed.apply(bed.manifest)
    until("the agent has a new token", lambda: bed.tokens_of_agent() > before, 60)


def certificate_expired(bed: Bed, hold: float) -> Iterator[None]:
    """A certificate that ends within seconds, while streams are open over it; then the old one again, and SIGHUP."""
    files = [bed.tls / "server.crt", bed.tls / "server.key"]
    good = [path.read_text() for path in files]
    ca, key = (bed.tls / "ca.crt").read_text(), Secret((bed.tls / "ca.key").read_text())
    for life in (4, 12, 36):  # the server does not take one that has ended by the time it reads it
        made = time.time() + life + pki.BACKDATE.total_seconds() - pki.SERVER_DAYS * 86400
        certificate, new_key = pki.make_server_certificate(ca, key, [bed.server.address], made)
        _put(bed, files, (certificate, new_key.reveal()))
        if waited(lambda: "expired" in _handshake(bed), life + 10):
            break
    else:
        raise AssertionError("new clients do not see that the certificate has expired")
    time.sleep(hold)
    yield
    _put(bed, files, good)
    until("new clients take the certificate", lambda: _handshake(bed) == "", 60)


def _put(bed: Bed, files: Sequence[Path], texts: Sequence[str]) -> None:
    for path, text in zip(files, texts, strict=True):
        path.write_text(text)
    bed.server.reload()


def _handshake(bed: Bed) -> str:
    """What a new client says of the certificate; empty: nothing."""
    context = ssl.create_default_context(cafile=str(bed.server.ca))
    try:
        with (
            socket.create_connection((bed.server.address, bed.server.port), 10) as sock,
            context.wrap_socket(sock, server_hostname=bed.server.address),
        ):
            return ""
    except ssl.SSLCertVerificationError as error:
        return error.verify_message


def token_expired(bed: Bed, hold: float) -> Iterator[None]:
    """The clients' tokens live 12 hours: the server's clock jumps to after their end. Then people log in again."""
    bed.server_clock.set(13 * 3600)
    time.sleep(hold)
    yield
    bed.server_clock.set(0)
    time.sleep(1)  # until the processes have read that
    bed.log_in()


def postgres_killed(bed: Bed, hold: float) -> Iterator[None]:
    assert bed.postgres is not None
    bed.postgres.kill()
    time.sleep(hold)
    yield
    bed.postgres.restart()


def _clock(which: str, seconds: float) -> Inject:
    def inject(bed: Bed, hold: float) -> Iterator[None]:
        clock = bed.agent_clock if which == "agent" else bed.server_clock
        clock.set(seconds)
        # The session that is open goes on; a new one must be possible as well.
        bed.kill_agent()
        bed.start_agent()
        yield
        until("the road is open with a wrong clock", bed.open, 60)
        time.sleep(hold)
        clock.set(0)

    return inject


FAULTS: tuple[Fault, ...] = (
    Fault("agent-killed", "the agent is killed (kill -9), and started again by Kubernetes", agent_killed, 1, 10,
          untouched=frozenset({"rest"})),
    Fault("worker-killed", "one of two workers is killed (kill -9)", worker_killed, 0, 5),
    Fault("control-killed", "the control process is killed (kill -9)", control_killed, 0, 10, untouched=DATA),
    Fault("server-killed", "the whole server is killed (kill -9), and started again", server_killed, 1, 20),
    Fault("api-server-killed", "the API server is killed (kill -9), and started again", api_server_killed, 1, 30,
          codes=frozenset({503, 403, 401, 500}), untouched=frozenset({"rest"})),
    Fault("cut-5s", "the link between agent and server is cut for 5 s", tunnel_cut, 5, 10,
          untouched=frozenset({"rest"})),
    Fault("agent-deaf", "half-open link: the agent hears nothing any more", tunnel_deaf, 18, 12,
          untouched=frozenset({"rest"}), hold_max=30),
    Fault("server-deaf", "half-open link: the server hears nothing of the agent", tunnel_mute, 25, 12,
          untouched=frozenset({"rest"}), hold_max=30, quick=False),
    Fault("rest-agent-deaf", "half-open link while nobody uses the tunnel: the agent hears nothing",
          _at_rest(False, cut_to_far=True), 2, 12, untouched=frozenset({"rest"}), quick=False),
    Fault("rest-server-deaf", "half-open link while nobody uses the tunnel: the server hears nothing of the agent",
          _at_rest(False, cut_to_near=True), 2, 12, untouched=frozenset({"rest"}), quick=False),
    Fault("rest-then-asked", "the link is cut while nobody uses the tunnel, and then clients come",
          _at_rest(True, cut_to_far=True, cut_to_near=True), 18, 12, untouched=frozenset({"rest"}), quick=False,
          hold_max=30),
    Fault("bad-link", "3 % loss and 20 ms delay each way", tunnel_bad, 5, 10, untouched=ALL),
    Fault("api-link-cut", "the link between agent and API server is cut for 5 s", api_link_cut, 5, 10,
          codes=frozenset({503, 504}), untouched=frozenset({"rest"}), quick=False),
    Fault("disk-full", "the disk of the server's data is full", disk_full, 4, 10),
    Fault("database-locked", "somebody holds SQLite's write lock", database_locked, 12, 10, untouched=DATA),
    Fault("credential-lost", "the service account of the agent is deleted and applied again", credential_lost, 2, 20,
          untouched=frozenset({"rest"}), quick=False),
    Fault("certificate-expired", "the server's certificate expires while streams are open", certificate_expired, 1, 5,
          untouched=ALL),
    Fault("token-expired", "the clients' tokens expire while streams are open", token_expired, 3, 5,
          codes=frozenset({401, 403})),  # 403: one that was under way at that moment (docs/edge.md, "Rights that end")
    Fault("agent-ahead", "the agent's clock is 10 minutes ahead", _clock("agent", 600), 2, 10,
          untouched=frozenset({"rest"})),
    Fault("agent-behind", "the agent's clock is 10 minutes behind", _clock("agent", -600), 2, 10,
          untouched=frozenset({"rest"}), quick=False),
    Fault("server-ahead", "the server's clock is 10 minutes ahead", _clock("server", 600), 2, 10,
          untouched=frozenset({"rest"}), quick=False),
    Fault("server-behind", "the server's clock is 10 minutes behind", _clock("server", -600), 2, 10,
          untouched=frozenset({"rest"}), quick=False),
    Fault("cut-5min", "the link between agent and server is cut for 5 minutes", tunnel_cut, 300, 12,
          untouched=frozenset({"rest"}), quick=False),
)  # fmt: skip

ON_POSTGRESQL: tuple[Fault, ...] = (
    Fault("postgresql-killed", "PostgreSQL is killed (kill -9), and started again", postgres_killed, 3, 10,
          untouched=DATA),
    Fault("postgresql-server-killed", "on PostgreSQL: the whole server is killed (kill -9), and started again",
          server_killed, 1, 20),
)  # fmt: skip


def by_name(name: str) -> Fault:
    return next(fault for fault in (*FAULTS, *ON_POSTGRESQL) if fault.name == name)
