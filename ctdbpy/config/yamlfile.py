# SPDX-License-Identifier: GPL-3.0-or-later
"""A YAML text as a tree of texts, each with its line.

What a value means is for the reader of each setting to say, so nothing is guessed here: `no` stays 'no' and
`010` stays '010'. Aliases are refused; a mapping has each key once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import yaml

from ctdbpy.errors import ConfigError

_NULL: Final = "tag:yaml.org,2002:null"


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value as it is written, without quotes; `is_null`: nothing is written there, or `null`."""

    line: int
    text: str
    is_null: bool = False


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    line: int
    items: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys with values, in the order of the file."""

    line: int
    entries: tuple[tuple[Scalar, Tree], ...]

    def __iter__(self) -> Iterator[tuple[Scalar, Tree]]:
        return iter(self.entries)


Tree = Scalar | Sequence | Mapping


def parse_yaml(text: str, source: str) -> Tree:
    """The tree of a text called `source` in errors; an empty text is an empty mapping. Raises ConfigError."""
    try:
        node = _Loader(text).get_single_node()
        return Mapping(1, ()) if node is None else _tree(node, source)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise ConfigError(f"cannot read '{source}:{line}': {_reason(error)}") from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise ConfigError(
            f"cannot read '{source}:{line}': character #x{error.character:04x} may not stand in a YAML file; "
            "remove it"
        ) from None
    except RecursionError:
        raise ConfigError(f"cannot read '{source}:1': lists stand in each other too deeply") from None


def kind_of(tree: Tree) -> str:
    """What a reader of the file sees there."""
    match tree:
        case Scalar(_, text, is_null):
            return "nothing" if is_null else f"'{text}'"
        case Sequence():
            return "a list"
        case Mapping():
            return "names with values"


class _Loader(yaml.SafeLoader):
    """Composes nodes without aliases: shared parts would hide which line a value stands on.

    In Python: libyaml is ten times as fast, but knows no limit for lists that stand in each other, and files
    that come from elsewhere are read in the daemon.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(
                None,
                None,
                "an alias ('*') cannot be used; write the value out",
                self.peek_event().start_mark,  # type: ignore[no-untyped-call]
            )
        return super().compose_node(parent, index)


def _tree(node: yaml.Node, source: str) -> Tree:
    line = node.start_mark.line + 1
    match node:
        case yaml.ScalarNode():
            return Scalar(line, node.value, node.tag == _NULL)
        case yaml.SequenceNode():
            return Sequence(line, tuple(_tree(each, source) for each in node.value))
        case yaml.MappingNode():
            return Mapping(line, tuple(_entries(node, source)))
    raise AssertionError(f"unknown node {node}")


def _entries(node: yaml.MappingNode, source: str) -> Iterator[tuple[Scalar, Tree]]:
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        key = _tree(key_node, source)
        if not isinstance(key, Scalar):
            raise ConfigError(
                f"cannot read '{source}:{key.line}': {kind_of(key)} cannot be a name; write one"
            )
        if key.text in seen:
            raise ConfigError(
                f"cannot read '{source}:{key.line}': '{key.text}' stands on line {seen[key.text]} already; "
                "remove one of them"
            )
        seen[key.text] = key.line
        yield key, _tree(value_node, source)


def _reason(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "it is not YAML"
    if "'\\t'" in problem:
        return "a tab stands where only blanks may; indent with blanks"
    hint = f" ({error.context})" if error.context else ""
    return f"{problem}{hint}; mend the YAML"
