# SPDX-License-Identifier: GPL-3.0-or-later
"""Many public addresses through many random failures and repairs: after each, every address is hosted once.

    python -m tests.cluster.churn [--seed 1] [--steps 200] [--nodes 5] [--addresses 100] [--without FAULT]...

What is looked at is the kernels of all hosts, and who answers to ARP on the public network; and for each
address that moved, whether some daemon's log says why. A run is told by its seed. Needs root.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from ctdbpy.errors import LabError
from ctdbpy.lab import Lab, wait_until
from ctdbpy.lab.services import Cluster
from tests.cluster.arp_watch import Answer, longest_double_s, longest_silence_s, read_answers

#: After each fault and each repair, all must be well again within this time: a node that dies in the moment
#: in which its link is new holds others up for as long as keepalives need.
SETTLE_LIMIT_S: Final = 45.0
#: And stay so: what is seen in the middle of a move counts for nothing.
STEADY_S: Final = 0.4
LOOK_S: Final = 0.02
WATCH_S: Final = 0.1
_TOOL_S: Final = 30.0
FROZEN: Final = "is frozen"
KILLED: Final = "has its daemon killed"
_MOVES: Final = re.compile(r"(\S+) goes (?:from .+ )?to (nowhere|node \d+): \S")
#: So often the next step does not wait for the end of the last.
_HURRY: Final = 0.2


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step ended: seconds until all was well, and what clients could notice of it."""

    step: str
    settled_s: float
    silence_s: float
    double_s: float
    moved: int


@dataclass(frozen=True, slots=True)
class Fault:
    """What can be wrong with a node. One that is `out` counts for no majority. Without `mend` it passes."""

    name: str
    fail: Callable[[Churn, str], None]
    mend: Callable[[Churn, str], None] | None
    is_out: bool = False


class Churn:
    """A cluster, what is wrong with it, and what should be where."""

    def __init__(self, lab: Lab, *, seed: int, addresses: int, without: Collection[str] = ()) -> None:
        self.lab = lab
        self.random = Random(seed)
        self.addresses = [f"10.78.{number // 100}.{254 - number % 100}" for number in range(addresses)]
        self._watch_s = WATCH_S * max(1, addresses // 100)
        public = [f"{address}/24" for address in self.addresses]
        self.cluster = Cluster(lab, "ctdbpy", public_addresses=public, cluster_lock=False, log_level="INFO")
        #: What is wrong with nodes, by name of the node.
        self.broken: dict[str, Fault] = {}
        self.outcomes: list[Outcome] = []
        self._faults = [fault for fault in FAULTS if fault.name not in without]
        self._namespaces: dict[str, Path] = {}
        self._cards = {f"02:00:00:01:00:{int(host[1:]):02x}": host for host in lab.nodes}
        self._watch_log = lab.path("c0", "/tmp/arp")
        self._watch_read = 0
        self._log_read: dict[str, int] = {}
        self._step = 0

    # -- the run --------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start everything and wait until all is well."""
        self.cluster.configure()
        for host in self.lab.nodes:
            self._meet(host)
            self.cluster.start(host)
        self.cluster.wait_healthy()
        argv = [sys.executable, "-m", "tests.cluster.arp_watch", str(self._watch_s), "pub0"]
        argv += [self.lab.address("c0"), *self.addresses]
        root = str(Path(__file__).resolve().parents[2])
        self.lab.spawn("c0", argv, self._watch_log, env={"PYTHONPATH": root})
        self._settle("the start", time.monotonic())

    def run(self, steps: int) -> None:
        """So many random failures and repairs. Raises AssertionError if something does not hold that must."""
        pending: list[str] = []
        for _ in range(steps):
            self._step += 1
            if not pending:
                before, began_s = self.where(), time.monotonic()
            pending.append(self._one())
            if self.random.random() < _HURRY and self._step < steps:
                time.sleep(self.random.uniform(0.0, 1.0))
                continue
            text = ", then ".join(pending)
            pending.clear()
            outcome = self._look_back(text, before, began_s)
            self.outcomes.append(outcome)
            print(
                f"{self._step:4} {outcome.settled_s:6.2f} s  silent {outcome.silence_s:5.1f}  "
                f"twice {outcome.double_s:4.1f}  moved {outcome.moved:3}  {text}",
                flush=True,
            )

    def _one(self) -> str:
        """Break something, or mend it; what it was, in words."""
        well = [host for host in self.lab.nodes if host not in self.broken]
        if self.broken and (len(well) <= 1 or self.random.random() < 0.5):
            host = self.random.choice(sorted(self.broken))
            fault = self.broken.pop(host)
            assert fault.mend is not None, "what passes is not kept"
            fault.mend(self, host)
            return f"{host} mended ({fault.name})"
        outs = sum(fault.is_out for fault in self.broken.values())
        may_be_out = (outs + 1) * 2 < len(self.lab.nodes)
        fault = self.random.choice([each for each in self._faults if may_be_out or not each.is_out])
        host = self.random.choice(well)
        fault.fail(self, host)
        if fault.mend is not None:
            self.broken[host] = fault
        return f"{host} {fault.name}"

    def _look_back(self, text: str, before: dict[str, set[str]], began_s: float) -> Outcome:
        settled_s = self._settle(text, began_s)
        after = self.where()
        moved = [each for each in self.addresses if before[each] != after[each]]
        said = self._reasons()
        for address in moved:
            (host,) = after[address]
            assert said.get(address) == f"node {host[1:]}", (
                f"step {self._step} ({text}): {address} went from {before[address]} to {host}, "
                f"and the logs say {said.get(address)}"
            )
        answers = self._answers_that_fit(text, after)
        first, last = (limit(each.question for each in answers) for limit in (min, max))
        silences = [
            longest_silence_s(answers, each, since=first, until=last, interval_s=self._watch_s)
            for each in self.addresses
        ]
        doubles = [longest_double_s(answers, each, interval_s=self._watch_s) for each in self.addresses]
        return Outcome(text, settled_s, max(silences), max(doubles), len(moved))

    def _settle(self, text: str, began_s: float) -> float:
        """Wait until all is well and stays so; how long that took."""
        limit_s = time.monotonic() + SETTLE_LIMIT_S
        good_s: float | None = None
        while True:
            wrong = self.wrong()
            now_s = time.monotonic()
            if wrong:
                good_s = None
                if now_s > limit_s:
                    raise AssertionError(f"step {self._step} ({text}): {wrong}\n{self.logs()}")
            elif good_s is None:
                good_s = now_s
            elif now_s - good_s >= STEADY_S:
                return good_s - began_s
            time.sleep(LOOK_S)

    # -- what is so, and what should be -------------------------------------------------------------

    def where(self) -> dict[str, set[str]]:
        """By address the hosts whose kernels have it; unattended ones do not count."""
        found: dict[str, set[str]] = {address: set() for address in self.addresses}
        for host in set(self.lab.nodes) - self._unattended:
            for address in self._carried(host):
                found[address].add(host)
        return found

    def wrong(self) -> str:
        """What is not as it should be, "" if nothing is."""
        found = self.where()
        serving = {host for host in self.lab.nodes if host not in self.broken}
        counts = Counter(host for hosts in found.values() for host in hosts)
        for address, hosts in found.items():
            if len(hosts) != 1 or not hosts <= serving:
                return f"{address} is on {sorted(hosts) or 'no host'}, {sorted(serving)} serve"
        for host in serving:
            if counts[host] < len(self.addresses) // (2 * len(serving)):
                return f"{host} serves only {counts[host]} of {len(self.addresses)} addresses"
        return ""

    def _carried(self, host: str) -> set[str]:
        namespace = self._namespaces.get(host)
        if namespace is None:
            return set()
        argv = ["nsenter", f"--net={namespace}", "ip", "-o", "-4", "addr", "show", "dev", "pub0"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_TOOL_S, check=True)
        return {word.partition("/")[0] for word in done.stdout.split()} & set(self.addresses)

    def _meet(self, host: str) -> None:
        """Know a host's network from outside, for when nothing runs in it."""
        space = self.lab.run(host, ["readlink", "/proc/1/ns/net"], timeout_s=_TOOL_S).stdout.strip()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                numbers = re.search(r"^NSpid:(.*)$", (process / "status").read_text(), re.MULTILINE)
                # Process 1 of the host lives as long as its power lasts.
                if (
                    numbers
                    and numbers[1].split()[-1] == "1"
                    and str((process / "ns/net").readlink()) == space
                ):
                    self._namespaces[host] = process / "ns/net"
                    return
            except OSError:
                continue  # It ended while we looked.
        raise LabError(f"cannot find the network of '{host}': no process is in it")

    # -- what was said --------------------------------------------------------------------------------

    @property
    def _unattended(self) -> set[str]:
        """On such a host nobody may be left to remove addresses; its kernel must not answer for them."""
        return {host for host, fault in self.broken.items() if fault.name in (FROZEN, KILLED)}

    def _answers_that_fit(self, text: str, where: dict[str, set[str]]) -> list[Answer]:
        """What was answered since the last time, until who has an address, and nobody else, answers."""
        answers = self._answers()
        asked = max((each.question for each in answers), default=0)
        misfits = ["nobody has answered yet"]

        def fits() -> bool:
            answers.extend(self._answers())
            last = max((each.question for each in answers), default=0)
            if last < asked + 3:
                return False
            now: dict[str, set[str]] = {address: set() for address in where}
            for each in answers:
                # All answers to the one before are there.
                if each.question == last - 1:
                    now[each.address].add(self._cards[each.card])
            misfits[:] = [
                f"{address} is on {hosts}, {now[address]} answer for it"
                for address, hosts in where.items()
                if now[address] != hosts
            ]
            return not misfits

        try:
            wait_until("answers fit", fits, timeout_s=SETTLE_LIMIT_S)
        except LabError:
            raise AssertionError(f"step {self._step} ({text}): {'; '.join(misfits[:5])}") from None
        return answers

    def _answers(self) -> list[Answer]:
        """What was answered since the last time, but for the last line, which may be half there."""
        with self._watch_log.open("rb") as log:
            log.seek(self._watch_read)
            data = log.read()
        data = data[: data.rfind(b"\n") + 1]
        self._watch_read += len(data)
        return read_answers(data.decode())

    def _reasons(self) -> dict[str, str]:
        """By address where it went last since the last time, as some log says with a reason."""
        moves: list[tuple[str, str, str]] = []
        for host in self.lab.nodes:
            log = self.cluster.log(host)
            with log.open("rb") as file:
                file.seek(self._log_read.get(host, 0))
                data = file.read()
            self._log_read[host] = self._log_read.get(host, 0) + len(data)
            for line in data.decode(errors="replace").splitlines():
                if found := _MOVES.search(line):
                    moves.append((line[:40], found[1].rpartition(" ")[2], found[2]))
        return {address: target for _when, address, target in sorted(moves)}

    def logs(self) -> str:
        """The ends of all logs."""
        return "\n".join(f"--- {host}\n{self.cluster.log_end(host, 30)}" for host in self.lab.nodes)

    # -- how to do it -----------------------------------------------------------------------------------

    def tool(self, about: str, *arguments: str) -> None:
        """Tell a node something."""
        self._ask(*arguments, "-n", about[1:])

    def _ask(self, *arguments: str) -> None:
        """Run the tool on any node that is well."""
        well = [host for host in self.lab.nodes if host not in self.broken]

        def is_done() -> bool:
            # One that has been mended just now may not be there yet, or not be seen.
            asked = self.random.choice(well)
            return self.cluster.tool(asked, *arguments, check=False).returncode == 0

        wait_until(f"ctdb {' '.join(arguments)} is done", is_done, timeout_s=_TOOL_S)

    def power_off(self, host: str) -> None:
        self._namespaces.pop(host, None)
        self.lab.power_off(host)

    def power_on(self, host: str) -> None:
        self.lab.power_on(host)
        self._meet(host)
        self.cluster.start(host)

    def restart(self, host: str) -> None:
        """The daemon is killed, and started again at once."""
        self.cluster.kill(host)
        self.cluster.start(host)

    def kill_helper(self, host: str) -> None:
        """The process that holds the addresses dies."""
        self._kill(host, "ctdbpy.host.address_helper")

    def kill_guard(self, host: str) -> None:
        """The process that hears heartbeats dies."""
        self._kill(host, "ctdbpy.guard")

    def _kill(self, host: str, module: str) -> None:
        def is_done() -> bool:
            # On a host that was mended just now it may not run yet.
            argv = ["pkill", "-KILL", "-f", module]
            return self.lab.run(host, argv, timeout_s=_TOOL_S, check=False).returncode == 0

        wait_until(f"{module} of {host} is killed", is_done, timeout_s=_TOOL_S)

    def take_away(self, host: str) -> None:
        """Somebody removes addresses by hand."""
        carried = sorted(self._carried(host))
        for address in self.random.sample(carried, min(3, len(carried))):
            self.lab.run(host, ["ip", "addr", "del", f"{address}/24", "dev", "pub0"], timeout_s=_TOOL_S)

    def move_to(self, host: str) -> None:
        """An administrator moves addresses."""
        others = sorted(set(self.addresses) - self._carried(host))
        for address in self.random.sample(others, min(3, len(others))):
            self._ask("moveip", address, host[1:])

    def put_wrongly(self, host: str) -> None:
        """Somebody adds addresses by hand that are another node's."""
        others = sorted(set(self.addresses) - self._carried(host))
        for address in self.random.sample(others, min(3, len(others))):
            self.lab.run(host, ["ip", "addr", "add", f"{address}/24", "dev", "pub0"], timeout_s=_TOOL_S)


FAULTS: Final = (
    Fault("loses power", Churn.power_off, Churn.power_on, is_out=True),
    Fault(
        "is unplugged",
        lambda churn, host: churn.lab.cut(host),
        lambda churn, host: churn.lab.mend(host),
        True,
    ),
    Fault(
        "has its private cable cut",
        lambda churn, host: churn.lab.cut(host, "private", manner="silent"),
        lambda churn, host: churn.lab.mend(host),
        True,
    ),
    Fault(
        "has its public cable pulled",
        lambda churn, host: churn.lab.cut(host, "public"),
        lambda churn, host: churn.lab.mend(host),
    ),
    Fault(
        KILLED,
        lambda churn, host: churn.cluster.kill(host),
        lambda churn, host: churn.cluster.start(host),
        True,
    ),
    Fault(
        FROZEN,
        lambda churn, host: churn.lab.freeze(host),
        lambda churn, host: churn.lab.thaw(host),
        True,
    ),
    Fault(
        "is disabled",
        lambda churn, host: churn.tool(host, "disable"),
        lambda churn, host: churn.tool(host, "enable"),
    ),
    Fault(
        "is stopped",
        lambda churn, host: churn.tool(host, "stop"),
        lambda churn, host: churn.tool(host, "continue"),
        # It confirms its leader's lease, but nobody else's.
        is_out=True,
    ),
    Fault(
        "is banned",
        lambda churn, host: churn.tool(host, "ban", "600"),
        lambda churn, host: churn.tool(host, "unban"),
        is_out=True,
    ),
    Fault("has its daemon started anew", Churn.restart, None),
    Fault("has its address helper killed", Churn.kill_helper, None),
    Fault("has its guard killed", Churn.kill_guard, None),
    Fault("has addresses removed by hand", Churn.take_away, None),
    Fault("has addresses put by hand", Churn.put_wrongly, None),
    Fault("has addresses moved to it", Churn.move_to, None),
)


def report(outcomes: list[Outcome]) -> Iterator[str]:
    """A line for each kind of step: how often, and how long until all was well."""
    kinds: dict[str, list[Outcome]] = defaultdict(list)
    for each in outcomes:
        kind = re.sub(r"^n\d+ ", "", each.step) if ", then " not in each.step else "several at once"
        kinds[kind].append(each)
    yield f"{'what happened':42} {'times':>5} {'well again after':>18} {'silent':>12} {'twice':>6}"
    for kind, found in sorted(kinds.items()):
        settled = sorted(each.settled_s for each in found)
        silent = sorted(each.silence_s for each in found)
        yield (
            f"{kind:42} {len(found):5} {statistics.median(settled):9.2f} {settled[-1]:8.2f} "
            f"{statistics.median(silent):6.1f} {silent[-1]:5.1f} {max(each.double_s for each in found):6.1f}"
        )
    yield f"{sum(each.moved for each in outcomes)} moves of an address, each with its reason in a log"


def main() -> None:
    """One run; the lab is gone afterwards whatever happens."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--addresses", type=int, default=100)
    parser.add_argument("--without", action="append", default=[], choices=[each.name for each in FAULTS])
    given = parser.parse_args()
    with Lab(nodes=given.nodes, clients=1) as lab:
        churn = Churn(lab, seed=given.seed, addresses=given.addresses, without=given.without)
        churn.begin()
        churn.run(given.steps)
        print("\n".join(report(churn.outcomes)))


if __name__ == "__main__":
    main()
