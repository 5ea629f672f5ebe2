# SPDX-License-Identifier: GPL-3.0-or-later
"""Between "dead" and "recover": whoever is lost has its power taken first."""
