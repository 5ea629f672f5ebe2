# SPDX-License-Identifier: GPL-3.0-or-later
"""TDB files and the record engine: the compiled room, and the only one that knows libtdb."""
