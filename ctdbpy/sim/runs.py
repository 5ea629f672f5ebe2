# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs: each is told by its seed alone, the size of its cluster included."""

from __future__ import annotations

import traceback
from collections.abc import Collection
from dataclasses import dataclass
from random import Random
from typing import Final

from ctdbpy.sim.cluster import Cluster

#: How large the clusters of a mixed run are: mostly small ones, where everything that matters happens.
SIZES: Final = ((2, 15), (3, 45), (4, 12), (5, 12), (6, 5), (7, 4), (9, 3), (12, 2), (16, 2))
FAULTS: Final = 12
#: So many mixed runs have a fence command.
FENCING: Final = 0.4


@dataclass(frozen=True, slots=True)
class Wanted:
    """One run; everything in it follows from this."""

    seed: int
    nodes: int
    faults: int = FAULTS
    only: tuple[str, ...] = ()
    addresses: int = 0
    fencing: bool = False

    @property
    def command(self) -> str:
        """How to repeat it and see what happened."""
        only = f" --only {','.join(self.only)}" if self.only else ""
        chosen = f"--seed {self.seed} --nodes {self.nodes} --faults {self.faults}{only}"
        addresses = f" --addresses {self.addresses}" if self.addresses else ""
        fencing = f" --{'' if self.fencing else 'no-'}fencing"
        return f"python -m ctdbpy.sim {chosen}{addresses}{fencing} --trace"


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended; `failure` is empty when nothing was found."""

    wanted: Wanted
    changes: int
    failure: str = ""
    trace: tuple[str, ...] = ()
    digest: str = ""


def size_of(seed: int) -> int:
    """How many nodes a mixed run of this seed has."""
    numbers, weights = zip(*SIZES, strict=True)
    return int(Random(f"size {seed}").choices(numbers, weights)[0])


def has_fencing(seed: int) -> bool:
    """Whether lost nodes are fenced in a mixed run of this seed."""
    return Random(f"fencing {seed}").random() < FENCING


def wanted_runs(
    first: int,
    runs: int,
    *,
    nodes: int | None,
    faults: int = FAULTS,
    only: Collection[str] = (),
    addresses: int = 0,
    fencing: bool | None = None,
) -> list[Wanted]:
    """Runs of consecutive seeds; what is None is told by the seed."""
    return [
        Wanted(
            seed,
            nodes or size_of(seed),
            faults,
            tuple(only),
            addresses,
            has_fencing(seed) if fencing is None else fencing,
        )
        for seed in range(first, first + runs)
    ]


def one(wanted: Wanted, *, with_trace: bool = False) -> Result:
    """Do a run. A mistake of the simulation itself is a failure like any other, with its traceback."""
    cluster = Cluster(
        wanted.seed,
        nodes=wanted.nodes,
        only=wanted.only,
        addresses=wanted.addresses,
        fencing=wanted.fencing,
    )
    failure = ""
    try:
        cluster.boot()
        cluster.trouble(wanted.faults)
        cluster.peace()
    except AssertionError as error:
        failure = str(error) or traceback.format_exc(limit=-4)
    except Exception:
        failure = traceback.format_exc()
    trace = tuple(cluster.world.trace) if with_trace else ()
    return Result(wanted, cluster.changes, failure, trace, cluster.world.digest if with_trace else "")
