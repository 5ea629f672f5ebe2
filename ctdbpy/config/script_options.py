# SPDX-License-Identifier: GPL-3.0-or-later
"""script.options and NAME.options: shell text, of which assignments can be understood without a shell.

Source: ctdb-script.options(5). Only files that assign plain values are taken over; whatever a shell would
have to work out (other variables, commands, conditions) is refused with its line.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from typing import Final

from ctdbpy.config.cluster_file import EVERY_SCRIPT, ScriptOption
from ctdbpy.config.values import Invalid
from ctdbpy.errors import ConfigError

_ASSIGNMENT: Final = re.compile(r"(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")
_BASE: Final = re.compile(r"\$(?:CTDB_BASE\b|\{CTDB_BASE\})")
_SHELLS_OWN: Final = frozenset("$`&|<>()!")


def parse_script_options(text: str, source: str, base: str) -> tuple[tuple[int, str, str], ...]:
    """Return (line, name, value) of each assignment; `base` is what $CTDB_BASE stands for.

    Raises ConfigError that lists every line that is more than an assignment.
    """
    found: list[tuple[int, str, str]] = []
    problems: list[str] = []
    for number, line in _lines(text):
        match = _ASSIGNMENT.fullmatch(line)
        try:
            if match is None:
                raise Invalid("only lines NAME=VALUE can be taken over; keep the rest in an event script")
            found.append((number, match.group(1), _value(match.group(2), base)))
        except Invalid as error:
            problems.append(f"{source}:{number}: '{line}': {error}")
    if problems:
        raise ConfigError("cannot take over the script options: " + "\n".join(problems))
    return tuple(found)


def script_options_text(options: Iterable[ScriptOption]) -> str:
    """A shell text that sets the options, those of one script where $_script is its name."""
    lines = ["# Made by ctdbpyd from the cluster file: change that one."]
    for option in options:
        assignment = f"{option.name}={shlex.quote(option.value)}"
        if option.script == EVERY_SCRIPT:
            lines.append(assignment)
        else:
            lines.append(f'[ "${{_script:-}}" != {shlex.quote(option.script)} ] || {assignment}')
    return "\n".join(lines) + "\n"


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines that say something, with their numbers; a backslash at the end continues one."""
    lines = enumerate(text.split("\n"), start=1)
    for number, raw in lines:
        line = raw.strip(" \t\r")
        if not line or line.startswith("#"):
            continue
        while line.endswith("\\"):
            _, following = next(lines, (0, ""))
            line = line[:-1] + following.strip("\r")
        yield number, line


def _value(text: str, base: str) -> str:
    """The value as the shell reads it. Raises Invalid when it would take a shell."""
    value: list[str] = []
    quote = ""
    position = 0
    while position < len(text):
        letter = text[position]
        found = _BASE.match(text, position) if quote != "'" else None
        if found:
            value.append(base)
            position = found.end()
            continue
        position += 1
        if letter == quote:
            quote = ""
        elif quote == "'":
            value.append(letter)
        elif letter == "\\":
            following = text[position : position + 1]
            if quote and following not in '"\\$`':
                value.append(letter)
            value.append(following)
            position += 1
        elif letter in "$`" or (not quote and (letter in _SHELLS_OWN or (letter == "~" and not value))):
            raise Invalid(f"what '{letter}' stands for is known to a shell only; write the value itself")
        elif quote:
            value.append(letter)
        elif letter in "'\"":
            quote = letter
        elif letter in " \t;":
            rest = text[position - 1 :].strip(" \t;")
            if rest and not rest.startswith("#"):
                raise Invalid("something follows the value; put quotes around it, or write one on a line")
            break
        else:
            value.append(letter)
    if quote:
        raise Invalid(f"the quote {quote} is not closed on the line")
    result = "".join(value)
    if not result.isprintable():
        raise Invalid("the value has a character that cannot be printed")
    return result
