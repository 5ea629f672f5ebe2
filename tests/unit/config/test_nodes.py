# SPDX-License-Identifier: GPL-3.0-or-later
"""The nodes file, and which of its nodes this host is."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from ctdbpy.config.nodes import NodeAddress, find_own_node, load_nodes, node_port, parse_nodes
from ctdbpy.errors import ConfigError

THREE = (NodeAddress(0, "10.0.0.1"), NodeAddress(1, "0.0.0.0", deleted=True), NodeAddress(2, "10.0.0.3"))


def refuse(node: NodeAddress) -> str:
    raise OSError(99, "Cannot assign requested address")


def test_a_line_is_a_node_and_a_comment_a_deleted_one() -> None:
    assert parse_nodes("\n10.0.0.1\n\n#10.0.0.2\n 10.0.0.3\t\r\n\n", "nodes") == THREE


@pytest.mark.parametrize(
    ("line", "address"),
    [("2001:DB8::0:1", "2001:db8::1"), ("[::1]", "::1"), ("::ffff:192.0.2.1", "192.0.2.1")],
)
def test_addresses_are_brought_into_one_form(line: str, address: str) -> None:
    assert parse_nodes(line, "nodes") == (NodeAddress(0, address),)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it names no node"),
        ("#a\n#b\n", "it names no node"),
        ("10.0.0.1\n10.0.0.1\n", "nodes:2: '10.0.0.1' stands on line 1 already"),
        ("::1\n[0::1]\n", "nodes:2: '::1' stands on line 1 already"),
        ("node1\n", "nodes:1: 'node1' is not valid: host names are not looked up"),
        ("10.0.0.1:4379\n", "set the port by service"),
        ("10.0.0.1 # first\n", "a comment cannot follow"),
        ("10.0.0.1 10.0.0.2\n", "only one address"),
        ("10.0.0.256\n", "not a numeric"),
        ("fe80::1%eth0\n", "zone"),
    ],
)
def test_a_wrong_file_is_refused_with_line_and_reason(text: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_nodes(text, "nodes")
    assert why in str(caught.value)


def test_all_wrong_lines_are_reported_at_once() -> None:
    with pytest.raises(ConfigError, match=r"(?s)nodes:1: .*nodes:3: "):
        parse_nodes("a\n10.0.0.1\nb\n", "nodes")


def test_a_missing_file_is_refused_and_the_error_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; write it with the private address of every node"):
        load_nodes(tmp_path / "nodes")


def test_a_command_can_print_the_nodes(tmp_path: Path) -> None:
    script = tmp_path / "print-nodes"
    script.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    script.chmod(0o755)
    assert load_nodes(f"!{script} 10.0.0.1 \t#x 10.0.0.3") == THREE


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("echo no >&2; exit 3", "status 3 and said 'no'"),
        ("kill -9 $$", "status -9"),
        ("printf '\\377'", "not UTF-8"),
        ("echo x", "'x' is not valid"),
    ],
)
def test_a_command_that_fails_is_reported_with_what_it_said(tmp_path: Path, body: str, why: str) -> None:
    script = tmp_path / "print-nodes"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    with pytest.raises(ConfigError) as caught:
        load_nodes(f"!{script}")
    assert why in str(caught.value)


@pytest.mark.parametrize(("source", "why"), [("!", "no command"), ("!/nosuch/command", "No such file")])
def test_a_command_that_is_not_there_is_reported(source: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        load_nodes(source)


def test_a_command_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctdbpy.config.nodes.NODES_COMMAND_TIMEOUT_S", 0.05)
    with pytest.raises(ConfigError, match="did not end within"):
        load_nodes("!sleep 30")


def test_this_host_is_the_first_node_it_can_bind() -> None:
    def listen(node: NodeAddress) -> socket.socket:
        listener = socket.socket()
        try:
            listener.bind((node.address, 0))
        except OSError:
            listener.close()
            raise
        return listener

    nodes = (
        NodeAddress(0, "192.0.2.1"),
        NodeAddress(1, "0.0.0.0", deleted=True),
        NodeAddress(2, "127.0.0.1"),
    )
    node, listener = find_own_node(nodes, None, listen)
    with listener:
        assert node == nodes[2]
        assert listener.getsockname()[0] == "127.0.0.1"


def test_no_address_of_this_host_is_an_error_that_says_why_each_was_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        find_own_node(THREE, None, refuse)
    assert "'10.0.0.1' (pnn 0): Cannot assign requested address" in str(caught.value)
    assert "'10.0.0.3' (pnn 2)" in str(caught.value)


def test_a_set_node_address_is_the_only_one_tried() -> None:
    assert find_own_node(THREE, "10.0.0.3", lambda node: node.pnn) == (THREE[2], 2)
    with pytest.raises(ConfigError, match=r"10\.0\.0\.3") as caught:
        find_own_node(THREE, "10.0.0.3", refuse)
    assert "10.0.0.1" not in str(caught.value)


def test_a_set_node_address_must_be_listed() -> None:
    with pytest.raises(ConfigError, match=r"the nodes file has only 10\.0\.0\.1, 10\.0\.0\.3"):
        find_own_node(THREE, "10.0.0.9", lambda node: node)


def test_the_port_is_the_one_set_else_that_of_the_service() -> None:
    assert node_port(4380) == 4380
    try:
        assert node_port(None) == socket.getservbyname("ctdb", "tcp")
    except OSError:
        assert node_port(None) == 4379


@pytest.mark.skipif(shutil.which("ctdb") is None, reason="Debian's package ctdb is not installed")
@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1\n127.0.0.2\n",
        "\n127.0.0.1\n\n#127.0.0.2\n 127.0.0.3\t\n\n",
        "127.0.0.1\r\n[::1]\r\n2001:DB8::0:1",
        "::ffff:192.0.2.1\n",
        "127.0.0.1:5000\n",
        "127.1\n",
        "127.0.0.1 # x\n",
        "fe80::1%lo\n",
    ],
)
def test_a_nodes_file_means_what_it_means_to_upstream(tmp_path: Path, text: str) -> None:
    (tmp_path / "nodes").write_text(text)
    listed = subprocess.run(
        ["ctdb", "listnodes", "-Y"],
        env={"CTDB_TEST_MODE": "1", "CTDB_BASE": str(tmp_path), "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    try:
        nodes = load_nodes(tmp_path / "nodes")
    except ConfigError:
        assert listed.returncode != 0
        return
    assert listed.returncode == 0
    assert listed.stdout.splitlines() == [f"|{n.pnn}|{n.address}|" for n in nodes if not n.deleted]
