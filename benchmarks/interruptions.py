# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong in `benchmarks/failover`, and for how long an SMB client cannot write."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.clients import LIMIT_S, Served
from benchmarks.report import machine
from ctdbpy.errors import LabError

SETTLED_NS = 1_000_000_000
MONITOR_INTERVAL_S = 15.0
# However many rounds there are, its multiples spread evenly over an interval.
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, slots=True)
class Run:
    """One fault's figures, in seconds.

    Attributes:
        led: Whether the fault hit the leader.
        load: The machine's load average when it began.
        interruption: How long the client whose host was hit wrote nothing.
        others: How long one of the other clients wrote nothing.
        back: How long any client wrote nothing while all was put in order again.
        double: How long two hosts answered for one address, then too.
        late: Acknowledged blocks over which something older was written.
        lost: Acknowledged blocks that are not there.
        course: What befell the client that was interrupted.
        fencing: Whether the cluster has a fence command.
        off: Whether the host had no power then.
    """

    flavour: str
    fault: str
    began: str
    led: bool
    load: float
    interruption: float
    others: float
    back: float
    double: float
    late: int
    lost: int
    course: tuple[str, ...]
    fencing: bool = False
    off: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done to a host, and how it is mended if it has power; the longest interruption that is wanted.

    With fencing a host that `is_lost` has none afterwards, and every other one keeps it.
    Strikes come at different times within `phase_s`, for what depends on when the next health check is due.
    """

    strike: Callable[[Served, str], None]
    mend: Callable[[Served, str], None]
    middle_s: float | None
    most_s: float | None
    phase_s: float = 0.0
    is_lost: bool = False


def _survivor(served: Served, victim: str) -> str:
    return next(host for host in served.lab.nodes if host != victim)


def _boot(served: Served, victim: str) -> None:
    served.lab.power_on(victim)
    served.cluster.start(victim)
    served.serve_again(victim)


def _kill_daemon(served: Served, victim: str) -> None:
    pid = served.cluster.pid(victim)
    served.lab.run(victim, ["kill", "-KILL", str(pid)], timeout_s=LIMIT_S)


def _start_daemon(served: Served, victim: str) -> None:
    served.cluster.wait_no_daemon(victim, served.cluster.pid(victim))
    served.cluster.start(victim)
    served.serve_again(victim)


def _kill_smbd(served: Served, victim: str) -> None:
    served.lab.run(victim, ["pkill", "-KILL", "-x", "smbd"], timeout_s=LIMIT_S)


def _move(served: Served, victim: str) -> None:
    address = next(each for each, host in served.where(victim).items() if host == victim)
    served.cluster.tool(victim, "moveip", address, _survivor(served, victim)[1:])


def _move_back(served: Served, victim: str) -> None:
    held = list(served.where(victim).items())
    lent = next(address for address, host in held if [each for _, each in held].count(host) == 2)
    served.cluster.tool(victim, "moveip", lent, victim[1:])


def _tool(verb: str) -> Callable[[Served, str], None]:
    def give(served: Served, victim: str) -> None:
        served.cluster.tool(victim, verb)

    return give


FAULTS: dict[str, Fault] = {
    "power": Fault(lambda served, victim: served.lab.power_off(victim), _boot, 1.0, 1.5, is_lost=True),
    "unplugged": Fault(
        lambda served, victim: served.lab.cut(victim),
        lambda served, victim: served.lab.mend(victim),
        1.0,
        1.5,
        is_lost=True,
    ),
    "private": Fault(
        lambda served, victim: served.lab.cut(victim, "private", manner="silent"),
        lambda served, victim: served.lab.mend(victim),
        1.0,
        1.5,
        is_lost=True,
    ),
    "frozen": Fault(
        lambda served, victim: served.lab.freeze(victim),
        lambda served, victim: served.lab.thaw(victim),
        1.0,
        1.5,
        is_lost=True,
    ),
    "daemon": Fault(_kill_daemon, _start_daemon, 1.0, 1.5),
    "smbd": Fault(
        _kill_smbd, lambda served, victim: served.start_smbd(victim), None, None, MONITOR_INTERVAL_S
    ),
    "moveip": Fault(_move, _move_back, None, 0.3),
    "drain": Fault(_tool("disable"), _tool("enable"), None, 0.3),
}


def strike(served: Served, name: str, number: int) -> Run:
    """One fault, on the leader in every other round; all is as before afterwards."""
    fault = FAULTS[name]
    served.wait_spread()
    phase_ns = int(number * GOLDEN % 1 * fault.phase_s * 1e9)
    served.wait_writing(time.monotonic_ns(), for_ns=SETTLED_NS + phase_ns)
    led = served.leader()
    others = [host for host in served.lab.nodes if host != led]
    victim = led if number % 2 == 0 else others[number // 2 % len(others)]
    held = served.where("n0")
    hit = next(address for address, host in held.items() if host == victim)
    began, load = datetime.now().isoformat(timespec="milliseconds"), os.getloadavg()[0]
    began_ns = time.monotonic_ns()
    fault.strike(served, victim)
    served.wait_moved(hit, victim)
    served.wait_writing(time.monotonic_ns(), for_ns=SETTLED_NS)
    mended_ns = time.monotonic_ns()
    interruption, course = served.longest(hit, began_ns, mended_ns)
    spared = max(served.longest(each, began_ns, mended_ns)[0] for each in held if each != hit)
    is_off = served.lab.power(victim) == "off"
    if is_off:
        served.lab.mend(victim)
        _boot(served, victim)
    else:
        fault.mend(served, victim)
    served.wait_spread()
    served.wait_writing(time.monotonic_ns(), for_ns=SETTLED_NS)
    back = max(served.longest(each, mended_ns, time.monotonic_ns())[0] for each in held)
    late, lost = served.spoilt()
    return Run(
        flavour=served.flavour,
        fault=name,
        began=began,
        led=victim == led,
        load=load,
        interruption=interruption,
        others=spared,
        back=back,
        double=served.double_s(began_ns),
        late=late,
        lost=lost,
        course=tuple(course),
        fencing=served.fencing,
        off=is_off,
    )


def measure(
    flavour: str,
    faults: Sequence[str],
    rounds: int,
    save: Path | None,
    logs: Path | None,
    *,
    fencing: bool = False,
) -> list[Run]:
    """So many rounds of these faults with one flavour's daemons; fewer if one is not got over."""
    runs: list[Run] = []
    for name in faults:
        try:
            # A lab for each fault: what one leaves behind is not measured in the next.
            with Served(flavour, fencing=fencing) as served:
                for number in range(rounds):
                    runs.append(strike(served, name, number))
                    print(f"  {_line(runs[-1])}", flush=True)
                    if save is not None:
                        with save.open("a", encoding="utf-8") as file:
                            file.write(json.dumps(asdict(runs[-1])) + "\n")
                if logs is not None:
                    served.keep_logs(logs, name)
        except LabError as error:
            print(f"  {flavour}, {name}: given up: {error}", flush=True)
    return runs


def _line(run: Run) -> str:
    who = f"{run.flavour}, {run.fault}{', the leader' if run.led else ''}{', off' if run.off else ''}"
    spared = f"others {run.others:.3f} s, back {run.back:.3f} s, twice {run.double:.3f} s"
    return f"{who}: {run.interruption:.3f} s, {spared}, late {run.late}, lost {run.lost}, load {run.load:.1f}"


def render(runs: Sequence[Run]) -> str:
    """A table of medians, least and most, and what was aimed at."""
    columns = {("debian", False): "Debian", ("ctdbpy", False): "ctdbpy"}
    if any(run.fencing for run in runs):
        columns["ctdbpy", True] = "ctdbpy, fencing"
    lines = [f"{'s':<26}{''.join(f'{title:>26}' for title in columns.values())}  wanted"]
    for name, fault in FAULTS.items():
        found = [
            [run for run in runs if (run.flavour, run.fencing, run.fault) == (*column, name)]
            for column in columns
        ]
        if not any(found):
            continue
        for figure in ("interruption", "others", "back", "double", "late", "lost"):
            figures = [[getattr(run, figure) for run in each] for each in found]
            line = f"{f'{name}: {figure}':<26}" + "".join(f"{_spread(each):>26}" for each in figures)
            # With runs of ours of both kinds, those with fencing are judged.
            ours: list[float] = next((each for each in reversed(figures[1:]) if each), [])
            if ours and figure == "interruption":
                line += _verdict(statistics.median(ours), fault.middle_s, "median")
                line += _verdict(max(ours), fault.most_s, "most")
            elif ours:
                limit = {"others": 1.0, "back": 1.0, "double": 0.2, "late": 0.0, "lost": 0.0}.get(figure)
                line += _verdict(max(ours), limit, "most")
            lines.append(line)
        if fenced := [run.off for run in found[-1] if run.fencing]:
            said = f"{sum(fenced)} of {len(fenced)}"
            reached = "met" if all(off == fault.is_lost for off in fenced) else "MISSED"
            lines.append(f"{f'{name}: off':<26}{said:>78}  {'all' if fault.is_lost else 'none'} {reached}")
    return "\n".join(lines)


def _verdict(reached: float, wanted: float | None, which: str) -> str:
    if wanted is None:
        return ""
    return f"  {which} <= {wanted:g} {'met' if reached <= wanted else 'MISSED'}"


def _spread(figures: Sequence[float]) -> str:
    if not figures:
        return "-"
    least, middle, most = min(figures), statistics.median(figures), max(figures)
    return f"{middle:.2f} ({least:.2f} .. {most:.2f}) x{len(figures)}"


def load(path: Path) -> list[Run]:
    """The runs of an earlier measurement. Raises LabError when there are none to be had."""
    try:
        return [Run(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, TypeError) as error:
        raise LabError(f"cannot use the measurement in '{path}': {error}") from error


def main() -> int:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(prog="./dev bench failover", description=__doc__)
    parser.add_argument("faults", nargs="*", help=f"of {', '.join(FAULTS)}; default: all")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", choices=("debian", "ctdbpy"), help="measure one daemon alone")
    parser.add_argument("--fencing", action="store_true", help="ours alone, with a fence command")
    parser.add_argument("--save", type=Path, help="append every run to this file")
    parser.add_argument("--beside", type=Path, help="runs saved earlier, for the table")
    parser.add_argument("--logs", type=Path, help="keep the daemons' logs in this directory")
    options = parser.parse_args()
    unknown = set(options.faults) - set(FAULTS)
    if unknown:
        parser.error(f"unknown faults: {', '.join(sorted(unknown))}")
    if options.fencing:
        if options.only == "debian":
            parser.error("Debian's ctdbd has no fence command")
        options.only = "ctdbpy"
    print(machine(), flush=True)
    runs = load(options.beside) if options.beside else []
    faults = options.faults or list(FAULTS)
    wanted = len(runs)
    for flavour in ("debian", "ctdbpy"):
        if options.only in (None, flavour):
            runs += measure(
                flavour, faults, options.rounds, options.save, options.logs, fencing=options.fencing
            )
            wanted += len(faults) * options.rounds
    print(render(runs), flush=True)
    return 0 if len(runs) == wanted else 1
