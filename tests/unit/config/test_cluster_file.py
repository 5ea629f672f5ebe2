# SPDX-License-Identifier: GPL-3.0-or-later
"""cluster.yaml: what it says to each node, and what is said about a wrong one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctdbpy.config.cluster_file import ScriptOption
from ctdbpy.config.cluster_reader import read_cluster
from ctdbpy.config.cluster_settings import own_node
from ctdbpy.config.configuration import Configuration, host_problems, load, load_cluster
from ctdbpy.config.nodes import NodeAddress
from ctdbpy.config.paths import Paths
from ctdbpy.config.public_addresses import PublicAddress
from ctdbpy.config.values import Quorum
from ctdbpy.errors import ConfigError
from ctdbpy.wire.tunables import Tunables

WHOLE = """\
# Three nodes, of which the middle one has gone.
nodes:
  - number: 0
    name: alpha
    address: 127.0.0.1
  - {number: 1, deleted: true}
  - number: 3
    name: beta
    address: 127.0.0.4
    settings: {cluster: {leader capability: no}, logging: {log level: debug}}
    tunables: {MonitorInterval: 30}

cluster lock: /clusterfs/lock
quorum: lock

addresses:
  - address: 192.0.2.1/24
    interfaces: [eth0, eth1]
  - {address: "2001:db8::1/64", interfaces: eth0, nodes: [beta], home: 3}

settings:
  cluster: {leader timeout: 7, port: 4380}
  logging: {log level: INFO}

tunables:
  monitorinterval: 0x14

services:
  all: {CTDB_INIT_STYLE: debian}
  50.samba.script: {CTDB_SAMBA_SKIP_SHARE_CHECK: yes}
"""


def paths_at(base: Path) -> Paths:
    return Paths.from_environment({"CTDB_TEST_MODE": "yes", "CTDB_BASE": str(base)})


def configure(tmp_path: Path, text: str = WHOLE, number: int = 0) -> Configuration:
    return load_cluster(text, "cluster.yaml", paths_at(tmp_path), number=number)


def test_every_node_gets_what_is_for_it(tmp_path: Path) -> None:
    first, last = configure(tmp_path), configure(tmp_path, number=3)
    assert (
        first.nodes
        == last.nodes
        == (
            NodeAddress(0, "127.0.0.1"),
            NodeAddress(1, "0.0.0.0", deleted=True),
            NodeAddress(2, "0.0.0.0", deleted=True),
            NodeAddress(3, "127.0.0.4"),
        )
    )
    assert [node.name for node in first.nodes] == ["alpha", "", "", "beta"]
    everywhere = PublicAddress("192.0.2.1", 24, ("eth0", "eth1"))
    assert first.public_addresses == (everywhere,)
    assert last.public_addresses == (everywhere, PublicAddress("2001:db8::1", 64, ("eth0",)))
    assert (first.settings.node_address, last.settings.node_address) == ("127.0.0.1", "127.0.0.4")
    assert (first.settings.leader_capability, last.settings.leader_capability) == (True, False)
    assert (first.settings.log_level, last.settings.log_level) == (5, 10)
    assert first.settings.lock == last.settings.lock == "/clusterfs/lock"
    assert (first.quorum, first.port, first.settings.leader_timeout_s) == (Quorum.LOCK, 4380, 7)
    assert first.tunables == Tunables().replaced("MonitorInterval", 20)
    assert last.tunables == Tunables().replaced("MonitorInterval", 30)
    assert first.script_options == (
        ScriptOption("all", "CTDB_INIT_STYLE", "debian"),
        ScriptOption("50.samba", "CTDB_SAMBA_SKIP_SHARE_CHECK", "yes"),
    )
    assert first.home_nodes == (("2001:db8::1", 3),)
    assert first.warnings == ()


def test_the_cluster_file_counts_where_it_is_and_the_log_says_what_does_not(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(WHOLE)
    for name in ("nodes", "ctdb.conf", "script.options"):
        (tmp_path / name).write_text("")
    (tmp_path / "node").write_text("beta\n")
    configuration = load(paths_at(tmp_path))
    assert configuration.settings.node_address == "127.0.0.4"
    unread, options = configuration.warnings
    assert unread == f"'{tmp_path}/cluster.yaml' counts; not read: {tmp_path}/ctdb.conf, {tmp_path}/nodes"
    assert f"event scripts read '{tmp_path}/script.options' after" in options


def test_a_host_is_the_first_node_whose_address_it_has(tmp_path: Path) -> None:
    file = read_cluster(WHOLE, "cluster.yaml")
    assert own_node(file, tmp_path / "node", lambda address: address == "127.0.0.4").number == 3
    with pytest.raises(
        ConfigError, match=r"none of the addresses 127\.0\.0\.1 \(line 3\), 127\.0\.0\.4 \(line 7\)"
    ):
        own_node(file, tmp_path / "node", lambda _address: False)
    (tmp_path / "node").write_text("1\n")
    with pytest.raises(
        ConfigError, match=r"node:1': '1' is no node of 'cluster\.yaml'; write one of alpha, beta"
    ):
        own_node(file, tmp_path / "node")


def test_an_interface_that_is_not_there_is_named_with_its_line(tmp_path: Path) -> None:
    problems = host_problems(configure(tmp_path, WHOLE.replace("eth0, eth1", "lo, nosuch0")))
    (problem,) = problems
    assert problem.startswith(
        "cluster.yaml:17: there is no interface 'nosuch0' for '192.0.2.1' on this host; it has "
    )


NODES = "nodes:\n- {number: 0, address: 127.0.0.1}\n- {number: 1, address: 127.0.0.2}\n"

WRONG = {
    "not yaml": ("nodes: [\n", "cluster.yaml:2': ", "mend the YAML"),
    "a tab": ("nodes:\n\t- x\n", "cluster.yaml:2': a tab stands", "indent with blanks"),
    "an alias": (
        f"{NODES}tunables: &x {{}}\nservices: *x\n",
        "cluster.yaml:5': an alias",
        "write the value out",
    ),
    "two documents": (f"{NODES}---\n{NODES}", "cluster.yaml:4': ", "mend the YAML"),
    "a key twice": (
        f"{NODES}quorum: none\nquorum: lock\n",
        "cluster.yaml:5': 'quorum' stands on line 4 already",
        "",
    ),
    "a list as key": (f"{NODES}? [a]\n: b\n", "cluster.yaml:4': a list cannot be a name", ""),
    "a control character": (f"{NODES}quorum: \x01\n", "cluster.yaml:4': character #x0001", "remove it"),
    "too deep": ("[" * 5000, "cluster.yaml:1': ", "too deeply"),
    "only a text": (
        "hello\n",
        "cluster.yaml:1: the file: there is 'hello' where names with values belong",
        "",
    ),
    "empty": ("", "cluster.yaml:1: it names no node", "list them under 'nodes'"),
    "unknown key": (
        f"{NODES}adresses: []\n",
        "cluster.yaml:4: the file: 'adresses' is not known",
        "did you mean 'addresses'?",
    ),
    "nodes no list": (
        "nodes: {a: b}\n",
        "cluster.yaml:1: 'nodes' has names with values where a list",
        "after a '-'",
    ),
    "node no mapping": ("nodes: [10.0.0.1]\n", "cluster.yaml:1: a node: there is '10.0.0.1'", ""),
    "no number": ("nodes:\n- {address: 10.0.0.1}\n", "cluster.yaml:2: the node has no number", "'number: 0'"),
    "number wrong": (
        "nodes:\n- {number: -1, address: 10.0.0.1}\n",
        "cluster.yaml:2: '-1' is not a node number",
        "",
    ),
    "number large": (
        "nodes:\n- {number: 5000, address: 10.0.0.1}\n",
        "cluster.yaml:2: '5000' is not",
        "to 1023",
    ),
    "number twice": (
        NODES.replace("1,", "0,"),
        "cluster.yaml:3: node number 0 is that of the node on line 2",
        "",
    ),
    "address twice": (
        NODES.replace("0.2", "0.1"),
        "cluster.yaml:3: address '127.0.0.1' is that of the node on line 2",
        "",
    ),
    "name twice": (
        NODES.replace(", a", ", name: x, a"),
        "cluster.yaml:3: node name 'x' is that of the node on line 2",
        "each node has its own",
    ),
    "name of digits": (
        NODES.replace("1, a", "1, name: 7, a"),
        "cluster.yaml:3: '7' is not a name",
        "not digits alone",
    ),
    "host name": (
        NODES.replace("127.0.0.2", "node1"),
        "cluster.yaml:3: 'node1' is not valid",
        "numeric address",
    ),
    "address missing": ("nodes:\n- {number: 0}\n", "cluster.yaml:2: the node has no address", ""),
    "deleted wrong": (
        NODES.replace("1, a", "1, deleted: maybe, a"),
        "cluster.yaml:3: 'deleted': 'maybe'",
        "yes, false",
    ),
    "prefix missing": (
        f"{NODES}addresses:\n- {{address: 192.0.2.1, interfaces: [lo]}}\n",
        "cluster.yaml:5: '192.0.2.1' is not valid: the prefix length is missing",
        "write ADDRESS/BITS",
    ),
    "interfaces missing": (
        f"{NODES}addresses:\n- {{address: 192.0.2.1/24}}\n",
        "cluster.yaml:5: 'interfaces' is missing",
        "",
    ),
    "public address twice": (
        (
            f"{NODES}addresses:\n- {{address: 192.0.2.1/24, interfaces: lo}}\n"
            "- {address: 192.0.2.1/25, interfaces: lo, nodes: [1]}\n"
        ),
        "cluster.yaml:6: '192.0.2.1' stands on line 5 already for node 1",
        "",
    ),
    "private and public": (
        f"{NODES}addresses:\n- {{address: 127.0.0.2/8, interfaces: lo}}\n",
        "cluster.yaml:5: public address '127.0.0.2' is the private address of node 1",
        "take one of them away",
    ),
    "unknown node": (
        f"{NODES}addresses:\n- {{address: 192.0.2.1/24, interfaces: lo, nodes: [0, 2]}}\n",
        "cluster.yaml:5: there is no node '2'",
        "needs an entry",
    ),
    "a home that may not host": (
        f"{NODES}addresses:\n- {{address: 192.0.2.1/24, interfaces: lo, nodes: [0], home: 1}}\n",
        "cluster.yaml:5: an address has one home, a node that may host it",
        "",
    ),
    "nobody's address": (NODES.replace("127.0.0.2", "0.0.0.0"), "'0.0.0.0' is not valid: no host has", "own"),
    "unknown section": (
        f"{NODES}settings: {{loging: {{}}}}\n",
        "cluster.yaml:4: settings: 'loging'",
        "'logging'?",
    ),
    "unknown setting": (
        f"{NODES}settings:\n  cluster:\n    leader timeot: 5\n",
        "cluster.yaml:6: settings of 'cluster': 'leader timeot' is not known",
        "did you mean 'leader timeout'?",
    ),
    "setting elsewhere": (
        f"{NODES}settings: {{cluster: {{recovery lock: /x}}}}\n",
        "cluster.yaml:4: 'recovery lock' does not stand here",
        "at the top",
    ),
    "setting of wrong type": (
        f"{NODES}settings: {{cluster: {{leader timeout: [5]}}}}\n",
        "cluster.yaml:4: 'leader timeout' has a list where one value belongs",
        "",
    ),
    "setting with a wrong value": (
        f"{NODES}settings: {{cluster: {{leader timeout: 5s}}}}\n",
        "cluster.yaml:4: [cluster] leader timeout: reads 5 and ignores 's'",
        "write the number alone",
    ),
    "another node's setting wrong": (
        NODES.replace("1, a", "1, settings: {logging: {log level: LOUD}}, a"),
        "cluster.yaml:3: [logging] log level: 'LOUD' is not valid",
        "",
    ),
    "directory missing": (
        f"{NODES}settings: {{database: {{state database directory: /no/such}}}}\n",
        "cluster.yaml:4: [database] state database directory: '/no/such' is not valid",
        "create it",
    ),
    "setting empty": (
        f"{NODES}cluster lock:\n",
        "cluster.yaml:4: 'cluster lock' has no value",
        "leave the line out",
    ),
    "fencing without a quorum": (
        f"{NODES}quorum: none\nsettings: {{cluster: {{fence command: /bin/true}}}}\n",
        "cluster.yaml:5: it needs a quorum, or both sides of a split cluster run it",
        "set 'cluster lock' or 'quorum' too",
    ),
    "quorum without a lock": (f"{NODES}quorum: lock\n", "cluster.yaml:4: quorum: 'lock' needs a lock", ""),
    "tunable unknown": (
        f"{NODES}tunables: {{MonitorIntervall: 5}}\n",
        "cluster.yaml:4: tunable 'MonitorIntervall': there is no such tunable",
        "did you mean 'MonitorInterval'?",
    ),
    "tunable no number": (
        f"{NODES}tunables: {{MonitorInterval: many}}\n",
        "'many' is not a whole number",
        "",
    ),
    "tunable twice": (
        f"{NODES}tunables: {{MonitorInterval: 5, monitorinterval: 6}}\n",
        "cluster.yaml:4: tunable 'MonitorInterval' is there already",
        "",
    ),
    "script wrong": (
        f"{NODES}services: {{samba: {{A: b}}}}\n",
        "cluster.yaml:4: 'samba' is not an event script",
        "",
    ),
    "variable wrong": (
        f"{NODES}services: {{all: {{A-B: c}}}}\n",
        "cluster.yaml:4: 'A-B' cannot be a variable",
        "",
    ),
    "variable of ours": (
        f"{NODES}services: {{all: {{CTDB_BASE: /x}}}}\n",
        "'CTDB_BASE' is set by the daemon",
        "",
    ),
    "two lines": (f'{NODES}services: {{all: {{A: "b\\nc"}}}}\n', "'A' has more than one line", ""),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, case: str) -> None:
    text, where, fix = WRONG[case]
    with pytest.raises(ConfigError) as caught:
        configure(tmp_path, text)
    said = str(caught.value)
    assert said.startswith(("cannot read 'cluster.yaml:", "cannot load the ")), said
    assert where in said
    assert fix in said
    assert "\n" not in said, "one mistake, one message"


def test_everything_wrong_is_said_at_once_in_order(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        configure(tmp_path, f"{NODES}tunables: {{Nope: 1}}\nnonsense: 1\nsettings: {{cluster: 7}}\n")
    assert [line.rsplit("cluster.yaml:", 1)[1][0] for line in str(caught.value).split("\n")] == [
        "4",
        "5",
        "6",
    ]


def test_a_file_that_cannot_be_read_does_not_count_as_missing(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"cannot read '.*cluster\.yaml': Is a directory"):
        load(paths_at(tmp_path))


pieces = st.sampled_from(
    [
        *("- ", ": ", "\n  ", "nodes:", "number: 0", "address: 10.0.0.1", "settings:", "é", "\x85"),
        *"[]{}:,-?&*!|>#%@'\"\n\t ~",
    ]
)


@given(st.lists(pieces, max_size=40).map("".join) | st.text(max_size=60))
def test_any_text_is_a_cluster_or_a_mistake_with_a_line(text: str) -> None:
    try:
        assert read_cluster(text, "f").nodes
    except ConfigError as error:
        assert re.search(r"'f:\d+'|f:\d+: ", str(error))


def test_the_documented_example_is_a_cluster(tmp_path: Path) -> None:
    document = Path(__file__).resolve().parents[3] / "docs" / "configuration.md"
    text = document.read_text().partition("```yaml\n")[2].partition("```")[0]
    configuration = configure(tmp_path, text, number=3)
    assert configuration.settings.leader_capability is False
    assert [address.address for address in configuration.public_addresses] == ["192.0.2.10"]
