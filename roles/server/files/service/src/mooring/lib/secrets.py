# SPDX-License-Identifier: Apache-2.0
"""A string that must not be shown.

Exists so that a password, token or key cannot reach a log, a traceback or an answer by accident: only the explicit
`reveal()` gives the text away. It must not grow a way to be serialised.
"""

from __future__ import annotations

import hmac
from typing import Any, Final, NoReturn

REDACTED: Final = "<secret>"


class Secret:
    """A redacted string: `repr`, `str` and `format` show `<secret>`; compared in constant time; cannot be pickled."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The text itself. Call this at the last moment, where it leaves for its one right place."""
        return self._value

    def __repr__(self) -> str:
        return REDACTED

    def __str__(self) -> str:
        return REDACTED

    def __format__(self, spec: str) -> str:
        return format(REDACTED, spec)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    # A hash would let timing and dictionary probes tell secrets apart.
    __hash__ = None  # type: ignore[assignment]

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a Secret cannot be pickled")
