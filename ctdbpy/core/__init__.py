# SPDX-License-Identifier: GPL-3.0-or-later
"""What should happen: one node's whole brain, pure. `Node.step(now_s, input)` returns effects."""
