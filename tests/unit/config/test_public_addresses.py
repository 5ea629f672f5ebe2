# SPDX-License-Identifier: GPL-3.0-or-later
"""The public_addresses file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctdbpy.config.public_addresses import PublicAddress, load_public_addresses, parse_public_addresses
from ctdbpy.errors import ConfigError


def test_a_line_is_an_address_with_its_prefix_and_interfaces() -> None:
    text = "# floating\n\n10.1.1.1/24 eth0\n  2001:DB8::1/64\teth1,bond0.7 \r\n"
    assert parse_public_addresses(text, "file") == (
        PublicAddress("10.1.1.1", 24, ("eth0",)),
        PublicAddress("2001:db8::1", 64, ("eth1", "bond0.7")),
    )


@pytest.mark.parametrize("text", ["", "\n \n", "# none\n"])
def test_a_file_without_addresses_means_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text(text)
    assert load_public_addresses(tmp_path / "file") == ()


def test_a_missing_file_means_none(tmp_path: Path) -> None:
    assert load_public_addresses(tmp_path / "file") == ()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("10.1.1.1 eth0", "the prefix length is missing"),
        ("10.1.1.1/33 eth0", "'33' is not a prefix length from 0 to 32"),
        ("10.1.1.1/255.255.255.0 eth0", "not a prefix length"),
        ("10.1.1.1/٣ eth0", "not a prefix length"),
        ("10.1.1.1/ eth0", "not a prefix length"),
        ("::1/129 eth0", "from 0 to 128"),
        ("nas/24 eth0", "host names are not looked up"),
        ("10.1.1.1/24", "the interface is missing"),
        ("10.1.1.1/24 eth0 eth1", "divide them by commas"),
        ("10.1.1.1/24 eth0,", "'' cannot be an interface name"),
        ("10.1.1.1/24 fifteen-letters", None),
        ("10.1.1.1/24 an-interface-name-too-long", "cannot be an interface name"),
        ("10.1.1.1/24 eth0,eth0", "named twice"),
    ],
)
def test_a_wrong_line_is_refused_with_its_number_and_reason(line: str, why: str | None) -> None:
    if why is None:
        assert len(parse_public_addresses(line, "file")) == 1
        return
    with pytest.raises(ConfigError) as caught:
        parse_public_addresses(f"\n{line}\n", "file")
    assert f"file:2: '{line}' is not valid: " in str(caught.value)
    assert why in str(caught.value)


def test_an_address_may_stand_there_only_once() -> None:
    with pytest.raises(ConfigError, match=r"file:2: '10\.1\.1\.1' is there already"):
        parse_public_addresses("10.1.1.1/24 eth0\n10.1.1.1/16 eth1\n", "file")
