# SPDX-License-Identifier: Apache-2.0
"""Where the API server is: from the pod's service account, or from a kubeconfig."""

from __future__ import annotations

import base64
import json
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest
from mooring.agent.config import AgentOptions, load
from mooring.kube.access import BadConfig, from_kubeconfig, in_cluster
from mooring.net.tls import BadTrust
from testbed.pki import Authority


def b64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


@pytest.fixture
def account(tmp_path: Path, authority: Authority) -> Path:
    """The files that the kubelet mounts."""
    (tmp_path / "ca.crt").write_bytes(authority.crt.read_bytes())
    (tmp_path / "token").write_text("one\n")
    return tmp_path


POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


def test_in_a_pod_the_token_is_read_again_each_time(account: Path) -> None:
    config = in_cluster(POD, account)
    assert (config.host, config.port, config.authority) == ("10.96.0.1", 443, b"10.96.0.1:443")
    first = config.bearer()
    (account / "token").write_text("two\n")
    second = config.bearer()
    assert first is not None
    assert second is not None
    assert (first.reveal(), second.reveal()) == ("one", "two")


def test_an_ipv6_address_is_bracketed_in_host(account: Path) -> None:
    assert in_cluster({**POD, "KUBERNETES_SERVICE_HOST": "fd00::1"}, account).authority == b"[fd00::1]:443"


@pytest.mark.parametrize("environ", [{}, {"KUBERNETES_SERVICE_HOST": "x"}, {**POD, "KUBERNETES_SERVICE_PORT": "tcp"}])
def test_outside_of_a_pod_a_kubeconfig_is_asked_for(environ: dict[str, str]) -> None:
    with pytest.raises(BadConfig, match="not a pod"):
        load(AgentOptions(), environ)


@pytest.mark.parametrize("missing", ["ca.crt", "token"])
def test_a_pod_without_its_service_account_does_not_start(account: Path, missing: str) -> None:
    (account / missing).unlink()
    with pytest.raises(BadConfig, match="service account"):
        in_cluster(POD, account)


def test_a_bundle_without_a_certificate_does_not_start(account: Path) -> None:
    (account / "ca.crt").write_text("nothing")
    with pytest.raises(BadTrust, match="holds no certificate"):
        in_cluster(POD, account)


class Kubeconfig:
    """A kubeconfig to change and write."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.path = folder / "kubeconfig"
        pair = authority.issue("admin", "admin", client=True)
        self.cluster: dict[str, Any] = {
            "server": "https://127.0.0.1:6443",
            "certificate-authority-data": b64(authority.crt),
        }
        self.user: dict[str, Any] = {"client-certificate-data": b64(pair.crt), "client-key-data": b64(pair.key)}
        self.current: str | None = "c"

    def write(self) -> Path:
        config = {
            "current-context": self.current,
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": self.cluster}],
            "users": [{"name": "u", "user": self.user}],
        }
        self.path.write_text(json.dumps(config))
        return self.path


@pytest.fixture
def kubeconfig(tmp_path: Path, authority: Authority) -> Kubeconfig:
    """One that works."""
    return Kubeconfig(tmp_path, authority)


def test_a_client_certificate_is_for_the_agents_own_calls_only(
    kubeconfig: Kubeconfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[ssl.SSLContext] = []
    original = ssl.SSLContext.load_cert_chain

    def spy(self: ssl.SSLContext, *args: Any, **more: Any) -> None:
        loaded.append(self)
        original(self, *args, **more)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", spy)
    config = from_kubeconfig(kubeconfig.write(), None)
    assert loaded == [config.own_tls]
    assert config.stream_tls is not config.own_tls
    assert config.bearer() is None


def test_verification_is_always_on(kubeconfig: Kubeconfig) -> None:
    config = from_kubeconfig(kubeconfig.write(), None)
    for context in (config.own_tls, config.stream_tls):
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert len(context.get_ca_certs()) == 1  # ours and none of the system's


def test_a_token_file_is_relative_to_the_kubeconfig_and_goes_before_a_token(kubeconfig: Kubeconfig) -> None:
    (kubeconfig.path.parent / "t").write_text("from-file")
    kubeconfig.user = {"tokenFile": "t", "token": "inline"}
    token = from_kubeconfig(kubeconfig.write(), None).bearer()
    assert token is not None
    assert token.reveal() == "from-file"


def test_the_name_of_the_certificate_may_be_another(kubeconfig: Kubeconfig) -> None:
    kubeconfig.cluster["tls-server-name"] = "kube.example"
    assert from_kubeconfig(kubeconfig.write(), None).server_name == "kube.example"


@pytest.mark.parametrize(
    ("cluster", "user", "why"),
    [
        ({"insecure-skip-tls-verify": True}, {}, "switches off"),
        ({"server": "http://127.0.0.1:8080"}, {}, "https://host:port"),
        ({"server": "https://127.0.0.1:99999"}, {}, "https://host:port"),
        ({"server": "https://rancher/k8s/clusters/c"}, {}, "https://host:port"),
        ({"proxy-url": "http://proxy"}, {}, "proxy"),
        ({"certificate-authority-data": None}, {}, "no CA"),
        ({"certificate-authority-data": "%%%"}, {}, "cannot be read"),
        ({"certificate-authority-data": "\u00e9"}, {}, "cannot be read"),
        ({"server": "https://[k]:6443"}, {}, "https://host:port"),
        ({}, {"exec": {"command": "aws"}}, "'exec'"),
        ({}, {"auth-provider": {}}, "'auth-provider'"),
        ({}, {"client-key-data": None}, "only one of"),
    ],
)
def test_what_would_not_be_safe_or_cannot_work_does_not_start(
    kubeconfig: Kubeconfig, cluster: dict[str, Any], user: dict[str, Any], why: str
) -> None:
    kubeconfig.cluster |= cluster
    kubeconfig.user |= user
    with pytest.raises(BadConfig, match=why):
        from_kubeconfig(kubeconfig.write(), None)


def test_an_unknown_context_is_named(kubeconfig: Kubeconfig) -> None:
    with pytest.raises(BadConfig, match="no context named 'other'"):
        from_kubeconfig(kubeconfig.write(), "other")
    kubeconfig.current = None
    with pytest.raises(BadConfig, match="no current context"):
        from_kubeconfig(kubeconfig.write(), None)


@pytest.mark.parametrize("text", ["", "just a string", "{", "- a\n- b", "a: 2001-02-30", "[" * 2000])
def test_a_file_that_is_no_kubeconfig_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(BadConfig, match="kubeconfig"):
        from_kubeconfig(path, None)


def test_a_kubeconfig_that_is_json_needs_no_yaml(kubeconfig: Kubeconfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image of the agent has no PyYAML; kube-api-auth runs from it with a kubeconfig."""
    path = kubeconfig.write()
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert from_kubeconfig(path, None).port == 6443
    path.write_text("a: b")
    with pytest.raises(BadConfig, match="not JSON"):
        from_kubeconfig(path, None)
