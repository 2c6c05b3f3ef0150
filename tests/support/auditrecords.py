# SPDX-License-Identifier: Apache-2.0
"""An audit record, for tests of where such records go."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from mooring.proxy.audit import AuditRecord


def audit_record(**changes: Any) -> AuditRecord:
    values: dict[str, Any] = {
        "time": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "stage": "complete",
        "request_id": "0" * 32,
        "source": "192.0.2.7",
        "user": "bob",
        "uid": "x-bob",
        "groups": ("devs",),
        "token_id": "e-aaaaaaaaaaaa",
        "cluster": "prod",
        "cluster_id": "c-aaaaaaaaaaaa",
        "verb": "get",
        "path": "/api",
        "code": 200,
        "resource_request": False,
    }
    return AuditRecord(**values | changes)
