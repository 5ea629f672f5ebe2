# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers as text: facts line by line, lists as tables that fit the terminal. Nothing here prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

#: Shown for what is not known or not there.
NOTHING: Final = "-"
_GAP: Final = "  "
#: A column is not made narrower than this.
_NARROWEST: Final = 8

#: Adds colour to a cell: column, text as it will stand there.
Paint = Callable[[str, str], str]


def plain(_column: str, text: str) -> str:
    """No colour."""
    return text


def text_of(answer: Mapping[str, Any], width: int | None = None, paint: Paint = plain) -> str:
    """An answer's text: its lists of records become tables, the rest is facts above them."""
    facts = {name: value for name, value in answer.items() if not _is_rows(value)}
    tables = [value for value in answer.values() if _is_rows(value)]
    parts = [facts_text(facts, paint)] if facts else []
    parts += [table_text(rows, width, paint) for rows in tables]
    return "\n".join(part for part in parts if part)


def facts_text(facts: Mapping[str, Any], paint: Paint = plain) -> str:
    """One line for each fact, their values in line."""
    if not facts:
        return ""
    widest = max(len(name) for name in facts) + 1
    lines = []
    for name, value in facts.items():
        label = f"{name.replace('_', ' ')}:"
        lines.append(f"{label:<{widest}} {paint(name, cell(value))}\n")
    return "".join(lines)


def table_text(rows: Sequence[Mapping[str, Any]], width: int | None = None, paint: Paint = plain) -> str:
    """A table of records that have the same fields, no line of it longer than `width`."""
    if not rows:
        return ""
    columns = list(rows[0])
    cells = [[cell(row.get(column)) for column in columns] for row in rows]
    titles = [column.replace("_", " ").upper() for column in columns]
    widths = [max(len(line[number]) for line in (titles, *cells)) for number in range(len(columns))]
    _fit(widths, width)
    is_number = [all(_is_number(row.get(column)) for row in rows) for column in columns]

    def line(texts: Sequence[str], colour: Paint) -> str:
        parts = []
        for column, text, room, right in zip(columns, texts, widths, is_number, strict=True):
            text = text if len(text) <= room else f"{text[: room - 1]}…"
            padding = " " * (room - len(text))
            painted = colour(column, text)
            parts.append(padding + painted if right else painted + padding)
        return _GAP.join(parts).rstrip() + "\n"

    return line(titles, plain) + "".join(line(each, paint) for each in cells)


def cell(value: object) -> str:
    """A value as it is read by people."""
    match value:
        case None | "":
            return NOTHING
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6f}".rstrip("0").rstrip(".")
        case str():
            return value
        case Mapping():
            return ", ".join(f"{name} {cell(each)}" for name, each in value.items()) or NOTHING
        case Sequence():
            return ", ".join(cell(each) for each in value) or NOTHING
        case _:
            return str(value)


def span(seconds: float) -> str:
    """A length of time, in its two largest units."""
    whole = max(0, int(seconds))
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for number, (unit, size) in enumerate(units):
        if whole >= size:
            count, rest = divmod(whole, size)
            if unit == "s" or not rest // units[number + 1][1]:
                return f"{count} {unit}"
            smaller, size = units[number + 1]
            return f"{count} {unit} {rest // size} {smaller}"
    return f"{max(0.0, seconds):.1f} s"


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, Mapping) for each in value)


def _fit(widths: list[int], width: int | None) -> None:
    """Make the widest columns narrower until a line fits, or nothing more can be taken away."""
    if width is None:
        return
    while sum(widths) + len(_GAP) * (len(widths) - 1) > width:
        widest = max(range(len(widths)), key=lambda number: widths[number])
        if widths[widest] <= _NARROWEST:
            return
        widths[widest] -= 1
