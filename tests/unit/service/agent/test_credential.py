# SPDX-License-Identifier: Apache-2.0
"""The impersonator's token: fetched, renewed, never handed out when it is not valid."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from mooring.agent import credential as module
from mooring.agent.credential import Credential
from mooring.kube.client import KubeApi
from mooring.lib.clock import ManualClock
from mooring.lib.secrets import Secret

from .fakes import FakeKube, until


@pytest.fixture
def clock() -> ManualClock:
    """Moved by the test."""
    return ManualClock()


@pytest.fixture
async def credential(kube: FakeKube, clock: ManualClock) -> AsyncIterator[Credential]:
    """A credential that renews itself."""
    api = KubeApi(kube.config())
    credential = Credential(api, "mooring-system", clock)
    task = asyncio.get_running_loop().create_task(credential.run())
    yield credential
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await api.aclose()


async def test_before_the_first_token_there_is_none_and_a_reason(credential: Credential) -> None:
    assert credential.current() is None
    assert "not yet" in credential.problem
    await until(credential.current)
    assert credential.problem == ""


async def test_it_is_for_the_impersonator_and_for_an_hour(credential: Credential, kube: FakeKube) -> None:
    await until(credential.current)
    (call,) = [call for call in kube.calls if call.path.endswith("/token")]
    assert call.path == "/api/v1/namespaces/mooring-system/serviceaccounts/mooring-impersonator/token"
    assert b'"expirationSeconds":3600' in call.body


async def test_an_expired_token_is_not_handed_out(credential: Credential, clock: ManualClock, kube: FakeKube) -> None:
    await until(credential.current)
    clock.advance(3599)
    assert credential.current() is not None
    clock.advance(1)
    assert credential.current() is None
    assert "expired" in credential.problem


async def test_it_is_renewed_before_it_ends(kube: FakeKube, credential: Credential) -> None:
    kube.token_life = 1
    await until(lambda: kube.tokens >= 3)
    current = credential.current()
    assert current is not None
    await until(lambda: (now := credential.current()) is not None and now.reveal() == kube.token())


async def test_a_rejected_token_is_not_handed_out_again(
    credential: Credential, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MIN_INTERVAL", 0.0)
    await until(credential.current)
    old = credential.current()
    assert old is not None
    credential.rejected(Secret("some other token"))
    assert credential.current() == old
    credential.rejected(old)
    assert credential.current() is None
    new = await credential.other_than(old, 10)
    assert new is not None
    assert new.reveal() == "impersonator-token-2"


async def test_waiting_for_another_token_ends_at_its_deadline(credential: Credential) -> None:
    await until(credential.current)
    current = credential.current()
    assert current is not None
    assert await credential.other_than(current, 0.05) is None


@pytest.mark.parametrize("status", [403, 404, 500])
async def test_without_permission_the_reason_is_kept_and_it_is_tried_again(
    kube: FakeKube, credential: Credential, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_FIRST", 0.01)
    kube.token_status = status
    await until(lambda: "serviceaccounts/mooring-impersonator/token: no" in credential.problem)
    assert credential.current() is None
    kube.token_status = 201
    await until(credential.current)
