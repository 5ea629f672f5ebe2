# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster on one machine: hosts as namespaces on two bridges, with power switches and cables to pull.

    with Lab(nodes=3, clients=1) as lab:
        lab.run("n0", ["ping", "-c1", "n1"], timeout_s=5)
        lab.power_off("n1")

Needs root. Read `lab` (what a caller does), then `switch` (power and cables) and `machine` (process 1 of
a host).
"""

from __future__ import annotations

from ctdbpy.lab.lab import HostProcess, Lab
from ctdbpy.lab.waiting import wait_until

__all__ = ["HostProcess", "Lab", "wait_until"]
