# SPDX-License-Identifier: GPL-3.0-or-later
"""The main job, shown: a voicemail store on three nodes, and one loses power in the middle of the work."""
