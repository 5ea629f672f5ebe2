# SPDX-License-Identifier: GPL-3.0-or-later
"""The Debian package: what it holds, and what its scripts do; `./dev deb --prove` installs one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.tidy import tree

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("dpkg-deb", "dpkg-shlibdeps", "strip"))), reason="needs dpkg-dev"
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, unpacked; its control files are in DEBIAN."""
    work = tmp_path_factory.mktemp("package")
    built = subprocess.run(
        [tree.ROOT / "packaging" / "build", sys.executable, work],
        stdout=subprocess.PIPE,
        text=True,
        timeout=110,
        check=True,
    )
    subprocess.run(["dpkg-deb", "-R", built.stdout.strip(), work / "unpacked"], timeout=60, check=True)
    assert [each.name for each in work.iterdir() if each.suffix != ".deb"] == ["unpacked"]
    return work / "unpacked"


def _control(package: Path) -> dict[str, str]:
    lines = re.findall(r"^(\S+): (.*)$", (package / "DEBIAN" / "control").read_text(), re.MULTILINE)
    return dict(lines)


def test_it_takes_the_place_of_the_other_daemon(package: Path) -> None:
    control = _control(package)
    assert (control["Conflicts"], control["Replaces"], control["Provides"]) == ("ctdb", "ctdb", "ctdb")
    alias = package / "usr/lib/systemd/system/ctdb.service"
    assert os.readlink(alias) == "ctdbpyd.service"


def test_it_asks_for_the_libraries_that_the_project_needs(package: Path) -> None:
    wanted = tomllib.loads(tree.text(Path("pyproject.toml")))["project"]["dependencies"]
    asked = {
        name.replace("-", "_").lower() for name in re.findall(r"python3-(\S+)", _control(package)["Depends"])
    }
    assert {"yaml" if name == "pyyaml" else name for name in _names(wanted)} == asked
    minima = set(re.findall(r">=([\d.]+)", " ".join(wanted)))
    assert minima == set(re.findall(r"python3-\S+ \(>= ([\d.]+)\)", _control(package)["Depends"]))
    assert {"libtdb1", "libc6", "iproute2"} <= set(re.findall(r"[\w.+-]+", _control(package)["Depends"]))


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=]", each)[0].lower() for each in requirements}


def test_nothing_that_the_daemon_imports_is_left_out(package: Path) -> None:
    modules = package / "usr/lib/python3/dist-packages"
    packed = {path.relative_to(modules) for path in modules.rglob("*.py")}
    assert packed == {
        path
        for path in tree.files()
        if path.suffix == ".py" and path.parts[0] == "ctdbpy" and path.parts[1] not in ("lab", "sim")
    }
    # From another directory and without the tree: only what was packed can be imported.
    said = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            "import sys, ctdbpy.daemon.start, ctdbpy.guard.loop; print(ctdbpy.__file__)",
        ],
        env={"PYTHONPATH": str(modules)},
        cwd="/",
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    assert said.stdout.strip() == str(modules / "ctdbpy" / "__init__.py")


def test_every_program_says_how_it_is_used(package: Path) -> None:
    programs = sorted(path.name for path in (package / "usr/bin").iterdir())
    assert programs == ["ctdb", "ctdbctl", "ctdbpy-exporter", "ctdbpyd", "onnode"]
    environment = {**os.environ, "PYTHONPATH": str(package / "usr/lib/python3/dist-packages")}
    for name in programs:
        program = package / "usr/bin" / name
        assert program.read_text().startswith("#!/usr/bin/python3 -s\n")
        said = subprocess.run(
            [sys.executable, program, "--help"], env=environment, capture_output=True, timeout=60, check=False
        )
        assert name.encode() in said.stdout + said.stderr.lower(), name
        assert b"Traceback" not in said.stderr, name


def test_event_scripts_find_their_functions(package: Path) -> None:
    share = package / "usr/share/ctdb"
    scripts = sorted(path.name for path in (share / "events" / "legacy").iterdir())
    assert scripts == sorted(path.name for path in (tree.ROOT / "eventscripts").glob("*.script"))
    assert all(os.access(share / "events" / "legacy" / name, os.X_OK) for name in scripts)
    assert (share / "functions").exists()


def _run_script(package: Path, system: Path, name: str, *arguments: str) -> None:
    assert _status(package, system, name, *arguments) == 0


def _status(package: Path, system: Path, name: str, *arguments: str) -> int:
    """Run a maintainer script as if `system` were the root: its paths are moved there."""
    script = (package / "DEBIAN" / name).read_text()
    for folder in (
        "/etc/ctdb",
        "/etc/logrotate.d",
        "/usr/share/ctdb",
        "/var/log/ctdb",
        "/var/lib/ctdb",
        "/run/",
    ):
        script = script.replace(folder, f"{system}{folder}")
    script = re.sub(r"^\s*(py3compile|py3clean|warn_of_purging$).*", ":", script, flags=re.MULTILINE)
    script = script.replace("-x /usr/bin/systemctl", "-x /nowhere")
    script = re.sub(r"^ctdb_took_over.*", "ctdb_took_over() { false; }", script, flags=re.MULTILINE)
    return subprocess.run(["sh", "-e", "-c", script, name, *arguments], timeout=60, check=False).returncode


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """Enough of a system for the maintainer scripts."""
    for folder in (
        "etc/ctdb/events/legacy",
        "etc/logrotate.d",
        "usr/share/ctdb/events/legacy",
        "var/lib/ctdb",
    ):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("functions", "statd-callout"):
        (tmp_path / "usr/share/ctdb" / name).write_text("# ctdbpy\n")
    return tmp_path


def test_functions_of_the_other_daemon_are_put_aside_and_given_back(package: Path, system: Path) -> None:
    functions = system / "etc/ctdb/functions"
    functions.write_text("# theirs\n")
    _run_script(package, system, "postinst", "configure")
    assert functions.read_text() == "# ctdbpy\n"
    _run_script(package, system, "postinst", "configure", "0.1.0-1")
    _run_script(package, system, "prerm", "remove", "in-favour", "ctdb", "2")
    assert functions.read_text() == "# theirs\n"


def test_it_is_not_installed_over_a_running_daemon_of_the_other_kind(
    package: Path, system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (system / "run/systemd/system").mkdir(parents=True)
    (system / "bin").mkdir()
    systemctl = system / "bin" / "systemctl"
    monkeypatch.setenv("PATH", f"{system}/bin:{os.environ['PATH']}")
    for status, wanted in ((0, 1), (3, 0)):
        systemctl.write_text(
            f'#!/bin/sh\n[ "$*" = "is-active --quiet ctdb.service" ] && exit {status}\nexit 99\n'
        )
        systemctl.chmod(0o755)
        assert _status(package, system, "preinst", "install") == wanted
    # An upgrade of ours finds a unit of that name, too: it is ours.
    systemctl.write_text("#!/bin/sh\nexit 0\n")
    assert _status(package, system, "preinst", "upgrade", "0.1.0-1") == 0


def test_a_disabled_script_stays_disabled_over_an_upgrade(package: Path, system: Path) -> None:
    enabled = system / "etc/ctdb/events/legacy"
    _run_script(package, system, "postinst", "configure")
    assert sorted(os.listdir(enabled)) == [
        f"{name}.script" for name in ("00.ctdb", "01.reclock", "05.system", "10.interface")
    ]
    (enabled / "00.ctdb.script").unlink()
    _run_script(package, system, "postinst", "configure", "0.1.0-1")
    assert "00.ctdb.script" not in os.listdir(enabled)


def test_purging_leaves_databases_and_what_the_administrator_wrote(package: Path, system: Path) -> None:
    _run_script(package, system, "postinst", "configure")
    for name in (
        "etc/ctdb/nodes",
        "var/lib/ctdb/persistent/secrets.tdb.0",
        "var/lib/ctdb/volatile/locking.tdb.0",
    ):
        (system / name).parent.mkdir(exist_ok=True)
        (system / name).write_text("10.0.0.1\n")
    _run_script(package, system, "prerm", "remove")
    _run_script(package, system, "postrm", "remove")
    _run_script(package, system, "postrm", "purge")
    left = {
        str(path.relative_to(system))
        for folder in ("etc/ctdb", "var/lib")
        for path in _files(system / folder)
    }
    assert left == {"etc/ctdb/nodes", "var/lib/ctdb/persistent/secrets.tdb.0"}


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]
