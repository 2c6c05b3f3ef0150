# SPDX-License-Identifier: Apache-2.0
"""The server's own CA makes certificates that TLS accepts, and the checks find what TLS would not."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import pytest
from mooring.lib import pki
from mooring.lib.pki import CertificateError
from mooring.lib.secrets import Secret

NOW = time.time()
NAMES = ["mooring.example", "*.wild.example", "127.0.0.1", "::1"]


@pytest.fixture(scope="module")
def ca() -> tuple[str, Secret]:
    return pki.make_ca("Test CA", NOW)


@pytest.fixture(scope="module")
def server(ca: tuple[str, Secret]) -> tuple[str, Secret]:
    return pki.make_server_certificate(*ca, NAMES, NOW)


def handshake(tmp_path: Path, server: tuple[str, Secret], ca_pem: str, host: str) -> None:
    """A TLS handshake in memory, verified as a client does. Raises ssl.SSLCertVerificationError."""
    (tmp_path / "c").write_text(server[0])
    (tmp_path / "k").write_text(server[1].reveal())
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(tmp_path / "c", tmp_path / "k")
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ours.verify_flags |= ssl.VERIFY_X509_STRICT
    ours.load_verify_locations(cadata=ca_pem)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ours.wrap_bio(down, up, server_hostname=host)
    peer = theirs.wrap_bio(up, down, server_side=True)
    for _unused in range(4):
        for side in (client, peer):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert client.version() == "TLSv1.3"


@pytest.mark.parametrize("host", ["mooring.example", "a.wild.example", "127.0.0.1", "::1"])
def test_tls_accepts_the_certificate_for_each_of_its_names(
    tmp_path: Path, ca: tuple[str, Secret], server: tuple[str, Secret], host: str
) -> None:
    handshake(tmp_path, server, ca[0], host)
    assert pki.problems(*server, ca[0], host, NOW) == []


def test_tls_and_the_checks_refuse_another_ca(tmp_path: Path, server: tuple[str, Secret]) -> None:
    other, _unused = pki.make_ca("Test CA", NOW)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, server, other, "mooring.example")
    assert ["did not sign" in problem for problem, _unused in pki.problems(*server, other, "mooring.example", NOW)] == [
        True
    ]


@pytest.mark.parametrize("host", ["other.example", "wild.example", "a.b.wild.example", "127.0.0.2"])
def test_tls_and_the_checks_refuse_another_name(
    tmp_path: Path, ca: tuple[str, Secret], server: tuple[str, Secret], host: str
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, server, ca[0], host)
    assert ["is not for" in problem for problem, _unused in pki.problems(*server, ca[0], host, NOW)] == [True]


def test_the_checks_find_a_key_of_another_certificate(ca: tuple[str, Secret], server: tuple[str, Secret]) -> None:
    _unused, other_key = pki.make_server_certificate(*ca, NAMES, NOW)
    found = pki.problems(server[0], other_key, ca[0], "mooring.example", NOW)
    assert [problem for problem, _unused in found] == ["the key does not belong to the certificate"]


def test_the_checks_look_at_the_dates(ca: tuple[str, Secret], server: tuple[str, Secret]) -> None:
    late = NOW + (pki.SERVER_DAYS + 1) * 86400
    assert [p.split(" at ")[0] for p, _unused in pki.problems(*server, ca[0], "mooring.example", late)] == [
        "the certificate expired"
    ]
    early = NOW - 86400
    assert len(pki.problems(*server, ca[0], "mooring.example", early)) == 2  # the certificate and the CA
    assert pki.inspect(server[0]).days_left(NOW) == pytest.approx(pki.SERVER_DAYS, abs=0.1)


def test_a_client_whose_clock_is_ten_minutes_behind_takes_a_new_certificate(
    ca: tuple[str, Secret], server: tuple[str, Secret]
) -> None:
    """An agent on a node without NTP could not join a server that had just been made."""
    for behind in (600, 3000):
        assert pki.problems(server[0], server[1], ca[0], "mooring.example", NOW - behind) == []
    assert pki.problems(server[0], server[1], ca[0], "mooring.example", NOW - 2 * 3600)


def test_a_certificate_does_not_outlive_its_ca(ca: tuple[str, Secret]) -> None:
    near_the_end = NOW + (pki.CA_DAYS - 10) * 86400
    certificate, _unused = pki.make_server_certificate(*ca, NAMES, near_the_end)
    assert pki.inspect(certificate).not_after == pki.inspect(ca[0]).not_after


def test_the_ca_may_only_sign_servers_directly(ca: tuple[str, Secret], server: tuple[str, Secret]) -> None:
    """A server's key must not be able to make certificates that clients accept."""
    forged = pki.make_server_certificate(server[0], server[1], ["mooring.example"], NOW)
    assert pki.problems(*forged, ca[0], "mooring.example", NOW) != []


def test_files_that_are_something_else_are_named() -> None:
    with pytest.raises(CertificateError, match="the certificate is not a PEM certificate"):
        pki.inspect("hello")
    with pytest.raises(CertificateError, match="the CA key is not a PEM private key"):
        pki.make_server_certificate(pki.make_ca("x", NOW)[0], Secret("hello"), ["a"], NOW)
    with pytest.raises(CertificateError, match="at least one name"):
        pki.make_server_certificate(*pki.make_ca("x", NOW), [], NOW)
