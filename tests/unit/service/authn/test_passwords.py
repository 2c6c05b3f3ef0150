# SPDX-License-Identifier: Apache-2.0
"""Passwords: argon2id off the loop, a few at a time; and the delay that grows with failures."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from mooring.authn.passwords import Busy, Passwords
from mooring.authn.throttle import LEAK, Throttle
from mooring.lib.config import AttemptsSection
from mooring.lib.secrets import Secret

SETTINGS = AttemptsSection()


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    made = Passwords(time_cost=1, memory_kib=64, workers=1, max_waiting=1)
    yield made
    made.close()


async def test_the_right_password_and_no_other(passwords: Passwords) -> None:
    stored = await passwords.hash(Secret("correct horse"))
    assert stored.reveal().startswith("$argon2id$")
    assert await passwords.verify(stored, Secret("correct horse"))
    assert not await passwords.verify(stored, Secret("correct horsf"))
    assert not await passwords.verify(stored, Secret(""))


async def test_without_a_hash_nothing_is_right(passwords: Passwords) -> None:
    assert not await passwords.verify(None, Secret("nobody has this password"))
    assert not await passwords.verify(Secret("not a hash"), Secret("x"))


async def test_an_overlong_password_is_wrong_and_not_hashed(passwords: Passwords) -> None:
    stored = await passwords.hash(Secret("a" * 2000))
    assert not await passwords.verify(stored, Secret("a" * 2000))
    assert not await passwords.verify(stored, Secret("\ud800"))


async def test_hashing_runs_in_a_thread_of_its_own(passwords: Passwords) -> None:
    assert await passwords._run(lambda: threading.current_thread().name.startswith("mooring-argon2"))


async def test_too_many_at_once_are_told_to_come_back(passwords: Passwords) -> None:
    go = threading.Event()
    waiting = [asyncio.ensure_future(passwords._run(go.wait)) for _unused in range(2)]
    await asyncio.sleep(0)
    try:
        with pytest.raises(Busy):
            await passwords.hash(Secret("x"))
    finally:
        go.set()
    await asyncio.gather(*waiting)
    await passwords.hash(Secret("x"))


def test_the_first_failures_cost_nothing_and_then_the_delay_doubles() -> None:
    throttle = Throttle.of_logins(SETTINGS)
    for _unused in range(SETTINGS.login_free_per_user):
        assert throttle.delay("bob", "s", 100.0) == 0
        throttle.begin("bob", "s", 100.0)
    delays = []
    now = 100.0
    for _unused in range(8):
        delays.append(throttle.delay("bob", "s", now))
        now += delays[-1]
        assert throttle.delay("bob", "s", now) == 0
        throttle.begin("bob", "s", now)
    assert delays == [1, 2, 4, 8, 16, 32, SETTINGS.max_delay_seconds, SETTINGS.max_delay_seconds]


def test_others_do_not_wait_for_one_users_failures() -> None:
    throttle = Throttle.of_logins(SETTINGS)
    for _unused in range(10):
        throttle.begin("bob", "s", 0.0)
    assert throttle.delay("bob", "s", 0.0) > 0
    assert throttle.delay("bob", "elsewhere", 0.0) == 0
    assert throttle.delay("ann", "s", 0.0) == 0


def test_a_source_that_tries_many_users_waits() -> None:
    throttle = Throttle.of_logins(SETTINGS)
    for number in range(SETTINGS.login_free_per_address):
        assert throttle.delay(f"user{number}", "s", 0.0) == 0
        throttle.begin(f"user{number}", "s", 0.0)
    assert throttle.delay("another", "s", 0.0) > 0


def test_success_forgives_the_user_and_not_the_source() -> None:
    throttle = Throttle.of_logins(SETTINGS)
    for _unused in range(5):
        throttle.begin("bob", "s", 0.0)
    throttle.succeeded("bob", "s")
    assert throttle.delay("bob", "s", 0.0) == 0
    for number in range(SETTINGS.login_free_per_address - 4):
        throttle.begin(f"user{number}", "s", 0.0)
    assert throttle.delay("new", "s", 0.0) > 0


def test_people_behind_one_address_who_log_in_do_not_slow_each_other() -> None:
    throttle = Throttle.of_logins(SETTINGS)
    for number in range(100):
        assert throttle.delay(f"user{number}", "s", 0.0) == 0
        throttle.begin(f"user{number}", "s", 0.0)
        throttle.succeeded(f"user{number}", "s")


def test_failures_are_forgotten_and_the_table_is_bounded() -> None:
    throttle = Throttle.of_logins(AttemptsSection(max_remembered=100))
    for number in range(500):
        throttle.begin(f"user{number}", f"s{number}", 0.0)
    assert len(throttle) == 100
    for _unused in range(10):
        throttle.begin("bob", "s", 0.0)
    assert throttle.delay("bob", "s", SETTINGS.forget_after_seconds) == 0
    assert throttle.delay("bob", "s", SETTINGS.forget_after_seconds + 1) == 0


def test_one_failure_of_an_address_is_forgotten_every_half_minute() -> None:
    """One agent with a dead join token, which tries for ever, must not lock out those behind the same NAT."""
    throttle = Throttle.of_joins(SETTINGS)
    now = 0.0
    for _unused in range(24 * 60):
        now += max(60.0, throttle.delay("dead", "s", now))
        throttle.begin("dead", "s", now)
        assert throttle.delay("good", "s", now) == 0
    assert throttle.delay("dead", "s", now) == SETTINGS.max_delay_seconds
    for number in range(SETTINGS.join_free_per_address):
        throttle.begin(f"wrong{number}", "s", now)
    assert throttle.delay("good", "s", now) > 0
    assert throttle.delay("good", "s", now + SETTINGS.join_free_per_address * LEAK) == 0


def test_a_try_that_was_not_looked_at_costs_nothing() -> None:
    throttle = Throttle.of_logins(SETTINGS)
    for _unused in range(100):
        throttle.begin("bob", "s", 0.0)
        throttle.not_tried("bob", "s")
    assert throttle.delay("bob", "s", 0.0) == 0


def test_an_ipv6_network_is_one_address() -> None:
    throttle = Throttle.of_logins(SETTINGS)
    for number in range(10):
        throttle.begin("bob", f"2001:db8::{number:x}", 0.0)
    assert throttle.delay("bob", "2001:db8::ffff", 0.0) > 0
    assert throttle.delay("bob", "2001:db8:0:1::1", 0.0) == 0
