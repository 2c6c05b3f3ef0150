# SPDX-License-Identifier: Apache-2.0
"""The rules for names of users, groups and clusters, applied wherever a name enters.

User and group names travel to Kubernetes inside `Impersonate-*` headers and are printed on terminals and in logs, so a
name that could forge a header, a log line or a built-in Kubernetes identity is refused here, once, for every source.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from mooring.lib.errors import MooringError
from mooring.lib.ids import is_id

MAX_NAME_BYTES: Final = 253
CLUSTER_ID_PREFIX: Final = "c"

# Control characters (C0, DEL, C1), line and paragraph separators, and lone surrogates, which are not UTF-8.
_REFUSED_CATEGORIES: Final = frozenset({"Cc", "Zl", "Zp", "Cs"})
# Unicode bidirectional controls (UAX #9): they change how the text around a name is displayed.
_BIDI: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# A token of ours, or the beginning of one (`authn.tokens`), or a JWT, such as a service account's (RFC 7519).
_TOKEN: Final = re.compile(
    r"(?i:mr[gje]_[tje]-[a-z2-7]{12}_)|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}", re.ASCII
)
# Format characters (joiners, zero-width spaces) and marks that stand on the letter before them.
_UNSEEN_CATEGORIES: Final = frozenset({"Cf", "Mn", "Me"})
_LOOKS_LIKE: Final = {
    like: latin
    for latin, likes in {
        "a": "\u0430\u03b1\u0251",
        "c": "\u0441\u03f2",
        "d": "\u0501",
        "e": "\u0435",
        "i": "\u0456\u03b9\u0131\u04cf",
        "m": "\u043c\u1d0d",
        "n": "\u0578\u1d0e",
        "o": "\u043e\u03bf",
        "p": "\u0440\u03c1",
        "s": "\u0455\ua731",
        "t": "\u0442\u03c4\u1d1b",
        "u": "\u03c5\u057d",
        "y": "\u0443\u04af\u03b3",
        ":": "\ua789\u02d0\u2236\u05c3\u0589\u2806\u1806",
    }.items()
    for like in likes
}
RESERVED_NAMES: Final = frozenset({"admins"})
"""Names of built-in groups: nobody else may have one that looks the same."""
_DNS_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class InvalidName(MooringError, ValueError):
    """A name breaks a rule; `reason` says which one, with the name quoted so that it cannot forge a line."""


def check_name(value: str, what: str) -> str:
    """Returns the name of a user or group unchanged, or raises `InvalidName`.

    `what` names the thing in the error, such as `user name`. Names that begin with `system:` belong to Kubernetes
    (https://kubernetes.io/docs/reference/access-authn-authz/rbac/#referring-to-subjects).
    """
    if not value:
        raise InvalidName(f"the {what} is empty", "give at least one character")
    for char in value:
        if unicodedata.category(char) in _REFUSED_CATEGORIES or char in _BIDI:
            raise InvalidName(f"the {what} holds the control character U+{ord(char):04X}", "remove it")
    size = len(value.encode())
    if size > MAX_NAME_BYTES:
        raise InvalidName(f"the {what} is {size} bytes long", f"at most {MAX_NAME_BYTES} bytes of UTF-8 are allowed")
    if value != value.strip():
        raise InvalidName(f"the {what} {value!r} begins or ends with a space", "remove the space")
    plain = skeleton(value)
    if plain.startswith("system:"):
        raise InvalidName(f"the {what} {value!r} begins with 'system:'", "Kubernetes keeps these names for itself")
    if plain in RESERVED_NAMES and value not in RESERVED_NAMES:
        raise InvalidName(f"the {what} {value!r} looks like the built-in {plain!r}", "choose another name")
    if holds_token(value):
        raise InvalidName(f"the {what} holds a token", "give the name; and revoke that token if it was shown to others")
    return value


def skeleton(value: str) -> str:
    """What a name looks like to a person: two names with one skeleton are twins, and who reads takes one for the other.

    Compatibility forms, case, invisible characters, accents, and the Cyrillic and Greek letters that look like Latin
    ones are levelled (after Unicode TR 39, for the letters that our reserved names have). Names are never changed to
    it: it is only compared.
    """
    if value.isascii():
        return value.casefold()
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", value).casefold())
    return "".join(
        _LOOKS_LIKE.get(char, char) for char in folded if unicodedata.category(char) not in _UNSEEN_CATEGORIES
    )


def holds_token(value: str) -> bool:
    """Whether something that looks like a token stands anywhere in a name: it would go into audit logs."""
    return _TOKEN.search(value) is not None


def check_cluster_name(value: str, what: str = "cluster name") -> str:
    """Returns the name of a cluster unchanged, or raises `InvalidName`.

    A cluster name is a DNS label (RFC 1123, at most 63 characters), since it is part of URLs and of kubeconfig
    contexts, and must not look like a cluster id, since both are looked up in the same place.
    """
    if not _DNS_LABEL.fullmatch(value):
        raise InvalidName(
            f"the {what} {value!r} is not a DNS label",
            "use 1 to 63 lower-case letters, digits and hyphens; begin and end with a letter or digit",
        )
    if is_id(value, CLUSTER_ID_PREFIX):
        raise InvalidName(f"the {what} {value!r} has the form of a cluster id", "choose another name")
    return value
