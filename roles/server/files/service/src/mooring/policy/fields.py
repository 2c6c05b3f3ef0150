# SPDX-License-Identifier: Apache-2.0
"""The fields that roles, projects and bindings have in common: names and texts, checked in one way.

A name of these becomes part of the names of Kubernetes objects and of paths of our API, so it is as narrow as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from mooring.lib.ids import is_id
from mooring.policy.rules import PolicyRefused

MAX_DESCRIPTION: Final = 1024
MAX_LABELS: Final = 64
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
_LABEL_KEY: Final = re.compile(
    r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", re.ASCII
)
_LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?", re.ASCII)


def check_plain_name(value: str, field: str, what: str, id_prefix: str) -> None:
    """A name: a DNS label (RFC 1123) that has not the form of an id. Raises PolicyRefused."""
    if _NAME.fullmatch(value) is None:
        raise PolicyRefused(
            field,
            f"{value!r} is no name of a {what}",
            hint="use 1 to 63 lower-case letters, digits and hyphens; begin and end with a letter or digit",
        )
    if is_id(value, id_prefix):
        raise PolicyRefused(field, f"{value!r} has the form of an id", hint="choose another name")


def check_description(value: str, field: str) -> None:
    """A text for people: bounded, on lines of printable characters. Raises PolicyRefused."""
    if len(value) > MAX_DESCRIPTION:
        raise PolicyRefused(field, f"it is longer than {MAX_DESCRIPTION} characters")
    for char in value:
        if not char.isprintable() and char != "\n":
            raise PolicyRefused(field, f"it holds the control character U+{ord(char):04X}", hint="remove it")


def check_selector(selector: Mapping[str, str], field: str) -> None:
    """Labels that a cluster must have. Raises PolicyRefused."""
    if len(selector) > MAX_LABELS:
        raise PolicyRefused(field, f"at most {MAX_LABELS} labels can be asked for")
    for key, value in selector.items():
        if _LABEL_KEY.fullmatch(key) is None or _LABEL_VALUE.fullmatch(value) is None:
            raise PolicyRefused(field, f"{key!r}: {value!r} is no label of Kubernetes")
