# SPDX-License-Identifier: GPL-3.0-or-later
"""Events: which scripts are asked for when, and what their verdict means for the node."""
