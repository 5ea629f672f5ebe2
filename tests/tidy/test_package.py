# SPDX-License-Identifier: GPL-3.0-or-later
"""The Debian package can be built as `./dev deb` does it, and has what it needs in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.tidy import tree

LIMIT_S = 120.0


def test_the_package_is_built_where_a_relative_path_says(tmp_path: Path) -> None:
    argv = ["packaging/build", sys.executable, os.path.relpath(tmp_path, tree.ROOT)]
    built = subprocess.run(argv, cwd=tree.ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert built.returncode == 0, built.stderr
    (package,) = tmp_path.iterdir()
    assert built.stdout.splitlines()[-1].endswith(package.name)
    said = subprocess.run(
        ["dpkg-deb", "--contents", package], capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    inside = {line.split()[5] for line in said.stdout.splitlines()}
    for name in (
        "./usr/bin/ctdbpyd",
        "./usr/bin/ctdbctl",
        "./usr/lib/systemd/system/ctdbpyd.service",
        "./usr/lib/python3/dist-packages/ctdbpy/daemon/start.py",
        "./usr/share/man/man8/ctdbpyd.8.gz",
    ):
        assert name in inside, name
    assert any("/ctdbpy/store/engine." in name and name.endswith(".so") for name in inside)
    needs = subprocess.run(
        ["dpkg-deb", "--field", package, "Depends"],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    assert "libtdb1" in needs.stdout
