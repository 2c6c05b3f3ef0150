# SPDX-License-Identifier: Apache-2.0
"""The server's own certificate authority, and checks on any certificate that it is given.

Exists so that `mooring server init` works without other tools, and so that `doctor` can say what is wrong with a
certificate before a client does. It must not be used to decide whether a peer is trusted: TLS does that.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mooring.lib.errors import MooringError
from mooring.lib.secrets import Secret

CA_DAYS: Final = 3650
SERVER_DAYS: Final = 397  # the longest life that clients accept from public CAs, kept for our own too
RENEW_DAYS: Final = 30  # a certificate that ends sooner is renewed, or warned about
BACKDATE: Final = timedelta(hours=1)  # for clocks that are behind ours: a node without NTP must be able to join


class CertificateError(MooringError):
    """A certificate or key cannot be used."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a person wants to know of a certificate."""

    subject: str
    issuer: str
    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime

    def days_left(self, now: float) -> float:
        return (self.not_after - datetime.fromtimestamp(now, UTC)).total_seconds() / 86400


def make_ca(common_name: str, now: float) -> tuple[str, Secret]:
    """A new certificate authority (EC P-256, ten years): certificate and key as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])
    start = datetime.fromtimestamp(now, UTC) - BACKDATE
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pem(certificate), _key_pem(key)


def make_server_certificate(ca_pem: str, ca_key: Secret, names: Sequence[str], now: float) -> tuple[str, Secret]:
    """A new server certificate for DNS names and IP addresses, signed by the CA: certificate and key as PEM.

    Raises CertificateError when the CA's files are not a certificate and its key.
    """
    ca = _load(ca_pem, "the CA certificate")[0]
    signer = _load_key(ca_key, "the CA key")
    if not names:
        raise CertificateError("a server certificate needs at least one name", "give the host of the server's URL")
    key = ec.generate_private_key(ec.SECP256R1())
    start = datetime.fromtimestamp(now, UTC) - BACKDATE
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(min(start + timedelta(days=SERVER_DAYS), ca.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
            critical=False,
        )
        .sign(signer, hashes.SHA256())
    )
    return _pem(certificate), _key_pem(key)


def inspect(pem: str, what: str = "the certificate") -> Certificate:
    """Reads the first certificate of a PEM text. Raises CertificateError."""
    certificate = _load(pem, what)[0]
    names: list[str] = []
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        pass  # a CA has none
    else:
        names += alternatives.get_values_for_type(x509.DNSName)
        names += [str(address) for address in alternatives.get_values_for_type(x509.IPAddress)]
    return Certificate(
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        names=tuple(names),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def problems(cert_pem: str, key: Secret, ca_pem: str, host: str, now: float) -> list[tuple[str, str]]:
    """What is wrong with a server's certificate, as pairs of problem and remedy; empty when clients will accept it.

    Raises CertificateError when one of the files is no certificate or key at all.
    """
    chain = _load(cert_pem, "the certificate")
    authorities = _load(ca_pem, "the CA")
    found: list[tuple[str, str]] = []
    leaf = inspect(cert_pem)
    if _load_key(key, "the key").public_key() != chain[0].public_key():
        found.append(("the key does not belong to the certificate", "give the key that the certificate was made for"))
    if not any(_issued_by(certificate, ca) for certificate in chain for ca in authorities):
        found.append(
            (
                f"the CA did not sign the certificate, nor a link of its chain (issuer: {leaf.issuer})",
                "set tls.ca to the CA that signed it, or add the intermediate certificates to tls.cert",
            )
        )
    if not any(_matches(name, host) for name in leaf.names):
        found.append(
            (
                f"the certificate is not for {host!r}, but for: {', '.join(leaf.names) or 'no name'}",
                "use one of its names in server.url, or make a certificate for this name",
            )
        )
    moment = datetime.fromtimestamp(now, UTC)
    for certificate, what in ((leaf, "certificate"), (inspect(ca_pem), "CA")):
        if certificate.not_before > moment:
            found.append((f"the {what} is not valid before {certificate.not_before}", "check this machine's clock"))
        if certificate.not_after <= moment:
            found.append((f"the {what} expired at {certificate.not_after}", "renew it: 'mooring server renew'"))
    return found


def _issued_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    if certificate == ca:
        return True
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _matches(name: str, host: str) -> bool:
    """RFC 6125: equal, or a wildcard as the whole first label."""
    name, host = name.lower(), host.lower()
    return name == host or (name.startswith("*.") and host.partition(".")[2] == name[2:])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass  # no address: a DNS name
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise CertificateError(f"{name!r} is no DNS name: {error}", "write it in its ASCII form") from None


def _usage(sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> Secret:
    form = serialization.PrivateFormat.PKCS8
    return Secret(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode())


def _load(pem: str, what: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except ValueError as error:
        raise CertificateError(f"{what} is not a PEM certificate: {error}", "it has BEGIN CERTIFICATE") from None


def _load_key(pem: Secret, what: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem.reveal().encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{what} is not a PEM private key: {error}", "give one without a passphrase") from None
    return key  # type: ignore[return-value] # RSA and Ed25519 keys have the methods that we use, too
