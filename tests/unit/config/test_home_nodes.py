# SPDX-License-Identifier: GPL-3.0-or-later
"""The home_nodes file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctdbpy.config.home_nodes import load_home_nodes, parse_home_nodes
from ctdbpy.errors import ConfigError


def test_a_line_is_an_address_and_the_number_of_its_node() -> None:
    text = "# homes\n\n10.1.1.1 0\n  2001:DB8::1\t12 \r\n"
    assert parse_home_nodes(text, "file") == {"10.1.1.1": 0, "2001:db8::1": 12}


def test_a_missing_file_and_an_empty_one_mean_that_none_has_a_home(tmp_path: Path) -> None:
    assert load_home_nodes(tmp_path / "file") == {}
    (tmp_path / "file").write_text("\n")
    assert load_home_nodes(tmp_path / "file") == {}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("10.1.1.1", "write ADDRESS PNN"),
        ("10.1.1.1 0 1", "write ADDRESS PNN"),
        ("10.1.1.1/24 0", "'10.1.1.1/24'"),
        ("host 0", "'host'"),
        ("10.1.1.1 n0", "'n0' is not the number of a node"),
        ("10.1.1.1 -1", "'-1' is not the number of a node"),
        ("10.1.1.1 ٣", "is not the number of a node"),
        ("10.1.1.1 4294967295", "is not the number of a node"),
        ("10.1.1.1 0\n10.1.1.1 1", "'10.1.1.1' has a home already"),
    ],
)
def test_a_wrong_line_is_named(line: str, why: str) -> None:
    number = line.count("\n") + 2
    with pytest.raises(ConfigError) as caught:
        parse_home_nodes(f"# x\n{line}\n", "home_nodes")
    assert f"cannot load the home nodes: home_nodes:{number}: " in str(caught.value)
    assert why in str(caught.value)
