# SPDX-License-Identifier: GPL-3.0-or-later
"""One side of a comparison: a lab with three nodes, one flavour of daemon, and a worker on every node."""

from __future__ import annotations

import json
import os
import select
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from ctdbpy.errors import LabError
from ctdbpy.lab import HostProcess, Lab
from ctdbpy.lab.services import Cluster

NODES = 3
ANSWER_LIMIT_S = 240.0
_ANSWER_BYTES = 1 << 20


class Node:
    """The worker of one node. An order is given with `tell` and answered with `answer`."""

    def __init__(self, lab: Lab, host: str) -> None:
        self.host = host
        orders_read, orders_write = os.pipe()
        answers_read, answers_write = os.pipe()
        self._orders: IO[bytes] = os.fdopen(orders_write, "wb", buffering=0)
        self._answers: IO[bytes] = os.fdopen(answers_read, "rb", buffering=0)
        self._log = lab.path(host, "/var/log/worker.log")
        root = str(Path(__file__).resolve().parents[1])
        with (
            os.fdopen(orders_read, "rb") as stdin,
            os.fdopen(answers_write, "wb") as out,
            self._log.open("wb") as log,
        ):
            argv = [sys.executable, "-m", "benchmarks.worker"]
            self._process: HostProcess = lab.connect(host, argv, (stdin, out, log), env={"PYTHONPATH": root})

    def tell(self, do: str, **arguments: Any) -> None:
        """Give an order."""
        self._orders.write(json.dumps({"do": do, **arguments}).encode() + b"\n")

    def answer(self) -> dict[str, Any]:
        """The answer to the last order; raises LabError when the worker is gone or says nothing."""
        line = b""
        while not line.endswith(b"\n"):
            part = b""
            if select.select([self._answers], [], [], ANSWER_LIMIT_S)[0]:
                part = self._answers.read(_ANSWER_BYTES)
            if not part:
                raise LabError(
                    f"cannot have the answer of the worker on '{self.host}': it said:\n"
                    + self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
                )
            line += part
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Give an order and wait for its answer."""
        self.tell(do, **arguments)
        return self.answer()

    def close(self) -> None:
        """End the worker."""
        self._orders.close()
        self._answers.close()
        self._process.close()


class Side:
    """A cluster of one flavour with its workers, up inside the block."""

    def __init__(self, flavour: str) -> None:
        self.flavour = flavour
        self.lab = Lab(nodes=NODES, clients=0)
        self.cluster = Cluster(self.lab, flavour, log_level="NOTICE")
        self.nodes: list[Node] = []

    def __enter__(self) -> Self:
        self.lab.up()
        try:
            self.cluster.configure()
            for host in self.lab.nodes:
                self.cluster.start(host)
            self.cluster.wait_healthy()
            self.nodes = [Node(self.lab, host) for host in self.lab.nodes]
        except BaseException:
            self.lab.down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for node in self.nodes:
                node.close()
        finally:
            self.lab.down()

    def set_tunable(self, name: str, value: int) -> None:
        """Set a tunable on every node."""
        self.all("set_tunable", name=name, value=value)

    def all(self, do: str, **arguments: Any) -> list[dict[str, Any]]:
        """Give every node the same order at once."""
        return self.each(do, [arguments] * len(self.nodes))

    def each(self, do: str, arguments: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Give every node an order of its own at once."""
        for node, own in zip(self.nodes, arguments, strict=True):
            node.tell(do, **own)
        return [node.answer() for node in self.nodes]
