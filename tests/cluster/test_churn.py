# SPDX-License-Identifier: GPL-3.0-or-later
"""A short share of `churn`: a hundred addresses through some random failures and repairs."""

from __future__ import annotations

import os

import pytest

from ctdbpy.lab import Lab
from tests.cluster.churn import Churn

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.timeout(300),
]

STEPS = 6


def test_every_address_is_hosted_once_after_each_failure_and_repair() -> None:
    with Lab(nodes=4, clients=1) as lab:
        churn = Churn(lab, seed=3, addresses=100)
        churn.begin()
        churn.run(STEPS)
        assert sum(outcome.moved for outcome in churn.outcomes) > 0
