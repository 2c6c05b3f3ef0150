# Copyright: (c) 2026, The Mooring developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates for two programs of one machine that talk over loopback and trust nobody else."""

from __future__ import annotations

DOCUMENTATION = r"""
name: loopback_pki
short_description: Certificates for two programs of one machine, made anew when they do not fit any more
version_added: 0.1.0
author:
  - The Mooring developers (@mooring)
description:
  - Makes a CA, a certificate for a server on 127.0.0.1, one for its only client, and their keys. The CA's key is thrown
    away, so that nothing can be signed by it any more.
  - What is given is returned as it is while it belongs together and lasts long enough.
  - It runs on the controller, with what ansible-core itself needs. What it returns holds keys; use C(no_log).
options:
  _input:
    description:
      - What is there, with the keys of the result. What is missing counts as empty.
    type: dict
    required: true
  days:
    description:
      - Days for which new certificates are good.
    type: int
    default: 3650
  renew:
    description:
      - New ones are made when the old ones have less than these days left.
    type: int
    default: 365
"""

EXAMPLES = r"""
- name: Make certificates
  ansible.builtin.set_fact:
    pki: "{{ {} | mooring.fleet.loopback_pki }}"
  no_log: true
"""

RETURN = r"""
_value:
  description: >-
    C(ca), C(server_cert), C(server_key), C(client_cert) and C(client_key) as PEM, and C(made), whether they are new.
  type: dict
"""

import datetime
import ipaddress

from ansible.errors import AnsibleFilterError

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError:
    x509 = None

PARTS = ("ca", "server_cert", "server_key", "client_cert", "client_key")
ADDRESS = "127.0.0.1"


def loopback_pki(found, days=3650, renew=365):
    """What is there if it fits, else new certificates. Raises AnsibleFilterError where nothing can be made."""
    if x509 is None:
        raise AnsibleFilterError("the controller needs the Python package cryptography, as ansible-core does")
    if days <= renew:
        raise AnsibleFilterError("certificates of %d days would never have %d days left" % (days, renew))
    if fits(found, renew):
        return dict(((part, found[part]) for part in PARTS), made=False)
    return dict(make(days), made=True)


def fits(found, renew):
    """Whether the parts belong together and last for more than `renew` days."""
    try:
        ca, server, client = (load(found[part]) for part in ("ca", "server_cert", "client_cert"))
        keys = [key_of(found["server_key"]), key_of(found["client_key"])]
        names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        for cert, key in zip((server, client), keys):  # noqa: B905 - Python 3.9
            hashed = ec.ECDSA(cert.signature_hash_algorithm)
            ca.public_key().verify(cert.signature, cert.tbs_certificate_bytes, hashed)
            if cert.public_key() != key.public_key():
                return False
    except Exception:  # pylint: disable=broad-except
        return False  # missing, damaged, or not of each other: all the same
    soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=renew)
    ends = [end_of(cert) for cert in (ca, server, client)]
    return min(ends) > soon and ipaddress.ip_address(ADDRESS) in names.get_values_for_type(x509.IPAddress)


def load(pem):
    return x509.load_pem_x509_certificate(pem.encode())


def key_of(pem):
    return serialization.load_pem_private_key(pem.encode(), password=None)


def end_of(cert):
    aware = getattr(cert, "not_valid_after_utc", None)  # not in older releases of cryptography
    return aware or cert.not_valid_after.replace(tzinfo=datetime.timezone.utc)


def make(days):
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = certificate("mooring-kube-api-auth-ca", ca_key.public_key(), None, ca_key, days)
    made = dict(ca=pem_of(ca))
    for part, name, purpose in (
        ("server", "kube-api-auth", ExtendedKeyUsageOID.SERVER_AUTH),
        ("client", "kube-apiserver", ExtendedKeyUsageOID.CLIENT_AUTH),
    ):
        key = ec.generate_private_key(ec.SECP256R1())
        made[part + "_cert"] = pem_of(certificate(name, key.public_key(), ca, ca_key, days, purpose))
        made[part + "_key"] = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
    return made


def pem_of(cert):
    return cert.public_bytes(serialization.Encoding.PEM).decode()


def certificate(name, public_key, ca, ca_key, days, purpose=None):
    """One certificate; of the CA itself where there is no CA yet."""
    now = datetime.datetime.now(datetime.timezone.utc)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca.subject if ca else subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca is None, path_length=0 if ca is None else None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .add_extension(usage(signs=ca is None), critical=True)
    )
    if purpose:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    if purpose == ExtendedKeyUsageOID.SERVER_AUTH:
        names = [x509.IPAddress(ipaddress.ip_address(ADDRESS)), x509.DNSName("localhost")]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(ca_key, hashes.SHA256())


def usage(signs):
    return x509.KeyUsage(
        digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


class FilterModule:
    """The filter mooring.fleet.loopback_pki."""

    def filters(self):
        return dict(loopback_pki=loopback_pki)
