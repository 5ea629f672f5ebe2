# SPDX-License-Identifier: GPL-3.0-or-later
"""From an administrator's files to frozen settings: reads files, hands out plain values.

Read `configuration` (all together), then `cluster_file` (one file for the whole cluster) or `settings`,
`nodes`, `public_addresses` and `tunables_file` (upstream's). Nothing is imported here: a tool that only wants
to know a path should not have to wait for the rest.
"""
