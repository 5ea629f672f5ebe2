# SPDX-License-Identifier: GPL-3.0-or-later
"""The administrator's files while the daemon runs: read again, looked at, replaced.

All of it waits for a disk or a program: it is called in threads, never on the loop.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from ctdbpy.config.cluster_file import ScriptOption
from ctdbpy.config.configuration import Configuration, host_problems, load, load_cluster, private_problems
from ctdbpy.config.facts import facts_of, facts_text
from ctdbpy.config.files import FILE_BYTES_MAX
from ctdbpy.config.home_nodes import load_home_nodes
from ctdbpy.config.nodes import NodeAddress, load_nodes
from ctdbpy.config.paths import Paths
from ctdbpy.config.public_addresses import PublicAddress, load_public_addresses
from ctdbpy.config.script_options import script_options_text
from ctdbpy.core import effects, inputs
from ctdbpy.errors import ConfigError
from ctdbpy.wire.own import (
    CONFIGURATION_TEXT_MAX,
    GIVEN_FILE,
    ConfigurationAction,
    ConfigurationReport,
)

ScriptOptions = Mapping[str, Mapping[str, str]]

_MODE: Final = 0o644
#: Nobody reads more at once.
LINES_MAX: Final = 500
#: What a cluster file held before it was replaced.
OLD_SUFFIX: Final = ".old"


class ConfigurationFiles:
    """The files of one node.

    paths: as they are without settings. running: what the daemon was started with.
    """

    def __init__(
        self,
        paths: Paths,
        running: Configuration,
        pnn: int,
        on_script_options: Callable[[ScriptOptions], None],
    ) -> None:
        self._paths = paths
        self._running = running
        self._pnn = pnn
        self._on_script_options = on_script_options
        self._nodes = running.nodes
        self._known: tuple[tuple[int, ...], Configuration] | None = None

    def nodes(self) -> tuple[inputs.NodeAddress, ...]:
        """The nodes as the files have them now. Raises ConfigError."""
        found = self._cluster()
        self._nodes = load_nodes(self._running.paths.nodes) if found is None else found.nodes
        return core_nodes(self._nodes)

    def public_addresses(self) -> tuple[inputs.PublicAddress, ...]:
        """This node's public addresses as the files have them now. Raises ConfigError."""
        found = self._cluster()
        if found is not None:
            return core_public(found.public_addresses)
        addresses = load_public_addresses(self._paths.public_addresses)
        problems = private_problems(self._nodes, addresses, self._paths.public_addresses)
        if problems:
            raise ConfigError("\n".join(problems))
        return core_public(addresses)

    def home_nodes(self) -> tuple[tuple[str, int], ...]:
        """Where public addresses belong as the files have it now. Raises ConfigError."""
        found = self._cluster()
        return tuple(load_home_nodes(self._paths.home_nodes).items()) if found is None else found.home_nodes

    def _cluster(self) -> Configuration | None:
        """What the cluster file says now, None where there is none; read again only if it is another one.

        It is asked for with every takeover run, and YAML takes its time.
        """
        try:
            status = self._paths.cluster.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"cannot read '{self._paths.cluster}': {error.strerror}") from error
        version = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
        if self._known is None or self._known[0] != version:
            self._known = (version, load(self._paths, number=self._pnn))
        return self._known[1]

    def look(self, look: effects.LookAtConfiguration) -> ConfigurationReport:
        """How the node would run with its files or with the text that is given; keep the text if asked to."""
        now = replace(
            self._running,
            nodes=tuple(NodeAddress(each.pnn, each.address, each.deleted) for each in look.nodes),
            public_addresses=tuple(
                PublicAddress(each.address, each.prefix, each.interfaces) for each in look.public_addresses
            ),
            tunables=look.tunables,
            settings=replace(self._running.settings, log_level=look.log_level),
            home_nodes=self._homes_used(),
        )
        report = ConfigurationReport(
            wall_us=0,
            source=str(self._paths.cluster if self._running.cluster is not None else self._paths.etc),
            running=_fitting(facts_text(facts_of(now))),
        )
        try:
            found = self._found(look)
            problems = [*host_problems(found), *self._other_cluster(found, look.nodes)]
            if not problems and look.action is ConfigurationAction.STORE:
                self._store(look.text)
                self._use(found)
        except (ConfigError, OSError) as error:
            return replace(report, problems=_lines(str(error).split("\n")), wall_us=_wall_us())
        return replace(
            report,
            found="" if problems else _fitting(facts_text(facts_of(found))),
            problems=_lines(problems),
            notes=_lines([*found.warnings, *self._unheard(look)]),
            # The last thing, for whoever compares clocks: a program that lists the nodes takes its time.
            wall_us=_wall_us(),
        )

    def _unheard(self, look: effects.LookAtConfiguration) -> list[str]:
        addresses = {node.pnn: node.address for node in look.nodes}
        return [
            f"the heartbeats of node {pnn} ({addresses[pnn]}) are not heard, so its death is noticed late: "
            f"UDP port {self._running.port} is blocked somewhere between, or its daemon is not ctdbpyd"
            for pnn in look.unheard
        ]

    def _homes_used(self) -> tuple[tuple[str, int], ...]:
        """Homes count from the file as it is, with the next takeover run."""
        try:
            return self.home_nodes()
        except ConfigError:
            return ()

    def _found(self, look: effects.LookAtConfiguration) -> Configuration:
        if look.action is ConfigurationAction.READ:
            return load(self._paths, number=self._pnn)
        try:
            data = look.text.encode()
        except UnicodeEncodeError:
            raise ConfigError("cannot use the cluster file: it is not UTF-8; save it as UTF-8") from None
        if len(data) > FILE_BYTES_MAX:
            raise ConfigError(f"cannot use the cluster file: it is larger than {FILE_BYTES_MAX} bytes")
        return load_cluster(look.text, GIVEN_FILE, self._paths, number=self._pnn)

    def _other_cluster(self, found: Configuration, nodes: Sequence[inputs.NodeAddress]) -> list[str]:
        """What would make other nodes of those that run than there are now."""
        wanted = {node.pnn: node for node in found.nodes}
        source = found.cluster.source if found.cluster is not None else found.paths.nodes
        problems = []
        for node in nodes:
            new = wanted.get(node.pnn)
            if new is None:
                keep = (
                    f"'- {{number: {node.pnn}, deleted: true}}'"
                    if found.cluster is not None
                    else f"line {node.pnn + 1} of it, with a '#' before it,"
                )
                problems.append(
                    f"{source}:1: node {node.pnn} is missing; keep {keep} so that no other gets its number"
                )
            elif not node.deleted and not new.deleted and new.address != node.address:
                where = next((each.line for each in found.nodes if each.address == node.address), new.line)
                problems.append(
                    f"{source}:{where}: node {node.pnn} runs at '{node.address}', not '{new.address}'; "
                    "a node keeps number and address: delete one and add another with a new number"
                )
        own = wanted.get(self._pnn)
        if own is not None and own.deleted:
            problems.append(f"{source}:{own.line}: this node, {self._pnn}, is deleted; shut it down first")
        return problems

    def _store(self, text: str) -> None:
        """Replace the file as a whole, and keep what was there."""
        path = Path(os.path.realpath(self._paths.cluster))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            mode = path.stat().st_mode & 0o7777 if path.exists() else _MODE
            if path.exists():
                replace_file(path.with_name(path.name + OLD_SUFFIX), path.read_bytes(), mode)
            replace_file(path, text.encode(), mode)
        except OSError as error:
            raise ConfigError(f"cannot write '{path}': {error.strerror}") from error

    def _use(self, found: Configuration) -> None:
        """What counts from now on without another word."""
        self._running = replace(self._running, script_options=found.script_options, cluster=found.cluster)
        self._on_script_options(script_options(found.script_options or ()))
        offer_script_options(self._paths, found)


def script_options(options: Iterable[ScriptOption]) -> dict[str, dict[str, str]]:
    """The variables of each script by its name."""
    by_script: dict[str, dict[str, str]] = {}
    for option in options:
        by_script.setdefault(option.script, {})[option.name] = option.value
    return by_script


def offer_script_options(paths: Paths, configuration: Configuration) -> None:
    """Have programs that the daemon does not start find the options of the cluster file. Raises OSError."""
    if configuration.script_options is None:
        paths.cluster_options.unlink(missing_ok=True)
    else:
        text = script_options_text(configuration.script_options)
        replace_file(paths.cluster_options, text.encode(), _MODE)


def core_nodes(nodes: Iterable[NodeAddress]) -> tuple[inputs.NodeAddress, ...]:
    """Nodes as the core has them."""
    return tuple(inputs.NodeAddress(node.pnn, node.address, node.deleted) for node in nodes)


def core_public(addresses: Iterable[PublicAddress]) -> tuple[inputs.PublicAddress, ...]:
    """Public addresses as the core has them."""
    return tuple(inputs.PublicAddress(each.address, each.prefix, each.interfaces) for each in addresses)


def _wall_us() -> int:
    return time.time_ns() // 1000


def _lines(texts: Sequence[str]) -> str:
    more = [f"and {len(texts) - LINES_MAX} more"] if len(texts) > LINES_MAX else []
    return _fitting("".join(f"{text}\n" for text in (*texts[:LINES_MAX], *more)))


def _fitting(text: str) -> str:
    """As much of a text as a report may carry: whole lines, of what UTF-8 can say."""
    data = text.encode(errors="backslashreplace").replace(b"\0", b"?")
    if len(data) > CONFIGURATION_TEXT_MAX:
        data = data[: data.rindex(b"\n", 0, CONFIGURATION_TEXT_MAX) + 1]
    return data.decode(errors="replace")


def replace_file(path: Path, data: bytes, mode: int) -> None:
    """The file has either its old text or the new, whenever the power goes."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
