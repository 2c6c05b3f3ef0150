# SPDX-License-Identifier: Apache-2.0
"""What all resources share: times, pages with cursors, ETags, and the checks of free text and lives."""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Final, TypeVar

import msgspec
from litestar.params import HeaderParameter, PathParameter, QueryParameter
from msgspec import Meta

from mooring.api.problems import Problem, invalid, quoted
from mooring.lib.clock import rfc3339
from mooring.lib.names import InvalidName
from mooring.store.ports import Paging
from mooring.store.records import Page

MAX_LABELS: Final = 64
Out = TypeVar("Out")
Record = TypeVar("Record")
Named = tuple[str, str]
"""Id and name."""

# Text that people write; the pattern of characters is checked by check_text.
Description = Annotated[str, Meta(max_length=1024)]
Ref = Annotated[str, Meta(min_length=1, max_length=253)]
Ttl = Annotated[int, Meta(ge=60)]

PathRef = Annotated[str, PathParameter(max_length=253, description="Id or name.")]
NameFilter = Annotated[str | None, QueryParameter(max_length=253, required=False)]
Flag = Annotated[bool | None, QueryParameter(required=False)]
Limit = Annotated[int, QueryParameter(ge=1, le=500, description="Items on a page.", required=False)]
Cursor = Annotated[
    str | None, QueryParameter(max_length=2048, description="`next` of the page before.", required=False)
]
IfMatch = Annotated[
    str | None,
    HeaderParameter(
        name="If-Match", max_length=1024, description="Do it only if the ETag is still this one.", required=False
    ),
]

_LABEL_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_LABEL_PREFIX: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


class Input(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of request bodies: a field that is not known is an error, so that a typing mistake is not lost."""


class Output(msgspec.Struct, kw_only=True):
    """Base of response bodies."""


def time_text(seconds: float | None) -> str | None:
    """A time as RFC 3339 in UTC."""
    return None if seconds is None else rfc3339(seconds)


def paging(limit: int, cursor: str | None, keys: type[str] | tuple[type, ...] = str) -> Paging:
    """The page that the parameters ask for. `keys` are the types of the sort key. Raises Problem for a bad cursor."""
    if cursor is None:
        return Paging(limit)
    kinds = keys if isinstance(keys, tuple) else (keys,)
    try:
        after = msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=tuple[str, ...])
        if len(after) != len(kinds):
            raise ValueError(cursor)
        for kind, value in zip(kinds, after, strict=True):
            kind(value)
            value.encode()
            if "\0" in value:
                raise ValueError(cursor)
    except (msgspec.MsgspecError, ValueError, binascii.Error):
        raise invalid("cursor", "is not from a page of this list") from None
    return Paging(limit, after)


def next_cursor(page: Page[Record]) -> str | None:
    """The opaque cursor of the page that follows."""
    if page.next is None:
        return None
    return base64.urlsafe_b64encode(msgspec.json.encode(page.next)).decode().rstrip("=")


def etag(version: int) -> str:
    """The strong ETag of a version."""
    return f'"{version}"'


def check_match(if_match: str | None, version: int) -> None:
    """Raises 412 unless `If-Match` (RFC 9110, 13.1.1) is missing, `*` or names this version."""
    if if_match is None or if_match.strip() == "*":
        return
    if etag(version) not in {tag.strip() for tag in if_match.split(",")}:
        raise Problem(
            412,
            "changed_meanwhile",
            f"the object is at version {version} now",
            hint="read it again, look at the change and repeat with its new ETag",
        )


def check_text(field: str, value: str) -> str:
    """Free text without control characters other than line feeds and tabs. Raises 422."""
    for char in value:
        if unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t":
            raise invalid(field, f"holds the control character U+{ord(char):04X}")
    return value


def check_ref(field: str, value: str) -> str:
    """A value to look something up by: it cannot hold what no name and no id holds. Raises 422."""
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in value):
        raise invalid(field, "holds a control character")
    return value


def check_labels(labels: dict[str, str], field: str = "labels") -> dict[str, str]:
    """Labels as Kubernetes has them (https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/)."""
    if len(labels) > MAX_LABELS:
        raise invalid(field, f"at most {MAX_LABELS} labels are allowed")
    for key, value in labels.items():
        prefix, slash, name = key.rpartition("/")
        if not _LABEL_NAME.fullmatch(name) or (slash and not (len(prefix) <= 253 and _LABEL_PREFIX.fullmatch(prefix))):
            raise invalid(field, f"{key!r} is not a Kubernetes label key")
        if value and not _LABEL_NAME.fullmatch(value):
            raise invalid(f"{field}.{key}", f"{value!r} is not a Kubernetes label value")
    return labels


def named(field: str, check: Callable[[str, str], str], value: str, what: str) -> str:
    """Run a check of mooring.lib.names; its error becomes a 422 that names the field."""
    try:
        return check(value, what)
    except InvalidName as error:
        raise invalid(field, str(error)) from None


async def found(what: str, ref: str, get: Callable[[str], Awaitable[Record | None]]) -> Record:
    """The record, or 404."""
    record = await get(check_ref("ref", ref))
    if record is None:
        raise Problem(404, "not_found", f"there is no {what} {quoted(ref)}")
    return record


async def named_all(
    field: str, what: str, refs: Sequence[str], look_up: Callable[[Sequence[str]], Awaitable[Mapping[str, Named]]]
) -> list[Named]:
    """What a list in the body names, all at once, in its order; or 422."""
    for ref in refs:
        check_ref(field, ref)
    known = await look_up(refs)
    for ref in refs:
        if ref not in known:
            raise invalid(field, f"there is no {what} {quoted(ref)}")
    return [known[ref] for ref in refs]


async def named_by(field: str, what: str, ref: str, get: Callable[[str], Awaitable[Record | None]]) -> Record:
    """The record that a field of the body names, or 422."""
    record = await get(check_ref(field, ref))
    if record is None:
        raise invalid(field, f"there is no {what} {quoted(ref)}")
    return record
