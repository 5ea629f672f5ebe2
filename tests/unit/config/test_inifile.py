# SPDX-License-Identifier: GPL-3.0-or-later
"""The line syntax of ctdb.conf and ctdb.tunables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctdbpy.config.inifile import Item, Malformed, Option, Section, parse_items


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("[cluster]\nleader timeout = 6\n", [Section(1, "cluster"), Option(2, "leader timeout", "6")]),
        ("  leader   timeout=6", [Option(1, "leader timeout", "6")]),
        ("\tleader\ttimeout\t=\t6\r\n", [Option(1, "leader timeout", "6")]),
        ("# one\n; two\n\n  # three\na = b", [Option(5, "a", "b")]),
        ("a = b # not a comment", [Option(1, "a", "b # not a comment")]),
        ("a = b = c", [Option(1, "a", "b = c")]),
        ("a = !cmd x \\\n   y\nb = c", [Option(1, "a", "!cmd x y"), Option(3, "b", "c")]),
        ("a = x\\ \ny", [Option(1, "a", "xy")]),
        ("a = x\\\ny\\\nz", [Option(1, "a", "xyz")]),
        ("a = x\\", [Option(1, "a", "x")]),
        ("a =", [Option(1, "a", "")]),
        ("a", [Option(1, "a", None)]),
        (" [a] trailing", [Section(1, "a")]),
        ("", []),
    ],
)
def test_a_line_reads_as_upstream_reads_it(text: str, items: list[Item]) -> None:
    assert list(parse_items(text)) == items


@pytest.mark.parametrize(("text", "word"), [("[cluster\na = b", "']'"), (" = 3\na = b", "no name")])
def test_a_malformed_line_is_named_and_the_next_one_still_read(text: str, word: str) -> None:
    first, second = parse_items(text)
    assert isinstance(first, Malformed)
    assert first.line == 1
    assert word in first.reason
    assert second == Option(2, "a", "b")


@given(st.text(alphabet="a =[]#;\\\n\t\r"))
def test_any_text_yields_items_in_line_order(text: str) -> None:
    lines = [item.line for item in parse_items(text)]
    assert lines == sorted(set(lines))
    assert all(1 <= line <= text.count("\n") + 1 for line in lines)
