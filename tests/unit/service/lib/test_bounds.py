# SPDX-License-Identifier: Apache-2.0
"""Bounds have names, settings and parts; counters hold no more than they must."""

from __future__ import annotations

import re

import msgspec
import pytest
from mooring.edge.settings import EdgeSettings
from mooring.lib import metrics
from mooring.lib.addresses import bucket
from mooring.lib.bounds import BOUNDS, Bounds, Rate, Slots, met
from mooring.lib.config import AttemptsSection, Config, LimitsSection, ServerSection, TlsSection, TunnelSection
from mooring.proxy.chain import ChainSettings
from mooring.tunnel.session import tunnel_limits

SECTIONS = {"limits": LimitsSection, "tunnel": TunnelSection, "attempts": AttemptsSection}


def config(**sections: object) -> Config:
    smallest = Config(
        server=ServerSection(data_dir="/d", url="https://h"), tls=TlsSection(cert="/c", key="/k", ca="/a")
    )
    return msgspec.structs.replace(smallest, **sections)


def names(cls: type[msgspec.Struct]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(cls)]


def test_every_bound_is_a_setting_and_has_a_name_of_its_own() -> None:
    assert len({bound.name for bound in BOUNDS}) == len(BOUNDS)
    for bound in BOUNDS:
        section, _unused, field = bound.setting.partition(".")
        assert field in names(SECTIONS[section]), bound.setting


def test_every_bound_stands_in_the_metrics_before_it_is_met_and_is_counted() -> None:
    text = metrics.render().decode()
    assert set(re.findall(r'mooring_bound_refused_total\{bound="(\w+)"\}', text)) == {bound.name for bound in BOUNDS}
    before = metrics.BOUND_REFUSED.labels("headers")._value.get()
    assert met("headers").code == 431
    assert metrics.BOUND_REFUSED.labels("headers")._value.get() == before + 1


@pytest.mark.parametrize("name", names(LimitsSection))
def test_a_limit_that_is_set_has_an_effect(name: str) -> None:
    changed = msgspec.structs.replace(LimitsSection(), **{name: 9})
    before = (EdgeSettings.from_limits(LimitsSection()), ChainSettings.from_limits(LimitsSection(), identity_prefix=""))
    assert (EdgeSettings.from_limits(changed), ChainSettings.from_limits(changed, identity_prefix="")) != before


@pytest.mark.parametrize("name", sorted(set(names(TunnelSection)) - {"max_sessions_per_cluster", "window_bytes"}))
def test_a_bound_of_the_tunnel_that_is_set_has_an_effect(name: str) -> None:
    changed = msgspec.structs.replace(TunnelSection(), **{name: 9})
    assert tunnel_limits(changed) != tunnel_limits(TunnelSection())


def test_the_defaults_of_the_parts_are_those_of_the_configuration() -> None:
    assert EdgeSettings.from_limits(LimitsSection()) == EdgeSettings()
    assert ChainSettings.from_limits(LimitsSection(), identity_prefix="mooring:") == ChainSettings()


def test_processes_on_one_port_share_what_counts_what_is_open() -> None:
    whole = config(limits=LimitsSection(max_connections_per_address=1_001, max_streams_per_user=60))
    part = Bounds.from_settings(whole, share=4)
    assert part.limits.max_connections == 2_500
    assert part.limits.max_connections_per_address == 251
    assert part.limits.max_streams_per_user == 50, "no process gets less than the floor"
    assert Bounds.from_settings(whole, share=1).limits == whole.limits
    tiny = config(limits=LimitsSection(max_connections=3))
    assert Bounds.from_settings(tiny, share=4).limits.max_connections == 3, "nor more than the whole"
    with pytest.raises(ValueError, match="at least one"):
        Bounds.from_settings(whole, share=0)


def test_500_agents_behind_one_address_get_in_at_each_process() -> None:
    part = Bounds.from_settings(config(), share=8)
    assert part.attempts.agent_handshakes_per_address >= 500
    assert part.limits.max_handshakes_per_address >= 500
    rate = Rate(part.attempts.agent_handshakes_per_address, 60.0)
    assert not any(rate.take("nat", 0.0) for _unused in range(500))


def test_slots_refuse_at_the_bound_and_forget_who_holds_nothing() -> None:
    slots = Slots(2)
    assert [slots.take("a") for _unused in range(3)] == [True, True, False]
    assert slots.full("a")
    assert slots.take("b")
    slots.free("a")
    assert slots.take("a")
    for key in ("a", "a", "b"):
        slots.free(key)
    assert len(slots) == 0


def test_a_rate_refills_evenly_and_says_how_long_to_wait() -> None:
    rate = Rate(60, 60.0)
    assert [rate.take("a", 0.0) for _unused in range(60)] == [0.0] * 60
    assert rate.take("a", 0.0) == pytest.approx(1.0)
    assert rate.take("b", 0.0) == 0.0, "others have their own"
    assert rate.take("a", 1.0) == 0.0
    assert rate.take("a", 1.0) > 0
    assert [rate.take("a", 100.0) for _unused in range(60)] == [0.0] * 60


def test_a_rate_forgets_who_is_quiet_and_holds_no_more_than_its_bound() -> None:
    rate = Rate(10, 10.0, max_keys=100)
    for number in range(1_000):
        rate.take(f"k{number}", 0.0)
    assert len(rate) == 100
    rate.take("late", 50.0)
    assert len(rate) == 1


@pytest.mark.parametrize(
    ("address", "counts_as"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("local", "local"),
        ("no:address", "no:address"),
    ],
)
def test_an_ipv6_host_cannot_pass_for_many(address: str, counts_as: str) -> None:
    assert bucket(address) == counts_as
