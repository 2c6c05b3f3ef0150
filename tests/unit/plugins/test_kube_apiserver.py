# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role kube_api_auth makes of the documents of an API server: only its own part, and back to the byte."""

from __future__ import annotations

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.mooring.fleet.plugins.filter import kube_apiserver_flags, kube_apiserver_read

change = kube_apiserver_flags.FilterModule().filters()["kube_apiserver_flags"]
read = kube_apiserver_read.FilterModule().filters()["kube_apiserver_read"]

OURS = "/etc/kubernetes/mooring/"
MANIFEST = """\
apiVersion: v1
kind: Pod
metadata:
  annotations:
    kubeadm.kubernetes.io/kube-apiserver.advertise-address.endpoint: 10.98.0.11:6443
  labels:
    component: kube-apiserver
    tier: control-plane
  name: kube-apiserver
  namespace: kube-system
spec:
  containers:
  - command:
    - kube-apiserver
    - --advertise-address=10.98.0.11
    - --allow-privileged=true
    - --authorization-mode=Node,RBAC
    - --secure-port=6443
    image: registry.k8s.io/kube-apiserver:v1.36.3
    livenessProbe:
      failureThreshold: 8
      httpGet:
        host: 10.98.0.11
        path: /livez
        port: probe-port
        scheme: HTTPS
    name: kube-apiserver
    volumeMounts:
    - mountPath: /etc/ssl/certs
      name: ca-certs
      readOnly: true
  hostNetwork: true
  volumes:
  - hostPath:
      path: /etc/ssl/certs
      type: DirectoryOrCreate
    name: ca-certs
status: {}
"""
FLAGS = {"authentication-token-webhook-config-file": OURS + "a", "authorization-config": OURS + "b"}
ON = {"flags": {**FLAGS, "authorization-mode": None}, "mounts": {"mooring": "/etc/kubernetes/mooring"}}
OFF = {"flags": {**dict.fromkeys(FLAGS), "authorization-mode": "Node,RBAC"}, "mounts": {"mooring": None}}


def test_only_what_is_named_changes():
    made = change(MANIFEST, **ON, annotations={"mooring.fleet/settings": "1"}, ours=OURS)
    before, after = set(MANIFEST.splitlines()), set(made.splitlines())
    assert before - after == {"    - --authorization-mode=Node,RBAC"}
    assert {line.strip() for line in after - before} == {
        f"- --authentication-token-webhook-config-file={OURS}a",
        f"- --authorization-config={OURS}b",
        "- mountPath: /etc/kubernetes/mooring",
        "name: mooring",
        "path: /etc/kubernetes/mooring",
        "type: Directory",
        "mooring.fleet/settings: '1'",
    }
    flags = yaml.safe_load(made)["spec"]["containers"][0]["command"]
    assert flags[0] == "kube-apiserver"
    assert flags[1:] == sorted(flags[1:])


def test_texts_of_ansible_are_texts():
    class Tagged(str):
        __slots__ = ()

    made = change(MANIFEST, flags={"v": Tagged("4")}, mounts={"extra": Tagged("/etc/extra")})
    assert change(MANIFEST, flags={"v": "4"}, mounts={"extra": "/etc/extra"}) == made


def test_the_second_time_nothing_changes():
    made = change(MANIFEST, **ON)
    assert change(made, **ON) == made
    commented = "# kept\n" + made
    assert change(commented, **ON) == commented


def test_what_was_there_comes_back_to_the_byte():
    commented = MANIFEST.replace("    - --secure-port", "    # of ours\n    - --secure-port")
    made = change(commented, **ON)
    assert change(made, **OFF, before=commented) == commented
    upgraded = made.replace("v1.36.3", "v1.36.4")
    back = change(upgraded, **OFF, before=commented)
    assert yaml.safe_load(back) == yaml.safe_load(MANIFEST.replace("v1.36.3", "v1.36.4"))


def test_flags_may_stand_in_args():
    document = yaml.safe_load(MANIFEST)
    container = document["spec"]["containers"][0]
    container["args"] = container["command"][1:]
    container["command"] = ["/usr/local/bin/kube-apiserver"]
    made = yaml.safe_load(change(yaml.safe_dump(document), **ON))["spec"]["containers"][0]
    assert made["command"] == ["/usr/local/bin/kube-apiserver"]
    assert f"--authorization-config={OURS}b" in made["args"]
    assert not any("authorization-mode" in word for word in made["args"])


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("    - kube-apiserver\n", "    - sh\n    - -c\n", "a wrapper is not understood"),
        ("    - --secure-port=6443\n", "    - --secure-port\n    - '6443'\n", "write --name=value"),
        ("    - --secure-port=6443\n", "    - --authorization-mode=RBAC\n", "is there 2 times"),
        ("    name: kube-apiserver\n    volume", "    name: other\n    volume", "exactly one container"),
        ("kind: Pod", "kind: Deployment", "of kind Deployment"),
        ("status: {}\n", "---\na: 1\n", "not one YAML document"),
        ("status: {}\n", "\tx", "not YAML"),
        ("    - --secure-port=6443\n", "    - --authorization-config=/etc/mine.yaml\n", "by somebody else"),
        ("- mountPath: /etc/ssl/certs", "- mountPath: /etc/kubernetes/mooring", "mounted in the container already"),
    ],
)
def test_what_is_not_understood_is_refused(old, new, why):
    assert old in MANIFEST
    with pytest.raises(AnsibleFilterError, match=why):
        change(MANIFEST.replace(old, new), **ON, ours=OURS)


LIST = """\
apiServer:
  extraArgs:
  - name: profiling
    value: "false"
  - name: authorization-mode
    value: Node,RBAC
apiVersion: kubeadm.k8s.io/v1beta4
clusterName: kubernetes
kind: ClusterConfiguration
"""
MAP = """\
apiServer:
  extraArgs:
    profiling: "false"
apiVersion: kubeadm.k8s.io/v1beta3
kind: ClusterConfiguration
"""


def test_kubeadm_keeps_the_flags_in_either_form():
    made = yaml.safe_load(change(LIST, **ON))["apiServer"]
    assert made["extraArgs"] == [
        {"name": "profiling", "value": "false"},
        *({"name": name, "value": value} for name, value in FLAGS.items()),
    ]
    assert made["extraVolumes"] == [
        {
            "name": "mooring", "hostPath": "/etc/kubernetes/mooring", "mountPath": "/etc/kubernetes/mooring",
            "readOnly": True, "pathType": "Directory",
        }
    ]  # fmt: skip
    made = change(MAP, **ON)
    assert yaml.safe_load(made)["apiServer"]["extraArgs"] == {"profiling": "false", **FLAGS}
    assert change(made, **ON) == made
    off = {"flags": dict.fromkeys(FLAGS), "mounts": {"mooring": None}}
    assert yaml.safe_load(change(made, **off)) == yaml.safe_load(MAP)


def test_a_configuration_without_an_api_server_gets_one():
    text = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\n"
    made = change(text, **ON)
    assert {arg["name"] for arg in yaml.safe_load(made)["apiServer"]["extraArgs"]} == set(FLAGS)
    off = {"flags": dict.fromkeys(FLAGS), "mounts": {"mooring": None}}
    assert yaml.safe_load(change(made, **off))["apiServer"] == {}
    for wrong in (text.replace("kubeadm.k8s.io", "x.io"), MAP.replace("beta3", "beta4")):
        with pytest.raises(AnsibleFilterError):
            change(wrong, **ON)


def test_flags_are_read_from_all_that_says_them():
    assert read("") == {}
    assert read(MANIFEST)["authorization-mode"] == "Node,RBAC"
    assert read(LIST) == {"profiling": "false", "authorization-mode": "Node,RBAC"}
    assert read("kube-apiserver-arg: v=4\n") == {"v": "4"}
    assert read("kube-apiserver-arg+:\n- --v=4\n- a-b=c=d\nother: 1\n") == {"v": "4", "a-b": "c=d"}
    assert read("token: x\n") == {}
    with pytest.raises(AnsibleFilterError):
        read("kube-apiserver-arg: [{a: 1}]\n")
