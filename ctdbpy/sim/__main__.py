# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m ctdbpy.sim`: run seeds, replay one and print what happened, or play a scenario."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from ctdbpy.sim import runs, scenarios

#: So many failures are printed in full; the rest is only counted.
SHOWN_MAX: Final = 10
FAILED_MAX: Final = 100
PROGRESS_EVERY: Final = 100


def main() -> int:
    """Run; returns 1 if a run failed."""
    parser = argparse.ArgumentParser(prog="python -m ctdbpy.sim", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="first seed (default 1)")
    parser.add_argument("--runs", type=int, default=1, help="number of seeds (default 1)")
    parser.add_argument("--nodes", type=int, help="nodes of the cluster (default: by seed, 2 to 16)")
    parser.add_argument("--faults", type=int, default=runs.FAULTS, help="faults in each run (default 12)")
    parser.add_argument("--only", default="", help="only these faults, with commas between (default: all)")
    parser.add_argument("--addresses", type=int, default=0, help="public addresses (default 0)")
    parser.add_argument(
        "--fencing",
        action=argparse.BooleanOptionalAction,
        help="lost nodes are fenced, or not (default: by seed)",
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--trace", action="store_true", help="print what happened")
    parser.add_argument("--scenario", type=Path, nargs="+", help="play these files instead, and compare")
    parser.add_argument("--update", action="store_true", help="write what happened into the scenario's file")
    options = parser.parse_args()
    if options.scenario:
        return _play(options.scenario, update=options.update)
    only = tuple(name for name in options.only.split(",") if name)
    wanted = runs.wanted_runs(
        options.seed,
        options.runs,
        nodes=options.nodes,
        faults=options.faults,
        only=only,
        addresses=options.addresses,
        fencing=options.fencing,
    )
    if options.trace:
        return _report(_show(map(partial(runs.one, with_trace=True), wanted), len(wanted)))
    return _report(_show(_many(wanted, options.jobs), len(wanted)))


def _show(coming: Iterable[runs.Result], total: int) -> list[runs.Result]:
    """Print failures, and traces where there are some, as they come; how far it is, now and then."""
    results: list[runs.Result] = []
    failed = 0
    for result in coming:
        results.append(result)
        if result.trace:
            print("\n".join((*result.trace, f"seed {result.wanted.seed}: digest {result.digest}")))
        if result.failure:
            failed += 1
            if failed <= SHOWN_MAX:
                print(
                    f"seed {result.wanted.seed}: {result.failure}\nreplay: {result.wanted.command}",
                    flush=True,
                )
        if len(results) % PROGRESS_EVERY == 0 and total > PROGRESS_EVERY:
            print(f"{len(results)} of {total} runs, {failed} failed", file=sys.stderr, flush=True)
    return results


def _many(wanted: list[runs.Wanted], jobs: int) -> Iterator[runs.Result]:
    """Do them all; results as they come."""
    if jobs <= 1:
        yield from map(runs.one, wanted)
        return
    with get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(runs.one, wanted, chunksize=4)


def _report(results: list[runs.Result]) -> int:
    failed = [each.wanted.seed for each in results if each.failure]
    if len(failed) > SHOWN_MAX:
        print(f"all that failed: {', '.join(str(seed) for seed in sorted(failed)[:FAILED_MAX])}")
    changes = sum(result.changes for result in results)
    print(f"{len(results)} runs, {len(failed)} failed, {changes} changes")
    return 1 if failed else 0


def _play(files: list[Path], *, update: bool) -> int:
    status = 0
    for file in files:
        text = file.read_text()
        played = scenarios.play(text)
        if update:
            file.write_text(scenarios.with_story(text, played.story))
        elif played.story != scenarios.story_of(text):
            print(f"{file}: another story than written there:")
            print("\n".join(played.story))
            status = 1
        for complaint in played.complaints:
            print(f"{file}: {complaint}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
