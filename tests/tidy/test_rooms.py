# SPDX-License-Identifier: GPL-3.0-or-later
"""Where code may stand: every room placed, walls kept by compiled modules too, deeds in their one place."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tidy import tree

# A pure room's outside is bytes and `now_s`. `random` is for the simulator alone (one seeded Random).
IMPURE = {
    "asyncio",
    "socket",
    "os",
    "threading",
    "time",
    "random",
    "logging",
    "subprocess",
    "pathlib",
    "select",
    "selectors",
    "signal",
    "multiprocessing",
    "concurrent",
    "ctypes",
    "fcntl",
    "tempfile",
}
PURE_ROOMS = {"wire": IMPURE, "core": IMPURE, "sim": IMPURE - {"random"}}

# Rooms of the core whose only meeting place is `core.node`.
CORE_SIBLINGS = {"records", "membership", "failover", "events", "messaging", "fencing"}

THIRD_PARTIES = {"grpc": {"api"}, "pyroute2": {"host"}, "click": {"cli"}, "prometheus_client": {"api"}}

_MODULE = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import\s+\(?([\w, ]+)|c?import\s+([\w., ]+))", re.MULTILINE)


def _layers() -> list[list[str]]:
    """The rooms from the top down, as pyproject.toml tells import-linter."""
    settings = tomllib.loads(tree.text(Path("pyproject.toml")))
    contract = next(one for one in settings["tool"]["importlinter"]["contracts"] if one["id"] == "rooms")
    return [re.findall(r"\w+", layer) for layer in contract["layers"]]


LEVEL = {room: level for level, layer in enumerate(reversed(_layers())) for room in layer}


def _code() -> list[Path]:
    suffixes = {".py", ".pyi", ".pyx", ".pxd"}
    return [path for path in tree.files() if path.parts[0] == "ctdbpy" and path.suffix in suffixes]


def _room(path: Path) -> str:
    return path.with_suffix("").parts[1]


def _imports(path: Path) -> Iterator[str]:
    """Dotted names a module imports, at its top or anywhere else."""
    if path.suffix in {".pyx", ".pxd"}:
        for source, names, plain in _MODULE.findall(tree.text(path)):
            if source:
                yield from (f"{source}.{name.split()[0]}" for name in names.split(",") if name.strip())
            else:
                yield from (name.split()[0] for name in plain.split(",") if name.strip())
        return
    for node in ast.walk(tree.syntax(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _calls(path: Path) -> Iterator[tuple[str, ast.Call, str]]:
    """(dotted name of what is called, the call, name of the function around it)."""

    def visit(node: ast.AST, around: str) -> Iterator[tuple[str, ast.Call, str]]:
        for child in ast.iter_child_nodes(node):
            inside = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else around
            if isinstance(child, ast.Call):
                yield ast.unparse(child.func), child, around
            yield from visit(child, inside)

    names = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree.syntax(path))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for name, call, around in visit(tree.syntax(path), ""):
        yield names.get(name, name), call, around


def test_every_room_is_placed_in_the_layers() -> None:
    rooms = {_room(path) for path in _code()} - {"__init__"}
    assert rooms <= set(LEVEL), (
        f"unplaced: {sorted(rooms - set(LEVEL))}; see tool.importlinter in pyproject.toml"
    )


def test_every_folder_of_modules_is_a_package() -> None:
    # import-linter does not look into a folder without __init__.py.
    folders = {parent for path in _code() for parent in path.parents if parent.parts}
    missing = [folder for folder in sorted(folders) if folder / "__init__.py" not in tree.files()]
    assert not missing, f"no __init__.py in {[str(folder) for folder in missing]}"


@pytest.mark.parametrize("path", _code(), ids=str)
def test_walls_between_rooms_hold(path: Path) -> None:
    """What import-linter checks, for compiled modules and imports inside functions as well."""
    own = _room(path)
    for imported in _imports(path):
        top, _, rest = imported.partition(".")
        other = rest.split(".")[0]
        if top in THIRD_PARTIES:
            assert own in THIRD_PARTIES[top], f"{imported} is for {sorted(THIRD_PARTIES[top])}"
        if top != "ctdbpy" or own == "__init__" or other not in LEVEL or other == own:
            continue
        assert LEVEL[own] > LEVEL[other], f"{own} must not import {imported}"


def _is_pure(path: Path) -> bool:
    # A room's entry is a program around it.
    return _room(path) in PURE_ROOMS and path.name != "__main__.py"


@pytest.mark.parametrize("path", [path for path in _code() if _is_pure(path)], ids=str)
def test_pure_rooms_do_no_input_or_output(path: Path) -> None:
    impure = {name for name in _imports(path) if name.split(".")[0] in PURE_ROOMS[_room(path)]}
    assert not impure, f"{_room(path)} is pure and must not import {sorted(impure)}"


def test_core_rooms_do_not_import_each_other() -> None:
    found = [
        f"{path}: {imported}"
        for path in _code()
        if path.parts[1] == "core" and path.parts[2] in CORE_SIBLINGS
        for imported in _imports(path)
        for other in CORE_SIBLINGS - {path.parts[2]}
        if f"{imported}.".startswith(f"ctdbpy.core.{other}.")
    ]
    assert not found


def test_nothing_sleeps_instead_of_waiting_for_an_event() -> None:
    def sleeps(path: Path) -> Iterator[str]:
        for name, call, _ in _calls(path):
            yielding = bool(call.args) and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0
            if name == "time.sleep" or (
                name == "asyncio.sleep" and path.parts[0] == "tests" and not yielding
            ):
                yield f"{path}:{call.lineno}: {name}"

    may_wait = {("ctdbpy", "lab"), ("tests", "cluster"), ("tests", "interop")}
    found = [
        line
        for path in tree.modules("ctdbpy", "tests")
        if path.parts[:2] not in may_wait
        for line in sleeps(path)
    ]
    assert not found


def test_tasks_are_created_by_spawn_alone() -> None:
    made = [
        (f"{path}:{call.lineno}", around)
        for path in tree.modules("ctdbpy")
        for name, call, around in _calls(path)
        if name.rpartition(".")[2] in {"create_task", "ensure_future"}
    ]
    strays = [where for where, around in made if around != "spawn"]
    assert not strays, f"use spawn(name, coro): {strays}"
    assert len(made) <= 1, f"more than one spawn: {made}"


def test_only_programs_print() -> None:
    def is_program(path: Path) -> bool:
        return (
            path.parts[1] in {"cli", "lab"}
            or path.name == "__main__.py"
            or '\nif __name__ == "__main__":' in tree.text(path)
        )

    found = [
        f"{path}:{call.lineno}"
        for path in tree.modules("ctdbpy")
        if not is_program(path)
        for name, call, _ in _calls(path)
        if name == "print"
    ]
    assert not found
