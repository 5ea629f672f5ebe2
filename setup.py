# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the compiled modules: every `*.pyx` under ctdbpy becomes one C++ extension linked with libtdb.

Everything else about the package stands in pyproject.toml.
"""

from __future__ import annotations

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

# Two at a time: enough to halve the wait, and it leaves a small machine usable.
PARALLEL = max(1, min(2, os.cpu_count() or 1))

# The hot path indexes buffers whose bounds it has checked itself; Cython's own checks would do it twice.
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
}


def extensions() -> list[Extension]:
    """One extension per Cython module, named by its path."""
    return [
        Extension(
            ".".join(source.with_suffix("").parts),
            [str(source)],
            language="c++",
            libraries=["tdb"],
            extra_compile_args=["-O2", "-g1"],
        )
        for source in sorted(Path("ctdbpy").rglob("*.pyx"))
    ]


def compiled() -> list[Extension]:
    """The extensions with C++ generated under build/, or nothing when there is no Cython module yet."""
    found = extensions()
    if not found:
        return []
    modules: list[Extension] = cythonize(
        found, build_dir="build/cython", nthreads=PARALLEL, compiler_directives=DIRECTIVES
    )
    return modules


setup(ext_modules=compiled(), options={"build_ext": {"parallel": PARALLEL}})
