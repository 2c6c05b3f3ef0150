# SPDX-License-Identifier: Apache-2.0
"""Identifiers: random, short enough to read out, and recognisable by their prefix. They are not secrets."""

from __future__ import annotations

import os
import random
import re
from typing import Final

_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"  # RFC 4648 base32, lower case
_LENGTH: Final = 12
_ID: Final = re.compile(r"[a-z]{1,8}-[a-z2-7]{12}")


def new_id(prefix: str) -> str:
    """A new identifier: the prefix, a hyphen and 12 base32 characters (60 random bits)."""
    number = int.from_bytes(os.urandom(8), "big")
    return prefix + "-" + "".join(_ALPHABET[(number >> (5 * i)) & 31] for i in range(_LENGTH))


def is_id(value: str, prefix: str) -> bool:
    """Whether the value has the form that `new_id(prefix)` gives."""
    return value.startswith(prefix + "-") and _ID.fullmatch(value) is not None


def request_id() -> str:
    """A new request identifier: 32 hexadecimal characters (128 random bits). Nothing depends on nobody guessing it, so
    that it does not cost a system call."""
    return random.getrandbits(128).to_bytes(16, "big").hex()
