# SPDX-License-Identifier: Apache-2.0
"""Quantities of Kubernetes (`500m`, `1.5Gi`, `2e3`), exactly, and the resources that a quota can name.

Why: whether the quotas of a project's namespaces fit into the project's own is a sum, and a sum of rounded numbers lets
through what the API server counts as more. So a quantity is a fraction here, never a float.

Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Final

from mooring.lib.errors import MooringError

_QUANTITY: Final = re.compile(
    r"([+-]?)([0-9]{1,19}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?", re.ASCII
)
_BINARY: Final = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_NANO: Final = 10**9
_MOST: Final = 2**63 - 1

# What a ResourceQuota may limit (https://kubernetes.io/docs/concepts/policy/resource-quotas/).
_COUNTED: Final = frozenset(
    {
        *("configmaps", "persistentvolumeclaims", "pods", "replicationcontrollers", "resourcequotas", "secrets"),
        *("services", "services.loadbalancers", "services.nodeports"),
    }
)
_COMPUTE: Final = frozenset({"cpu", "ephemeral-storage", "memory"})
_SUBDOMAIN: Final = r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?"
_COUNT: Final = re.compile(rf"count/{_SUBDOMAIN}", re.ASCII)
_EXTENDED: Final = re.compile(rf"{_SUBDOMAIN}/[A-Za-z0-9](?:[A-Za-z0-9._-]{{0,61}}[A-Za-z0-9])?", re.ASCII)
_HUGEPAGES: Final = re.compile(r"hugepages-[1-9][0-9]{0,5}[KMG]i", re.ASCII)


class BadQuantity(MooringError, ValueError):
    """It is no quantity, or no name of a resource that can have one."""


def parse(value: str) -> Fraction:
    """The number that the quantity stands for, at Kubernetes' smallest unit (1n, rounded up). Raises BadQuantity for
    what is none, is negative, or is more than 2^63-1."""
    match = _QUANTITY.fullmatch(value)
    if match is None:
        raise BadQuantity(f"{value!r} is no quantity of Kubernetes", "write it like 4, 500m, 1.5, 512Mi or 20Gi")
    sign, digits, suffix = match[1], match[2], match[3] or ""
    number = Fraction(digits if not digits.endswith(".") else digits[:-1])
    if suffix in _BINARY:
        number *= 1024 ** _BINARY[suffix]
    elif suffix in _DECIMAL:
        number *= Fraction(10) ** _DECIMAL[suffix]
    else:
        number *= Fraction(10) ** int(suffix[1:])
    if sign == "-" and number:
        raise BadQuantity(f"{value!r} is less than nothing", "a quota is 0 or more")
    if number > _MOST:
        raise BadQuantity(f"{value!r} is more than Kubernetes can count", "at most 2^63-1")
    return Fraction(math.ceil(number * _NANO), _NANO)


def resource(name: str) -> str:
    """The name of a resource of a quota in the form in which two names of one thing are the same (`cpu` is
    `requests.cpu`). Raises BadQuantity for a name that a ResourceQuota cannot limit."""
    if name in _COMPUTE:
        return f"requests.{name}"
    if name in _COUNTED or _COUNT.fullmatch(name) or name == "requests.storage" or _HUGEPAGES.fullmatch(name):
        return f"requests.{name}" if name.startswith("hugepages-") else name
    kind, _unused, rest = name.partition(".")
    if kind in ("requests", "limits") and (rest in _COMPUTE or (kind == "requests" and _HUGEPAGES.fullmatch(rest))):
        return name
    if kind == "requests" and _EXTENDED.fullmatch(rest):
        return name  # an extended resource, as requests.nvidia.com/gpu
    if ".storageclass.storage.k8s.io/" in name and name.rpartition("/")[2] in (
        "requests.storage",
        "persistentvolumeclaims",
    ):
        return name
    raise BadQuantity(
        f"{name!r} is nothing that a quota can limit",
        "such as requests.cpu, limits.memory, pods, persistentvolumeclaims, count/deployments.apps",
    )


def container_resource(name: str) -> str:
    """The name of a resource that a container can ask for. Raises BadQuantity for another."""
    if name in _COMPUTE or _HUGEPAGES.fullmatch(name) or _EXTENDED.fullmatch(name):
        return name
    raise BadQuantity(f"{name!r} is nothing that a container can ask for", "such as cpu, memory, ephemeral-storage")
