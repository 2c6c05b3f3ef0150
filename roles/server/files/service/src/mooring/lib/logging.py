# SPDX-License-Identifier: Apache-2.0
"""Structured logs on standard error, with secrets removed.

Our own events and those of libraries (through the standard `logging` module) leave in one format. Redaction is the
second line of defence: code must not hand secrets to a log at all.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, Literal

import structlog

from mooring.lib.secrets import REDACTED, Secret

LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("json", "console")

# The secret part of our own tokens (`mrg_<id>_<secret>`; `mrj`, `mre`) and of bearer headers.
_TOKEN: Final = re.compile(r"\b(mr[gje]_[A-Za-z0-9-]{1,64}_)[A-Za-z0-9_-]{8,}")
_BEARER: Final = re.compile(r"(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]{8,}")


def redact(value: Any) -> Any:
    """The value with every `Secret`, and the secret part of every token in text, replaced by `<secret>`."""
    if isinstance(value, Secret):
        return REDACTED
    if isinstance(value, str):
        return _BEARER.sub(rf"\1{REDACTED}", _TOKEN.sub(rf"\1{REDACTED}", value))
    if isinstance(value, bytes):
        return redact(value.decode("utf-8", "backslashreplace"))
    if isinstance(value, Mapping):
        return {key: redact(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [redact(item) for item in value]
    return value


def _redact_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if not key.startswith("_"):  # `_record` and `_from_structlog` belong to structlog
            event[key] = redact(value)
    return event


def configure(level: str = "info", fmt: Literal["json", "console"] | str = "json") -> None:
    """Sets up logging for the process. `level` is one of LEVELS, `fmt` one of FORMATS; raises ValueError otherwise."""
    if level not in LEVELS:
        raise ValueError(f"log level {level!r} is none of {', '.join(LEVELS)}")
    if fmt not in FORMATS:
        raise ValueError(f"log format {fmt!r} is none of {', '.join(FORMATS)}")
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    final: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if fmt == "json":
        final += [
            structlog.processors.format_exc_info,
            _redact_event,
            structlog.processors.JSONRenderer(default=lambda value: redact(repr(value))),
        ]
    else:
        final += [
            structlog.processors.format_exc_info,
            _redact_event,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=final))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Libraries that log each connection, request or statement at INFO: the audit log and metrics say it better.
    for noisy in ("uvicorn", "httpx", "httpcore", "sqlalchemy.engine", "aiosqlite", "alembic.runtime"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def get(name: str) -> Any:
    """A logger; events are words, facts are keyword arguments: `log.info("agent connected", cluster=id)`."""
    return structlog.stdlib.get_logger(name)
