# SPDX-License-Identifier: GPL-3.0-or-later
"""How a source file looks: licence, docstring, length, names, words."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from tests.tidy import tree

LINES_MAX = 600

# A longer file needs a reason that a reader would accept.
LONG_FILES: dict[str, str] = {}

_EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "manager"}

# Paths and servers of one machine, in whatever file.
_MACHINE = re.compile(
    r"(?<![\w.])/(?:work|opt/(?:wheels|pypi[\w-]*)|tmp/scratch|root/\.\w+|home/\w+/src)(?=/|\b)"
    r"|\b(?:[\w-]+\.)*(?:pypi|pythonhosted)\.org\b|\bdeb\.debian\.org\b"
)

# Words that are about something other than this project, as the first 12 hex digits of their SHA-256
# (lower case, but for the last one), because a list in clear would break its own rule.
_FOREIGN = {
    "c857d09db23e",
    "c70eca6b0f88",
    "94a168d2da57",
    "d298391b0743",
    "60965168ce76",
    "7d3194f79e64",
    "3ea125d0bff3",
    "487b91042c7c",
    "de2187af3fb0",
    "e12ce8285efc",
    "c9ad8f2cc129",
    "11fb682be0a0",
}


def _offending(found: Iterable[str]) -> None:
    lines = list(found)
    assert not lines, "\n" + "\n".join(lines)


def test_every_source_file_names_its_licence_first() -> None:
    def unlicensed(path: Path) -> bool:
        head = tree.text(path).splitlines()[:2]
        return not any("SPDX-License-Identifier: GPL-3.0-or-later" in line for line in head)

    _offending(f"{path}: no SPDX line at its top" for path in tree.sources() if unlicensed(path))


def test_every_module_says_what_it_is() -> None:
    def silent(path: Path) -> bool:
        if path.suffix == ".py":
            body = tree.syntax(path).body
            return not (body and _is_text(body[0]))
        code = (line for line in tree.text(path).splitlines() if line.strip() and not line.startswith("#"))
        return not next(code, "").startswith(('"""', 'r"""'))

    modules = [path for path in tree.files() if path.suffix in {".py", ".pyx"}]
    _offending(f"{path}: no docstring" for path in modules if silent(path))


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def test_no_file_is_too_long_without_a_reason() -> None:
    def lines(path: Path) -> int:
        return tree.text(path).count("\n")

    _offending(
        f"{path}: {lines(path)} lines, more than {LINES_MAX}; split it, or give a reason in LONG_FILES"
        for path in tree.sources()
        if lines(path) > LINES_MAX and str(path) not in LONG_FILES
    )
    _offending(
        f"{name}: listed in LONG_FILES but not there, or short enough"
        for name in LONG_FILES
        if Path(name) not in tree.files() or lines(Path(name)) <= LINES_MAX
    )


def test_modules_are_named_for_what_they_hold() -> None:
    _offending(
        f"{path}: a name that says nothing"
        for path in tree.sources()
        if path.parts[0] in {"ctdbpy", "tests"} and not _EMPTY_NAMES.isdisjoint(path.with_suffix("").parts)
    )


def test_no_file_speaks_of_one_machine() -> None:
    _offending(
        f"{path}:{number}: {match.group()!r}"
        for path in tree.files()
        for number, line in enumerate(tree.text(path).splitlines(), 1)
        for match in _MACHINE.finditer(line)
    )


def test_no_file_speaks_of_anything_but_the_project() -> None:
    _offending(
        f"{path}:{number}: {word!r}"
        for path in tree.files()
        for number, line in enumerate(tree.text(path).splitlines(), 1)
        for word in re.findall(r"[A-Za-z]+", line)
        if not _FOREIGN.isdisjoint((_digest(word), _digest(word.lower())))
    )


_digests: dict[str, str] = {}


def _digest(word: str) -> str:
    if word not in _digests:
        _digests[word] = hashlib.sha256(word.encode()).hexdigest()[:12]
    return _digests[word]
