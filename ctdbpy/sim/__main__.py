# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m ctdbpy.sim`: run seeds, or replay one and print what happened."""

from __future__ import annotations

import argparse
import sys
import traceback

from ctdbpy.sim.cluster import Cluster


def main() -> int:
    """Run; returns 1 if a run failed."""
    parser = argparse.ArgumentParser(prog="python -m ctdbpy.sim", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="first seed (default 1)")
    parser.add_argument("--runs", type=int, default=1, help="number of seeds (default 1)")
    parser.add_argument("--nodes", type=int, default=3, help="nodes of the cluster (default 3)")
    parser.add_argument("--faults", type=int, default=12, help="faults in each run (default 12)")
    parser.add_argument("--trace", action="store_true", help="print what happened")
    options = parser.parse_args()
    failed = changes = 0
    for seed in range(options.seed, options.seed + options.runs):
        cluster = Cluster(seed, nodes=options.nodes)
        try:
            cluster.boot()
            cluster.trouble(options.faults)
            cluster.peace()
        except Exception as error:
            failed += 1
            if not isinstance(error, AssertionError) or options.trace:
                traceback.print_exc()
            print(f"seed {seed}: {error}")
            print(
                f"replay: python -m ctdbpy.sim --seed {seed} --nodes {options.nodes} "
                f"--faults {options.faults} --trace"
            )
        if options.trace:
            print("\n".join(cluster.world.trace))
            print(f"seed {seed}: digest {cluster.world.digest}")
        changes += cluster.ledger.changes
    print(f"{options.runs} runs, {failed} failed, {changes} changes")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
