# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables fit the terminal, and lose nothing where there is none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctdbpy.cli.tables import facts_text, span, table_text, text_of

ROWS = [
    {"pnn": 0, "state": "OK", "reason": "no event script says otherwise", "well": True},
    {"pnn": 12, "state": "BANNED", "reason": None, "well": False},
]


def test_columns_stand_under_their_titles_and_numbers_to_the_right() -> None:
    assert table_text(ROWS) == (
        "PNN  STATE   REASON                          WELL\n"
        "  0  OK      no event script says otherwise  yes\n"
        " 12  BANNED  -                               no\n"
    )


def test_the_widest_column_gives_way() -> None:
    assert table_text(ROWS, 40).splitlines() == [
        "PNN  STATE   REASON                 WELL",
        "  0  OK      no event script says…  yes",
        " 12  BANNED  -                      no",
    ]


def test_colour_does_not_count_as_width() -> None:
    painted = table_text(ROWS, None, lambda column, text: f"<{text}>" if column == "state" else text)
    assert painted.replace("<", "").replace(">", "") == table_text(ROWS)
    assert "<BANNED>" in painted and "<STATE>" not in painted


_CELL = st.none() | st.booleans() | st.integers(0, 10**6) | st.text(st.characters(codec="ascii"), max_size=40)


@given(st.lists(st.fixed_dictionaries(dict.fromkeys("abcd", _CELL)), min_size=1), st.integers(45, 120))
def test_no_line_is_longer_than_the_terminal(rows: list[dict[str, Any]], width: int) -> None:
    for row in rows:
        for name, each in row.items():
            row[name] = "".join(filter(str.isprintable, each)) if isinstance(each, str) else each
    assert all(len(line) <= width for line in table_text(rows, width).splitlines())


def test_facts_come_before_lists() -> None:
    answer = {"nodes": ROWS, "leader": 1, "last_recovery": None, "empty": []}
    facts = "leader:        1\nlast recovery: -\nempty:         -\n"
    assert text_of(answer) == facts + "\n" + table_text(ROWS)
    assert facts_text({"a": [1, 2], "b": {"min": 0.25, "max": 3.0}}) == "a: 1, 2\nb: min 0.25, max 3\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0.0 s"),
        (0.25, "0.2 s"),
        (1, "1 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (7325, "2 h 2 min"),
        (86400 + 7200, "1 d 2 h"),
        (86400 * 3 + 5, "3 d"),
    ],
)
def test_spans_have_two_units_at_most(seconds: float, text: str) -> None:
    assert span(seconds) == text
