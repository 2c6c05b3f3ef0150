# SPDX-License-Identifier: Apache-2.0
"""Audit records of a cluster's own endpoint reach the server's log once, as that cluster's, whoever says what."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from mooring.control import auditinbox
from mooring.control.auditinbox import AuditInbox, last_taken
from mooring.proxy.audit import Audit
from support.auditrecords import audit_record

from .test_agentpolicy import Agent, agents

__all__ = ["agents"]

JOURNAL = "a-aaaaaaaaaaaa"
MORE = "a-bbbbbbbbbbbb"


def lines(*numbers: int, **changes: Any) -> bytes:
    return b"".join(msgspec.json.encode(audit_record(path=f"/api/{n}", **changes)) + b"\n" for n in numbers)


async def send(world: Any, agent: Agent, body: bytes, offset: object = 0, journal: str = JOURNAL, jwt: str = "") -> Any:
    return await world.http.post(
        "/api/v1/agents/audit",
        content=body,
        headers={
            "Authorization": f"Bearer {jwt or agent.jwt()}",
            "Content-Type": "application/x-ndjson",
            "Mooring-Journal": journal,
            "Mooring-Offset": str(offset),
            "X-Mooring-Source": "192.0.2.1",
            "X-Mooring-Request-Id": "r" * 32,
        },
    )


async def logged(world: Any, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(10):
        while True:
            found = [json.loads(line) for line in world.audit.path.read_text().splitlines()]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.01)


async def test_records_are_written_once_with_the_user_and_the_agents_own_cluster(
    world: Any, agents: tuple[Agent, Agent]
) -> None:
    prod, test = agents
    body = lines(1, 2, cluster="test", cluster_id=test.id, record_id="a-cccccccccccc/7", via="")
    first = await send(world, prod, body)
    assert (first.status_code, first.json()) == (200, {"taken": 2, "offset": len(body)})
    again = await send(world, prod, body)
    assert again.json() == {"taken": 0, "offset": len(body)}
    more = await send(world, prod, body + lines(3))
    assert more.json()["taken"] == 1
    records = await logged(world, 3)
    assert [record["path"] for record in records] == ["/api/1", "/api/2", "/api/3"]
    for record in records:
        assert (record["cluster"], record["cluster_id"]) == ("prod", prod.id)
        assert (record["user"], record["uid"], record["via"]) == ("bob", "x-bob", "endpoint")
    assert records[0]["record_id"] == f"{JOURNAL}/0"
    assert len({record["record_id"] for record in records}) == 3


async def test_a_server_that_was_killed_knows_what_it_has(world: Any, agents: tuple[Agent, Agent]) -> None:
    prod, test = agents
    body = lines(1, 2, user_agent='x","record_id":"a-aaaaaaaaaaaa/900')
    await send(world, prod, body)
    await send(world, test, lines(1), 5000)
    await send(world, prod, lines(1), 7000, MORE)
    await logged(world, 4)
    fresh = AuditInbox(world.audit)
    cluster = world.services.index.cluster(prod.id)
    assert await fresh.take(cluster, JOURNAL, 0, body) == (0, len(body))
    assert await fresh.take(cluster, JOURNAL, 0, body + lines(3)) == (1, len(body + lines(3)))


def test_what_the_log_does_not_tell_is_taken_as_new(tmp_path: Path) -> None:
    assert last_taken(tmp_path / "none", "c-1", JOURNAL) == 0
    (tmp_path / "log").write_bytes(b'{"cluster_id":"c-2","record_id":"%b/5"}\nrubbish\n' % JOURNAL.encode())
    assert last_taken(tmp_path / "log", "c-1", JOURNAL) == 0


async def test_lines_that_are_no_records_do_not_hold_up_the_rest(world: Any, agents: tuple[Agent, Agent]) -> None:
    long = b'{"x":"' + b"y" * auditinbox.LINE_MAX + b'"}\n'
    body = b"rubbish\n" + lines(1) + b"\n" + b'{"time":1}\n' + long + b"\xff\xfe\n" + lines(2)
    answer = await send(world, agents[0], body)
    assert answer.json() == {"taken": 2, "offset": len(body)}
    assert [record["path"] for record in await logged(world, 2)] == ["/api/1", "/api/2"]


async def test_nobody_else_writes_records(world: Any, agents: tuple[Agent, Agent]) -> None:
    prod, test = agents
    once = prod.jwt()
    assert (await send(world, prod, lines(1), jwt=once)).status_code == 200
    for jwt in (once, prod.jwt(test.key), world.admin.token, "rubbish"):
        assert (await send(world, prod, lines(2), 10_000, jwt=jwt)).status_code == 401
    await world.admin.ok("DELETE", f"/clusters/{prod.id}")
    assert (await send(world, prod, lines(3), 20_000)).status_code == 401
    await asyncio.sleep(0.1)
    assert len(await logged(world, 1)) == 1


@pytest.mark.parametrize(
    ("body", "offset", "journal"),
    [
        (b"no line's end", 0, JOURNAL),
        (b"", 0, JOURNAL),
        (b"{}\n", -1, JOURNAL),
        (b"{}\n", "x", JOURNAL),
        (b"{}\n", 0, "../../x"),
        (b"{}\n", 0, "t-aaaaaaaaaaaa"),
    ],
)
async def test_what_is_not_of_the_form_is_refused(
    world: Any, agents: tuple[Agent, Agent], body: bytes, offset: object, journal: str
) -> None:
    assert (await send(world, agents[0], body, offset, journal)).status_code in (400, 422)


async def test_more_than_a_mebibyte_is_refused(world: Any, agents: tuple[Agent, Agent]) -> None:
    assert (await send(world, agents[0], b"x" * (1 << 20) + b"\n")).status_code == 413


async def test_records_that_cannot_be_written_are_not_taken(
    world: Any, agents: tuple[Agent, Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Audit, "healthy", property(lambda _unused: False))
    answer = await send(world, agents[0], lines(1))
    assert (answer.status_code, answer.json()["code"]) == (503, "not_recorded")
    monkeypatch.undo()
    assert (await send(world, agents[0], lines(1))).json()["taken"] == 1


async def test_one_cluster_does_not_fill_the_disk_in_a_minute(world: Any, agents: tuple[Agent, Agent]) -> None:
    inbox = AuditInbox(world.audit)
    cluster = world.services.index.cluster(agents[0].id)
    answers = [await inbox.take(cluster, JOURNAL, 0, b"\n") for _unused in range(auditinbox.PER_MINUTE + 2)]
    assert answers[0] is not None
    assert answers[-1] is None
