# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates of the role kube_api_auth: good with Python's own TLS, and made anew only when they do not fit."""

from __future__ import annotations

import socket
import ssl
import threading

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.mooring.fleet.plugins.filter import loopback_pki as module

pki = module.FilterModule().filters()["loopback_pki"]


def test_what_fits_is_kept():
    made = pki({})
    assert made["made"]
    kept = pki(made)
    assert not kept["made"]
    assert {part: kept[part] for part in module.PARTS} == {part: made[part] for part in module.PARTS}


@pytest.mark.parametrize("part", module.PARTS)
def test_what_does_not_belong_together_is_made_anew(part):
    made, other = pki({}), pki({})
    for wrong in ("", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n", other[part]):
        assert pki(dict(made, **{part: wrong}))["made"]


def test_made_anew_before_the_end():
    short = pki({}, days=30, renew=10)
    assert not pki(short, days=30, renew=10)["made"]
    assert pki(short)["made"]
    with pytest.raises(AnsibleFilterError):
        pki({}, days=10, renew=10)


def test_both_ends_know_each_other_and_nobody_else(tmp_path):
    made, other = pki({}), pki({})

    def write(name, text):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    def talk(client):
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.verify_flags |= ssl.VERIFY_X509_STRICT
        server.verify_mode = ssl.CERT_REQUIRED
        server.load_verify_locations(cadata=made["ca"])
        server.load_cert_chain(write("s.crt", made["server_cert"]), write("s.key", made["server_key"]))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(cadata=made["ca"])
        context.load_cert_chain(write("c.crt", client[0]), write("c.key", client[1]))
        ours, theirs = socket.socketpair()
        said = []

        def serve():
            try:
                with server.wrap_socket(theirs, server_side=True) as stream:
                    said.append(stream.recv(2))
            except ssl.SSLError as error:
                said.append(error)
                theirs.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with context.wrap_socket(ours, server_hostname="127.0.0.1") as stream:
                stream.sendall(b"hi")
        except (ssl.SSLError, OSError):
            ours.close()
        thread.join(5)
        return said[0]

    assert talk((made["client_cert"], made["client_key"])) == b"hi"
    assert isinstance(talk((other["client_cert"], other["client_key"])), ssl.SSLError)
    assert isinstance(talk((made["server_cert"], made["server_key"])), ssl.SSLError)
