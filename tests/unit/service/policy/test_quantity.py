# SPDX-License-Identifier: Apache-2.0
"""Quantities: the numbers that Kubernetes reads."""

from __future__ import annotations

from fractions import Fraction

import pytest
from mooring.policy.quantity import BadQuantity, container_resource, parse, resource


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("0", Fraction(0)),
        ("4", Fraction(4)),
        ("500m", Fraction(1, 2)),
        ("0.1", Fraction(1, 10)),
        (".5", Fraction(1, 2)),
        ("1.", Fraction(1)),
        ("1.5Gi", Fraction(3, 2) * 2**30),
        ("1Ki", Fraction(1024)),
        ("1k", Fraction(1000)),
        ("2E", Fraction(2 * 10**18)),
        ("2e3", Fraction(2000)),
        ("2E3", Fraction(2000)),
        ("12e-1", Fraction(6, 5)),
        ("1n", Fraction(1, 10**9)),
        ("0.5n", Fraction(1, 10**9)),
        ("+3", Fraction(3)),
        ("-0", Fraction(0)),
        ("9223372036854775807", Fraction(2**63 - 1)),
    ],
)
def test_a_quantity_is_exact(value: str, number: Fraction) -> None:
    assert parse(value) == number


@pytest.mark.parametrize(
    "value",
    ["", " 1", "1 ", "one", "1K", "1gi", "1kk", "-1", "1e", "1e3.5", ".", "1,5", "٣", "9223372036854775808", "1" * 99],
)
def test_what_is_no_quantity_is_refused(value: str) -> None:
    with pytest.raises(BadQuantity):
        parse(value)


def test_one_resource_has_one_name() -> None:
    assert resource("cpu") == resource("requests.cpu") == "requests.cpu"
    for name in (
        *("limits.memory", "pods", "count/deployments.apps", "requests.storage", "services.loadbalancers"),
        *("requests.nvidia.com/gpu", "gold.storageclass.storage.k8s.io/requests.storage"),
    ):
        assert resource(name) == name
    assert resource("hugepages-2Mi") == "requests.hugepages-2Mi"
    assert container_resource("nvidia.com/gpu") == "nvidia.com/gpu"


@pytest.mark.parametrize("name", ["", "disk", "limits.pods", "requests.pods", "count/", "nvidia.com/gpu", "cpu "])
def test_what_a_quota_cannot_limit_is_refused(name: str) -> None:
    with pytest.raises(BadQuantity):
        resource(name)


def test_a_container_asks_for_compute_only() -> None:
    with pytest.raises(BadQuantity):
        container_resource("pods")
