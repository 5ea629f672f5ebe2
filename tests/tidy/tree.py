# SPDX-License-Identifier: GPL-3.0-or-later
"""The tree's own files, for the tests of this folder."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]

# What builds, checks and editors leave behind; nothing of it is source.
_GENERATED = {".git", ".venv", ".dev", "build", "dist", "__pycache__", ".hypothesis", ".import_linter_cache"}
_BINARY = {".so", ".o", ".pyc", ".tdb", ".png", ".swp"}
_SOURCE = {".py", ".pyi", ".pyx", ".pxd", ".pxi", ".sh", ".c", ".h", ".cpp", ".hpp"}


@cache
def files() -> tuple[Path, ...]:
    """Every text file of the tree, relative to its top."""
    return tuple(sorted(_walk()))


def _walk() -> Iterator[Path]:
    for folder, subfolders, names in os.walk(ROOT):
        subfolders[:] = [
            name
            for name in subfolders
            if name not in _GENERATED
            and not name.endswith((".egg-info", "_cache"))
            and not _is_link(folder, name)
        ]
        for name in names:
            if Path(name).suffix not in _BINARY and name != ".git" and not _is_link(folder, name):
                yield Path(folder, name).relative_to(ROOT)


def _is_link(folder: str, name: str) -> bool:
    return Path(folder, name).is_symlink()


@cache
def text(path: Path) -> str:
    """A file's text; what is not UTF-8 is shown, not refused (golden packets may stand in a file)."""
    return (ROOT / path).read_text(encoding="utf-8", errors="replace")


def sources() -> list[Path]:
    """Program text: by suffix, or by a first line that names an interpreter."""
    return [path for path in files() if path.suffix in _SOURCE or text(path).startswith("#!")]


def modules(*folders: str) -> list[Path]:
    """Python modules under the named folders, or everywhere."""
    return [path for path in files() if path.suffix == ".py" and (not folders or path.parts[0] in folders)]


@cache
def syntax(path: Path) -> ast.Module:
    """A Python module's syntax tree."""
    return ast.parse(text(path), str(path))
