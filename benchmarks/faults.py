# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong in `benchmarks/liveness`, and how long the others take to notice and to go on."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import loaded
from benchmarks.report import machine
from benchmarks.stage import LIMIT_S, Stage
from ctdbpy.errors import LabError

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Run:
    """One fault's figures, in seconds."""

    flavour: str
    fault: str
    led: bool
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that is to be at most `at_most_s`."""

    fault: str
    figure: str
    at_most_s: float


TARGETS = (
    Target("cold start", "healthy", 3.0),
    Target("hang", "dead", 0.6),
    Target("power off", "dead", 0.6),
    Target("leader killed", "recovered", 1.0),
    Target("leader stopped", "recovered", 0.5),
    Target("hang", "longest wait", 1.5),
    Target("power off", "longest wait", 1.5),
    Target("leader killed", "longest wait", 1.5),
    Target("leader stopped", "longest wait", 1.5),
)


# -- the faults: each ends with all as before ------------------------------------------------


def cold_start(stage: Stage, _round: int) -> Run:
    """Every daemon starts at once; nothing ran before."""
    return Run(stage.flavour, "cold start", False, {"healthy": stage.serve_from_cold() / 1e9})


def hang(stage: Stage, number: int) -> Run:
    """A host stands still; its kernel goes on answering."""
    victim, led = _victim(stage, number)

    def mend() -> None:
        stage.lab.thaw(victim)

    return _lose(stage, "hang", victim, led, lambda: stage.lab.freeze(victim), mend)


def power_off(stage: Stage, number: int) -> Run:
    """A host loses its power."""
    victim, led = _victim(stage, number)

    def mend() -> None:
        stage.clients.end(victim)
        stage.lab.power_on(victim)
        stage.views.start(victim)
        began_ns = time.monotonic_ns()
        stage.cluster.start(victim)
        stage.wait_healthy(began_ns)
        stage.serve([victim])

    return _lose(stage, "power off", victim, led, lambda: stage.lab.power_off(victim), mend)


def kill_leader(stage: Stage, _round: int) -> Run:
    """The leader's daemon is killed."""
    victim = stage.leader()
    pid = stage.cluster.pid(victim)

    def kill() -> None:
        stage.lab.run(victim, ["kill", "-KILL", str(pid)], timeout_s=LIMIT_S)

    def mend() -> None:
        stage.clients.end(victim)
        stage.cluster.wait_no_daemon(victim, pid)
        began_ns = time.monotonic_ns()
        stage.cluster.start(victim)
        stage.wait_healthy(began_ns)
        # smbd has ended with its daemon, or does now.
        stage.lab.run(victim, ["pkill", "-KILL", "-x", "smbd"], timeout_s=LIMIT_S, check=False)
        stage.serve([victim])

    return _lose(stage, "leader killed", victim, victim, kill, mend)


def stop_leader(stage: Stage, _round: int) -> Run:
    """`ctdb stop` on the leader."""
    victim = stage.leader()
    survivors = [host for host in stage.lab.nodes if host != victim]
    recovered = stage.recovered(victim, victim)
    began_ns = time.monotonic_ns()
    stage.cluster.tool(victim, "stop")
    recovered_ns = stage.views.wait("the others go on", survivors, recovered, began_ns, LIMIT_S)
    longest_s = stage.clients.longest_s(survivors, began_ns, recovered_ns)
    stage.cluster.tool(victim, "continue")
    figures = {"recovered": _seconds(began_ns, recovered_ns), "longest wait": longest_s}
    return Run(stage.flavour, "leader stopped", True, figures)


def _victim(stage: Stage, number: int) -> tuple[str, str]:
    """In every other round the leader, else one that is not; and who leads."""
    led = stage.leader()
    others = [host for host in stage.lab.nodes if host != led]
    return led if number % 2 == 0 else others[number // 2 % len(others)], led


def _lose(
    stage: Stage, fault: str, victim: str, led: str, lose: Callable[[], None], mend: Callable[[], None]
) -> Run:
    survivors = [host for host in stage.lab.nodes if host != victim]
    pnn = int(victim[1:])
    recovered = stage.recovered(victim, led)
    began_ns = time.monotonic_ns()
    lose()
    dead_ns = stage.views.wait(
        f"'{victim}' is taken for dead", survivors, lambda view: view.has_lost(pnn), began_ns, LIMIT_S
    )
    recovered_ns = stage.views.wait("the others go on", survivors, recovered, dead_ns, LIMIT_S)
    longest_s = stage.clients.longest_s(survivors, began_ns, recovered_ns)
    figures = {
        "dead": _seconds(began_ns, dead_ns),
        "recovered": _seconds(began_ns, recovered_ns),
        "longest wait": longest_s,
    }
    mend()
    return Run(stage.flavour, fault, victim == led, figures)


def _seconds(began_ns: int, ended_ns: int) -> float:
    return (ended_ns - began_ns) / 1e9


FAULTS: dict[str, Callable[[Stage, int], Run]] = {
    "cold": cold_start,
    "hang": hang,
    "power": power_off,
    "kill": kill_leader,
    "stop": stop_leader,
}


# -- the measurement ------------------------------------------------------------------------------


def measure(flavour: str, faults: Sequence[str], first: int, rounds: int, save: Path | None) -> list[Run]:
    """So many rounds of these faults with one flavour's daemons."""
    runs = []

    def note(run: Run) -> None:
        runs.append(run)
        said = ", ".join(f"{name} {value:.3f} s" for name, value in run.figures.items())
        print(f"  {flavour}, {run.fault}{', the leader' if run.led else ''}: {said}", flush=True)
        if save is not None:
            with save.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(run)) + "\n")

    # A lab for each round: what one leaves behind is not measured in the next.
    for number in range(first, first + rounds):
        with Stage(flavour) as stage:
            run = cold_start(stage, number)
            if "cold" in faults:
                note(run)
            for fault in faults:
                if fault != "cold":
                    stage.settle()
                    note(FAULTS[fault](stage, number))
    return runs


def load(path: Path) -> list[Run]:
    """The runs of an earlier measurement. Raises LabError when there are none to be had."""
    try:
        return [Run(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, TypeError) as error:
        raise LabError(f"cannot use the measurement in '{path}': {error}") from error


def render(runs: Sequence[Run]) -> str:
    """A table of medians, least and most, and what was aimed at."""
    lines = [f"{'s':<34}{'Debian':>26}{'ctdbpy':>26}{'ratio':>8}  wanted"]
    rows = dict.fromkeys((run.fault, name) for run in runs for name in run.figures)
    for fault, name in rows:
        columns = {}
        for flavour in ("debian", "ctdbpy"):
            columns[flavour] = [
                run.figures[name]
                for run in runs
                if (run.flavour, run.fault) == (flavour, fault) and name in run.figures
            ]
        line = f"{f'{fault}: {name}':<34}" + "".join(f"{_spread(each):>26}" for each in columns.values())
        ours, theirs = columns["ctdbpy"], columns["debian"]
        ratio = statistics.median(ours) / statistics.median(theirs) if ours and theirs else None
        line += f"{f'{ratio:.3f}' if ratio is not None else '':>8}"
        for target in TARGETS:
            if (target.fault, target.figure) == (fault, name) and ours:
                # A wait is bounded always, the rest in the middle of the runs.
                reached = max(ours) if name == "longest wait" else statistics.median(ours)
                verdict = "met" if reached <= target.at_most_s else "MISSED"
                line += f"  <= {target.at_most_s:g} {verdict}"
        lines.append(line)
    return "\n".join(lines)


def _spread(figures: Sequence[float]) -> str:
    if not figures:
        return "-"
    least, middle, most = min(figures), statistics.median(figures), max(figures)
    return f"{middle:.2f} ({least:.2f} .. {most:.2f}) x{len(figures)}"


def main() -> int:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(prog="./dev bench liveness", description=__doc__)
    parser.add_argument("faults", nargs="*", help=f"of {', '.join(FAULTS)}; default: all")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the number of the first round")
    parser.add_argument("--only", choices=("debian", "ctdbpy"), help="measure one daemon alone")
    parser.add_argument("--save", type=Path, help="append every run to this file")
    parser.add_argument("--beside", type=Path, help="runs saved earlier, for the table")
    parser.add_argument(
        "--quietly-loaded",
        type=float,
        metavar="MINUTES",
        help="no faults: busy processors and full load instead",
    )
    options = parser.parse_args()
    unknown = set(options.faults) - set(FAULTS)
    if unknown:
        parser.error(f"unknown faults: {', '.join(sorted(unknown))}")
    print(machine(), flush=True)
    if options.quietly_loaded:
        # Theirs may well lose a leader: it is asked only when wanted.
        print(loaded.ask(options.only or "ctdbpy", options.quietly_loaded), flush=True)
        return 0
    runs = load(options.beside) if options.beside else []
    for flavour in ("debian", "ctdbpy"):
        if options.only in (None, flavour):
            runs += measure(
                flavour, options.faults or list(FAULTS), options.first, options.rounds, options.save
            )
    print(render(runs), flush=True)
    return 0
