# SPDX-License-Identifier: GPL-3.0-or-later
"""The layout and the style of the tree, as tests."""
