# SPDX-License-Identifier: Apache-2.0
"""What stands for a cluster: nginx with a 3 KB and a 10 MB body for the rates, and the stub for what agents ask.

nginx answers the two bodies itself and sends the rest to the stub, so that an agent finds its Secrets and tokens behind
the same address. The two-hop chain of nginx proxies, the limit of what a proxy can do here, is made here as well.
"""

from __future__ import annotations

import json
import ssl
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from support.road import free_port
from testbed import pki

from bench.processes import Failed, Processes, until

SMALL = "/api/v1/namespaces/default/configmaps/small"
BULK = "/api/v1/namespaces/default/configmaps/bulk"
SMALL_BYTES, BULK_BYTES = 3 * 1024, 10 * 1024 * 1024

_HEAD = """daemon off; user root; worker_processes 2; pid {folder}/nginx.pid; error_log {folder}/error.log;
worker_rlimit_nofile 65536;
events {{ worker_connections 16384; }}
http {{
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; default_type application/json; server_tokens off;
  keepalive_requests 1000000000; keepalive_timeout 3600s; proxy_read_timeout 3600s;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  proxy_http_version 1.1; proxy_max_temp_file_size 0; proxy_buffers 16 32k; proxy_buffer_size 32k;
  ssl_certificate {cert}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;
  proxy_ssl_trusted_certificate {ca}; proxy_ssl_verify on; proxy_ssl_name localhost;
  open_file_cache max=100 inactive=1h; open_file_cache_valid 1h;
"""
_UPSTREAM = """
  server {{
    listen {address}:{port} ssl backlog=4096; root {folder}/root;
    location = {small} {{ }}
    location = {bulk} {{ }}
    location / {{ proxy_set_header Connection ""; proxy_pass {stub}; }}
  }}
}}
"""
_CHAIN = """
  upstream second {{ server 127.0.0.1:{second}; keepalive 512; keepalive_requests 1000000000; }}
  upstream cluster {{ server {upstream}; keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} ssl backlog=4096;
    if ($http_authorization != "Bearer {token}") {{ return 401; }}
    location /k8s/clusters/bench/ {{
      proxy_set_header Connection ""; proxy_set_header Authorization "Bearer stub";
      proxy_set_header Impersonate-User "mooring:admin"; proxy_set_header Impersonate-Group "system:authenticated";
      proxy_pass https://second/;
    }}
  }}
  server {{
    listen 127.0.0.1:{second} ssl backlog=4096;
    location / {{ proxy_set_header Connection ""; proxy_pass https://cluster; }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Trust:
    """The authority of the bench and the one certificate that its programs show."""

    ca: Path
    pair: pki.Pair

    @classmethod
    def make(cls, folder: Path, *addresses: str) -> Trust:
        """A new authority, with a certificate for loopback and more addresses."""
        authority = pki.Authority(folder, "ca")
        return cls(
            authority.crt, authority.issue("bench", "bench", names=["127.0.0.1", "localhost", *addresses], server=True)
        )

    def context(self) -> ssl.SSLContext:
        """For a client that trusts it."""
        return ssl.create_default_context(cafile=str(self.ca))


@dataclass(frozen=True, slots=True)
class Upstream:
    """A running upstream: its https URL."""

    url: str
    trust: Trust

    @property
    def authority(self) -> str:
        """Address and port."""
        return self.url.removeprefix("https://")

    def put_secret(self, namespace: str, name: str, values: dict[str, str]) -> None:
        """Write a Secret of the stub. Raises OSError."""
        body = json.dumps({"metadata": {"name": name, "namespace": namespace}, "stringData": values}).encode()
        target = f"{self.url}/api/v1/namespaces/{namespace}/secrets/{name}"
        request = urllib.request.Request(target, data=body, method="PUT")
        with urllib.request.urlopen(request, context=self.trust.context(), timeout=30) as answer:
            answer.read()


def stub(
    processes: Processes, programs: Path, trust: Trust, uid: str, *, address: str = "127.0.0.1",
    inside: tuple[str, ...] = (),
) -> Upstream:  # fmt: skip
    """Start the stub; `inside` is a command prefix that enters a network namespace."""
    port = free_port("127.0.0.1")
    pair = trust.pair
    words: list[str | Path] = ["-listen", f"{address}:{port}", "-cert", pair.crt, "-key", pair.key, "-uid", uid]
    processes.start(f"stub-{port}", [*inside, programs / "stub", *words])
    return Upstream(f"https://{address}:{port}", trust)


def nginx(processes: Processes, folder: Path, trust: Trust, behind: Upstream) -> Upstream:
    """Start nginx with the two bodies; what it has not, it asks `behind` for. Raises Failed."""
    port = free_port("127.0.0.1")
    for path, size in ((SMALL, SMALL_BYTES), (BULK, BULK_BYTES)):
        file = folder / "upstream/root" / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * size)
    text = _UPSTREAM.format(
        address="127.0.0.1", port=port, folder=folder / "upstream", stub=behind.url, small=SMALL, bulk=BULK
    )
    _start(processes, folder / "upstream", trust, text, port)
    return Upstream(f"https://127.0.0.1:{port}", trust)


def chain(processes: Processes, folder: Path, trust: Trust, upstream: Upstream, token: str) -> tuple[str, int]:
    """Start the two-hop chain; returns its URL and the pid of its master process. Raises Failed."""
    port, second = free_port("127.0.0.1"), free_port("127.0.0.1")
    text = _CHAIN.format(port=port, second=second, upstream=upstream.authority, token=token)
    return f"https://127.0.0.1:{port}", _start(processes, folder / "chain", trust, text, port)


def _start(processes: Processes, folder: Path, trust: Trust, servers: str, port: int) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    head = _HEAD.format(folder=folder, cert=trust.pair.crt, key=trust.pair.key, ca=trust.ca)
    config = folder / "nginx.conf"
    config.write_text(head + servers)
    try:
        process = processes.start(f"nginx-{folder.name}", ["nginx", "-c", config, "-e", folder / "error.log"])
    except FileNotFoundError:
        raise Failed("nginx is not installed: apt-get install nginx-light") from None
    wait_for(f"https://127.0.0.1:{port}", trust, folder / "error.log")
    return process.pid


def wait_for(url: str, trust: Trust, log: Path | None = None, path: str = "/") -> None:
    """Until an https address answers, whatever it says. Raises Failed."""

    def answers() -> bool:
        try:
            with urllib.request.urlopen(url + path, context=trust.context(), timeout=5):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    until(f"{url} answers", answers, 30, log)
