# SPDX-License-Identifier: Apache-2.0
"""The load of `tokenreview`: reviews at a fixed rate, whatever the answers do, by a process on a core of its own.

    python -m bench.reviews FOLDER PORT RATE SECONDS      prints JSON: sent, wrong, p50_ms, p99_ms, max_ms

The loop is open: a review is due at its time, and its latency counts from there, also if it had to wait for one of the
connections. It sleeps between two (select(2) does so to the microsecond): one that spins is what a busy machine lets
wait. FOLDER holds `tokens`, and the certificates that kube-api-auth takes.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import sys
import time
from collections import deque
from pathlib import Path

CONNECTIONS = 32
WARM = 1.0
"""Seconds at the beginning that do not count."""


class Line:
    """One connection, with at most one review under way."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        raw = socket.create_connection(("127.0.0.1", port), 10)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(raw, server_hostname="127.0.0.1")
        self.socket.setblocking(False)
        self.due = 0.0
        self._got = b""

    def ask(self, request: bytes, due: float) -> None:
        self.due = due
        self._got = b""
        self.socket.send(request)  # less than what a socket takes at once

    def answered(self) -> bytes | None:
        """The body, when it is whole."""
        while True:
            try:
                data = self.socket.recv(65536)
            except ssl.SSLWantReadError:
                break
            if not data:
                raise ConnectionError("kube-api-auth has closed the connection")
            self._got += data
        head, mark, body = self._got.partition(b"\r\n\r\n")
        if not mark:
            return None
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        return body if len(body) >= length else None


def client(folder: Path) -> ssl.SSLContext:
    """TLS as the API server speaks it."""
    context = ssl.create_default_context(cafile=str(folder / "webhook-ca.crt"))
    context.load_cert_chain(folder / "client.crt", folder / "client.key")
    return context


def request(token: str) -> bytes:
    """A TokenReview as kube-apiserver sends it."""
    body = json.dumps({
        "kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {"creationTimestamp": None},
        "spec": {"token": token, "audiences": ["https://kubernetes.default.svc.cluster.local"]}, "status": {"user": {}},
    }).encode()  # fmt: skip
    head = f"POST /authenticate?timeout=30s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Content-Type: application/json\r\nAccept: application/json, */*\r\n\r\n" + body


def run(folder: Path, port: int, rate: float, seconds: float) -> dict[str, float]:
    """Ask, and say how it went."""
    requests = [request(token) for token in (folder / "tokens").read_text().split()]
    context = client(folder)
    free = deque(Line(port, context) for _unused in range(CONNECTIONS))
    lines = {line.socket.fileno(): line for line in free}
    total, sent, done, wrong = int(rate * (seconds + WARM)), 0, 0, 0
    latencies: list[float] = []
    begin = time.perf_counter() + 0.1
    while done < total:
        now = time.perf_counter()
        while free and sent < total and begin + sent / rate <= now:
            # A stride that visits all tokens, and never two of a kind one after the other.
            free.popleft().ask(requests[sent * 7919 % len(requests)], begin + sent / rate)
            sent += 1
        due = begin + sent / rate if free and sent < total else now + 1.0
        for descriptor in select.select(lines, (), (), max(0.0, due - time.perf_counter()))[0]:
            line = lines[descriptor]
            body = line.answered()
            if body is not None:
                done += 1
                wrong += b'"authenticated":true' not in body
                if line.due - begin >= WARM:
                    latencies.append(time.perf_counter() - line.due)
                free.append(line)
        if now > begin + seconds * 3 + 30:
            raise TimeoutError(f"{done} of {total} reviews were answered")
    latencies.sort()
    return {
        "sent": sent,
        "wrong": wrong,
        "p50_ms": latencies[len(latencies) // 2] * 1e3,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1e3,
        "max_ms": latencies[-1] * 1e3,
    }


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))))
