# SPDX-License-Identifier: GPL-3.0-or-later
"""`ctdbctl config`: show, check, import and apply what the cluster is configured with."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import click

from ctdbpy.cli.commands import asks, group
from ctdbpy.cli.config_apply import Ways, apply_file
from ctdbpy.cli.config_check import Finding, check_cluster, check_host, facts_running
from ctdbpy.cli.session import Session
from ctdbpy.config.cluster_writer import cluster_text
from ctdbpy.config.configuration import load
from ctdbpy.config.facts import facts_of, facts_text
from ctdbpy.config.importing import export_file, import_nodes
from ctdbpy.config.paths import Paths
from ctdbpy.errors import ConfigError

_ETC = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE = click.Path(path_type=Path)

config = group(
    "The configuration: show, check, import and apply it. That of the whole cluster is "
    "/etc/ctdbpy/cluster.yaml; where it is not there, upstream's files in /etc/ctdb count."
)


@config.command("show")
@click.option("--running", is_flag=True, help="What the daemon of this node runs with, fact by fact.")
@click.pass_obj
def show(session: Session, running: bool) -> None:
    """Show what counts on this node, as a cluster file; in JSON, and with --running, fact by fact."""
    if running:
        with session.connect() as connection:
            session.show(facts_running(connection), facts_text)
        return
    paths = _paths()
    configuration = load(paths)
    file = export_file(configuration, paths)
    session.show(facts_of(configuration), lambda _facts: cluster_text(file))


@config.command("check")
@click.argument("file", required=False, type=_FILE)
@click.option("--local", is_flag=True, help="Look at this host only, and ask no daemon.")
@click.pass_obj
def check(session: Session, file: Path | None, local: bool) -> int:
    """Look for mistakes: in the files, on this host, and between the nodes. Nothing is changed.

    FILE is a cluster file, or a directory with upstream's files, to check instead of what counts. Where the
    daemon of this node runs every node is asked, too: whether its files are the same, whether FILE would do
    there, whether nodes hear each other and their clocks agree. Exits with 1 if there is a mistake.
    """
    paths = _paths()
    findings = check_host(paths, file)
    if not local:
        findings += check_cluster(session, paths, file, findings)
    session.show({"findings": [each.as_data() for each in findings]}, lambda _answer: _told(findings))
    return 1 if any(each.is_error for each in findings) else 0


@config.command("import")
@click.argument("directory", required=False, type=_ETC)
@click.option(
    "--node",
    "nodes",
    multiple=True,
    metavar="NUMBER=DIRECTORY",
    help="A node and a copy of its files; once for every node of the cluster.",
)
@click.option("-o", "--output", type=_FILE, help="Write the file there, if there is none yet.")
@click.pass_obj
def import_(session: Session, directory: Path | None, nodes: tuple[str, ...], output: Path | None) -> None:
    """Make a cluster file from upstream's files that means the same.

    DIRECTORY is where they are, /etc/ctdb if left out. What is the node's own in them (addresses,
    capabilities) is taken for all nodes, unless the files of each are given with --node.
    """
    paths = _paths()
    directories: dict[int | None, Paths] = {}
    for text in nodes:
        number, equals, path = text.partition("=")
        if not equals or not number.isdecimal() or not Path(path).is_dir():
            raise click.BadParameter(f"'{text}' is not NUMBER=DIRECTORY, of a directory that is there")
        directories[int(number)] = files_in(paths, Path(path))
    if directories and directory is not None:
        raise click.UsageError("give DIRECTORY or --node, not both")
    if not directories:
        directories[None] = paths if directory is None else files_in(paths, directory)
    imported = import_nodes(directories, str(output or paths.cluster))
    text = cluster_text(imported.file)
    if output is not None:
        try:
            with output.open("x", encoding="utf-8") as stream:
                stream.write(text)
        except OSError as error:
            raise ConfigError(f"cannot write '{output}': {error.strerror}") from error
    for note in () if session.as_json else imported.notes:
        click.echo(f"note: {note}", err=True)
    facts = {"text": text, "file": None if output is None else str(output), "notes": list(imported.notes)}
    session.show(facts, lambda _facts: text if output is None else "")


@config.command("apply")
@click.argument("file", required=False, type=_FILE)
@asks
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--skip-unreachable", is_flag=True, help="Leave out nodes that no daemon can be asked on.")
@click.option(
    "--via",
    metavar="COMMAND",
    help="Reach those nodes with it, such as 'ssh root@{address}': it gets a shell command to run there.",
)
@click.pass_obj
def apply(session: Session, file: Path | None, dry_run: bool, skip_unreachable: bool, via: str | None) -> int:
    """Bring FILE to every node as its cluster file, and have what can be used at once.

    FILE is this node's own cluster file if left out. Every node looks at it first; if one of them has
    anything against it, nothing is changed anywhere. Nodes, public addresses, tunables, the log level and
    options of event scripts count at once; what needs a restart is named.
    """
    ways = Ways(only_say=dry_run, skip_unreachable=skip_unreachable, via=via)
    return apply_file(session, _paths(), file, ways)


def files_in(paths: Paths, directory: Path) -> Paths:
    """The paths with upstream's files in another directory."""
    directory = directory.absolute()
    return replace(paths, etc=directory, nodes=str(directory / "nodes"))


def _paths() -> Paths:
    return Paths.from_environment(os.environ)


def _told(findings: list[Finding]) -> str:
    lines = [f"{each.level}: {each.text}" for each in findings]
    errors = sum(each.is_error for each in findings)
    if sys.stdout.isatty():
        lines = [click.style(line, fg="red" if line.startswith("error") else "yellow") for line in lines]
    counts = (_count(errors, "mistake"), _count(len(findings) - errors, "warning"))
    lines.append(", ".join(filter(None, counts)) or "no mistakes found")
    return "".join(f"{line}\n" for line in lines)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' if number > 1 else ''}" if number else ""
