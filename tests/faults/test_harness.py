# SPDX-License-Identifier: Apache-2.0
"""The soak's plan follows from its seed, and the verdicts notice what they are there for."""

from __future__ import annotations

import json
from itertools import islice
from types import SimpleNamespace
from typing import Any, cast

import pytest

from faults import verdict
from faults.bed import Bed
from faults.probe import Answer, Client, Closed, Outcome, Probes, Watch, Wrong, config_map, refused, right
from faults.soak import plan


def test_same_seed_gives_the_same_faults() -> None:
    one, same, other = (list(islice(plan(seed), 60)) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert len({fault.name for fault, _hold in one}) > 8


def probes(**parts: Any) -> Probes:
    return cast(Probes, SimpleNamespace(**parts))


@pytest.mark.parametrize(
    ("seen", "problem"),
    [
        ([1, 2, 3], None),
        ([1, 3], "object 2 was never shown"),
        ([1, 2, 2, 3], "object 2 was shown 2 times"),
        ([2, 1, 3], "object 1 came after a later one"),
    ],
)
def test_watch_that_loses_repeats_or_reorders_is_noticed(seen: list[int], problem: str | None) -> None:
    watch = SimpleNamespace(seen=seen, seen_at=dict.fromkeys(seen, 0.0))
    found = verdict.watch_gaps(probes(watch=watch), [1, 2, 3])
    assert found == ([] if problem is None else [f"watch: {problem}"])


def test_a_watch_that_is_too_old_after_an_api_servers_restart_lists_again() -> None:
    watch = Watch(cast(Bed, SimpleNamespace(server=SimpleNamespace(ca=None))))
    watch._event(json.dumps({"type": "ADDED", "object": made(1)}).encode())
    gone = {"type": "ERROR", "object": {"code": 410, "message": "too old resource version: 1 (9)"}}
    with pytest.raises(Closed, match="too old"):
        watch._event(json.dumps(gone).encode())
    found = {"metadata": {"resourceVersion": "9"}, "items": [made(3), {"data": {"ca.crt": "x"}}, made(1), made(2)]}
    watch.client = cast(Client, SimpleNamespace(call=lambda *_words: Answer(200, json.dumps(found).encode(), "")))
    assert watch._list()
    assert watch.seen == [1, 2, 3]
    with pytest.raises(Wrong, match="resumed: no"):
        watch._event(json.dumps({"type": "ERROR", "object": {"code": 500, "message": "no"}}).encode())


def made(number: int) -> dict[str, Any]:
    thing = config_map(number)
    thing["metadata"]["resourceVersion"] = str(number)
    return thing


def test_request_without_its_record_is_noticed() -> None:
    records = [
        {"request_id": "a", "stage": "complete", "code": 201},
        {"request_id": "b", "stage": "start", "code": 200},
    ]
    outcomes = {name: [Outcome(0, 0, "ok", 201, request_id=name)] for name in ("a", "c")}
    streams = SimpleNamespace(request_ids=["old", "b", "d"])
    them = probes(
        bed=SimpleNamespace(audit=lambda: records), watch=streams, talk=SimpleNamespace(request_ids=[]),
    )  # fmt: skip
    start = verdict.Mark({}, 0, 0, {"watch": 1, "talk": 0})
    found = verdict.unrecorded(them, {"write": outcomes["a"] + outcomes["c"], "read": []}, start, patience=0.2)
    assert found == ["audit: no record of request c (complete)", "audit: no record of request d (start)"]


def test_object_of_another_number_is_not_right() -> None:
    assert right(config_map(7), 7)
    assert not right(config_map(8), 7)
    assert not right({**config_map(7), "data": {"number": "7"}}, 7)


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"", b"{}", json.dumps({"kind": "Status", "code": 500, "message": "x"}).encode()],
)
def test_refusal_that_is_no_status_of_its_code_is_wrong(body: bytes) -> None:
    with pytest.raises(Wrong):
        refused(Answer(503, body, ""))


def test_refusal_says_its_message() -> None:
    assert refused(Answer(503, b'{"kind":"Status","code":503,"message":"away"}', "")) == "away"
    assert refused(Answer(503, b'{"status":503,"title":"t","detail":"away"}', "")) == "away"
