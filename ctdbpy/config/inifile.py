# SPDX-License-Identifier: GPL-3.0-or-later
"""The line syntax shared by ctdb.conf and ctdb.tunables.

`[section]`, `name = value`, whole-line comments with `#` or `;`, continuation by a backslash at the end of
a line, runs of blanks count as one. A `#` inside a value belongs to the value.
Source: observed from ctdb-config 4.17 with the inputs of tests/unit/config/test_inifile.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_BLANKS = re.compile(r"[ \t\r\f\v]+")


@dataclass(frozen=True, slots=True)
class Section:
    """A `[name]` line; the name is kept as written."""

    line: int
    name: str


@dataclass(frozen=True, slots=True)
class Option:
    """A `name = value` line; `value` is None when there is no equals sign."""

    line: int
    name: str
    value: str | None


@dataclass(frozen=True, slots=True)
class Malformed:
    """A line that is neither; upstream silently stops reading the file here."""

    line: int
    text: str
    reason: str


Item = Section | Option | Malformed


def parse_items(text: str) -> Iterator[Item]:
    """Yield what each line says, in file order; a continued line has the number of its first, from 1."""
    for number, line in _joined_lines(text):
        if line.startswith("["):
            name, bracket, _rest = line[1:].partition("]")
            if bracket:
                yield Section(number, name)
            else:
                yield Malformed(number, line, "a section needs a closing ']'")
            continue
        name, equals, value = line.partition("=")
        if not name.strip():
            yield Malformed(number, line, "there is no name before the '='")
        else:
            yield Option(number, name.strip(), value.strip() if equals else None)


def _joined_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, line) without comments and empty lines, continuations joined, blanks squeezed."""
    lines = enumerate(text.split("\n"), start=1)
    for number, raw in lines:
        line = _BLANKS.sub(" ", raw).lstrip(" ")
        if not line or line[0] in "#;":
            continue
        while line.rstrip(" ").endswith("\\"):
            _, following = next(lines, (0, ""))
            line = _BLANKS.sub(" ", line.rstrip(" ")[:-1] + following)
        yield number, line.strip(" ")
