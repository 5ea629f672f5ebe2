# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole clusters on virtual time: seeds, and mutants that the checkers must catch."""
