# SPDX-License-Identifier: Apache-2.0
"""A throw-away certificate authority for one cluster: certificates, keys and kubeconfigs, made in a tenth of a second.

Keys are EC P-256. Files are 0600. This module must not be used for anything but the test bed: nothing here is
rotated, revoked or kept apart.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_PEM = serialization.Encoding.PEM


def write_private(path: Path, data: bytes) -> Path:
    """Write a file that only its owner may read, from its first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    return path


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, as files."""

    crt: Path
    key: Path


class Authority:
    """A certificate authority that keeps its files in one folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self._now = datetime.datetime.now(datetime.UTC)
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._builder(self._subject, self._key, days=3650, ca=True).sign(self._key, hashes.SHA256())
        self.pair = self._write(name, certificate, self._key)

    @property
    def crt(self) -> Path:
        """The authority's certificate."""
        return self.pair.crt

    def issue(
        self,
        file: str,
        common_name: str,
        organization: str | None = None,
        *,
        names: Iterable[str] = (),
        server: bool = False,
        client: bool = False,
    ) -> Pair:
        """Issue a certificate for a year; `names` are DNS names and IP addresses."""
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)] if organization else []
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(x509.Name(attributes), key, days=365, ca=False)
        usages = [ExtendedKeyUsageOID.SERVER_AUTH] * server + [ExtendedKeyUsageOID.CLIENT_AUTH] * client
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if alternatives := [_alternative(name) for name in dict.fromkeys(names)]:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return self._write(file, builder.sign(self._key, hashes.SHA256()), key)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, days: int, ca: bool
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - datetime.timedelta(hours=1))
            .not_valid_after(self._now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .add_extension(x509.KeyUsage(True, False, False, False, False, ca, ca, False, False), critical=True)
        )

    def _write(self, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
        crt = write_private(self.folder / f"{name}.crt", certificate.public_bytes(_PEM))
        return Pair(crt, write_key(self.folder / f"{name}.key", key))


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> Path:
    """Write a private key as unencrypted PEM."""
    form = serialization.PrivateFormat.PKCS8
    return write_private(path, key.private_bytes(_PEM, form, serialization.NoEncryption()))


def write_signing_keys(folder: Path, name: str) -> Pair:
    """A bare key pair (service account tokens): `.crt` is the public key here."""
    key = ec.generate_private_key(ec.SECP256R1())
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public = write_private(folder / f"{name}.pub", key.public_key().public_bytes(_PEM, form))
    return Pair(public, write_key(folder / f"{name}.key", key))


def write_kubeconfig(path: Path, *, name: str, server: str, ca: Path, user: Pair) -> Path:
    """A kubeconfig that holds its certificates itself, so that it can be copied elsewhere."""

    def inline(file: Path) -> str:
        return base64.b64encode(file.read_bytes()).decode()

    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": inline(ca)}}],
        "users": [
            {"name": name, "user": {"client-certificate-data": inline(user.crt), "client-key-data": inline(user.key)}}
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    }
    return write_private(path, json.dumps(config, indent=1).encode())
