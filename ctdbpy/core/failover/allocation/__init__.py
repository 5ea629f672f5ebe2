# SPDX-License-Identifier: GPL-3.0-or-later
"""Which node serves which public address: a pure plan that says why.

`allocate(addresses, rules)` is all there is to call. The algorithms and their results are upstream's.

Source: reference/ctdb.md 7.17; docs/allocation.md.
"""

from ctdbpy.core.failover.allocation.plans import Placement, Plan, allocate, allocate_in_slices
from ctdbpy.core.failover.allocation.tables import Address, Algorithm, Rules

__all__ = ["Address", "Algorithm", "Placement", "Plan", "Rules", "allocate", "allocate_in_slices"]
