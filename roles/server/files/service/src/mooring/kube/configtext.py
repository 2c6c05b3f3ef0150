# SPDX-License-Identifier: Apache-2.0
"""The text of kubeconfig files: read and written so that it says the same to everybody.

Why not YAML as it comes: client-go's YAML (go-yaml 2) and ours do not take the same bare words for numbers, dates and
truth values. A cluster called `1e3` or a token `0123e4` would be a number there, `12:30` one here. So a string that
could be taken for anything else is written in quotes; and a word of somebody else's that is there without them, and
that not all read alike, is written as it stood.

It must not: know what stands in such a file, or open one.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from typing import Any, Final

import yaml

MAX_SIZE: Final = 16 * 1024 * 1024
"""Bytes of a file that is read."""
_TAG: Final = "tag:yaml.org,2002:"
_ALIKE: Final = {_TAG + kind for kind in ("bool", "null", "merge")}
_NUMERIC: Final = list("-+.0123456789")
_INT: Final = re.compile(r"^-?(?:[1-9][0-9]*|0)$")
_DOUBTFUL: Final = re.compile(r"^(?:[-+.0-9][0-9A-Za-z_.+:-]*|[yYnN=])$")
_CURRENT: Final = re.compile(rb"^current-context:[^\n]*\n", re.MULTILINE)


class BadText(Exception):
    """Not the text of one document with a mapping at its top. The text says why, and where."""


class _Bare(str):
    """A word that stood without quotes, and that not everybody takes for a string."""

    __slots__ = ()


class _Loader(yaml.SafeLoader):
    """Reads what nobody doubts, leaves doubtful words as they are, and refuses a key that is there twice: one of the
    two would be lost."""

    def construct_yaml_str(self, node: yaml.ScalarNode) -> str:
        text = str(self.construct_scalar(node))
        return _Bare(text) if node.style is None and _DOUBTFUL.match(text) else text

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _unused in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _TAG + "merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is there twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes in quotes what could be read as something other than a string."""

    def bare(self, text: _Bare) -> yaml.ScalarNode:
        tag = self.resolve(yaml.ScalarNode, str(text), (True, False))  # type: ignore[no-untyped-call]
        return yaml.ScalarNode(tag, str(text))


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _ALIKE]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_TAG + "int", _INT, _NUMERIC)
_Loader.add_constructor(_TAG + "str", _Loader.construct_yaml_str)
_Dumper.add_implicit_resolver(_TAG + "float", _DOUBTFUL, [*_NUMERIC, *"yYnN="])
_Dumper.add_representer(_Bare, _Dumper.bare)


def load(data: bytes) -> dict[str, Any] | None:
    """The document of a file; None: it is empty. Raises BadText."""
    if len(data) > MAX_SIZE:
        raise BadText(f"it is larger than {MAX_SIZE // 1024 // 1024} MiB")
    try:
        found = yaml.load(data, _Loader)  # noqa: S506  (a SafeLoader)
    except yaml.composer.ComposerError as error:
        if error.context and "single document" in error.context:
            raise BadText("it holds more than one document") from None
        raise BadText(_where(error)) from None
    except yaml.YAMLError as error:
        raise BadText(_where(error)) from None
    except (RecursionError, ValueError) as error:
        raise BadText(f"it is not YAML that can be read: {error}") from None
    if found is None:
        return None
    if not isinstance(found, dict):
        raise BadText("it holds no mapping")
    return found


def dump(document: Mapping[str, Any]) -> str:
    """The text of a document."""
    return yaml.dump(dict(document), Dumper=_Dumper, sort_keys=False, width=2**20, allow_unicode=True)


def changed(data: bytes, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The text of `new`, made of the text of `old` where only the current context differs: the rest stays as people
    wrote it, comments too."""
    keys = old.keys() | new.keys()
    if {key for key in keys if old.get(key) != new.get(key)} == {"current-context"}:
        line = dump({"current-context": new["current-context"]}).encode()
        text, count = _CURRENT.subn(lambda _match: line, data)
        try:
            if count == 1 and load(text) == new:
                return text.decode()
        except (BadText, UnicodeDecodeError):
            pass
    return dump(new)


def _where(error: yaml.YAMLError) -> str:
    """What is wrong and where, without a piece of the file: it may be of a secret."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem or 'it is not YAML'}"
    if isinstance(error, yaml.reader.ReaderError):
        return f"at character {error.position}: {error.reason}"
    return "it is not YAML"
