# SPDX-License-Identifier: GPL-3.0-or-later
"""Who belongs to the cluster: links, and the flags each node wears."""
