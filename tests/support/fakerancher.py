# SPDX-License-Identifier: Apache-2.0
"""Stands in for K3s or RKE2 on a machine that has neither: what the role kube_api_auth sees of them.

    fakerancher.py server k3s|rke2     what the unit runs: reads the configuration files as documented, refuses what an
                                       API server would refuse, tells systemd when it is ready
    fakerancher.py kubelet k3s|rke2    starts a server for the static pod kube-api-auth, when there is one
    fakerancher.py kubectl ...         answers the questions that the role asks

It knows nothing of Mooring but the names of flags and files. Runs with Debian's Python and no package.
"""

from __future__ import annotations

import http.server
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

RANCHER = Path("/etc/rancher")
STATE = Path("/run/fakerancher")
UID = "11111111-2222-3333-4444-555555555555"
SERVICES = {"k3s": "k3s", "rke2": "rke2-server"}
LIST = re.compile(r"^\s*- (.*)$")


def parse(text: str) -> dict[str, list[str] | str]:
    """The YAML that such files hold: keys with a text or a list of texts."""
    found: dict[str, list[str] | str] = {}
    key = ""
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        item = LIST.match(line)
        if item:
            value = found[key]
            assert isinstance(value, list)
            value.append(item[1].strip("\"'"))
            continue
        key, _colon, rest = line.partition(":")
        found[key] = rest.strip().strip("\"'") if rest.strip() else []
    return found


def settings(kind: str) -> dict[str, list[str]]:
    """config.yaml and config.yaml.d/*.yaml in the order of their names: the last counts, a + adds."""
    folder = RANCHER / kind
    files = [folder / "config.yaml", *sorted((folder / "config.yaml.d").glob("*.yaml"))]
    merged: dict[str, list[str]] = {}
    for file in files:
        if not file.exists():
            continue
        for key, value in parse(file.read_text()).items():
            values = value if isinstance(value, list) else [value]
            plain = key.rstrip("+")
            merged[plain] = merged.get(plain, []) + values if key.endswith("+") else values
    return merged


def refused(arguments: list[str], mounts: list[str], kind: str) -> str:
    """Why an API server would not start with them, or nothing."""
    flags = dict(argument.split("=", 1) for argument in arguments)
    ttl = flags.get("authentication-token-webhook-cache-ttl", "0s")
    if not re.fullmatch(r"([0-9.]+(ms|s|m|h))+", ttl):
        return f'Error: invalid argument "{ttl}" for "--authentication-token-webhook-cache-ttl" flag'
    if "authorization-mode" in flags and "authorization-config" in flags:
        return "Error: --authorization-config can not be specified when --authorization-mode is defined"
    for path in (value for value in flags.values() if value.startswith("/")):
        inside = kind == "k3s" or any(path.startswith(mount.split(":")[1]) for mount in mounts)
        if not inside or not Path(path).exists():
            return f"Error: open {path}: no such file or directory"
    return ""


def server(kind: str) -> None:
    found = settings(kind)
    arguments = found.get("kube-apiserver-arg", [])
    why = refused(arguments, found.get("kube-apiserver-extra-mount", []), kind)
    if why:
        sys.exit(why)
    STATE.mkdir(exist_ok=True)
    (STATE / "flags.json").write_text(json.dumps(arguments))
    child = None
    if kind == "rke2":
        pods = Path("/var/lib/rancher/rke2/agent/pod-manifests")
        pods.mkdir(parents=True, exist_ok=True)
        (pods / "kube-apiserver.yaml").write_text(json.dumps(arguments))
        words = ["kube-apiserver", "-c", "import time; time.sleep(1e6)", *(f"--{word}" for word in arguments)]
        child = subprocess.Popen(words, executable=sys.executable)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.connect(os.environ["NOTIFY_SOCKET"])
        notify.send(b"READY=1")
    try:
        while True:
            time.sleep(60)
    finally:
        if child:
            child.kill()


def kubelet(kind: str) -> None:
    """One server while the static pod is there; what it is answers is in the pod's own files."""
    pod = Path(f"/var/lib/rancher/{kind}/agent/pod-manifests/kube-api-auth.yaml")
    running = None
    while True:
        if pod.exists() and running is None:
            config = dict(re.findall(r'^(\w+) = "(.*)"$', Path(argument(pod.read_text())).read_text(), re.MULTILINE))
            running = serve(config)
        elif not pod.exists() and running is not None:
            running.shutdown()
            running.server_close()
            running = None
        time.sleep(0.5)


def argument(text: str) -> str:
    match = re.search(r'--config, "([^"]+)"', text)
    assert match is not None
    return match[1]


class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


def serve(config: dict[str, str]) -> http.server.HTTPServer:
    host, port = config["listen"].split(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(config["tls_cert"], config["tls_key"])
    it = http.server.HTTPServer((host, int(port)), Ready)
    it.socket = context.wrap_socket(it.socket, server_side=True)
    threading.Thread(target=it.serve_forever, daemon=True).start()
    return it


def kubectl(words: list[str]) -> None:
    """Objects are files; there is no API server behind."""
    STATE.mkdir(exist_ok=True)
    kept = STATE / "secret.json"
    said = " ".join(word for word in words if not word.startswith("--kubeconfig"))
    if "--raw=/readyz" in said:
        active = [
            subprocess.run(["systemctl", "is-active", "--quiet", name], check=False).returncode
            for name in SERVICES.values()
        ]
        sys.exit(0 if 0 in active else "The connection to the server was refused")
    if "--raw=/version" in said:
        version = os.environ.get("FAKE_VERSION") or (STATE / "version").read_text()
        print(json.dumps({"gitVersion": version}))
    elif "get namespace kube-system" in said:
        print(UID, end="")
    elif "get serviceaccount" in said:
        print("serviceaccount/mooring-kube-api-auth")
    elif said.startswith("apply"):
        secret = json.load(sys.stdin)
        print(f"secret/x {'unchanged' if kept.exists() else 'created'}")
        if "--dry-run=server" not in words:
            secret["data"] = {"token": "dG9rZW4=", "ca.crt": "Y2E="}
            kept.write_text(json.dumps(secret))
    elif said.startswith("get pods"):
        pods = Path("/var/lib/rancher").glob("*/agent/pod-manifests/kube-api-auth.yaml")
        print(" ".join(pod.name for pod in pods), end="")
    elif said.startswith("get secret"):
        print(kept.read_text() if kept.exists() else "")
    elif said.startswith("create --raw=/apis/authentication.k8s.io/v1/tokenreviews"):
        print(json.dumps({"status": {"authenticated": True, "audiences": ["https://kubernetes.default.svc", "k3s"]}}))
    elif said.startswith("delete secret"):
        if kept.exists():
            print("secret deleted")
        if "--dry-run=server" not in words:
            kept.unlink(missing_ok=True)
    else:
        sys.exit(f"the stand-in does not know: {said}")


def main() -> None:
    what, *words = sys.argv[1:]
    if what == "server":
        server(words[0])
    elif what == "kubelet":
        kubelet(words[0])
    elif what == "kubectl":
        kubectl(words)
    else:
        sys.exit(f"{what}?")


if __name__ == "__main__":
    main()
