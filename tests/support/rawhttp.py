# SPDX-License-Identifier: Apache-2.0
"""An HTTP/1.1 client that sends exactly the bytes that it is given, over TLS, and reads one answer at a time.

Exists because an attacker's bytes are what client libraries refuse to send: two Content-Length, bare LF, a header in
a spelling of one's own. It keeps its connection open while the server does and dials again when it was closed, so that
a test tries many attacks in little time.

It must not: follow redirects, repeat a request, or repair anything.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

DEADLINE = 60.0  # seconds without a byte; generous, as machines that run tests are busy
Headers = Sequence[tuple[bytes, bytes]]


@dataclass
class RawAnswer:
    """One answer. `status` is 0 and everything else empty when the server closed the connection without a word."""

    status: int
    head: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def get(self, name: bytes) -> bytes | None:
        """The first value of a header, the name in lower case."""
        return next((value for key, value in self.headers if key == name), None)

    def json(self) -> Any:
        return json.loads(self.body)

    def __str__(self) -> str:
        return f"{self.status} {self.body[:600].decode('utf-8', 'replace')}"


class RawClient:
    """Connections to one address, one at a time. `source` is the client's own address, any of 127.0.0.0/8."""

    def __init__(self, address: str, port: int, ca: Path, source: str = "", name: str = "") -> None:
        self._address = (address, port)
        self._source = source
        self._name = name or address
        self._context = ssl.create_default_context(cafile=str(ca))
        self._socket: ssl.SSLSocket | None = None
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def socket(self) -> ssl.SSLSocket:
        """The open connection; dials when there is none."""
        if self._socket is None:
            source = (self._source, 0) if self._source else None
            plain = socket.create_connection(self._address, DEADLINE, source)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket = self._context.wrap_socket(plain, server_hostname=self._name)
            self._buffer = b""
        return self._socket

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def send(self, data: bytes) -> None:
        """Send these bytes and nothing else."""
        self.socket.sendall(data)

    def exchange(self, data: bytes, method: bytes = b"") -> RawAnswer:
        """Send bytes and read one answer. `method`, when the bytes do not begin with it: HEAD has no body."""
        try:
            self.send(data)
        except OSError:
            pass  # the server may have answered and closed before it had everything
        return self.answer(method or data.split(b" ", 1)[0])

    def request(self, method: str, target: str, headers: Headers = (), body: bytes = b"") -> RawAnswer:
        """A well-formed request, but for what `headers` bring."""
        lines = [f"{method} {target} HTTP/1.1".encode("latin-1"), b"Host: " + self._name.encode()]
        lines += [name + b": " + value for name, value in headers]
        if body:
            lines.append(b"Content-Length: %d" % len(body))
        return self.exchange(b"\r\n".join(lines) + b"\r\n\r\n" + body)

    def answer(self, method: bytes = b"GET") -> RawAnswer:
        """Read one answer (1xx but 101 are skipped); its body by its framing. A closed connection is dropped."""
        while True:
            head = self._until(b"\r\n\r\n")
            if head is None:
                self.close()
                return RawAnswer(0, b"", [], b"")
            first, *lines = head[:-4].split(b"\r\n")
            status = int(first.split(b" ")[1])
            if status == 101 or status >= 200:
                break
        headers = [(name.lower(), value.strip()) for name, _unused, value in (line.partition(b":") for line in lines)]
        found = RawAnswer(status, head, headers, b"")
        if method != b"HEAD" and status not in (101, 204, 304):
            found.body = self._body(found)
        if (found.get(b"connection") or b"").lower() == b"close":
            self.close()
        return found

    def closed(self) -> bool:
        """Whether the server closes the connection, having sent no more; waits for it."""
        if self._socket is None:
            return True
        ended = not self._buffer and not self._more()
        if ended:
            self.close()
        return ended

    # -- inside

    def _body(self, answer: RawAnswer) -> bytes:
        if (answer.get(b"transfer-encoding") or b"").lower() == b"chunked":
            parts = []
            while True:
                line = self._until(b"\r\n")
                assert line is not None, "the answer ends within its chunks"
                size = int(line.split(b";")[0], 16)
                parts.append(self._exactly(size + 2)[:-2])
                if not size:
                    return b"".join(parts)
        length = answer.get(b"content-length")
        if length is not None:
            return self._exactly(int(length))
        while self._more():
            pass
        rest, self._buffer = self._buffer, b""
        self.close()
        return rest

    def _until(self, mark: bytes) -> bytes | None:
        while mark not in self._buffer:
            if not self._more():
                return None
        end = self._buffer.index(mark) + len(mark)
        found, self._buffer = self._buffer[:end], self._buffer[end:]
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            assert self._more(), f"the answer ends {size - len(self._buffer)} bytes early"
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    def _more(self) -> bool:
        if self._socket is None:
            return False
        try:
            data = self._socket.recv(65536)
        except (ConnectionError, ssl.SSLError):
            data = b""
        self._buffer += data
        return bool(data)


def bearer(token: str, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Headers with a token."""
    return [(b"Authorization", b"Bearer " + token.encode("latin-1")), *more]


def lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers as they stand in a head."""
    return b"".join(name + b": " + value + b"\r\n" for name, value in headers)
