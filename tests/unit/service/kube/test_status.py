# SPDX-License-Identifier: Apache-2.0
"""Errors are Kubernetes Status objects that client-go understands."""

from __future__ import annotations

import json

from mooring.kube.status import status


def test_a_status_has_what_client_go_looks_at() -> None:
    body = json.loads(status(403, "Forbidden", "no membership", {"kind": "clusters", "name": "lab"}))
    assert body == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "no membership",
        "reason": "Forbidden",
        "code": 403,
        "details": {"kind": "clusters", "name": "lab"},
    }


def test_retry_after_goes_into_the_details_beside_the_others() -> None:
    body = json.loads(status(503, "ServiceUnavailable", "lost", {"name": "lab"}, retry_after=5))
    assert body["details"] == {"name": "lab", "retryAfterSeconds": 5}


def test_without_details_there_are_none() -> None:
    assert "details" not in json.loads(status(401, "Unauthorized", "who?"))
