# SPDX-License-Identifier: GPL-3.0-or-later
"""From the text of cluster.yaml to what it says, or to everything that is wrong with it, line by line."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from ctdbpy.config.addresses import parse_address, why_not_an_address
from ctdbpy.config.cluster_file import (
    EVERY_SCRIPT,
    ClusterAddress,
    ClusterFile,
    ClusterNode,
    Given,
    ScriptOption,
)
from ctdbpy.config.nodes import DELETED_ADDRESS
from ctdbpy.config.public_addresses import parse_address_with_prefix, why_not_interfaces
from ctdbpy.config.table import SETTINGS
from ctdbpy.config.tunables_file import read_tunable
from ctdbpy.config.values import Context, Invalid, read_boolean
from ctdbpy.config.yamlfile import Mapping, Scalar, Sequence, Tree, kind_of, parse_yaml
from ctdbpy.errors import ConfigError

#: A number above this is a slip: a cluster is as large as its highest number.
NODE_NUMBER_MAX: Final = 1023
#: Settings with a place of their own at the top, by the name they have there.
AT_THE_TOP: Final = {"cluster lock": ("cluster", "cluster lock"), "quorum": ("cluster", "quorum")}
#: Settings that cluster.yaml says in another way.
ELSEWHERE: Final = {
    "cluster lock": "write 'cluster lock' at the top of the file",
    "recovery lock": "write 'cluster lock' at the top of the file",
    "quorum": "write 'quorum' at the top of the file",
    "nodes list": "list the nodes under 'nodes'",
    "node address": "each node has its address under 'nodes'",
}
#: Enough to tell one text from another where nobody tries to deceive.
DIGEST_LETTERS: Final = 12
#: What the daemon itself tells scripts.
DAEMONS_OWN: Final = frozenset(
    {"CTDB_BASE", "CTDB_LOGGING", "CTDB_DEBUGLEVEL", "CTDB_INTERACTIVE", "CTDB_SOCKET"}
)

_TOP: Final = ("nodes", "cluster lock", "quorum", "addresses", "settings", "tunables", "services")
_OF_NODE: Final = ("number", "name", "address", "deleted", "settings", "tunables")
_OF_ADDRESS: Final = ("address", "interfaces", "nodes", "home")
_SECTIONS: Final = tuple(dict.fromkeys(row.section for row in SETTINGS))
_OPTIONS: Final = {
    section: tuple(row.option for row in SETTINGS if row.section == section) for section in _SECTIONS
}
_NAME: Final = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?")
_SCRIPT: Final = re.compile(r"[0-9]{2}\.[A-Za-z0-9._-]+")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBER: Final = re.compile(r"[0-9]{1,5}")
#: A yes or no needs none.
_CONTEXT: Final = Context(Path(), lambda note: None)


def read_cluster(text: str, source: str) -> ClusterFile:
    """Read the text of a cluster file. Raises ConfigError that lists every wrong line."""
    file = _Reader(source).read(parse_yaml(text, source))
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    return replace(file, digest=digest[:DIGEST_LETTERS])


class _Reader:
    """Goes through the tree once and collects problems; what is wrong is left out of the result."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._problems: list[tuple[int, str]] = []

    def read(self, tree: Tree) -> ClusterFile:
        top = self._fields(tree, "the file", _TOP)
        nodes = tuple(self._nodes(top.get("nodes"), tree.line))
        settings = [*self._top_settings(top), *self._settings(top.get("settings"))]
        file = ClusterFile(
            source=self._source,
            nodes=nodes,
            addresses=tuple(self._addresses(top.get("addresses"), nodes)),
            settings=tuple(settings),
            tunables=tuple(self._tunables(top.get("tunables"))),
            services=tuple(self._services(top.get("services"))),
        )
        if self._problems:
            lines = (f"{self._source}:{line}: {text}" for line, text in sorted(set(self._problems)))
            raise ConfigError("cannot load the cluster file: " + "\n".join(lines))
        return file

    # -- nodes -------------------------------------------------------------------------------------

    def _nodes(self, tree: Tree | None, line: int) -> Iterator[ClusterNode]:
        numbers: dict[int, int] = {}
        names: dict[str, int] = {}
        addresses: dict[str, int] = {}
        found = 0
        for item in self._items(tree, "nodes", "a list of nodes"):
            node = self._node(item)
            if node is None:
                continue
            found += not node.deleted
            self._once(numbers, node.number, node.line, f"node number {node.number}")
            if node.name:
                self._once(names, node.name, node.line, f"node name '{node.name}'")
            if not node.deleted:
                self._once(addresses, node.address, node.line, f"address '{node.address}'")
            yield node
        if not found and not self._problems:
            self._say(
                tree.line if tree else line,
                "it names no node; list them under 'nodes', each with number and address",
            )

    def _once(self, seen: dict[str, int] | dict[int, int], key: object, line: int, what: str) -> None:
        table: dict[object, int] = seen  # type: ignore[assignment]
        if key in table:
            self._say(line, f"{what} is that of the node on line {table[key]} already; each node has its own")
        else:
            table[key] = line

    def _node(self, tree: Tree) -> ClusterNode | None:
        fields = self._fields(tree, "a node", _OF_NODE)
        if not isinstance(tree, Mapping):
            return None
        number = self._number(fields.get("number"), tree.line)
        name = self._text(fields.get("name"), "name") or ""
        if name and _NAME.fullmatch(name) is None:
            self._say(
                fields["name"].line, f"'{name}' is not a name: letters, digits, '-' and '.', not digits alone"
            )
        deleted = self._boolean(fields.get("deleted"), "deleted")
        settings = tuple(self._settings(fields.get("settings")))
        tunables = tuple(self._tunables(fields.get("tunables")))
        address: str | None = DELETED_ADDRESS
        if not deleted:
            address = self._node_address(fields.get("address"), tree.line)
        if number is None or address is None:
            return None
        return ClusterNode(number, address, name, deleted, settings, tunables, tree.line)

    def _number(self, tree: Tree | None, line: int) -> int | None:
        if tree is None:
            self._say(line, "the node has no number; write 'number: 0' for the first, and never change it")
            return None
        text = self._text(tree, "number")
        if text is None:
            return None
        if _NUMBER.fullmatch(text) is None or int(text) > NODE_NUMBER_MAX:
            self._say(tree.line, f"'{text}' is not a node number; write one from 0 to {NODE_NUMBER_MAX}")
            return None
        return int(text)

    def _node_address(self, tree: Tree | None, line: int) -> str | None:
        if tree is None:
            self._say(line, "the node has no address; write 'address:' and its private address")
            return None
        text = self._text(tree, "address")
        if text is None:
            return None
        address = parse_address(text)
        if address is None:
            self._say(tree.line, f"'{text}' is not valid: {why_not_an_address(text)}")
        elif (kind := ip_address(address)).is_unspecified or kind.is_multicast:
            self._say(tree.line, f"'{text}' is not valid: no host has this address; write the node's own")
        return address

    # -- addresses ---------------------------------------------------------------------------------

    def _addresses(self, tree: Tree | None, nodes: tuple[ClusterNode, ...]) -> Iterator[ClusterAddress]:
        private = {node.address: node for node in nodes if not node.deleted}
        every = frozenset(node.number for node in nodes if not node.deleted)
        taken: dict[tuple[str, int], int] = {}
        for item in self._items(tree, "addresses", "a list of public addresses"):
            address = self._public_address(item, nodes)
            if address is None:
                continue
            owner = private.get(address.address)
            if owner is not None:
                self._say(
                    address.line,
                    f"public address '{address.address}' is the private address of {owner.title}; "
                    "take one of them away",
                )
            for number in sorted(every if address.nodes is None else address.nodes):
                before = taken.setdefault((address.address, number), address.line)
                if before != address.line:
                    self._say(
                        address.line,
                        f"'{address.address}' stands on line {before} already for node {number}; "
                        "a node has each address once",
                    )
                    break
            yield address

    def _public_address(self, tree: Tree, nodes: tuple[ClusterNode, ...]) -> ClusterAddress | None:
        fields = self._fields(tree, "an address", _OF_ADDRESS)
        if not isinstance(tree, Mapping):
            return None
        for name in ("address", "interfaces"):
            if name not in fields:
                self._say(
                    tree.line, f"'{name}' is missing; write 'address: ADDRESS/BITS' and 'interfaces: [NAME]'"
                )
        text = self._text(fields.get("address"), "address")
        parsed = parse_address_with_prefix(text) if text is not None else None
        if isinstance(parsed, str):
            self._say(fields["address"].line, f"'{text}' is not valid: {parsed}")
        interfaces = tuple(self._texts(fields.get("interfaces"), "interfaces"))
        problem = why_not_interfaces(interfaces)
        if "interfaces" in fields and (problem or not interfaces):
            self._say(fields["interfaces"].line, problem or "it names no interface; write [NAME]")
            return None
        wanted = self._named_nodes(fields.get("nodes"), "nodes", nodes)
        homes = self._named_nodes(fields.get("home"), "home", nodes)
        if homes is not None and (len(homes) > 1 or (wanted is not None and not homes <= wanted)):
            self._say(fields["home"].line, "an address has one home, a node that may host it")
        if parsed is None or isinstance(parsed, str) or not interfaces:
            return None
        return ClusterAddress(*parsed, interfaces, wanted, next(iter(homes or ()), None), tree.line)

    def _named_nodes(
        self, tree: Tree | None, field: str, nodes: tuple[ClusterNode, ...]
    ) -> frozenset[int] | None:
        if tree is None:
            return None
        known = {str(node.number): node.number for node in nodes if not node.deleted}
        known |= {node.name: node.number for node in nodes if node.name and not node.deleted}
        wanted = set()
        for text in self._texts(tree, field):
            if text in known:
                wanted.add(known[text])
            else:
                self._say(
                    tree.line,
                    f"there is no node '{text}'{_like(text, known) or '; it needs an entry under nodes'}",
                )
        return frozenset(wanted)

    # -- settings, tunables, services ----------------------------------------------------------------

    def _top_settings(self, top: dict[str, Tree]) -> Iterator[Given]:
        for name, (section, option) in AT_THE_TOP.items():
            if name in top and (text := self._text(top[name], name)) is not None:
                yield Given(section, option, text, top[name].line)

    def _settings(self, tree: Tree | None) -> Iterator[Given]:
        for section, options in self._fields(tree, "settings", _SECTIONS).items():
            for option, value in self._fields(options, f"settings of '{section}'", _OPTIONS[section]).items():
                if section == "cluster" and option in ELSEWHERE:
                    self._say(value.line, f"'{option}' does not stand here; {ELSEWHERE[option]}")
                elif (text := self._text(value, option)) is not None:
                    yield Given(section, option, text, value.line)

    def _tunables(self, tree: Tree | None) -> Iterator[tuple[str, int]]:
        seen: set[str] = set()
        for key, value in self._pairs(tree, "tunables"):
            text = self._text(value, key.text)
            if text is None:
                continue
            found = read_tunable(key.text, text)
            if isinstance(found, str):
                self._say(key.line, f"tunable '{key.text}': {found}")
            elif found[0] in seen:
                self._say(key.line, f"tunable '{found[0]}' is there already; remove one of them")
            else:
                seen.add(found[0])
                yield found

    def _services(self, tree: Tree | None) -> Iterator[ScriptOption]:
        for key, options in self._pairs(tree, "services"):
            script = key.text.removesuffix(".script")
            if script != EVERY_SCRIPT and _SCRIPT.fullmatch(script) is None:
                self._say(
                    key.line,
                    f"'{script}' is not an event script; write its name, such as '50.samba', or 'all'",
                )
            for name, value in self._pairs(options, f"options of '{script}'"):
                text = self._text(value, name.text, may_be_empty=True)
                if _VARIABLE.fullmatch(name.text) is None:
                    self._say(name.line, f"'{name.text}' cannot be a variable: letters, digits and '_' only")
                elif name.text in DAEMONS_OWN:
                    self._say(name.line, f"'{name.text}' is set by the daemon; remove the line")
                elif text is not None:
                    yield ScriptOption(script, name.text, text, name.line)

    # -- kinds of values ---------------------------------------------------------------------------

    def _say(self, line: int, text: str) -> None:
        self._problems.append((line, text))

    def _pairs(self, tree: Tree | None, what: str) -> Iterable[tuple[Scalar, Tree]]:
        if tree is None or (isinstance(tree, Scalar) and tree.is_null):
            return ()
        if not isinstance(tree, Mapping):
            self._say(
                tree.line, f"{what}: there is {kind_of(tree)} where names with values belong ('NAME: VALUE')"
            )
            return ()
        return tree

    def _fields(self, tree: Tree | None, what: str, known: tuple[str, ...]) -> dict[str, Tree]:
        found: dict[str, Tree] = {}
        for key, value in self._pairs(tree, what):
            if key.text in known:
                found[key.text] = value
            else:
                hint = _like(key.text, known) or f"; known are {', '.join(known)}"
                self._say(key.line, f"{what}: '{key.text}' is not known{hint}")
        return found

    def _items(self, tree: Tree | None, name: str, what: str) -> tuple[Tree, ...]:
        if tree is None or (isinstance(tree, Scalar) and tree.is_null):
            return ()
        if not isinstance(tree, Sequence):
            self._say(tree.line, f"'{name}' has {kind_of(tree)} where {what} belongs, each item after a '-'")
            return ()
        return tree.items

    def _texts(self, tree: Tree | None, name: str) -> Iterator[str]:
        items = (tree,) if isinstance(tree, Scalar) else self._items(tree, name, "a list")
        for item in items:
            if (text := self._text(item, name)) is not None:
                yield text

    def _text(self, tree: Tree | None, name: str, *, may_be_empty: bool = False) -> str | None:
        if tree is None:
            return None
        if not isinstance(tree, Scalar):
            self._say(tree.line, f"'{name}' has {kind_of(tree)} where one value belongs")
            return None
        if not tree.text.strip() and not (may_be_empty and not tree.is_null):
            self._say(tree.line, f"'{name}' has no value; give one or leave the line out")
            return None
        if not tree.text.isprintable():
            self._say(tree.line, f"'{name}' has more than one line, or a character that cannot be printed")
            return None
        return tree.text if may_be_empty else tree.text.strip()

    def _boolean(self, tree: Tree | None, name: str) -> bool:
        text = self._text(tree, name)
        if tree is None or text is None:
            return False
        try:
            return read_boolean(text, _CONTEXT)
        except Invalid as error:
            self._say(tree.line, f"'{name}': '{text}' is not valid: {error}")
            return False


def _like(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name.lower(), sorted(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
