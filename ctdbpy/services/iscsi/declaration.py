# SPDX-License-Identifier: GPL-3.0-or-later
"""The one file that declares targets and LUNs, the same on every node: read, checked, passed to the keeper.

What an initiator knows a LUN by (serial number, NAA identifier, the target's number) comes from the names in
the file alone: the same on every node, and after every move.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from ctdbpy.config.addresses import parse_address, why_not_an_address
from ctdbpy.config.files import read_text
from ctdbpy.config.yamlfile import Mapping, Scalar, Sequence, Tree, kind_of, parse_yaml
from ctdbpy.errors import ConfigError

#: What SCSI has room for in one byte; 0 is the controller that tgtd makes itself.
LUN_MAX: Final = 255
SERIAL_MAX: Final = 36
#: tgtd puts the target's number into an identifier that has 28 bits left for it.
_NUMBER_BITS: Final = 28

_OF_TARGET: Final = (
    "name",
    "address",
    "initiators",
    "user",
    "password file",
    "reservations",
    "luns",
)
_OF_LUN: Final = ("number", "file", "write cache", "read only", "sparse", "serial", "identifier")
_NAME: Final = re.compile(r"(iqn\.[0-9]{4}-[0-9]{2}\.[a-z0-9.-]+(:[^\s,'\"]+)?|eui\.[0-9A-F]{16})")
_NAME_MAX: Final = 223
_SERIAL: Final = re.compile(r"[A-Za-z0-9._-]+")
_IDENTIFIER: Final = re.compile(r"6[0-9a-f]{31}")
_LOST: Final = "lost"
_SECRET: Final = re.compile(r"[!-~]{12,16}")


@dataclass(frozen=True, slots=True)
class Lun:
    """A disk: a file of the cluster file system. `identifier` is its NAA name, 32 hexadecimal digits."""

    number: int
    file: str
    write_cache: bool
    read_only: bool
    sparse: bool
    serial: str
    identifier: str


@dataclass(frozen=True, slots=True)
class Target:
    """What an initiator logs in to, at one public address. `password` is None without a user."""

    name: str
    number: int
    address: str
    initiators: tuple[str, ...]
    user: str
    password: str
    luns: tuple[Lun, ...]


@dataclass(frozen=True, slots=True)
class Declaration:
    """All targets of the cluster."""

    targets: tuple[Target, ...] = ()

    def by_address(self) -> dict[str, tuple[Target, ...]]:
        """The targets that each address serves."""
        found: dict[str, tuple[Target, ...]] = {}
        for target in self.targets:
            found[target.address] = (*found.get(target.address, ()), target)
        return found

    def to_json(self) -> str:
        """As the keeper gets it."""
        return json.dumps([asdict(target) for target in self.targets], indent=1)

    @classmethod
    def from_json(cls, text: str) -> Declaration:
        """What `to_json` wrote."""
        return cls(tuple(_target(fields) for fields in json.loads(text)))


def _target(fields: dict[str, Any]) -> Target:
    luns = tuple(Lun(**lun) for lun in fields["luns"])
    return Target(**{**fields, "initiators": tuple(fields["initiators"]), "luns": luns})


def load(path: Path) -> Declaration | None:
    """Read the file; None if it is not there. Raises ConfigError that lists every wrong line."""
    text = read_text(path)
    return None if text is None else parse(text, str(path))


def parse(text: str, source: str) -> Declaration:
    """Read the text of the file called `source`. Raises ConfigError that lists every wrong line."""
    return _Reader(source).read(parse_yaml(text, source))


def identifier_of(target: str, lun: int) -> str:
    """The NAA identifier (type 6) of a LUN that declares none: 100 bits that only its two names decide."""
    digest = hashlib.sha256(f"{target} {lun}".encode()).hexdigest()
    return f"6{'0' * 6}{digest[:25]}"


def number_of(target: str) -> int:
    """The number by which tgtd knows a target, never 0."""
    digest = hashlib.sha256(target.encode()).digest()
    return int.from_bytes(digest[:8], "big") % ((1 << _NUMBER_BITS) - 1) + 1


class _Reader:
    """Goes through the tree once and collects problems; what is wrong is left out of the result."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._problems: list[tuple[int, str]] = []
        self._files: dict[str, int] = {}
        self._names: dict[str, int] = {}
        self._numbers: dict[int, str] = {}
        self._identities: dict[str, int] = {}
        self._passwords: dict[tuple[str, str], str] = {}

    def read(self, tree: Tree) -> Declaration:
        top = self._fields(tree, "the file", ("targets",))
        targets = [self._target(item) for item in self._items(top.get("targets"), "targets")]
        if self._problems:
            lines = (f"{self._source}:{line}: {text}" for line, text in sorted(set(self._problems)))
            raise ConfigError("cannot load the iSCSI targets: " + "\n".join(lines))
        return Declaration(tuple(target for target in targets if target is not None))

    # -- targets -----------------------------------------------------------------------------------

    def _target(self, tree: Tree) -> Target | None:
        fields = self._fields(tree, "a target", _OF_TARGET)
        if not isinstance(tree, Mapping):
            return None
        name = self._name(fields.get("name"), tree.line)
        address = self._address(fields.get("address"), tree.line)
        initiators = tuple(self._initiators(fields.get("initiators"), tree.line))
        self._sharing(fields.get("reservations"), name, initiators, tree.line)
        user, password = self._login(fields, address, tree.line)
        luns = tuple(self._luns(fields.get("luns"), name, tree.line))
        return Target(name, number_of(name), address, initiators, user, password, luns)

    def _name(self, tree: Tree | None, line: int) -> str:
        text = self._text(tree, "name")
        if text is None:
            self._miss(tree, line, "the target has no name; write 'name: iqn.YEAR-MONTH.DOMAIN:WORD'")
            return ""
        assert tree is not None
        if _NAME.fullmatch(text) is None or len(text) > _NAME_MAX:
            self._say(
                tree.line,
                f"'{text}' is not the name of a target; write it as iqn.YEAR-MONTH.DOMAIN:WORD, "
                "in small letters, with a domain that was yours in that month turned round",
            )
            return text
        self._once(self._names, text, tree.line, f"target '{text}'", "give one of them another name")
        number = number_of(text)
        if self._numbers.setdefault(number, text) != text:
            self._say(
                tree.line,
                f"'{text}' comes to the same number as '{self._numbers[number]}'; change one a little",
            )
        return text

    def _address(self, tree: Tree | None, line: int) -> str:
        text = self._text(tree, "address")
        if text is None:
            self._miss(
                tree, line, "the target has no address; write 'address:' and one of the public addresses"
            )
            return ""
        assert tree is not None
        address = parse_address(text)
        if address is None:
            self._say(tree.line, f"'{text}' is not valid: {why_not_an_address(text)}")
        return address or ""

    def _initiators(self, tree: Tree | None, line: int) -> Iterator[str]:
        if tree is None:
            self._say(
                line,
                "it does not say who may log in; write 'initiators:' and their names or addresses, or [any]",
            )
            return
        for item in self._items(tree, "initiators"):
            text = self._text(item, "an initiator")
            if text is None:
                continue
            if text == "any" or _NAME.fullmatch(text) is not None:
                yield text
                continue
            try:
                network = ipaddress.ip_network(text)
                yield str(network if network.num_addresses > 1 else network.network_address)
            except ValueError:
                self._say(
                    item.line,
                    f"'{text}' is no initiator; write its name (iqn...), its address, its network or 'any'",
                )

    def _sharing(self, tree: Tree | None, name: str, initiators: tuple[str, ...], line: int) -> None:
        """Persistent reservations do not survive a move: who lets several initiators in has to know it."""
        text = self._text(tree, "reservations")
        if tree is not None and text is not None and text != _LOST:
            self._say(
                tree.line,
                f"reservations cannot be '{text}': they are in tgtd's memory; write '{_LOST}', or nothing",
            )
        alone = len(initiators) == 1 and initiators[0] != "any" and not _is_network(initiators[0])
        if tree is None and initiators and not alone:
            self._say(
                line,
                f"several initiators may share '{name}', but persistent reservations, with which they could "
                f"keep each other out, are lost when the address moves; write 'reservations: {_LOST}' if "
                "none of them counts on those, or leave one initiator",
            )

    def _login(self, fields: dict[str, Tree], address: str, line: int) -> tuple[str, str]:
        user = self._text(fields.get("user"), "user")
        path = self._text(fields.get("password file"), "password file")
        if (user is None) != (path is None):
            self._say(line, "'user' and 'password file' go together; write both, or none")
        if user is None or path is None:
            return "", ""
        where = fields["password file"].line
        try:
            secret = Path(path).read_text(encoding="ascii").strip()
        except OSError as error:
            self._say(where, f"the password cannot be read from '{path}': {error.strerror}")
            return user, ""
        except UnicodeDecodeError:
            secret = ""
        if _SECRET.fullmatch(secret) is None:
            self._say(
                where, f"'{path}' has no password of 12 to 16 letters, digits and signs; write one there"
            )
        if self._passwords.setdefault((address, user), secret) != secret:
            self._say(
                where,
                f"'{user}' has another password at '{address}' already; give the user one, or two names",
            )
        return user, secret

    # -- LUNs --------------------------------------------------------------------------------------

    def _luns(self, tree: Tree | None, target: str, line: int) -> Iterator[Lun]:
        numbers: dict[str, int] = {}
        if tree is None:
            self._say(line, "the target has no LUNs; list them under 'luns', each with number and file")
            return
        for item in self._items(tree, "luns"):
            fields = self._fields(item, "a LUN", _OF_LUN)
            if not isinstance(item, Mapping):
                continue
            number = self._number(fields.get("number"), item.line)
            self._once(numbers, str(number), item.line, f"LUN {number}", "give one of them another number")
            file = self._file(fields.get("file"), item.line)
            identifier = self._matching(
                fields, "identifier", _IDENTIFIER, "32 hexadecimal digits in small letters, the first a 6"
            ) or identifier_of(target, number)
            serial = self._matching(fields, "serial", _SERIAL, "letters, digits, '.', '_' and '-'")
            if serial is not None and len(serial) > SERIAL_MAX:
                self._say(
                    fields["serial"].line, f"'{serial}' is too long; write at most {SERIAL_MAX} letters"
                )
            self._once(
                self._identities,
                identifier,
                item.line,
                f"identifier '{identifier}'",
                "initiators would take two disks for one",
            )
            yield Lun(
                number,
                file,
                write_cache=self._flag(fields, "write cache"),
                read_only=self._flag(fields, "read only"),
                sparse=self._flag(fields, "sparse"),
                serial=serial or identifier,
                identifier=identifier,
            )

    def _number(self, tree: Tree | None, line: int) -> int:
        text = self._text(tree, "number")
        if text is None:
            self._miss(
                tree, line, "the LUN has no number; write 'number: 1' for the first, and never change it"
            )
            return 0
        if not text.isdecimal() or not 1 <= int(text) <= LUN_MAX:
            assert tree is not None
            self._say(tree.line, f"'{text}' is not the number of a LUN; write one from 1 to {LUN_MAX}")
            return 0
        return int(text)

    def _file(self, tree: Tree | None, line: int) -> str:
        text = self._text(tree, "file")
        if text is None:
            self._miss(tree, line, "the LUN has no file; write 'file:' and a path on the cluster file system")
            return ""
        assert tree is not None
        if not text.startswith("/") or "," in text or not text.isprintable():
            self._say(
                tree.line,
                f"'{text}' cannot be used: tgtd takes whole paths (/...) without commas; rename the file",
            )
            return text
        path = os.path.normpath(text)
        self._once(self._files, path, tree.line, f"'{path}'", "a file is one LUN; take one of them away")
        return path

    # -- parts of the tree -------------------------------------------------------------------------

    def _matching(
        self, fields: dict[str, Tree], name: str, pattern: re.Pattern[str], rule: str
    ) -> str | None:
        text = self._text(fields.get(name), name)
        if text is not None and pattern.fullmatch(text) is None:
            self._say(fields[name].line, f"'{text}' is not valid: {name} is {rule}")
        return text

    def _flag(self, fields: dict[str, Tree], name: str) -> bool:
        text = self._text(fields.get(name), name)
        if text is not None and text not in ("yes", "no", "on", "off", "true", "false"):
            self._say(fields[name].line, f"'{text}' cannot be used for '{name}'; write 'yes' or 'no'")
        return text in ("yes", "on", "true")

    def _text(self, tree: Tree | None, what: str) -> str | None:
        if tree is None:
            return None
        if isinstance(tree, Scalar) and not tree.is_null and tree.text:
            return tree.text
        self._say(tree.line, f"'{what}' is {kind_of(tree)}; write one word or number")
        return None

    def _items(self, tree: Tree | None, what: str) -> tuple[Tree, ...]:
        if tree is None:
            return ()
        if isinstance(tree, Sequence) and tree.items:
            return tree.items
        self._say(tree.line, f"'{what}' is {kind_of(tree)}; write a list, each entry after a '-'")
        return ()

    def _fields(self, tree: Tree, what: str, known: tuple[str, ...]) -> dict[str, Tree]:
        if not isinstance(tree, Mapping):
            self._say(tree.line, f"{what} is {kind_of(tree)}; write names with values: {', '.join(known)}")
            return {}
        found: dict[str, Tree] = {}
        for key, value in tree:
            if key.text in known:
                found[key.text] = value
            else:
                self._say(key.line, f"{what} has nothing called '{key.text}'; it has {', '.join(known)}")
        return found

    def _once(self, seen: dict[str, int], key: str, line: int, what: str, mend: str) -> None:
        if seen.setdefault(key, line) != line:
            self._say(line, f"{what} stands on line {seen[key]} already; {mend}")

    def _miss(self, tree: Tree | None, line: int, text: str) -> None:
        """Complain about what is not there, unless what stands in its place was complained about."""
        if tree is None:
            self._say(line, text)

    def _say(self, line: int, text: str) -> None:
        self._problems.append((line, text))


def _is_network(text: str) -> bool:
    return "/" in text and not text.startswith(("iqn.", "eui."))
