# SPDX-License-Identifier: GPL-3.0-or-later
"""`ctdbctl node exec`, `reload` and `port-free`: what concerns the hosts and not only the daemons.

Commands are run as upstream's onnode does: by ssh, or what ONNODE_SSH says, which is given -n, an address and
the command.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import threading
from typing import IO, Final

import click

from ctdbpy.cli.commands import Answer, answers, asks, nodes_of, waits
from ctdbpy.cli.node import node as nodes
from ctdbpy.cli.session import Session
from ctdbpy.client.connection import NoDaemon
from ctdbpy.client.nodes import connected
from ctdbpy.config.nodes import NodeAddress, load_nodes
from ctdbpy.config.paths import Paths
from ctdbpy.errors import ClientError, ConfigError
from ctdbpy.wire.constants import NodeFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.srvids import SRVID_DISABLE_RECOVERIES
from ctdbpy.wire.structures import NodeEntry, NodeMap

#: A message that is not an exit code of the command but of the program that carries it there.
_NOT_REACHED: Final = 255


@nodes.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("which", metavar="NODES")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("-p", "--parallel", is_flag=True, help="On all of them at a time.")
@click.option("-q", "--quiet", is_flag=True, help="Do not say which node says what.")
@click.option("-c", "--here", is_flag=True, help="In the directory of this name, there.")
@click.option("-f", "--nodes-file", metavar="FILE", help="The nodes of that file, not of this cluster.")
@click.pass_obj
def exec_(
    session: Session,
    which: str,
    command: tuple[str, ...],
    parallel: bool,
    quiet: bool,
    here: bool,
    nodes_file: str | None,
) -> int:
    """Run a command on NODES: all, any, ok, con, or numbers such as 0,2-4.

    Ends with the exit code of the last node where it failed; 255 is a node that was not reached.
    """
    line = " ".join(command) if len(command) == 1 else shlex.join(command)
    if here:
        line = f"cd {shlex.quote(os.getcwd())} && {line}"
    runs = [_Run(pnn, address, line) for pnn, address in _hosts(session, which, nodes_file)]
    heads = not quiet and len(runs) > 1
    if parallel:
        for run in runs:
            run.start(capture=True)
    code = 0
    for run in runs:
        if not parallel:
            if heads and not session.as_json:
                sys.stderr.write(f"\n>> NODE: {run.address} <<\n")
                sys.stderr.flush()
            run.start(capture=session.as_json)
        ended = run.wait()
        code = ended or code
        if parallel and not session.as_json:
            run.tell(heads)
    if session.as_json:
        session.show({"nodes": [run.answer() for run in runs]})
    return code


@nodes.command("push")
@click.argument("which", metavar="NODES")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("-f", "--nodes-file", metavar="FILE", help="The nodes of that file, not of this cluster.")
@asks
@click.pass_obj
def push(session: Session, which: str, files: tuple[str, ...], nodes_file: str | None) -> None:
    """Copy files of this host to the same places on NODES, each whole or not at all."""
    hosts = _hosts(session, which, nodes_file)
    paths = [os.path.abspath(each) for each in files]
    session.confirm(f"{', '.join(paths)} are replaced on {len(hosts)} nodes")
    for pnn, address in hosts:
        for path in paths:
            _push(pnn, address, path)
    session.done(f"{len(paths)} files are on {len(hosts)} nodes", nodes=[pnn for pnn, _address in hosts])


def _push(pnn: int, address: str, path: str) -> None:
    part, mode = shlex.quote(f"{path}.{os.getpid()}.part"), os.stat(path).st_mode & 0o7777
    line = f"umask 077 && cat >{part} && chmod {mode:o} {part} && mv -f {part} {shlex.quote(path)}"
    with open(path, "rb") as file:
        done = _carry([address, line], stdin=file, pnn=pnn)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise ClientError(f"cannot copy '{path}' to node {pnn}: {said or f'status {done.returncode}'}")


def _carry(words: list[str], *, stdin: IO[bytes], pnn: int) -> subprocess.CompletedProcess[bytes]:
    carrier = _carrier()
    try:
        return subprocess.run([*carrier, *words], stdin=stdin, capture_output=True, check=False)
    except OSError as error:
        raise ClientError(f"cannot reach node {pnn}: '{carrier[0]}': {error.strerror}") from error


def _carrier() -> list[str]:
    return shlex.split(os.environ.get("ONNODE_SSH") or "ssh")


class _Run:
    """A command on one node."""

    def __init__(self, pnn: int, address: str, line: str) -> None:
        self.pnn = pnn
        self.address = address
        self._argv = [*_carrier(), "-n", address, line]
        self._process: subprocess.Popen[bytes] | None = None
        self._readers: list[threading.Thread] = []
        self._said: dict[str, bytes] = {"out": b"", "err": b""}
        self._code = 0

    def start(self, *, capture: bool) -> None:
        pipe = subprocess.PIPE if capture else None
        try:
            self._process = subprocess.Popen(self._argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)
        except OSError as error:
            raise ClientError(
                f"cannot run a command on node {self.pnn}: '{self._argv[0]}': {error.strerror}"
            ) from error
        for name, stream in (("out", self._process.stdout), ("err", self._process.stderr)):
            if stream is not None:
                # All nodes are read at a time: none waits because its pipe is full.
                reader = threading.Thread(target=self._read, args=(name, stream), daemon=True)
                reader.start()
                self._readers.append(reader)

    def _read(self, name: str, stream: IO[bytes]) -> None:
        with stream:
            self._said[name] = stream.read()

    def wait(self) -> int:
        assert self._process is not None
        code = self._process.wait()
        for reader in self._readers:
            reader.join()
        self._code = code if code >= 0 else _NOT_REACHED
        return self._code

    def tell(self, heads: bool) -> None:
        for name, stream in (("out", sys.stdout), ("err", sys.stderr)):
            for line in self._said[name].decode(errors="replace").splitlines():
                stream.write(f"[{self.address}] {line}\n" if heads else f"{line}\n")

    def answer(self) -> Answer:
        return {
            "pnn": self.pnn,
            "address": self.address,
            "exit_code": self._code,
            "output": self._said["out"].decode(errors="replace"),
            "errors": self._said["err"].decode(errors="replace"),
        }


def _hosts(session: Session, which: str, nodes_file: str | None) -> list[tuple[int, str]]:
    if nodes_file is None and which in ("ok", "healthy", "con", "connected", "any"):
        with session.connect() as connection:
            entries = nodes_of(connection)
        fit = [each for each in entries if _fits(each, which)]
        if not fit:
            raise ClientError(f"cannot run it: no node is {which}")
        return [(each.pnn, each.address.host) for each in (fit[:1] if which == "any" else fit)]
    listed = _known(session) if nodes_file is None else load_nodes(nodes_file)
    known = {each.pnn: each.address for each in listed if not each.deleted}
    if which == "all":
        return list(known.items())
    numbers = _numbers(which)
    for pnn in numbers:
        if pnn not in known:
            raise ClientError(f"cannot run it on node {pnn}: there is none; there are {_listed(known)}")
    return [(pnn, known[pnn]) for pnn in numbers]


def _fits(node: NodeEntry, which: str) -> bool:
    return not node.flags & NodeFlag.DISCONNECTED if which in ("con", "connected") else not node.flags


def _known(session: Session) -> list[NodeAddress]:
    """The nodes: from the daemon, or without one from the nodes file."""
    try:
        with session.connect() as connection:
            return [NodeAddress(each.pnn, each.address.host) for each in nodes_of(connection)]
    except NoDaemon:
        return list(_nodes_file())


def _numbers(text: str) -> list[int]:
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise click.BadParameter(f"{part!r} is no number of a node", param_hint="NODES")
        numbers += range(int(first), int(last if dash else first) + 1)
    return numbers


def _listed(numbers: dict[int, str]) -> str:
    return ", ".join(str(pnn) for pnn in numbers)


def _nodes_file() -> tuple[NodeAddress, ...]:
    from ctdbpy.config.configuration import load

    paths = Paths.from_environment(os.environ)
    try:
        return load(paths).nodes
    except ConfigError:
        return load_nodes(paths.nodes)


# -- the nodes file ---------------------------------------------------------------------------------


@nodes.command("file")
@answers
def file(_session: Session) -> Answer:
    """Show the nodes as this host's configuration has them, without asking the daemon."""
    return {
        "nodes": [{"pnn": each.pnn, "address": each.address} for each in _nodes_file() if not each.deleted]
    }


@nodes.command("reload")
@asks
@waits
@click.pass_obj
def reload(session: Session) -> None:
    """Have all nodes read the nodes file again, after checking that it is the same everywhere."""
    with session.cluster() as cluster:
        entries = cluster.nodes()
        reachable = connected(entries)
        files = cluster.everywhere(Control.GET_NODES_FILE, None, reachable)
        wanted = files[cluster.connection.pnn]
        assert isinstance(wanted, NodeMap)
        for pnn, theirs in files.items():
            if theirs != wanted:
                raise ClientError(f"cannot reload the nodes: the file of node {pnn} differs from this node's")
        changes = _changes(entries, wanted)
        if not changes:
            session.done("the nodes file has no changes", changes=[])
            return
        session.confirm("; ".join(changes))
        seconds = 2 * int(cluster.connection.timeout_s)
        cluster.hold_up(SRVID_DISABLE_RECOVERIES, reachable, seconds)
        try:
            cluster.everywhere(Control.RELOAD_NODES_FILE, None, reachable)
        finally:
            cluster.hold_up(SRVID_DISABLE_RECOVERIES, reachable, 0)
    session.done("the nodes are loaded again: " + "; ".join(changes), changes=changes)


def _changes(before: tuple[NodeEntry, ...], wanted: NodeMap) -> list[str]:
    """What the file changes, in words. Raises ClientError for what it may not."""
    if len(wanted.nodes) < len(before):
        raise ClientError(
            f"cannot reload the nodes: the file has {len(wanted.nodes)} lines for {len(before)} nodes; "
            "put a # before the address of a node that is to go, and leave its line"
        )
    changes = []
    for node, new in zip(before, wanted.nodes, strict=False):
        was, goes = bool(node.flags & NodeFlag.DELETED), bool(new.flags & NodeFlag.DELETED)
        if goes and not was:
            if not node.flags & NodeFlag.DISCONNECTED:
                raise ClientError(
                    f"cannot reload the nodes: node {node.pnn} is to go and still runs; shut it down first"
                )
            changes.append(f"node {node.pnn} {node.address} goes")
        elif was and not goes:
            changes.append(f"node {new.pnn} {new.address} is there again")
        elif not was and node.address != new.address:
            raise ClientError(
                f"cannot reload the nodes: node {node.pnn} is {node.address}, the file says {new.address}; "
                "a node that moves goes with a #, and comes back on a line of its own"
            )
    return changes + [f"node {new.pnn} {new.address} is new" for new in wanted.nodes[len(before) :]]


@nodes.command("port-free")
@click.argument("port", type=click.IntRange(1, 65535))
@click.pass_obj
def port_free(session: Session, port: int) -> int:
    """Say whether nothing on this host listens on a TCP port; exit with 1 if something does."""
    with socket.socket() as probe:
        try:
            probe.bind(("0.0.0.0", port))
            reason = None
        except OSError as error:
            reason = error.strerror
    session.show({"port": port, "is_free": reason is None, "reason": reason})
    return int(reason is not None)
